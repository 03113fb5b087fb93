"""Passes over samples that are all alike: sums over few of them, which are added in pairs.

Long sums of equal numbers round one way.
"""

import numpy as np

from .kernels.cpu.splitting import FINE_ROWS
from .passes import _kernel, _part, _real, _shift, _weighed, sums_dtype

__all__ = ["fine_fvp", "fine_rmatvec"]


def fine_fvp(G, v, *, weights=None, shift=None):
    """(G - shift)' (weights o ((G - shift) v)) for rows v (k, p), in double."""
    G, shift = _weighed(G, weights, shift)
    v, weights = np.ascontiguousarray(v, dtype=G.dtype), _real(weights, G.dtype)
    kernel, halves = _kernel("fvp", len(v), G)

    def add(y, lo, hi):
        kernel(y, G.rows(lo, hi, halves=halves), v, _part(weights, lo, hi), shift)

    return _in_pairs(add, G, len(v))


def fine_rmatvec(G, u, *, shift=None):
    """(G - shift)' u for rows u (k, n), in double."""
    kernel, halves = _kernel("rmatvec", len(u), G)
    shift = _shift(shift, G.dtype)

    def add(y, lo, hi):
        part = np.ascontiguousarray(u[:, lo:hi], dtype=G.dtype)
        kernel(y, G.rows(lo, hi, halves=halves), part, shift)

    return _in_pairs(add, G, len(u))


def _in_pairs(add, G, k):
    """Sums (k, p) over all rows: `add(y, lo, hi)` a few to zeros; these are added in pairs."""
    n, p = G.shape
    sums = [np.zeros((k, p), sums_dtype(G.dtype))]
    for lo in range(0, n, FINE_ROWS):
        hi, pairs = lo + FINE_ROWS, lo // FINE_ROWS + 1
        sums.append(np.zeros_like(sums[0]))
        add(sums[-1], lo, min(hi, n))
        while len(sums) > 2 and (pairs % 2 == 0 or hi >= n):  # of as many rows, or the last ones
            last, pairs = sums.pop(), pairs // 2
            sums[-1] += last
    return sums[-1]
