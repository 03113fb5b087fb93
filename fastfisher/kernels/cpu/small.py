"""A whole damped primal solve of a few parameters in one call: products, factor, certificate.

Below some dozens of parameters the calls between kernels cost more than the arithmetic.
"""

import numpy as np

from .jit import kernel
from .power import power_steps, range_safe_norm
from .threads import driver

__all__ = ["primal_small"]

HEAD = 4  # numbers of the report before those of the right-hand sides


@kernel
def _fisher(F, a, weights, total):
    """F = a' diag(weights) a / total, in double; its largest diagonal element."""
    n, p = a.shape
    F[:] = 0
    for k in range(n):
        w = weights[k] if weights.size > 0 else 1.0
        for i in range(p):
            x = w * a[k, i]
            for j in range(i + 1):
                F[i, j] += x * a[k, j]
    largest = 0.0
    for i in range(p):
        for j in range(i + 1):
            F[i, j] /= total
            F[j, i] = F[i, j]
        if not F[i, i] <= largest:  # NaN too
            largest = F[i, i]
    return largest


@kernel
def _factor(F):
    """Cholesky factor in place of the lower triangle; 0 or the failing order."""
    for j in range(len(F)):
        for i in range(j, len(F)):
            value = F[i, j]
            for k in range(j):
                value -= F[i, k] * F[j, k]
            if i > j:
                F[i, j] = value / F[j, j]
            elif value > 0 and np.isfinite(value):
                F[j, j] = np.sqrt(value)
            else:
                return j + 1
    return 0


@kernel
def _substitute(L, x):
    p = len(x)
    for i in range(p):
        for k in range(i):
            x[i] -= L[i, k] * x[k]
        x[i] /= L[i, i]
    for i in range(p - 1, -1, -1):
        for k in range(i + 1, p):
            x[i] -= L[k, i] * x[k]
        x[i] /= L[i, i]


@kernel
def _residual(r, a, weights, total, added, x, b):
    """r = b - (F + added I) x from the scores."""
    for j in range(len(r)):
        r[j] = 0
    for k in range(a.shape[0]):
        t = 0.0
        for j in range(len(r)):
            t += a[k, j] * x[j]
        if weights.size > 0:
            t *= weights[k]
        for j in range(len(r)):
            r[j] += t * a[k, j]
    for j in range(len(r)):
        r[j] = b[j] - r[j] / total - added * x[j]


@driver
def _primal_small(launch, x, report, a, weights, b, damping, share, single):
    p = a.shape[1]
    total = np.float64(a.shape[0])
    if weights.size > 0:
        total = 0.0
        for weight in weights:
            total += weight
    F, r, y = np.empty((p, p)), np.empty(p), np.empty(p)
    report[0] = _fisher(F, a, weights, total)
    trace = 0.0
    for i in range(p):
        trace += F[i, i]
    added = damping + share * (trace / p)
    norm = power_steps(F, r, y) + added
    report[1], report[2] = trace, added
    for i in range(p):
        F[i, i] += added
    report[3] = _factor(F)
    if report[3] != 0:
        return
    for c in range(len(b)):
        for i in range(p):
            x[c, i] = b[c, i]
        _substitute(F, x[c])
        if single:  # the residual is that of x as it will be returned
            for i in range(p):
                x[c, i] = np.float32(x[c, i])
        _residual(r, a, weights, total, added, x[c], b[c])
        size, given = range_safe_norm(r), range_safe_norm(b[c])
        report[HEAD + 2 * c] = size / given if given > 0 else size
        scale = norm * range_safe_norm(x[c]) + given
        report[HEAD + 2 * c + 1] = size / scale if scale > 0 else size


def primal_small(x, report, a, weights, b, damping, share):
    # x        OUT (k, p) double
    # report   OUT (4 + 2 k) double: largest element and trace of diag F, what was added to it, 0 or
    #          the failing order; then relative residual and backward error of each solution
    # a        IN READ-ONLY (n, p) real, C order, n and p > 0;  weights IN (n,) double, or (0,)
    # b        IN (k, p) double;  damping, share  IN lambda = damping + share * trace(F) / p
    """x[c] = (F + lambda I)^-1 b[c], F = a' diag(weights) a / sum(weights), with a certificate."""
    # Compiled for double only: so few scores are cast faster than another kernel is loaded.
    single = a.dtype.itemsize == 4
    _primal_small(x, report, a.astype(float, copy=False), weights, b, damping, share, single)
