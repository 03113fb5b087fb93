"""NumPy twins of the vector intrinsics, for NUMBA_DISABLE_JIT=1: same arguments, same effects.

They follow the order of sums down to blocks, not to the last bit: NumPy has no fused multiply-add.
"""

import ctypes

import numpy as np

from ..storage import widened
from .splitting import LANE_BYTES

__all__ = ["memory"]


def memory(address, dtype, count):
    """A writable array over `count` elements at an address that somebody keeps alive."""
    dtype = np.dtype(dtype)
    raw = (ctypes.c_char * (int(count) * dtype.itemsize)).from_address(int(address))
    return np.frombuffer(raw, dtype)


def rows_at(address, dtype, rows, stride, width):
    """Rows of a matrix at an address, `stride` elements apart."""
    flat = memory(address, dtype, (rows - 1) * stride + width if rows else 0)
    return np.ndarray((rows, width), flat.dtype, flat, 0, (stride * flat.itemsize, flat.itemsize))


def scores_at(address, stored, rows, stride, width):
    """Likewise, but halves, of which integer types tell (halves.STORED), as float32."""
    block = rows_at(address, stored, rows, stride, width)
    kind = {"int16": "float16", "uint16": "bfloat16"}.get(block.dtype.name)
    return widened(block, kind) if kind else block


def address(array, offset):
    return array.ctypes.data + int(offset) * array.itemsize


def micro(rows, columns, dtype, sums_dtype, sign, c, ldc, a, b, ld, steps, ahead):
    """One register tile: c += sign * a' b."""
    left, right = (rows_at(x, dtype, steps, ld, w) for x, w in ((a, rows), (b, columns)))
    tile = rows_at(c, sums_dtype, rows, ldc, columns)
    tile += sign * (left.T @ right)


def call_entry(function, args):
    function(*args)


def call(function, record):
    function(record)


def clear(place, size):
    memory(place, np.uint8, size)[:] = 0


def add_doubles(to, step, source, count):
    target = memory(to, np.float64, (count - 1) * step + 1) if count > 0 else np.empty(0)
    target[::step] += memory(source, np.float64, max(count, 0))


def _shifted(dtype, stored, rows, shifted, a, lda, m, count):
    block = scores_at(a, stored, rows, lda, count).astype(dtype, copy=False)
    return block - memory(m, dtype, count) if shifted else block


def dots(dtype, stored, rows, shifted, out, a, lda, v, m, count, *_):
    block = _shifted(dtype, stored, rows, shifted, a, lda, m, count)
    memory(out, dtype, rows)[:] = block @ memory(v, dtype, count)


def combinations(dtype, stored, rows, shifted, y, a, lda, s, m, count, *_, power=1):
    block = _shifted(dtype, stored, rows, shifted, a, lda, m, count)
    total = memory(y, dtype, count)
    total += memory(s, dtype, rows) @ block**power


def squares(*args):
    combinations(*args, power=2)


def dots_and_combination(dtype, stored, rows, shifted, out, a, lda, v, m, count, ahead, y, s):
    dots(dtype, stored, rows, shifted, out, a, lda, v, m, count)
    before = a - rows * lda * np.dtype(stored).itemsize
    combinations(dtype, stored, rows, shifted, y, before, lda, s, m, count)


