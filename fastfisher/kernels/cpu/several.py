"""Products with several vectors, which are rows: A V', A'U' and the fused A'(w o (A V')).

Some rows at a time stay in L2 while tiles of vectors pass over them. Sums are cut as in matvec.py,
so every vector has the bits that it would have alone.
"""

import numpy as np

from ...machine import cache_sizes
from . import threads
from .jit import kernel
from .parallel import for_each
from .row_tiles import (
    COLUMNS,
    MOST,
    TILE_ROWS,
    add_rows,
    next_tile,
    packed_factors,
    packed_vectors,
    products,
)
from .simd import address, clear
from .splitting import BLOCK_ROWS, CHUNK_BYTES, one_pass, padded, resident_rows
from .sums import add_kept, block_sums, settle
from .threads import driver

__all__ = ["fvp", "matvec", "rmatvec", "weighted"]

VECTORS_BYTES = 24 << 10  # of vectors that rows pass by
LONG = 48  # rows of more columns than stay in L2, for each time that vectors are read
STRIPE = 11 * COLUMNS  # columns of a task that sums over samples


@kernel
def _span(k, x):
    """Columns of k vectors that stay in L1, in whole chunks; and of a chunk."""
    chunk = CHUNK_BYTES // x.bytes
    return max(VECTORS_BYTES // (k * x.bytes) // chunk, 1) * chunk, chunk


@kernel
def _add_span(out, x, tiles, lo, hi, v, k, j0, last, chunk, sums, carry):
    """sums += rows times the k packed vectors at v over columns j0..last, chunk by chunk."""
    i, ahead = lo, TILE_ROWS[k] * x.width
    while i < hi:
        whole = i + TILE_ROWS[k] <= hi
        at, some = (i - lo) * k, (TILE_ROWS[k] if whole else 1) * k
        for j in range(j0, last, chunk):
            row = v + j * k * x.bytes
            to, terms = address(out, at), min(chunk, last - j)
            products(to, x, tiles, i, whole, j, row, k, terms, ahead)
            add_kept(sums[at:], carry[at:], out[at:], some)
        i += TILE_ROWS[k] if whole else 1


@kernel
def _rows_times(out, x, tiles, lo, hi, v, first, last, sums, carry):
    """sums: tile by tile of vectors, rows times the packed vectors first..last, in double.

    While some columns of the rows are in L2, all vectors pass over them.
    """
    rows = hi - lo
    sums[: rows * (last - first)] = 0
    carry[: rows * (last - first)] = 0
    span, chunk = _span(min(MOST, last - first), x)
    for j in range(0, x.width, span):
        for c in range(first, last, MOST):
            k, at, end = min(MOST, last - c), (c - first) * rows, min(j + span, x.width)
            some = address(v, c * v.shape[1])
            _add_span(out, x, tiles, lo, hi, some, k, j, end, chunk, sums[at:], carry[at:])
    if x.width > chunk:
        settle(sums, carry, rows * (last - first))


@kernel
def _matvec_task(t, thread, y, x, tiles, v, share, step, work, pairs):
    """Task: `share` samples, `step` at a time."""
    i0, i1 = t * share, min((t + 1) * share, x.n)
    zero, out, sums, carry = np.int64(0), work[thread], pairs[thread, 0], pairs[thread, 1]
    for lo in range(i0, i1, step):
        hi = min(lo + step, i1)
        _rows_times(out, x, tiles, lo, hi, v, zero, v.shape[0], sums, carry)
        for c in range(0, v.shape[0], MOST):
            k = min(MOST, v.shape[0] - c)
            for r in range(hi - lo):
                for q in range(min(k, y.shape[0] - c)):
                    y[c + q, lo + r] = sums[c * (hi - lo) + r * k + q]


@driver
def _matvec(launch, y, x, tiles, v, share, step, work, pairs):
    args = (y, x, tiles, v, share, step, work, pairs)
    for_each(launch, _matvec_task, (x.n + share - 1) // share, args)


@kernel
def _rmatvec_task(t, thread, parts, x, tiles, first, u, step, block):
    """Task: a block of samples times a stripe of columns, `step` rows at a time."""
    count, k, ld = (x.width + STRIPE - 1) // STRIPE, parts.shape[1], parts.shape[2]
    b, j0 = t // count, t % count * STRIPE
    y, columns = b * k * ld + j0, min(STRIPE, x.width - j0)
    i0, i1 = first + b * block, min(first + (b + 1) * block, x.n)
    for c in range(k):
        clear(address(parts, y + c * ld), columns * x.bytes)
    for lo in range(i0, i1, step):
        hi = min(lo + step, i1)
        for c in range(0, k, MOST):
            kc = min(MOST, k - c)
            to, s = address(parts, y + c * ld), address(u, c * x.n + lo * kc)
            ahead = step * x.width if c == 0 else next_tile(kc, x.bytes)
            add_rows(to, ld, x, tiles, lo, hi, j0, s, kc, columns, ahead)


@driver
def _rmatvec(launch, parts, x, tiles, first, u, step, block):
    tasks = parts.shape[0] * ((x.width + STRIPE - 1) // STRIPE)
    for_each(launch, _rmatvec_task, tasks, (parts, x, tiles, first, u, step, block))


@kernel
def _weigh(out, sums, rows, k, weights, lo):
    """Factors in the precision of the vectors, times the weights of rows lo.."""
    for r in range(rows):
        for q in range(r * k, (r + 1) * k):
            out[q] = sums[q]
            if weights.size > 0:
                out[q] *= weights[lo + r]


@kernel
def _fvp_task(t, thread, parts, x, tiles, first, v, weights, step, work, pairs):
    """Task: a block of samples, `step` at a time: products, then what they add to the sums."""
    out, sums, carry = work[thread], pairs[thread, 0], pairs[thread, 1]
    k, ld = parts.shape[1], parts.shape[2]
    clear(address(parts, t * k * ld), k * ld * x.bytes)
    i0, i1 = first + t * BLOCK_ROWS, min(first + (t + 1) * BLOCK_ROWS, x.n)
    for lo in range(i0, i1, step):
        hi = min(lo + step, i1)
        for c in range(0, k, MOST):
            kc = min(MOST, k - c)
            _rows_times(out, x, tiles, lo, hi, v, c, c + kc, sums, carry)
            _weigh(out, sums, hi - lo, kc, weights, lo)
            y, s, zero = address(parts, (t * k + c) * ld), address(out, np.int64(0)), np.int64(0)
            ahead = next_tile(kc, x.bytes)
            add_rows(y, ld, x, tiles, lo, hi, zero, s, kc, x.width, ahead)


@driver
def _fvp(launch, parts, x, tiles, first, v, weights, step, work, pairs):
    args = (parts, x, tiles, first, v, weights, step, work, pairs)
    for_each(launch, _fvp_task, parts.shape[0], args)


def _pairs(rows, k=MOST):
    """Room for sums of so many rows and vectors, and their rounding errors, per thread."""
    return np.empty((threads.max_threads(), 2, rows * k))


def _step(columns, x, k, cache=None):
    """Rows of so many columns that are worked on, for `padded` vectors, while they are in L2."""
    return resident_rows(columns * x.stored, TILE_ROWS[min(MOST, k)], cache)


def weighted(products, dtype, weights):
    """Products in double as factors of the rows, in the precision of these."""
    with np.errstate(invalid="ignore", over="ignore"):  # an overflow is found in the result
        u = products.astype(dtype)
        if weights.size:
            u *= weights
    return u


def matvec(y, x, v, tiles):
    # y  OUT (k, n) double;  x  IN Rows;  v  IN (k, width);  tiles  IN address, as below
    """y[c] = x v[c]."""
    k = padded(len(v), MOST)
    share = -(-x.n // (2 * threads.max_threads()))
    share = min(max(share, TILE_ROWS[min(MOST, k)]), BLOCK_ROWS)
    step = min(max(_step(x.width, x, k), LONG), share)
    work = np.empty((threads.max_threads(), step * MOST), v.dtype)
    _matvec(y, x, tiles, packed_vectors(v), share, step, work, _pairs(step, k))


def rmatvec(x, u, tiles, block):
    # x  IN Rows;  u  IN (k, n);  tiles  IN `tile_address` of the scores;  block  IN rows of a sum
    """Sums over rows of x[i] u[c, i], (k, width) in double."""
    k, packed = padded(len(u), MOST), packed_factors(u)
    step = _step(min(x.width, STRIPE), x, k, cache_sizes()["L2"] if k <= MOST else None)

    def add(parts, first):
        _rmatvec(parts, x, tiles, first, packed, step, block)

    return block_sums(x, k, u.dtype, add, block)[: len(u)]


def fvp(x, v, weights, tiles):
    # x  IN Rows;  v  IN (k, width);  weights  IN (n,) or (0,);  tiles  IN address
    """Sums over rows of x[i] weights[i] (x[i] v[c]), (k, width) in double."""
    k = padded(len(v), MOST)
    if not one_pass(x.width, x.bytes, k):
        u = np.empty((len(v), x.n))
        matvec(u, x, v, tiles)
        u = weighted(u, v.dtype, weights)
        return rmatvec(x, u, tiles, BLOCK_ROWS)
    step, packed = _step(x.width, x, k), packed_vectors(v)
    work, pairs = np.empty((threads.max_threads(), step * MOST), v.dtype), _pairs(step)

    def add(parts, first):
        _fvp(parts, x, tiles, first, packed, weights, step, work, pairs)

    return block_sums(x, k, v.dtype, add)[: len(v)]
