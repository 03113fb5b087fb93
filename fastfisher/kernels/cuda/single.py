"""Rows in double as rows in single precision, and back: in units that keep them in its range."""

from .compat import cuda
from .vectors import per_element

__all__ = ["from_single", "to_single"]


@cuda.jit
def _to_single(half, rows, scales, by):
    e = cuda.grid(1)
    if e < half.size:
        r, c = e // half.shape[1], e % half.shape[1]
        x = rows[r, c] * 2.0 ** by[r]
        half[r, c] = x * scales[c] if scales.size > 0 else x


def to_single(half, rows, scales, by):
    # half  OUT (k, m) float32;  rows  IN READ-ONLY (k, m);  scales  IN (m,) or (0,);  by  IN (k,)
    """half = 2^by rows scales, in single precision."""
    per_element(_to_single, half.size, half, rows, scales, by)


@cuda.jit
def _from_single(rows, half, scales, by):
    e = cuda.grid(1)
    if e < half.size:
        r, c = e // half.shape[1], e % half.shape[1]
        x = half[r, c] * 2.0 ** -by[r]
        rows[r, c] = x * scales[c] if scales.size > 0 else x


def from_single(rows, half, scales, by):
    # rows  OUT (k, m);  half  IN READ-ONLY (k, m) float32;  scales  IN (m,) or (0,);  by  IN (k,)
    """rows = half scales / 2^by."""
    per_element(_from_single, half.size, rows, half, scales, by)
