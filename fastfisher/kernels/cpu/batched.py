"""Many small damped systems at once: Cholesky across systems, a status per system."""

import numpy as np

from .jit import driver, kernel
from .parallel import for_each

__all__ = ["batched_solve"]

LANES = 8  # systems side by side, so that every operation is a vector operation
TASK = 512  # systems per task; a multiple of LANES
NOT_FINITE = -1


@kernel
def _load(m, v, bad, f, g, damping, first):
    """Gather LANES systems, element by element; lanes past the end repeat the last system."""
    n, p = g.shape
    for s in range(LANES):
        t = min(first + s, n - 1)
        bad[s] = 0
        for i in range(p):
            v[i, s] = g[t, i]
            for j in range(i + 1):
                m[i, j, s] = f[t, i, j]
            m[i, i, s] = f[t, i, i].real + damping[t]


@kernel
def _factor_and_solve(m, v, root, bad):
    p = v.shape[0]
    for j in range(p):
        for k in range(j):
            for s in range(LANES):
                m[j, j, s] -= (m[j, k, s] * m[j, k, s].conjugate()).real
        for s in range(LANES):
            pivot = m[j, j, s].real
            if not (pivot > 0 and np.isfinite(pivot)):
                if bad[s] == 0:
                    bad[s] = j + 1
                pivot = root.dtype.type(1)
            root[j, s] = np.sqrt(pivot)
        for i in range(j + 1, p):
            for k in range(j):
                for s in range(LANES):
                    m[i, j, s] -= m[i, k, s] * m[j, k, s].conjugate()
            for s in range(LANES):
                m[i, j, s] /= root[j, s]
    for i in range(p):
        for k in range(i):
            for s in range(LANES):
                v[i, s] -= m[i, k, s] * v[k, s]
        for s in range(LANES):
            v[i, s] /= root[i, s]
    for i in range(p - 1, -1, -1):
        for k in range(i + 1, p):
            for s in range(LANES):
                v[i, s] -= m[k, i, s].conjugate() * v[k, s]
        for s in range(LANES):
            v[i, s] /= root[i, s]


@kernel
def _store(x, info, v, bad, first):
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
def _batched_solve_task(task, x, info, f, g, damping, root_dtype):
    n, p = g.shape
    t0 = task * TASK
    m = np.empty((p, p, LANES), f.dtype)
    v = np.empty((p, LANES), g.dtype)
    root = np.empty((p, LANES), root_dtype.dtype)
    bad = np.empty(LANES, np.int32)
    for first in range(t0, min(t0 + TASK, n), LANES):
        _load(m, v, bad, f, g, damping, first)
        _factor_and_solve(m, v, root, bad)
        _store(x, info, v, bad, first)


@driver
def _batched_solve(launch, x, info, f, g, damping, root_dtype):
    n, p = g.shape
    for_each(
        launch,
        _batched_solve_task,
        (n + TASK - 1) // TASK,
        (
            x,
            info,
            f,
            g,
            damping,
            root_dtype,
        ),
    )


def batched_solve(x, info, f, g, damping):
    # x        OUT (n, p);  info  OUT (n,) int32
    # f        IN READ-ONLY (n, p, p) C order, lower triangles;  g  IN READ-ONLY (n, p)
    # damping  IN (n,) real
    """x[t] = (f[t] + damping[t] I)^-1 g[t]; info[t] = 0, the failing order, or -1: not finite."""
    if len(g):
        _batched_solve(x, info, f, g, damping, damping)
