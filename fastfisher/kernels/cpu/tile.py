"""Products of packed panels: the arithmetic under syrk, gram, layered gram and Cholesky.

A packed panel is (k, width): k is the summed index, rows are zero-filled to a multiple of 4.
"""

import numpy as np
from numba import types
from numba.extending import overload

from .jit import kernel

__all__ = ["KC", "add_lower", "panel_width", "rank_update", "triangle_corner", "update_lower"]

KC = 256  # summed terms per block; part of the numerical contract: block sums are added in double


def panel_width(dtype, order):
    """Columns of a panel: a square tile of them stays in L1/L2; a multiple of 8."""
    widest = 64 if dtype.itemsize > 4 else 96
    return min(widest, -(-max(order, 1) // 8) * 8)


@kernel
def _rank_update_real(c, i0, a, k0, kb, mi, b, nj):
    # 2 rows x 4 samples: 8 broadcasts, 4 panel loads and 2 tile loads feed 8 vector FMAs
    for k in range(k0, k0 + kb, 4):
        for i in range(i0, i0 + mi, 2):
            p0, p1, p2, p3 = a[k, i], a[k + 1, i], a[k + 2, i], a[k + 3, i]
            q0, q1, q2, q3 = a[k, i + 1], a[k + 1, i + 1], a[k + 2, i + 1], a[k + 3, i + 1]
            for j in range(nj):
                b0, b1, b2, b3 = b[k, j], b[k + 1, j], b[k + 2, j], b[k + 3, j]
                c[i, j] = c[i, j] + p0 * b0 + p1 * b1 + p2 * b2 + p3 * b3
                c[i + 1, j] = c[i + 1, j] + q0 * b0 + q1 * b1 + q2 * b2 + q3 * b3


@kernel
def _rank_update_complex(c, i0, a, k0, kb, mi, b, nj):
    # one row at a time: the real and imaginary parts of a row already fill the registers
    for k in range(k0, k0 + kb, 4):
        for i in range(i0, i0 + mi):
            p0, p1 = a[k, i].conjugate(), a[k + 1, i].conjugate()
            p2, p3 = a[k + 2, i].conjugate(), a[k + 3, i].conjugate()
            for j in range(nj):
                c[i, j] = (
                    c[i, j] + p0 * b[k, j] + p1 * b[k + 1, j] + p2 * b[k + 2, j] + p3 * b[k + 3, j]
                )


def rank_update(c, i0, a, k0, kb, mi, b, nj):
    # c     INOUT rows i0..i0+mi, columns 0..nj
    # a, b  IN packed panels, rows k0..k0+kb and zeros up to a multiple of 4; widths even
    """c[i, :nj] += sum_k conj(a[k, i]) b[k, :nj].

    Per element the sum runs over k in order, one fused multiply-add after the other, so the result
    depends on neither tile sizes, unrolling nor vector width.
    """
    _rank_update_complex(c, i0, a, k0, kb, mi, b, nj)


@overload(rank_update)
def _typed_rank_update(c, i0, a, k0, kb, mi, b, nj):
    if isinstance(c.dtype, types.Complex):
        return lambda c, i0, a, k0, kb, mi, b, nj: _rank_update_complex(c, i0, a, k0, kb, mi, b, nj)
    return lambda c, i0, a, k0, kb, mi, b, nj: _rank_update_real(c, i0, a, k0, kb, mi, b, nj)


@kernel
def add_lower(c, i0, j0, tile):
    """Add a tile with corner (i0, j0) to the part of c on and below the diagonal."""
    for i in range(i0, min(i0 + tile.shape[0], c.shape[0])):
        for j in range(j0, min(j0 + tile.shape[1], i + 1)):
            c[i, j] += tile[i - i0, j - j0]


@kernel
def triangle_corner(t):
    """Row and column of the t-th tile of a lower triangle, counted along the rows."""
    i = np.int64((np.sqrt(8.0 * t + 1.0) - 1.0) / 2.0)
    while i * (i + 1) // 2 > t:
        i -= 1
    while (i + 1) * (i + 2) // 2 <= t:
        i += 1
    return i, t - i * (i + 1) // 2


@kernel
def update_lower(c, i, j, left, right, kb):
    # c            INOUT (p, p), double or double complex
    # left, right  IN packed panels i and j
    """Add tile (i, j) of left' right to the lower triangle of c, one KC block after the other."""
    width = left.shape[1]
    strip = 32  # rows of the tile worked on at once, so that they stay in L1
    tile = np.empty((width, width), left.dtype)
    for k in range(0, kb, KC):
        tile[:] = 0
        for r in range(0, width, strip):
            rank_update(tile, r, left, k, min(KC, kb - k), min(strip, width - r), right, width)
        add_lower(c, i * width, j * width, tile)
