"""Square matrices on the device, a thread per element: scaling, diagonals, triangles."""

import math

from .compat import cuda
from .vectors import ADDED, TRACE, per_element

__all__ = [
    "add_to_diagonal",
    "clear_above",
    "damp_blocks",
    "diagonal_of",
    "lower_of_blocks",
    "mend",
    "mend_blocks",
    "restore",
    "scale_square",
    "take_lower",
]


@cuda.jit
def _scale_square(c, u, by):
    e = cuda.grid(1)
    if e < c.size:
        i, j = e // c.shape[1], e % c.shape[1]
        c[i, j] *= u[i] * u[j] if u.size > 0 else by


def scale_square(c, u, by=1.0):
    # c  INOUT (m, m);  u  IN READ-ONLY (m,), or (0,): times `by`
    """c[i, j] *= u[i] u[j]."""
    per_element(_scale_square, c.size, c, u, by)


@cuda.jit
def _diagonal_of(d, c):
    i = cuda.grid(1)
    if i < d.size:
        d[i] = c[i, i]


def diagonal_of(d, c):
    # d  OUT (m,);  c  IN READ-ONLY (m, m)
    """d[i] = c[i, i]."""
    per_element(_diagonal_of, d.size, d, c)


@cuda.jit
def _add_to_diagonal(c, d, added, by):
    i = cuda.grid(1)
    if i < d.size:
        c[i, i] = d[i] + added[i] + by


def add_to_diagonal(c, d, added, by=0.0):
    # c  INOUT (m, m);  d, added  IN READ-ONLY (m,)
    """c[i, i] = d[i] + added[i] + by."""
    per_element(_add_to_diagonal, d.size, c, d, added, by)


@cuda.jit
def _mend(c, u, alike, report, faint, used, along):
    e = cuda.grid(1)
    if e < c.size and report[ADDED] <= faint * report[TRACE]:
        i, j = e // c.shape[1], e % c.shape[1]
        left = u[i] if u.size > 0 else alike
        size = report[TRACE] / max(used[0], 1.0)
        if i == j and left == 0:
            c[i, i] += size
        elif along:
            c[i, j] += size * left * (u[j] if u.size > 0 else alike)


def mend(c, u, alike, report, faint, used, *, along):
    # c  INOUT (m, m);  u  IN READ-ONLY (m,), or (0,): `alike`;  report  IN;  used  IN (1,)
    """c += trace / used times the projection on zeros of u and, `along`, times u u', where lambda
    is at most `faint` of the trace; both by the report."""
    per_element(_mend, c.size, c, u, alike, report, faint, used, along)


@cuda.jit
def _restore(c):
    e = cuda.grid(1)
    if e < c.size:
        i, j = e // c.shape[1], e % c.shape[1]
        if j < i:
            c[i, j] = c[j, i]


def restore(c):
    # c  INOUT (m, m)
    """The lower triangle again, from the upper one, which factorisations leave alone."""
    per_element(_restore, c.size, c)


@cuda.jit
def _clear_above(c):
    e = cuda.grid(1)
    if e < c.size:
        i, j = e // c.shape[1], e % c.shape[1]
        if j > i:
            c[i, j] = 0


def clear_above(c):
    # c  INOUT (m, m)
    """Zeros above the diagonal."""
    per_element(_clear_above, c.size, c)


@cuda.jit
def _take_lower(out, a, damping):
    e = cuda.grid(1)
    if e < out.size:
        i, j = e // out.shape[1], e % out.shape[1]
        if j <= i:
            out[i, j] = a[i, j] + damping if i == j else a[i, j]


def take_lower(out, a, damping):
    # out  INOUT (m, m), its upper triangle left alone;  a  IN READ-ONLY (m, m); `out` may be a
    """The lower triangle of a + damping I."""
    per_element(_take_lower, out.size, out, a, damping)


@cuda.jit
def _lower_of_blocks(out, a, damping):
    e = cuda.grid(1)
    if e < out.size:
        d = out.shape[1]
        b, i, j = e // (d * d), e // d % d, e % d
        if j > i:
            out[b, i, j] = 0
        else:
            out[b, i, j] = a[b, i, j] + damping[b] if i == j else a[b, i, j]


def lower_of_blocks(out, a, damping):
    # out  OUT (B, d, d);  a  IN READ-ONLY (B, d, d);  damping  IN (B,)
    """The lower triangle of a[b] + damping[b] I for each block, zeros above."""
    per_element(_lower_of_blocks, out.size, out, a, damping)


@cuda.jit
def _damp_blocks(c, by, where, diagonal, added):
    e = cuda.grid(1)
    if e < c.size:
        d = c.shape[1]
        b, i, j = e // (d * d), e // d % d, e % d
        k = where[b] + i
        c[b, i, j] = diagonal[k] + added[k] if i == j else c[b, i, j] * by


def damp_blocks(c, by, where, diagonal, added):
    # c  INOUT (B, d, d);  where  IN (B,) int64 first elements;  diagonal, added  IN READ-ONLY (p,)
    """c *= by, but for its diagonal, which becomes that part of diagonal + added."""
    per_element(_damp_blocks, c.size, c, by, where, diagonal, added)


@cuda.jit
def _mend_blocks(l, info, where, diagonal, added):
    e = cuda.grid(1)
    if e < l.size:
        d = l.shape[1]
        b, i, j = e // (d * d), e // d % d, e % d
        if info[b] != 0:
            k = where[b] + i
            size = diagonal[k] + added[k]
            l[b, i, j] = (math.sqrt(size) if size > 0 else 1.0) if i == j else 0.0


def mend_blocks(l, info, where, diagonal, added):
    # l  INOUT (B, d, d) factors;  info  IN (B,);  the rest as in `damp_blocks`
    """The factor of its diagonal for a block that has none."""
    per_element(_mend_blocks, l.size, l, info, where, diagonal, added)
