"""What the range of numbers or single precision would lose, on the device: rows far from 1, and
means that are rounded."""

import math

from .compat import cuda
from .vectors import per_element, shifted

__all__ = [
    "TAME",
    "back",
    "exponents",
    "lessen",
    "near",
    "shift_rows",
    "subtract_outer",
    "tame_factor",
]

TAME = 2.0**30  # rows between its inverse and this are taken as they are


@cuda.jit(device=True)
def _exponent(size):
    """Of the power of two that brings this size near 1; 0 where it is not far from it."""
    if size > 0 and size < math.inf and not 1 / TAME < size < TAME:
        return -max(min(math.floor(math.log2(size)), 1000.0), -1000.0)
    return 0.0


@cuda.jit(device=True)
def tame_factor(size):
    """That power of two."""
    exponent = _exponent(size)
    return 2.0**exponent if exponent != 0 else 1.0


@cuda.jit
def _exponents(out, sizes):
    r = cuda.grid(1)
    if r < out.size:
        out[r] = _exponent(sizes[r])


def exponents(out, sizes):
    # out  OUT (k,);  sizes  IN READ-ONLY (k,) largest magnitudes
    """Of the powers of two that bring rows of these sizes near 1, 0 where they are near it."""
    per_element(_exponents, out.size, out, sizes)


@cuda.jit
def _shift_rows(x, exponents):
    e = cuda.grid(1)
    if e < x.size and exponents[e // x.shape[1]] != 0:
        r, c = e // x.shape[1], e % x.shape[1]
        x[r, c] = shifted(x[r, c], exponents[r])


def shift_rows(x, exponents):
    # x  INOUT (k, m);  exponents  IN READ-ONLY (k,)
    """x[i] *= 2^exponents[i]."""
    per_element(_shift_rows, x.size, x, exponents)


@cuda.jit
def _near(out, rows, sizes):
    e = cuda.grid(1)
    if e < out.size:
        r, c = e // out.shape[1], e % out.shape[1]
        out[r, c] = rows[r, c] * tame_factor(sizes[r])


def near(out, rows, sizes):
    # out  OUT (k, m);  rows  IN READ-ONLY (k, m);  sizes  IN READ-ONLY (k,) largest magnitudes
    """The rows, brought near 1 by the powers of two of `exponents`."""
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
