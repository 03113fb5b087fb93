"""NumPy twins of the intrinsics on bytes, for NUMBA_DISABLE_JIT=1: same arguments, same bits."""

import numpy as np

from .twins import memory, rows_at

__all__ = ["peaks_at", "prepare", "quantise_columns", "quantise_rows", "tile", "transpose_words"]

WORDS = 16


def _split(x):
    whole = np.rint(x)
    return whole.astype(np.int32), (x - whole) * x.dtype.type(128)


def quantise_rows(to, step, sums, source, lda, rows, columns, units, factors, shift, like):
    stride, sums_stride, slices, turns, shifted = map(int, step)
    dtype, width = like.dtype, turns * WORDS
    x = np.zeros((4, width), dtype)
    known = min(columns, width)
    if known > 0 and rows:
        block = rows_at(source, dtype, rows, lda, known)
        if shifted:
            block = block - memory(shift, dtype, known)
        block = memory(factors, dtype, rows)[:, np.newaxis] * block
        x[:rows, :known] = block * memory(units, dtype, known)
    for s in range(slices):
        q, x = _split(x)
        memory(to + s * stride, np.int8, 4 * width).reshape(width, 4)[:] = q.T
        memory(sums + 4 * s * sums_stride, np.int32, width)[:] += q.sum(axis=0, dtype=np.int32)


def quantise_columns(to, step, sums, source, count, unit, shift, like):
    stride, sums_stride, slices, shifted = map(int, step)
    x, known = np.zeros(4 * WORDS, like.dtype), min(int(count), 4 * WORDS)
    row = memory(source, like.dtype, known)
    x[:known] = unit * (row - memory(shift, like.dtype, known) if shifted else row)
    for s in range(slices):
        q, x = _split(x)
        memory(to + s * stride, np.int8, 4 * WORDS)[:] = q
        memory(sums + 4 * s * sums_stride, np.int32, 1)[:] += q.sum(dtype=np.int32)


def peaks_at(peaks, source, count, factor, shift, shifted):
    x = memory(source, factor.dtype, count)
    x = np.abs(factor * (x - memory(shift, factor.dtype, count) if shifted else x))
    place = memory(peaks, factor.dtype, count)
    place[:] = np.maximum(place, x)


def prepare(to, source, width, rows, steps):
    panel = memory(source, np.uint8, 4 * width * steps).reshape(steps, width // rows, rows, 4)
    out = memory(to, np.uint8, panel.size).reshape(width // rows, steps, rows, 4)
    out[:] = panel.transpose(1, 0, 2, 3) ^ 0x80


def tile(rows, width, c, ldc, left, right, ld, steps):
    a = memory(left, np.uint8, 4 * rows * steps).reshape(steps, rows, 4).astype(np.int32)
    b = rows_at(right, np.int8, steps, 4 * ld, 4 * width).reshape(steps, width, 4)
    total = rows_at(c, np.int32, rows, ldc, width)
    total += np.einsum("kit,kjt->ij", a, b.astype(np.int32))


def transpose_words(to, ldt, source, lds):
    rows_at(to, np.int32, WORDS, ldt, WORDS)[:] = rows_at(source, np.int32, WORDS, lds, WORDS).T
