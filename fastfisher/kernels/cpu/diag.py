"""Weighted squares of columns, and the search for what is not finite."""

import numpy as np

from .jit import driver, kernel
from .matvec import BLOCK, STRIPE, block_sums, stripes
from .parallel import for_each
from .rows import GROUP, add_squares, real_rows
from .simd import address

__all__ = ["diag", "scan"]


@kernel
def _diag_task(t, parts, x, first, weights):
    """Task: a block of samples, a stripe of columns."""
    count = stripes(x.width)
    b, j0 = t // count, t % count * STRIPE
    own = parts[b].reshape(parts[b].size)
    columns = min(STRIPE, x.width - j0)
    own[j0 : j0 + columns] = 0
    ones = np.ones(GROUP, parts.dtype)
    weighted = weights.size > 0
    factors = address(weights, np.int64(0)) if weighted else address(ones, np.int64(0))
    i, i1 = first + b * BLOCK, min(first + (b + 1) * BLOCK, x.n)
    while i < i1:
        rows = GROUP if i + GROUP <= i1 else 1
        at = i if weighted else np.int64(0)
        add_squares(own, j0, x, i, j0, factors, at, columns, rows == GROUP, x.ahead, x.ahead)
        i += rows


@driver
def _diag(launch, parts, x, first, weights):
    for_each(launch, _diag_task, parts.shape[0] * stripes(x.width), (parts, x, first, weights))


@kernel
def _scan_task(t, bad, largest, a):
    largest[t] = 0
    for i in range(t * BLOCK, min((t + 1) * BLOCK, a.shape[0])):
        bad[i] = False
        for j in range(a.shape[1]):
            x = abs(a[i, j])
            if not np.isfinite(x):
                bad[i] = True
            elif x > largest[t]:
                largest[t] = x


@driver
def _scan(launch, bad, largest, a):
    for_each(launch, _scan_task, largest.shape[0], (bad, largest, a))


def diag(y, a, weights, shift):
    # y        INOUT (p,) double
    # a        IN READ-ONLY (n, p) C order
    # weights  IN (n,) or (0,) real;  shift  IN (p,) or (0,)
    """y[j] += sum_i weights_i |a_ij - shift_j|^2."""
    if a.size:
        x = real_rows(a, shift)
        (z,) = block_sums(x, 1, a.real.dtype, lambda parts, first: _diag(parts, x, first, weights))
        y += z.reshape(len(y), -1).sum(axis=1)


def scan(bad, a):
    # bad  OUT (n,) bool
    # a    IN READ-ONLY (n, p) C order
    """Mark the rows that are not finite; the largest finite |real or imaginary part|."""
    bad[:] = False
    if not a.size:
        return 0.0
    largest = np.empty(-(-a.shape[0] // BLOCK), np.float64)
    _scan(bad, largest, a.view(np.empty(0, a.dtype).real.dtype))
    return float(largest.max())
