"""Blocked right-looking Cholesky on the device, row-major lower, in place: A = L L'.

Columns are eliminated `side` at a time: one warp factors the diagonal block, the rows below are
substituted, a `panel` of columns is kept up to date as it goes and updates the rest at its end. All
launches are queued at once; the status stays on the device and later kernels return at once where
it is set.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from . import compat, memory, rank_k, squares
from .compat import cuda

__all__ = ["TILE", "Tile", "cholesky"]


class Tile(NamedTuple):
    """How the matrix is cut."""

    side: int = 32  # columns eliminated at once
    panel: int = 128  # columns whose products update the rest at once
    rows: int = 64  # rows per thread block of a substitution
    square: int = 64  # order of a block of an update
    micro: int = 4  # order of a thread's part of it
    depth: int = 16  # terms in shared memory at a time


TILE = Tile(4, 8, 4, 4, 2, 3) if compat.SIMULATED else Tile()


@functools.cache
def _kernels(dtype, tile):
    """(diagonal, below, update) for an element type."""
    scalar = getattr(compat.types, dtype.name)
    side, rows, pitch = tile.side, tile.rows, tile.side + 1
    square, micro, depth, wide = tile.square, tile.micro, tile.depth, tile.square + 1
    across = square // micro
    threads, zero, infinity = across * across, dtype.type(0), math.inf

    @cuda.jit
    def diagonal(a, info, k):
        """The block at k, by one warp: lane i computes row i, a column after the other."""
        s = cuda.shared.array((side, pitch), scalar)
        i = cuda.threadIdx.x
        m = min(side, a.shape[0] - k)
        if info[0] != 0:
            return
        for r in range(m):
            if i <= r:
                s[r, i] = a[k + r, k + i]
        cuda.syncthreads()
        for j in range(m):
            if j <= i < m:
                t = s[i, j]
                for l in range(j):
                    t -= s[i, l] * s[j, l]
                s[i, j] = t
            cuda.syncthreads()
            pivot = s[j, j]
            if not (pivot > zero and pivot < infinity):
                if i == 0:
                    info[0] = k + j + 1
                return
            root = math.sqrt(pivot)
            if j < i < m:
                s[i, j] /= root
            cuda.syncthreads()
            if i == j:
                s[j, j] = root  # which the lane itself stores
        for r in range(m):
            if i <= r:
                a[k + r, k + i] = s[r, i]

    @cuda.jit
    def below(a, info, k):
        """Rows under the block at k, times its inverse from the right; a thread per row."""
        l = cuda.shared.array((side, pitch), scalar)
        x = cuda.shared.array((rows, pitch), scalar)
        t = cuda.threadIdx.x
        first = k + side + cuda.blockIdx.x * rows
        count = min(rows, a.shape[0] - first)
        if info[0] != 0:
            return
        for e in range(t, side * side, rows):
            if e % side <= e // side:
                l[e // side, e % side] = a[k + e // side, k + e % side]
        for e in range(t, count * side, rows):
            x[e // side, e % side] = a[first + e // side, k + e % side]
        cuda.syncthreads()
        if t < count:
            for j in range(side):
                total = x[t, j]
                for i in range(j):
                    total -= x[t, i] * l[j, i]
                x[t, j] = total / l[j, j]
        cuda.syncthreads()
        for e in range(t, count * side, rows):
            a[first + e // side, k + e % side] = x[e // side, e % side]

    @cuda.jit
    def update(a, info, k, end, start, stop):
        """Rows from `start`, columns start..stop: lower a -= a[:, k:end] a[:, k:end]'."""
        left = cuda.shared.array((depth, wide), scalar)
        right = cuda.shared.array((depth, wide), scalar)
        sums = cuda.local.array((micro, micro), scalar)
        t, n = cuda.threadIdx.x, a.shape[0]
        row, column = start + cuda.blockIdx.y * square, start + cuda.blockIdx.x * square
        if info[0] != 0 or row + square <= column:
            return
        y, x = t // across, t % across
        for i in range(micro):
            for j in range(micro):
                sums[i, j] = zero
        for first in range(k, end, depth):
            for e in range(t, square * depth, threads):
                r, c = e // depth, e % depth
                inside = first + c < end
                left[c, r] = a[row + r, first + c] if inside and row + r < n else zero
                right[c, r] = a[column + r, first + c] if inside and column + r < n else zero
            cuda.syncthreads()
            for c in range(depth):
                for i in range(micro):
                    for j in range(micro):
                        sums[i, j] += left[c, y + i * across] * right[c, x + j * across]
            cuda.syncthreads()
        for i in range(micro):
            for j in range(micro):
                r, c = row + y + i * across, column + x + j * across
                if r < n and c < stop and c <= r:
                    a[r, c] -= sums[i, j]

    return diagonal, below, update


def cholesky(l, a=None, damping=0.0, *, tile=TILE):
    # l  INOUT (n, n) C order; the factor out; the upper triangle is left alone
    # a  IN READ-ONLY (n, n) the matrix, its lower triangle; None: l
    """L L' = a + damping I; info (1,) int32 on the device: 0, or the order of the failing pivot."""
    n, info = l.shape[0], memory.zeros((1,), np.int32)
    if n == 0:
        return info
    if a is not None or damping != 0:
        squares.take_lower(l, l if a is None else a, l.dtype.type(damping))
    diagonal, below, update = _kernels(np.dtype(l.dtype), tile)
    threads = (tile.square // tile.micro) ** 2

    def subtract(k, end, stop):
        grid = -(-(stop - end) // tile.square), -(-(n - end) // tile.square)
        compat.launch(update, grid, threads, l, info, k, end, end, stop)

    for first in range(0, n, tile.panel):
        last = min(first + tile.panel, n)
        for k in range(first, last, tile.side):
            end = min(k + tile.side, n)
            compat.launch(diagonal, 1, tile.side, l, info, k)
            if end < n:
                blocks = -(-(n - end) // tile.rows)
                compat.launch(below, blocks, tile.rows, l, info, k)
            if end < last:
                subtract(k, end, last)
        if last < n:
            flat, corner = l.reshape(n * n), last * n + last
            rank_k.update(flat, corner, n, flat, last * n + first, n, n - last, last - first)
    return info
