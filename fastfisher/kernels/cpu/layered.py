"""Gram matrix of one layer's scores from its inputs and output gradients; scores never exist."""

import numpy as np
from numba import prange

from .jit import driver, kernel
from .packing import pack_columns
from .tile import KC, rank_update, triangle_corner

__all__ = ["layered_gram"]

WIDTH = 64  # rows of a and e per tile


@kernel
def _row_products(sums, a, r0, c0, left, right, block, none, shift):
    """sums[i, j] = sum_k conj(a[r0+i, k]) a[c0+j, k] for a tile of rows."""
    sums[:] = 0
    for k in range(0, a.shape[1], KC):
        kb = min(KC, a.shape[1] - k)
        pack_columns(left, 0, a[r0 : r0 + WIDTH], k, kb, none, shift)
        pack_columns(right, 0, a[c0 : c0 + WIDTH], k, kb, none, shift)
        block[:] = 0
        for r in range(0, WIDTH, 32):
            rank_update(block, r, left[0], 0, kb, 32, right[0], WIDTH)
        for i in range(WIDTH):
            for j in range(WIDTH):
                sums[i, j] += block[i, j]


@driver
def _layered(c, a, e, tokens, group, none, shift):
    """Tasks are pairs of sample groups; a task owns their block of c."""
    n = c.shape[0]
    groups = (n + group - 1) // group
    tasks = groups * (groups + 1) // 2
    for task in prange(tasks):
        gi, gj = triangle_corner(tasks - 1 - np.int64(task))
        left, right = np.empty((1, KC, WIDTH), a.dtype), np.empty((1, KC, WIDTH), a.dtype)
        block = np.empty((WIDTH, WIDTH), a.dtype)
        inputs, outputs = np.empty((WIDTH, WIDTH), c.dtype), np.empty((WIDTH, WIDTH), c.dtype)
        i1, j1 = min((gi + 1) * group, n) * tokens, min((gj + 1) * group, n) * tokens
        for r0 in range(gi * group * tokens, i1, WIDTH):
            for c0 in range(gj * group * tokens, j1, WIDTH):
                _row_products(inputs, a, r0, c0, left, right, block, none, shift)
                _row_products(outputs, e, r0, c0, left, right, block, none, shift)
                for r in range(r0, min(r0 + WIDTH, i1)):
                    for s in range(c0, min(c0 + WIDTH, j1)):
                        if r // tokens >= s // tokens:
                            value = inputs[r - r0, s - c0] * outputs[r - r0, s - c0]
                            c[r // tokens, s // tokens] += value.conjugate()


def layered_gram(c, a, e, tokens):
    # c       INOUT (n, n) double or double complex; lower triangle, upper not read or written
    # a, e    IN READ-ONLY (n tokens, d_in), (n tokens, d_out) C order, one dtype
    # tokens  rows of a and e per sample
    """Lower triangle of c[i, j] += sum over tokens t, t' of (a_it a_jt'') (e_it e_jt'')."""
    if c.size and a.size and e.size:
        none = np.empty(0, a.real.dtype)
        _layered(c, a, e, tokens, max(1, WIDTH // tokens), none, np.empty(0, a.dtype))
