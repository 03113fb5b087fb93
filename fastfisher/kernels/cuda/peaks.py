"""The largest score of every column or row on the device; NaN and Inf stay."""

import functools

import numpy as np

from . import compat
from .compat import cuda, device, types
from .staging import HALVES, flat, formats
from .vectors import per_element

__all__ = ["peaks"]

ROWS = 4 if compat.SIMULATED else 256  # of a share, by rows
THREADS = 4 if compat.SIMULATED else 256  # of a row, otherwise; a power of two


@device
def _larger(x, y):
    """The larger of two magnitudes; NaN stays."""
    return x if x >= y or x != x else y


@functools.cache
def _largest(dtype, storage):
    """(of each column in a share of the rows, of these, of a row)."""
    half, threads = storage in HALVES, THREADS
    widen = HALVES.get(storage, compat.from_float16)

    @device
    def size(a, i, j, p, scale, shift):
        x = widen(a[i * p + j]) if half else a[i * p + j]
        if shift.size > 0:
            x -= shift[j]
        if scale.size > 0:
            x *= scale[i]
        return abs(float(x))

    @cuda.jit
    def of_columns(parts, a, n, p, scale, shift):
        e = cuda.grid(1)
        if e < parts.size:
            share, j, value = e // p, e % p, 0.0
            for i in range(share * ROWS, min((share + 1) * ROWS, n)):
                value = _larger(value, size(a, i, j, p, scale, shift))
            parts[e] = value

    @cuda.jit
    def of_shares(y, parts):
        j = cuda.grid(1)
        if j < y.size:
            value = y[j]
            for e in range(j, parts.size, y.size):
                value = _larger(value, parts[e])
            y[j] = value

    @compat.kernel(threads)
    def of_rows(y, a, p, none, shift):
        s = cuda.shared.array((threads,), types.float64)
        t, i, value = cuda.threadIdx.x, cuda.blockIdx.x, 0.0
        for j in range(t, p, threads):
            value = _larger(value, size(a, i, j, p, none, shift))
        s[t] = value
        cuda.syncthreads()
        reach = threads // 2
        while reach > 0:
            if t < reach:
                s[t] = _larger(s[t], s[t + reach])
            cuda.syncthreads()
            reach //= 2
        if t == 0:
            y[i] = _larger(y[i], s[0])

    return of_columns, of_shares, of_rows


def peaks(y, a, by_rows, scale, shift):
    # y      INOUT (p,) or (n,) double;  a  IN READ-ONLY (n, p) C order
    # scale  IN (n,) or (0,), only by rows;  shift  IN (p,) or (0,), as computed
    """y = max(y, |scale_k (a_kj - shift_j)|) over the rows k, or over the columns j; keeps NaN."""
    n, p = a.shape
    if not (n and p):
        return
    of_columns, of_shares, of_rows = _largest(*formats(a))
    if by_rows:
        parts = compat.empty((-(-n // ROWS) * p,), np.float64)
        per_element(of_columns, parts.size, parts, flat(a), n, p, scale, shift)
        per_element(of_shares, p, y, parts)
    else:
        compat.launch(of_rows, n, THREADS, y, flat(a), p, scale[:0], shift)
