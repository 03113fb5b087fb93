"""What single precision would lose, on the device: rows far from 1, and means that it rounds."""

import math

from .compat import cuda
from .vectors import per_element, tame_factor

__all__ = ["back", "lessen", "near", "subtract_outer"]


@cuda.jit
def _near(out, rows, sizes):
    e = cuda.grid(1)
    if e < out.size:
        r, c = e // out.shape[1], e % out.shape[1]
        out[r, c] = rows[r, c] * tame_factor(sizes[r])


def near(out, rows, sizes):
    # out  OUT (k, m);  rows  IN READ-ONLY (k, m);  sizes  IN READ-ONLY (k,) largest magnitudes
    """The rows, brought near 1 by the powers of two of `vectors.tame`."""
    per_element(_near, out.size, out, rows, sizes)


@cuda.jit
def _back(rows, sizes):
    e = cuda.grid(1)
    if e < rows.size:
        r, c = e // rows.shape[1], e % rows.shape[1]
        rows[r, c] /= tame_factor(sizes[r])


def back(rows, sizes):
    # rows  INOUT (k, m);  sizes  IN READ-ONLY (k,)
    """What came of such rows, without these powers of two."""
    per_element(_back, rows.size, rows, sizes)


@cuda.jit
def _subtract_outer(c, u, v, by):
    e = cuda.grid(1)
    if e < c.size:
        i, j = e // c.shape[1], e % c.shape[1]
        if j <= i:
            c[i, j] -= by * (u[i] * v[j] + v[i] * u[j])


def subtract_outer(c, u, v, by=1.0):
    # c  INOUT (m, m), its upper triangle left alone;  u, v  IN READ-ONLY (m,)
    """Lower triangle of c -= by (u v' + v u')."""
    per_element(_subtract_outer, c.size, c, u, v, by)


@cuda.jit
def _lessen(y, d):
    i = cuda.grid(1)
    if i < y.size:
        rest = y[i] - d[i] * d[i]
        y[i] = rest if rest >= 0 or math.isnan(rest) else 0.0


def lessen(y, d):
    # y  INOUT (m,);  d  IN READ-ONLY (m,)
    """y = max(y - d^2, 0), NaN where it is."""
    per_element(_lessen, y.size, y, d)
