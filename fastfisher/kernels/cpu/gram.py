"""Gram matrix over the long axis: C += (A - m) diag(d) (A - m)', lower triangle."""

import numpy as np
from numba import prange

from .jit import driver
from .packing import pack_columns
from .syrk import lower_tiles, packed_rows
from .tile import KC, panel_width, update_lower

__all__ = ["gram"]

SPLIT = 128  # up to this order every task owns a whole C and a share of the columns
TASK_COLUMNS = 16 * KC


@driver
def _pack(left, right, a, k0, kb, weight, shift, none):
    for task in prange(left.shape[0]):
        q = np.int64(task)
        pack_columns(left, q, a, k0, kb, none, shift)
        if weight.size > 0:
            pack_columns(right, q, a, k0, kb, weight, shift)


@driver
def _column_blocks(parts, left, right, a, lo, hi, weight, shift, none):
    """Tasks are blocks of TASK_COLUMNS columns, each with a C and panels of its own."""
    for task in prange(parts.shape[0]):
        t = np.int64(task)
        first = lo + t * TASK_COLUMNS
        last = min(first + TASK_COLUMNS, hi)
        for k0 in range(first, last, KC):
            kb = min(KC, last - k0)
            for i in range(left.shape[1]):
                pack_columns(left[t], i, a, k0, kb, none, shift)
                pack_columns(right[t], i, a, k0, kb, weight, shift)
                for j in range(i + 1):
                    update_lower(parts[t], i, j, left[t, i], right[t, j], kb)


def gram(c, a, lo, hi, weight, shift):
    # c       INOUT (n, n) double or double complex; lower triangle, upper not read or written
    # a       IN READ-ONLY (n, p) C order; columns lo..hi are summed over
    # weight  IN (p,) or (0,) non-negative column weights;  shift IN (p,) or (0,), a's dtype
    """Lower triangle of c += (a - shift) diag(weight) (a - shift)', over columns lo..hi."""
    n = a.shape[0]
    if n == 0 or lo >= hi:
        return
    # Packed panels give sum_k conj(x_ik) x_jk, the conjugate of what is wanted.
    sums = c if c.dtype.kind == "f" else np.zeros_like(c)
    width = panel_width(a.dtype, n)
    panels = -(-n // width)
    none = weight[:0]
    if n <= SPLIT:
        blocks = -(-(hi - lo) // TASK_COLUMNS)
        parts = np.zeros((blocks, n, n), c.dtype)
        left = np.empty((blocks, panels, KC, width), a.dtype)
        _column_blocks(parts, left, np.empty_like(left), a, lo, hi, weight, shift, none)
        for part in parts:
            sums += part
    else:
        left = np.empty((panels, packed_rows(n), width), a.dtype)
        right = np.empty_like(left) if weight.size else left
        for k0 in range(lo, hi, left.shape[1]):
            kb = min(left.shape[1], hi - k0)
            _pack(left, right, a, k0, kb, weight, shift, none)
            lower_tiles(sums, left, right, kb)
    if sums is not c:
        c += sums.conj()