def products_tile(dtype, stored, k, rows, shifted, out, a, lda, v, m, count, *_):
    block = _shifted(dtype, stored, rows, shifted, a, lda, m, count)
    unit = LANE_BYTES // np.dtype(dtype).itemsize
    units = -(-count // unit)
    packed = memory(v, dtype, units * unit * k).reshape(units, k, unit)
    vectors = packed.transpose(1, 0, 2).reshape(k, units * unit)[:, :count]
    memory(out, dtype, rows * k)[:] = (block @ vectors.T).ravel()


def combination_tile(dtype, stored, k, shifted, y, a, lda, s, m, count, ahead, ldy, rows):
    block = _shifted(dtype, stored, rows, shifted, a, lda, m, count)
    totals = rows_at(y, dtype, k, ldy, count)
    totals += memory(s, dtype, rows * k).reshape(rows, k).T @ block


def spread_at(to, apart, source, terms, width, like):
    rows = memory(source, like.dtype, 2 * terms * width).reshape(terms, 2, width)
    a, b = rows[:, 0], rows[:, 1]
    for plane, found in enumerate((a, b, (a - b) / 2, a + b)):
        memory(to + plane * apart * like.itemsize, like.dtype, terms * width)[:] = found.ravel()


def load_at(place, like):
    return memory(place, like.dtype, 1)[0]


def copy_at(parts, to, ld, source, count, width, factor, shift, shifted, stored):
    dtype = factor.dtype
    (row,) = scores_at(source, stored.dtype, 1, 0, parts * count).copy()
    if shifted:
        row -= memory(shift, dtype, parts * count)
    for part in range(parts):
        out = memory(to + part * ld * dtype.itemsize, dtype, width)
        out[:] = 0
        out[:count] = factor * row[part::parts]


def affine_at(place, width, factor, m):
    row = memory(place, factor.dtype, width)
    row[:] = factor * (row - m)


def transpose_at(to, ldt, rows, source, lds, columns, like, stored):
    if rows and columns:
        block = scores_at(source, stored.dtype, rows, lds, columns)
        rows_at(to, like.dtype, columns, ldt, rows)[:] = block.T


# Triangular elimination ----------------------------------------------------------------------


def solver(rows, columns, dtype, mode, c, ldc, a, lda, b, ldb, steps, ahead):
    """One register tile: c -= a' b, then, by mode 1, L^-1 c.

    L' is the triangle that follows the rows of a; reciprocals on the diagonal.
    """
    left, right = rows_at(a, dtype, steps, lda, rows), rows_at(b, dtype, steps, ldb, columns)
    tile, size = rows_at(c, dtype, rows, ldc, columns), lda * np.dtype(dtype).itemsize
    with np.errstate(all="ignore"):
        tile -= left.T @ right
        if mode:
            triangle = rows_at(a + steps * size, dtype, rows, lda, rows)
            for r in range(rows):
                tile[r] *= triangle[r, r]
                tile[r + 1 :] -= np.outer(triangle[r, r + 1 :], tile[r])


def direct(rows, columns, dtype, parts, mode, c, l, ld, b, steps, inside):
    """One register tile of direct.py: c -= l b or, by mode 2, l' b; then, by mode 1, the triangle.

    Rows of c and b are `columns` apart, those of the factor `ld`, in numbers.
    """
    kind = np.dtype(dtype if parts == 1 else {4: "c8", 8: "c16"}[np.dtype(dtype).itemsize])
    count, adjoint, inside = rows // parts, mode & 2, int(inside)

    def entries(place, rows):  # of right-hand sides, from rows of their parts
        x = rows_at(place, dtype, rows * parts, columns, columns)
        return x.copy() if parts == 1 else x[::2] + kind.type(1j) * x[1::2]

    def factor(row, column, height, width):  # from the place l
        place = l + (row * ld + column * parts) * np.dtype(dtype).itemsize
        return rows_at(place, kind, height, ld // parts, width)

    out = rows_at(c, dtype, rows, columns, columns)
    x, right = entries(c, count)[:inside], entries(b, steps)
    with np.errstate(all="ignore"):
        left = factor(0, 0, steps, inside).conj().T if adjoint else factor(0, 0, inside, steps)
        x -= left @ right
        if mode & 1:
            corner = (-count, 0) if adjoint else (0, steps)
            triangle = np.tril(factor(*corner, inside, inside))
            triangle = triangle.conj().T if adjoint else triangle
            for r in range(inside)[:: -1 if adjoint else 1]:
                x[r] /= triangle[r, r].real
                others = slice(0, r) if adjoint else slice(r + 1, inside)
                x[others] -= np.outer(triangle[others, r], x[r])
    out[:] = 0
    out[: inside * parts : parts] = x.real
    if parts == 2:
        out[1 : inside * parts : parts] = x.imag


def factor_tile(rows, out, a, ld, inside):
    x = np.stack([a[r * ld : r * ld + rows] for r in range(rows)])
    failing = rows
    with np.errstate(all="ignore"):
        for r in range(rows):
            pivot = x[r, r]
            if not 0 < pivot < np.inf:
                failing = r if failing == rows and r < inside else failing
                pivot = x.dtype.type(1)
            side = np.sqrt(pivot)
            x[r] /= side
            x[r + 1 :] -= np.outer(x[r, r + 1 :], x[r])
            x[r, r] = 1 / side
            out[rows * rows + r] = side
    out[: rows * rows] = x.reshape(-1)
    return failing


def array_at(place, dtype):
    """The flat array at an address, of no known length."""
    return memory(place, dtype, 1 << 40)


def set_integer(place, value):
    memory(place, np.int64, 1)[0] = value
