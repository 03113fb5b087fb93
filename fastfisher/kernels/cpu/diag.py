"""Weighted squares of columns, and the search for what is not finite."""

import numpy as np

from .jit import driver, kernel
from .matvec import BLOCK, STRIPE, block_sums
from .parallel import for_each

__all__ = ["diag", "scan"]


@kernel
def _diag_task(task, parts, a, i0, weights, shift):
    stripes = (a.shape[1] + STRIPE - 1) // STRIPE
    b, s = task // stripes, task % stripes
    k0 = i0 + b * BLOCK
    for i in range(k0, min(k0 + BLOCK, a.shape[0])):
        w = weights[i] if weights.size > 0 else weights.dtype.type(1)
        for j in range(s * STRIPE, min((s + 1) * STRIPE, a.shape[1])):
            x = a[i, j]
            if shift.size > 0:
                x = x - shift[j]
            parts[b, j] += w * (x * x.conjugate()).real


@driver
def _diag(launch, parts, a, i0, weights, shift):
    stripes = (a.shape[1] + STRIPE - 1) // STRIPE
    for_each(
        launch,
        _diag_task,
        parts.shape[0] * stripes,
        (
            parts,
            a,
            i0,
            weights,
            shift,
        ),
    )


@kernel
def _scan_task(task, bad, largest, a):
    t = task
    largest[t] = 0
    for i in range(t * BLOCK, min((t + 1) * BLOCK, a.shape[0])):
        bad[i] = False
        for j in range(a.shape[1]):
            x = max(abs(a[i, j].real), abs(a[i, j].imag))
            if not np.isfinite(a[i, j]):
                bad[i] = True
            elif x > largest[t]:
                largest[t] = x


@driver
def _scan(launch, bad, largest, a):
    for_each(
        launch,
        _scan_task,
        largest.shape[0],
        (
            bad,
            largest,
            a,
        ),
    )


def diag(y, a, weights, shift):
    # y        INOUT (p,) double
    # a        IN READ-ONLY (n, p) C order
    # weights  IN (n,) or (0,) real;  shift  IN (p,) or (0,)
    """y[j] += sum_i weights_i |a_ij - shift_j|^2."""
    if a.size:
        block_sums(
            y, a.shape[0], a.real.dtype, lambda parts, i0: _diag(parts, a, i0, weights, shift)
        )


def scan(bad, a):
    # bad  OUT (n,) bool
    # a    IN READ-ONLY (n, p) C order
    """Mark the rows that are not finite; the largest finite |real or imaginary part|."""
    bad[:] = False
    if not a.size:
        return 0.0
    largest = np.empty(-(-a.shape[0] // BLOCK), np.float64)
    _scan(bad, largest, a)
    return float(largest.max())
