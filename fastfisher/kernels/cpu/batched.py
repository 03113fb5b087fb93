"""Many small damped systems at once: Cholesky across systems, a status per system."""

import numba
import numpy as np

from . import across
from .jit import driver, kernel
from .lanes import add_vector, small_solver
from .parallel import for_each
from .systems import (
    copied,
    factor,
    group_of,
    load_lower,
    load_row,
    pad,
    scratch,
    solve,
    store_solutions,
)

__all__ = ["batched_solve"]

SMALL = 3  # up to this order a system stays in registers
TASK = 512  # systems per task, a multiple of the lanes

_solve_1, _solve_2, _solve_3 = small_solver(1), small_solver(2), small_solver(3)


@kernel
def _small(p, x, x0, info, i0, f, f0, g, g0, damping, d0):
    if p == 1:
        _solve_1(x, x0, info, i0, f, f0, g, g0, damping, d0)
    elif p == 2:
        _solve_2(x, x0, info, i0, f, f0, g, g0, damping, d0)
    else:
        _solve_3(x, x0, info, i0, f, f0, g, g0, damping, d0)


@kernel
def _small_task(t, x, info, f, g, damping, work, statuses, group):
    """Task: systems of order 1 to 3; those that are no whole group pass through scratch."""
    n, p, lanes, zero = info.size, group.p, group.lanes, np.int64(0)
    w, status = work[numba.get_thread_id()], statuses[numba.get_thread_id()]
    for first in range(t * TASK, min((t + 1) * TASK, n), lanes):
        if first + lanes <= n:
            _small(p, x, first * p, info, first, f, first * p * p, g, first * p, damping, first)
            continue
        copied(w, group.flat, f, first, p * p, n, group)
        copied(w, group.right, g, first, p, n, group)
        copied(w, group.shift, damping, first, 1, n, group)
        _small(p, w, group.rows, status, zero, w, group.flat, w, group.right, w, group.shift)
        for i in range((n - first) * p):
            x[first * p + i] = w[group.rows + i]
        for s in range(n - first):
            info[first + s] = status[s]


@kernel
def _task(t, x, info, f, g, damping, work, statuses, group):
    """Task: systems of any order."""
    n, p, lanes, zero = info.size, group.p, group.lanes, np.int64(0)
    w, status = work[numba.get_thread_id()], statuses[numba.get_thread_id()]
    for first in range(t * TASK, min((t + 1) * TASK, n), lanes):
        matrices, rights, at, start = f, g, first * p * p, first * p
        if (first + lanes) * p + lanes > n * p:  # whole vectors would reach past the end
            copied(w, group.flat, f, first, p * p, n, group)
            copied(w, group.rows, g, first, p, n, group)
            matrices, rights, at, start = w, w, group.flat, group.rows
        copied(w, group.shift, damping, first, 1, n, group)
        load_lower(w, matrices, at, group)
        pad(w, group)
        add_vector(w, zero, group.ld + 1, p, group.shift)
        load_row(w, rights, start, group)
        factor(w, group)
        solve(w, group)
        store_solutions(x, info, first, min(lanes, n - first), w, status, group)


@driver
def _solve_small(launch, x, info, f, g, damping, work, statuses, group):
    args = (x, info, f, g, damping, work, statuses, group)
    for_each(launch, _small_task, (info.size + TASK - 1) // TASK, args)


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
    elif across.needed(f.dtype):
        across.solve(x, info, f, g, damping)
    else:
        p = g.shape[1]
        group = group_of(p, f.dtype)
        run = _solve_small if p <= SMALL else _solve
        flat = x.reshape(-1), info, f.reshape(-1), g.reshape(-1), damping
        run(*flat, *scratch(group, f.dtype), group)
