"""The largest score of every column or row, which slices are cut by; NaN and Inf stay.

Bits of absolute values are ordered like them, with Inf and then NaN above all: nothing is lost.
"""

import functools

import numpy as np
from llvmlite import ir
from numba import types

from . import threads
from . import twins_units as twins
from .jit import kernel
from .memory import aligned
from .parallel import for_each
from .row_passes import over_units
from .rows import ALONG
from .simd import _I32, Code, _index, address, vector
from .threads import driver

__all__ = ["peaks"]

ROWS, TERMS = 64, 1 << 16  # of a task over columns: so many rows, or fewer that are long
SHARES = 16  # of the rows, in each of which columns have peaks of their own
PARTS = 4  # vectors of a row at a time


class _Bits:
    """Vectors of bits of absolute values."""

    def __init__(self, code):
        self.code, self.builder = code, code.builder
        self.kind = ir.VectorType(ir.IntType(8 * code.bytes), code.lanes)
        self.positive = ir.Constant(self.kind, [(1 << (8 * code.bytes - 1)) - 1] * code.lanes)

    def size(self, x):
        return self.builder.and_(self.builder.bitcast(x, self.kind), self.positive)

    def larger(self, x, y):
        return self.builder.select(self.builder.icmp_signed(">", x, y), x, y)

    def largest(self, xs):
        """The number whose bits are the largest of all lanes."""
        x, width = functools.reduce(self.larger, xs), self.code.lanes
        none = ir.Constant(self.kind, ir.Undefined)
        while width > 1:
            width //= 2
            mask = [i + width if i < width else i for i in range(self.code.lanes)]
            kind = ir.VectorType(_I32, self.code.lanes)
            x = self.larger(x, self.builder.shuffle_vector(x, none, ir.Constant(kind, mask)))
        found = self.builder.extract_element(x, _I32(0))
        return self.builder.bitcast(found, self.code.element)


def _peaks_of(rows):
    """Intrinsic (peaks, source, lda, count, factors, shift, shifted, like): peaks[j] =
    max(peaks[j], |factors[r] (source[r, j] - shift[j])|) for j < count and r < `rows`.

    `peaks` has room for whole vectors.
    """
    index = types.intp

    @vector(functools.partial(twins.peaks_at, rows))
    def peaks_at(typingctx, peaks, source, lda, count, factors, shift, shifted, like):
        def emit(context, builder, signature, values):
            peaks_v, source_v, lda_v, count_v, factors_v, shift_v, shifted_v, _ = values
            code = Code(context, builder, like)
            bits = _Bits(code)
            start, mean, place = (code.address(x) for x in (source_v, shift_v, peaks_v))
            pointers = [code.at(start, builder.mul(lda_v, _index(r))) for r in range(rows)]
            factor = code.address(factors_v)
            by = [code.splat(builder.load(code.at(factor, r))) for r in range(rows)]
            ahead = builder.mul(lda_v, _index(rows))

            def body(number, carried, moved):
                at = builder.mul(number, _index(code.lanes))
                largest = builder.bitcast(code.load(code.at(place, at)), bits.kind)
                for r in range(rows):
                    if rows > 1:
                        there = builder.add(at, ahead)
                        code.prefetch(code.at(pointers[r], there), level=2)
                    x = code.load_some(code.at(pointers[r], at), at, count_v)
                    if moved:
                        x = builder.fsub(x, code.load_some(code.at(mean, at), at, count_v))
                    largest = bits.larger(bits.size(builder.fmul(by[r], x)), largest)
                code.store(largest, code.at(place, at))
                return []

            turns = builder.sdiv(builder.add(count_v, _index(code.lanes - 1)), _index(code.lanes))
            some = builder.icmp_signed("!=", shifted_v, _index(0))
            with builder.if_else(some) as (then, otherwise):
                with then:
                    code.loop(turns, [], functools.partial(body, moved=True))
                with otherwise:
                    code.loop(turns, [], functools.partial(body, moved=False))
            return context.get_dummy_value()

        return types.void(*[index] * 7, like), emit

    return peaks_at


