"""Register tiles of rows of scores and several vectors: dot products and combinations.

Sums are those of rows.py to the bit, whatever the number of vectors. Vectors come in twos, fours
or eights (splitting.padded), packed so that a tile reads on in them.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np
from numba import types

from . import twins
from .jit import entry_address, kernel
from .row_passes import over_units, row_pointers, store_folded
from .simd import Code, call, reader, target, vector
from .splitting import LANE_BYTES, MOST_VECTORS, padded

__all__ = [
    "COLUMNS",
    "MOST",
    "TILE_ROWS",
    "add_rows",
    "next_tile",
    "packed_factors",
    "packed_vectors",
    "products",
    "tile_address",
]

COLUMNS = 96  # stripes of combinations end at multiples of it: every tile's width divides it
ROWS = 6  # of a tile at most; each is a pointer


def _sums():
    """Registers of a tile for sums."""
    return target().rows * target().vectors


def _spread():
    """Vectors that a row's product is spread over."""
    return max(LANE_BYTES // target().bytes, 1)


def _tile_rows(k):
    return max(min(_sums() // (k * _spread()), ROWS), 1)


def _tile_vectors(k):
    """Width of a combination."""
    return max(w for w in (1, 2, 3, 6) if w == 1 or w * k <= _sums())


WIDTHS = (2, *(k for k in (4, MOST_VECTORS) if k * _spread() <= _sums()))
MOST = WIDTHS[-1]  # vectors of a tile
PRODUCTS, COMBINATION = range(2)


def _products(code, stored, k, rows, shifted, operands):
    """out[r, c] = sum of (a_r - m) v_c over `count` elements."""
    builder = code.builder
    out, a, lda, v, m, count, ahead = operands[:7]
    unit = LANE_BYTES // code.bytes
    parts = unit // code.lanes
    pa = row_pointers(code, code.address(a, stored), lda, rows)
    pv, pm = code.address(v), code.address(m)
    size = stored.bitwidth // 8 if stored else code.bytes

    def body(offset, totals, load):
        totals, unit_v = list(totals), code.at(pv, builder.mul(offset, offset.type(k)))
        for part in range(parts):
            j = part * code.lanes
            found = []
            for p in pa:
                if j * size % 64 == 0:
                    there = builder.add(builder.add(offset, ahead), offset.type(j))
                    code.prefetch(code.at(p, there), level=2)
                x = load(p, j)
                found.append(builder.fsub(x, load(pm, j)) if shifted else x)
            for c in range(k):
                y = code.load(code.at(unit_v, c * unit + j))
                for r, x in enumerate(found):
                    at = (r * k + c) * parts + part
                    totals[at] = code.fma(x, y, totals[at])
        return totals

    totals = over_units(code, count, unit, [code.zero()] * (rows * k * parts), body)
    store_folded(code, totals, parts, out)


def _combination(code, stored, k, shifted, operands):
    """y_c += sum_r s[r, c] (a_r - m) over `count` columns and `rows` >= 1 rows, in their order."""
    builder = code.builder
    y, a, lda, s, m, count, ahead, ldy, rows = operands
    wide = _tile_vectors(k)
    pa, py, pm = code.address(a, stored), code.address(y), code.address(m)
    ps, size = code.address(s), stored.bitwidth // 8 if stored else code.bytes
    places = row_pointers(code, py, ldy, k)

    def body(offset, _, load):
        spots = [code.at(code.at(p, offset), w * code.lanes) for p in places for w in range(wide)]

        def row(step, carried):
            p, factors, *totals = carried
            found = []
            for w in range(wide):
                if w * code.lanes * size % 64 == 0:
                    there = builder.add(builder.add(offset, ahead), offset.type(w * code.lanes))
                    code.prefetch(code.at(p, there), level=2)
                x = load(p, w * code.lanes)
                found.append(builder.fsub(x, load(pm, w * code.lanes)) if shifted else x)
            for c in range(k):
                factor = code.splat(builder.load(code.at(factors, c)))
                for w, x in enumerate(found):
                    totals[c * wide + w] = code.fma(x, factor, totals[c * wide + w])
            return [code.at(p, lda), code.at(factors, k), *totals]

        start = [pa, ps, *(code.load(spot) for spot in spots)]
        _, _, *totals = code.loop(rows, start, row)
        for spot, total in zip(spots, totals, strict=True):
            code.store(total, spot)
        return []

    over_units(code, count, wide * code.lanes, [], body)


_LAYOUTS = (
    *itertools.product((PRODUCTS,), WIDTHS, (False, True), (False, True)),
    *itertools.product((COMBINATION,), WIDTHS, (False,), (False, True)),
)


def tiles_kernel(element, stored=None):
    """Intrinsic (layout, out, a, lda, x, mean, count, ahead, ldy, rows): one tile, see `Tile`.

    What is at `a` is `stored` (simd.STORED), or elements.
    """

    def twin(layout, *operands):
        operation, k, whole, shifted = _LAYOUTS[layout]
        kinds = element.name, (stored or element).name
        if operation == PRODUCTS:
            twins.products_tile(*kinds, k, _tile_rows(k) if whole else 1, shifted, *operands)
        else:
            twins.combination_tile(*kinds, k, shifted, *operands)

    @vector(twin)
    def tile(typingctx, layout, out, a, lda, x, mean, count, ahead, ldy, rows):
        def emit(context, builder, signature, values):
            code = Code(context, builder, element)
            for number in code.switch(values[0], range(len(_LAYOUTS))):
                operation, k, whole, shifted = _LAYOUTS[number]
                if operation == PRODUCTS:
                    rows = _tile_rows(k) if whole else 1
                    _products(code, stored, k, rows, shifted, values[1:])
                else:
                    _combination(code, stored, k, shifted, values[1:])
            return context.get_dummy_value()

        return types.void(*[types.intp] * 10), emit

    return tile


class Tile(NamedTuple):
    """One tile: everything is an address or a number of elements."""

    layout: int  # which of _LAYOUTS
    out: int  # products (rows, k), or the first of the rows y
    a: int
    lda: int
    x: int  # packed vectors, or factors (rows, k)
    mean: int
    count: int
    ahead: int  # elements to what is fetched meanwhile
    ldy: int
    rows: int  # of a combination


_read = reader(Tile)
_double, _single = tiles_kernel(types.float64), tiles_kernel(types.float32)
_halves = types.int16, types.uint16  # float16, bfloat16
_float16, _bfloat16 = (tiles_kernel(types.float32, stored) for stored in _halves)
_wide_float16, _wide_bfloat16 = (tiles_kernel(types.float64, stored) for stored in _halves)
_wide_single = tiles_kernel(types.float64, types.float32)


def tile_double(record):
    _double(*_read(record))


def tile_single(record):
    _single(*_read(record))


def tile_float16(record):
    _float16(*_read(record))


def tile_bfloat16(record):
    _bfloat16(*_read(record))


def tile_wide_single(record):
    _wide_single(*_read(record))


def tile_wide_float16(record):
    _wide_float16(*_read(record))


def tile_wide_bfloat16(record):
    _wide_bfloat16(*_read(record))


_ENTRIES = {
    ("float64", 8): tile_double,
    ("float32", 4): tile_single,
    ("float16", 4): tile_float16,
    ("bfloat16", 4): tile_bfloat16,
    ("float32", 8): tile_wide_single,
    ("float16", 8): tile_wide_float16,
    ("bfloat16", 8): tile_wide_bfloat16,
}
TILE_BYTES = tuple(_tile_vectors(k) * target().bytes if k in WIDTHS else 0 for k in range(MOST + 1))
TILE_ROWS = tuple(_tile_rows(k) if k in WIDTHS else 0 for k in range(MOST + 1))


@functools.cache
def tile_address(stored, size):
    """Address of the tiles: compiled once for what scores are stored as, and the bytes of a number
    of the vectors."""
    return entry_address(_ENTRIES[stored.name, size], 1)


@kernel
def _layout(operation, k, whole, shifted):
    number = 0 if k == 2 else 1 if k == 4 else 2
    if operation == PRODUCTS:
        return 4 * number + 2 * whole + shifted
    return 4 * len(WIDTHS) + 2 * number + shifted


@kernel
def products(out, x, tiles, i, whole, j, v, k, count, ahead):
    # out  address of (rows, k) in the precision of vectors;  v  that of `k` packed vectors at j
    """out[r, c] = sum of (x[i + r, j..j+count] - shift) v_c for the rows of a tile, or one."""
    layout = _layout(PRODUCTS, k, whole, x.shifted)
    at, mean = x.a + (i * x.width + j) * x.stored, x.shift + j * x.bytes
    none = np.int64(0)
    call(tiles, Tile(layout, out, at, x.width, v, mean, count, ahead, none, none))


@kernel
def next_tile(k, itemsize):
    """Columns from a combination's tile to the next."""
    return TILE_BYTES[k] // itemsize


@kernel
def add_rows(y, ldy, x, tiles, lo, hi, j, s, k, count, ahead):
    # y  address of rows y_c at column j, ldy apart, with room for COLUMNS more
    # s  address of factors (hi - lo, k)
    """y_c += sum_r s[r, c] (x[lo + r, j..j+count] - shift), in the order of rows."""
    layout = _layout(COMBINATION, k, False, x.shifted)
    at, mean = x.a + (lo * x.width + j) * x.stored, x.shift + j * x.bytes
    if lo < hi:
        call(tiles, Tile(layout, y, at, x.width, s, mean, count, ahead, ldy, hi - lo))


def _tiled(rows, width):
    """Rows with zeros after them, up to `width` and a whole tile; (first, last) of each tile."""
    k = padded(len(rows), MOST)
    whole = np.zeros((k, width), rows.dtype)
    whole[: len(rows), : rows.shape[1]] = rows
    return whole, [(c, min(c + MOST, k)) for c in range(0, k, MOST)]


def packed_vectors(v):
    """Vectors (k, p) as tiles read them: LANE_BYTES of each, one tile after the other."""
    unit = LANE_BYTES // v.itemsize
    units = -(-v.shape[1] // unit)
    rows, tiles = _tiled(v, units * unit)
    for first, last in tiles:
        packed = rows[first:last].reshape(-1, units, unit).transpose(1, 0, 2)
        rows[first:last] = packed.reshape(last - first, -1)
    return rows


def packed_factors(u):
    """Factors (k, n) as tiles read them: (n, k) for each tile, one after the other."""
    rows, tiles = _tiled(u, u.shape[1])
    return np.concatenate([rows[first:last].T.ravel() for first, last in tiles])
