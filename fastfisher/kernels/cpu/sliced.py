"""Sums of products from slices of 7 bits: integer arithmetic, the same bits in any order.

The scores of a stretch are cut into slices, as bytes in panels; tasks are blocks of c, which sum
products in 32 bits, over no more terms than fit, and then add them to c in double.
"""

from typing import NamedTuple

import numpy as np

from ..slicing import BITS
from . import threads
from .integer import transpose_words, unit, unit_code
from .jit import kernel
from .memory import aligned
from .parallel import for_each
from .products import triangle_corner
from .quantise import peaks_at, quantise_columns, quantise_rows
from .simd import address, call_entry, clear
from .splitting import TASKS, sliced_terms
from .threads import driver

__all__ = ["is_exact", "narrow", "peaks", "sliced_gram", "sliced_syrk"]

WORDS = 16  # of four terms that are quantised at a time
DEPTH = 128  # words of a panel worked on at a time: a right panel stays in L1
SIDE = 8  # panels on a side of a task's block
ROWS = 64  # of a task of `narrow`
SHARES = 16  # of the rows, in `peaks`, or
WIDTH = 1024  # columns at a time


class Source(NamedTuple):
    """Scores (n, p) and what makes integers of them, a number per result (`units`) and more."""

    a: np.ndarray
    units: np.ndarray
    scale: np.ndarray  # per summed index, or (0,)
    shift: np.ndarray  # (p,) or (0,)
    ones: np.ndarray  # (4,), in the place of scale


