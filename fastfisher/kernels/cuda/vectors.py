"""What a solve does between its large kernels, on the device; a thread per element.

Vectors are rows (k, m) in double. Scalars that a solve finds on its way stay in device memory, in
the report: the one array that it copies to the host.
"""

import math

from . import compat
from .compat import cuda

__all__ = [
    "REPORT",
    "blank",
    "combine",
    "emit",
    "examine_weights",
    "invert_sum",
    "normalise",
    "per_element",
    "project",
    "put_blocks",
    "resolve",
    "roots",
    "shifted",
    "silence",
    "spread",
    "square_roots",
    "take",
    "take_blocks",
    "take_one",
    "times",
    "units",
    "weight_roots",
    "woodbury",
]

THREADS = 256

# Places in the report; the sums of each right-hand side follow.
ORDER, LARGEST, TRACE, ADDED, NORM, PIVOT, TOTAL, USED, BAD, SCALED, INVERSE, LEAST, LOW = range(13)
SPREAD = 13  # half the sum of the weights, in the smallest of them
REPORT = 14


def per_element(kernel, size, *args):
    """Queue a kernel of one thread per element."""
    if size:
        threads = min(size, THREADS)
        compat.launch(kernel, -(-size // threads), threads, *args)


# Copies.


@cuda.jit
def _take(out, source, scale):
    e = cuda.grid(1)
    if e < out.size:
        r, c = e // out.shape[1], e % out.shape[1]
        factor = scale[r] if scale.size > 0 else 1.0
        out[r, c] = source[c, r] * factor


def take(out, source, scale):
    # out  OUT (k, m);  source  IN READ-ONLY (m, k);  scale  IN (k,) or (0,)
    """Rows of the columns of `source`, each times its scale, in the dtype of `out`."""
    per_element(_take, out.size, out, source, scale)


@cuda.jit
def _take_one(out, source):
    i = cuda.grid(1)
    if i < source.size:
        out[0, i] = source[i]


def take_one(out, source):
    # out  OUT (1, m);  source  IN READ-ONLY (m,), at any stride
    """One row, in the dtype of `out`."""
    per_element(_take_one, source.size, out, source)


@cuda.jit(device=True)
def shifted(x, power):
    """x 2^power in two steps: the power may be out of range where that is not."""
    half = float(math.floor(power / 2))
    return x * 2.0**half * 2.0 ** (power - half)


@cuda.jit
def _emit(out, rows, moved, power):
    e = cuda.grid(1)
    if e < out.size:
        r, c = e // out.shape[1], e % out.shape[1]
        by = power - moved[c] if moved.size > 0 else power
        out[r, c] = rows[c, r] if by == 0 else shifted(rows[c, r], by)


def emit(out, rows, moved, power=0):
    # out  OUT (m, k);  rows  IN READ-ONLY (k, m);  moved  IN (k,) or (0,), exponents
    """Columns of the rows times 2^(power - moved), in the dtype of `out`."""
    per_element(_emit, out.size, out, rows, moved, float(power))


@cuda.jit
def _units(x, first):
    e = cuda.grid(1)
    if e < x.size:
        r, c = e // x.shape[1], e % x.shape[1]
        x[r, c] = 1 if c == first + r else 0


def units(x, first):
    # x  OUT (k, m)
    """Rows first.. of the identity."""
    per_element(_units, x.size, x, first)


@cuda.jit
def _silence(x, sizes):
    e = cuda.grid(1)
    if e < x.size and sizes[e // x.shape[1]] == 0.0:
        x[e // x.shape[1], e % x.shape[1]] = 0


def silence(x, sizes):
    # x  INOUT (k, m);  sizes  IN READ-ONLY (k,)
    """Zeros in rows of size 0."""
    per_element(_silence, x.size, x, sizes)


@cuda.jit
def _blank(w, bad):
    i = cuda.grid(1)
    if i < w.size and bad[i]:
        w[i] = 0


def blank(w, bad):
    # w  INOUT (n,);  bad  IN READ-ONLY (n,) bool
    """Zeros where `bad` is True."""
    per_element(_blank, w.size, w, bad)


@cuda.jit
def _take_blocks(part, x, where, d):
    e = cuda.grid(1)
    if e < part.size:
        r, c = e // part.shape[1], e % part.shape[1]
        part[r, c] = x[r, where[c // d] + c % d]


def take_blocks(part, x, where, d):
    # part  OUT (k, B d);  x  IN READ-ONLY (k, m);  where  IN READ-ONLY (B,) int64
    """The d elements of each row from each place on."""
    per_element(_take_blocks, part.size, part, x, where, d)


@cuda.jit
def _put_blocks(x, part, where, d):
    e = cuda.grid(1)
    if e < part.size:
        r, c = e // part.shape[1], e % part.shape[1]
        x[r, where[c // d] + c % d] = part[r, c]


def put_blocks(x, part, where, d):
    # x  INOUT (k, m);  part  IN READ-ONLY (k, B d);  where  IN READ-ONLY (B,) int64
    """The inverse of `take_blocks`."""
    per_element(_put_blocks, part.size, x, part, where, d)


# Linear combinations.


@cuda.jit
def _combine(out, b, y, by, added, x):
    e = cuda.grid(1)
    if e < out.size:
        r, c = e // out.shape[1], e % out.shape[1]
        value = y[r, c] * by
        if x.size > 0:
            value += added[c] * x[r, c]
        out[r, c] = b[r, c] - value if b.size > 0 else value


def combine(out, b, y, by, added, x):
    # out  OUT (k, m);  b, x  IN READ-ONLY (k, m) or (0, 0);  y  IN READ-ONLY (k, m);  added (m,)
    """out = b - (by y + added o x); without b the negative of that."""
    per_element(_combine, out.size, out, b, y, by, added, x)


@cuda.jit
def _times(out, x, u, by):
    e = cuda.grid(1)
    if e < out.size:
        r, c = e // out.shape[1], e % out.shape[1]
        out[r, c] = x[r, c] * u[c] * by if u.size > 0 else x[r, c] * by


def times(out, x, u, by=1.0):
    # out  OUT (k, m);  x  IN READ-ONLY (k, m);  u  IN READ-ONLY (m,) or (0,)
    """out = by u o x; `out` may be x."""
    per_element(_times, out.size, out, x, u, by)


@cuda.jit
def _project(f, along, u, by):
    e = cuda.grid(1)
    if e < f.size:
        r, c = e // f.shape[1], e % f.shape[1]
        f[r, c] -= along[r] * (u[c] if u.size > 0 else by)


def project(f, along, u, by=0.0):
    # f  INOUT (k, m);  along  IN READ-ONLY (k,);  u  IN READ-ONLY (m,), or (0,): `by` everywhere
    """f[i] -= along[i] u."""
    per_element(_project, f.size, f, along, u, by)


@cuda.jit
def _normalise(x, y, size, best):
    e = cuda.grid(1)
    if e < x.size:
        r, c = e // x.shape[1], e % x.shape[1]
        if e == 0 and best.size > 0 and size[0] > best[0]:
            best[0] = size[0]
        x[r, c] = y[r, c] / size[0] if size[0] > 0 else 0.0


def normalise(x, y, size, best):
    # x  OUT (1, m);  y  IN READ-ONLY (1, m);  size  IN (1,) |y|;  best  INOUT (1,) or (0,)
    """x = y / |y|; best becomes |y| where that is larger."""
    per_element(_normalise, x.size, x, y, size, best)


@cuda.jit
def _woodbury(x, b, t, report, extra):
    e = cuda.grid(1)
    if e < x.size:
        r, c = e // x.shape[1], e % x.shape[1]
        x[r, c] = (b[r, c] - t[r, c]) / (report[ADDED] + extra)


def woodbury(x, b, t, report, extra):
    # x  OUT (k, m);  b, t  IN READ-ONLY (k, m);  report  IN
    """x = (b - t) / (lambda + extra), by the lambda of the report."""
    per_element(_woodbury, x.size, x, b, t, report, extra)


@cuda.jit
def _spread(added, report, extra):
    i = cuda.grid(1)
    if i < added.size:
        added[i] = report[ADDED] + extra


def spread(added, report, extra):
    # added  OUT (m,);  report  IN
    """added[i] = lambda + extra."""
    per_element(_spread, added.size, added, report, extra)


@cuda.jit
def _square_roots(u, v, d):
    i = cuda.grid(1)
    if i < d.size:
        root = math.sqrt(d[i]) if d[i] > 0 else 1.0
        u[i] = root
        v[i] = 1.0 / root


def square_roots(u, v, d):
    # u, v  OUT (m,);  d  IN READ-ONLY (m,)
    """u = d^1/2, v = 1/u; 1 where d is not positive."""
    per_element(_square_roots, d.size, u, v, d)


# Damping, weights, facts.


@cuda.jit
def _resolve(added, report, d, lam, share, ratio):
    i = cuda.grid(1)
    if i < added.size:
        value = lam + share * report[TRACE] if share != 0 else lam
        if i == 0:
            report[ADDED] = value
        added[i] = value + ratio * d[i] if ratio != 0 else value


def resolve(added, report, d, lam, share, ratio):
    # added  OUT (m,);  report  INOUT;  d  IN READ-ONLY (m,) diagonal of F
    """added = lam + share trace + ratio d; the scalar part goes to the report."""
    per_element(_resolve, added.size, added, report, d, lam, share, ratio)


@cuda.jit
def _invert_sum(out, a, b):
    i = cuda.grid(1)
    if i < out.size:
        total = a[i] + b[i]
        out[i] = 1.0 / total if total > 0 else 1.0


def invert_sum(out, a, b):
    # out  OUT (m,);  a, b  IN READ-ONLY (m,)
    """out = 1 / (a + b); 1 where that is not positive."""
    per_element(_invert_sum, out.size, out, a, b)


@cuda.jit
def _examine_weights(bad, used, w):
    i = cuda.grid(1)
    if i < w.size:
        value = w[i]
        if not (value >= 0 and value < math.inf):
            cuda.atomic.min(bad, 0, i)
        elif value > 0:
            cuda.atomic.add(used, 0, 1)


def examine_weights(bad, used, w):
    # bad, used  INOUT (1,) int64;  w  IN READ-ONLY (n,)
    """bad = the first weight that is negative or not finite; used += those above zero."""
    per_element(_examine_weights, w.size, bad, used, w)


@cuda.jit
def _weight_roots(u, w):
    i = cuda.grid(1)
    if i < w.size:
        u[i] = math.sqrt(w[i]) if w[i] >= 0 else math.nan


def weight_roots(u, w):
    # u  OUT (n,);  w  IN READ-ONLY (n,)
    """u = w^1/2, NaN where w is negative."""
    per_element(_weight_roots, w.size, u, w)


@cuda.jit
def _roots(u, shares, w, report, bad, used):
    i = cuda.grid(1)
    if i < w.size:
        if i == 0:
            report[BAD], report[USED] = bad[0], used[0]
        whole = report[TOTAL]
        share = w[i] / whole if whole > 0 else 0.0
        shares[i] = share
        u[i] = math.sqrt(share) if share > 0 else 0.0


def roots(u, shares, w, report, bad, used):
    # u, shares  OUT (n,);  w  IN READ-ONLY (n,);  report  INOUT;  bad, used  IN (1,) int64
    """shares = w / sum(w), u = its roots, by the sum in the report."""
    per_element(_roots, w.size, u, shares, w, report, bad, used)
