"""Weighted squares of columns, and the search for what is not finite."""

import math

import numpy as np

from .jit import kernel
from .parallel import for_each
from .row_passes import MANY
from .rows import add_squares, real_rows, rows_at_once
from .simd import address, clear
from .splitting import BLOCK_ROWS
from .sums import STRIPE, block_sums, stripes
from .threads import driver

__all__ = ["diag", "scan"]

FEW = 1 << 13  # scores that NumPy looks through before a kernel would have begun
SCANNED = 1 << 20  # bytes of a task that looks for what is not finite


@kernel
def _diag_task(t, thread, parts, x, first, factors, weighted):
    """Task: a block of samples, a stripe of columns."""
    count = stripes(x.width)
    b, j0 = t // count, t % count * STRIPE
    columns = min(STRIPE, x.width - j0)
    y = address(parts, b * parts.shape[2] + j0)
    clear(y, columns * x.bytes)
    i, i1 = first + b * BLOCK_ROWS, min(first + (b + 1) * BLOCK_ROWS, x.n)
    while i < i1:
        rows = rows_at_once(i1 - i)
        s = address(factors, i if weighted else np.int64(0))
        add_squares(y, x, i, j0, s, columns, rows, x.ahead)
        i += rows


@driver
def _diag(launch, parts, x, first, factors, weighted):
    tasks = parts.shape[0] * stripes(x.width)
    for_each(launch, _diag_task, tasks, (parts, x, first, factors, weighted))


@kernel
def _scan_task(t, thread, bad, largest, bits, share, magnitude, infinity):
    """Task: `share` samples. Magnitudes are ordered as their bits are, in every format."""
    largest[t] = 0
    none = most = largest[t]
    for i in range(t * share, min((t + 1) * share, bits.shape[0])):
        highest = none
        for j in range(bits.shape[1]):
            highest = max(highest, bits[i, j] & magnitude)
        if highest >= infinity:
            bad[i], highest = True, none
            for j in range(bits.shape[1]):
                x = bits[i, j] & magnitude
                if x < infinity:
                    highest = max(highest, x)
        most = max(most, highest)
    largest[t] = most


@driver
def _scan(launch, bad, largest, bits, share, magnitude, infinity):
    for_each(launch, _scan_task, largest.shape[0], (bad, largest, bits, share, magnitude, infinity))


def diag(y, a, weights, shift):
    # y        INOUT (p,) double
    # a        IN READ-ONLY (n, p) C order
    # weights  IN (n,) or (0,) real;  shift  IN (p,) or (0,)
    """y[j] += sum_i weights_i |a_ij - shift_j|^2."""
    if a.size:
        z = _diag_sums(a, weights, shift)
        y += z if z.size == y.size else z.reshape(len(y), -1).sum(axis=1)


def _diag_sums(a, weights, shift):
    """The sums of squares of (re, im) rows."""
    x, weighted = real_rows(a, shift, once=True, rows=MANY), bool(weights.size)
    factors = weights if weighted else np.ones(MANY, shift.real.dtype)

    def call(parts, first):
        _diag(parts, x, first, factors, weighted)

    return block_sums(x, 1, factors.dtype, call)[0]


diag.sums = _diag_sums


def scan(bad, a):
    # bad  OUT (n,) bool
    # a    IN READ-ONLY (n, p) C order
    """Mark the rows that are not finite; the largest finite |real or imaginary part|."""
    bad[:] = False
    if not a.size:
        return 0.0
    real = a.real.dtype
    if a.size <= FEW and real.itemsize > 2:
        largest = float(np.abs(a.view(real)).max())
        if largest < math.inf:
            return largest
    bits = a.view(f"u{real.itemsize}")
    infinity = np.full(1, np.inf, real).view(bits.dtype)[0]
    share = min(max(SCANNED // (a.shape[1] * a.itemsize), 1), BLOCK_ROWS)
    largest = np.empty(-(-a.shape[0] // share), bits.dtype)
    magnitude = np.iinfo(bits.dtype).max >> 1
    _scan(bad, largest, bits, share, bits.dtype.type(magnitude), infinity)
    return float(largest.max(keepdims=True).view(real)[0])