@kernel
def _cut_columns(t, thread, q, sums, x, lo, count, words, width, slices, scratch):
    """Task: panel t of columns, over rows lo..lo + count."""
    zero, order, j, one = np.int64(0), x.units.size, t * width, x.units[0]
    panel = words * width * 4
    to, total = address(q, t * panel), address(sums, j)
    panels = (order + width - 1) // width
    step = (panels * panel, panels * width, slices, width // WORDS, np.int64(x.shift.size))
    mean = address(x.shift, j if x.shift.size else zero)
    for k in range(words):
        rows = max(min(np.int64(4), count - 4 * k), zero)
        at = lo + (4 * k if rows else zero)
        factors = address(x.scale, at) if x.scale.size else address(x.ones, zero)
        place, source = to + k * width * 4, address(x.a, at * order + j)
        units = address(x.units, j)
        quantise_rows(place, step, total, source, order, rows, order - j, units, factors, mean, one)


@kernel
def _cut_rows(t, thread, q, sums, x, lo, count, words, width, slices, scratch):
    """Task: panel t of rows, over columns lo..lo + count."""
    zero, n, p, one = np.int64(0), x.a.shape[0], x.a.shape[1], x.units[0]
    panel, own = words * width * 4, address(scratch[thread], zero)
    panels = (n + width - 1) // width
    step = (np.int64(4 * WORDS * WORDS), panels * width, slices, np.int64(x.shift.size))
    for g in range(0, width, WORDS):
        for k in range(0, words, WORDS):
            clear(own, slices * 4 * WORDS * WORDS)
            for r in range(WORDS):
                i, j = t * width + g + r, lo + 4 * k
                if i < n and 4 * k < count:
                    mean = address(x.shift, j if x.shift.size else zero)
                    place, source = own + r * 4 * WORDS, address(x.a, i * p + j)
                    total, left = address(sums, i), count - 4 * k
                    quantise_columns(place, step, total, source, left, x.units[i], mean, one)
            for s in range(slices):
                at = address(q, s * panels * panel + t * panel + (k * width + g) * 4)
                transpose_words(at, width, own + s * 4 * WORDS * WORDS, np.int64(WORDS))


@driver
def _columns(launch, q, sums, x, lo, count, words, width, slices, scratch):
    tasks = (x.units.size + width - 1) // width
    for_each(launch, _cut_columns, tasks, (q, sums, x, lo, count, words, width, slices, scratch))


@driver
def _rows(launch, q, sums, x, lo, count, words, width, slices, scratch):
    tasks = (x.units.size + width - 1) // width
    for_each(launch, _cut_rows, tasks, (q, sums, x, lo, count, words, width, slices, scratch))


# Products ----------------------------------------------------------------------------------------


@kernel
def _add(c, rows, columns, own, corrections, weight):
    """c += weight (own - corrections) on the block, j <= i."""
    for i in range(rows[0], rows[1]):
        mine = own[i - rows[0]]
        last = min(columns[1], i + 1)
        for j in range(columns[0], last):
            c[i, j] += weight * np.float64(mine[j - columns[0]] - corrections[j - columns[0]])


@kernel
def _multiply(own, q, left, right, words, panel, unit, blocks, scratch):
    """own += a slice on the left times one on the right, where tiles meet the triangle."""
    zero, (i0, i1, j0, j1) = np.int64(0), blocks
    width, ld = unit.width, own.shape[1]
    for k in range(0, words, DEPTH):
        steps = min(np.int64(DEPTH), words - k)
        for i in range(i0, i1):
            source = address(q, left + i * panel + k * width * 4)
            call_entry(unit.prepare, (address(scratch, zero), source, steps))
            for j in range(j0, min(j1, i + 1)):
                b = address(q, right + j * panel + k * width * 4)
                for r in range(0, width, unit.rows):
                    to = address(own, ((i - i0) * width + r) * ld + (j - j0) * width)
                    a = address(scratch, r * steps * 4)
                    call_entry(unit.tile, (to, ld, a, b, steps))


@kernel
def _block(t, thread, c, q, sums, pairs, words, unit, side, tasks, work, corrections, scratch):
    """Task: a block of c, the last rows first; products of a level are summed first."""
    zero, order, width = np.int64(0), c.shape[0], unit.width
    bi, bj = triangle_corner(tasks - 1 - t)
    panels = (order + width - 1) // width
    panel = words * width * 4
    i0, j0 = bi * side, bj * side
    blocks = (i0, min(i0 + side, panels), j0, min(j0 + side, panels))
    rows = (i0 * width, min(blocks[1] * width, order))
    columns = (j0 * width, min(blocks[3] * width, order))
    own, correction = work[thread], corrections[thread]
    if unit.begin:
        call_entry(unit.begin, (unit.config,))
    first = zero
    for s in range(pairs.shape[0]):
        left, right, level = pairs[s, 0], pairs[s, 1], pairs[s, 2]
        if s == first:
            own[:] = 0
            correction[:] = 0
        for j in range(columns[0], columns[1]):
            correction[j - columns[0]] += np.int32(unit.offset) * sums[right, j]
        size = panels * panel
        _multiply(own, q, left * size, right * size, words, panel, unit, blocks, scratch[thread])
        if s + 1 == pairs.shape[0] or pairs[s + 1, 2] != level:
            _add(c, rows, columns, own, correction, 2.0 ** (-BITS * level))
            first = s + 1
    if unit.begin:
        call_entry(unit.end, (unit.config,))


@driver
def _blocks(launch, c, q, sums, pairs, words, unit, side, work, corrections, scratch):
    count = (c.shape[0] + unit.width - 1) // unit.width
    count = (count + side - 1) // side
    tasks = count * (count + 1) // 2
    args = (c, q, sums, pairs, words, unit, side, tasks, work, corrections, scratch)
    for_each(launch, _block, tasks, args)


def _pairs(slices, levels):
    """(left, right, level) with left + right = level < levels, level by level."""
    found = [(i, j, i + j) for i in range(slices) for j in range(slices) if i + j < levels]
    return np.array(sorted(found, key=lambda pair: pair[2]), np.int64).reshape(-1, 3)


def _accumulate(c, x, cut, lo, hi, slices, levels, code):
    order, pairs = len(c), _pairs(slices, levels)
    if order == 0 or lo >= hi or not len(pairs):
        return
    width, workers = code.width, threads.max_threads()
    panels = -(-order // width)
    step = sliced_terms(order, slices)
    longest = min(step, hi - lo)
    words = -(-longest // (4 * WORDS)) * WORDS
    q = aligned((slices * panels * width * words * 4,), np.int8)
    side = SIDE
    while side > 1 and (panels // side) ** 2 < TASKS * threads.thread_count():
        side //= 2
    work = aligned((workers, side * width, side * width), np.int32)
    corrections = aligned((workers, side * width), np.int32)
    scratch = aligned((workers, max(DEPTH * width * 4, slices * 4 * WORDS * WORDS)), np.int8)
    for k in range(lo, hi, step):
        count = min(step, hi - k)
        words = -(-count // (4 * WORDS)) * WORDS
        sums = np.zeros((slices, panels * width), np.int32)
        cut(q, sums, x, k, count, words, width, slices, scratch)
        _blocks(c, q, sums, pairs, words, code, side, work, corrections, scratch)


def _source(a, units, scale, shift):
    return Source(a, units, scale, shift, np.ones(4, a.dtype))


def sliced_syrk(c, a, units, slices, levels, scale, shift):
    # c       INOUT (p, p) double, lower triangle;  a  IN READ-ONLY (n, p) real
    # units   IN (p,) powers of two: |scale_k (a_kj - shift_j) units_j| <= 127, which is not checked
    # slices  IN per number;  levels  IN products of slices i, j with i + j < levels are taken
    # scale   IN (n,) or (0,);  shift  IN (p,) or (0,)
    """c += U (a - shift)' diag(scale^2) (a - shift) U, U = diag(units), from slices of 7 bits."""
    x = _source(a, units, scale, shift)
    _accumulate(c, x, _columns, 0, len(a), slices, levels, unit_code(unit()))


def sliced_gram(c, a, lo, hi, units, slices, levels, shift):
    # c       INOUT (n, n) double, lower triangle;  a  IN READ-ONLY (n, p) real
    # units   IN (n,) powers of two: |(a_ij - shift_j) units_i| <= 127, which is not checked
    """c += U (a - shift) (a - shift)' U over columns lo..hi, U = diag(units), from slices."""
    x = _source(a, units, units[:0], shift)
    _accumulate(c, x, _rows, lo, hi, slices, levels, unit_code(unit()))


def is_exact(code):
    """True if this code sums a small product right, over both axes and several panels."""
    rng = np.random.default_rng(0)
    a = rng.integers(-127, 128, (150, 70)).astype(np.float64)
    a[0], a[1] = 127, -127
    none, c = np.empty(0), np.zeros((70, 70))
    _accumulate(c, _source(a, np.ones(70), none, none), _columns, 0, 150, 1, 1, code)
    d = np.zeros((150, 150))
    _accumulate(d, _source(a, np.ones(150), none, none), _rows, 0, 70, 1, 1, code)
    return np.array_equal(c, np.tril(a.T @ a)) and np.array_equal(d, np.tril(a @ a.T))


# Around them -------------------------------------------------------------------------------------


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


@kernel
def _narrow_rows(t, thread, out, c, units):
    for i in range(t * ROWS, min((t + 1) * ROWS, c.shape[0])):
        by = units[i]
        for j in range(i + 1):
            out[i, j] = np.float32(c[i, j] * (by * units[j]))


@driver
def _narrow(launch, out, c, units):
    for_each(launch, _narrow_rows, (c.shape[0] + ROWS - 1) // ROWS, (out, c, units))


def narrow(out, c, units):
    # out  OUT (n, n) float32, lower triangle;  c  IN READ-ONLY (n, n) double;  units  IN (n,)
    """out_ij = units_i c_ij units_j for j <= i, rounded once to single precision."""
    _narrow(out, c, units)
