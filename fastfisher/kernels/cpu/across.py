"""Cholesky across systems in plain loops: complex systems, and all of them without the compiler."""

import numba
import numpy as np

from .jit import driver, kernel
from .parallel import for_each

__all__ = ["LANES", "factor", "needed", "solve", "solve_factored", "store_solutions"]

LANES = 8  # systems side by side, so that every operation is a vector operation
TASK = 512  # systems per task; a multiple of LANES
NOT_FINITE = -1


def needed(dtype):
    """True where there is no vector code."""
    return np.dtype(dtype).kind == "c" or bool(numba.config.DISABLE_JIT)


@kernel
def _load(m, v, f, g, damping, first):
    """Gather LANES systems, element by element; lanes past the end repeat the last system."""
    n, p = g.shape
    for s in range(LANES):
        t = min(first + s, n - 1)
        for i in range(p):
            v[i, s] = g[t, i]
            for j in range(i + 1):
                m[i, j, s] = f[t, i, j]
            m[i, i, s] = f[t, i, i].real + damping[t]


@kernel
def factor(m, roots, bad):
    """Cholesky factors of m (p, p, LANES) in place, diagonals in roots; 0 or the failing order."""
    p = m.shape[0]
    bad[:] = 0
    for j in range(p):
        for k in range(j):
            for s in range(LANES):
                m[j, j, s] -= (m[j, k, s] * m[j, k, s].conjugate()).real
        for s in range(LANES):
            pivot = m[j, j, s].real
            if not (pivot > 0 and np.isfinite(pivot)):
                if bad[s] == 0:
                    bad[s] = j + 1
                pivot = roots.dtype.type(1)
            roots[j, s] = np.sqrt(pivot)
            m[j, j, s] = roots[j, s]
        for i in range(j + 1, p):
            for k in range(j):
                for s in range(LANES):
                    m[i, j, s] -= m[i, k, s] * m[j, k, s].conjugate()
            for s in range(LANES):
                m[i, j, s] /= roots[j, s]


@kernel
def solve_factored(m, roots, v):
    """v (p, LANES) <- (L L')^-1 v"""
    p = v.shape[0]
    for i in range(p):
        for k in range(i):
            for s in range(LANES):
                v[i, s] -= m[i, k, s] * v[k, s]
        for s in range(LANES):
            v[i, s] /= roots[i, s]
    for i in range(p - 1, -1, -1):
        for k in range(i + 1, p):
            for s in range(LANES):
                v[i, s] -= m[k, i, s].conjugate() * v[k, s]
        for s in range(LANES):
            v[i, s] /= roots[i, s]


@kernel
def store_solutions(x, info, v, bad, first):
    n, p = x.shape
    for s in range(min(LANES, n - first)):
        t = first + s
        info[t] = bad[s]
        for i in range(p):
            x[t, i] = v[i, s]
            if info[t] == 0 and not np.isfinite(v[i, s]):
                info[t] = NOT_FINITE
        if info[t] != 0:
            x[t] = np.nan


@kernel
def _task(task, x, info, f, g, damping):
    n, p = g.shape
    m, v = np.empty((p, p, LANES), f.dtype), np.empty((p, LANES), g.dtype)
    roots, bad = np.empty((p, LANES), damping.dtype), np.empty(LANES, np.int32)
    for first in range(task * TASK, min((task + 1) * TASK, n), LANES):
        _load(m, v, f, g, damping, first)
        factor(m, roots, bad)
        solve_factored(m, roots, v)
        store_solutions(x, info, v, bad, first)


@driver
def solve(launch, x, info, f, g, damping):
    for_each(launch, _task, (g.shape[0] + TASK - 1) // TASK, (x, info, f, g, damping))
