"""Both triangular solves of a Cholesky factor for few right-hand sides: the factor is read twice.

Blocks of rows are tasks, in order; a task takes what the blocks before it give in groups, each as
soon as it is there. Bound by memory where triangular.py, which packs the factor, is by arithmetic.
"""

import numpy as np

from . import threads
from .elimination import publish, run_blocks, wait_for
from .jit import kernel
from .memory import aligned
from .parallel import for_each
from .rows import GROUP, combine, dots, real_rows, rows_at_once
from .simd import address
from .threads import driver

__all__ = ["substitute"]

SIDE = 64  # rows of a block; part of the numbers, as is
AHEAD = 8  # blocks that are taken together
PARALLEL = 1 << 18  # elements of the factor above which threads pay


@kernel
def _run(first, last, group):
    """Where the run of blocks from `first` on ends: whole groups of blocks, then single ones."""
    return first + (group if first + group <= last else 1)


@kernel
def _forward(t, thread, l, a, x, counters, sums):
    """Task: x_t = L_tt^-1 (x_t - sum_j<t L_tj x_j)."""
    zero, n = np.int64(0), l.n
    lo, hi, ahead = t * SIDE, min((t + 1) * SIDE, l.n), GROUP * l.width
    found = sums[thread]
    j = zero
    while j < t:
        end = _run(j, t, np.int64(AHEAD))
        wait_for(counters, zero, end)
        at, count = j * SIDE, (end - j) * SIDE
        for k in range(x.shape[0]):
            v = address(x, k * n + at)
            i = lo
            while i < hi:
                rows = GROUP if i + GROUP <= hi else 1
                dots(address(found, zero), l, i, at, v, count, rows, ahead)
                for r in range(rows):
                    x[k, i + r] -= found[r]
                i += rows
        j = end
    for k in range(x.shape[0]):
        for i in range(lo, hi):
            total = x[k, i]
            for m in range(lo, i):
                total -= a[i, m] * x[k, m]
            x[k, i] = total / a[i, i]
    publish(counters, zero, t + 1)


@kernel
def _backward(t, thread, l, a, x, counters, sums):
    """Task, from the last block on: x_b = L_bb^-' (x_b - sum_i>b L_ib' x_i)."""
    zero, n = np.int64(0), l.n
    last = (n + SIDE - 1) // SIDE - 1
    block = last - t
    lo, hi, ahead = block * SIDE, min((block + 1) * SIDE, n), GROUP * l.width
    count, found = hi - lo, sums[thread]
    j = zero
    while j < t:
        end = _run(j, t, np.int64(AHEAD))
        wait_for(counters, zero, end)
        for k in range(x.shape[0]):
            found[:count] = 0
            y = address(found, zero)
            for done in range(j, end):
                first = (last - done) * SIDE
                beyond = min(first + SIDE, n)
                i = first
                while i < beyond:
                    rows = rows_at_once(beyond - i)
                    combine(y, l, i, lo, address(x, k * n + i), count, rows, ahead)
                    i += rows
            for i in range(count):
                x[k, lo + i] -= found[i]
        j = end
    for k in range(x.shape[0]):
        for i in range(hi - 1, lo - 1, -1):
            x[k, i] /= a[i, i]
            for m in range(lo, i):
                x[k, m] -= a[i, m] * x[k, i]
    publish(counters, zero, t + 1)


@driver
def _forwards(launch, l, a, x, counters, sums):
    for_each(launch, _forward, (l.n + SIDE - 1) // SIDE, (l, a, x, counters, sums))


@driver
def _backwards(launch, l, a, x, counters, sums):
    for_each(launch, _backward, (l.n + SIDE - 1) // SIDE, (l, a, x, counters, sums))


def substitute(l, x):
    # l  IN READ-ONLY (n, n) C order, real; lower triangle with a positive diagonal
    # x  INOUT (k, n) l's dtype
    """x[c] <- (L L')^-1 x[c]."""
    k, n = x.shape
    if not x.size:
        return
    rows = real_rows(l, l[0, :0])
    sums = aligned((threads.max_threads(), 2 * SIDE), l.dtype)
    parallel = n * n * k >= PARALLEL
    for sweep in (_forwards, _backwards):
        run_blocks(sweep, parallel, rows, l, x, np.zeros(8, np.int64), sums)
