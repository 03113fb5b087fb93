"""Copies into packed panels; weights, centring, the split of complex numbers and the widening of
half precision happen on the way.

Complex operands come as real arrays of interleaved (re, im) and give two packed rows per summed
index, the real parts and the imaginary parts.
"""

import functools
from typing import NamedTuple

import numpy as np

from .jit import entry_address, kernel
from .moves import affine_at, copy_at, load_at, split_at, transpose_at
from .simd import address, call, clear, reader

__all__ = ["Operand", "operand", "pack"]


class Operand(NamedTuple):
    """What is packed: scale_k (x_k - shift_k), x_k the k-th row or column of scores (n, p).

    The scores are n p `parts` real numbers at the address `a`, READ-ONLY, `parts` 2 for complex
    ones; `scale` has an element per summed index or none, `shift` (p * parts) or none. Whoever
    makes this record keeps the scores.
    """

    a: int
    n: int
    p: int
    parts: int
    by_rows: bool
    scale: np.ndarray
    shift: np.ndarray
    bytes: int  # of a real number as it is stored
    code: int  # address of the loops of `pack`

    @property
    def elements(self):
        return self.n * self.p * self.parts

    @property
    def dtype(self):
        """What is packed and summed: that of the real numbers, or what halves are widened to."""
        return self.shift.dtype


class Packing(NamedTuple):
    """Everything the loops of `pack` need, arrays as addresses."""

    out: int
    a: int
    n: int
    p: int
    parts: int
    by_rows: int
    scale: int
    scaled: int
    shift: int
    shifted: int
    k0: int
    kb: int
    first: int
    last: int
    stride: int
    ld: int
    width: int
    bytes: int
    stored: int  # bytes of a number at a


_read = reader(Packing)


@kernel
def _pack_rows(w, one, stored):
    for k in range(w.kb):
        factor = load_at(w.scale + (w.k0 + k) * w.bytes, one) if w.scaled else one
        for q in range(w.first, w.last):
            to = w.out + (q * w.stride + w.parts * k * w.ld) * w.bytes
            j = q * w.width
            source = w.a + ((w.k0 + k) * w.p + j) * w.parts * w.stored
            m = w.shift + j * w.parts * w.bytes
            count = min(w.width, w.p - j)
            if w.parts == 1:
                copy_at(to, w.ld, source, count, w.width, factor, m, w.shifted, stored)
            else:
                split_at(to, w.ld, source, count, w.width, factor, m, w.shifted, stored)


@kernel
def _pack_columns(w, q, one, stored):
    start, i0 = w.out + q * w.stride * w.bytes, q * w.width
    rows, depth, lda = min(w.width, w.n - i0), w.kb * w.parts, w.p * w.parts
    if rows < w.width:
        clear(start, ((depth - 1) * w.ld + w.width) * w.bytes)
    source, line = w.a + (i0 * lda + w.k0 * w.parts) * w.stored, 64 // w.bytes
    for i in range(0, rows, line):  # read along few rows at a time: more are not fetched ahead
        to, at = start + i * w.bytes, source + i * lda * w.stored
        transpose_at(to, w.ld, min(line, rows - i), at, lda, depth, one, stored)
    if w.shifted or w.scaled:
        for k in range(depth):
            factor, m = one, one - one
            if w.scaled:
                factor = load_at(w.scale + (w.k0 + k // w.parts) * w.bytes, one)
            if w.shifted:
                m = load_at(w.shift + (w.k0 * w.parts + k) * w.bytes, one)
            affine_at(start + k * w.ld * w.bytes, w.width, factor, m)


@kernel
def _pack(w, one, stored):
    # stored  a number whose type says what is at w.a (simd.STORED)
    if w.by_rows:
        _pack_rows(w, one, stored)
    else:
        for q in range(w.first, w.last):
            _pack_columns(w, q, one, stored)
    if w.kb % 2 == 1:
        for q in range(w.first, w.last):
            for part in range(w.parts):
                at = q * w.stride + (w.kb * w.parts + part) * w.ld
                clear(w.out + at * w.bytes, w.width * w.bytes)


def _double(record):
    _pack(_read(record), np.float64(1), np.float64(1))


def _single(record):
    _pack(_read(record), np.float32(1), np.float32(1))


def _float16(record):
    _pack(_read(record), np.float32(1), np.int16(1))


def _bfloat16(record):
    _pack(_read(record), np.float32(1), np.uint16(1))


_LOOPS = {"float64": _double, "float32": _single, "float16": _float16, "bfloat16": _bfloat16}


@functools.cache
def _pack_address(stored):
    """Address of the loops of `pack`: compiled once for what scores are stored as."""
    return entry_address(_LOOPS[stored.name], 1)


def operand(a, by_rows, scale=None, shift=None):
    """Operand for scores (n, p), with a number per summed index and a row (p,) to subtract.

    Scores in half precision are computed in float32, the dtype of their scale and shift.
    """
    real = a.real.dtype
    none = np.empty(0, np.float32 if real.itemsize == 2 else real)
    scale, shift = (none if x is None else x.view(none.dtype) for x in (scale, shift))
    parts, code = a.itemsize // real.itemsize, _pack_address(real)
    return Operand(a.ctypes.data, *a.shape, parts, by_rows, scale, shift, real.itemsize, code)


@kernel
def pack(out, base, x, k0, kb, first, last, panels):
    # out  OUT flat; rows 0..kb*parts of the panels first..last, and zeros if kb is odd
    # x    IN Operand; its rows or columns k0..k0+kb are summed over
    """Pack panels first..last; what lies outside the operand is zero."""
    zero = np.int64(0)
    work = Packing(
        address(out, base),
        x.a,
        x.n,
        x.p,
        x.parts,
        x.by_rows,
        address(x.scale, zero),
        x.scale.size > 0,
        address(x.shift, zero),
        x.shift.size > 0,
        k0,
        kb,
        first,
        last,
        panels.stride,
        panels.ld,
        panels.width,
        panels.bytes,
        x.bytes,
    )
    call(x.code, work)
