"""Substitution with a lower triangle on the device; right-hand sides are rows.

Blocks of `side` unknowns, a launch each: what is left of the right-hand sides loses the products
with the block that the launch before has solved, and the next block is solved by the thread block
that owns it.
"""

import functools
from typing import NamedTuple

import numpy as np

from . import compat
from .compat import cuda
from .sums import dots
from .vectors import units

__all__ = ["TILE", "Tile", "inverse_diagonal", "solve_lower", "solve_lower_adjoint"]

UNITS_BYTES = 64 << 20  # columns of an inverse at a time


class Tile(NamedTuple):
    """Unknowns per block, and right-hand sides per thread block."""

    side: int = 64
    rows: int = 4


TILE = Tile(4, 2) if compat.SIMULATED else Tile()


@functools.cache
def _step(dtype, tile, adjoint):
    """One block of unknowns of x <- L^-1 x, or of x <- L^-T x from the end."""
    scalar, zero = getattr(compat.types, dtype.name), dtype.type(0)
    side, rows, pitch, threads = tile.side, tile.rows, tile.side + 1, tile.side * tile.rows

    @cuda.jit
    def step(l, x, block, start):
        """Blocks from `block` on (adjoint: down to 0); `start` is the first that was solved."""
        a = cuda.shared.array((side, pitch), scalar)
        v = cuda.shared.array((rows, side), scalar)
        i, g = cuda.threadIdx.x, cuda.threadIdx.y
        mine = block - cuda.blockIdx.y if adjoint else block + cuda.blockIdx.y
        n, right = l.shape[0], cuda.blockIdx.x * rows + g
        first, count = mine * side, min(side, n - mine * side)
        solved = block + 1 if adjoint else block - 1
        active = i < count and right < x.shape[0]
        value = x[right, first + i] if active else zero
        if block != start:
            base, width = solved * side, min(side, n - solved * side)
            for e in range(g * side + i, side * side, threads):
                r, c = e // side, e % side
                if adjoint:
                    a[c, r] = l[base + r, first + c] if r < width and c < count else zero
                else:
                    a[r, c] = l[first + r, base + c] if r < count and c < width else zero
            v[g, i] = x[right, base + i] if i < width and right < x.shape[0] else zero
            cuda.syncthreads()
            total = zero
            for j in range(width):
                total += a[i, j] * v[g, j]
            value -= total
            cuda.syncthreads()
        if mine == block:
            for e in range(g * side + i, side * side, threads):
                r, c = e // side, e % side
                if c <= r < count:
                    if adjoint:
                        a[c, r] = l[first + r, first + c]
                    else:
                        a[r, c] = l[first + r, first + c]
            cuda.syncthreads()
            for s in range(count):
                j = count - 1 - s if adjoint else s
                if i == j:
                    value /= a[j, j]
                    v[g, j] = value
                cuda.syncthreads()
                if (i < j) if adjoint else (j < i < count):
                    value -= a[i, j] * v[g, j]
        if active:
            x[right, first + i] = value

    return step


def _substitute(l, x, start, tile, adjoint):
    n, k = l.shape[0], x.shape[0]
    if n == 0 or k == 0:
        return
    step = _step(np.dtype(l.dtype), tile, adjoint)
    blocks = -(-n // tile.side)
    first = blocks - 1 if adjoint else start // tile.side
    for done in range(blocks - (0 if adjoint else first)):
        block = first - done if adjoint else first + done
        left = block + 1 if adjoint else blocks - block
        grid = -(-k // tile.rows), left  # only x goes beyond 65535
        compat.launch(step, grid, (tile.side, tile.rows), l, x, block, first)


def solve_lower(l, x, start=0, *, tile=TILE):
    # l  IN READ-ONLY (n, n) C order, lower triangle
    # x  INOUT (k, n) rows are right-hand sides; entries before `start` are zero
    """x <- L^-1 x."""
    _substitute(l, x, start, tile, False)


def solve_lower_adjoint(l, x, *, tile=TILE):
    # l  IN READ-ONLY (n, n) C order, lower triangle
    # x  INOUT (k, n) rows are right-hand sides
    """x <- L^-T x."""
    _substitute(l, x, 0, tile, True)


def inverse_diagonal(y, l, *, tile=TILE):
    # y  OUT (n,) double
    # l  IN READ-ONLY (n, n) C order, lower triangle
    """y[j] = sum_i (L^-1)[i, j]^2: the diagonal of (L L')^-1, from columns of the identity."""
    n = l.shape[0]
    if n == 0:
        return
    step = max(UNITS_BYTES // (n * np.dtype(l.dtype).itemsize), 1)
    for first in range(0, n, step):
        x = compat.empty((min(step, n - first), n), np.dtype(l.dtype))
        units(x, first)
        solve_lower(l, x, first, tile=tile)
        dots(y[first : first + x.shape[0]], x, x)
