"""Metrics averaged over samples and solved at once: outer products and metrics are never stored."""

import numpy as np

from . import across, threads
from .jit import kernel
from .lane_kernel import ADD_PRODUCTS, MEAN, WEIGH
from .lanes import EDGE, width
from .memory import aligned
from .parallel import for_each
from .simd import address, call_entry
from .systems import clamped, group_of, load, scratch, solve_and_store
from .threads import driver

__all__ = ["batched_metric_solve"]

TASK = 64  # systems per task, a multiple of the lanes
STEP = 16  # samples are taken in multiples of it, the lanes of the widest vector
VECTORS = 256  # of scores in scratch


def _samples(p):
    """Samples summed in the dtype of the scores before they are added in double."""
    return STEP * max(1, min(256 // STEP, VECTORS // (STEP * p)))


@kernel
def _task(
    t, thread, x, info, scores, weights, stride, g, damping, work, sums, statuses, block, group
):
    """Task: systems whose metrics are sums over their own samples."""
    n, p, lanes, zero, one = info.size, group.p, group.lanes, np.int64(0), np.int64(1)
    w, c, status = work[thread], sums[thread], statuses[thread]
    code, ld, order, count = group.code, group.ld, group.order, scores.size // (n * p)
    total, scales = c.size - lanes, w.size - (block + STEP) * lanes
    a, factors = address(w, group.extra), address(w, scales)
    for first in range(t * TASK, min((t + 1) * TASK, n), lanes):
        here = min(lanes, n - first)
        c[:] = 0
        for s in range(0, count, block):
            samples = min(block, count - s)
            start = (first * count + s) * p
            load(w, group.extra, scores, start, count * p, one, samples * p, here, group)
            if weights.size > 0:
                load(w, scales, weights, first * stride + s, stride, one, samples, here, group)
                sum_ = address(c, total)
                call_entry(code, (WEIGH, a, p, factors, samples, sum_, zero, zero))
            call_entry(code, (ADD_PRODUCTS, address(c, zero), ld, order, a, p, samples, zero))
        if weights.size == 0:
            c[total:] = count
        matrix, mean = address(w, zero), address(c, total)
        call_entry(code, (MEAN, matrix, address(c, zero), ld, p, mean, zero, zero))
        load(w, group.right, g, first * p, p, one, p, here, group)
        clamped(w, group.shift, damping, first, lanes)
        solve_and_store(x, info, first, w, status, group, matrix)


@driver
def _solve(
    launch, x, info, scores, weights, stride, g, damping, work, sums, statuses, block, group
):
    args = (x, info, scores, weights, stride, g, damping, work, sums, statuses, block, group)
    for_each(launch, _task, (info.size + TASK - 1) // TASK, args)


def batched_metric_solve(x, info, scores, weights, g, damping):
    # x        OUT (n, p);  info  OUT (n,) int32
    # scores   IN READ-ONLY (n, S, p) C order;  g  IN READ-ONLY (n, p)
    # weights  IN READ-ONLY (n, S), (S,) or (0,), real, >= 0;  damping  IN (n,) real
    """x[t] = (M[t] + damping[t] I)^-1 g[t], M[t] = sum_s w_ts conj(a_ts) a_ts' / sum_s w_ts.

    M[t] is the weighted `syrk` of the rows of scores[t]; info as in batched_solve.
    """
    _, count, p = scores.shape
    if g.size == 0:
        info[:] = 0
        return
    if across.needed(scores.dtype):
        across.metric_solve(x, info, scores, weights, g, damping)
        return
    block = _samples(p)
    rows = (block * p + EDGE + STEP) * width(scores.dtype)
    group = group_of(p, scores.dtype, extra=rows + (block + STEP) * width(scores.dtype))
    work, statuses = scratch(group, scores.dtype)
    sums = (group.order * group.ld + 1) * group.lanes
    stride = count if weights.ndim == 2 else 0
    flat = x.reshape(-1), info, scores.reshape(-1), weights.reshape(-1), stride, g.reshape(-1)
    totals = aligned((threads.max_threads(), sums), np.float64)
    _solve(*flat, damping, work, totals, statuses, block, group)
