"""From scores to bytes on the device: slices of 7 bits, four summed terms of a column per word.

Slice s of word k of column j lies at s * plane + k * ld + j; terms that are not there are zero.
"""

import functools

import numpy as np

from ..slicing import BITS
from . import compat
from .compat import cuda, device, types
from .staging import HALVES, flat, formats
from .vectors import per_element

__all__ = ["quantise_columns", "quantise_rows"]

SIDE = 4 if compat.SIMULATED else 32  # rows, and words of each, that meet in shared memory,
ROWS = 2 if compat.SIMULATED else 8  # so many rows at a time
PADDED = SIDE + 1
# Added and subtracted again, this rounds to an integer, ties to even; below it half is exact.
_ROUNDING = {"float64": 1.5 * 2.0**52, "float32": 1.5 * 2.0**23}


@functools.cache
def _parts(dtype, storage):
    """(score as a number in units of the first slice, its integer, what four of these make)."""
    half, number = storage in HALVES, np.dtype(dtype).type
    widen = HALVES.get(storage, compat.from_float16)
    magic, zero = number(_ROUNDING[dtype]), number(0)

    @device
    def value(a, i, j, p, unit, scale, shift):
        x = widen(a[i * p + j]) if half else a[i * p + j]
        if shift.size > 0:
            x -= shift[j]
        if scale.size > 0:
            x *= scale[i]
        return x * unit

    @device
    def whole(x):
        return (x + magic) - magic

    @device
    def word(w0, w1, w2, w3):
        low = (int(w0) & 255) + ((int(w1) & 255) << 8)
        return low + ((int(w2) & 255) << 16) + (int(w3) << 24)

    return value, whole, word, zero, number(2.0**BITS)


@functools.cache
def _across(dtype, storage):
    value, whole, word, zero, step = _parts(dtype, storage)

    @cuda.jit
    def cut(q, plane, ld, a, lo, hi, p, units, slices, scale, shift):
        """A thread per word, all slices of it."""
        e = cuda.grid(1)
        i, j = lo + e // p * 4, e % p
        if i < hi:
            unit = units[j]
            x0 = value(a, i, j, p, unit, scale, shift)
            x1 = value(a, i + 1, j, p, unit, scale, shift) if i + 1 < hi else zero
            x2 = value(a, i + 2, j, p, unit, scale, shift) if i + 2 < hi else zero
            x3 = value(a, i + 3, j, p, unit, scale, shift) if i + 3 < hi else zero
            for s in range(slices):
                w0, w1, w2, w3 = whole(x0), whole(x1), whole(x2), whole(x3)
                q[s * plane + e // p * ld + j] = word(w0, w1, w2, w3)
                x0, x1 = (x0 - w0) * step, (x1 - w1) * step
                x2, x3 = (x2 - w2) * step, (x3 - w3) * step

    return cut


@functools.cache
def _turned(dtype, storage):
    value, whole, word, zero, step = _parts(dtype, storage)

    @device
    def nth(a, i, j, hi, p, unit, scale, shift, s):
        x = value(a, i, j, p, unit, scale, shift) if j < hi else zero
        for _ in range(s):
            x = (x - whole(x)) * step
        return whole(x)

    @compat.kernel(SIDE * ROWS)
    def cut(q, plane, ld, a, lo, hi, n, p, units, slices, scale, shift):
        """A block of threads turns a square of words; scores that it reads again are cached."""
        tile = cuda.shared.array((SIDE, PADDED), types.int32)
        i0, k0 = cuda.blockIdx.x * SIDE, cuda.blockIdx.y * SIDE
        t = cuda.threadIdx.x
        for s in range(slices):
            for r in range(cuda.threadIdx.y, SIDE, ROWS):
                i, j = i0 + r, lo + (k0 + t) * 4
                if i < n and j < hi:
                    unit = units[i]
                    tile[r, t] = word(
                        nth(a, i, j, hi, p, unit, scale, shift, s),
                        nth(a, i, j + 1, hi, p, unit, scale, shift, s),
                        nth(a, i, j + 2, hi, p, unit, scale, shift, s),
                        nth(a, i, j + 3, hi, p, unit, scale, shift, s),
                    )
            cuda.syncthreads()
            for r in range(cuda.threadIdx.y, SIDE, ROWS):
                if i0 + t < n and lo + (k0 + r) * 4 < hi:
                    q[s * plane + (k0 + r) * ld + i0 + t] = tile[t, r]
            cuda.syncthreads()

    return cut


def quantise_rows(q, plane, ld, a, lo, hi, units, slices, scale, shift):
    # q  OUT int32, flat;  a  IN READ-ONLY (n, p);  units, shift  IN (p,);  scale  IN (n,) or (0,)
    """Rows lo..hi of scale o (a - shift) o units as words: four terms of a column each."""
    words, p = -(-(hi - lo) // 4), a.shape[1]
    cut = _across(*formats(a))
    per_element(cut, words * p, q, plane, ld, flat(a), lo, hi, p, units, slices, scale, shift)


def quantise_columns(q, plane, ld, a, lo, hi, units, slices, shift):
    # q  OUT int32, flat;  a  IN READ-ONLY (n, p);  units  IN (n,);  shift  IN (p,) or (0,)
    """Columns lo..hi of units o (a - shift) as words: four terms of a row each."""
    n, p = a.shape
    grid = -(-n // SIDE), -(-(hi - lo) // (4 * SIDE))
    cut, none = _turned(*formats(a)), units[:0]
    args = q, plane, ld, flat(a), lo, hi, n, p, units, slices, none, shift
    compat.launch(cut, grid, (SIDE, ROWS), *args)
