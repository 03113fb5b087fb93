"""Sums and maxima along rows (k, m) on the device, in double.

Trees of fixed shape over shares of fixed size: the bits depend on sizes alone.
"""

import functools
import math

import numpy as np

from . import compat
from .compat import cuda
from .ranges import tame_factor

__all__ = ["THREADS", "dots", "largest", "least", "logarithms", "norms", "shares", "totals"]

THREADS = 2 if compat.SIMULATED else 256  # of a block, at most; a power of two
SHARES = 64  # of a row, at most
SHARE = 2048  # elements of a share, at least


def shares(m):
    """(elements of a share, number of them) of a row of m elements."""
    share = max(-(-m // SHARES), SHARE)
    return share, max(-(-m // share), 1)


@functools.cache
def _reduction(what, threads):
    """(shares of each row -> partial, partial -> one number per row)."""
    least, maximum, product = what == "least", what == "largest", what == "dots"
    logarithm, norm = what == "logarithms", what == "norms"
    start = np.inf if least else 0.0

    @cuda.jit
    def first(partial, x, y, share):
        s = cuda.shared.array((threads,), compat.types.float64)
        t, row = cuda.threadIdx.x, cuda.blockIdx.x
        lo = cuda.blockIdx.y * share
        value = start
        factor = tame_factor(y[row, 0]) if norm else 1.0
        for i in range(lo + t, min(lo + share, x.shape[1]), threads):
            if maximum:
                size = abs(float(x[row, i]))
                if not (size <= value or value != value):
                    value = size
            elif least:
                if not (x[row, i] >= value or value != value):
                    value = float(x[row, i])
            elif product:
                value += float(x[row, i]) * float(y[row, i])
            elif norm:
                size = float(x[row, i]) * factor
                value += size * size
            elif logarithm:
                value += math.log(x[row, i]) if x[row, i] > 0 else math.nan
            else:
                value += float(x[row, i])
        s[t] = value
        cuda.syncthreads()
        half = threads // 2
        while half > 0:
            if t < half:
                if maximum:
                    if not (s[t + half] <= s[t] or s[t] != s[t]):
                        s[t] = s[t + half]
                elif least:
                    if not (s[t + half] >= s[t] or s[t] != s[t]):
                        s[t] = s[t + half]
                else:
                    s[t] += s[t + half]
            cuda.syncthreads()
            half //= 2
        if t == 0:
            partial[row, cuda.blockIdx.y] = s[0]

    @cuda.jit
    def second(out, partial, y):
        row = cuda.grid(1)
        if row < out.shape[0]:
            value = partial[row, 0]
            for i in range(1, partial.shape[1]):
                if maximum:
                    if not (partial[row, i] <= value or value != value):
                        value = partial[row, i]
                elif least:
                    if not (partial[row, i] >= value or value != value):
                        value = partial[row, i]
                else:
                    value += partial[row, i]
            out[row] = math.sqrt(value) / tame_factor(y[row, 0]) if norm else value

    return first, second


def _reduce(what, out, x, y):
    k, m = x.shape
    if k == 0:
        return
    share, count = shares(m)
    threads = min(THREADS, 1 << max(min(m, share) - 1, 0).bit_length())
    first, second = _reduction(what, threads)
    partial = compat.empty((k, count), np.float64)
    # Only the first direction of a grid goes beyond 65535.
    compat.launch(first, (k, count), threads, partial, x, y, share)
    compat.launch(second, -(-k // THREADS), min(k, THREADS), out, partial, y)


def dots(out, x, y):
    # out  OUT (k,) double;  x, y  IN READ-ONLY (k, m)
    """out[i] = sum_j x[i, j] y[i, j]."""
    _reduce("dots", out, x, y)


def norms(out, x):
    # out  OUT (k,) double;  x  IN READ-ONLY (k, m)
    """out[i] = |x[i]|, also where squares of elements leave the range."""
    sizes = compat.empty((x.shape[0], 1), np.float64)
    largest(sizes.reshape(x.shape[0]), x)
    _reduce("norms", out, x, sizes)


def totals(out, x):
    # out  OUT (k,) double;  x  IN READ-ONLY (k, m)
    """out[i] = sum_j x[i, j]."""
    _reduce("totals", out, x, x)


def logarithms(out, x):
    # out  OUT (k,) double;  x  IN READ-ONLY (k, m)
    """out[i] = sum_j log x[i, j], NaN where one is not positive."""
    _reduce("logarithms", out, x, x)


def largest(out, x):
    # out  OUT (k,) double;  x  IN READ-ONLY (k, m)
    """out[i] = max_j |x[i, j]|, NaN if there is one."""
    _reduce("largest", out, x, x)


def least(out, x):
    # out  OUT (k,) double;  x  IN READ-ONLY (k, m)
    """out[i] = min_j x[i, j], NaN if there is one."""
    _reduce("least", out, x, x)
