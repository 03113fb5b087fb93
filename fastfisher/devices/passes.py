"""Passes over scores on a device: kernels called slice by slice, sums kept in double.

Twins of `fastfisher.passes`; every operand is a device array, "none" is an empty one.
"""

from dataclasses import replace

import numpy as np

from ..arrays import LARGE, WIDEST, far
from ..kernels.cuda import compat, memory
from ..planning import choose
from .door import none
from .slices import column_slices, row_slices, wide_row_slices

__all__ = [
    "add_block_syrk",
    "add_diag",
    "add_fvp",
    "add_gram",
    "add_peaks",
    "add_rmatvec",
    "add_sliced_gram",
    "add_sliced_syrk",
    "add_syrk",
    "bad_row",
    "bad_rows",
    "cast",
    "load",
    "mirror",
    "products",
    "weighable",
]


def load(op, size, dtype=np.float64):
    """The kernel that the table names for an op on the device."""
    return choose(op, size, np.dtype(dtype), device="cuda").load()


def _part(values, lo, hi):
    return values[lo:hi] if values.size else values


def cast(x, dtype):
    """x, or a copy in this dtype."""
    if x.dtype == dtype:
        return x
    out = compat.empty(tuple(x.shape), np.dtype(dtype))
    memory.copy(out, x)
    return out


def _beside(G, *operands):
    """Operands in the dtype of the scores; None is none."""
    return [none(G.dtype) if x is None else cast(x, G.dtype) for x in operands]


def weighable(G, weights):
    """Scores as they are read beside these weights, as by `fastfisher.passes.weighable`: waits for
    weights beside single precision."""
    if weights is None or G.dtype.itemsize == 8 or G.wide:
        return G
    there = memory.to_host(weights)
    wide = (there >= WIDEST).any()
    wide = wide or (far(there, WIDEST).any() and bad_rows(G)[1] > LARGE)
    return replace(G, wide=True) if wide else G


def _weighed(G, shift):
    """Scores that can be weighed, and their shift: rounded to the scores' own dtype first."""
    if shift is not None and G.wide:
        shift = cast(shift, G.dtype)
    return G.weighed, shift


def add_syrk(c, G, *, scale=None, shift=None):
    """Lower triangle of c += (G - shift)' diag(scale^2) (G - shift)."""
    G, shift = _weighed(G, shift)
    kernel = load("syrk", G.shape[1], G.dtype)
    scale, shift = _beside(G, scale, shift)
    for lo, hi, rows in row_slices(G):
        kernel(c, rows, _part(scale, lo, hi), shift)


def add_block_syrk(c, G, *, scale=None):
    """c[b] += G_b' diag(scale^2) G_b, both triangles, for consecutive blocks of columns."""
    G = G.weighed
    kernel, (scale,) = load("block_syrk", c.shape[1], G.dtype), _beside(G, scale)
    for lo, hi, rows in wide_row_slices(G):
        kernel(c, rows, 0, _part(scale, lo, hi))


def add_gram(c, G, *, weight=None, shift=None):
    """Lower triangle of c += (G - shift) diag(weight) (G - shift)'."""
    kernel = load("gram", G.shape[0], G.dtype)
    weight, shift = _beside(G, weight, shift)
    for lo, hi, columns in column_slices(G):
        kernel(c, columns, 0, hi - lo, _part(weight, lo, hi), _part(shift, lo, hi))


def add_peaks(y, G, *, by_rows, scale=None, shift=None):
    """y = max(y, |scale_k (G - shift)_kj|) over rows k (p,), or columns j (n,); keeps NaN."""
    kernel = load("peaks", G.shape[1], G.dtype)
    scale, shift = _beside(G, scale, shift)
    for lo, hi, rows in row_slices(G):
        kernel(y if by_rows else y[lo:hi], rows, by_rows, _part(scale, lo, hi), shift)


def add_sliced_syrk(c, G, units, count, levels, *, scale=None, shift=None):
    """Lower triangle of c += U (G - shift)' diag(scale^2) (G - shift) U from `count` slices."""
    kernel = load("sliced_syrk", G.shape[1], G.dtype)
    units, scale, shift = _beside(G, units, scale, shift)
    for lo, hi, rows in row_slices(G):
        kernel(c, rows, units, count, levels, _part(scale, lo, hi), shift)


def add_sliced_gram(c, G, units, count, levels, *, shift=None):
    """Lower triangle of c += U (G - shift) (G - shift)' U from `count` slices."""
    kernel = load("sliced_gram", G.shape[0], G.dtype)
    units, shift = _beside(G, units, shift)
    for lo, hi, columns in column_slices(G):
        kernel(c, columns, 0, hi - lo, units, count, levels, _part(shift, lo, hi))


def products(G, v, *, shift=None):
    """(G - shift) v for rows v (k, p): (k, n)."""
    kernel, (v, shift) = load("matvec", v.shape[0], G.dtype), _beside(G, v, shift)
    y = compat.empty((v.shape[0], G.shape[0]), np.float64)
    for lo, hi, rows in row_slices(G):
        if hi - lo == G.shape[0]:
            kernel(y, rows, v, shift)
        else:
            part = compat.empty((v.shape[0], hi - lo), np.float64)
            kernel(part, rows, v, shift)
            memory.gather(y[:, lo:hi], part)
    if G.shape[1] == 0:
        memory.fill(y, 0.0)
    return y


def add_rmatvec(y, G, u, *, shift=None):
    """y += (G - shift)'u for rows u (k, n)."""
    kernel, (u, shift) = load("rmatvec", u.shape[0], G.dtype), _beside(G, u, shift)
    for lo, hi, rows in row_slices(G):
        here = u
        if hi - lo < G.shape[0]:
            here = compat.empty((u.shape[0], hi - lo), G.dtype)
            memory.gather(here, u[:, lo:hi])
        kernel(y, rows, here, shift)


def add_fvp(y, G, v, *, weights=None, shift=None):
    """y += (G - shift)'(weights o ((G - shift) v)) for rows v (k, p)."""
    G, shift = _weighed(G, shift)
    kernel = load("fvp", v.shape[0], G.dtype)
    v, weights, shift = _beside(G, v, weights, shift)
    for lo, hi, rows in row_slices(G):
        kernel(y, rows, v, _part(weights, lo, hi), shift)


def add_diag(y, G, *, weights=None, shift=None):
    """y += sum_n weights_n (G_n - shift)^2."""
    G, shift = _weighed(G, shift)
    kernel = load("diag", G.shape[1], G.dtype)
    weights, shift = _beside(G, weights, shift)
    for lo, hi, rows in row_slices(G):
        kernel(y, rows, _part(weights, lo, hi), shift)


def mirror(c, out=None):
    """Both triangles, into c or `out` of any precision, from the lower of c."""
    load("mirror", c.shape[0], c.dtype)(c, out)


def bad_rows(G):
    """(which rows hold NaN or Inf (n,) on the host, largest finite magnitude): waits."""
    kernel, largest = load("scan", G.shape[1], G.dtype), 0.0
    found = np.zeros(G.shape[0], bool)
    for lo, hi, rows in row_slices(G):
        bad = compat.empty((hi - lo,), np.dtype(bool))
        size = kernel(bad, rows)
        largest = max(largest, float(memory.to_host(size)[0]))
        found[lo:hi] = memory.to_host(bad)
    return found, largest


def bad_row(G):
    """(first row with NaN or Inf or None, largest finite magnitude): waits for the device."""
    bad, largest = bad_rows(G)
    return (int(np.argmax(bad)) if bad.any() else None), largest
