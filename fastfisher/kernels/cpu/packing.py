"""Copies into packed panels; weights, centring and the split of complex numbers happen on the way.

Complex operands come as real arrays of interleaved (re, im) and give two packed rows per summed
index, the real parts and the imaginary parts.
"""

from typing import NamedTuple

import numpy as np

from .jit import kernel
from .simd import affine_row, copy_row, split_row, transpose

__all__ = ["Operand", "pack"]


class Operand(NamedTuple):
    """What is packed: scale_k (x_k - shift_k), x_k the k-th row or column of `a`.

    a (n * p * parts) is flat, real and READ-ONLY, `parts` 2 for complex scores; `scale` has an
    element per summed index or none, `shift` (p * parts) or none.
    """

    a: np.ndarray
    n: int
    p: int
    parts: int
    by_rows: bool
    scale: np.ndarray
    shift: np.ndarray


@kernel
def _pack_rows(out, base, x, k0, kb, first, last, panels):
    shifted, one = x.shift.size > 0, out.dtype.type(1)
    for k in range(kb):
        factor = x.scale[k0 + k] if x.scale.size > 0 else one
        for q in range(first, last):
            at = base + q * panels.stride + x.parts * k * panels.ld
            j = q * panels.width
            count, source = min(panels.width, x.p - j), ((k0 + k) * x.p + j) * x.parts
            m = j * x.parts
            if x.parts == 1:
                copy_row(out, at, x.a, source, count, panels.width, factor, x.shift, m, shifted)
            else:
                split_row(
                    out,
                    at,
                    panels.ld,
                    x.a,
                    source,
                    count,
                    panels.width,
                    factor,
                    x.shift,
                    m,
                    shifted,
                )


@kernel
def _clear(out, base, kb, first, last, panels):
    """Zero packed rows 0..kb."""
    for q in range(first, last):
        for k in range(kb):
            at = base + q * panels.stride + k * panels.ld
            copy_row(out, at, out, at, np.int64(0), panels.width, out.dtype.type(0), out, at, False)


@kernel
def _pack_columns(out, base, x, k0, kb, q, panels):
    start, i0 = base + q * panels.stride, q * panels.width
    rows, depth, lda = min(panels.width, x.n - i0), kb * x.parts, x.p * x.parts
    lanes = panels.lanes
    blocked, whole = depth // lanes * lanes, rows // lanes * lanes
    if rows < panels.width:
        _clear(out, start, depth, np.int64(0), np.int64(1), panels)
    for i in range(0, whole, lanes):
        for k in range(0, blocked, lanes):
            source = (i0 + i) * lda + k0 * x.parts + k
            transpose(out, start + k * panels.ld + i, panels.ld, x.a, source, lda)
    for i in range(rows):
        for k in range(blocked if i < whole else 0, depth):
            out[start + k * panels.ld + i] = x.a[(i0 + i) * lda + k0 * x.parts + k]
    if x.shift.size > 0 or x.scale.size > 0:
        for k in range(depth):
            factor = x.scale[k0 + k // x.parts] if x.scale.size > 0 else out.dtype.type(1)
            m = x.shift[k0 * x.parts + k] if x.shift.size > 0 else out.dtype.type(0)
            affine_row(out, start + k * panels.ld, panels.width, factor, m)


@kernel
def pack(out, base, x, k0, kb, first, last, panels):
    # out  OUT flat; rows 0..kb*parts of the panels first..last, and zeros if kb is odd
    # x    IN Operand; its rows or columns k0..k0+kb are summed over
    """Pack panels first..last. Beyond the operand is zero, or what only unused sums are made of."""
    if x.by_rows:
        _pack_rows(out, base, x, k0, kb, first, last, panels)
    else:
        for q in range(first, last):
            _pack_columns(out, base, x, k0, kb, q, panels)
    if kb % 2 == 1:
        _clear(out, base + kb * x.parts * panels.ld, x.parts, first, last, panels)
