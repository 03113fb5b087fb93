"""Blocked left-looking Cholesky, row-major lower, in place: A = L L'.

Rows are worked on in transposed panels (see elimination.py). Task (i, k) owns block (i, k) of L: it
packs it, subtracts the products of blocks i and k of earlier columns, eliminates with the diagonal
block and writes it back. Tasks go down the columns; the next diagonal block comes second, so that
nobody waits for it.
"""

from typing import NamedTuple

import numpy as np

from . import threads
from .elimination import (
    Tile,
    publish,
    run_blocks,
    solve_strip,
    tile_of,
    wait_for,
    workspace,
)
from .jit import kernel
from .parallel import for_each
from .simd import call_entry
from .threads import driver
from .triangles import FORWARD, UPDATE

__all__ = ["block_order", "cholesky"]

DEPTH = 128  # summed entries per block sum; part of the numbers
WHOLE = 240  # packed orders up to this are one block
ALONE = 400  # packed orders up to which waking another thread costs more than it saves
# Packed orders up to, order of the blocks at least: small enough for all threads to have some,
# large enough for what is read of other blocks, n^3 / side numbers, to come in time.
SIDES = ((1500, 48), (3000, 96), (1 << 62, 192))


def block_order(order, width, parts):
    """Order of the blocks that a matrix is cut into, a multiple of the panels' width."""
    if order * parts <= WHOLE:
        return -(-order // width) * width
    side = next(side for limit, side in SIDES if order * parts <= limit)
    return -(-side // (width * parts)) * width


class Matrix(NamedTuple):
    """Where things are: addresses, and bytes from one panel to the next."""

    a: int  # where the factor goes
    source: int  # what is factored, with the double at
    damping: int  # added to its diagonal; or 0
    n: int
    right: int  # L' in panels
    stride: int
    left: int  # the same, complex numbers as 2 x 2 blocks
    lstride: int
    order: int  # of a block
    blocks: int
    scratch: int
    tile: Tile


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
def _left(m, row, e):
    """Address of the left operand: row `row`, from column e on."""
    wide = m.tile.parts * m.tile.width
    return m.left + e // wide * m.lstride + (row * wide + e % wide) * m.tile.bytes


@kernel
def _right(m, q, row):
    """Address of a row of panel q."""
    return m.right + q * m.stride + row * m.tile.width * m.tile.bytes


@kernel
def _strip(m, mode, q, e, count, first, steps, ahead=0):
    """Rows e.. of panel q, less what `steps` rows from `first` give; `ahead` is fetched."""
    wide = m.tile.parts * m.tile.width
    b = _right(m, q, first)
    a, ahead = _left(m, first, e), ahead or b
    solve_strip(mode, _right(m, q, e), count, a, wide, b, steps, ahead, m.tile)


@kernel
def _ahead(m, q, k, j, first, steps, done):
    """What comes next: rows of panel q and of the j-th left panel of block k, from byte `done`."""
    tile = m.tile
    right, left = steps * tile.width * tile.bytes, steps * tile.parts * tile.width * tile.bytes
    if done < right:
        return _right(m, q, first) + done
    if done < right + left:
        e = (k * m.order + j * tile.width) * tile.parts
        return _left(m, first, e) + done - right
    return 0


@kernel
def _embed(m, q, e, rows):
    """Rows of panel q, for use as a left operand."""
    if m.tile.parts == 2:
        to = _left(m, e, q * 2 * m.tile.width)
        call_entry(m.tile.embed, (to, _right(m, q, e), rows, m.tile.width, -1))


@kernel
def _subtract(m, i, k, e0, e1, inside, counters):
    """Block (i, k) less what earlier columns of blocks i and k give."""
    tile, whole = m.tile, m.order * m.tile.parts
    for first in range(0, e0, DEPTH):
        steps = min(DEPTH, e0 - first)
        ready = (first + steps - 1) // whole + 1
        wait_for(counters, i, ready)
        wait_for(counters, k, ready)
        following = min(DEPTH, e0 - first - steps)
        for j in range(0, inside, tile.width):
            q, count = (i * m.order + j) // tile.width, min(tile.width, inside - j)
            last = min(e1, e0 + (j + count) * tile.parts) if i == k else e1
            for e in range(e0, last, tile.rows):
                done = (e - e0) // tile.rows * (steps // 2)
                ahead = _ahead(m, q, k, j // tile.width, first + steps, following, done * 64)
                _strip(m, UPDATE, q, e, count, first, steps, ahead)


@kernel
def _factor(m, thread, e0, e1, inside, counters):
    """Factor the diagonal block whose packed rows are e0..e1; returns the failing order or 0."""
    tile, info = m.tile, 0
    wide, failing = tile.parts * tile.width, counters.size - 2
    place = m.scratch + thread * (tile.rows + 1) * tile.rows * tile.bytes
    q0 = e0 // wide
    for e in range(e0, e1, tile.rows):
        q = e // wide
        for p in range(q, q0 + (inside + tile.width - 1) // tile.width):
            count = min(tile.width, inside - (p - q0) * tile.width)
            if p > q:
                _strip(m, FORWARD, p, e, count, e0, e - e0)
                _embed(m, p, e, tile.rows)
                continue
            _strip(m, UPDATE, p, e, count, e0, e - e0)
            _embed(m, p, e, tile.rows)
            step = (m.n + 1) * tile.parts
            known = min(tile.rows, m.n * tile.parts - e)
            args = (
                counters.ctypes.data + failing * 8,
                m.a + e // tile.parts * step * tile.bytes,
                step,
                _right(m, p, e),
                _left(m, e, e),
                wide,
                place,
                tile.width,
                e // tile.parts % tile.width,
                known,
                tile.solve,
                (count + tile.lanes - 1) // tile.lanes,
                tile.rows,
                tile.parts,
            )
            call_entry(tile.pivot, args)
            _embed(m, p, e, tile.rows)
            if info == 0 and counters[failing] < tile.rows:
                info = (e + counters[failing]) // tile.parts + 1
    return info


@kernel
def _eliminate(m, i, e0, e1, inside):
    """Block (i, k) times the inverse adjoint of the diagonal block k."""
    for j in range(0, inside, m.tile.width):
        q, count = (i * m.order + j) // m.tile.width, min(m.tile.width, inside - j)
        for e in range(e0, e1, m.tile.rows):
            _strip(m, FORWARD, q, e, count, e0, e - e0)
        _embed(m, q, e0, e1 - e0)


@kernel
def _block(t, thread, m, counters):
    """Task: one block of L; the last counter takes the failing order."""
    i, k = _position(t, m.blocks)
    tile, failed = m.tile, counters.size - 1
    depth = min(m.order, m.n - k * m.order) * tile.parts
    inside = min(m.order, m.n - i * m.order)
    e0 = k * m.order * tile.parts
    e1 = e0 + (depth + tile.rows - 1) // tile.rows * tile.rows
    wait_for(counters, i, k)
    if counters[failed] == 0:
        lda, stride = m.n * tile.parts, m.stride // tile.bytes
        corner = (i * m.order * lda + e0) * tile.bytes
        place = _right(m, i * m.order // tile.width, e0)
        source = m.source + corner
        call_entry(tile.pack, (place, stride, source, lda, inside, depth, e1 - e0, tile.width))
        if i == k and m.damping:
            call_entry(tile.diagonal, (place, stride, inside, tile.width, tile.parts, m.damping))
        _subtract(m, i, k, e0, e1, inside, counters)
        if i == k:
            counters[failed] = _factor(m, thread, e0, e1, inside, counters)
        else:
            wait_for(counters, k, k + 1)
            if counters[failed] == 0:
                _eliminate(m, i, e0, e1, inside)
        below, shape = tile.parts if i == k else 0, (tile.width, tile.lanes)
        to = m.a + corner
        call_entry(tile.unpack, (to, lda, place, stride, inside, depth, below, *shape))
    publish(counters, i, k + 1)


@driver
def _blocks(launch, m, counters):
    for_each(launch, _block, m.blocks * (m.blocks + 1) // 2, (m, counters))


def cholesky(l, a=None, damping=0.0):
    # l  INOUT (n, n) C order, float or complex; lower triangle, upper not read or written
    # a  IN READ-ONLY (n, n) C order, of l's dtype; its lower triangle is factored in place of l's
    """Overwrite the lower triangle of l by L with L L' = l (or a) + damping I.

    info = 0 or the failing 1-based order; after a failure the rows and columns from the failing
    one on hold unfinished work.
    """
    n = len(l)
    if n == 0:
        return 0
    tile = tile_of(l.dtype)
    order, panels = block_order(n, tile.width, tile.parts), -(-n // tile.width)
    blocks = -(-n // order)
    depth = -(-n * tile.parts // tile.rows) * tile.rows
    stride = depth * tile.width * tile.bytes
    again = 2 if tile.parts == 2 else 0  # complex panels have a second form
    scratch = threads.max_threads() * tile.rows * (tile.rows + 1) * tile.bytes
    held, right, left, own = workspace(panels * stride, panels * stride * again, scratch)
    left, lstride = (left, stride * again) if again else (right, stride)
    counters = np.zeros(8 * blocks + 2, np.int64)
    added = np.array([damping])
    start, shift = l.ctypes.data, added.ctypes.data if damping else 0
    source = start if a is None else a.ctypes.data
    where = (start, source, shift, n, right, stride, left, lstride)
    matrix = Matrix(*where, order, blocks, own, tile)
    run_blocks(_blocks, n * tile.parts > ALONE, matrix, counters)
    del held, added  # nothing is read from here on
    return int(counters[-1])
