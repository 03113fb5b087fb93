"""Register tiles of products of slices, and the unit of the processor that multiplies them.

A word of 32 bits holds four terms of "bytes", summed in 32 bits, or two of "halves" (bfloat16),
summed in single precision. Units: "amx", tiles in matrix registers (amx.py); "vnni" and
"avx512bf16", a word per lane and instruction; "plain", the same sums from ordinary vector code,
slowly. An intrinsic of a processor that Numba does not compile for would abort the process: what
the unit is, is settled before anything is compiled.
"""

import functools
from typing import NamedTuple

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..slicing import SLICED_TERMS
from . import twins_units as twins
from .jit import entry_address
from .quantise import _WORD_VECTOR, TERMS, WORDS, _load, _store, words
from .simd import _I32, Code, _index, vector

__all__ = ["Unit", "add_words", "expected", "features", "transpose_words", "unit", "unit_code"]

ROWS, VECTORS = 8, 3  # of a register tile: 24 accumulators
WIDTH = VECTORS * WORDS
SPAN = 128  # words of halves that are summed in single precision, one term after another
# What a unit needs of the processor, the fastest first; "plain" needs nothing.
NEEDED = {
    "bytes": {"amx": {"+amx-int8", "+amx-tile"}, "vnni": {"+avx512vnni", "+avx512f"}},
    "halves": {"amx": {"+amx-bf16", "+amx-tile"}, "avx512bf16": {"+avx512bf16", "+avx512f"}},
}
_SINGLE_VECTOR = ir.VectorType(ir.FloatType(), WORDS)


class Unit(NamedTuple):
    """How one processor multiplies slices; tiles of `rows` x `width`, panels of `width` columns.

    prepare(to, source, steps) brings a stretch of a panel into the form that the left side of
    tile(c, ldc, left, right, steps) takes; offset: what that added to every term there. begin and
    end surround the work of a thread. All are addresses; 0: nothing to do.
    """

    terms: int  # in a word
    span: int  # words that are summed at most, before the sums are added in double
    rows: int
    width: int
    offset: int
    prepare: int
    tile: int
    begin: int = 0
    end: int = 0
    config: int = 0  # what these two are given


def features():
    """The features Numba compiles for, which its environment variables may narrow."""
    from numba.core.registry import cpu_target

    return frozenset(cpu_target.target_context.codegen().magic_tuple()[2].split(","))


# What a lane adds for one word ---------------------------------------------------------------


def _instruction(name, kind):
    """One instruction that adds all products of a word."""

    def dot(builder, total, left, right):
        signature = ir.FunctionType(kind, [kind, _WORD_VECTOR, _WORD_VECTOR])
        function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.x86.{name}")
        total = builder.call(function, [builder.bitcast(total, kind), left, right])
        return builder.bitcast(total, _WORD_VECTOR)

    return dot


def _dot_bytes(builder, total, left, right):
    for place in range(4):
        a = builder.and_(builder.lshr(left, words(8 * place)), words(255))
        b = builder.ashr(builder.shl(right, words(24 - 8 * place)), words(24))
        total = builder.add(total, builder.mul(a, b))
    return total


def _dot_halves(builder, total, left, right):
    kind = _SINGLE_VECTOR
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fmuladd.v{WORDS}f32"
    )
    total = builder.bitcast(total, kind)
    for second in (True, False):  # in the order that processors take
        a, b = (
            builder.and_(x, words(0xFFFF0000)) if second else builder.shl(x, words(16))
            for x in (left, right)
        )
        total = builder.call(function, [builder.bitcast(a, kind), builder.bitcast(b, kind), total])
    return builder.bitcast(total, _WORD_VECTOR)


# Tiles ---------------------------------------------------------------------------------------


def _tile(dot, rows, vectors, twin):
    """Intrinsic (c, ldc, left, right, steps): c[i, j] += sum over the terms of each step.

    ROWS rows, worked off in tiles of rows x vectors registers.
    """

    @vector(functools.partial(twin, ROWS, WIDTH))
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


_vnni_tile = _tile(
    _instruction("avx512.vpdpbusd.512", _WORD_VECTOR), ROWS, VECTORS, twins.bytes_tile
)
_bytes_tile = _tile(_dot_bytes, 2, 1, twins.bytes_tile)
_bf16_tile = _tile(
    _instruction("avx512bf16.dpbf16ps.512", _SINGLE_VECTOR), ROWS, VECTORS, twins.halves_tile
)
_halves_tile = _tile(_dot_halves, 2, 3, twins.halves_tile)


