"""Blocks of a block-diagonal Fisher on the device: sums of products, Cholesky and solves of many.

A lane per row of a block; a warp takes a block, or a thread block does. Beyond what shared memory
holds, blocks are factored one after the other.
"""

import functools
import math

import numpy as np

from . import compat, memory
from .batched import SQUARE_BYTES, TILE
from .cholesky import cholesky
from .compat import cuda
from .elimination import elimination, fetch_lower, substitution
from .triangular import solve_lower, solve_lower_adjoint

__all__ = ["batched_syrk", "block_cholesky", "block_solve", "block_syrk"]

# Samples summed in the dtype of the scores before they are added in double.
TERMS = 4 if compat.SIMULATED else 256
SIDE = 2 if compat.SIMULATED else 16  # of a tile of a block, a thread per element


@functools.cache
def _sums(dtype, side):
    scalar, zero = getattr(compat.types, dtype.name), dtype.type(0)

    @compat.kernel(side * side)
    def add(c, a, n, down, start, over, scale, along):
        """Tile (i, j) of block b, `side` samples at a time through shared memory: of rows b down..
        b down + n of a, columns from start + b over; scale from b along."""
        left = cuda.shared.array((side, side), scalar)
        right = cuda.shared.array((side, side), scalar)
        x, y, d = cuda.threadIdx.x, cuda.threadIdx.y, c.shape[1]
        b, i0, j0 = cuda.blockIdx.x, cuda.blockIdx.y * side, cuda.blockIdx.z * side
        if j0 > i0:
            return
        row, first, total = b * down, start + b * over, 0.0
        for lo in range(0, n, TERMS):
            part = zero
            for k in range(lo, min(lo + TERMS, n), side):
                inside = k + y < min(lo + TERMS, n)
                u = a[row + k + y, first + i0 + x] if inside and i0 + x < d else zero
                v = a[row + k + y, first + j0 + x] if inside and j0 + x < d else zero
                if inside and scale.size > 0:
                    u *= scale[b * along + k + y]
                    v *= scale[b * along + k + y]
                left[y, x], right[y, x] = u, v
                cuda.syncthreads()
                for t in range(side):
                    part += left[t, y] * right[t, x]
                cuda.syncthreads()
            total += part
        i, j = i0 + y, j0 + x
        if i < d and j <= i:
            value = c[b, i, j] + total
            c[b, i, j] = value
            c[b, j, i] = value

    return add


def block_syrk(c, a, start, scale):
    # c      INOUT (B, d, d) double
    # a      IN READ-ONLY (n, p) C order; the blocks are its columns start.. start + B d
    # scale  IN (n,) square roots of the weights, or (0,)
    """c[b] += a_b' diag(scale^2) a_b, both triangles, symmetric to the bit."""
    if c.size and a.shape[0]:
        _add(c, a, a.shape[0], 0, start, c.shape[1], scale, 0)


def batched_syrk(c, a, scale):
    # c      INOUT (n, p, p) double
    # a      IN READ-ONLY (n, S, p) C order
    # scale  IN (n, S), (S,) or (0,) square roots of the weights
    """c[t] += a[t]' diag(scale_t^2) a[t], both triangles, symmetric to the bit."""
    n, count, p = a.shape
    if c.size and count:
        along = count if scale.ndim == 2 else 0
        _add(c, a.reshape(n * count, p), count, count, 0, 0, scale.reshape(scale.size), along)


