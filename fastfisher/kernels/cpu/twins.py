"""NumPy twins of the vector intrinsics, for NUMBA_DISABLE_JIT=1: same arguments, same effects.

They follow the order of sums down to blocks, not to the last bit: NumPy has no fused multiply-add.
"""

import ctypes

import numpy as np

__all__ = ["memory"]


def memory(address, dtype, count):
    """A writable array over `count` elements at an address that somebody keeps alive."""
    dtype = np.dtype(dtype)
    raw = (ctypes.c_char * (int(count) * dtype.itemsize)).from_address(int(address))
    return np.frombuffer(raw, dtype)


def rows_at(address, dtype, rows, stride, width):
    """Rows of a matrix at an address, `stride` elements apart."""
    flat = memory(address, dtype, (rows - 1) * stride + width) if rows else np.empty(0, dtype)
    return np.lib.stride_tricks.as_strided(
        flat, (rows, width), (stride * flat.itemsize, flat.itemsize)
    )


def address(array, offset):
    return array.ctypes.data + int(offset) * array.itemsize


def micro(rows, columns, dtype, sums_dtype, sign, c, ldc, a, b, ld, steps, ahead):
    """One register tile: c += sign * a' b."""
    left, right = (rows_at(x, dtype, steps, ld, w) for x, w in ((a, rows), (b, columns)))
    tile = rows_at(c, sums_dtype, rows, ldc, columns)
    tile += sign * (left.T @ right)


def call_micro(function, *args):
    function(*args)


def call(function, record):
    function(record)


def clear(place, size):
    memory(place, np.uint8, size)[:] = 0


def add_doubles(to, step, source, count):
    target = memory(to, np.float64, (count - 1) * step + 1) if count > 0 else np.empty(0)
    target[::step] += memory(source, np.float64, max(count, 0))


def transpose(lanes, to, t0, ldt, source, s0, lds):
    for i in range(lanes):
        to[t0 + i : t0 + i + (lanes - 1) * ldt + 1 : ldt] = source[
            s0 + i * lds : s0 + i * lds + lanes
        ]


def copy_row(to, t0, source, s0, count, width, factor, shift, m0, shifted):
    row = source[s0 : s0 + count].copy()
    if shifted:
        row -= shift[m0 : m0 + count]
    to[t0 : t0 + width] = 0
    to[t0 : t0 + count] = factor * row


def split_row(to, t0, ld, source, s0, count, width, factor, shift, m0, shifted):
    row = np.zeros(2 * width, to.dtype)
    copy_row(row, 0, source, s0, 2 * count, 2 * width, factor, shift, m0, shifted)
    to[t0 : t0 + width], to[t0 + ld : t0 + ld + width] = row[0::2], row[1::2]


def affine_row(to, t0, width, factor, m):
    to[t0 : t0 + width] = factor * (to[t0 : t0 + width] - m)


def _shifted(dtype, rows, shifted, a, a0, lda, m, m0, count):
    itemsize = np.dtype(dtype).itemsize
    block = rows_at(a + a0 * itemsize, dtype, rows, lda, count)
    return block - memory(m + m0 * itemsize, dtype, count) if shifted else block


def dots(rows, shifted, sums, s0, a, a0, lda, v, v0, m, m0, count, fetch, fetch_high):
    dtype = sums.dtype
    block = _shifted(dtype, rows, shifted, a, a0, lda, m, m0, count)
    sums[s0 : s0 + rows] = block @ memory(v + v0 * dtype.itemsize, dtype, count)


def combinations(rows, shifted, squared, y, y0, a, a0, lda, s, s0, m, m0, count, fetch, fetch_high):
    dtype = y.dtype
    block = _shifted(dtype, rows, shifted, a, a0, lda, m, m0, count)
    factors = memory(s + s0 * dtype.itemsize, dtype, rows)
    y[y0 : y0 + count] += factors @ (block * block if squared else block)


def load_at(place, like):
    return memory(place, like.dtype, 1)[0]


def copy_at(parts, to, ld, source, count, width, factor, shift, shifted):
    dtype = factor.dtype
    row = memory(source, dtype, parts * count).copy()
    if shifted:
        row -= memory(shift, dtype, parts * count)
    for part in range(parts):
        out = memory(to + part * ld * dtype.itemsize, dtype, width)
        out[:] = 0
        out[:count] = factor * row[part::parts]


def affine_at(place, width, factor, m):
    row = memory(place, factor.dtype, width)
    row[:] = factor * (row - m)


def transpose_at(to, ldt, rows, source, lds, columns, like):
    if rows and columns:
        rows_at(to, like.dtype, columns, ldt, rows)[:] = rows_at(
            source, like.dtype, rows, lds, columns
        ).T