PEAK_ROWS = 4  # at a time: stores hold up the loads from memory that are waiting
peaks_of_row, peaks_of_rows = _peaks_of(1), _peaks_of(PEAK_ROWS)


@vector(twins.peak_along)
def peak_along(typingctx, source, count, shift, shifted, like):
    """The largest |source[j] - shift[j]| for j < count, at two addresses."""

    def emit(context, builder, signature, values):
        source_v, count_v, shift_v, shifted_v, _ = values
        code = Code(context, builder, like)
        bits, start, mean = _Bits(code), code.address(source_v), code.address(shift_v)
        none = ir.Constant(bits.kind, None)

        def body(offset, found, load, moved):
            found = list(found)
            for part in range(PARTS):
                j = part * code.lanes
                if j * code.bytes % 64 == 0:
                    there = builder.add(offset, _index(ALONG // code.bytes + j))
                    code.prefetch(code.at(start, there), level=2)
                x = load(start, j)
                x = builder.fsub(x, load(mean, j)) if moved else x
                found[part] = bits.larger(bits.size(x), found[part])
            return found

        def whole(moved):
            some = functools.partial(body, moved=moved)
            found = over_units(code, count_v, PARTS * code.lanes, [none] * PARTS, some)
            return bits.largest(found), builder.block

        with builder.if_else(builder.icmp_signed("!=", shifted_v, _index(0))) as (then, otherwise):
            with then:
                away, after = whole(True)
            with otherwise:
                plain, before = whole(False)
        result = builder.phi(code.element)
        result.add_incoming(away, after)
        result.add_incoming(plain, before)
        return result

    return like(*[types.intp] * 4, like), emit


@kernel
def _column_peaks(t, thread, found, a, scale, shift, ones):
    """Task: share t of the rows into found[t] (p)."""
    zero, p, one = np.int64(0), a.shape[1], ones[0]
    share = (a.shape[0] + found.shape[0] - 1) // found.shape[0]
    mine, mean, moved = address(found[t], zero), address(shift, zero), np.int64(shift.size)
    i, last = t * share, min((t + 1) * share, a.shape[0])
    while i < last:
        factors = address(scale, i) if scale.size else address(ones, zero)
        if i + PEAK_ROWS <= last:
            peaks_of_rows(mine, address(a, i * p), p, p, factors, mean, moved, one)
            i += PEAK_ROWS
        else:
            peaks_of_row(mine, address(a, i * p), p, p, factors, mean, moved, one)
            i += 1


@kernel
def _row_peaks(t, thread, y, a, shift, rows, like):
    """Task: so many rows."""
    p, mean, moved = a.shape[1], address(shift, np.int64(0)), np.int64(shift.size)
    for i in range(t * rows, min((t + 1) * rows, a.shape[0])):
        y[i] = peak_along(address(a, i * p), p, mean, moved, like)


@driver
def _over_rows(launch, found, a, scale, shift, ones):
    for_each(launch, _column_peaks, found.shape[0], (found, a, scale, shift, ones))


@driver
def _over_columns(launch, y, a, shift, rows, like):
    for_each(launch, _row_peaks, (a.shape[0] + rows - 1) // rows, (y, a, shift, rows, like))


def peaks(y, a, by_rows, scale, shift):
    # y      INOUT (p,) or (n,) float64;  a  IN READ-ONLY (n, p) real
    # scale  IN (n,) or (0,), only by rows;  shift  IN (p,) or (0,)
    """y = max(y, |scale_k (a_kj - shift_j)|) over the rows k, or over the columns j; keeps NaN."""
    if not a.size:
        return
    if by_rows:
        vector, ones = 64 // a.itemsize, np.ones(PEAK_ROWS, a.dtype)
        found = aligned((SHARES, -(-a.shape[1] // vector) * vector), a.dtype)
        found[:] = 0
        _over_rows(found, a, scale, shift, ones)
        np.maximum(y, found[:, : a.shape[1]].max(axis=0), out=y)
    else:
        found = np.empty(len(a), a.dtype)
        rows = max(min(TERMS // a.shape[1], ROWS, -(-len(a) // threads.max_threads())), 1)
        _over_columns(found, a, shift, rows, a.dtype.type(0))
        np.maximum(y, found, out=y)
