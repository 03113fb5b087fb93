"""Blocked left-looking Cholesky, row-major lower, in place: A = L L'.

Rows are worked on in transposed panels (see elimination.py). Task (i, k) owns block (i, k) of L: it
packs it, subtracts the products of blocks i and k of earlier columns, eliminates with the diagonal
block and writes it back. Tasks go down the columns; the next diagonal block comes second, so that
nobody waits for it.
"""

import numba
import numpy as np

from . import threads
from .elimination import (
    FORWARD,
    UPDATE,
    embed,
    factor_tile,
    from_panels,
    publish,
    solve_strip,
    tile_of,
    to_panels,
    wait_for,
)
from .jit import driver, kernel
from .memory import aligned
from .parallel import for_each

__all__ = ["block_order", "cholesky"]

DEPTH = 256  # summed entries per block sum; part of the numbers
WHOLE = 240  # packed orders up to this are one block
SIDES = ((700, 96), (1500, 144), (1 << 62, 192))  # packed orders up to, order of the blocks


def block_order(order, width, parts):
    """Order of the blocks that a matrix is cut into, a multiple of the panels' width."""
    if order * parts <= WHOLE:
        return -(-max(order, 1) // width) * width
    side = next(side for limit, side in SIDES if order * parts <= limit)
    return max(side // (width * parts), 1) * width


@kernel
def _position(t, blocks):
    """Block row and column of task t."""
    if t == 0:
        return 0, 0
    t, k = t - 1, 0
    while t >= blocks - k:
        t -= blocks - k
        k += 1
    return (k + 1, k + 1) if t == 1 else (k + 1 if t == 0 else k + t, k)


@kernel
def _subtract(right, left, strides, e0, e1, i, inside, k, tile, counters, nb):
    """Rows e0..e1 of block row i minus what earlier columns of blocks i and k give."""
    rstride, lstride = strides
    wide = tile.parts * tile.width
    for m in range(0, e0, DEPTH):
        steps = min(DEPTH, e0 - m)
        ready = (m + steps - 1) // (nb * tile.parts) + 1
        wait_for(counters, i, ready)
        wait_for(counters, k, ready)
        for first in range(0, inside, tile.width):
            panel = (i * nb + first) // tile.width * rstride
            count = min(tile.width, inside - first)
            last = min(e1, e0 + (first + count) * tile.parts) if i == k else e1
            for e in range(e0, last, tile.rows):
                a = e // wide * lstride + m * wide + e % wide
                c, b = panel + e * tile.width, panel + m * tile.width
                solve_strip(UPDATE, right, c, count, left, a, wide, b, steps, tile)


@kernel
def _factor_strip(a, n, right, left, panel, e0, e, count, strides, tile, scratch):
    """Factor the diagonal tile at e; its panel is done up to it. Returns the failing order or 0."""
    rows, wide, parts = tile.rows, tile.parts * tile.width, tile.parts
    column = e // parts % tile.width
    l0 = e // wide * strides[1]
    at, above = panel + e * tile.width, panel + e0 * tile.width
    start = l0 + e0 * wide + e % wide
    solve_strip(UPDATE, right, at, count, left, start, wide, above, e - e0, tile)
    if parts == 2:
        embed(left, l0 + e * wide, right, at, rows, tile.width, -1)
    for r in range(rows):
        for s in range(rows):
            scratch[r * rows + s] = left[l0 + (e + r) * wide + e % wide + s]
        if e + r >= n * parts:
            scratch[r * rows + r] = 1
    failing = factor_tile(scratch)
    zero = np.int64(0)
    solve_strip(FORWARD, right, at, count, scratch, zero, rows, above, zero, tile)
    for s in range(0, rows, parts):
        for r in range(rows):
            here = scratch[r * rows + s] if r <= s else right.dtype.type(0)
            right[at + r * tile.width + column + s // parts] = here
        order = (e + s) // parts
        if order < n:
            a[order * (n + 1) * parts] = scratch[rows * rows + s]
            if parts == 2:
                a[order * (n + 1) * parts + 1] = 0
    if parts == 2:
        embed(left, l0 + e * wide, right, at, rows, tile.width, -1)
    return (e + failing) // parts + 1 if failing < rows else 0


@kernel
def _factor(a, n, right, left, strides, e0, e1, inside, tile, scratch):
    """Factor the diagonal block whose packed rows are e0..e1; the failing order or 0."""
    info, wide, width = 0, tile.parts * tile.width, tile.width
    base = e0 // wide
    for e in range(e0, e1, tile.rows):
        q = e // wide
        for first in range((q - base) * width, inside, width):
            panel = (base + first // width) * strides[0]
            count = min(width, inside - first)
            if base + first // width == q:
                failing = _factor_strip(
                    a, n, right, left, panel, e0, e, count, strides, tile, scratch
                )
                info = failing if info == 0 else info
                continue
            l0 = q * strides[1] + e0 * wide + e % wide
            at, above = panel + e * width, panel + e0 * width
            solve_strip(FORWARD, right, at, count, left, l0, wide, above, e - e0, tile)
            if tile.parts == 2:
                to = (base + first // width) * strides[1] + e * wide
                embed(left, to, right, at, tile.rows, width, -1)
    return info


@kernel
def _eliminate(right, left, strides, e0, e1, i, k, inside, nb, tile):
    """Block (i, k) times the inverse adjoint of the diagonal block k."""
    wide = tile.parts * tile.width
    for first in range(0, inside, tile.width):
        q = (i * nb + first) // tile.width
        panel, count = q * strides[0], min(tile.width, inside - first)
        b = panel + e0 * tile.width
        for e in range(e0, e1, tile.rows):
            l0 = e // wide * strides[1] + e0 * wide + e % wide
            at = panel + e * tile.width
            solve_strip(FORWARD, right, at, count, left, l0, wide, b, e - e0, tile)
        if tile.parts == 2:
            embed(left, q * strides[1] + e0 * wide, right, b, e1 - e0, tile.width, -1)


@kernel
def _block(t, a, n, right, left, strides, nb, blocks, tile, counters, own):
    """Task: one block of L, and the failing order, if it is on the diagonal, in the last counter."""
    i, k = _position(t, blocks)
    parts = tile.parts
    columns, inside = min(nb, n - k * nb), min(nb, n - i * nb)
    e0, depth = k * nb * parts, columns * parts
    e1 = e0 + (depth + tile.rows - 1) // tile.rows * tile.rows
    failed = counters.size - 1
    wait_for(counters, i, k)
    if counters[failed] == 0:
        corner, lda = (i * nb * n + k * nb) * parts, n * parts
        place = i * nb // tile.width * strides[0] + e0 * tile.width
        to_panels(right, place, strides[0], a, corner, lda, inside, depth, e1 - e0, tile)
        if i == k and parts == 2:
            for j in range(inside):
                row = place + j // tile.width * strides[0] + j % tile.width
                right[row + (2 * j + 1) * tile.width] = 0
        _subtract(right, left, strides, e0, e1, i, inside, k, tile, counters, nb)
        if i == k:
            scratch = own[numba.get_thread_id()]
            info = _factor(a, n, right, left, strides, e0, e1, inside, tile, scratch)
            if info > 0:
                counters[failed] = info
        else:
            wait_for(counters, k, k + 1)
            if counters[failed] == 0:
                _eliminate(right, left, strides, e0, e1, i, k, inside, nb, tile)
        from_panels(a, corner, lda, inside, depth, right, place, strides[0], tile, i == k)
    publish(counters, i, k + 1)


@driver
def _blocks(launch, a, n, right, left, strides, nb, blocks, tile, counters, own):
    tasks = blocks * (blocks + 1) // 2
    args = (a, n, right, left, strides, nb, blocks, tile, counters, own)
    for_each(launch, _block, tasks, args)


def cholesky(a):
    # a  INOUT (n, n) C order, float or complex; lower triangle, upper not read or written
    """Overwrite the lower triangle of a by L with L L' = a; info = 0 or the failing 1-based order.

    After a failure the rows and columns from the failing one on hold unfinished work.
    """
    n = len(a)
    if n == 0:
        return 0
    parts = 2 if a.dtype.kind == "c" else 1
    flat = a.view(np.empty(0, a.dtype).real.dtype).reshape(-1)
    tile = tile_of(flat.dtype, parts)
    nb = block_order(n, tile.width, parts)
    blocks, panels = -(-n // nb), -(-n // tile.width)
    depth = -(-n * parts // tile.rows) * tile.rows
    strides = depth * tile.width, depth * tile.width * parts
    right = aligned((panels * strides[0],), flat.dtype)
    left = aligned((panels * strides[1],), flat.dtype) if parts == 2 else right
    own = aligned((threads.max_threads(), tile.rows * (tile.rows + 1)), flat.dtype)
    counters = np.zeros(8 * blocks + 1, np.int64)
    _blocks(flat, n, right, left, strides, nb, blocks, tile, counters, own)
    return int(counters[-1])
