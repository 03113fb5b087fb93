"""A whole damped solve of few parameters or few samples in one call: products, factor, certificate.

Up to some hundred of them the calls between kernels cost more than the arithmetic.
"""

import math

import numpy as np

from ..reference import HEAD
from .jit import kernel
from .power import power_steps, range_safe_norm
from .products import Place, add_lower_ahead, panels_of
from .rank_k import add_rank_k
from .row_passes import GROUP, MANY, rows_address
from .rows import Rows, combine, dots, rows_at_once
from .simd import address
from .small_factor import factor, mirrored, rows_of, square, substitute
from .splitting import CHUNK_BYTES, FINE_ROWS, THIN, formed_apart
from .sums import PAD, add_kept, add_pair, settled
from .threads import driver

__all__ = [
    "DOUBLE",
    "ROWS",
    "add_products",
    "backward_error",
    "combine_finely",
    "factored",
    "larger",
    "long_dots",
    "near",
    "panels_for",
    "primal_small",
    "residual",
    "room",
    "rounded",
    "rows_at",
    "scores_for",
    "tell",
    "times",
    "total_of",
]

NEAR = 2.0**30  # right-hand sides between its inverse and itself are taken as they are
ROWS = 64  # of a block sum, or columns; even
CHUNK = CHUNK_BYTES // 8


@kernel
def rows_at(at, n, p, stored, passes, a, shift):
    """Scores as rows, at an address or (0) in an array, whose numbers have so many bytes."""
    at, mean, ahead = address(a, 0) if at == 0 else at, address(shift, 0), GROUP * p
    return Rows(at, n, p, mean, shift.size > 0, ahead, 8, stored, passes)


@kernel
def larger(x, y):
    """The larger one, or NaN where one is."""
    return y if y > x or y != y else x


