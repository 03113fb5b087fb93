"""Metrics averaged over samples and solved at once, some systems at a time."""

import numpy as np

from . import compat, memory, sums
from .batched import batched_solve
from .blocks import batched_syrk
from .compat import cuda
from .vectors import per_element, weight_roots

__all__ = ["batched_metric_solve"]

METRIC_BYTES = 200 if compat.SIMULATED else 64 << 20  # of metrics at a time


@cuda.jit
def _mean(f, c, totals, count):
    e = cuda.grid(1)
    if e < f.size:
        p = f.shape[1]
        t, i, j = e // (p * p), e // p % p, e % p
        total = totals[t if totals.size > 1 else 0] if totals.size > 0 else count
        f[t, i, j] = c[t, i, j] / total


def batched_metric_solve(x, info, scores, weights, g, damping):
    # x        OUT (n, p);  info  OUT (n,) int32
    # scores   IN READ-ONLY (n, S, p) C order;  g  IN READ-ONLY (n, p)
    # weights  IN READ-ONLY (n, S), (S,) or (0,), real, >= 0;  damping  IN (n,) real
    """x[t] = (M[t] + damping[t] I)^-1 g[t], M[t] = sum_s w_ts a_ts a_ts' / sum_s w_ts."""
    n, count, p = scores.shape
    if g.size == 0:
        memory.fill(info, np.int32(0))
        return
    dtype, own = np.dtype(scores.dtype), weights.ndim == 2
    roots, totals = weights, weights
    if weights.size:
        roots = compat.empty(tuple(weights.shape), dtype)
        weight_roots(roots.reshape(roots.size), weights.reshape(weights.size))
        totals = compat.empty((weights.size // count,), np.float64)
        sums.totals(totals, weights.reshape(totals.size, count))
    step = max(METRIC_BYTES // (p * p * (8 + dtype.itemsize)), 1)
    for lo in range(0, n, step):
        part = slice(lo, min(lo + step, n))
        c = memory.zeros((part.stop - lo, p, p), np.float64)
        f = compat.empty(c.shape, dtype)
        batched_syrk(c, scores[part], roots[part] if own else roots)
        per_element(_mean, f.size, f, c, totals[part] if own else totals, float(count))
        batched_solve(x[part], info[part], f, g[part], damping[part])
