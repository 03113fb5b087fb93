"""Sums of products from slices of 7 bits on the device: integer arithmetic, exact in any order.

The scores of a stretch are cut into slices, as words of four terms (`quantise.py`); a block of
threads owns a tile of C, sums products of bytes on tensor cores in 32 bits, over no more terms than
fit, and adds them to C in double.
"""

import functools
from types import SimpleNamespace

import numpy as np

from ..slicing import BITS
from . import compat
from .compat import ALIGNED, cuda, device, opaque, types
from .fragments import products
from .quantise import quantise_columns, quantise_rows
from .staging import Source, flat, stage
from .tilings import sliced_bytes, sliced_stretch, sliced_tiling, sliced_words
from .vectors import per_element

__all__ = ["narrow", "sliced_gram", "sliced_syrk"]

WORDS = Source("int32", "int32", True, 4, False)


@functools.cache
def _engine(tiling):
    """`accumulate`: products of one slice on the left and one on the right, in registers."""
    left, right = (stage(side, WORDS, tiling) for side in (tiling.rows, tiling.columns))
    made, depth = products(tiling, WORDS, left, right), tiling.depth
    square, whole, right_at = tiling.rows == tiling.columns, left.size + right.size, left.size
    fetch_left, fetch_right, multiply = left.fetch, right.fetch, made.multiply
    commit, wait = compat.cp_async_commit, compat.cp_async_wait(0)

    @device
    def accumulate(acc, tiles, q, at_left, at_right, ld, order, i0, j0, words):
        same = square and i0 == j0 and at_left == at_right
        across = 0 if same else right_at
        fetch_left(tiles, 0, tiles, 0, q, at_left, ld, i0, order, 0, words)
        if not same:
            fetch_right(tiles, right_at, tiles, 0, q, at_right, ld, j0, order, 0, words)
        commit()
        steps = (words + depth - 1) // depth
        for s in range(steps):
            at, k = s % 2 * whole, (s + 1) * depth
            wait()
            cuda.syncthreads()
            if s + 1 < steps:
                to = (s + 1) % 2 * whole
                fetch_left(tiles, to, tiles, 0, q, at_left, ld, i0, order, k, words)
                if not same:
                    to += right_at
                    fetch_right(tiles, to, tiles, 0, q, at_right, ld, j0, order, k, words)
                commit()
            multiply(acc, tiles, at, at + across)
        cuda.syncthreads()

    return SimpleNamespace(
        accumulate=accumulate,
        row=made.row,
        column=made.column,
        places=made.places,
        shared=2 * whole,
    )


@functools.cache
def _kernel(tiling):
    """C += the products of all pairs of slices, a level (the sum of both numbers) at a time."""
    made = _engine(tiling)
    accumulate, row, column, shared = made.accumulate, made.row, made.column, made.shared
    rows, columns, elements = tiling.rows, tiling.columns, tiling.sums
    clear, add_sums, step = compat.clear(elements), compat.add_lower(made.places), 2.0**-BITS

    @compat.kernel(tiling.threads)
    def add_products(c, q, plane, ld, order, words, slices, levels):
        tiles = cuda.shared.array(shared, types.int32, ALIGNED)
        acc = cuda.local.array(elements, types.int32)
        i0, j0, weight = cuda.blockIdx.y * rows, cuda.blockIdx.x * columns, 1.0
        if j0 >= i0 + rows:
            return
        for level in range(levels):
            clear(acc)
            for s in range(max(level - slices + 1, 0), min(level, slices - 1) + 1):
                left, right = s * plane, (level - s) * plane
                accumulate(acc, tiles, q, left, right, ld, order, i0, j0, words)
            i, j = opaque(i0 + row()), opaque(j0 + column())
            add_sums(c, 0, order, order, i, j, weight, acc)
            weight *= step

    return add_products


def _accumulate(c, cut, lo, hi, slices, levels):
    order = c.shape[0]
    if not (order and hi > lo and slices):
        return
    tiling, ld = sliced_tiling(compat.SIMULATED), sliced_words(order)
    step, levels = sliced_stretch(order, slices), min(levels, 2 * slices - 1)
    q = compat.empty((sliced_bytes(order, hi - lo, slices) // 4,), np.int32)
    plane = q.size // slices
    grid = -(-order // tiling.columns), -(-order // tiling.rows)
    for k in range(lo, hi, step):
        end = min(k + step, hi)
        cut(q, plane, ld, k, end)
        args = flat(c), q, plane, ld, order, -(-(end - k) // 4), slices, levels
        compat.launch(_kernel(tiling), grid, tiling.threads, *args)


def sliced_syrk(c, a, units, slices, levels, scale, shift):
    # c       INOUT (p, p) double, lower triangle;  a  IN READ-ONLY (n, p) C order
    # units   IN (p,): |scale_k (a_kj - shift_j) units_j| < 127.5, which is not checked
    # slices  IN per number;  levels  IN products of slices i, j with i + j < levels are taken
    # scale   IN (n,) or (0,);  shift  IN (p,) or (0,), as computed
    """c += U (a - shift)' diag(scale^2) (a - shift) U, U = diag(units), from slices of 7 bits."""

    def cut(q, plane, ld, lo, hi):
        quantise_rows(q, plane, ld, a, lo, hi, units, slices, scale, shift)

    _accumulate(c, cut, 0, a.shape[0], slices, levels)


def sliced_gram(c, a, lo, hi, units, slices, levels, shift):
    # c       INOUT (n, n) double, lower triangle;  a  IN READ-ONLY (n, p) C order
    # units   IN (n,): |(a_ij - shift_j) units_i| < 127.5, which is not checked
    """c += U (a - shift) (a - shift)' U over columns lo..hi, U = diag(units), from slices."""

    def cut(q, plane, ld, lo, hi):
        quantise_columns(q, plane, ld, a, lo, hi, units, slices, shift)

    _accumulate(c, cut, lo, hi, slices, levels)


@cuda.jit
def _narrow(out, c, units):
    e = cuda.grid(1)
    if e < c.size:
        i, j = e // c.shape[1], e % c.shape[1]
        if j <= i:
            out[i, j] = c[i, j] * (units[i] * units[j])


def narrow(out, c, units):
    # out  OUT (n, n) float32, lower triangle;  c  IN READ-ONLY (n, n) double;  units  IN (n,)
    """out_ij = units_i c_ij units_j for j <= i, rounded once to single precision."""
    per_element(_narrow, c.size, out, c, units)
