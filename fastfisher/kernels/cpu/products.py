"""Lower triangles of sums of products of packed panels: what syrk, gram and layered gram share."""

import functools
from typing import NamedTuple

import numpy as np
from numba import types

from .jit import entry_address, kernel
from .simd import (
    SHORT,
    add_doubles,
    address,
    call,
    call_entry,
    clear,
    lanes,
    micro_kernel,
    reader,
    tile_rows,
    tile_width,
)
from .splitting import KC

__all__ = [
    "KC",
    "Panels",
    "Place",
    "add_complex",
    "add_lower",
    "panels_of",
    "triangle_corner",
    "with_layout",
]


class Panels(NamedTuple):
    """Where packed columns lie: column j at j // width * stride + j % width, rows `ld` apart."""

    stride: int
    ld: int
    width: int
    rows: int  # of a register tile
    columns: int  # of a register tile
    lanes: int
    bytes: int  # of an element
    add: int  # address of the micro-kernel c += ...
    subtract: int  # and c -= ...; 0 where it is not needed
    lower: int  # of the loops of `add_lower`


class Place(NamedTuple):
    """Where sums lie: element (i, j) at start + i * ld + j * step of a flat double array.

    `whole`: there is room for whole tiles, also above the diagonal, which is spoilt; 2: what is
    above the diagonal is wanted too.
    """

    start: int
    ld: int
    step: int
    whole: int


_add_double = micro_kernel(types.float64, types.float64, +1)
_add_single = micro_kernel(types.float32, types.float64, +1)
_subtract_double = micro_kernel(types.float64, types.float64, -1)
_subtract_single = micro_kernel(types.float32, types.float64, -1)


def add_double(shape, c, ldc, a, b, ld, steps, ahead):
    _add_double(shape, c, ldc, a, b, ld, steps, ahead)


def add_single(shape, c, ldc, a, b, ld, steps, ahead):
    _add_single(shape, c, ldc, a, b, ld, steps, ahead)


def subtract_double(shape, c, ldc, a, b, ld, steps, ahead):
    _subtract_double(shape, c, ldc, a, b, ld, steps, ahead)


def subtract_single(shape, c, ldc, a, b, ld, steps, ahead):
    _subtract_single(shape, c, ldc, a, b, ld, steps, ahead)


@functools.cache
def micro_address(func):
    """Address of a micro-kernel: compiled once, called by address from everywhere."""
    return entry_address(func, 8)


