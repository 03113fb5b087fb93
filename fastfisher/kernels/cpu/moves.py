"""Copies between scores and packed panels: masked, scaled, centred, split, transposed.

Everything is over addresses; `factor` (or `like`) is a number of the elements' type, `stored` one
of the type that stands for what the source holds (simd.STORED), or of the elements' again.
"""

import functools

from llvmlite import ir
from numba import types
from numba.core import cgutils

from . import twins
from .simd import _I64, Code, _index, vector

__all__ = [
    "affine_at",
    "copy_at",
    "fetch_at",
    "load_at",
    "split_at",
    "spread_at",
    "transpose_at",
]


@vector(twins.load_at)
def load_at(typingctx, place, like):
    """The number at an address."""

    def emit(context, builder, signature, values):
        return builder.load(Code(context, builder, like).address(values[0]))

    return like(types.intp, like), emit


def _copies(parts):
    """Intrinsic: factor * (row - shift), `count` elements of it and zeros up to `width`.

    parts 2: the row holds (re, im) pairs, real parts go to `to`, imaginary ones `ld` further.
    """

    @vector(functools.partial(twins.copy_at, parts))
    def copy_at(typingctx, to, ld, source, count, width, factor, shift, shifted, stored):
        def emit(context, builder, signature, values):
            to_v, ld_v, source_v, count_v, width_v, factor_v, shift_v, shifted_v, _ = values
            code = Code(context, builder, factor)
            place, mean = code.address(to_v), code.address(shift_v)
            start = code.address(source_v, stored)
            count_v = builder.mul(count_v, _index(parts))
            by = code.splat(factor_v)

            def body(step, carried, shifted=False):
                j = builder.mul(step, _index(code.lanes))
                found = []
                for part in range(parts):
                    at = builder.add(builder.mul(j, _index(parts)), _index(part * code.lanes))
                    x = code.load_some(code.at(start, at), at, count_v)
                    if shifted:
                        x = builder.fsub(x, code.load_some(code.at(mean, at), at, count_v))
                    found.append(builder.fmul(by, x))
                for part in range(parts):
                    row = found[0]
                    if parts == 2:
                        row = code.shuffle(*found, [2 * s + part for s in range(code.lanes)])
                    at = code.at(place, builder.mul(ld_v, _index(part)))
                    code.store(row, code.at(at, j))
                return []

            some = builder.icmp_signed("!=", shifted_v, _index(0))
            steps = builder.sdiv(width_v, _index(code.lanes))
            with builder.if_else(some) as (then, otherwise):
                with then:
                    code.loop(steps, [], functools.partial(body, shifted=True))
                with otherwise:
                    code.loop(steps, [], body)
            return context.get_dummy_value()

        index = types.intp
        return types.void(*[index] * 5, factor, index, index, stored), emit

    return copy_at


copy_at, split_at = _copies(1), _copies(2)


@vector(twins.spread_at)
def spread_at(typingctx, to, apart, source, terms, width, like):
    """Rows a, b, a, b.. of `width` each, as rows of planes: a, b, (a - b) / 2, a + b.

    Planes are `apart` elements from one to the next; width is a multiple of the lanes.
    """

    def emit(context, builder, signature, values):
        to_v, apart_v, source_v, terms_v, width_v, _ = values
        code = Code(context, builder, like)
        place, start = code.address(to_v), code.address(source_v)
        half = ir.Constant(code.vector, [0.5] * code.lanes)
        steps = builder.sdiv(width_v, _index(code.lanes))
        planes = [code.at(place, builder.mul(apart_v, _index(plane))) for plane in range(4)]

        def term(number, carried):
            row = builder.mul(number, width_v)
            a = code.at(start, builder.mul(row, _index(2)))
            b = code.at(a, width_v)

            def some(step, carried):
                j = builder.mul(step, _index(code.lanes))
                x, y = code.load(code.at(a, j)), code.load(code.at(b, j))
                less = builder.fmul(builder.fsub(x, y), half)
                found = x, y, less, builder.fadd(x, y)
                for plane, value in zip(planes, found, strict=True):
                    code.store(value, code.at(code.at(plane, row), j))
                return []

            code.loop(steps, [], some)
            return []

        code.loop(terms_v, [], term)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5, like), emit


@vector(twins.affine_at)
def affine_at(typingctx, place, width, factor, m):
    """place[j] = factor * (place[j] - m) for j < width, a whole number of vectors."""

    def emit(context, builder, signature, values):
        place_v, width_v, factor_v, m_v = values
        code = Code(context, builder, factor)
        start, by, m = code.address(place_v), code.splat(factor_v), code.splat(m_v)

        def body(step, carried):
            at = code.at(start, builder.mul(step, _index(code.lanes)))
            code.store(builder.fmul(by, builder.fsub(code.load(at), m)), at)
            return []

        code.loop(builder.sdiv(width_v, _index(code.lanes)), [], body)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, factor, factor), emit


@vector(twins.transpose_at)
def transpose_at(typingctx, to, ldt, rows, source, lds, columns, like, stored):
    """to[j, i] = source[i, j] for i < rows, j < columns; row strides ldt, lds in elements.

    Whole blocks of one vector a side go through registers, what is left element by element.
    """

    def emit(context, builder, signature, values):
        to_v, ldt_v, rows_v, source_v, lds_v, columns_v, _, _ = values
        code = Code(context, builder, like)
        n = code.lanes
        place, start = code.address(to_v), code.address(source_v, stored)

        def at(pointer, i, stride, j):
            return code.at(pointer, builder.add(builder.mul(i, stride), j))

        def whole(count):
            return builder.mul(builder.sdiv(count, _index(n)), _index(n))

        def element(i, j):
            x = code.load_one(at(start, i, lds_v, j))
            builder.store(x, at(place, j, ldt_v, i))

        def each(first, last, step):
            return cgutils.for_range_slice(builder, first, last, _index(step), intp=_I64)

        zero = _index(0)
        rows_whole, columns_whole = whole(rows_v), whole(columns_v)
        with each(zero, columns_whole, n) as (j, _), each(zero, rows_whole, n) as (i, _):
            _transpose_block(code, at(start, i, lds_v, j), lds_v, at(place, j, ldt_v, i), ldt_v)
        with each(rows_whole, rows_v, 1) as (i, _), each(zero, columns_whole, 1) as (j, _):
            element(i, j)
        with each(columns_whole, columns_v, 1) as (j, _), each(zero, rows_v, 1) as (i, _):
            element(i, j)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6, like, stored), emit


@vector(lambda place, size: None)
def fetch_at(typingctx, place, size):
    """Fetch the lines of `size` > 0 bytes at an address, which will be written."""

    def emit(context, builder, signature, values):
        code = Code(context, builder, types.float64)
        start, lines = code.address(values[0]), builder.lshr(values[1], _index(6))

        def body(step, carried):
            code.prefetch(code.at(start, builder.shl(step, _index(3))), write=True)
            return []

        code.loop(builder.add(lines, _index(1)), [], body)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), emit


def _transpose_block(code, source, lds, to, ldt):
    """A square block, in registers."""
    rows = []
    for _ in range(code.lanes):
        rows.append(code.load(source))
        source = code.at(source, lds)
    for row in code.transposed(rows):
        code.store(row, to)
        to = code.at(to, ldt)
