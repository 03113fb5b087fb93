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
from .jit import entry_address, kernel
from .simd import Code, call, reader, target, vector

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


def _dots(element, rows, shifted):
    """Intrinsic: out[r] = sum of (a_r - m) v over `count` elements, for `rows` rows."""

    @vector(functools.partial(twins.dots, element.name, rows, shifted))
    def dots(typingctx, out, a, lda, v, m, count, low, high):
        def emit(context, builder, signature, values):
            out_v, a_v, lda_v, v_v, m_v, count_v, low_v, high_v = values
            code = Code(context, builder, element)
            unit = LANE_BYTES // code.bytes
            parts = unit // code.lanes
            pa = _row_pointers(code, code.address(a_v), lda_v, rows)
            pv, pm = code.address(v_v), code.address(m_v)

            def body(offset, totals, load):
                totals = list(totals)
                for part in range(parts):
                    j = part * code.lanes
                    x = load(pv, j)
                    shift = load(pm, j) if shifted else None
                    for r in range(rows):
                        if j * code.bytes % 64 == 0:
                            ahead = builder.add(offset, low_v if 2 * r < rows else high_v)
                            code.prefetch(code.at(pa[r], builder.add(ahead, _index(j))), level=2)
                        y = load(pa[r], j)
                        y = builder.fsub(y, shift) if shifted else y
                        at = r * parts + part
                        totals[at] = code.fma(y, x, totals[at])
                return totals

            totals = _blocks(code, count_v, unit, [code.zero()] * (rows * parts), body)
            place = code.address(out_v)
            for r in range(rows):
                total = _fold(code, totals[r * parts : (r + 1) * parts])
                builder.store(total, code.at(place, r))
            return context.get_dummy_value()

        return types.void(*[types.intp] * 8), emit

    return dots


def _combinations(element, rows, shifted, squared):
    """Intrinsic: y += sum_r s_r (a_r - m), or s_r (a_r - m)^2, over `count` elements."""

    @vector(functools.partial(twins.combinations, element.name, rows, shifted, squared))
    def combinations(typingctx, y, a, lda, s, m, count, low, high):
        def emit(context, builder, signature, values):
            y_v, a_v, lda_v, s_v, m_v, count_v, low_v, high_v = values
            code = Code(context, builder, element)
            pa = _row_pointers(code, code.address(a_v), lda_v, rows)
            py, pm, ps = code.address(y_v), code.address(m_v), code.address(s_v)
            factors = [code.splat(builder.load(code.at(ps, r))) for r in range(rows)]

            def body(offset, _, load):
                place = code.at(py, offset)
                total = code.load(place)
                shift = load(pm, 0) if shifted else None
                for r in range(rows):
                    ahead = builder.add(offset, low_v if 2 * r < rows else high_v)
                    code.prefetch(code.at(pa[r], ahead), level=2)
                    x = load(pa[r], 0)
                    x = builder.fsub(x, shift) if shifted else x
                    factor = builder.fmul(factors[r], x) if squared else factors[r]
                    total = code.fma(x, factor, total)
                code.store(total, place)
                return []

            _blocks(code, count_v, code.lanes, [], body)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 8), emit

    return combinations


class Pass(NamedTuple):
    """One pass over a few rows: everything is an address or a number of elements."""

    out: int
    a: int
    lda: int
    x: int  # the vector of a dot product, the factors of a combination
    mean: int
    count: int
    low: int
    high: int
    group: int
    shifted: int


_read = reader(Pass)
_D, _S = types.float64, types.float32
_dot_d, _dot_dm, _dots_d, _dots_dm = (_dots(_D, r, m) for r in (1, GROUP) for m in (False, True))
_dot_s, _dot_sm, _dots_s, _dots_sm = (_dots(_S, r, m) for r in (1, GROUP) for m in (False, True))
_add_d, _add_dm, _adds_d, _adds_dm = (
    _combinations(_D, r, m, False) for r in (1, GROUP) for m in (False, True)
)
_add_s, _add_sm, _adds_s, _adds_sm = (
    _combinations(_S, r, m, False) for r in (1, GROUP) for m in (False, True)
)
_square_d, _square_dm, _squares_d, _squares_dm = (
    _combinations(_D, r, m, True) for r in (1, GROUP) for m in (False, True)
)
_square_s, _square_sm, _squares_s, _squares_sm = (
    _combinations(_S, r, m, True) for r in (1, GROUP) for m in (False, True)
)


