"""Triangular solves with a row-major lower factor. Right-hand sides are rows: x is (k, n).

Blocks of rows are tasks, and groups of right-hand sides: a task subtracts what the blocks before
it give, each as soon as it is there, and solves with its own diagonal block (see elimination.py).
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
from .triangles import BACKWARD, FORWARD, UPDATE

__all__ = ["GROUP", "block_order", "inverse_diagonal", "solve_lower", "solve_lower_adjoint"]

SIDE = 96  # rows of a block, at least; part of the numbers
GROUP = 8  # panels of right-hand sides per task
UNITS = 256  # columns of the identity solved with at a time
PARALLEL = 1 << 18  # products of numbers above which threads pay


class System(NamedTuple):
    """Where things are: addresses, and bytes from one panel to the next."""

    l: int
    n: int
    x: int
    k: int
    right: int  # x' in panels
    stride: int
    scratch: int  # a packed block of l per thread, complex ones also as 2 x 2 blocks
    share: int
    mode: int
    first: int  # block where the right-hand sides start
    blocks: int
    order: int  # of a block
    groups: int
    tile: Tile


def block_order(order, width, parts):
    """Rows of a block, a multiple of the panels' width."""
    return -(-min(SIDE // parts, order) // width) * width


@kernel
def _pack_factor(m, thread, row, column):
    """Block (row, column) of l as a left operand, whichever way round; its address."""
    tile, wide = m.tile, m.tile.parts * m.tile.width
    packed, stride = m.scratch + thread * m.share, m.order * wide
    rows, columns = min(m.order, m.n - row * m.order), min(m.order, m.n - column * m.order)
    lda = m.n * tile.parts
    corner = m.l + (row * m.order * lda + column * m.order * tile.parts) * tile.bytes
    across, sign = rows, 1
    if m.mode == FORWARD:
        depth, padded = columns * tile.parts, m.order * tile.parts
        call_entry(tile.pack, (packed, stride, corner, lda, rows, depth, padded, tile.width))
    else:
        across, sign = columns, -1
        args = (packed, stride, corner, lda, rows, columns, m.order, tile.width, tile.parts)
        call_entry(tile.copy, args)
    if row == column:
        call_entry(tile.diagonal, (packed, stride, rows, tile.width, tile.parts, 0))
    if tile.parts == 1:
        return packed
    left = packed + m.order * m.order * tile.parts * tile.bytes
    for q in range((across + tile.width - 1) // tile.width):
        at = q * stride * tile.bytes
        args = (left + 2 * at, packed + at, m.order * tile.parts, tile.width, sign)
        call_entry(tile.embed, args)
    return left


@kernel
def _sweep(m, mode, place, base, count, left, height, steps):
    """All strips of a block in all panels: less the product with `steps` rows, or solved."""
    tile, wide = m.tile, m.tile.parts * m.tile.width
    stride, row = m.order * tile.parts * wide, tile.width * tile.bytes
    for j in range(0, count, tile.width):
        panel, inside = j // tile.width * m.stride, min(tile.width, count - j)
        for s in range(0, height, tile.rows):
            e = height - tile.rows - s if mode == BACKWARD else s
            first, depth = np.int64(0), steps
            if mode == FORWARD:
                depth = e
            elif mode == BACKWARD:
                first, depth = e + tile.rows, height - tile.rows - e
            a = left + (e // wide * stride + e % wide + first * wide) * tile.bytes
            c, b = place + panel + e * row, base + panel + first * row
            solve_strip(mode, c, inside, a, wide, b, depth, b, tile)


@kernel
def _height(m, block):
    """Packed rows of a block, whole strips."""
    depth = min(m.order, m.n - block * m.order) * m.tile.parts
    return (depth + m.tile.rows - 1) // m.tile.rows * m.tile.rows


@kernel
def _block(t, thread, m, counters):
    """Task: one block of rows of a group of right-hand sides."""
    tile, i, g = m.tile, m.first + t // m.groups, t % m.groups
    forward = m.mode == FORWARD
    block = i if forward else m.blocks - 1 - i
    j0, step = g * GROUP * tile.width, m.order * tile.parts * tile.width * tile.bytes
    count, height = min(GROUP * tile.width, m.k - j0), _height(m, block)
    panels, lda = m.right + g * GROUP * m.stride, m.n * tile.parts
    place, stride = panels + block * step, m.stride // tile.bytes
    depth = min(m.order, m.n - block * m.order) * tile.parts
    corner = m.x + (j0 * lda + block * m.order * tile.parts) * tile.bytes
    call_entry(tile.pack, (place, stride, corner, lda, count, depth, height, tile.width))
    for j in range(m.first, i):
        other = j if forward else m.blocks - 1 - j
        left = (
            _pack_factor(m, thread, block, other)
            if forward
            else _pack_factor(m, thread, other, block)
        )
        wait_for(counters, g, j + 1)
        base, steps = panels + other * step, _height(m, other)
        _sweep(m, np.int64(UPDATE), place, base, count, left, height, steps)
    left = _pack_factor(m, thread, block, block)
    _sweep(m, m.mode, place, place, count, left, height, height)
    shape = tile.width, tile.lanes
    call_entry(tile.unpack, (corner, lda, place, stride, count, depth, 0, *shape))
    publish(counters, g, i + 1)


@driver
def _blocks(launch, m, counters):
    for_each(launch, _block, (m.blocks - m.first) * m.groups, (m, counters))


def _solve(l, x, mode, start):
    k, n = x.shape
    if start >= n or k == 0:
        return
    tile = tile_of(l.dtype)
    order, panels = block_order(n, tile.width, tile.parts), -(-k // tile.width)
    blocks, groups = -(-n // order), -(-panels // GROUP)
    stride = -(-n * tile.parts // tile.rows) * tile.rows * tile.width * tile.bytes
    share = order * order * tile.bytes * (6 if tile.parts == 2 else 1)
    held, right, own = workspace(panels * stride, threads.max_threads() * share)
    counters = np.zeros(8 * groups, np.int64)
    system = System(
        l.ctypes.data,
        n,
        x.ctypes.data,
        k,
        right,
        stride,
        own,
        share,
        mode,
        start // order,
        blocks,
        order,
        groups,
        tile,
    )
    run_blocks(_blocks, n * n * k * tile.parts >= PARALLEL, system, counters)
    del held  # nothing is read from here on


def solve_lower(l, x, start=0):
    # l  IN READ-ONLY (n, n) C order, lower triangle with a real diagonal
    # x  INOUT (k, n) l's dtype; entries before `start` are zero and stay so
    """x[c] <- L^-1 x[c]."""
    _solve(l, x, FORWARD, start)


def solve_lower_adjoint(l, x):
    # l  IN READ-ONLY (n, n) C order, lower triangle with a real diagonal
    # x  INOUT (k, n) l's dtype
    """x[c] <- L^-' x[c]."""
    _solve(l, x, BACKWARD, 0)


def inverse_diagonal(y, l):
    # y  OUT (n,) float64
    # l  IN READ-ONLY (n, n) C order, lower triangle with a real diagonal
    """y[j] = sum_i |(L^-1)_ij|^2: the diagonal of (L L')^-1."""
    n = len(l)
    units = np.empty((min(UNITS, n), n), l.dtype)
    for lo in range(0, n, UNITS):
        x = units[: min(UNITS, n - lo)]
        x[:] = 0
        np.fill_diagonal(x[:, lo:], 1)
        solve_lower(l, x, lo)
        numbers = x.view(x.real.dtype)
        y[lo : lo + len(x)] = np.einsum("ij,ij->i", numbers, numbers, dtype=np.float64)
