"""The largest score of every column or row, which slices are cut by; NaN and Inf stay."""

import numpy as np

from . import threads
from .jit import kernel
from .memory import aligned
from .parallel import for_each
from .quantise import PEAK_ROWS, peaks_of_row, peaks_of_rows
from .simd import address
from .threads import driver

__all__ = ["peaks"]

ROWS = 64  # of a task over columns
SHARES = 16  # of the rows, or
WIDTH = 1024  # columns at a time


@kernel
def _column_peaks(t, thread, found, a, scale, shift, ones):
    """Task: share t of the rows into found[t] (p)."""
    zero, p, one = np.int64(0), a.shape[1], ones[0]
    share = (a.shape[0] + found.shape[0] - 1) // found.shape[0]
    mine, mean, moved = address(found[t], zero), address(shift, zero), np.int64(shift.size)
    i, last = t * share, min((t + 1) * share, a.shape[0])
    while i < last:
        factors = address(scale, i) if scale.size else address(ones, zero)
        if i + PEAK_ROWS <= last:
            peaks_of_rows(mine, address(a, i * p), p, p, factors, mean, moved, one)
            i += PEAK_ROWS
        else:
            peaks_of_row(mine, address(a, i * p), p, p, factors, mean, moved, one)
            i += 1


@kernel
def _row_peaks(t, thread, y, a, shift, room, ones):
    """Task: ROWS rows, WIDTH columns at a time."""
    zero, p, found = np.int64(0), a.shape[1], room[thread]
    factors, one = address(ones, zero), ones[0]
    for i in range(t * ROWS, min((t + 1) * ROWS, a.shape[0])):
        found[:] = 0
        for j in range(0, p, WIDTH):
            mean, moved = address(shift, j if shift.size else zero), np.int64(shift.size)
            at, count = address(a, i * p + j), min(np.int64(WIDTH), p - j)
            peaks_of_row(address(found, zero), at, p, count, factors, mean, moved, one)
        largest = y[i]
        for j in range(WIDTH):
            if found[j] > largest or found[j] != found[j]:
                largest = found[j]
        y[i] = largest


@driver
def _over_rows(launch, found, a, scale, shift, ones):
    for_each(launch, _column_peaks, found.shape[0], (found, a, scale, shift, ones))


@driver
def _over_columns(launch, y, a, shift, room, ones):
    for_each(launch, _row_peaks, (a.shape[0] + ROWS - 1) // ROWS, (y, a, shift, room, ones))


def peaks(y, a, by_rows, scale, shift):
    # y      INOUT (p,) or (n,) float64;  a  IN READ-ONLY (n, p) real
    # scale  IN (n,) or (0,), only by rows;  shift  IN (p,) or (0,)
    """y = max(y, |scale_k (a_kj - shift_j)|) over the rows k, or over the columns j; keeps NaN."""
    if not a.size:
        return
    vector, ones = 64 // a.itemsize, np.ones(PEAK_ROWS, a.dtype)
    if by_rows:
        found = aligned((SHARES, -(-a.shape[1] // vector) * vector), a.dtype)
        found[:] = 0
        _over_rows(found, a, scale, shift, ones)
        np.maximum(y, found[:, : a.shape[1]].max(axis=0), out=y)
    else:
        room = aligned((threads.max_threads(), WIDTH), a.dtype)
        found = np.zeros(len(a), a.dtype)
        _over_columns(found, a, shift, room, ones)
        np.maximum(y, found, out=y)
