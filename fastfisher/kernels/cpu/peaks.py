"""The largest score of every column or row, which slices are cut by; NaN and Inf stay."""

import numpy as np

from . import threads
from .jit import kernel
from .memory import aligned
from .parallel import for_each
from .quantise import peaks_at
from .simd import address
from .threads import driver

__all__ = ["peaks"]

ROWS = 64  # of a task over columns
SHARES = 16  # of the rows, or
WIDTH = 1024  # columns at a time


@kernel
def _column_peaks(t, thread, found, a, scale, shift, one):
    """Task: share t of the rows into found[t] (p)."""
    zero, p = np.int64(0), a.shape[1]
    share = (a.shape[0] + found.shape[0] - 1) // found.shape[0]
    mine = address(found[t], zero)
    for i in range(t * share, min((t + 1) * share, a.shape[0])):
        factor = scale[i] if scale.size else one
        mean, moved = address(shift, zero), np.int64(shift.size)
        peaks_at(mine, address(a, i * p), p, factor, mean, moved)


@kernel
def _row_peaks(t, thread, y, a, shift, room, one):
    """Task: ROWS rows, WIDTH columns at a time."""
    zero, p, found = np.int64(0), a.shape[1], room[thread]
    for i in range(t * ROWS, min((t + 1) * ROWS, a.shape[0])):
        found[:] = 0
        for j in range(0, p, WIDTH):
            mean, moved = address(shift, j if shift.size else zero), np.int64(shift.size)
            at, count = address(a, i * p + j), min(np.int64(WIDTH), p - j)
            peaks_at(address(found, zero), at, count, one, mean, moved)
        largest = y[i]
        for j in range(WIDTH):
            if found[j] > largest or found[j] != found[j]:
                largest = found[j]
        y[i] = largest


@driver
def _over_rows(launch, found, a, scale, shift, one):
    for_each(launch, _column_peaks, found.shape[0], (found, a, scale, shift, one))


@driver
def _over_columns(launch, y, a, shift, room, one):
    for_each(launch, _row_peaks, (a.shape[0] + ROWS - 1) // ROWS, (y, a, shift, room, one))


def peaks(y, a, by_rows, scale, shift):
    # y      INOUT (p,) or (n,) float64;  a  IN READ-ONLY (n, p) real
    # scale  IN (n,) or (0,), only by rows;  shift  IN (p,) or (0,)
    """y = max(y, |scale_k (a_kj - shift_j)|) over the rows k, or over the columns j; keeps NaN."""
    if not a.size:
        return
    vector = 64 // a.itemsize
    if by_rows:
        found = aligned((SHARES, -(-a.shape[1] // vector) * vector), a.dtype)
        found[:] = 0
        _over_rows(found, a, scale, shift, a.dtype.type(1))
        np.maximum(y, found[:, : a.shape[1]].max(axis=0), out=y)
    else:
        room = aligned((threads.max_threads(), WIDTH), a.dtype)
        found = np.zeros(len(a), a.dtype)
        _over_columns(found, a, shift, room, a.dtype.type(1))
        np.maximum(y, found, out=y)
