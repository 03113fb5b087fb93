"""Products of bytes in matrix registers (AMX), behind gates that end in a check of the result.

Tile instructions kill a process that has no permission for them, or whose thread did not load a
configuration. So: what Numba compiles for, then the permission of the system, then a small product
compared with NumPy; whatever fails, the next unit is used.
"""

import ctypes
import functools
import platform
import sys

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from . import twins_integer as twins
from .integer import Unit, features, transpose_words
from .jit import entry_address
from .memory import aligned
from .quantise import WORDS
from .simd import Code, _index, vector

__all__ = ["code", "usable"]

SIDE = 2 * WORDS  # of a result: two by two tiles
TILE = 1024  # bytes
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


def _tile_twin(c, ldc, left, right, steps):
    a = twins.memory(left, np.uint8, 4 * SIDE * steps).reshape(steps // WORDS, SIDE, WORDS, 4)
    words = np.ascontiguousarray(a.transpose(0, 2, 1, 3))  # (step, word, row, byte)
    b = twins.rows_at(right, np.int8, steps, 4 * SIDE, 4 * SIDE).reshape(steps, SIDE, 4)
    total = twins.rows_at(c, np.int32, SIDE, ldc, SIDE)
    terms = words.reshape(steps, SIDE, 4).view(np.int8).astype(np.int32)
    total += np.einsum("kit,kjt->ij", terms, b.astype(np.int32))


@vector(_tile_twin)
def _tile(typingctx, c, ldc, left, right, steps):
    """c (32 x 32) += products of 4 `steps` terms, `steps` a multiple of 16; ldc in words."""

    def emit(context, builder, signature, values):
        c_v, ldc_v, left_v, right_v, steps_v = values
        row = builder.mul(ldc_v, _index(4))

        def at(address, offset=0):
            offset = _index(offset) if isinstance(offset, int) else offset
            return builder.inttoptr(builder.add(address, offset), _POINTER)

        below = builder.mul(row, _index(WORDS))
        results = [
            at(builder.add(c_v, down), 4 * WORDS * j) for down in (_index(0), below) for j in (0, 1)
        ]
        for number, place in enumerate(results):
            _tile_call(builder, "tileloadd64", number, place, row)

        def body(step, _):
            a = builder.add(left_v, builder.mul(step, _index(2 * TILE)))
            b = builder.add(right_v, builder.mul(step, _index(2 * TILE)))
            wide, narrow = _index(4 * SIDE), _index(4 * WORDS)
            _tile_call(builder, "tileloadd64", 4, at(a), narrow)
            _tile_call(builder, "tileloadd64", 6, at(b), wide)
            _tile_call(builder, "tdpbssd", 0, 4, 6)
            _tile_call(builder, "tileloadd64", 7, at(b, 4 * WORDS), wide)
            _tile_call(builder, "tdpbssd", 1, 4, 7)
            _tile_call(builder, "tileloadd64", 5, at(a, TILE), narrow)
            _tile_call(builder, "tdpbssd", 2, 5, 6)
            _tile_call(builder, "tdpbssd", 3, 5, 7)
            return []

        code = Code(context, builder, types.float32, lanes=WORDS)
        code.loop(builder.sdiv(steps_v, _index(WORDS)), [], body)
        for number, place in enumerate(results):
            _tile_call(builder, "tilestored64", number, place, row)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), emit


def amx_begin(config):
    _load_configuration(config)


def amx_end(config):
    _release(config)


def amx_tile(c, ldc, left, right, steps):
    _tile(c, ldc, left, right, steps)


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
def code():
    """The Unit; only where the gates are passed."""
    config = configuration()
    _kept.append(config)
    return Unit(
        SIDE,
        SIDE,
        0,
        entry_address(amx_prepare, 3),
        entry_address(amx_tile, 5),
        entry_address(amx_begin, 1),
        entry_address(amx_end, 1),
        config.ctypes.data,
    )


_kept = []


def usable():
    """True if all gates are passed: compiled for, permitted, and a product is right."""
    if not {"+amx-int8", "+amx-tile"} <= features() or not permitted():
        return False
    from .sliced import is_exact

    return is_exact(code())
