"""Products with few vectors, which are rows: A v, A'u and the fused A'(w o (A v)).

A row of the fused product stays in the registers of its team between the two products.
"""

import functools

import numpy as np

from . import compat
from .compat import cuda, types
from .rows import WIDEST, add_sums, fold, groups
from .staging import HALVES, flat, formats

__all__ = ["fvp", "matvec", "rmatvec"]

CHUNK = 8  # terms that a thread sums in the dtype of the scores
VECTORS = 4  # at a time
ROWS = 2 if compat.SIMULATED else 4  # at a time
LEAST, MOST = (2, 4) if compat.SIMULATED else (32, 256)  # threads of a team
BLOCKS = 4 if compat.SIMULATED else 1024  # of threads wanted: few long rows are cut


@functools.cache
def _dots(dtype, storage, vectors, threads):
    """Kernel: products of ROWS rows with the vectors, over a share of the columns."""
    number = types.float32 if dtype == "float32" else types.float64
    half, widen = storage in HALVES, HALVES.get(storage, compat.from_float16)
    pairs = ROWS * vectors
    room = pairs * threads

    @compat.kernel(threads)
    def dots(parts, a, n, p, v, shift, share):
        t, i0 = cuda.threadIdx.x, cuda.blockIdx.x * ROWS
        lo = cuda.blockIdx.y * share
        hi = min(lo + share, p)
        tree = cuda.shared.array(room, types.float64)
        part = cuda.local.array(pairs, number)
        for e in range(pairs):
            tree[e * threads + t] = 0
        for start in range(lo + t, hi, threads * CHUNK):
            for e in range(pairs):
                part[e] = 0
            for c in range(CHUNK):
                j = start + c * threads
                if j < hi:
                    mean = shift[j] if shift.size > 0 else number(0)
                    for r in range(ROWS):
                        i = min(i0 + r, n - 1)
                        x = (widen(a[i * p + j]) if half else a[i * p + j]) - mean
                        for q in range(vectors):
                            part[r * vectors + q] += x * v[q * p + j]
            for e in range(pairs):
                tree[e * threads + t] += part[e]
        reach = threads // 2
        while reach > 0:
            cuda.syncthreads()
            if t < reach:
                for e in range(pairs):
                    tree[e * threads + t] += tree[e * threads + t + reach]
            reach //= 2
        if t == 0:
            for r in range(ROWS):
                if i0 + r < n:
                    for q in range(vectors):
                        place = (cuda.blockIdx.y * vectors + q) * n + i0 + r
                        parts[place] = tree[(r * vectors + q) * threads]

    return dots


@cuda.jit
def _weigh(u, t, weights):
    e = cuda.grid(1)
    if e < u.size:
        u[e] = t[e]
        if weights.size > 0:
            u[e] *= weights[e % weights.size]


def matvec(y, a, v, shift):
    # y      OUT (k, n) double
    # a      IN READ-ONLY (n, p) C order;  v  IN (k, p) as computed;  shift  IN (p,) or (0,)
    """y[c] = (a - shift) v[c]."""
    n, p = a.shape
    if not y.size:
        return
    threads = LEAST
    while threads < MOST and threads * CHUNK < p:
        threads *= 2
    blocks = -(-n // ROWS)
    share = -(-p // max(1, BLOCKS // blocks))
    share = max(-(-share // threads) * threads, threads * CHUNK)
    shares = max(-(-p // share), 1)
    for at, count in groups(len(v), VECTORS):
        out = flat(y[at : at + count])
        parts = out if shares == 1 else compat.empty(shares * count * n, np.float64)
        kernel, vectors = _dots(*formats(a), count, threads), flat(v[at : at + count])
        args = parts, flat(a), n, p, vectors, shift, share
        compat.launch(kernel, (blocks, shares), threads, *args)
        if shares > 1:
            fold(out, parts, shares, count * n, False)


def rmatvec(y, a, u, shift):
    # y      INOUT (k, p) double
    # a      IN READ-ONLY (n, p) C order;  u  IN (k, n) as computed;  shift  IN (p,) or (0,)
    """y[c] += (a - shift)' u[c]."""
    if a.size:
        add_sums("rmatvec", y, a, u, shift[:0], shift)


def fvp(y, a, v, weights, shift):
    # y        INOUT (k, p) double
    # a        IN READ-ONLY (n, p) C order;  v  IN (k, p) as computed
    # weights  IN (n,) or (0,) real;  shift  IN (p,) or (0,)
    """y[c] += (a - shift)' (weights o ((a - shift) v[c])); one pass while teams can hold rows."""
    if not (a.size and len(v)):
        return
    if a.shape[1] <= WIDEST:
        add_sums("fvp", y, a, v, weights, shift)
        return
    t = compat.empty((len(v), len(a)), np.float64)
    u = compat.empty(t.shape, v.dtype)
    matvec(t, a, v, shift)
    compat.launch(_weigh, -(-t.size // MOST), MOST, flat(u), flat(t), weights)
    rmatvec(y, a, u, shift)
