"""Vector passes over a few rows of scores at a time: dot products, combinations, squares.

All work on real rows; the summation order depends on LANE_BYTES only, never on the vector width.
"""

import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from . import twins
from .jit import kernel
from .simd import _Code as Code
from .simd import target, vector

__all__ = ["GROUP", "LANE_BYTES", "Rows", "add_squares", "combine", "dots", "real_rows"]

LANE_BYTES = 128  # independent sums of a dot product, added as a tree; part of the numbers
GROUP = 4 if target().rows >= 6 else 2  # rows at a time; ISAs with 16 registers take two
AHEAD = 4096  # bytes that passes fetch ahead at least

_I64 = ir.IntType(64)


def _index(value):
    return ir.Constant(_I64, value)


def _fold(code, vectors):
    """Sum of all lanes of the vectors: first half plus second half, again and again."""
    builder = code.builder
    while len(vectors) > 1:
        half = len(vectors) // 2
        vectors = [builder.fadd(vectors[i], vectors[i + half]) for i in range(half)]
    (x,) = vectors
    width = code.lanes
    while width > 1:
        width //= 2
        mask = [lane + width if lane < width else lane for lane in range(code.lanes)]
        kind = ir.VectorType(ir.IntType(32), code.lanes)
        x = builder.fadd(x, builder.shuffle_vector(x, x, ir.Constant(kind, mask)))
    return builder.extract_element(x, ir.IntType(32)(0))


def _blocks(code, count, unit, carried, body):
    """Run body(offset, values, load) over whole units, then once with masks for what is left."""
    builder = code.builder
    whole = builder.sdiv(count, _index(unit))
    slots = [cgutils.alloca_once_value(builder, value) for value in carried]
    with builder.if_then(builder.icmp_signed(">", whole, _index(0))):

        def step(number, values):
            offset = builder.mul(number, _index(unit))
            return body(
                offset, values, lambda p, j: code.load(code.at(p, builder.add(offset, _index(j))))
            )

        for slot, value in zip(slots, code.loop(whole, carried, step), strict=True):
            builder.store(value, slot)
    done = builder.mul(whole, _index(unit))
    with builder.if_then(builder.icmp_signed("<", done, count)):
        values = [builder.load(slot) for slot in slots]

        def some(p, j):
            at = builder.add(done, _index(j))
            return code.load_some(code.at(p, at), at, count)

        for slot, value in zip(slots, body(done, values, some), strict=True):
            builder.store(value, slot)
    return [builder.load(slot) for slot in slots]


def _row_pointers(code, first, stride, rows):
    pointers = [first]
    for _ in range(rows - 1):
        pointers.append(code.at(pointers[-1], stride))
    return pointers


def _dots(rows, shifted):
    @vector(functools.partial(twins.dots, rows, shifted))
    def dots(typingctx, sums, s0, a, a0, lda, v, v0, m, m0, count, fetch, fetch_high):
        index = types.intp

        def emit(context, builder, signature, values):
            sums_v, s0_v, a_v, a0_v, lda_v, v_v, v0_v, m_v, m0_v, count_v, low, high = values
            code = Code(context, builder, sums.dtype)
            unit = LANE_BYTES // code.bytes
            parts = unit // code.lanes
            pa = _row_pointers(code, code.at(code.address(a_v), a0_v), lda_v, rows)
            pv = code.at(code.address(v_v), v0_v)
            pm = code.at(code.address(m_v), m0_v)

            def body(offset, totals, load):
                totals = list(totals)
                for part in range(parts):
                    j = part * code.lanes
                    x = load(pv, j)
                    shift = load(pm, j) if shifted else None
                    for r in range(rows):
                        ahead = builder.add(offset, low if 2 * r < rows else high)
                        if j * code.bytes % 64 == 0:
                            code.prefetch(code.at(pa[r], builder.add(ahead, _index(j))), level=2)
                        y = load(pa[r], j)
                        y = builder.fsub(y, shift) if shifted else y
                        at = r * parts + part
                        totals[at] = code.fma(y, x, totals[at])
                return totals

            totals = _blocks(code, count_v, unit, [code.zero()] * (rows * parts), body)
            place = code.pointer(sums, sums_v, s0_v)
            for r in range(rows):
                total = _fold(code, totals[r * parts : (r + 1) * parts])
                builder.store(total, code.at(place, r))
            return context.get_dummy_value()

        signature = types.void(sums, *[index] * 11)
        return signature, emit

    return dots


