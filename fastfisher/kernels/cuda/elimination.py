"""Cholesky and substitution of many small systems in shared memory, a lane per row.

Functions over s (systems, lanes, pitch), the lower triangle of system w in s[w]; row i is lane i's.
All lanes of the warp or thread block that works on a system must call them.
"""

import functools
import math

from . import compat
from .compat import device

__all__ = ["elimination", "fetch_lower", "substitution"]


@functools.cache
def fetch_lower(lanes):
    """Copy the lower triangle of a (p, p) into s[w], a lane per column of a row."""

    @device
    def fetch(s, w, i, a, p):
        for r in range(p):
            for c in range(i, r + 1, lanes):
                s[w, r, c] = a[r, c]

    return fetch


@functools.cache
def elimination(dtype, alone):
    """s[w] <- L, but for its diagonal; `alone`: by a warp, not a thread block.

    Returns (0 or the order of the failing pivot, the diagonal element of L that is lane i's).
    """
    one, zero, infinity = dtype.type(1), dtype.type(0), dtype.type(math.inf)
    barrier = compat.barrier(alone)

    @device
    def factor(s, w, i, p, active):
        bad, mine = 0, one
        for j in range(p):
            if active and j <= i < p:
                total = s[w, i, j]
                for k in range(j):
                    total -= s[w, i, k] * s[w, j, k]
                s[w, i, j] = total
            barrier()
            pivot = s[w, j, j] if active else one
            if not (pivot > zero and pivot < infinity):
                if bad == 0:
                    bad = j + 1
                pivot = one
            root = math.sqrt(pivot)
            if i == j:
                mine = root
            elif active and j < i < p:
                s[w, i, j] /= root
            barrier()
        return bad, mine

    return factor


@functools.cache
def substitution(alone):
    """(L L')^-1 of a right-hand side: lane i brings and gets element i, and its diagonal of L.

    v (systems, lanes) is where lanes meet; it holds the solution in the end.
    """
    barrier = compat.barrier(alone)

    @device
    def solve(s, v, w, i, p, active, value, mine):
        for j in range(p):
            if i == j:
                value /= mine
                v[w, j] = value
            barrier()
            if active and j < i < p:
                value -= s[w, i, j] * v[w, j]
        for r in range(p):
            j = p - 1 - r
            if i == j:
                value /= mine
                v[w, j] = value
            barrier()
            if active and i < j:
                value -= s[w, j, i] * v[w, j]
        return value

    return solve
