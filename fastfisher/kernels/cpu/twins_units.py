"""NumPy twins of the intrinsics on slices, for NUMBA_DISABLE_JIT=1: same arguments, same bits
(sums of halves: as near).
"""

import numpy as np

from ..slicing import KINDS
from .twins import memory, rows_at

__all__ = [
    "add_words",
    "bytes_tile",
    "halves_tile",
    "peak_along",
    "peaks_at",
    "prepare",
    "quantise_columns",
    "quantise_rows",
    "shorts_tile",
    "transpose_words",
]

WORDS = 16


def _kind(term):
    """Terms per word, their dtype in memory, and what splits numbers."""
    kind = term.dtype.type
    if kind == np.uint16:
        return 2, kind, _split_halves
    name = {np.int8: "bytes", np.uint8: "septets", np.int16: "shorts"}[kind]
    return KINDS[name].terms, np.int16 if name == "shorts" else np.int8, _splitter(KINDS[name].bits)


def _splitter(bits):
    def split(x):
        whole = np.rint(x)
        return whole.astype(np.int32), (x - whole) * x.dtype.type(2.0**bits)

    return split


def _split_halves(x):
    x = x.astype(np.float32, copy=False)
    bits = np.ascontiguousarray(x).view(np.uint32)
    bits = bits + (0x7FFF + (bits >> 16 & 1)).astype(np.uint32)
    return bits >> 16, x - (bits & 0xFFFF0000).astype(np.uint32).view(np.float32)


def quantise_rows(to, step, sums, source, lda, rows, columns, units, factors, shift, like, term):
    stride, sums_stride, slices, turns, shifted = map(int, step)
    terms, kind, split = _kind(term)
    dtype, width = like.dtype, turns * WORDS
    x = np.zeros((terms, width), dtype)
    known = min(columns, width)
    if known > 0 and rows:
        block = rows_at(source, dtype, rows, lda, known)
        if shifted:
            block = block - memory(shift, dtype, known)
        block = memory(factors, dtype, rows)[:, np.newaxis] * block
        x[:rows, :known] = block * memory(units, dtype, known)
    for s in range(slices):
        q, x = split(x)
        memory(to + s * stride, kind, terms * width).reshape(width, terms)[:] = q.T
        if kind == np.int8:
            memory(sums + 4 * s * sums_stride, np.int32, width)[:] += q.sum(axis=0, dtype=np.int32)


def quantise_columns(to, step, sums, source, count, unit, shift, like, term):
    stride, sums_stride, slices, shifted = map(int, step)
    terms, kind, split = _kind(term)
    x, known = np.zeros(terms * WORDS, like.dtype), min(int(count), terms * WORDS)
    row = memory(source, like.dtype, known)
    x[:known] = unit * (row - memory(shift, like.dtype, known) if shifted else row)
    for s in range(slices):
        q, x = split(x)
        memory(to + s * stride, kind, terms * WORDS)[:] = q
        if kind == np.int8:
            memory(sums + 4 * s * sums_stride, np.int32, 1)[:] += q.sum(dtype=np.int32)


def peaks_at(rows, peaks, source, lda, count, factors, shift, shifted, like):
    x = rows_at(source, like.dtype, rows, lda, count)
    x = x - memory(shift, like.dtype, count) if shifted else x
    x = np.abs(memory(factors, like.dtype, rows)[:, np.newaxis] * x)
    place = memory(peaks, like.dtype, count)
    place[:] = np.maximum(place, x.max(axis=0))


def peak_along(source, count, shift, shifted, like):
    x = memory(source, like.dtype, count)
    x = x - memory(shift, like.dtype, count) if shifted else x
    return np.abs(x).max(initial=0)


def prepare(mask, sign, width, rows, to, source, steps):
    panel = memory(source, np.uint32, width * steps).reshape(steps, width // rows, rows)
    out = memory(to, np.uint32, panel.size).reshape(width // rows, steps, rows)
    out[:] = panel.transpose(1, 0, 2) & np.uint32(mask) ^ np.uint32(sign)


def bytes_tile(rows, width, c, ldc, left, right, steps):
    a = memory(left, np.uint8, 4 * rows * steps).reshape(steps, rows, 4).astype(np.int32)
    b = memory(right, np.int8, 4 * width * steps).reshape(steps, width, 4).astype(np.int32)
    rows_at(c, np.int32, rows, ldc, width)[:] += np.einsum("kit,kjt->ij", a, b)


def shorts_tile(rows, width, c, ldc, left, right, steps):
    a = memory(left, np.int16, 2 * rows * steps).reshape(steps, rows, 2).astype(np.int32)
    b = memory(right, np.int16, 2 * width * steps).reshape(steps, width, 2).astype(np.int32)
    rows_at(c, np.int32, rows, ldc, width)[:] += np.einsum("kit,kjt->ij", a, b)


def halves_tile(rows, width, c, ldc, left, right, steps):
    a = _singles(memory(left, np.uint16, 2 * rows * steps)).reshape(steps, rows, 2)
    b = _singles(memory(right, np.uint16, 2 * width * steps)).reshape(steps, width, 2)
    rows_at(c, np.float32, rows, ldc, width)[:] += sum(a[..., t].T @ b[..., t] for t in (0, 1))


def _singles(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def transpose_words(to, ldt, source, lds):
    rows_at(to, np.int32, WORDS, ldt, WORDS)[:] = rows_at(source, np.int32, WORDS, lds, WORDS).T


def add_words(to, source, less, count, ahead, weight, like, sum_):
    x = memory(source, like.dtype, count)
    x = x - memory(less, like.dtype, count) if like.dtype.kind == "i" else x
    memory(to, sum_.dtype, count)[:] += sum_.dtype.type(weight) * x.astype(sum_.dtype)