def _combinations(rows, shifted, squared):
    @vector(functools.partial(twins.combinations, rows, shifted, squared))
    def combinations(typingctx, y, y0, a, a0, lda, s, s0, m, m0, count, fetch, fetch_high):
        index = types.intp

        def emit(context, builder, signature, values):
            y_v, y0_v, a_v, a0_v, lda_v, s_v, s0_v, m_v, m0_v, count_v, low, high = values
            code = Code(context, builder, y.dtype)
            pa = _row_pointers(code, code.at(code.address(a_v), a0_v), lda_v, rows)
            py, pm = code.pointer(y, y_v, y0_v), code.at(code.address(m_v), m0_v)
            ps = code.at(code.address(s_v), s0_v)
            factors = [code.splat(builder.load(code.at(ps, r))) for r in range(rows)]

            def body(offset, _, load):
                place = code.at(py, offset)
                total = code.load(place)
                shift = load(pm, 0) if shifted else None
                for r in range(rows):
                    ahead = builder.add(offset, low if 2 * r < rows else high)
                    code.prefetch(code.at(pa[r], ahead), level=2)
                    x = load(pa[r], 0)
                    x = builder.fsub(x, shift) if shifted else x
                    factor = builder.fmul(factors[r], x) if squared else factors[r]
                    total = code.fma(x, factor, total)
                code.store(total, place)
                return []

            _blocks(code, count_v, code.lanes, [], body)
            return context.get_dummy_value()

        signature = types.void(y, *[index] * 11)
        return signature, emit

    return combinations


_dot_group, _dot_group_shifted = _dots(GROUP, False), _dots(GROUP, True)
_dot_one, _dot_one_shifted = _dots(1, False), _dots(1, True)
_add_group, _add_group_shifted = (_combinations(GROUP, s, False) for s in (False, True))
_add_one, _add_one_shifted = (_combinations(1, s, False) for s in (False, True))
_square_group, _square_group_shifted = (_combinations(GROUP, s, True) for s in (False, True))
_square_one, _square_one_shifted = (_combinations(1, s, True) for s in (False, True))


class Rows(NamedTuple):
    """Scores as real rows at an address; the row at `shift` is subtracted from each if `shifted`.

    Addresses, not arrays: kernels take these apart for every few rows, and each array would be
    counted up and down. Whoever makes this record keeps the arrays.
    """

    a: int
    n: int
    width: int
    shift: int
    shifted: bool
    ahead: int  # elements from a group of rows to one that is fetched now and used later

    @property
    def elements(self):
        return self.n * self.width


@kernel
def dots(sums, s0, x, i, j, v, v0, count, group, low, high):
    """sums[s0 + r] = sum of (x[i + r, j..j+count] - shift) v[v0..], r < GROUP, or r = 0 only.

    The first half of the rows is fetched `low` elements ahead, the second half `high`.
    """
    at = i * x.width + j
    if group:
        if x.shifted:
            _dot_group_shifted(sums, s0, x.a, at, x.width, v, v0, x.shift, j, count, low, high)
        else:
            _dot_group(sums, s0, x.a, at, x.width, v, v0, x.shift, j, count, low, high)
    elif x.shifted:
        _dot_one_shifted(sums, s0, x.a, at, x.width, v, v0, x.shift, j, count, low, high)
    else:
        _dot_one(sums, s0, x.a, at, x.width, v, v0, x.shift, j, count, low, high)


@kernel
def combine(y, y0, x, i, j, s, s0, count, group, low, high):
    """y[y0 + c] += sum_r s[s0 + r] (x[i + r, j + c] - shift), in order; y has whole vectors."""
    at = i * x.width + j
    if group:
        if x.shifted:
            _add_group_shifted(y, y0, x.a, at, x.width, s, s0, x.shift, j, count, low, high)
        else:
            _add_group(y, y0, x.a, at, x.width, s, s0, x.shift, j, count, low, high)
    elif x.shifted:
        _add_one_shifted(y, y0, x.a, at, x.width, s, s0, x.shift, j, count, low, high)
    else:
        _add_one(y, y0, x.a, at, x.width, s, s0, x.shift, j, count, low, high)


@kernel
def add_squares(y, y0, x, i, j, s, s0, count, group, low, high):
    """y[y0 + c] += sum_r s[s0 + r] (x[i + r, j + c] - shift)^2, as `combine`."""
    at = i * x.width + j
    if group:
        if x.shifted:
            _square_group_shifted(y, y0, x.a, at, x.width, s, s0, x.shift, j, count, low, high)
        else:
            _square_group(y, y0, x.a, at, x.width, s, s0, x.shift, j, count, low, high)
    elif x.shifted:
        _square_one_shifted(y, y0, x.a, at, x.width, s, s0, x.shift, j, count, low, high)
    else:
        _square_one(y, y0, x.a, at, x.width, s, s0, x.shift, j, count, low, high)


def real_rows(a, shift):
    """Rows for scores (n, p) and a shift (p,) or (0,); complex numbers become (re, im) pairs."""
    real = np.empty(0, a.dtype).real.dtype
    flat, shift = a.view(real).reshape(-1), shift.view(real)
    width = flat.size // max(a.shape[0], 1)
    group = GROUP * width * flat.itemsize
    ahead = GROUP * width * max(1, -(-AHEAD // max(group, 1)))
    at, mean = flat.ctypes.data, shift.ctypes.data
    return Rows(at, a.shape[0], width, mean, bool(shift.size), ahead)
