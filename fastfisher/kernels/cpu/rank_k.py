"""C += sum_k conj(x_k) x_k' over one axis of the scores, lower triangle: what syrk and gram share.

Up to order SPLIT (SPLIT_PAIRS of complex numbers) tasks are shares of the summed axis, each with a
C of its own, added in order. Above it tasks are blocks of one C (see tiled.py).
"""

import numpy as np

from . import threads
from .jit import kernel
from .memory import aligned
from .packing import Operand, operand, pack
from .parallel import for_each
from .products import (
    Place,
    add_complex,
    add_lower,
    add_lower_ahead,
    panels_of,
    with_layout,
)
from .simd import address
from .splitting import THIN, block_terms, share_count
from .threads import driver
from .tiled import add_tiled

__all__ = ["add_rank_k", "round_rank_k"]


@kernel
def _as_they_lie(out, x, at, kb, panels):
    """Widen an even number of rows of half precision at the address `at` to the start of out."""
    zero, two, half = np.int64(0), np.int64(2), kb // 2 * x.p
    whole = (half + panels.lanes - 1) // panels.lanes * panels.lanes
    both = Operand(at, two, half, x.parts, x.by_rows, x.scale, x.shift, x.bytes, x.code)
    pack(out, zero, both, zero, two, zero, np.int64(1), with_layout(panels, whole, half, whole))


@kernel
def _share(t, thread, sums, work, x, bounds, order, panels, readable):
    """Task: share t of the sum, into sums[t] (parts, rows, ld), which has room for whole tiles."""
    lo, hi, share, block = bounds
    count = (order + panels.width - 1) // panels.width
    out, c = work[thread], sums[t].reshape(sums[t].size)
    c[:] = 0
    zero, one, row, packed = np.int64(0), np.int64(1), sums.shape[3], address(out, np.int64(0))
    re, im = Place(zero, row, one, one), Place(sums.shape[2] * row, row, one, one)
    every, add = (zero, order), panels.add
    last, row_bytes = min(lo + (t + 1) * share, hi), x.p * x.parts * x.bytes
    for k0 in range(lo + t * share, last, block):
        kb = min(block, last - k0)
        at = x.a + k0 * row_bytes
        following = at + kb * row_bytes
        ahead = (following, following + min(block, last - k0 - kb) * row_bytes)
        if k0 + kb <= readable and kb % 2 == 0:
            if x.bytes != panels.bytes:
                _as_they_lie(out, x, at, kb, panels)
                at = packed
            add_lower_ahead(c, re, order, every, every, add, at, at, x.p, kb, panels, c, ahead)
            continue
        pack(out, zero, x, k0, kb, zero, count, panels)
        terms, ld = kb + kb % 2, panels.ld
        if x.parts == 2:
            add_complex(
                c, re, im, order, every, every, out, zero, zero, terms, not x.by_rows, panels, c
            )
        elif x.by_rows:
            add_lower_ahead(
                c, re, order, every, every, add, packed, packed, ld, terms, panels, c, ahead
            )
        else:
            add_lower(c, re, order, every, every, add, out, zero, out, zero, ld, terms, panels, c)


@kernel
def _add_rows(t, thread, c, sums):
    """Task: row t of the triangle of c (order, order, parts), shares added in order."""
    for part in range(c.shape[2]):
        for s in range(sums.shape[0]):
            for j in range(t + 1):
                c[t, j, part] += sums[s, part, t, j]


@driver
def _shares(launch, c, sums, work, x, bounds, order, panels, readable):
    tasks = sums.shape[0]
    for_each(launch, _share, tasks, (sums, work, x, bounds, order, panels, readable))
    for_each(launch, _add_rows, c.shape[0], (c, sums))


def _split(c, x, lo, hi, order, shares):
    thin, block = order <= THIN, block_terms(order, x.parts, x.dtype.itemsize)
    panels = panels_of(
        x.dtype, block * x.parts, order=order if thin else None, subtract=x.parts == 2
    )
    count = -(-order // panels.width)
    readable = 0
    if thin and x.by_rows and x.parts == 1 and not (x.scale.size or x.shift.size):
        readable = x.n + 1 - -(-panels.width // order)  # whole vectors stay inside a
    share = -(-(hi - lo) // shares)
    share = -(-share // 16) * 16
    rows = -(-order // panels.rows) * panels.rows
    sums = aligned((shares, x.parts, rows, count * panels.width), np.float64)
    work = aligned((threads.max_threads(), count * panels.stride), x.dtype)
    c = c.reshape(order, order, x.parts)
    _shares(c, sums, work, x, (lo, hi, share, block), order, panels, readable)


def round_rank_k(out, a, scale, shift):
    # out  OUT (p, p) in the dtype of a, which is single; lower triangle, upper left alone
    # a    IN READ-ONLY (n, p) C order, scale and shift as in `add_rank_k`
    """out = the sum over all rows, rounded once; for sums that are `written_once`."""
    x = operand(a, True, scale, shift)
    add_tiled(out.view(x.dtype).reshape(-1), x, 0, x.n, len(out), fresh=True)


def add_rank_k(c, a, by_rows, lo, hi, scale, shift):
    # c       INOUT (order, order) double, or double complex; lower triangle, upper left alone
    # a       IN READ-ONLY (n, p) C order; summed over its rows, or its columns, lo..hi
    # scale   IN a number per summed index, or (0,);  shift  IN (p,) or (0,), as computed
    """c += sum_k scale_k^2 conj(x_k) x_k', x_k row k of a - shift; for columns its conjugate."""
    order = len(c)
    if order == 0 or lo >= hi:
        return
    if a.dtype.kind != "c" and c.dtype.kind == "c":
        sums = np.zeros(c.shape)
        add_rank_k(sums, a, by_rows, lo, hi, scale, shift)
        c += sums
        return
    x = operand(a, by_rows, scale, shift)
    sums = c.view(np.float64).reshape(-1)
    shares = share_count(order, hi - lo, x.parts)
    if shares:
        _split(sums, x, lo, hi, order, shares)
    else:
        add_tiled(sums, x, lo, hi, order)
