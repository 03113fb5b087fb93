"""Sums over rows of scores that a block of threads holds in registers, and folds of such sums.

Blocks of BLOCK samples are summed in the dtype of the scores, in order, and their sums are folded
in double, GROUP at a time, in order.
"""

import functools
from dataclasses import dataclass

import numpy as np

from . import SAMPLES, compat
from .compat import cuda, types
from .staging import HALVES, flat, formats

__all__ = ["BLOCK", "WIDEST", "add_sums", "fold", "groups", "team"]

BLOCK = 8 if compat.SIMULATED else SAMPLES  # samples per partial sum
GROUP = 4 if compat.SIMULATED else 64  # partial sums that a thread adds
THREADS = 4 if compat.SIMULATED else 256  # of a fold
LEAST, MOST = (2, 4) if compat.SIMULATED else (32, 512)  # threads of a team
HELD = 4 if compat.SIMULATED else 16  # elements of a row in the registers of a thread
SHARED = 4096  # doubles in which the threads of a team meet
WIDEST = MOST * HELD  # columns of a row that a team can hold


@dataclass(frozen=True)
class Team:
    """Threads that hold `rows` rows, a thread `held` elements of each, for `vectors` at a time."""

    threads: int
    held: int
    rows: int
    vectors: int


def team(width, k):
    """The team for rows of this width and k vectors: (rows + 2 vectors) held <= 48 numbers."""
    threads, held, vectors = LEAST, 1, 1
    while threads < MOST and threads * 4 < width:
        threads *= 2
    while held < HELD and threads * held < width:
        held *= 2
    while 2 * vectors * held <= 12 and 2 * vectors <= min(k, 4):
        vectors *= 2
    rows = min(4, 16 // held, SHARED // (threads * vectors))
    return Team(threads, held, rows, vectors)


def groups(k, most):
    """(first, count) of the groups of vectors that a kernel handles at a time."""
    at = 0
    while at < k:
        count = most
        while count > k - at:
            count //= 2
        yield at, count
        at += count


@functools.cache
def _sums(mode, dtype, storage, by):
    """Kernel: sums over a block of samples. `mode`: fvp, rmatvec or diag."""
    number = types.float32 if dtype == "float32" else types.float64
    fused, squared, half = mode == "fvp", mode == "diag", storage in HALVES
    widen = HALVES.get(storage, compat.from_float16)
    threads, held, rows, vectors = by.threads, by.held, by.rows, by.vectors
    length, sums, pairs = rows * held, vectors * held, rows * vectors
    room = pairs * threads if fused else 1

    @compat.kernel(threads)
    def add(parts, a, n, p, v, weights, shift):
        t, b = cuda.threadIdx.x, cuda.blockIdx.x
        first = cuda.blockIdx.y * threads * held + t
        tree = cuda.shared.array(room, types.float64)
        x = cuda.local.array(length, number)
        factors = cuda.local.array(sums, number)
        acc = cuda.local.array(sums, number)
        for c in range(held):
            j = first + c * threads
            for q in range(vectors):
                acc[q * held + c] = 0
                factors[q * held + c] = v[q * p + j] if fused and j < p else 0
        last = min((b + 1) * BLOCK, n)
        for i in range(b * BLOCK, last, rows):
            for r in range(rows):
                for c in range(held):
                    j = first + c * threads
                    y = number(0)
                    if i + r < last and j < p:
                        y = widen(a[(i + r) * p + j]) if half else a[(i + r) * p + j]
                        if shift.size > 0:
                            y -= shift[j]
                    x[r * held + c] = y
            if fused:
                for r in range(rows):
                    for q in range(vectors):
                        dot = x[r * held] * factors[q * held]
                        for c in range(1, held):
                            dot += x[r * held + c] * factors[q * held + c]
                        tree[(r * vectors + q) * threads + t] = dot
                reach = threads // 2
                while reach > 0:
                    cuda.syncthreads()
                    if t < reach:
                        for e in range(pairs):
                            tree[e * threads + t] += tree[e * threads + t + reach]
                    reach //= 2
                cuda.syncthreads()
            for r in range(rows):
                if i + r < last:
                    for q in range(vectors):
                        if fused:
                            factor = number(tree[(r * vectors + q) * threads])
                            if weights.size > 0:
                                factor *= weights[i + r]
                        elif squared:
                            factor = weights[i + r] if weights.size > 0 else number(1)
                        else:
                            factor = v[q * n + i + r]
                        for c in range(held):
                            y = x[r * held + c]
                            acc[q * held + c] += y * factor * y if squared else y * factor
            if fused:
                cuda.syncthreads()
        for q in range(vectors):
            for c in range(held):
                j = first + c * threads
                if j < p:
                    parts[(b * vectors + q) * p + j] = acc[q * held + c]

    return add


@compat.kernel(THREADS)
def _fold(out, parts, count, width, add):
    e = cuda.grid(1)
    g, w = e // width, e % width
    lo = g * GROUP
    if lo < count:
        total = parts[lo * width + w]
        for z in range(lo + 1, min(lo + GROUP, count)):
            total += parts[z * width + w]
        out[e] = out[e] + total if add else total


def fold(y, parts, count, width, add):
    # y      INOUT (width,) double;  parts  (count, width) double, flat
    """y = the sum of the parts, or y +=; groups in order, then groups of these."""
    while True:
        left = -(-count // GROUP)
        out = y if left == 1 else compat.empty(left * width, np.float64)
        blocks = -(-left * width // THREADS)
        compat.launch(_fold, blocks, THREADS, out, parts, count, width, int(add and left == 1))
        if left == 1:
            return
        parts, count = out, left


def add_sums(mode, y, a, v, weights, shift):
    """y[c] += sums over all samples of `a`, for every row of v; y (k, p), v flat but for rows."""
    n, p = a.shape
    for at, count in groups(len(y), team(p, len(y)).vectors):
        by = team(p, count)
        kernel, blocks, width = _sums(mode, *formats(a), by), -(-n // BLOCK), count * p
        parts = compat.empty(blocks * width, np.float64)
        grid = blocks, -(-p // (by.threads * by.held))
        vectors = flat(v[at : at + count])
        compat.launch(kernel, grid, by.threads, parts, flat(a), n, p, vectors, weights, shift)
        fold(flat(y[at : at + count]), parts, blocks, width, True)
