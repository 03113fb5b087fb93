"""A whole damped solve of few samples in one call: as small.py, through the Gram matrix."""

import numpy as np

from .jit import kernel
from .power import range_safe_norm
from .row_passes import GROUP, MANY, rows_address
from .rows import combine, rows_at_once
from .simd import address
from .small import (
    DOUBLE,
    ROWS,
    add_products,
    backward_error,
    combine_finely,
    factored,
    larger,
    long_dots,
    near,
    panels_for,
    residual,
    room,
    rounded,
    rows_at,
    scores_for,
    tell,
    times,
    total_of,
)
from .small_factor import mirrored, rows_of, square, substitute
from .sums import PAD
from .threads import driver

__all__ = ["dual_small"]


@kernel
def _add_columns(sums, a, shift, panels):
    """Lower triangle of sums += (a - shift) (a - shift)', in whole tiles."""
    (n, p), width = a.shape, panels.width
    packed = np.zeros(ROWS * width)
    for lo in range(0, p, ROWS):
        terms = min(ROWS, p - lo)
        for i in range(n):
            given, at = a[i], i
            for j in range(lo, lo + terms):
                packed[at] = given[j] - shift[j] if shift.size > 0 else given[j]
                at += width
        add_products(sums, n, packed, packed, terms, panels)


@kernel
def _gram(K, sums, ld, u, p):
    """K = diag(u) sums diag(u), from the lower triangle of rows `ld` apart; the largest mean square
    of p numbers on the diagonal of the sums."""
    largest = 0.0
    for i in range(len(K)):
        given, to = sums[i * ld : i * ld + i + 1], K[i]
        for j in range(i + 1):
            to[j] = given[j] * u[i] * u[j]
        largest = larger(largest, given[i] / p)
    mirrored(K)
    return largest


@kernel
def _apply_rows(t, rows, u, x):
    """t = T x for T = diag(u) (a - shift)."""
    i, pairs = np.int64(0), np.empty((GROUP, 2))
    while i < rows.n:
        some = GROUP if rows.n - i >= GROUP else 1
        long_dots(t[i:], rows, i, some, x, pairs)
        i += some
    for i in range(len(t)):
        t[i] *= u[i]


@kernel
def _add_adjoint(y, rows, u, t, scratch):
    """y += T't; y has room for whole vectors."""
    i, zero = np.int64(0), np.int64(0)
    for k in range(len(t)):
        scratch[k] = u[k] * t[k]
    while i < rows.n:
        some = rows_at_once(rows.n - i)
        combine(address(y, 0), rows, i, zero, address(scratch, i), rows.width, some, zero)
        i += some


@kernel
def _coefficients(f, u, centred):
    """f <- u o f; without its component along u where rows are centred."""
    along = 0.0
    for i in range(len(f)):
        f[i] *= u[i]
        along += f[i] * u[i]
    if centred:
        for i in range(len(f)):
            f[i] -= along * u[i]


@driver
def _dual_small(
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
    limit,
    steps,
    single,
    panels,
    code,
):
    rows, ld, total = rows_at(at, n, p, stored, passes, a, shift), n, total_of(weights, n)
    if sums.size == 0:
        sums, ld = room(n, panels), panels.width
        _add_columns(sums, a, shift, panels)
    K, u, f = square(n), np.empty(n), np.zeros(n)
    lines = rows_of(K, code)
    y, t, some = np.empty(n), np.empty(n), np.empty(max(n, MANY))
    g, whole_x, whole = np.empty(p + PAD), np.empty(p + PAD), np.empty(p + PAD)
    z, r = np.empty(p), whole[:p]
    for i in range(n):
        u[i] = np.sqrt((weights[i] if weights.size > 0 else 1.0) / total)
    report[0] = _gram(K, sums, ld, u, p)
    norm = factored(K, lines, report, damping, share, p, y, t, panels)
    if report[3] != 0:
        return
    added = report[2]
    # The pair of docs/math.md D9: x = whole_x / unit, with f - T x - lambda y what is left.
    unit = added if len(b) > 0 else 1.0
    for c in range(len(x)):
        power = near(b[c] if len(b) > 0 else coef[c])
        whole_x[:] = 0
        g[:] = 0
        y[:] = 0
        if len(b) > 0:
            times(whole_x, b[c], -power)
            times(g, b[c], -power)
        else:
            times(f, coef[c], -power)
            _coefficients(f, u, shift.size > 0)
            for i in range(n):
                some[i] = u[i] * f[i]
            combine_finely(g, rows, some)
        given, size, error = range_safe_norm(g[:p]), 0.0, 0.0
        for step in range(1 + steps):
            t[:] = 0
            if step > 0 or len(b) > 0:
                _apply_rows(t, rows, u, whole_x[:p])
            for i in range(n):
                t[i] = f[i] - t[i] - added * y[i]
            substitute(K, lines, t, some)
            for i in range(n):
                y[i] += t[i]
            _add_adjoint(whole_x, rows, u, t, some)
            for j in range(p):
                z[j] = whole_x[j] / unit
            rounded(z, single)
            residual(whole, some, rows, weights, total, added, z, g[:p])
            now = range_safe_norm(r)
            next_error = backward_error(now, norm, z, given)
            if step > 0 and not next_error < error:
                break
            size, error = now, next_error
            times(x[c], z, 0)
            if step > 0:
                report[9] = 1.0
            if error <= limit:
                break
        grown = range_safe_norm(whole_x[:p])
        if len(b) > 0 and grown > 0:
            report[10] = larger(report[10], given / grown)
        tell(report, c, size, given, error, x[c], power)


def dual_small(x, report, a, weights, shift, b, coef, damping, share, limit, steps, sums=None):
    # x        OUT (k, p) double
    # report   OUT (HEAD + 2 k) double: as of `primal_small`, but first the largest mean square of a
    #          row of a - shift and the trace of T T'; instead of zeros 1 where a solution was
    #          improved, and the largest |b| / (lambda |x|) for given b
    # a, weights, shift, damping, share  as of `primal_small`
    # b, coef  IN (k, p) double and (0, n), or (0, p) and (k, n) double
    # limit    IN backward error up to which a solution is improved, in so many steps
    # sums     IN (n, n) double or None: lower triangle of (a - shift) (a - shift)', if it is there
    """x[c] = (T'T + lambda I)^-1 b[c] by the Gram matrix T T', with a certificate, for
    T = diag(u) (a - shift), u = (weights / sum(weights))^1/2; or b[c] = T'(u o coef[c]), without
    the component of u o coef[c] along u where there is a shift: the weighted mean row."""
    scores, kept = scores_for(a, weights, shift, len(a), False, sums)
    given = weights, shift, b, coef, damping, share, limit, steps, a.dtype.itemsize == 4
    code = rows_address(DOUBLE, DOUBLE.itemsize)
    _dual_small.compiled(0, x, report, *scores, *given, panels_for(len(a)), code)
    del kept  # whose address the call had
