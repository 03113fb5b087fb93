"""Blocked left-looking Cholesky, row-major lower, in place: A = L L'.

Rows are worked on in transposed panels (see elimination.py). Task (i, k) owns block (i, k) of L: it
packs it, subtracts the products of blocks i and k of earlier columns, eliminates with the diagonal
block and writes it back. Tasks go down the columns; the next diagonal block comes second, so that
nobody waits for it.
"""

import functools
from typing import NamedTuple

import numpy as np

from . import threads
from .elimination import Tile, publish, run_blocks, tile_of, wait_for, workspace
from .jit import kernel
from .parallel import for_each
from .simd import call_entry
from .splitting import factor_side
from .threads import driver
from .triangles import FORWARD, UPDATE

__all__ = ["cholesky"]

DEPTH = 128  # summed entries per block sum; part of the numbers
ALONE = 400  # packed orders up to which waking another thread costs more than it saves


class Matrix(NamedTuple):
    """Where things are: addresses.

    Panels of L' lie block row after block row, those of the i-th (i + 1) units deep: its lower
    triangle alone, and what is beside it in diagonal blocks.
    """

    a: int  # where the factor goes
    source: int  # what is factored, with the double at
    damping: int  # added to its diagonal; or 0
    n: int
    right: int  # L' in panels
    left: int  # the same, complex numbers as 2 x 2 blocks
    unit: int  # bytes of a panel as deep as a block
    units: int  # of those on the left, in units of those on the right
    per: int  # panels of a block
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


class Row(NamedTuple):
    """Where the panels of a block of rows are, and bytes from one to the next."""

    right: int
    stride: int
    left: int
    lstride: int
    first: int  # packed rows before the block


@kernel
def _row(m, i):
    before, depth = i * (i + 1) // 2 * m.per * m.unit, (i + 1) * m.unit
    left = m.left + before * m.units
    return Row(m.right + before, depth, left, depth * m.units, i * m.order * m.tile.parts)


@kernel
def _right(m, row, q, e):
    """Address of packed row e of its q-th panel."""
    return row.right + q * row.stride + e * m.tile.width * m.tile.bytes


@kernel
def _left(m, row, first, e):
    """Address of the left operand: packed row `first`, from column e on, one of the block's."""
    wide, e = m.tile.parts * m.tile.width, e - row.first
    return row.left + e // wide * row.lstride + (first * wide + e % wide) * m.tile.bytes


@kernel
def _strip(m, mode, row, q, column, e, count, first, steps, ahead=0):
    """Rows e.. of panel q of `row`, less what `steps` rows from `first` give of it and of the
    panels of block `column`: one register tile, of `count` rows of the matrix.

    A cache line from `ahead` on is fetched for every two steps.
    """
    tile = m.tile
    wide, vectors = tile.parts * tile.width, (count + tile.lanes - 1) // tile.lanes
    a, b, c = _left(m, column, first, e), _right(m, row, q, first), _right(m, row, q, e)
    right = b, tile.width, steps, ahead or b
    call_entry(tile.solve, (vectors, mode, c, tile.width, a, wide, *right))


@kernel
def _ahead(m, row, q, column, first, steps, done):
    """What comes next: rows of panel q of `row` and of `column`, from byte `done`."""
    tile = m.tile
    right, left = steps * tile.width * tile.bytes, steps * tile.parts * tile.width * tile.bytes
    if done < right:
        return _right(m, row, q, first) + done
    if done < right + left:
        e = column.first + q * tile.width * tile.parts
        return _left(m, column, first, e) + done - right
    return 0


@kernel
def _embed(m, row, q, e, rows):
    """Rows of panel q, for use as a left operand."""
    if m.tile.parts == 2:
        to = _left(m, row, e, row.first + q * 2 * m.tile.width)
        call_entry(m.tile.embed, (to, _right(m, row, q, e), rows, m.tile.width))


