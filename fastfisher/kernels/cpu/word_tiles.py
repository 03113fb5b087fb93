"""Register tiles of sums of products of words of 32 bits: four terms of bytes or septets or two of
shorts, summed in 32 bits, or two of halves, summed in single precision.

What moves such words and adds such sums to c is here too. Which of the tiles a processor can run is
settled in units.py: an intrinsic that it lacks would abort the process.
"""

import functools
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils

from . import twins_units as twins
from .quantise import _WORD_VECTOR, WORDS, _load, _store, words
from .simd import _I32, Code, _index, vector

__all__ = [
    "ROWS",
    "VECTORS",
    "WIDTH",
    "add_words",
    "avx2_septets",
    "avx2_shorts",
    "avxvnni_bytes",
    "avxvnni_shorts",
    "bf16_halves",
    "plain_bytes",
    "plain_halves",
    "plain_shorts",
    "prepare_septets",
    "prepare_signed",
    "prepare_unsigned",
    "transpose_words",
    "vnni_bytes",
    "vnni_shorts",
]

ROWS, VECTORS = 8, 3  # of a register tile: 24 accumulators
WIDTH = VECTORS * WORDS
_SINGLE_VECTOR = ir.VectorType(ir.FloatType(), WORDS)
_HALF_VECTOR = ir.VectorType(_I32, WORDS // 2)


# What a lane adds for one word ---------------------------------------------------------------


def _instruction(name, kind):
    """One instruction that adds all products of a word."""

    def dot(builder, total, left, right):
        signature = ir.FunctionType(kind, [kind, left.type, right.type])
        function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.x86.{name}")
        found = builder.call(function, [builder.bitcast(total, kind), left, right])
        return builder.bitcast(found, total.type)

    return dot


def _add_pairs(builder, total, a, b, x, y):
    """AVX2: products of septets, the left ones without a sign: four of two words fit 16 bits."""
    shorts, octets = ir.VectorType(ir.IntType(16), WORDS), ir.VectorType(ir.IntType(8), 2 * WORDS)
    pairs = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(shorts, [octets] * 2), "llvm.x86.avx2.pmadd.ub.sw"
    )
    a, b, x, y = (builder.bitcast(v, octets) for v in (a, b, x, y))
    sums = builder.call(pairs, [a, x]), builder.call(pairs, [b, y])
    both = builder.bitcast(builder.add(*sums), _HALF_VECTOR)
    ones = ir.Constant(_HALF_VECTOR, [0x10001] * (WORDS // 2))
    return _multiply_add(builder, total, both, ones)


def _multiply_add(builder, total, left, right):
    """AVX2: products of 16 bits, each two of them added."""
    shorts = ir.VectorType(ir.IntType(16), WORDS)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_HALF_VECTOR, [shorts] * 2), "llvm.x86.avx2.pmadd.wd"
    )
    operands = [builder.bitcast(x, shorts) for x in (left, right)]
    return builder.add(total, builder.call(function, operands))


def _dot_bytes(builder, total, left, right):
    for place in range(4):
        a = builder.and_(builder.lshr(left, words(8 * place)), words(255))
        b = builder.ashr(builder.shl(right, words(24 - 8 * place)), words(24))
        total = builder.add(total, builder.mul(a, b))
    return total


def _dot_shorts(builder, total, left, right):
    for place in (16, 0):
        a, b = (builder.ashr(builder.shl(x, words(place)), words(16)) for x in (left, right))
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


class Block(NamedTuple):
    """Sums that are held in registers at a time, and words that are loaded together."""

    rows: int
    vectors: int
    lanes: int = WORDS
    words: int = 1


WIDE = Block(ROWS, VECTORS)  # 32 registers of 16 words
NARROW = Block(4, 2, WORDS // 2)  # 16 of 8


def _tile(dot, block, twin):
    """Intrinsic (c, ldc, left, right, steps): c[i, j] += sum over the terms of each step.

    ROWS rows of WIDTH sums, in blocks of registers.
    """

    @vector(functools.partial(twin, ROWS, WIDTH))
    def tile(typingctx, c, ldc, left, right, steps):
        def emit(context, builder, signature, values):
            code = Code(context, builder, types.float32, lanes=block.lanes)
            for i in range(0, ROWS, block.rows):
                for j in range(0, WIDTH, block.vectors * block.lanes):
                    _emit(code, dot, block, i, j, values)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 5), emit

    return tile


