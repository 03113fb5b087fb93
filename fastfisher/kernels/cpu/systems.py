"""Groups of small systems in scratch, one per lane: how they get there, are solved, and get back."""

from typing import NamedTuple

import numpy as np

from . import threads
from .jit import kernel
from .lanes import (
    edge,
    factor_diagonal,
    settle,
    solve_row,
    solve_row_adjoint,
    solve_rows,
)
from .memory import aligned
from .simd import lanes, transpose

__all__ = [
    "Group",
    "copied",
    "factor",
    "group_of",
    "load_lower",
    "load_row",
    "pad",
    "scratch",
    "solve",
    "store_row",
    "store_solutions",
]


class Group(NamedTuple):
    """Scratch of a group of systems; matrices come first, other offsets are in elements."""

    p: int
    order: int  # p padded to whole tiles
    ld: int  # vectors from row to row
    lanes: int
    edge: int
    right: int  # a right-hand side, ld vectors
    roots: int  # reciprocals of the diagonal of L
    bad: int  # a vector: 0 or the failing order
    shift: int  # a vector: damping
    flat: int  # systems as the caller stores them, where the caller's array ends
    rows: int  # right-hand sides or solutions as the caller stores them
    size: int


def group_of(p, dtype, *, extra=0, flat=True):
    """The scratch for groups of order p, and `extra` elements at its end."""
    n, e = lanes(dtype), edge()
    order = -(-p // e) * e
    ld = max(order, -(-p // n) * n)
    ends = [order * ld * n]
    for vectors in (ld, order, 1, 1, p * p + n if flat else 0, p + n):
        ends.append(ends[-1] + vectors * n)
    return Group(p, order, ld, n, e, *ends[:-1], ends[-1] + extra)


def scratch(group, dtype):
    """Such scratch for every thread, and a status per lane."""
    count = threads.max_threads()
    return aligned((count, group.size), dtype), aligned((count, 16), np.int32)


@kernel
def copied(to, t0, source, first, width, count, group):
    """Lanes' worth of rows source[first..], of which there are `count`, the last one repeated."""
    for s in range(group.lanes):
        start, at = min(first + s, count - 1) * width, t0 + s * width
        for i in range(width):
            to[at + i] = source[start + i]


@kernel
def load_lower(work, source, s0, group):
    """Lower triangles of consecutive systems, to lanes."""
    for i in range(group.p):
        for c in range(0, i + 1, group.lanes):
            at, start = (i * group.ld + c) * group.lanes, s0 + i * group.p + c
            transpose(work, at, group.lanes, source, start, group.p * group.p)


@kernel
def pad(work, group):
    """Rows of the identity after the last one."""
    for i in range(group.p, group.order):
        at = i * group.ld * group.lanes
        work[at : at + i * group.lanes] = 0
        work[at + i * group.lanes : at + (i + 1) * group.lanes] = 1


@kernel
def load_row(work, source, s0, group):
    """Right-hand sides of consecutive systems, to lanes."""
    for c in range(0, group.p, group.lanes):
        transpose(work, group.right + c * group.lanes, group.lanes, source, s0 + c, group.p)
    work[group.right + group.p * group.lanes : group.right + group.order * group.lanes] = 0


@kernel
def store_row(work, group):
    """Lanes to consecutive rows at group.rows; what a row spills, the next one overwrites."""
    whole = (group.p - 1) // group.lanes * group.lanes
    for c in range(whole, -1, -group.lanes):
        transpose(
            work, group.rows + c, group.p, work, group.right + c * group.lanes, group.lanes
        )


@kernel
def factor(work, group):
    """Cholesky factors in place; reciprocals of their diagonals; status."""
    zero, ld, e = np.int64(0), group.ld, group.edge
    work[group.bad : group.bad + group.lanes] = 0
    for j in range(0, group.order, e):
        factor_diagonal(work, zero, ld, j, group.roots, group.bad)
        for i in range(j + e, group.order, e):
            solve_rows(work, i * ld * group.lanes, ld, zero, ld, j, group.roots)


@kernel
def solve(work, group):
    """The right-hand side over L L'."""
    zero, ld, e, order = np.int64(0), group.ld, group.edge, group.order
    for j in range(0, order, e):
        solve_row(work, group.right, ld, zero, ld, j, group.roots)
    for j in range(order - e, -1, -e):
        solve_row_adjoint(work, group.right, zero, ld, j, order, group.roots)


@kernel
def store_solutions(x, info, first, count, work, status, group):
    """Solutions and status of the first `count` lanes, to systems first... of flat x."""
    settle(work, group.right, group.p, group.bad, status, np.int64(0))
    store_row(work, group)
    start = first * group.p
    for i in range(count * group.p):
        x[start + i] = work[group.rows + i]
    for s in range(count):
        info[first + s] = status[s]
