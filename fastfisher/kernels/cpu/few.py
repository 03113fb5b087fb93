"""Both triangular solves of a Cholesky factor for few right-hand sides: the factor is read twice.

Blocks of rows are tasks, in order; a task takes what the blocks before it give in groups, each as
soon as it is there. Vectors lie along the factor; in triangular.py they are of right-hand sides.
"""

import numpy as np

from . import threads
from .elimination import publish, run_blocks, wait_for
from .jit import kernel
from .memory import aligned
from .parallel import for_each
from .row_passes import GROUP
from .rows import combine, dots, real_rows, rows_at_once
from .simd import address
from .threads import driver

__all__ = ["MOST", "substitute"]

MOST = 2  # right-hand sides up to which a vector of eight or more would be wasted
SIDE = 64  # rows of a block; part of the numbers, as are
AHEAD = 8  # blocks that are taken together,
CORNER = 8  # and rows that are solved one after the other: everybody waits for them
PARALLEL = 1 << 17  # elements of the factor above which threads pay


@kernel
def _run(first, last, group):
    """Where the run of blocks from `first` on ends: whole groups of blocks, then single ones."""
    return first + (group if first + group <= last else 1)


@kernel
def _less_dots(l, x, k, at, count, lo, hi, found):
    """x_i -= l_i x for rows lo..hi, over the entries from `at` on."""
    i, v, ahead = lo, address(x, k * l.n + at), GROUP * l.width
    while i < hi:
        rows = GROUP if i + GROUP <= hi else 1
        dots(address(found, 0), l, i, at, v, count, rows, ahead)
        for r in range(rows):
            x[k, i + r] -= found[r]
        i += rows


@kernel
def _add_combined(l, x, k, at, count, lo, hi, found):
    """found += sum of x_i l_i for rows lo..hi, over the entries from `at` on."""
    i, ahead = lo, GROUP * l.width
    while i < hi:
        rows = rows_at_once(hi - i)
        combine(address(found, 0), l, i, at, address(x, k * l.n + i), count, rows, ahead)
        i += rows


@kernel
def _forward(t, thread, l, a, x, counters, sums):
    """Task: x_t = L_tt^-1 (x_t - sum_j<t L_tj x_j)."""
    zero = np.int64(0)
    lo, hi, found = t * SIDE, min((t + 1) * SIDE, l.n), sums[thread]
    j = zero
    while j < t:
        end = _run(j, t, np.int64(AHEAD))
        wait_for(counters, zero, end)
        for k in range(x.shape[0]):
            _less_dots(l, x, k, j * SIDE, (end - j) * SIDE, lo, hi, found)
        j = end
    for k in range(x.shape[0]):
        for first in range(lo, hi, CORNER):
            beyond = min(first + CORNER, hi)
            if first > lo:
                _less_dots(l, x, k, lo, first - lo, first, beyond, found)
            for m in range(first, beyond):
                x[k, m] /= a[m, m]
                for i in range(m + 1, beyond):
                    x[k, i] -= a[i, m] * x[k, m]
    publish(counters, zero, t + 1)


@kernel
def _backward(t, thread, l, a, x, counters, sums):
    """Task, from the last block on: x_b = L_bb^-' (x_b - sum_i>b L_ib' x_i)."""
    one, last = np.int64(1), (l.n + SIDE - 1) // SIDE - 1
    lo, hi = (last - t) * SIDE, min((last - t + 1) * SIDE, l.n)
    count, found = hi - lo, sums[thread]
    j = np.int64(0)
    while j < t:
        end = _run(j, t, np.int64(AHEAD))
        wait_for(counters, one, end)
        for k in range(x.shape[0]):
            found[:count] = 0
            for done in range(j, end):
                first = (last - done) * SIDE
                _add_combined(l, x, k, lo, count, first, min(first + SIDE, l.n), found)
            for i in range(count):
                x[k, lo + i] -= found[i]
        j = end
    for k in range(x.shape[0]):
        for corner in range((count - 1) // CORNER, -1, -1):
            first, beyond = lo + corner * CORNER, min(lo + (corner + 1) * CORNER, hi)
            for i in range(beyond - 1, first - 1, -1):
                x[k, i] /= a[i, i]
                for m in range(first, i):
                    x[k, m] -= a[i, m] * x[k, i]
            found[: first - lo] = 0
            _add_combined(l, x, k, lo, first - lo, first, beyond, found)
            for i in range(first - lo):
                x[k, lo + i] -= found[i]
    publish(counters, one, t + 1)


@driver
def _sweeps(launch, l, a, x, counters, sums):
    blocks = (l.n + SIDE - 1) // SIDE
    for_each(launch, _forward, blocks, (l, a, x, counters, sums))
    for_each(launch, _backward, blocks, (l, a, x, counters, sums))


def substitute(l, x):
    # l  IN READ-ONLY (n, n) C order, real; lower triangle with a positive diagonal
    # x  INOUT (k, n) l's dtype
    """x[c] <- (L L')^-1 x[c]."""
    k, n = x.shape
    if not x.size:
        return
    rows = real_rows(l, l[0, :0])
    sums = aligned((threads.max_threads(), 2 * SIDE), l.dtype)
    run_blocks(_sweeps, n * n * k >= PARALLEL, rows, l, x, np.zeros(16, np.int64), sums)