@kernel
def room(order, panels):
    """Zeroed room for sums of this order, in whole tiles."""
    return np.zeros((order + panels.rows - 1) // panels.rows * panels.rows * panels.width)


@kernel
def add_tiles(sums, order, left, right, ld, terms, panels):
    """Lower triangle of sums += left' right over an even number of rows at addresses."""
    zero, one = np.int64(0), np.int64(1)
    place, every, none = Place(zero, panels.width, one, one), (zero, np.int64(order)), (zero, zero)
    add_lower_ahead(
        sums, place, order, every, every, panels.add, left, right, ld, terms, panels, sums, none
    )


@kernel
def add_products(sums, order, left, right, terms, panels):
    """The same of packed rows; there is room for an even number."""
    width, zero = panels.width, np.int64(0)
    if terms % 2:
        left[terms * width : (terms + 1) * width] = 0
        right[terms * width : (terms + 1) * width] = 0
        terms += 1
    add_tiles(sums, order, address(left, zero), address(right, zero), width, terms, panels)


@kernel
def total_of(weights, n):
    """The sum of the weights, with its rounding errors: equal ones round one way."""
    if weights.size == 0:
        return np.float64(n)
    sums = np.zeros((1, 2))
    for weight in weights:
        add_pair(sums, np.int64(0), weight)
    return settled(sums, np.int64(0))


@kernel
def _add_scores(sums, a, weights, shift, panels):
    """Lower triangle of sums += (a - shift)' diag(weights) (a - shift), in whole tiles."""
    (n, p), width = a.shape, panels.width
    right = np.zeros(ROWS * width)
    left = np.zeros(ROWS * width if weights.size > 0 else 0)
    plain = weights.size == 0 and shift.size == 0 and p <= THIN
    readable = n + 1 - (width + p - 1) // p if plain else 0  # as whole tiles, where they lie
    for lo in range(0, n, ROWS):
        rows = min(ROWS, n - lo)
        if lo + rows <= readable and rows % 2 == 0:
            at = address(a, lo * p)
            add_tiles(sums, p, at, at, p, rows, panels)
            continue
        for k in range(rows):
            given, to = a[lo + k], right[k * width : k * width + p]
            for j in range(p):
                to[j] = given[j] - shift[j] if shift.size > 0 else given[j]
            if weights.size > 0:
                w, given, to = weights[lo + k], to, left[k * width : k * width + p]
                for j in range(p):
                    to[j] = w * given[j]
        add_products(sums, p, left if weights.size > 0 else right, right, rows, panels)


@kernel
def _fisher(F, sums, ld, total):
    """F = sums / total, from their lower triangle, rows `ld` apart; the largest on its diagonal."""
    largest = 0.0
    for i in range(len(F)):
        given, to = sums[i * ld : i * ld + i + 1], F[i]
        for j in range(i + 1):
            to[j] = given[j] / total
        largest = larger(largest, to[i])
    mirrored(F)
    return largest


@kernel
def combine_finely(y, rows, s):
    """y = sum_i s[i] row i, of short sums as in `residual`; y has room for whole vectors."""
    i, p, zero, end = np.int64(0), rows.width, np.int64(0), np.int64(FINE_ROWS)
    part, carry = np.zeros(len(y)), np.zeros(p)
    y[:] = 0
    while i < rows.n:
        some = rows_at_once(min(end, rows.n) - i)
        combine(address(part, 0), rows, i, zero, address(s, i), p, some, zero)
        i += some
        if i == end or i == rows.n:
            add_kept(y, carry, part, p)
            part[:] = 0
            end += FINE_ROWS
    for j in range(p):
        y[j] += carry[j]


@kernel
def long_dots(out, rows, i, some, x, pairs):
    """out[s] = row i + s times x, for so many rows, as passes over long rows have it: sums of CHUNK
    terms, added with their rounding errors."""
    zero, p = np.int64(0), rows.width
    to = address(out, zero)
    if p <= CHUNK:
        dots(to, rows, i, zero, address(x, zero), p, some, rows.ahead)
        return
    pairs[:] = 0
    for j in range(0, p, CHUNK):
        dots(to, rows, i, j, address(x, j), min(CHUNK, p - j), some, rows.ahead)
        for s in range(some):
            add_pair(pairs, s, out[s])
    for s in range(some):
        out[s] = settled(pairs, s)


@kernel
def residual(r, t, rows, weights, total, added, x, b):
    """r = b - (F + added I) x from the scores; r has room for whole vectors, t for some rows.

    Sums are short, and added with their rounding errors: where rows are alike, long ones would
    round one way, and hide that in F they did.
    """
    i, p, zero, factors = np.int64(0), len(x), np.int64(0), address(t, 0)
    part, carry, pairs = np.zeros(len(r)), np.zeros(p), np.empty((GROUP, 2))
    sums, end = address(part, 0), np.int64(FINE_ROWS)
    r[:] = 0
    while i < rows.n:
        some = rows_at_once(min(end, rows.n) - i)
        for s in range(0, some, GROUP):
            long_dots(t[s:], rows, i + s, min(some, GROUP), x, pairs)
        if weights.size > 0:
            for s in range(some):
                t[s] *= weights[i + s]
        combine(sums, rows, i, zero, factors, p, some, zero)
        i += some
        if i == end or i == rows.n:
            add_kept(r, carry, part, p)
            part[:] = 0
            end += FINE_ROWS
    for j in range(p):
        r[j] = b[j] - (r[j] + carry[j]) / total - added * x[j]


@kernel
def _largest(x):
    """The largest magnitude, or NaN if there is one."""
    largest = 0.0
    for value in x:
        largest = larger(largest, abs(value))
    return largest


@kernel
def times(to, x, power):
    """to = 2^power x."""
    for i in range(len(x)):
        to[i] = np.ldexp(x[i], power) if power != 0 else x[i]


@kernel
def factored(A, rows, report, damping, share, p, x, y, panels):
    """A + lambda I as its factor, and what is to be told of it; its norm. x and y are scratch."""
    trace, order = 0.0, len(A)
    for i in range(order):
        trace += A[i, i]
    added = damping + share * (trace / p)
    norm = power_steps(A, x, y) + added
    report[1], report[2] = trace, added
    for i in range(order):
        A[i, i] += added
    report[3], report[4] = factor(A, rows, y, panels), np.inf
    report[5:8] = 0.0
    report[8] = np.inf
    report[9:HEAD] = 0.0
    for i in range(order):
        report[8] = min(report[8], A[i, i] ** 2)
    return norm


@kernel
def near(given):
    """The power of two that right-hand sides are taken out of."""
    size = _largest(given)
    return 0 if size == 0 or 1 / NEAR < size < NEAR else math.frexp(size)[1]


@kernel
def rounded(x, single):
    """x as it will be returned: the residual is to be that."""
    if single:
        for i in range(len(x)):
            x[i] = np.float32(x[i])


@kernel
def backward_error(size, norm, x, given):
    scale = norm * range_safe_norm(x) + given
    return size / scale if scale > 0 else size


@kernel
def tell(report, c, size, given, backward_error, x, power):
    """What is to be told of solution c, now 2^power x, with a residual of this size for `given`."""
    place = HEAD + 2 * c
    report[place] = size / given if given > 0 else size
    report[place + 1] = backward_error
    times(x, x, power)
    if given > 0:
        size = _largest(x)
        report[4] = min(report[4], size)
        report[5] = larger(report[5], size)
    report[6] = larger(report[6], report[place])
    report[7] = larger(report[7], backward_error)


@kernel
def _weighted_sum(g, whole, rows, weights, total, coef, f):
    """g = sum_i coef_i weights_i row i / total, but for a power of two, which is returned; `whole`
    has room for whole vectors, f for a number per row."""
    power = near(coef)
    times(f, coef, -power)
    if weights.size > 0:
        for i in range(len(f)):
            f[i] *= weights[i]
    combine_finely(whole, rows, f)
    for j in range(len(g)):
        whole[j] /= total
    more = near(whole[: len(g)])
    times(g, whole[: len(g)], -more)
    return power + more


@driver
def _primal_small(
    launch,
    x,
    report,
    sums,
    a,
    at,
    n,
    p,
    stored,
    passes,
    weights,
    shift,
    b,
    coef,
    damping,
    share,
    single,
    panels,
    code,
):
    rows, ld, total = rows_at(at, n, p, stored, passes, a, shift), p, total_of(weights, n)
    if sums.size == 0:
        sums, ld = room(p, panels), panels.width
        _add_scores(sums, a, weights, shift, panels)
    F, y, t, g = square(p), np.empty(p), np.empty(MANY), np.empty(p)
    lines = rows_of(F, code)
    whole, f = np.empty(panels.width + PAD), np.empty(n if len(coef) > 0 else 0)
    r = whole[:p]
    report[0] = _fisher(F, sums, ld, total)
    norm = factored(F, lines, report, damping, share, p, r, y, panels)
    if report[3] != 0:
        return
    for c in range(len(x)):
        if len(b) > 0:
            power = near(b[c])
            times(g, b[c], -power)
        else:
            power = _weighted_sum(g, whole, rows, weights, total, coef[c], f)
        times(x[c], g, 0)
        substitute(F, lines, x[c], t)
        rounded(x[c], single)
        residual(whole, t, rows, weights, total, report[2], x[c], g)
        size, given = range_safe_norm(r), range_safe_norm(g)
        tell(report, c, size, given, backward_error(size, norm, x[c], given), x[c], power)


def primal_small(x, report, a, weights, shift, b, coef, damping, share, sums=None):
    # x        OUT (k, p) double
    # report   OUT (HEAD + 2 k) double: largest element and trace of diag F, what was added to it,
    #          0 or the failing order, least and most of the largest elements of solutions for b
    #          other than 0, the largest relative residual and backward error, the smallest pivot,
    #          two zeros; then residual and backward error of each solution
    # a        IN READ-ONLY (n, p) float32 or float64, C order, n and p > 0
    # weights  IN (n,) double, or (0,);  shift  IN (p,) double, or (0,)
    # b, coef  IN (k, p) double and (0, n), or (0, p) and (k, n) double
    # damping, share  IN lambda = damping + share * trace(F) / p
    # sums     IN (p, p) double or None: lower triangle of F times sum(weights), if that is there
    """x[c] = (F + lambda I)^-1 b[c] with a certificate, for
    F = (a - shift)' diag(weights) (a - shift) / sum(weights); or for
    b[c] = (a - shift)' (weights o coef[c]) / sum(weights)."""
    scores, kept = scores_for(a, weights, shift, a.shape[1], True, sums)
    given = weights, shift, b, coef, damping, share, a.dtype.itemsize == 4
    code = rows_address(DOUBLE, DOUBLE.itemsize)
    _primal_small.compiled(0, x, report, *scores, *given, panels_for(a.shape[1]), code)
    del kept  # whose address the call had


NONE, EMPTY = np.empty(0), np.empty((0, 0))


def scores_for(a, weights, shift, order, by_rows, sums):
    """Arguments of a call: sums of products, if they are formed before it, or scores to form them
    from in it, and where scores are; and scores in double or as they are, which are to be kept."""
    apart = sums is not None or formed_apart(a.size, order)
    # In double with weights of any size, and where a mean would be rounded; or, of few products,
    # since that is faster than another kernel would be loaded.
    if weights.size or shift.size or not apart:
        a = a.astype(DOUBLE, copy=False)
    if not apart:
        return (NONE, a, 0, *a.shape, 8, rows_address(DOUBLE, 8)), a
    if sums is None:
        sums, none = np.zeros((order, order)), np.empty(0, a.dtype)
        scale = np.sqrt(weights) if by_rows and weights.size else none
        add_rank_k(sums, a, by_rows, 0, a.shape[not by_rows], scale, shift if shift.size else none)
    place = a.ctypes.data, *a.shape, a.itemsize, rows_address(a.dtype, 8)
    return (sums.reshape(-1), EMPTY, *place), a


DOUBLE = np.dtype(np.float64)


def panels_for(order):
    return panels_of(np.float64, ROWS, order=order)
