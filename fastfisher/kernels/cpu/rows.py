"""Scores as rows, and passes over a few of them at a time: what row_passes.py compiles, called."""

import functools
from typing import NamedTuple

import numpy as np

from ...machine import cpu_name
from .jit import kernel
from .row_passes import (
    FIRST_BOTH,
    FIRST_COMBINE,
    FIRST_DOTS,
    FIRST_SQUARES,
    GROUP,
    MANY,
    TOGETHER,
    Pass,
    rows_address,
)
from .simd import call

__all__ = [
    "AHEAD",
    "ALONG",
    "Rows",
    "add_squares",
    "combine",
    "dots",
    "dots_and_combine",
    "dots_at_once",
    "real_rows",
    "rows_at_once",
]

AHEAD = 4096  # bytes that passes fetch ahead at least, from group to group of rows,
ALONG = 1024  # and along rows where a group of them takes more than
LONG = 64 << 10


class Rows(NamedTuple):
    """Scores as real rows at an address; the row at `shift` is subtracted from each if `shifted`.

    Addresses, not arrays: kernels take these apart for every few rows, and each array would be
    counted up and down. Whoever makes this record keeps the arrays.
    """

    a: int
    n: int
    width: int
    shift: int
    shifted: bool
    ahead: int  # elements from a group of rows to one that is fetched now and used later
    bytes: int  # of an element of vectors and sums,
    stored: int  # and of the scores
    code: int  # address of the passes

    @property
    def elements(self):
        return self.n * self.width


@kernel
def rows_at_once(left):
    """How many of so many rows a combination takes."""
    if left >= MANY:
        return MANY
    return GROUP if left >= GROUP else 1


@kernel
def dots_at_once(left):
    """How many of so many rows dot products take, where nothing is done with them meanwhile."""
    if left >= TOGETHER:
        return TOGETHER
    return GROUP if left >= GROUP else 1


@kernel
def _run(first, out, x, i, j, vector, count, rows, ahead):
    """The pass with layouts from `first` on; `rows` is one of its `_ROWS`."""
    at, mean = x.a + (i * x.width + j) * x.stored, x.shift + j * x.bytes
    size, none = (rows >= GROUP) + (rows > GROUP), np.int64(0)
    layout = first + 2 * size + x.shifted
    call(x.code, Pass(layout, out, at, x.width, vector, mean, count, ahead, none, none))


@kernel
def dots(out, x, i, j, v, count, rows, ahead):
    """out[r] = sum of (x[i + r, j..j+count] - shift) v for `rows` rows: TOGETHER, a GROUP or one.

    out and v are addresses; what lies `ahead` elements further is fetched meanwhile.
    """
    _run(np.int64(FIRST_DOTS), out, x, i, j, v, count, rows, ahead)


@kernel
def dots_and_combine(out, y, x, i, j, v, s, count, rows):
    """`dots` of `rows` rows at i, and `combine` of as many before them, in one pass.

    y has room for whole units of LANE_BYTES.
    """
    at, mean = x.a + (i * x.width + j) * x.stored, x.shift + j * x.bytes
    layout = FIRST_BOTH + 2 * (rows == GROUP) + x.shifted
    call(x.code, Pass(layout, out, at, x.width, v, mean, count, x.ahead, y, s))


@kernel
def combine(y, x, i, j, s, count, rows, ahead):
    """y[c] += sum_r s[r] (x[i + r, j + c] - shift), in order, for `rows_at_once` rows.

    y has room for whole vectors.
    """
    _run(np.int64(FIRST_COMBINE), y, x, i, j, s, count, rows, ahead)


@kernel
def add_squares(y, x, i, j, s, count, rows, ahead):
    """y[c] += sum_r s[r] (x[i + r, j + c] - shift)^2, as `combine`."""
    _run(np.int64(FIRST_SQUARES), y, x, i, j, s, count, rows, ahead)


@functools.cache
def _follows_streams():
    """True where the processor fetches a few streams ahead by itself, and faster undisturbed."""
    return "Intel" in cpu_name()


def real_rows(a, shift, *, once=False, rows=GROUP):
    """Rows for scores (n, p) and a shift (p,) or (0,); complex numbers become (re, im) pairs.

    Scores in half precision are computed in float32, these and single ones in double where the
    shift is in that. `once`: a pass reads on from row to row and does nothing else meanwhile.
    `rows` at a time: MANY where all passes are combinations, TOGETHER where dot products.
    """
    stored, size = a.real.dtype, shift.real.itemsize
    width = a.shape[1] * (a.itemsize // stored.itemsize)
    group = rows * width * stored.itemsize
    ahead = rows * width * max(1, -(-AHEAD // max(group, 1)))
    if once:
        ahead = ALONG // stored.itemsize if group >= LONG else ahead
        ahead = 0 if _follows_streams() else ahead
    shifted = bool(shift.size)
    at, mean = a.ctypes.data, shift.ctypes.data if shifted else 0
    code = rows_address(stored, size)
    return Rows(at, len(a), width, mean, shifted, ahead, size, stored.itemsize, code)
