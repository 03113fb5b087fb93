"""Products with vectors, which are rows: A v, A'u and the fused A'(w o (A v)).

Sums over samples are cut into blocks of BLOCK_ROWS rows, sums along a row into chunks. Block and
chunk sums are added in double, in order, each with its rounding error kept (sums.py). Complex
scores are real rows of (re, im) pairs, complex vectors two real ones. Several vectors go through
tiles (several.py), to the same bits as each by itself.
"""

import numpy as np

from ...machine import cache_sizes
from . import several, strips, threads
from .jit import kernel
from .memory import aligned
from .parallel import for_each
from .row_passes import GROUP, MANY, TOGETHER
from .row_tiles import tile_address
from .rows import combine, dots, dots_and_combine, dots_at_once, real_rows, rows_at_once
from .simd import address, clear
from .splitting import BLOCK_ROWS, CHUNK_BYTES, FINE_ROWS, one_pass, strip_rows
from .sums import PAD, STRIPE, add_pair, block_sums, settled, stripes
from .threads import driver

__all__ = ["fine_rmatvec", "fvp", "matvec", "rmatvec", "wide_fvp"]

NARROW = 16 << 10  # bytes of rows that are multiplied, and then added up, at a time
SHORT = 512  # bytes of a row; of shorter ones four together cost more than they save


@kernel
def _add_dots(pairs, at, x, i, rows, v, j0, j1, sums):
    """pairs[at + r] = (sum, its rounding error) += row i + r times v over columns j0..j1."""
    chunk = CHUNK_BYTES // x.bytes
    for j in range(j0, j1, chunk):
        out = address(sums, np.int64(0))
        dots(out, x, i, j, v + j * x.bytes, min(chunk, j1 - j), rows, x.ahead)
        for r in range(rows):
            add_pair(pairs, at + r, np.float64(sums[r]))


@kernel
def _short_rows(y, x, v, i0, i1, sums):
    """Rows of one chunk: nothing to add up afterwards."""
    zero, i, short = np.int64(0), i0, x.width * x.stored < SHORT
    out = address(sums, zero)
    while i < i1:
        rows = min(dots_at_once(i1 - i), GROUP if short else TOGETHER)
        dots(out, x, i, zero, address(v, zero), x.width, rows, x.ahead)
        for r in range(rows):
            y[0, i + r] = sums[r]
        i += rows


@kernel
def _matvec_task(t, thread, y, x, v, share, pairs, sums):
    """Task: `share` samples, a stripe of columns at a time so that the vector stays in cache."""
    own, out = pairs[thread], sums[thread]
    i0, i1 = t * share, min((t + 1) * share, x.n)
    if x.width <= CHUNK_BYTES // x.bytes:
        _short_rows(y, x, v, i0, i1, out)
        return
    own[:] = 0
    for j0 in range(0, x.width, STRIPE):
        j1 = min(j0 + STRIPE, x.width)
        i = i0
        while i < i1:
            rows = dots_at_once(i1 - i)
            _add_dots(own, i - i0, x, i, rows, address(v, np.int64(0)), j0, j1, out)
            i += rows
    for i in range(i0, i1):
        y[0, i] = settled(own, i - i0)


