"""Code of passes over a few rows of scores and a vector: dot products, combinations, squares.

All work on real rows; the summation order depends on LANE_BYTES only, never on the vector width.
"""

import functools
from typing import NamedTuple

from numba import types
from numba.core import cgutils

from . import twins
from .jit import entry_address
from .simd import _I32, Code, _index, reader, target, vector
from .splitting import LANE_BYTES

__all__ = [
    "FIRST_BOTH",
    "FIRST_COMBINE",
    "FIRST_DOTS",
    "FIRST_SQUARES",
    "GROUP",
    "MANY",
    "TOGETHER",
    "Pass",
    "over_units",
    "row_pointers",
    "rows_address",
    "store_folded",
]

GROUP = 4 if target().rows >= 6 else 2  # rows at a time; ISAs with 16 registers take two,
TOGETHER = 4 if target().bytes >= 32 else GROUP  # or, with AVX2, four of dot products alone
MANY = 4 * GROUP  # of a combination: every store holds up the loads from memory that are waiting


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
        x = builder.fadd(x, code.shuffle(x, x, mask))
    return builder.extract_element(x, _I32(0))


def store_folded(code, totals, parts, out):
    """The sum of every `parts` vectors, one after the other."""
    place = code.address(out)
    for r in range(len(totals) // parts):
        total = _fold(code, totals[r * parts : (r + 1) * parts])
        code.builder.store(total, code.at(place, r))


def over_units(code, count, unit, carried, body):
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


def row_pointers(code, first, stride, rows):
    pointers = [first]
    for _ in range(rows - 1):
        pointers.append(code.at(pointers[-1], stride))
    return pointers


def _dots(code, stored, rows, shifted, operands):
    """out[r] = sum of (a_r - m) v over `count` elements, for `rows` rows."""
    builder = code.builder
    out, a, lda, v, m, count, ahead = operands[:7]
    unit = LANE_BYTES // code.bytes
    parts = unit // code.lanes
    pa = row_pointers(code, code.address(a, stored), lda, rows)
    pv, pm = code.address(v), code.address(m)
    size = stored.bitwidth // 8 if stored else code.bytes

    def body(offset, totals, load):
        totals = list(totals)
        for part in range(parts):
            j = part * code.lanes
            x = load(pv, j)
            shift = load(pm, j) if shifted else None
            for r in range(rows):
                if j * size % 64 == 0:
                    there = builder.add(builder.add(offset, ahead), _index(j))
                    code.prefetch(code.at(pa[r], there), level=2)
                y = load(pa[r], j)
                y = builder.fsub(y, shift) if shifted else y
                at = r * parts + part
                totals[at] = code.fma(y, x, totals[at])
        return totals

    totals = over_units(code, count, unit, [code.zero()] * (rows * parts), body)
    store_folded(code, totals, parts, out)


def _combinations(squared, code, stored, rows, shifted, operands):
    """y += sum_r s_r (a_r - m), or s_r (a_r - m)^2, over `count` elements."""
    builder = code.builder
    y, a, lda, s, m, count, ahead = operands[:7]
    pa = row_pointers(code, code.address(a, stored), lda, rows)
    py, pm, ps = code.address(y), code.address(m), code.address(s)
    factors = [code.splat(builder.load(code.at(ps, r))) for r in range(rows)]

    def body(offset, _, load):
        place = code.at(py, offset)
        total = code.load(place)
        shift = load(pm, 0) if shifted else None
        for r in range(rows):
            code.prefetch(code.at(pa[r], builder.add(offset, ahead)), level=2)
            x = load(pa[r], 0)
            x = builder.fsub(x, shift) if shifted else x
            factor = builder.fmul(factors[r], x) if squared else factors[r]
            total = code.fma(x, factor, total)
        code.store(total, place)
        return []

    over_units(code, count, code.lanes, [], body)


def _dots_and_combination(code, stored, rows, shifted, operands):
    """out[r] as `_dots`; y += sum_r s_r (b_r - m), the rows b before these, as `_combinations`."""
    builder = code.builder
    out, a, lda, v, m, count, ahead, y, s = operands
    unit = LANE_BYTES // code.bytes
    parts = unit // code.lanes
    pa = row_pointers(code, code.address(a, stored), lda, rows)
    pb = [code.at(p, builder.mul(lda, _index(-rows))) for p in pa]
    pv, pm, py, ps = (code.address(place) for place in (v, m, y, s))
    factors = [code.splat(builder.load(code.at(ps, r))) for r in range(rows)]
    size = stored.bitwidth // 8 if stored else code.bytes

    def body(offset, totals, load):
        totals, place = list(totals), code.at(py, offset)
        for part in range(parts):
            j = part * code.lanes
            x, total = load(pv, j), code.load(code.at(place, j))
            shift = load(pm, j) if shifted else None
            for r in range(rows):
                if j * size % 64 == 0:
                    there = builder.add(builder.add(offset, ahead), _index(j))
                    code.prefetch(code.at(pa[r], there), level=2)
                here, before = load(pa[r], j), load(pb[r], j)
                if shifted:
                    here, before = builder.fsub(here, shift), builder.fsub(before, shift)
                at = r * parts + part
                totals[at] = code.fma(here, x, totals[at])
                total = code.fma(before, factors[r], total)
            code.store(total, code.at(place, j))
        return totals

    totals = over_units(code, count, unit, [code.zero()] * (rows * parts), body)
    store_folded(code, totals, parts, out)


_PASSES = (
    _dots,
    functools.partial(_combinations, False),
    functools.partial(_combinations, True),
    _dots_and_combination,
)
_TWINS = (twins.dots, twins.combinations, twins.squares, twins.dots_and_combination)
DOTS, COMBINE, SQUARES, BOTH = range(4)
_COMBINED = (1, GROUP, MANY)
_ROWS = {
    DOTS: (1, GROUP, TOGETHER) if TOGETHER > GROUP else (1, GROUP),
    COMBINE: _COMBINED,
    SQUARES: _COMBINED,
    BOTH: (1, GROUP),
}
_LAYOUTS = tuple(
    (operation, rows, shifted)
    for operation, sizes in _ROWS.items()
    for rows in sizes
    for shifted in (False, True)
)
FIRST_DOTS, FIRST_COMBINE, FIRST_SQUARES, FIRST_BOTH = (
    _LAYOUTS.index((operation, sizes[0], False)) for operation, sizes in _ROWS.items()
)


def rows_kernel(element, stored=None):
    """Intrinsic (layout, out, a, lda, x, mean, count, ahead, y, s): one pass, see `Pass`.

    What is at `a` is `stored` (simd.STORED), or elements.
    """

    def twin(layout, *operands):
        operation, rows, shifted = _LAYOUTS[layout]
        _TWINS[operation](element.name, (stored or element).name, rows, shifted, *operands)

    @vector(twin)
    def rows_pass(typingctx, layout, out, a, lda, x, mean, count, ahead, y, s):
        def emit(context, builder, signature, values):
            code = Code(context, builder, element)
            for number in code.switch(values[0], range(len(_LAYOUTS))):
                operation, rows, shifted = _LAYOUTS[number]
                _PASSES[operation](code, stored, rows, shifted, values[1:])
            return context.get_dummy_value()

        return types.void(*[types.intp] * 10), emit

    return rows_pass


class Pass(NamedTuple):
    """One pass over a few rows: everything is an address or a number of elements."""

    layout: int  # which of _LAYOUTS: operation, how many rows, shifted or not
    out: int
    a: int
    lda: int
    x: int  # the vector of a dot product, the factors of a combination
    mean: int
    count: int
    ahead: int  # elements to what is fetched meanwhile
    y: int  # the combination made with dot products, and its factors
    s: int


_read = reader(Pass)
_double, _single = rows_kernel(types.float64), rows_kernel(types.float32)
_halves = types.int16, types.uint16  # float16, bfloat16
_float16, _bfloat16 = (rows_kernel(types.float32, stored) for stored in _halves)
_wide_float16, _wide_bfloat16 = (rows_kernel(types.float64, stored) for stored in _halves)
_wide_single = rows_kernel(types.float64, types.float32)


def rows_double(record):
    _double(*_read(record))


def rows_single(record):
    _single(*_read(record))


def rows_float16(record):
    _float16(*_read(record))


def rows_bfloat16(record):
    _bfloat16(*_read(record))


def rows_wide_single(record):
    _wide_single(*_read(record))


def rows_wide_float16(record):
    _wide_float16(*_read(record))


def rows_wide_bfloat16(record):
    _wide_bfloat16(*_read(record))


_ENTRIES = {
    ("float64", 8): rows_double,
    ("float32", 4): rows_single,
    ("float16", 4): rows_float16,
    ("bfloat16", 4): rows_bfloat16,
    ("float32", 8): rows_wide_single,
    ("float16", 8): rows_wide_float16,
    ("bfloat16", 8): rows_wide_bfloat16,
}


@functools.cache
def rows_address(stored, size):
    """Address of the passes: compiled once for what scores are stored as, and the bytes of a
    number of the vectors."""
    return entry_address(_ENTRIES[stored.name, size], 1)
