"""Lower triangles of sums of products of packed panels: what syrk, gram and layered gram share."""

import functools
from typing import NamedTuple

import numpy as np
from numba import types

from .jit import entry_address, kernel
from .simd import SHORT, address, call_micro, lanes, micro_kernel, tile_rows, tile_width

__all__ = ["KC", "Panels", "Place", "add_complex", "add_lower", "panels_of", "triangle_corner"]

KC = 256  # packed rows per block sum, which is then added in double; part of the numbers


class Panels(NamedTuple):
    """Where packed columns lie: column j at j // width * stride + j % width, rows `ld` apart."""

    stride: int
    ld: int
    width: int
    rows: int  # of a register tile
    columns: int  # of a register tile
    lanes: int
    add: int  # address of the micro-kernel c += ...
    subtract: int  # and c -= ...; 0 where it is not needed


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


def add_double(shape, c, ldc, a, b, ld, steps):
    _add_double(shape, c, ldc, a, b, ld, steps)


def add_single(shape, c, ldc, a, b, ld, steps):
    _add_single(shape, c, ldc, a, b, ld, steps)


def subtract_double(shape, c, ldc, a, b, ld, steps):
    _subtract_double(shape, c, ldc, a, b, ld, steps)


def subtract_single(shape, c, ldc, a, b, ld, steps):
    _subtract_single(shape, c, ldc, a, b, ld, steps)


@functools.cache
def micro_address(func):
    """Address of a micro-kernel: compiled once, called by address from everywhere."""
    return entry_address(func, 7)


def panels_of(dtype, depth, *, order=None, subtract=False):
    """Panels as wide as a register tile; given an order, one panel that holds all columns."""
    double = np.dtype(dtype).itemsize == 8
    rows, columns, vector = tile_rows(), tile_width(dtype), lanes(dtype)
    width = columns
    if order is not None:
        width = max(-(-order // vector) * vector, -(-order // rows) * rows)
    add = micro_address(add_double if double else add_single)
    minus = micro_address(subtract_double if double else subtract_single) if subtract else 0
    return Panels(width * depth, width, width, rows, columns, vector, add, minus)


@kernel
def _add_scratch(c, place, i, j, rows, columns, scratch, ld):
    """Add what is on and below the diagonal of the tile with corner (i, j)."""
    for r in range(rows):
        at = place.start + (i + r) * place.ld + j * place.step
        count = min(columns, i + r - j + 1)
        if place.step == 1:
            for s in range(count):
                c[at + s] += scratch[r * ld + s]
        else:
            for s in range(count):
                c[at + s * place.step] += scratch[r * ld + s]


@kernel
def add_lower(
    c, place, order, rows, columns, micro, left, l0, right, r0, ld, steps, panels, scratch
):
    # c              INOUT flat double, laid out as `place` says
    # rows, columns  IN (first, last) of the block of c; rows start where a panel does
    # micro          IN address of the micro-kernel: add, or subtract
    # left, right    IN flat, panels from l0 and r0; summed rows ld apart, `steps` (even) of them
    # scratch        room for one tile, double
    """c[i, j] += sum_k left[k, i] right[k, j] in the block; for j <= i, unless whole is 2."""
    across, full = panels.columns, place.whole == 2
    for j in range(columns[0], columns[1] if full else min(columns[1], rows[1]), across):
        b = r0 + j // panels.width * panels.stride + j % panels.width
        i = rows[0] if full else max(rows[0], j)
        while i < rows[1]:
            short = rows[1] - i <= panels.rows // 2
            count = SHORT if short else panels.rows
            a = l0 + i // panels.width * panels.stride + i % panels.width
            last = columns[1] if full else min(i + count, order)
            vectors = min(3, (last - 1 - j) // panels.lanes + 1)
            shape = vectors + 4 if short else vectors
            x, y = address(left, a), address(right, b)
            if place.whole or (place.step == 1 and i + count <= order and j + across - 1 <= i):
                at = address(c, place.start + i * place.ld + j)
                call_micro(micro, shape, at, place.ld, x, y, ld, steps)
            else:
                scratch[:] = 0
                call_micro(micro, shape, address(scratch, 0), across, x, y, ld, steps)
                inside = min(count, order - i)
                _add_scratch(c, place, i, j, inside, vectors * panels.lanes, scratch, across)
            i += count


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
def triangle_corner(t):
    """Row and column of the t-th tile of a lower triangle, counted along the rows."""
    i = np.int64((np.sqrt(8.0 * t + 1.0) - 1.0) / 2.0)
    while i * (i + 1) // 2 > t:
        i -= 1
    while (i + 1) * (i + 2) // 2 <= t:
        i += 1
    return i, t - i * (i + 1) // 2
