"""A processor with tile registers where there is none: their instructions are trapped, and done.

The code under test is the machine code for a processor with AMX, to the byte. Here it raises
SIGILL; the handler below, compiled by Numba, decodes the instruction, does what Intel's manual says
(Software Developer's Manual: volume 2; volume 1, chapter 18) to the eight tiles of the thread that
it interrupted, and goes on behind it. What a processor answers with an exception (no configuration,
shapes that do not match) is counted and passed over. Linux on x86-64 only.
"""

import ctypes

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["Machine"]

# What is counted, a word each. Unaligned accesses are legal, and three times as slow.
CONFIGURE, RELEASE, LOAD, STORE, ZERO, BYTES, HALVES, FAULT, UNALIGNED, UNKNOWN = range(10)
NAMES = "configure release load store zero bytes halves fault unaligned".split()
THREADS, HEAD = 64, 64  # that may come; bytes of the words that are counted or say who they are
SLOT = 8 + 64 + 8 * 1024  # bytes per thread: its name, the configuration, the tiles
TILE, COLUMNS = 1024, 64

PRODUCTS = ((0x5E, 3), (0x5C, 2))  # signed bytes, halves: opcode and prefix
SIGILL, WITH_CONTEXT = 4, 4
REGISTERS, IP = 40, 16  # bytes before the registers in a ucontext; place of the instruction pointer
# From numbers in instructions (ax, cx, dx, bx, sp, bp, si, di, r8..r15) to places there.
PLACES = (13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7)


@intrinsic
def pointer(typingctx, address, like):
    """An address as a pointer to numbers like this one."""

    def emit(context, builder, signature, values):
        return builder.inttoptr(values[0], context.get_data_type(like).as_pointer())

    return types.CPointer(like)(types.intp, like), emit


@intrinsic
def half(typingctx, bits):
    """A bfloat16 as float32; what is subnormal is zero."""

    def emit(context, builder, signature, values):
        i32 = ir.IntType(32)
        exponent = builder.and_(values[0], values[0].type(0x7F80))
        wide = builder.shl(builder.zext(values[0], i32), i32(16))
        known = builder.icmp_unsigned("!=", exponent, values[0].type(0))
        return builder.bitcast(builder.select(known, wide, i32(0)), ir.FloatType())

    return types.float32(types.uint16), emit


@intrinsic
def own_name(typingctx):
    def emit(context, builder, signature, values):
        kind = ir.FunctionType(ir.IntType(64), [])
        return builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "pthread_self"), []
        )

    return types.intp(), emit


@intrinsic
def swap_if(typingctx, address, old, new):
    def emit(context, builder, signature, values):
        place = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        found = builder.cmpxchg(place, *values[1:], "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(*[types.intp] * 3), emit


@intrinsic
def count(typingctx, address):
    def emit(context, builder, signature, values):
        place = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        builder.atomic_rmw("add", place, ir.IntType(64)(1), "seq_cst")
        return context.get_dummy_value()

    return types.void(types.intp), emit


@intrinsic
def abort(typingctx):
    def emit(context, builder, signature, values):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "abort"), [])
        return context.get_dummy_value()

    return types.void(), emit


@njit
def own_slot(memory):
    """Address of what this thread has, taken at its first instruction."""
    me = own_name()
    for t in range(THREADS):
        at = memory + 8 * HEAD + t * SLOT
        if carray(pointer(at, np.int64(0)), 1)[0] == me or swap_if(at, 0, me):
            return at
    return 0


@njit
def signed(address, size):
    raw, value = carray(pointer(address, np.uint8(0)), 8), np.int64(0)
    for k in range(size):
        value |= np.int64(raw[k]) << (8 * k)
    return value - (np.int64(1) << (8 * size)) if raw[size - 1] > 127 else value


@njit
def operand(at, registers, extended):
    """Of a ModRM byte: base + displacement, stride, bytes of it and of what belongs to it."""
    code, size, stride = carray(pointer(at, np.uint8(0)), 8), 1, np.int64(0)
    mode, low = code[0] >> 6, np.int64(code[0] & 7)
    if low == 4:
        index = np.int64(code[1] >> 3 & 7) | np.int64(~extended & 0x40) >> 3
        if index != 4:
            stride = registers[PLACES[index]] << np.int64(code[1] >> 6)
        size, low = 2, np.int64(code[1] & 7)
        if low == 5 and mode == 0:
            return signed(at + 2, 4), stride, 6
    elif low == 5 and mode == 0:  # counted from the next instruction
        return at + 5 + signed(at + 1, 4), stride, 5
    base = registers[PLACES[low | np.int64(~extended & 0x20) >> 2]]
    if mode == 1:
        return base + signed(at + size, 1), stride, size + 1
    if mode == 2:
        return base + signed(at + size, 4), stride, size + 4
    return base, stride, size


@njit
def rows(config, tile):
    return np.int64(config[48 + tile])


@njit
def width(config, tile):
    """Bytes per row."""
    return np.int64(config[16 + 2 * tile]) | np.int64(config[17 + 2 * tile]) << 8


@njit
def is_legal(config):
    for k in range(64):  # what is reserved, and tiles that there are not
        if (1 <= k < 16 or 32 <= k < 48 or k >= 56) and config[k]:
            return False
    for t in range(8):
        high, wide = rows(config, t), width(config, t)
        if high > 16 or wide > COLUMNS or (high == 0) != (wide == 0):
            return False
    return config[0] == 1


