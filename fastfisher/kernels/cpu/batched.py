"""Many small damped systems at once: Cholesky across systems, a status per system."""

import numpy as np

from . import across
from .jit import kernel
from .parallel import for_each
from .simd import address, call_entry, lanes
from .systems import clamped, group_of, load, scratch, solve_and_store
from .threads import driver
from .tiny import LARGEST, tiny_address

__all__ = ["batched_solve"]

TASK = 512  # systems per task, a multiple of the lanes


@kernel
def _tiny_task(t, thread, x, info, f, g, damping, work, statuses, p, width, solve):
    """Task: systems of few unknowns; those that are no whole group pass through scratch."""
    first, last = t * TASK, min((t + 1) * TASK, info.size)
    groups, q, zero = (last - first) // width, p * p, np.int64(0)
    at = (address(x, first * p), address(info, first), address(f, first * q))
    right, shift = address(g, first * p), address(damping, first)
    call_entry(solve, (p, at[0], at[1], at[2], right, shift, groups))
    first += groups * width
    if first < last:
        w, status = work[thread], statuses[thread]
        rights, shifts, solutions = width * q, width * (q + p), width * (q + p + 1)
        for s in range(width):
            system = min(first + s, last - 1)
            for i in range(q):
                w[s * q + i] = f[system * q + i]
            for i in range(p):
                w[rights + s * p + i] = g[system * p + i]
        clamped(w, shifts, damping, first, width)
        result, flags, matrices = address(w, solutions), address(status, zero), address(w, zero)
        right, shift = address(w, rights), address(w, shifts)
        call_entry(solve, (p, result, flags, matrices, right, shift, np.int64(1)))
        for s in range(last - first):
            info[first + s] = status[s]
            for i in range(p):
                x[(first + s) * p + i] = w[solutions + s * p + i]


@kernel
def _task(t, thread, x, info, f, g, damping, work, statuses, group):
    """Task: systems of any order."""
    n, p, lanes, zero, one = info.size, group.p, group.lanes, np.int64(0), np.int64(1)
    w, status = work[thread], statuses[thread]
    for first in range(t * TASK, min((t + 1) * TASK, n), lanes):
        count = min(lanes, n - first)
        load(w, zero, f, first * p * p, p * p, p, p, count, group)
        load(w, group.right, g, first * p, p, one, p, count, group)
        clamped(w, group.shift, damping, first, lanes)
        ahead = address(f, (first + 2 * lanes) * p * p)
        solve_and_store(x, info, first, w, status, group, ahead)


@driver
def _solve_tiny(launch, x, info, f, g, damping, work, statuses, p, width, solve):
    args = (x, info, f, g, damping, work, statuses, p, width, solve)
    for_each(launch, _tiny_task, (info.size + TASK - 1) // TASK, args)


@driver
def _solve(launch, x, info, f, g, damping, work, statuses, group):
    args = (x, info, f, g, damping, work, statuses, group)
    for_each(launch, _task, (info.size + TASK - 1) // TASK, args)


def batched_solve(x, info, f, g, damping):
    # x        OUT (n, p);  info  OUT (n,) int32
    # f        IN READ-ONLY (n, p, p) C order, lower triangles;  g  IN READ-ONLY (n, p)
    # damping  IN (n,) real
    """x[t] = (f[t] + damping[t] I)^-1 g[t]; info[t] = 0, the failing order, or -1: not finite."""
    if g.size == 0:
        info[:] = 0
        return
    if across.needed(f.dtype):
        across.solve(x, info, f, g, damping)
        return
    flat = x.reshape(-1), info, f.reshape(-1), g.reshape(-1), damping
    p, group = g.shape[1], group_of(g.shape[1], f.dtype)
    scratches = scratch(group, f.dtype)
    if p <= LARGEST:
        solve = tiny_address(f.dtype.itemsize == 8)
        _solve_tiny(*flat, *scratches, p, lanes(f.dtype), solve)
    else:
        _solve(*flat, *scratches, group)