def _emit(code, dot, block, first, column, operands):
    """The block at (first, column) of a tile."""
    c, ldc, left, right, steps = operands
    builder, kind = code.builder, ir.VectorType(_I32, block.lanes)
    rows = range(first, first + block.rows)
    columns = [column + j * block.lanes for j in range(block.vectors)]

    def place(address, *words_):
        return builder.add(address, _index(4 * sum(words_)))

    def splat(address):
        return code.splat(builder.load(builder.inttoptr(address, _I32.as_pointer())))

    def body(step, sums):
        a = builder.add(left, builder.mul(step, _index(4 * ROWS * block.words)))
        b = builder.add(right, builder.mul(step, _index(4 * WIDTH * block.words)))
        across = [
            [_vector_at(builder, place(b, k * WIDTH, j), kind, 32) for k in range(block.words)]
            for j in columns
        ]
        after = []
        for i in rows:
            down = [splat(place(a, k * ROWS, i)) for k in range(block.words)]
            after += [dot(builder, sums[len(after) + s], *down, *y) for s, y in enumerate(across)]
        return after

    at = [place(builder.add(c, builder.mul(ldc, _index(4 * i))), j) for i in rows for j in columns]
    turns = builder.sdiv(steps, _index(block.words))
    sums = code.loop(turns, [_vector_at(builder, x, kind) for x in at], body)
    for total, x in zip(sums, at, strict=True):
        _store(builder, total, x, 4)


def _vnni(name, kind, block, twin):
    return _tile(_instruction(f"avx512.{name}", kind), block, twin)


vnni_bytes = _vnni("vpdpbusd.512", _WORD_VECTOR, WIDE, twins.bytes_tile)
vnni_shorts = _vnni("vpdpwssd.512", _WORD_VECTOR, WIDE, twins.shorts_tile)
avxvnni_bytes = _vnni("vpdpbusd.256", _HALF_VECTOR, NARROW, twins.bytes_tile)
avxvnni_shorts = _vnni("vpdpwssd.256", _HALF_VECTOR, NARROW, twins.shorts_tile)
_bf16_dot = _instruction("avx512bf16.dpbf16ps.512", _SINGLE_VECTOR)
bf16_halves = _tile(_bf16_dot, WIDE, twins.halves_tile)
avx2_septets = _tile(_add_pairs, Block(4, 1, WORDS // 2, words=2), twins.bytes_tile)
avx2_shorts = _tile(_multiply_add, NARROW, twins.shorts_tile)
plain_bytes = _tile(_dot_bytes, Block(2, 1), twins.bytes_tile)
plain_shorts = _tile(_dot_shorts, Block(2, 1), twins.shorts_tile)
plain_halves = _tile(_dot_halves, Block(2, 3), twins.halves_tile)


def _prepare(sign, mask=0xFFFFFFFF):
    """Intrinsic (to, source, steps): rows of a panel as slivers of ROWS columns each, the words
    within `mask` and with bits of `sign` turned over."""

    @vector(functools.partial(twins.prepare, mask, sign, WIDTH, ROWS))
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
                    y = builder.and_(builder.load(x, align=32), ir.Constant(sliver, [mask] * ROWS))
                    y = builder.xor(y, ir.Constant(sliver, [sign] * ROWS))
                    _store(builder, y, place, 32)
                    place = builder.add(place, builder.mul(steps_v, _index(4 * ROWS)))
                return []

            code.loop(steps_v, [], body)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 3), emit

    return prepare


prepare_unsigned, prepare_signed = _prepare(0x80808080), _prepare(0)
prepare_septets = _prepare(0x40404040, mask=0x7F7F7F7F)


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
def add_words(typingctx, to, source, less, count, ahead, weight, like, sum_):
    """to[j] += weight (source[j] - less[j]) for j < count: numbers like `sum_`, of numbers like
    `like`; the weight is a power of two.

    Only integers have something taken away. All are addresses, with room for whole vectors
    at `source` and `less`; what is `ahead` bytes behind `to` is fetched.
    """

    def emit(context, builder, signature, values):
        to_v, source_v, less_v, count_v, ahead_v, weight_v, *_ = values
        code = Code(context, builder, sum_)
        kind = ir.VectorType(context.get_data_type(like), code.lanes)
        weight_v = context.cast(builder, weight_v, weight, sum_)
        by, place = code.splat(weight_v), code.address(to_v)
        next_ = code.address(builder.add(to_v, ahead_v))

        def body(number, _):
            at = builder.mul(number, _index(code.lanes))
            offset = builder.mul(at, _index(like.bitwidth // 8))
            x = _vector_at(builder, builder.add(source_v, offset), kind)
            if isinstance(like, types.Integer):
                x = builder.sub(x, _vector_at(builder, builder.add(less_v, offset), kind))
                x = builder.sitofp(x, code.vector)
            elif like != sum_:
                turned = builder.fpext if like.bitwidth < sum_.bitwidth else builder.fptrunc
                x = turned(x, code.vector)
            code.prefetch(code.at(next_, at), write=True)
            before = code.load_some(code.at(place, at), at, count_v)
            left = builder.sub(count_v, at)
            code.store_some(code.fma(by, x, before), code.at(place, at), left)
            return []

        turns = builder.sdiv(builder.add(count_v, _index(code.lanes - 1)), _index(code.lanes))
        code.loop(turns, [], body)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5, weight, like, sum_), emit


def _vector_at(builder, address, kind, align=4):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)