def _prepare(sign):
    """Intrinsic (to, source, steps): rows of a panel as slivers of ROWS columns each, `sign`
    applied to the words."""

    @vector(functools.partial(twins.prepare, sign, WIDTH, ROWS))
    def prepare(typingctx, to, source, steps):
        def emit(context, builder, signature, values):
            to_v, source_v, steps_v = values
            code = Code(context, builder, types.float32, lanes=WORDS)
            sliver = ir.VectorType(_I32, ROWS)

            def body(step, _):
                at = builder.add(source_v, builder.mul(step, _index(4 * WIDTH)))
                place = builder.add(to_v, builder.mul(step, _index(4 * ROWS)))
                for k in range(WIDTH // ROWS):
                    x = builder.inttoptr(builder.add(at, _index(4 * ROWS * k)), sliver.as_pointer())
                    y = builder.xor(builder.load(x, align=32), ir.Constant(sliver, [sign] * ROWS))
                    _store(builder, y, place, 32)
                    place = builder.add(place, builder.mul(steps_v, _index(4 * ROWS)))
                return []

            code.loop(steps_v, [], body)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 3), emit

    return prepare


_prepare_bytes, _prepare_halves = _prepare(0x80808080), _prepare(0)


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


@vector(twins.add_words)
def add_words(typingctx, to, source, less, count, ahead, weight, like):
    """to[j] += weight (source[j] - less[j]) for j < count: doubles, and numbers like `like`.

    Only integers have something taken away. All are addresses, with room for whole vectors
    at `source` and `less`; what is `ahead` bytes behind `to` is fetched.
    """

    def emit(context, builder, signature, values):
        to_v, source_v, less_v, count_v, ahead_v, weight_v, _ = values
        code = Code(context, builder, types.float64)
        kind = ir.VectorType(context.get_data_type(like), code.lanes)
        by, place = code.splat(weight_v), code.address(to_v)
        next_ = code.address(builder.add(to_v, ahead_v))

        def body(number, _):
            at = builder.mul(number, _index(code.lanes))
            offset = builder.mul(at, _index(like.bitwidth // 8))
            x = _vector_at(builder, builder.add(source_v, offset), kind)
            if isinstance(like, types.Integer):
                x = builder.sub(x, _vector_at(builder, builder.add(less_v, offset), kind))
                x = builder.sitofp(x, code.vector)
            elif like != types.float64:
                x = builder.fpext(x, code.vector)
            code.prefetch(code.at(next_, at), write=True)
            before = code.load_some(code.at(place, at), at, count_v)
            left = builder.sub(count_v, at)
            code.store_some(code.fma(by, x, before), code.at(place, at), left)
            return []

        turns = builder.sdiv(builder.add(count_v, _index(code.lanes - 1)), _index(code.lanes))
        code.loop(turns, [], body)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5, weight, like), emit


def _vector_at(builder, address, kind):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


# Units ---------------------------------------------------------------------------------------


def vnni_tile(c, ldc, left, right, steps):
    _vnni_tile(c, ldc, left, right, steps)


def bytes_tile(c, ldc, left, right, steps):
    _bytes_tile(c, ldc, left, right, steps)


def bf16_tile(c, ldc, left, right, steps):
    _bf16_tile(c, ldc, left, right, steps)


def halves_tile(c, ldc, left, right, steps):
    _halves_tile(c, ldc, left, right, steps)


def prepare_bytes(to, source, steps):
    _prepare_bytes(to, source, steps)


def prepare_halves(to, source, steps):
    _prepare_halves(to, source, steps)


def _promised(kind):
    """The units that Numba compiles for, the fastest first; nothing is tried."""
    known = frozenset() if numba.config.DISABLE_JIT else features()
    return [*(name for name, needed in NEEDED[kind].items() if needed <= known), "plain"]


@functools.cache
def expected(kind="bytes"):
    """The unit that should serve: "amx", "vnni" or "avx512bf16", or "plain"."""
    return _promised(kind)[0]


@functools.cache
def unit(kind="bytes"):
    """The unit that is used: the expected one, or the next where it fails its gates."""
    for name in _promised(kind):
        if name in ("plain", "vnni") or _is_usable(name, kind):
            return name


def _is_usable(name, kind):
    """True if the system permits it, and a small product is right."""
    if name == "amx":
        from . import amx

        if not amx.permitted():
            return False
    from .sliced import is_exact

    return is_exact(unit_code(name, kind))


@functools.cache
def unit_code(name, kind="bytes"):
    """The code of a unit, compiled once."""
    if name == "amx":
        from . import amx

        return amx.code(kind)
    if kind == "bytes":
        tile, prepare = bytes_tile if name == "plain" else vnni_tile, prepare_bytes
        span, offset = SLICED_TERMS // TERMS[kind], 128
    else:
        tile, prepare = halves_tile if name == "plain" else bf16_tile, prepare_halves
        span, offset = SPAN, 0
    made = entry_address(prepare, 3), entry_address(tile, 5)
    return Unit(TERMS[kind], span, ROWS, WIDTH, offset, *made)
