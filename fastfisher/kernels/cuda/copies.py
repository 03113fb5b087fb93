"""Copies of scores that kernels cannot take where they lie: scaled, without some rows, or as the
rows of T = diag(u) (scores - mean), or of T', in double."""

import functools

from . import compat
from .compat import cuda
from .staging import HALVES
from .vectors import per_element

__all__ = ["changed", "group_sums", "rows_of"]


def _storage(a):
    """Name of what is stored, and its bits where the kernels want bits."""
    if a.dtype.name == "float16":
        return "float16", a.view("uint16")
    return "bfloat16" if a.dtype.name == "uint16" else a.dtype.name, a


@functools.cache
def _changed(storage, widens):
    widen = HALVES.get(storage, compat.from_float16)

    @cuda.jit
    def copy(out, source, by, skipped, first):
        e = cuda.grid(1)
        if e < out.size:
            r, c = e // out.shape[1], e % out.shape[1]
            if skipped.size > 0 and skipped[first + r]:
                out[r, c] = 0
            elif widens:
                out[r, c] = widen(source[r, c]) * by
            else:
                out[r, c] = source[r, c]
                if by != 1:
                    out[r, c] *= by

    return copy


def changed(out, source, by, skipped, first=0):
    # out      OUT (n, p) C order: as stored or wider; for halves in float32 at least if by != 1
    # source   IN READ-ONLY (n, p), at any strides;  by  a power of two
    # skipped  IN (N,) bool, of which source[i] is number first + i, or (0,)
    """out = by source, with zeros in the rows that are skipped, whatever they hold."""
    storage, bits = _storage(source)
    widens = storage in HALVES and out.dtype.name in ("float32", "float64")
    to = out if widens else _storage(out)[1]
    by = to.dtype.type(1 if not widens and by == 1 else by)
    per_element(_changed(storage, widens), out.size, to, bits, by, skipped, first)


@functools.cache
def _rows_of(storage, across):
    half, widen = storage in HALVES, HALVES.get(storage, compat.from_float16)

    @cuda.jit
    def rows(out, a, first, shift, u, at, alike):
        e = cuda.grid(1)
        if e < out.size:
            r, c = e // out.shape[1], e % out.shape[1]
            i, j = (c, first + r) if across else (first + r, c)
            x = float(widen(a[i, j]) if half else a[i, j])
            if shift.size > 0:
                x -= shift[j]
            out[r, c] = x * (u[at + i] if u.size > 0 else alike)

    return rows


def rows_of(out, a, first, shift, u, at, alike, *, across=False):
    # out    OUT (m, p) double, or `across` (m, n);  a  IN READ-ONLY (n, p) C order
    # shift  IN (p,) or (0,);  u  IN (N,) double, a[i] is number at + i; or (0,): `alike` everywhere
    """Rows first.. of diag(u) (a - shift), or of its adjoint."""
    storage, bits = _storage(a)
    per_element(_rows_of(storage, across), out.size, out, bits, first, shift, u, at, alike)


@functools.cache
def _group_sums(storage):
    half, widen = storage in HALVES, HALVES.get(storage, compat.from_float16)

    @cuda.jit
    def add(out, a, order, starts):
        e = cuda.grid(1)
        if e < out.size:
            c, j = e // out.shape[1], e % out.shape[1]
            total = 0.0
            for k in range(starts[c], starts[c + 1]):
                x = a[order[k], j]
                total += float(widen(x) if half else x)
            out[c, j] = total

    return add


def group_sums(out, a, order, starts):
    # out     OUT (m, p);  a  IN READ-ONLY (n, p), at any strides
    # order   IN READ-ONLY (n,) int64: rows order[starts[c]..starts[c + 1]] are those of group c
    # starts  IN READ-ONLY (m + 1,) int64
    """out[c] = the sum of the rows of group c, in double and in their order."""
    storage, bits = _storage(a)
    per_element(_group_sums(storage), out.size, out, bits, order, starts)
