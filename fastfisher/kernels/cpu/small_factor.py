"""Factors of small matrices, upper triangles U of A = U'U, on one core: by compiled products and
passes over rows that other kernels have, too."""

import numpy as np

from .jit import kernel
from .products import Place, add_lower_ahead
from .rows import Rows, combine, dots, rows_at_once
from .simd import address
from .sums import PAD

__all__ = ["factor", "mirrored", "rows_of", "square", "substitute"]

BLOCK = 16  # rows between which those above are subtracted by products; even
SIDE = 16  # of blocks in which a triangle is mirrored: both stay in L1
LINE = 8  # doubles of a cache line


@kernel
def square(order):
    """Room for a matrix of this order: rows of whole vectors that do not meet in one set of L1,
    and whole vectors behind the last. What is beside the matrix is read, but never counts."""
    ld = (order + LINE - 1) // LINE * LINE
    ld += LINE if ld % (8 * LINE) == 0 else 0
    room = np.empty(order * ld + PAD)
    room[order * ld :] = 0
    A = room[: order * ld].reshape(order, ld)
    for i in range(order):
        A[i, order:] = 0
    return A


@kernel
def rows_of(A, code):
    """The rows of a square."""
    zero = np.int64(0)
    return Rows(address(A, zero), len(A), A.shape[1], zero, False, zero, 8, 8, code)


@kernel
def mirrored(A):
    """The upper triangle from the lower one."""
    order = len(A)
    for i0 in range(0, order, SIDE):
        for j0 in range(0, i0 + 1, SIDE):
            for i in range(i0, min(i0 + SIDE, order)):
                for j in range(j0, min(j0 + SIDE, i)):
                    A[j, i] = A[i, j]


@kernel
def _subtract(A, first, last, panels, products, ld):
    """Rows first..last of A, from the diagonal on, less the products of those above, which are made
    in room for whole tiles, in rows `ld` apart."""
    columns, zero, width, at = len(A) - first, np.int64(0), A.shape[1], address(A, first)
    place, none = Place(zero, ld, np.int64(1), np.int64(2)), (zero, zero)
    block = (zero, last - first), (zero, columns)
    products[:] = 0
    add_lower_ahead(
        products, place, columns, *block, panels.add, at, at, width, first, panels, products, none
    )
    for i in range(first, last):
        row, less = A[i, i:], products[(i - first) * ld + i - first :]
        for j in range(len(A) - i):
            row[j] -= less[j]


@kernel
def factor(A, rows, s, panels):
    """A = U'U in place, above the diagonal and on it; 0 or the failing order.

    `rows` are those of A, behind which there is room for whole vectors; s is scratch.
    """
    order, zero = len(A), np.int64(0)
    ld = panels.width + panels.columns
    products = np.empty((BLOCK + panels.rows) * ld if order > BLOCK else 0)
    for first in range(0, order, BLOCK):
        last = min(first + BLOCK, order)
        if first > 0:
            _subtract(A, np.int64(first), np.int64(last), panels, products, ld)
        for i in range(first, last):
            k = np.int64(first)
            for above in range(first, i):
                s[above] = -A[above, i]
            place = address(A, i * A.shape[1] + i)
            while k < i:
                some = rows_at_once(i - k)
                combine(place, rows, k, np.int64(i), address(s, k), order - i, some, zero)
                k += some
            pivot, top = A[i, i], A[i]
            if not (pivot > 0 and np.isfinite(pivot)):
                return i + 1
            root = np.sqrt(pivot)
            top[i] = root
            for j in range(i + 1, order):
                top[j] /= root
    return 0


@kernel
def substitute(U, rows, x, scratch):
    """x <- (U'U)^-1 x for a factor of these rows; scratch for one number."""
    order, zero, one = len(x), np.int64(0), np.int64(1)
    for k in range(order):
        x[k] /= U[k, k]
        value, row = x[k], U[k]
        for j in range(k + 1, order):
            x[j] -= value * row[j]
    for k in range(order - 1, -1, -1):
        after = np.int64(k + 1)
        dots(address(scratch, zero), rows, k, after, address(x, after), order - after, one, zero)
        x[k] = (x[k] - scratch[0]) / U[k, k]