@kernel
def _subtract(m, i, k, row, column, e1, inside, counters):
    """Block (i, k) less what earlier columns of blocks i and k give."""
    tile, whole, e0 = m.tile, m.order * m.tile.parts, column.first
    for first in range(0, e0, DEPTH):
        steps = min(DEPTH, e0 - first)
        ready = (first + steps - 1) // whole + 1
        wait_for(counters, i, ready)
        wait_for(counters, k, ready)
        following = min(DEPTH, e0 - first - steps)
        for q in range((inside + tile.width - 1) // tile.width):
            count = min(tile.width, inside - q * tile.width)
            last = min(e1, e0 + (q * tile.width + count) * tile.parts) if i == k else e1
            for e in range(e0, last, tile.rows):
                done = (e - e0) // tile.rows * (steps // 2)
                ahead = _ahead(m, row, q, column, first + steps, following, done * 64)
                _strip(m, UPDATE, row, q, column, e, count, first, steps, ahead)


@kernel
def _factor(m, thread, row, e1, inside, counters):
    """Factor the diagonal block, of packed rows up to e1; returns the failing order or 0."""
    tile, info, e0 = m.tile, 0, row.first
    wide, failing = tile.parts * tile.width, counters.size - 2
    place = m.scratch + thread * (tile.rows + 1) * tile.rows * tile.bytes
    for e in range(e0, e1, tile.rows):
        q = (e - e0) // wide
        for p in range(q, (inside + tile.width - 1) // tile.width):
            count = min(tile.width, inside - p * tile.width)
            if p > q:
                _strip(m, FORWARD, row, p, row, e, count, e0, e - e0)
                _embed(m, row, p, e, tile.rows)
                continue
            _strip(m, UPDATE, row, p, row, e, count, e0, e - e0)
            _embed(m, row, p, e, tile.rows)
            step = (m.n + 1) * tile.parts
            known = min(tile.rows, m.n * tile.parts - e)
            args = (
                counters.ctypes.data + failing * 8,
                m.a + e // tile.parts * step * tile.bytes,
                step,
                _right(m, row, p, e),
                _left(m, row, e, e),
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
            _embed(m, row, p, e, tile.rows)
            if info == 0 and counters[failing] < tile.rows:
                info = (e + counters[failing]) // tile.parts + 1
    return info


@kernel
def _eliminate(m, row, column, e1, inside):
    """Block (i, k) times the inverse adjoint of the diagonal block k."""
    e0 = column.first
    for q in range((inside + m.tile.width - 1) // m.tile.width):
        count = min(m.tile.width, inside - q * m.tile.width)
        for e in range(e0, e1, m.tile.rows):
            _strip(m, FORWARD, row, q, column, e, count, e0, e - e0)
        _embed(m, row, q, e0, e1 - e0)


@kernel
def _block(t, thread, m, counters):
    """Task: one block of L; the last counter takes the failing order."""
    i, k = _position(t, m.blocks)
    tile, failed = m.tile, counters.size - 1
    depth = min(m.order, m.n - k * m.order) * tile.parts
    inside = min(m.order, m.n - i * m.order)
    row, column = _row(m, i), _row(m, k)
    e0 = column.first
    e1 = e0 + (depth + tile.rows - 1) // tile.rows * tile.rows
    wait_for(counters, i, k)
    if counters[failed] == 0:
        lda, stride = m.n * tile.parts, row.stride // tile.bytes
        corner = (i * m.order * lda + e0) * tile.bytes
        place = _right(m, row, np.int64(0), e0)
        source = m.source + corner
        call_entry(tile.pack, (place, stride, source, lda, inside, depth, e1 - e0, tile.width))
        if i == k and m.damping:
            call_entry(tile.diagonal, (place, stride, inside, tile.width, tile.parts, m.damping))
        _subtract(m, i, k, row, column, e1, inside, counters)
        if i == k:
            counters[failed] = _factor(m, thread, row, e1, inside, counters)
        else:
            wait_for(counters, k, k + 1)
            if counters[failed] == 0:
                _eliminate(m, row, column, e1, inside)
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
    order = factor_side(n, tile.width, tile.parts)
    shape, room_for = _layout(n, order, l.dtype, threads.max_threads())
    held, right, left, own = workspace(*room_for)
    counters = np.zeros(8 * shape.blocks + 2, np.int64)
    start = l.ctypes.data
    source = start if a is None else a.ctypes.data
    added = np.array([damping]) if damping else None
    shift = added.ctypes.data if damping else 0
    where = start, source, shift, n, right, left if shape.units > 1 else right
    matrix = Matrix(*where, *shape, own, tile)
    run_blocks(_blocks, n * tile.parts > ALONE, matrix, counters)
    del held, added  # nothing is read from here on
    return int(counters[-1])


class _Shape(NamedTuple):
    """Fields of a `Matrix` that sizes alone tell."""

    unit: int
    units: int
    per: int
    order: int
    blocks: int


@functools.lru_cache(maxsize=256)  # small matrices take no longer than working this out
def _layout(n, order, dtype, threads):
    """The shape of panels in blocks of this order; bytes for those on the right, on the left and
    for scratch."""
    tile = tile_of(dtype)
    blocks, per = -(-n // order), order // tile.width
    unit = -(-order * tile.parts // tile.rows) * tile.rows * tile.width * tile.bytes
    panels = blocks * (blocks + 1) // 2 * per * unit
    again = 2 if tile.parts == 2 else 0  # complex panels have a second form
    scratch = threads * tile.rows * (tile.rows + 1) * tile.bytes
    return _Shape(unit, again or 1, per, order, blocks), (panels, panels * again, scratch)
