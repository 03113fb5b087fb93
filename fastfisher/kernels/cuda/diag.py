"""Weighted squares of columns, and the search for what is not finite."""

import functools
import math

import numpy as np

from . import compat
from .compat import cuda, types
from .rows import add_sums
from .staging import HALVES, flat, formats

__all__ = ["diag", "scan"]

THREADS = 4 if compat.SIMULATED else 128


@functools.cache
def _scan_rows(storage):
    """Kernel: a row per block."""
    half, widen = storage in HALVES, HALVES.get(storage, compat.from_float16)

    @compat.kernel(THREADS)
    def scan_rows(bad, largest, a, p):
        t, i = cuda.threadIdx.x, cuda.blockIdx.x
        found = cuda.shared.array(THREADS, types.float64)
        odd = cuda.shared.array(THREADS, types.int32)
        most, count = 0.0, 0
        for j in range(t, p, THREADS):
            x = widen(a[i * p + j]) if half else a[i * p + j]
            if math.isnan(x) or math.isinf(x):
                count = 1
            else:
                most = max(most, abs(float(x)))
        found[t], odd[t] = most, count
        reach = THREADS // 2
        while reach > 0:
            cuda.syncthreads()
            if t < reach:
                found[t] = max(found[t], found[t + reach])
                odd[t] = max(odd[t], odd[t + reach])
            reach //= 2
        if t == 0:
            bad[i] = odd[0] != 0
            largest[i] = found[0]

    return scan_rows


@compat.kernel(THREADS)
def _largest(out, x):
    t = cuda.threadIdx.x
    found = cuda.shared.array(THREADS, types.float64)
    most = 0.0
    for i in range(t, x.size, THREADS):
        most = max(most, x[i])
    found[t] = most
    reach = THREADS // 2
    while reach > 0:
        cuda.syncthreads()
        if t < reach:
            found[t] = max(found[t], found[t + reach])
        reach //= 2
    if t == 0:
        out[0] = found[0]


def diag(y, a, weights, shift):
    # y        INOUT (p,) double
    # a        IN READ-ONLY (n, p) C order
    # weights  IN (n,) or (0,) real;  shift  IN (p,) or (0,)
    """y[j] += sum_i weights_i |a_ij - shift_j|^2."""
    if a.size:
        y = y.reshape(1, y.size)
        add_sums("diag", y, a, y[:, :0], weights, shift)


def scan(bad, a):
    # bad  OUT (n,) bool
    # a    IN READ-ONLY (n, p) C order
    """Mark the rows that are not finite; the largest finite magnitude, (1,) on the device."""
    n, p = a.shape
    largest, out = compat.empty(n, np.float64), compat.empty(1, np.float64)
    if n:
        compat.launch(_scan_rows(formats(a)[1]), n, THREADS, bad, largest, flat(a), p)
    compat.launch(_largest, 1, THREADS, out, largest)
    return out