@driver
def _matvec(launch, y, x, v, share, pairs, sums):
    for_each(launch, _matvec_task, (x.n + share - 1) // share, (y, x, v, share, pairs, sums))


@kernel
def _rmatvec_task(t, thread, parts, x, first, u, block):
    """Task: a block of samples times a stripe of columns."""
    count = stripes(x.width)
    b, j0 = t // count, t % count * STRIPE
    columns, y = min(STRIPE, x.width - j0), address(parts, b * parts.shape[2] + j0)
    i, i1 = first + b * block, min(first + (b + 1) * block, x.n)
    clear(y, columns * x.bytes)
    while i < i1:
        rows = rows_at_once(i1 - i)
        combine(y, x, i, j0, address(u, i), columns, rows, x.ahead)
        i += rows


@driver
def _rmatvec(launch, parts, x, first, u, block):
    for_each(launch, _rmatvec_task, parts.shape[0] * stripes(x.width), (parts, x, first, u, block))


@kernel
def _factors(x, i, rows, row, out, pairs, y, before):
    """out[r] = row i + r times the vector at `row`; the group of rows before these, times its
    factors `before`, is added to y meanwhile, unless that address is 0."""
    to = address(out, np.int64(0))
    pairs[:] = 0
    chunk = CHUNK_BYTES // x.bytes
    for j in range(0, x.width, chunk):
        at, count = j * x.bytes, min(chunk, x.width - j)
        if before:
            dots_and_combine(to, y + at, x, i, j, row + at, before, count, GROUP)
        else:
            dots(to, x, i, j, row + at, count, rows, x.ahead)
        if x.width > chunk:
            for r in range(rows):
                add_pair(pairs, r, np.float64(out[r]))
    if x.width > chunk:
        for r in range(rows):
            out[r] = settled(pairs, r)


@kernel
def _fvp_task(t, thread, parts, x, first, v, weights, sums, pairs):
    """Task: a block of samples. A group of rows is read for the products and, out of the cache,
    again while the next one is, so that memory never waits."""
    zero, own, weighted = np.int64(0), pairs[thread], weights.size > 0
    y, row = address(parts, t * parts.shape[2]), address(v, zero)
    clear(y, parts.shape[2] * x.bytes)
    i, i1 = first + t * BLOCK_ROWS, min(first + (t + 1) * BLOCK_ROWS, x.n)
    turn, waits = 0, False  # a group, to be added to the sums
    while i < i1 or waits:
        rows = GROUP if i + GROUP <= i1 else min(1, i1 - i)
        both = waits and rows == GROUP
        out, old = sums[thread, turn], address(sums[thread, 1 - turn], zero)
        if waits and not both:
            combine(y, x, i - GROUP, zero, old, x.width, GROUP, zero)
        if rows:
            _factors(x, i, rows, row, out, own, y, old if both else zero)
            if weighted:
                for r in range(rows):
                    out[r] *= weights[i + r]
        if rows == 1:
            combine(y, x, i, zero, address(out, zero), x.width, 1, zero)
        waits = rows == GROUP
        i, turn = i + rows, 1 - turn


@kernel
def _narrow_task(t, thread, parts, x, first, v, weights, step, factors):
    """The same for short rows: `step` of them at a time are read twice while they are in L1."""
    zero, own, weighted = np.int64(0), factors[thread], weights.size > 0
    y, row = address(parts, t * parts.shape[2]), address(v, zero)
    clear(y, parts.shape[2] * x.bytes)
    i0, end = first + t * BLOCK_ROWS, min(first + (t + 1) * BLOCK_ROWS, x.n)
    for lo in range(i0, end, step):
        i, hi = lo, min(lo + step, end)
        while i < hi:
            rows = GROUP if i + GROUP <= hi else 1
            dots(address(own, i - lo), x, i, zero, row, x.width, rows, x.ahead)
            i += rows
        if weighted:
            for r in range(hi - lo):
                own[r] *= weights[lo + r]
        i = lo
        while i < hi:
            rows = rows_at_once(hi - i)
            combine(y, x, i, zero, address(own, i - lo), x.width, rows, zero)
            i += rows


@driver
def _narrow(launch, parts, x, first, v, weights, step, factors):
    for_each(launch, _narrow_task, parts.shape[0], (parts, x, first, v, weights, step, factors))


@driver
def _fvp(launch, parts, x, first, v, weights, sums, pairs):
    args = (parts, x, first, v, weights, sums, pairs)
    for_each(launch, _fvp_task, parts.shape[0], args)


def _one_vector(y, x, v):
    """y (1, n) = x v."""
    share, workers = BLOCK_ROWS, threads.max_threads()
    if x.width > STRIPE:
        rows = TOGETHER if x.n >= 2 * workers * TOGETHER else GROUP  # few are for all threads
        share = min(8, -(-x.n // (2 * workers * rows))) * rows
    pairs = np.empty((workers, share, 2))
    _matvec(y, x, v, share, pairs, np.empty((workers, PAD), v.dtype))


def _one_adjoint(x, u, block=BLOCK_ROWS):
    """x' u, (1, width) in double."""

    def add(parts, first):
        _rmatvec(parts, x, first, u, block)

    return block_sums(x, 1, u.dtype, add, block)


def _one_pass(x, v, weights):
    """Sums over rows of x[i] weights[i] (x[i] v), (1, width) in double."""
    workers = threads.max_threads()
    step = min(NARROW // (x.width * x.bytes) // MANY * MANY, BLOCK_ROWS)
    factors = aligned((workers, BLOCK_ROWS), v.dtype)
    sums, pairs = np.empty((workers, 2, PAD), v.dtype), np.empty((workers, GROUP, 2))

    def add(parts, first):
        if step:
            _narrow(parts, x, first, v, weights, step, factors)
        else:
            _fvp(parts, x, first, v, weights, sums, pairs)

    return block_sums(x, 1, v.dtype, add)


def _two_passes(x, v, weights):
    """The same of rows too long to be found in a cache again."""
    products = np.empty((1, x.n))
    _one_vector(products, x, v)
    return _one_adjoint(x, several.weighted(products, v.dtype, weights))


def _real_vectors(v):
    """Rows whose real products with (re, im) rows are real and imaginary parts of x v."""
    if v.dtype.kind != "c":
        return v
    out = np.empty((len(v), 2, v.shape[1], 2), v.real.dtype)
    out[:, 0, :, 0], out[:, 0, :, 1] = v.real, -v.imag
    out[:, 1, :, 0], out[:, 1, :, 1] = v.imag, v.real
    return out.reshape(2 * len(v), -1)


def _add_adjoint(y, z):
    """y += sums of conj(x) t, given sums z of (re, im) rows times real and imaginary parts of t."""
    if z.shape == y.shape:
        y += z
        return
    z = z.reshape(len(y), 2, -1, 2)
    with np.errstate(invalid="ignore", over="ignore"):  # an overflow is found in the result
        y.real += z[:, 0, :, 0] + z[:, 1, :, 1]
        y.imag += z[:, 1, :, 0] - z[:, 0, :, 1]


def _split(u):
    """Real and imaginary parts as rows of their own."""
    if u.dtype.kind != "c":
        return u
    return np.stack([u.real, u.imag], axis=1).reshape(2 * len(u), -1)


def _tiles(a, vectors):
    return tile_address(a.real.dtype, vectors.itemsize)


def matvec(y, a, v, shift):
    # y      OUT (k, n) double or double complex
    # a      IN READ-ONLY (n, p) C order;  v  IN (k, p) as computed;  shift  IN (p,) or (0,)
    """y[c] = (a - shift) v[c]."""
    if not (a.size and v.size):
        y[:] = 0
        return
    x, v = real_rows(a, shift, once=True, rows=TOGETHER), _real_vectors(v)
    out = y if y.dtype.kind != "c" else np.empty((len(v), x.n))
    if len(v) > 1:
        several.matvec(out, x, v, _tiles(a, v))
    else:
        _one_vector(out, x, v)
    if out is not y:
        y.real, y.imag = out[0::2], out[1::2]


def _rmatvec_sums(a, u, shift, block=BLOCK_ROWS):
    """The sums of (re, im) rows times real and imaginary parts that rmatvec adds."""
    x, u = real_rows(a, shift, once=True, rows=MANY), _split(u)
    if len(u) > 1:
        return several.rmatvec(x, u, _tiles(a, u), block)
    return _one_adjoint(x, u, block)


def rmatvec(y, a, u, shift):
    # y      INOUT (k, p) double or double complex
    # a      IN READ-ONLY (n, p) C order;  u  IN (k, n) as computed;  shift  IN (p,) or (0,)
    """y[c] += (a - shift)' u[c]."""
    if a.size and u.size:
        _add_adjoint(y, _rmatvec_sums(a, u, shift))


def fine_rmatvec(y, a, u, shift):
    # as rmatvec
    """The same from sums over few samples each: where these are alike, long ones round one way."""
    if a.size and u.size:
        _add_adjoint(y, _rmatvec_sums(a, u, shift, FINE_ROWS))


def fvp(y, a, v, weights, shift):
    # y        INOUT (k, p) double or double complex
    # a        IN READ-ONLY (n, p) C order;  v  IN (k, p) as computed
    # weights  IN (n,) or (0,) real;  shift  IN (p,) or (0,)
    """y[c] += (a - shift)' (weights o ((a - shift) v[c])); one pass while rows fit a cache."""
    if a.size and v.size:
        _add_adjoint(y, _fvp_sums(a, v, weights, shift))


def wide_fvp(y, a, v, weights, shift):
    # as fvp, but v, weights and shift are double
    """The same in double, of scores in single or half precision: in single, terms that are alike
    round one way."""
    fvp(y, a, v, weights, shift)


def _fvp_sums(a, v, weights, shift):
    """The sums that fvp adds, likewise."""
    x, v, count = real_rows(a, shift), _real_vectors(v), threads.thread_count()
    if len(v) > 1:
        return several.fvp(x, v, weights, _tiles(a, v))
    if one_pass(x.width, x.bytes):
        return _one_pass(x, v, weights)
    if rows := strip_rows(x.width, x.bytes, count, cache_sizes()):
        return strips.fvp(x, v, weights, count, rows)
    return _two_passes(real_rows(a, shift, once=True), v, weights)


rmatvec.sums, fvp.sums = _rmatvec_sums, _fvp_sums