def _add(c, a, *where):
    tiles = -(-c.shape[1] // SIDE)
    add = _sums(np.dtype(a.dtype), SIDE)
    compat.launch(add, (c.shape[0], tiles, tiles), (SIDE, SIDE), c, a, *where)


def _split(d, dtype):
    """(lanes, blocks per thread block, whether a warp takes one); lanes is 0 for large blocks."""
    if d <= TILE.lanes:
        return TILE.lanes, TILE.warps, True
    lanes = -(-d // TILE.lanes) * TILE.lanes
    fits = lanes * (lanes + 1) * dtype.itemsize <= SQUARE_BYTES
    return (lanes, 1, False) if fits else (0, 1, False)


@functools.cache
def _factor(dtype, lanes, systems, alone):
    scalar, pitch, nan = getattr(compat.types, dtype.name), lanes + 1, dtype.type(math.nan)
    fetch, barrier, eliminated = (
        fetch_lower(lanes),
        compat.barrier(alone),
        elimination(dtype, alone),
    )

    @compat.kernel(lanes * systems)
    def factor(c, info):
        s = cuda.shared.array((systems, lanes, pitch), scalar)
        i, w, d = cuda.threadIdx.x, cuda.threadIdx.y, c.shape[1]
        b = cuda.blockIdx.x * systems + w
        active = b < info.size
        if active:
            fetch(s, w, i, c[b], d)
        barrier()
        bad, mine = eliminated(s, w, i, d, active)
        if active and i < d:
            s[w, i, i] = mine  # the lane itself stores it
        if active:
            for r in range(d):
                for k in range(i, r + 1, lanes):
                    c[b, r, k] = s[w, r, k] if bad == 0 else nan
            if i == 0:
                info[b] = bad

    return factor


@cuda.jit
def _spoil(c, info, order, b):
    e = cuda.grid(1)
    d = c.shape[1]
    if e < d * d:
        if e == 0:
            info[b] = order[0]
        if order[0] != 0 and e % d <= e // d:
            c[b, e // d, e % d] = math.nan


def block_cholesky(c, info):
    # c     INOUT (B, d, d) C order; lower triangles in, factors out; upper ones left alone
    # info  OUT (B,) int32
    """c[b] = L L' in place; info[b] = 0 or the failing order, and NaN in that block."""
    blocks, d, _ = c.shape
    if c.size == 0:
        memory.fill(info, np.int32(0))
        return
    lanes, systems, alone = _split(d, np.dtype(c.dtype))
    if lanes:
        factor = _factor(np.dtype(c.dtype), lanes, systems, alone)
        compat.launch(factor, -(-blocks // systems), (lanes, systems), c, info)
        return
    for b in range(blocks):
        order = cholesky(c[b])
        compat.launch(_spoil, -(-d * d // 256), 256, c, info, order, b)


@functools.cache
def _substitute(dtype, lanes, systems, alone):
    scalar, zero, one = getattr(compat.types, dtype.name), dtype.type(0), dtype.type(1)
    pitch, fetch, substituted = lanes + 1, fetch_lower(lanes), substitution(alone)

    @compat.kernel(lanes * systems)
    def solve(l, x):
        """Block b for all right-hand sides: its factor stays in shared memory."""
        s = cuda.shared.array((systems, lanes, pitch), scalar)
        v = cuda.shared.array((systems, lanes), scalar)
        i, w, d = cuda.threadIdx.x, cuda.threadIdx.y, l.shape[1]
        b = cuda.blockIdx.x * systems + w
        active = b < l.shape[0]
        if active:
            fetch(s, w, i, l[b], d)  # the first barrier comes before others' elements are read
        mine = s[w, i, i] if active and i < d else one
        for right in range(x.shape[0]):
            value = x[right, b * d + i] if active and i < d else zero
            value = substituted(s, v, w, i, d, active, value, mine)
            if active and i < d:
                x[right, b * d + i] = value

    return solve


def block_solve(l, x):
    # l  IN READ-ONLY (B, d, d) C order, lower factors
    # x  INOUT (k, B d) C order, rows are right-hand sides
    """x <- (L L')^-1 x, block by block."""
    if l.size == 0 or x.size == 0:
        return
    blocks, d, _ = l.shape
    lanes, systems, alone = _split(d, np.dtype(l.dtype))
    if lanes:
        solve = _substitute(np.dtype(l.dtype), lanes, systems, alone)
        compat.launch(solve, -(-blocks // systems), (lanes, systems), l, x)
        return
    part = compat.empty((x.shape[0], d), np.dtype(x.dtype))
    for b in range(blocks):
        here = x[:, b * d : (b + 1) * d]
        memory.gather(part, here)
        solve_lower(l[b], part)
        solve_lower_adjoint(l[b], part)
        memory.gather(here, part)