@functools.lru_cache(maxsize=256)
def panels_of(dtype, depth, *, order=None, subtract=False):
    """Panels as wide as a register tile; given an order, one panel that holds all columns."""
    double = np.dtype(dtype).itemsize == 8
    rows, columns, vector = tile_rows(), tile_width(dtype), lanes(dtype)
    width = columns
    if order is not None:
        width = max(-(-order // vector) * vector, -(-order // rows) * rows)
    add = micro_address(add_double if double else add_single)
    minus = micro_address(subtract_double if double else subtract_single) if subtract else 0
    return Panels(
        width * depth,
        width,
        width,
        rows,
        columns,
        vector,
        8 if double else 4,
        add,
        minus,
        _lower_address(),
    )


class Block(NamedTuple):
    """Everything the loops of `add_lower` need, arrays as addresses."""

    c: int
    start: int
    ldc: int
    step: int
    whole: int
    order: int
    i0: int
    i1: int
    j0: int
    j1: int
    micro: int
    left: int
    right: int
    ld: int
    steps: int
    stride: int
    width: int
    rows: int
    columns: int
    lanes: int
    bytes: int
    scratch: int
    ahead: int  # what is wanted next, fetched meanwhile,
    ahead_end: int  # up to here


_read = reader(Block)


@kernel
def _tile(b, i, j, count, vectors, short, left, right, ahead):
    """One register tile, straight into c where there is room, else through scratch."""
    shape = vectors + 4 if short else vectors
    at = b.c + (b.start + i * b.ldc + j * b.step) * 8
    inside = i + count <= b.order and j + b.columns - 1 <= i
    if b.whole or (b.step == 1 and inside):
        call_entry(b.micro, (shape, at, b.ldc, left, right, b.ld, b.steps, ahead))
        return
    clear(b.scratch, count * b.columns * 8)
    call_entry(b.micro, (shape, b.scratch, b.columns, left, right, b.ld, b.steps, ahead))
    for r in range(min(count, b.order - i)):
        wanted = min(vectors * b.lanes, i + r - j + 1)
        add_doubles(at + r * b.ldc * 8, b.step, b.scratch + r * b.columns * 8, wanted)


def _lower(record):
    b = _read(record)
    full, ahead, wanted = b.whole == 2, b.ahead, b.ahead < b.ahead_end
    panel, lines = b.stride * b.bytes, b.steps // 2 * 64
    for j in range(b.j0, b.j1 if full else min(b.j1, b.i1), b.columns):
        right = b.right + j // b.width * panel + j % b.width * b.bytes
        i = b.i0 if full else max(b.i0, j)
        left, inside = b.left + i // b.width * panel, i % b.width
        while i < b.i1:
            short = b.i1 - i <= b.rows // 2
            count = SHORT if short else b.rows
            wide = (b.j1 if full else min(i + count, b.order)) - j
            vectors = 1 if wide <= b.lanes else 2 if wide <= 2 * b.lanes else 3
            at = left + inside * b.bytes
            _tile(b, i, j, count, vectors, short, at, right, ahead if wanted else right)
            ahead += lines
            wanted = wanted and ahead < b.ahead_end
            i += count
            inside += count  # no division from tile to tile: it takes as long as some products
            if inside == b.width:
                left, inside = left + panel, 0


@functools.cache
def _lower_address():
    """Address of the loops of `add_lower`: compiled once, for every kernel and dtype."""
    return entry_address(_lower, 1)


@kernel
def add_lower(
    c, place, order, rows, columns, micro, left, l0, right, r0, ld, steps, panels, scratch
):
    """`add_lower_ahead` of panels in arrays, from l0 and r0, with nothing to fetch."""
    none, a, b = (np.int64(0), np.int64(0)), address(left, l0), address(right, r0)
    add_lower_ahead(c, place, order, rows, columns, micro, a, b, ld, steps, panels, scratch, none)


@kernel
def add_lower_ahead(
    c, place, order, rows, columns, micro, left, right, ld, steps, panels, scratch, ahead
):
    # c              INOUT flat double, laid out as `place` says
    # rows, columns  IN (first, last) of the block of c; rows start where a panel does
    # micro          IN address of the micro-kernel: add, or subtract
    # left, right    IN addresses of panels; summed rows ld apart, `steps` (even) of them
    # scratch        room for one tile, double
    # ahead          IN (first, last) address of what is wanted next and fetched meanwhile, or zeros
    """c[i, j] += sum_k left[k, i] right[k, j] in the block; for j <= i, unless whole is 2."""
    zero = np.int64(0)
    block = Block(
        address(c, zero),
        place.start,
        place.ld,
        place.step,
        place.whole,
        order,
        rows[0],
        rows[1],
        columns[0],
        columns[1],
        micro,
        left,
        right,
        ld,
        steps,
        panels.stride,
        panels.width,
        panels.rows,
        panels.columns,
        panels.lanes,
        panels.bytes,
        address(scratch, zero),
        ahead[0],
        ahead[1],
    )
    call(panels.lower, block)


@kernel
def add_complex(c, re, im, order, rows, columns, out, l0, r0, terms, conjugate, panels, scratch):
    """Real and imaginary part of c += sum_k conj(x_k) y_k', or of its conjugate.

    Packed rows alternate: real parts, imaginary parts; `terms` is even.
    """
    ld, double = panels.ld, 2 * panels.ld
    add, subtract = panels.add, panels.subtract
    plus, minus = (subtract, add) if conjugate else (add, subtract)
    a, b = l0 + ld, r0 + ld
    add_lower(c, re, order, rows, columns, add, out, l0, out, r0, ld, 2 * terms, panels, scratch)
    add_lower(c, im, order, rows, columns, plus, out, l0, out, b, double, terms, panels, scratch)
    add_lower(c, im, order, rows, columns, minus, out, a, out, r0, double, terms, panels, scratch)


@kernel
def with_layout(panels, stride, ld, width):
    """The same panels, but `stride` elements apart, of so many columns and rows `ld` apart."""
    return Panels(
        stride,
        ld,
        width,
        panels.rows,
        panels.columns,
        panels.lanes,
        panels.bytes,
        panels.add,
        panels.subtract,
        panels.lower,
    )


@kernel
def triangle_corner(t):
    """Row and column of the t-th tile of a lower triangle, counted along the rows."""
    i = np.int64((np.sqrt(8.0 * t + 1.0) - 1.0) / 2.0)
    while i * (i + 1) // 2 > t:
        i -= 1
    while (i + 1) * (i + 2) // 2 <= t:
        i += 1
    return i, t - i * (i + 1) // 2
