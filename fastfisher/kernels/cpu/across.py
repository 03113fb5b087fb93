"""Cholesky across systems in plain loops: complex systems, and all of them without the compiler."""

import numba
import numpy as np

from .jit import kernel
from .parallel import for_each
from .threads import driver

__all__ = ["LANES", "block_cholesky", "block_solve", "metric_solve", "needed", "solve"]

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
def _task(t, thread, x, info, f, g, damping):
    n, p = g.shape
    m, v = np.empty((p, p, LANES), f.dtype), np.empty((p, LANES), g.dtype)
    roots, bad = np.empty((p, LANES), damping.dtype), np.empty(LANES, np.int32)
    for first in range(t * TASK, min((t + 1) * TASK, n), LANES):
        _load(m, v, f, g, damping, first)
        factor(m, roots, bad)
        solve_factored(m, roots, v)
        store_solutions(x, info, v, bad, first)


@driver
def solve(launch, x, info, f, g, damping):
    for_each(launch, _task, (g.shape[0] + TASK - 1) // TASK, (x, info, f, g, damping))


@kernel
def _mean(m, sums, scores, weights, first):
    """Weighted means of outer products, summed in double."""
    n, count, p = scores.shape
    for s in range(LANES):
        t, total = min(first + s, n - 1), 0.0
        sums[:] = 0
        for k in range(count):
            w = 1.0
            if weights.size > 0:
                w = np.float64(weights[t % weights.shape[0], k])
            total += w
            for i in range(p):
                x = w * sums.dtype.type(scores[t, k, i]).conjugate()
                for j in range(i + 1):
                    sums[i, j] += x * scores[t, k, j]
        share = 1.0 / total  # a complex quotient by zero would raise
        for i in range(p):
            for j in range(i + 1):
                m[i, j, s] = sums[i, j] * share


@kernel
def _metric_task(t, thread, x, info, scores, weights, g, damping, wide):
    n, p = g.shape
    m, v = np.empty((p, p, LANES), g.dtype), np.empty((p, LANES), g.dtype)
    roots, bad = np.empty((p, LANES), damping.dtype), np.empty(LANES, np.int32)
    sums = np.empty((p, p), wide.dtype)
    for first in range(t * TASK, min((t + 1) * TASK, n), LANES):
        _mean(m, sums, scores, weights, first)
        for s in range(LANES):
            t = min(first + s, n - 1)
            for i in range(p):
                v[i, s] = g[t, i]
                m[i, i, s] = m[i, i, s].real + damping[t]
        factor(m, roots, bad)
        solve_factored(m, roots, v)
        store_solutions(x, info, v, bad, first)


@driver
def _metric_solve(launch, x, info, scores, weights, g, damping, wide):
    tasks = (g.shape[0] + TASK - 1) // TASK
    for_each(launch, _metric_task, tasks, (x, info, scores, weights, g, damping, wide))


def metric_solve(x, info, scores, weights, g, damping):
    wide = np.empty(0, np.result_type(g.dtype, np.float64))  # carries the dtype of the sums
    _metric_solve(x, info, scores, np.atleast_2d(weights), g, damping, wide)


@kernel
def _cholesky_task(b, thread, c, info, real):
    d = c.shape[1]
    m, roots = np.empty((d, d, LANES), c.dtype), np.empty((d, LANES), real.dtype)
    bad, first = np.empty(LANES, np.int32), b * LANES
    for s in range(LANES):
        t = min(first + s, info.size - 1)
        for i in range(d):
            for j in range(i + 1):
                m[i, j, s] = c[t, i, j]
    factor(m, roots, bad)
    for s in range(min(LANES, info.size - first)):
        info[first + s] = bad[s]
        for i in range(d):
            for j in range(i + 1):
                c[first + s, i, j] = m[i, j, s] if bad[s] == 0 else np.nan


@driver
def _block_cholesky(launch, c, info, real):
    for_each(launch, _cholesky_task, (info.size + LANES - 1) // LANES, (c, info, real))


def block_cholesky(c, info):
    _block_cholesky(c, info, np.empty(0, c.dtype).real)


@kernel
def _solve_task(b, thread, l, x):
    d = l.shape[1]
    for r in range(x.shape[0]):
        y = x[r, b * d : (b + 1) * d]
        for i in range(d):
            for k in range(i):
                y[i] -= l[b, i, k] * y[k]
            y[i] /= l[b, i, i].real
        for i in range(d - 1, -1, -1):
            for k in range(i + 1, d):
                y[i] -= l[b, k, i].conjugate() * y[k]
            y[i] /= l[b, i, i].real


@driver
def block_solve(launch, l, x):
    for_each(launch, _solve_task, l.shape[0], (l, x))
