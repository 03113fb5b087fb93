"""Triangular solves with a row-major lower factor. Right-hand sides are rows: x is (k, n).

Blocks of rows are tasks, and groups of right-hand sides: a task subtracts what the blocks before
it give, each as soon as it is there, and solves with its own diagonal block (see elimination.py).
Right-hand sides are packed in panels; the factor is read where it lies (direct.py).
"""

from typing import NamedTuple

import numpy as np

from . import few, threads
from .direct import ADJOINT, SOLVED, direct_address
from .elimination import Tile, publish, run_blocks, tile_of, wait_for, workspace
from .jit import kernel
from .parallel import for_each
from .simd import call_entry
from .threads import driver

__all__ = [
    "GROUP",
    "block_order",
    "inverse_diagonal",
    "solve_lower",
    "solve_lower_adjoint",
    "substitute",
]

SIDE = 96  # rows of a block, at least; part of the numbers
VECTORS = 3  # of right-hand sides in a panel, at most
GROUP = 8  # panels of right-hand sides per task, at most
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
    forward: bool  # which solves; both if both
    backward: bool
    first: int  # block where the right-hand sides start
    blocks: int
    order: int  # of a block
    groups: int
    group: int  # panels in it
    vectors: int  # of a panel
    solve: int  # address of the register tiles
    tile: Tile


def block_order(order, width, parts):
    """Rows of a block, a multiple of the panels' width."""
    return -(-min(SIDE // parts, order) // width) * width


def panels_of(k, width, threads):
    """How k right-hand sides are laid out: vectors per panel, panels, panels per task.

    Panels are equally wide. There are two where two threads can share them, and of a few every
    thread has nearly the same number, if two vectors are left to each: one alone waits for itself.
    """
    vectors = -(-k // width)
    panels = max(-(-vectors // VECTORS), min(vectors, threads, 2))
    if panels < GROUP * threads:
        panels = max(panels, min(-(-panels // threads) * threads, (vectors + 1) // 2))
    each = -(-vectors // panels)
    panels = -(-vectors // each)
    return each, panels, min(GROUP, -(-panels // threads))


@kernel
def _rows(m, block):
    """Rows of a block."""
    return min(m.order, m.n - block * m.order)


@kernel
def _sweep(m, back, block, other, place, base, panels):
    """All strips of a block in all panels: less the product with another one, or solved."""
    tile, lda, strip = m.tile, m.n * m.tile.parts, m.tile.rows // m.tile.parts
    height, depth = _rows(m, block), _rows(m, other)
    row, last = tile.parts * m.vectors * tile.lanes * tile.bytes, (height - 1) // strip * strip
    mode = SOLVED * (block == other) + ADJOINT * back
    for s in range(0, height, strip):
        e = last - s if back else s
        first, steps = np.int64(0), depth
        if block == other and back:
            first, steps = e + strip, max(depth - e - strip, 0)
        elif block == other:
            steps = e
        i, j = block * m.order + e, other * m.order + first
        ahead = strip * lda  # of the next strip
        if back:
            i, j, ahead = j, i, -strip * tile.parts
        l, inside = m.l + (i * lda + j * tile.parts) * tile.bytes, min(strip, height - e)
        for panel in range(panels):
            c, b = place + panel * m.stride + e * row, base + panel * m.stride + first * row
            call_entry(m.solve, (m.vectors, mode, c, l, lda, b, steps, inside, ahead))


@kernel
def _block(t, thread, m, counters):
    """Task: one block of rows of a group of right-hand sides."""
    tile, half = m.tile, (m.blocks - m.first) * m.groups
    back = not m.forward or t >= half
    before = m.blocks if m.forward and back else 0  # blocks solved in the sweep before this one
    i, g = m.first + t % half // m.groups, t % m.groups
    block = m.blocks - 1 - i if back else i
    width, lda, depth = m.vectors * tile.lanes, m.n * tile.parts, _rows(m, block) * tile.parts
    step, j0 = m.order * tile.parts * width * tile.bytes, g * m.group * width
    count, right = min(m.group * width, m.k - j0), m.right + g * m.group * m.stride
    place, stride = right + block * step, m.stride // tile.bytes
    corner = m.x + (j0 * lda + block * m.order * tile.parts) * tile.bytes
    if before == 0:
        padded = (depth + tile.rows - 1) // tile.rows * tile.rows
        call_entry(tile.pack, (place, stride, corner, lda, count, depth, padded, width))
    panels = (count + width - 1) // width
    for j in range(m.first, i):
        other = m.blocks - 1 - j if back else j
        wait_for(counters, g, before + j + 1)
        _sweep(m, back, block, other, place, right + other * step, panels)
    wait_for(counters, g, before)
    _sweep(m, back, block, block, place, place, panels)
    if back or not m.backward:
        shape = width, tile.lanes
        call_entry(tile.unpack, (corner, lda, place, stride, count, depth, 0, *shape))
    publish(counters, g, before + i + 1)


@driver
def _blocks(launch, m, counters):
    sweeps = 2 if m.forward and m.backward else 1
    for_each(launch, _block, sweeps * (m.blocks - m.first) * m.groups, (m, counters))


def _solve(l, x, forward, backward, start=0):
    k, n = x.shape
    if start >= n or k == 0:
        return
    tile = tile_of(l.dtype)
    order = block_order(n, tile.width, tile.parts)
    work = n * n * k * tile.parts * (forward + backward)
    several = threads.thread_count() if work >= PARALLEL else 1
    vectors, panels, group = panels_of(k, tile.lanes, several)
    groups = -(-panels // group)
    stride = -(-n * tile.parts // tile.rows) * tile.rows * vectors * tile.lanes * tile.bytes
    held, right = workspace(panels * stride)
    counters = np.zeros(8 * groups, np.int64)
    system = System(
        l.ctypes.data,
        n,
        x.ctypes.data,
        k,
        right,
        stride,
        forward,
        backward,
        start // order,
        -(-n // order),
        order,
        groups,
        group,
        vectors,
        direct_address(tile.bytes, tile.parts),
        tile,
    )
    run_blocks(_blocks, work >= PARALLEL, system, counters)
    del held  # nothing is read from here on


def solve_lower(l, x, start=0):
    # l  IN READ-ONLY (n, n) C order, lower triangle with a real diagonal
    # x  INOUT (k, n) l's dtype; entries before `start` are zero and stay so
    """x[c] <- L^-1 x[c]."""
    _solve(l, x, True, False, start)


def solve_lower_adjoint(l, x):
    # l  IN READ-ONLY (n, n) C order, lower triangle with a real diagonal
    # x  INOUT (k, n) l's dtype
    """x[c] <- L^-' x[c]."""
    _solve(l, x, False, True)


def substitute(l, x):
    # l  IN READ-ONLY (n, n) C order, lower triangle with a positive diagonal
    # x  INOUT (k, n) l's dtype
    """x[c] <- (L L')^-1 x[c]."""
    if len(x) <= few.MOST and l.dtype.kind == "f":
        few.substitute(l, x)
    else:
        _solve(l, x, True, True)


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