@njit
def fit(config, c, a, b):
    """True if tiles may be multiplied: c += a b, the words of a along its rows, those of b down."""
    if c == a or c == b or a == b or not rows(config, c) * rows(config, a) * rows(config, b):
        return False
    same = rows(config, c) == rows(config, a) and width(config, c) == width(config, b)
    return same and width(config, a) == 4 * rows(config, b) and width(config, a) % 4 == 0


@njit
def add_bytes(config, tiles, c, a, b):
    total = carray(pointer(tiles + c * TILE, np.int32(0)), (16, 16))
    left = carray(pointer(tiles + a * TILE, np.int8(0)), (16, 16, 4))
    right = carray(pointer(tiles + b * TILE, np.int8(0)), (16, 16, 4))
    for m in range(rows(config, c)):
        for k in range(width(config, a) // 4):
            for n in range(width(config, c) // 4):
                for t in range(4):
                    total[m, n] += np.int32(left[m, k, t]) * np.int32(right[k, n, t])


@njit
def add_halves(config, tiles, c, a, b):
    """Products of even and odd terms are summed apart, from zero, and then added."""
    total = carray(pointer(tiles + c * TILE, np.float32(0)), (16, 16))
    left = carray(pointer(tiles + a * TILE, np.uint16(0)), (16, 16, 2))
    right = carray(pointer(tiles + b * TILE, np.uint16(0)), (16, 16, 2))
    for m in range(rows(config, c)):
        for n in range(width(config, c) // 4):
            even, odd = np.float32(0), np.float32(0)
            for k in range(width(config, a) // 4):
                even += half(left[m, k, 0]) * half(right[k, n, 0])
                odd += half(left[m, k, 1]) * half(right[k, n, 1])
            total[m, n] += even + odd


@njit
def moved(config, tiles, tile, start, stride, to_memory):
    """Rows of a tile from memory, the rest of it zero, or to memory; whether all were aligned."""
    mine = carray(pointer(tiles + tile * TILE, np.uint8(0)), (16, COLUMNS))
    if not to_memory:
        mine[:] = 0
    for i in range(rows(config, tile)):
        place = carray(pointer(start + i * stride, np.uint8(0)), COLUMNS)
        for j in range(width(config, tile)):
            if to_memory:
                place[j] = mine[i, j]
            else:
                mine[i, j] = place[j]
    return start % 64 == 0 and stride % 64 == 0


@njit
def done(at, registers, memory):
    """Do the instruction at an address: what it was, and its length; or UNKNOWN."""
    code = carray(pointer(at, np.uint8(0)), 16)
    first, prefix, which, mod = code[1], code[2] & 3, code[3], code[4]
    if code[0] != 0xC4 or first & 31 != 2 or code[2] & 0x84:
        return UNKNOWN, 0
    slot = own_slot(memory)
    config, tiles = carray(pointer(slot + 8, np.uint8(0)), 64), slot + 72
    here, low, tile = config[0] == 1, np.int64(mod & 7), np.int64(mod >> 3 & 7)
    other, in_memory, size = np.int64(~code[2] >> 3 & 15), mod < 0xC0, 5
    if which == 0x49 and prefix == 0:
        config[:] = 0
        carray(pointer(tiles, np.uint8(0)), 8 * TILE)[:] = 0
        if not in_memory:
            return RELEASE, 5
        start, _, size = operand(at + 4, registers, first)
        config[:] = carray(pointer(start, np.uint8(0)), 64)
        if is_legal(config):
            return CONFIGURE, 4 + size
        config[:] = 0
        return FAULT, 4 + size
    if which == 0x4B and in_memory and low == 4 and prefix:
        start, stride, size = operand(at + 4, registers, first)
        if not here or not rows(config, tile):
            return FAULT, 4 + size
        if not moved(config, tiles, tile, start, stride, prefix == 2):
            count(memory + 8 * UNALIGNED)
        return (STORE if prefix == 2 else LOAD), 4 + size
    if which == 0x49 and prefix == 3 and not in_memory:
        if here:
            carray(pointer(tiles + tile * TILE, np.uint8(0)), TILE)[:] = 0
        return (ZERO if here else FAULT), 5
    if in_memory or other > 7 or (which, prefix) not in PRODUCTS:
        return UNKNOWN, 0
    if not here or not fit(config, tile, low, other):
        return FAULT, 5
    if which == 0x5E:
        add_bytes(config, tiles, tile, low, other)
        return BYTES, 5
    add_halves(config, tiles, tile, low, other)
    return HALVES, 5


class _Action(ctypes.Structure):
    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


class Machine:
    """Tile registers for every thread of this process, from now on."""

    def __init__(self):
        self._memory = np.zeros(8 * HEAD + THREADS * SLOT, np.uint8)
        memory = self._memory.ctypes.data

        def handler(signal, info, context):
            registers = carray(pointer(context + REGISTERS, np.int64(0)), 17)
            what, size = done(registers[IP], registers, memory)
            if what == UNKNOWN:
                abort()
            count(memory + 8 * what)
            registers[IP] += size

        self._handler = cfunc(types.void(types.int32, types.intp, types.intp))(handler)
        action = _Action(handler=self._handler.address, flags=WITH_CONTEXT)
        assert ctypes.CDLL(None).sigaction(SIGILL, ctypes.byref(action), None) == 0

    def counts(self):
        """Instructions of each kind, since the last time."""
        words = self._memory[: 8 * len(NAMES)].view(np.int64)
        found = dict(zip(NAMES, words.tolist(), strict=True))
        words[:] = 0
        return found