def _dots_double(record):
    w = _read(record)
    if w.group and w.shifted:
        _dots_dm(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    elif w.group:
        _dots_d(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    elif w.shifted:
        _dot_dm(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    else:
        _dot_d(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)


def _dots_single(record):
    w = _read(record)
    if w.group and w.shifted:
        _dots_sm(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    elif w.group:
        _dots_s(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    elif w.shifted:
        _dot_sm(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    else:
        _dot_s(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)


def _combine_double(record):
    w = _read(record)
    if w.group and w.shifted:
        _adds_dm(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    elif w.group:
        _adds_d(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    elif w.shifted:
        _add_dm(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    else:
        _add_d(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)


def _combine_single(record):
    w = _read(record)
    if w.group and w.shifted:
        _adds_sm(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    elif w.group:
        _adds_s(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    elif w.shifted:
        _add_sm(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    else:
        _add_s(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)


def _squares_double(record):
    w = _read(record)
    if w.group and w.shifted:
        _squares_dm(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    elif w.group:
        _squares_d(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    elif w.shifted:
        _square_dm(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    else:
        _square_d(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)


def _squares_single(record):
    w = _read(record)
    if w.group and w.shifted:
        _squares_sm(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    elif w.group:
        _squares_s(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    elif w.shifted:
        _square_sm(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)
    else:
        _square_s(w.out, w.a, w.lda, w.x, w.mean, w.count, w.low, w.high)


_UNITS = {
    8: (_dots_double, _combine_double, _squares_double),
    4: (_dots_single, _combine_single, _squares_single),
}


@functools.cache
def _addresses(itemsize):
    """Addresses of the three passes: compiled once for an element type."""
    return tuple(entry_address(unit, 1) for unit in _UNITS[itemsize])


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
    bytes: int  # of an element
    dots: int  # addresses of the passes
    combine: int
    squares: int

    @property
    def elements(self):
        return self.n * self.width


@kernel
def _pass(out, x, i, j, vector, count, group, low, high):
    at, mean = x.a + (i * x.width + j) * x.bytes, x.shift + j * x.bytes
    return Pass(out, at, x.width, vector, mean, count, low, high, group, x.shifted)


@kernel
def dots(out, x, i, j, v, count, group, low, high):
    """out[r] = sum of (x[i + r, j..j+count] - shift) v, r < GROUP, or r = 0 only.

    out and v are addresses. The first half of the rows is fetched `low` elements ahead, the second
    half `high`.
    """
    call(x.dots, _pass(out, x, i, j, v, count, group, low, high))


@kernel
def combine(y, x, i, j, s, count, group, low, high):
    """y[c] += sum_r s[r] (x[i + r, j + c] - shift), in order; y has room for whole vectors."""
    call(x.combine, _pass(y, x, i, j, s, count, group, low, high))


@kernel
def add_squares(y, x, i, j, s, count, group, low, high):
    """y[c] += sum_r s[r] (x[i + r, j + c] - shift)^2, as `combine`."""
    call(x.squares, _pass(y, x, i, j, s, count, group, low, high))


def real_rows(a, shift):
    """Rows for scores (n, p) and a shift (p,) or (0,); complex numbers become (re, im) pairs."""
    real = np.empty(0, a.dtype).real.dtype
    flat, shift = a.view(real).reshape(-1), shift.view(real)
    width = flat.size // max(a.shape[0], 1)
    group = GROUP * width * flat.itemsize
    ahead = GROUP * width * max(1, -(-AHEAD // max(group, 1)))
    at, mean = flat.ctypes.data, shift.ctypes.data
    size = flat.itemsize
    return Rows(at, a.shape[0], width, mean, bool(shift.size), ahead, size, *_addresses(size))
