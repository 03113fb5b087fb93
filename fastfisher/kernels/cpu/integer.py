"""Register tiles of 8-bit products summed in 32 bits, and the unit of the processor that has them.

"amx": tiles in matrix registers (amx.py); "vnni": four products per lane and instruction; "plain":
the same sums from ordinary vector code, slowly. An intrinsic of a processor that Numba does not
compile for would abort the process: what the unit is, is settled before anything is compiled.
"""

import functools
from typing import NamedTuple

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils

from . import twins_integer as twins
from .jit import entry_address
from .quantise import _WORD_VECTOR, WORDS, _load, _store, words
from .simd import _I32, Code, _index, vector

__all__ = ["Unit", "expected", "features", "transpose_words", "unit", "unit_code"]

ROWS, VECTORS = 8, 3  # of a register tile: 24 accumulators


class Unit(NamedTuple):
    """How one processor multiplies bytes; tiles of `rows` x `width`, panels of `width` columns.

    prepare(to, source, steps) brings a stretch of a panel into the form that the left side of
    tile(c, ldc, left, right, steps) takes; offset: what that added to every term there. begin and
    end surround the work of a thread. All are addresses; 0: nothing to do.
    """

    rows: int
    width: int
    offset: int
    prepare: int
    tile: int
    begin: int
    end: int
    config: int  # what these two are given


def features():
    """The features Numba compiles for, which its environment variables may narrow."""
    from numba.core.registry import cpu_target

    return frozenset(cpu_target.target_context.codegen().magic_tuple()[2].split(","))


def _dot_vnni(builder, total, left, right):
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(_WORD_VECTOR, [_WORD_VECTOR] * 3),
        "llvm.x86.avx512.vpdpbusd.512",
    )
    return builder.call(function, [total, left, right])


def _dot_plain(builder, total, left, right):
    for place in range(4):
        a = builder.and_(builder.lshr(left, words(8 * place)), words(255))
        b = builder.ashr(builder.shl(right, words(24 - 8 * place)), words(24))
        total = builder.add(total, builder.mul(a, b))
    return total


def _tile(dot, rows, vectors):
    """Intrinsic (c, ldc, left, right, steps): c[i, j] += sum over four terms per step, ROWS rows.

    Worked off in tiles of rows x vectors registers.
    """

    @vector(functools.partial(_twin, ROWS))
    def tile(typingctx, c, ldc, left, right, steps):
        def emit(context, builder, signature, values):
            code = Code(context, builder, types.float32, lanes=WORDS)
            for i0 in range(0, ROWS, rows):
                for j0 in range(0, VECTORS, vectors):
                    _emit(code, dot, (i0, i0 + rows), (j0, j0 + vectors), values)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 5), emit

    return tile


def _emit(code, dot, rows, vectors, operands):
    c, ldc, left, right, steps = operands
    builder, line = code.builder, 4 * WORDS
    places = [
        builder.add(c, builder.add(builder.mul(ldc, _index(4 * i)), _index(line * j)))
        for i in range(*rows)
        for j in range(*vectors)
    ]
    panel = VECTORS * line

    def body(step, sums):
        a = builder.add(left, builder.mul(step, _index(4 * ROWS)))
        b = builder.add(right, builder.mul(step, _index(panel)))
        across = [_load(builder, builder.add(b, _index(line * j)), 64) for j in range(*vectors)]
        sums, s = list(sums), 0
        for i in range(*rows):
            word = builder.load(builder.inttoptr(builder.add(a, _index(4 * i)), _I32.as_pointer()))
            x = code.splat(word)
            for y in across:
                sums[s] = dot(builder, sums[s], x, y)
                s += 1
        return sums

    sums = code.loop(steps, [_load(builder, place, 4) for place in places], body)
    for total, place in zip(sums, places, strict=True):
        _store(builder, total, place, 4)


def _twin(rows, c, ldc, left, right, steps):
    twins.tile(rows, VECTORS * WORDS, c, ldc, left, right, VECTORS * WORDS, steps)


_vnni_tile = _tile(_dot_vnni, ROWS, VECTORS)
_plain_tile = _tile(_dot_plain, 2, 1)


@vector(lambda to, source, steps: twins.prepare(to, source, VECTORS * WORDS, ROWS, steps))
def _prepare(typingctx, to, source, steps):
    """Rows of a panel of 48 columns as slivers of ROWS columns each, as unsigned bytes q + 128."""

    def emit(context, builder, signature, values):
        to_v, source_v, steps_v = values
        code = Code(context, builder, types.float32, lanes=WORDS)
        sliver = ir.VectorType(_I32, ROWS)
        sign = ir.Constant(sliver, [0x80808080] * ROWS)
        count = VECTORS * WORDS // ROWS

        def body(step, _):
            at = builder.add(source_v, builder.mul(step, _index(4 * VECTORS * WORDS)))
            place = builder.add(to_v, builder.mul(step, _index(4 * ROWS)))
            for k in range(count):
                x = builder.inttoptr(builder.add(at, _index(4 * ROWS * k)), sliver.as_pointer())
                y = builder.xor(builder.load(x, align=32), sign)
                _store(builder, y, place, 32)
                place = builder.add(place, builder.mul(steps_v, _index(4 * ROWS)))
            return []

        code.loop(steps_v, [], body)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), emit


@vector(twins.transpose_words)
def transpose_words(typingctx, to, ldt, source, lds):
    """A square of 16 x 16 words mirrored, through registers; strides in words."""

    def emit(context, builder, signature, values):
        to_v, ldt_v, source_v, lds_v = values
        code = Code(context, builder, types.float32, lanes=WORDS)
        rows = []
        for i in range(WORDS):
            at = builder.add(source_v, builder.mul(lds_v, _index(4 * i)))
            rows.append(_load(builder, at, 4))
        for i, row in enumerate(code.transposed(rows)):
            _store(builder, row, builder.add(to_v, builder.mul(ldt_v, _index(4 * i))), 4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), emit


def vnni_tile(c, ldc, left, right, steps):
    _vnni_tile(c, ldc, left, right, steps)


def plain_tile(c, ldc, left, right, steps):
    _plain_tile(c, ldc, left, right, steps)


def prepare(to, source, steps):
    _prepare(to, source, steps)


@functools.cache
def expected():
    """The unit that Numba compiles for: "amx", "vnni" or "plain"; nothing is tried."""
    if numba.config.DISABLE_JIT:
        return "plain"
    known = features()
    if {"+amx-int8", "+amx-tile"} <= known:
        return "amx"
    return "vnni" if {"+avx512vnni", "+avx512f"} <= known else "plain"


@functools.cache
def unit():
    """The unit that is used: the expected one, or the next where it fails its gates."""
    if expected() == "amx":
        from . import amx

        if amx.usable():
            return "amx"
        return "vnni" if {"+avx512vnni", "+avx512f"} <= features() else "plain"
    return expected()


@functools.cache
def unit_code(name):
    """The code of a unit, compiled once."""
    if name == "amx":
        from . import amx

        return amx.code()
    tile = vnni_tile if name == "vnni" else plain_tile
    width = VECTORS * WORDS
    return Unit(ROWS, width, 128, entry_address(prepare, 3), entry_address(tile, 5), 0, 0, 0)
