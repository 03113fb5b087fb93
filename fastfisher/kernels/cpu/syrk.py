"""Symmetric rank-k update over the samples: C += (A - m)' diag(s^2) (A - m), lower triangle."""

import numpy as np
from numba import prange

from .jit import driver
from .packing import pack_rows
from .tile import KC, panel_width, triangle_corner, update_lower

__all__ = ["mirror", "syrk"]

SPLIT = 128  # up to this order every task owns a whole C and a share of the samples
TASK_ROWS = 16 * KC  # samples of such a task; fixed, so that bits do not depend on threads


@driver
def _pack(out, a, k0, kb, scale, shift):
    for task in prange(out.shape[0]):
        pack_rows(out, np.int64(task), a, k0, kb, scale, shift)


@driver
def lower_tiles(c, left, right, kb):
    """Lower triangle of c += left' right; tasks are its tiles, the last rows first."""
    tiles = left.shape[0] * (left.shape[0] + 1) // 2
    for task in prange(tiles):
        i, j = triangle_corner(tiles - 1 - np.int64(task))
        update_lower(c, i, j, left[i], right[j], kb)


@driver
def _sample_blocks(parts, packed, a, scale, shift):
    """Tasks are blocks of TASK_ROWS samples, each with a C and panels of its own."""
    for task in prange(parts.shape[0]):
        t = np.int64(task)
        for k0 in range(t * TASK_ROWS, min((t + 1) * TASK_ROWS, a.shape[0]), KC):
            kb = min(KC, a.shape[0] - k0)
            for i in range(packed.shape[1]):
                pack_rows(packed[t], i, a, k0, kb, scale, shift)
                for j in range(i + 1):
                    update_lower(parts[t], i, j, packed[t, i], packed[t, j], kb)


def packed_rows(order):
    """Summed terms packed at a time: a few blocks where the order is small, one where it is not."""
    return KC * max(1, min(4, 4096 // max(order, 1)))


def syrk(c, a, scale, shift):
    # c      INOUT (p, p) double or double complex; lower triangle, upper not read or written
    # a      IN READ-ONLY (n, p) C order; n = 0 leaves c unchanged
    # scale  IN (n,) or (0,) square roots of the weights;  shift IN (p,) or (0,), a's dtype
    """Lower triangle of c += (a - shift)' diag(scale^2) (a - shift)."""
    n, p = a.shape
    if n == 0 or p == 0:
        return
    width = panel_width(a.dtype, p)
    panels = -(-p // width)
    if p <= SPLIT:
        blocks = -(-n // TASK_ROWS)
        parts = np.zeros((blocks, p, p), c.dtype)
        _sample_blocks(parts, np.empty((blocks, panels, KC, width), a.dtype), a, scale, shift)
        for part in parts:
            c += part
        return
    packed = np.empty((panels, packed_rows(p), width), a.dtype)
    for k0 in range(0, n, packed.shape[1]):
        kb = min(packed.shape[1], n - k0)
        _pack(packed, a, k0, kb, scale, shift)
        lower_tiles(c, packed, packed, kb)


@driver
def _mirror(c, block):
    for b in prange((c.shape[0] + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, c.shape[0])):
            for j in range(i):
                c[j, i] = c[i, j].conjugate()
            c[i, i] = c[i, i].real


def mirror(c):
    # c  INOUT (p, p)
    """Fill the upper triangle with the conjugate of the lower; the diagonal becomes real."""
    _mirror(c, 64)
