"""Products of slices in matrix registers (AMX), behind gates that end in a check of the result.

Tile instructions kill a process that has no permission for them, or whose thread did not load a
configuration. So: what Numba compiles for, then the permission of the system, then a small product
compared with NumPy; whatever fails, the next unit is used.

Permission is the process's: threads have it whether they began before or after, and children by
fork, but not what is executed in its place. The system denies it while a thread has an alternative
signal stack too small for the tiles (Linux, Documentation/arch/x86/xstate.rst). A configuration is
the thread's own, and each task loads one.

Per 16 steps (64 cycles) a tile of results takes 2 KB of left tiles, which stay in L1, and 2 KB of
right ones from L2, which gives twice that; its own 4 KB come and go once per 128 steps.
"""

import ctypes
import functools
import platform
import sys

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..slicing import KINDS, TILED_TERMS
from . import twins_units as twins
from .jit import entry_address
from .memory import aligned
from .quantise import WORDS
from .simd import Code, _index, vector
from .units import Unit
from .word_tiles import transpose_words

__all__ = ["code", "permitted"]

SIDE = 2 * WORDS  # of a result: two by two tiles
TILE = 1024  # bytes
BLOCK = 12  # panels on a side of a task's block: it stays in L2 with what is multiplied
SPAN = 1024  # words of halves summed in single precision: 64 sums of 32 terms, one by one
ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18

_BYTE = ir.IntType(8)
_POINTER = _BYTE.as_pointer()


def _tile_call(builder, name, *operands):
    """An x86 intrinsic; plain integers are tile registers."""
    values = [_BYTE(x) if isinstance(x, int) else x for x in operands]
    kind = ir.FunctionType(ir.VoidType(), [x.type for x in values])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}")
    builder.call(function, values)


@vector(lambda config: None)
def _load_configuration(typingctx, config):
    def emit(context, builder, signature, values):
        _tile_call(builder, "ldtilecfg", builder.inttoptr(values[0], _POINTER))
        return context.get_dummy_value()

    return types.void(types.intp), emit


@vector(lambda config: None)
def _release(typingctx, config):
    def emit(context, builder, signature, values):
        _tile_call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(types.intp), emit


def _left(words, kind, terms, steps):
    """Left tiles (tile, column, step, terms) as (step, column, terms)."""
    a = twins.memory(words, np.uint32, SIDE * steps).reshape(steps // WORDS, SIDE, WORDS)
    return np.ascontiguousarray(a.transpose(0, 2, 1)).view(kind).reshape(steps, SIDE, terms)


def _bytes_twin(c, ldc, left, right, steps):
    a = _left(left, np.int8, 4, steps).astype(np.int32)
    b = twins.memory(right, np.int8, 4 * SIDE * steps).reshape(steps, SIDE, 4).astype(np.int32)
    twins.rows_at(c, np.int32, SIDE, ldc, SIDE)[:] += np.einsum("kit,kjt->ij", a, b)


def _halves_twin(c, ldc, left, right, steps):
    a = _left(left, np.uint16, 2, steps)
    twins.halves_tile(SIDE, SIDE, c, ldc, a.ctypes.data, right, steps)


def _tile(instruction, twin):
    """Intrinsic (c, ldc, left, right, steps): c (32 x 32) += products of `steps` words, a multiple
    of 16; ldc in words."""

    @vector(twin)
    def tile(typingctx, c, ldc, left, right, steps):
        def emit(context, builder, signature, values):
            code = Code(context, builder, types.float32, lanes=WORDS)
            _emit(code, instruction, *values)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 5), emit

    return tile


def _emit(code, instruction, c, ldc, left, right, steps):
    builder = code.builder
    row = builder.mul(ldc, _index(4))

    def at(address, offset=0):
        offset = _index(offset) if isinstance(offset, int) else offset
        return builder.inttoptr(builder.add(address, offset), _POINTER)

    below = builder.mul(row, _index(WORDS))
    upper = [at(c, 4 * WORDS * j) for j in (0, 1)]
    results = upper + [at(builder.add(c, below), 4 * WORDS * j) for j in (0, 1)]
    for number, place in enumerate(results):
        _tile_call(builder, "tileloadd64", number, place, row)

    def body(step, _):
        a = builder.add(left, builder.mul(step, _index(2 * TILE)))
        b = builder.add(right, builder.mul(step, _index(2 * TILE)))
        wide, narrow = _index(4 * SIDE), _index(4 * WORDS)
        _tile_call(builder, "tileloadd64", 4, at(a), narrow)
        _tile_call(builder, "tileloadd64", 6, at(b), wide)
        _tile_call(builder, instruction, 0, 4, 6)
        _tile_call(builder, "tileloadd64", 7, at(b, 4 * WORDS), wide)
        _tile_call(builder, instruction, 1, 4, 7)
        _tile_call(builder, "tileloadd64", 5, at(a, TILE), narrow)
        _tile_call(builder, instruction, 2, 5, 6)
        _tile_call(builder, instruction, 3, 5, 7)
        return []

    code.loop(builder.sdiv(steps, _index(WORDS)), [], body)
    for number, place in enumerate(results):
        _tile_call(builder, "tilestored64", number, place, row)


_bytes_tile, _halves_tile = _tile("tdpbssd", _bytes_twin), _tile("tdpbf16ps", _halves_twin)


def amx_begin(config):
    _load_configuration(config)


def amx_end(config):
    _release(config)


def amx_bytes(c, ldc, left, right, steps):
    _bytes_tile(c, ldc, left, right, steps)


def amx_halves(c, ldc, left, right, steps):
    _halves_tile(c, ldc, left, right, steps)


def amx_prepare(to, source, steps):
    """A stretch of a panel as left tiles: 16 columns as rows of 16 words, two per 16 steps."""
    for k in range(0, steps, 16):
        for half in range(2):
            at = source + 128 * k + 64 * half
            transpose_words(to + 128 * k + 1024 * half, 16, at, 32)


def configuration():
    """Eight tiles of 16 rows x 64 bytes, as ldtilecfg reads it."""
    config = aligned((64,), np.uint8)
    config[:] = 0
    config[0] = 1  # palette
    config[16:32].view(np.uint16)[:] = 64
    config[48:56] = 16
    return config


def permitted():
    """True if the system lets this process use tile registers; it also asks for that."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    try:
        return ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0
    except (OSError, AttributeError):
        return False


@functools.cache
def _configured():
    return configuration()


@functools.cache
def code(kind="bytes"):
    """The Unit; only where the gates are passed."""
    (terms, bits, _), whole = KINDS[kind], kind == "bytes"
    return Unit(
        terms,
        bits if whole else 0,
        TILED_TERMS // terms if whole else SPAN,
        SIDE,
        SIDE,
        0,
        entry_address(amx_prepare, 3),
        entry_address(amx_bytes if whole else amx_halves, 5),
        BLOCK,
        entry_address(amx_begin, 1),
        entry_address(amx_end, 1),
        _configured().ctypes.data,
    )
