"""Sums of products from slices: integers, exact and so the same bits in any order, or halves.

The scores of a stretch are cut into slices, in panels of words; tasks are blocks of c, which sum
products in 32 bits, over no more terms than fit (halves: in single precision, over a span), and
then add them up in double. c itself is double, or single precision: a stretch is rounded to it.
"""

from typing import NamedTuple

import numpy as np

from ..slicing import KINDS
from . import threads
from .jit import kernel
from .memory import aligned
from .parallel import for_each
from .products import triangle_corner
from .quantise import STORED, quantise_columns, quantise_rows
from .simd import address, call_entry, clear
from .splitting import TASKS, sliced_terms
from .threads import driver
from .units import unit, unit_code
from .word_tiles import add_words, transpose_words

__all__ = [
    "bf16_gram",
    "bf16_syrk",
    "int7_gram",
    "int7_syrk",
    "int16_gram",
    "int16_syrk",
    "is_exact",
    "narrow",
    "sliced_gram",
    "sliced_syrk",
]

WORDS = 16  # that are quantised at a time
DEPTH = 128  # words of a panel worked on at a time: a panel of either side stays in L1
AHEAD = 2  # rows of c that are fetched early
ROWS = 64  # of a task of `narrow`
TERM = {KINDS[kind].bits: stored() for kind, stored in STORED.items() if kind != "halves"}
TERM[0] = STORED["halves"]()


class Source(NamedTuple):
    """Scores (n, p) and what makes slices of them, a number per result (`units`) and more."""

    a: np.ndarray
    units: np.ndarray
    scale: np.ndarray  # per summed index, or (0,)
    shift: np.ndarray  # (p,) or (0,)
    ones: np.ndarray  # (4,), in the place of scale
    terms: int  # per word
    term: np.number  # like those of a slice


@kernel
def _cut_columns(t, thread, q, sums, x, lo, count, words, width, slices, scratch):
    """Task: WORDS words of all panels of columns, of the rows from lo on; t-th of them."""
    zero, order, one = np.int64(0), x.units.size, x.units[0]
    panel = words * width * 4
    panels = (order + width - 1) // width
    step = (panels * panel, panels * width, slices, width // WORDS, np.int64(x.shift.size))
    for k in range(t * WORDS, (t + 1) * WORDS):
        rows = max(min(x.terms, count - x.terms * k), zero)
        at = lo + (x.terms * k if rows else zero)
        factors = address(x.scale, at) if x.scale.size else address(x.ones, zero)
        for j in range(0, order, width):
            mean = address(x.shift, j if x.shift.size else zero)
            place = address(q, j // width * panel + k * width * 4)
            mine, source = address(sums[thread], j), address(x.a, at * order + j)
            scale, left = address(x.units, j), order - j
            quantise_rows(
                place, step, mine, source, order, rows, left, scale, factors, mean, one, x.term
            )


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
                i, j = t * width + g + r, lo + x.terms * k
                if i < n and x.terms * k < count:
                    mean = address(x.shift, j if x.shift.size else zero)
                    place, source = own + r * 4 * WORDS, address(x.a, i * p + j)
                    total, left = address(sums[thread], i), count - x.terms * k
                    unit, term = x.units[i], x.term
                    quantise_columns(place, step, total, source, left, unit, mean, one, term)
            for s in range(slices):
                at = address(q, s * panels * panel + t * panel + (k * width + g) * 4)
                transpose_words(at, width, own + s * 4 * WORDS * WORDS, np.int64(WORDS))


@driver
def _columns(launch, q, sums, x, lo, count, words, width, slices, scratch):
    args = (q, sums, x, lo, count, words, width, slices, scratch)
    for_each(launch, _cut_columns, words // WORDS, args)


@driver
def _rows(launch, q, sums, x, lo, count, words, width, slices, scratch):
    tasks = (x.units.size + width - 1) // width
    for_each(launch, _cut_rows, tasks, (q, sums, x, lo, count, words, width, slices, scratch))


# Products ----------------------------------------------------------------------------------------


@kernel
def _add(to, ld, size, own, less, width, blocks, order, weight, sum_):
    """The block at `to`, of numbers of `size` bytes like `sum_`, += weight (own - less), j <= i;
    own as tiles."""
    zero, (i0, i1, j0, j1) = np.int64(0), blocks
    ahead, like = AHEAD * ld * size, own[zero, zero, zero]
    for i in range(i0, i1):
        for r in range(min(width, order - i * width)):
            row = to + ((i - i0) * width + r) * ld * size
            for j in range(j0, min(j1, i + 1)):
                count = min(width, i * width + r + 1 - j * width)
                place = row + (j - j0) * width * size
                mine = address(own[i - i0, j - j0], r * width)
                taken = address(less, (j - j0) * width)
                add_words(place, mine, taken, count, ahead, weight, like, sum_)


@kernel
def _add_kept(to, ld, size, kept, rows, columns, sum_):
    """The block at `to` += what was kept apart, j <= i."""
    zero, none = np.int64(0), address(kept, np.int64(0))
    ahead, like = AHEAD * ld * size, kept[zero, zero]
    for i in range(rows[0], rows[1]):
        count = min(columns[1], i + 1) - columns[0]
        place, mine = to + (i - rows[0]) * ld * size, address(kept[i - rows[0]], zero)
        add_words(place, mine, none, count, ahead, 1.0, like, sum_)


@kernel
def _multiply(own, q, left, right, first, last, panel, unit, blocks, scratch):
    """own += a slice on the left times one on the right, where tiles meet the triangle."""
    zero, (i0, i1, j0, j1), width = np.int64(0), blocks, unit.width
    for k in range(first, last, DEPTH):
        steps = min(np.int64(DEPTH), last - k)
        for i in range(i0, i1):
            source = address(q, left + i * panel + k * width * 4)
            call_entry(unit.prepare, (address(scratch, zero), source, steps))
            for j in range(j0, min(j1, i + 1)):
                b, mine = address(q, right + j * panel + k * width * 4), own[i - i0, j - j0]
                for r in range(0, width, unit.rows):
                    a = address(scratch, r * steps * 4)
                    call_entry(unit.tile, (address(mine, r * width), width, a, b, steps))


@kernel
def _block(t, thread, c, q, sums, pairs, words, unit, side, tasks, work, kept, less, scratch):
    """Task: a block of c, the last rows first; products of a level are summed first."""
    zero, order, width = np.int64(0), c.shape[0], unit.width
    bi, bj = triangle_corner(tasks - 1 - t)
    panels = (order + width - 1) // width
    panel = words * width * 4
    i0, j0 = bi * side, bj * side
    blocks = (i0, min(i0 + side, panels), j0, min(j0 + side, panels))
    rows = (i0 * width, min(blocks[1] * width, order))
    columns = (j0 * width, min(blocks[3] * width, order))
    own, mine, correction = work[thread], kept[thread], less[thread]
    place, step = address(c, rows[0] * order + columns[0]), np.int64(c.itemsize)
    if mine.size:
        mine[:] = 0
    if unit.begin:
        call_entry(unit.begin, (unit.config,))
    for k in range(0, words, unit.span):
        first = zero
        for s in range(pairs.shape[0]):
            left, right, level = pairs[s, 0], pairs[s, 1], pairs[s, 2]
            if s == first:
                own[:] = 0
                correction[:] = 0
            if unit.offset:
                for j in range(columns[0], columns[1]):
                    correction[j - columns[0]] += np.int32(unit.offset) * sums[right, j]
            size, end = panels * panel, min(k + unit.span, words)
            _multiply(
                own, q, left * size, right * size, k, end, panel, unit, blocks, scratch[thread]
            )
            if s + 1 == pairs.shape[0] or pairs[s + 1, 2] != level:
                weight = 2.0 ** (-unit.bits * level)
                what = own, correction, width, blocks, order, weight
                if mine.size:
                    to, ld = address(mine, zero), side * width
                    _add(to, ld, np.int64(8), *what, mine[zero, zero])
                else:
                    _add(place, order, step, *what, c[zero, zero])
                first = s + 1
    if unit.begin:
        call_entry(unit.end, (unit.config,))
    if mine.size:
        _add_kept(place, order, step, mine, rows, columns, c[zero, zero])


@driver
def _blocks(launch, c, q, sums, pairs, words, unit, side, work, kept, less, scratch):
    count = (c.shape[0] + unit.width - 1) // unit.width
    count = (count + side - 1) // side
    tasks = count * (count + 1) // 2
    args = (c, q, sums, pairs, words, unit, side, tasks, work, kept, less, scratch)
    for_each(launch, _block, tasks, args)


def _pairs(slices, levels, whole):
    """(left, right, level) for left + right < levels, level by level; levels are powers of two
    for whole numbers. Halves are worth what they are: 0, and the smallest first."""
    found = [(i, j) for i in range(slices) for j in range(slices) if i + j < levels]
    found.sort(key=lambda pair: pair[0] + pair[1] if whole else -pair[0] - pair[1])
    levels = [(i, j, (i + j) * whole) for i, j in found]
    return np.array(levels, np.int64).reshape(-1, 3)


def _accumulate(c, x, cut, lo, hi, slices, levels, code):
    order, whole = len(c), code.bits > 0
    pairs = _pairs(slices, levels, whole)
    if order == 0 or lo >= hi or not len(pairs):
        return
    width, workers, terms = code.width, threads.max_threads(), code.terms
    panels, kind = -(-order // width), np.int32 if whole else np.float32
    step = sliced_terms(order, slices, tiled=code.begin != 0, per_word=terms)
    words = -(-min(step, hi - lo) // (terms * WORDS)) * WORDS
    q = aligned((slices * panels * width * words * 4,), np.int8)
    side = code.side
    while side > 1 and (panels // side) ** 2 < TASKS * threads.thread_count():
        side //= 2
    work = aligned((workers, side, side, width * width), kind)
    # Several sums of a block are added up before c, which is far away, is touched.
    apart = side * width if words > code.span or pairs[-1, 2] else 0
    kept = aligned((workers, apart, apart), np.float64)
    less = aligned((workers, side * width), kind)
    scratch = aligned((workers, max(DEPTH * width * 4, slices * 4 * WORDS * WORDS)), np.int8)
    for k in range(lo, hi, step):
        count = min(step, hi - k)
        words = -(-count // (terms * WORDS)) * WORDS
        sums = np.zeros((workers, slices, panels * width), kind)
        cut(q, sums, x, k, count, words, width, slices, scratch)
        found = sums.sum(axis=0, dtype=kind)
        _blocks(c, q, found, pairs, words, code, side, work, kept, less, scratch)


def _source(a, units, scale, shift, code):
    ones = np.ones(4, a.dtype)
    return Source(a, units, scale, shift, ones, code.terms, TERM[code.bits])


def _syrk(c, a, units, slices, levels, scale, shift, code):
    x = _source(a, units, scale, shift, code)
    _accumulate(c, x, _columns, 0, len(a), slices, levels, code)


def _gram(c, a, lo, hi, units, slices, levels, shift, code):
    x = _source(a, units, units[:0], shift, code)
    _accumulate(c, x, _rows, lo, hi, slices, levels, code)


def sliced_syrk(c, a, units, slices, levels, scale, shift):
    # c       INOUT (p, p) double or float32, lower triangle;  a  IN READ-ONLY (n, p) real
    # units   IN (p,): |scale_k (a_kj - shift_j) units_j| < 127.5, which is not checked
    # slices  IN per number;  levels  IN products of slices i, j with i + j < levels are taken
    # scale   IN (n,) or (0,);  shift  IN (p,) or (0,)
    """c += U (a - shift)' diag(scale^2) (a - shift) U, U = diag(units), from slices of 7 bits."""
    _syrk(c, a, units, slices, levels, scale, shift, unit_code(unit()))


def sliced_gram(c, a, lo, hi, units, slices, levels, shift):
    # c       INOUT (n, n) double or float32, lower triangle;  a  IN READ-ONLY (n, p) real
    # units   IN (n,): |(a_ij - shift_j) units_i| < 127.5, which is not checked
    """c += U (a - shift) (a - shift)' U over columns lo..hi, U = diag(units), from slices."""
    _gram(c, a, lo, hi, units, slices, levels, shift, unit_code(unit()))


def int7_syrk(c, a, units, slices, levels, scale, shift):
    # as sliced_syrk, but |scale_k (a_kj - shift_j) units_j| < 63.5
    """c += U (a - shift)' diag(scale^2) (a - shift) U from slices of 6 bits."""
    _syrk(c, a, units, slices, levels, scale, shift, unit_code(unit("septets"), "septets"))


def int7_gram(c, a, lo, hi, units, slices, levels, shift):
    # as sliced_gram, but |(a_ij - shift_j) units_i| < 63.5
    """c += U (a - shift) (a - shift)' U over columns lo..hi from slices of 6 bits."""
    _gram(c, a, lo, hi, units, slices, levels, shift, unit_code(unit("septets"), "septets"))


def int16_syrk(c, a, units, slices, levels, scale, shift):
    # as sliced_syrk, but |scale_k (a_kj - shift_j) units_j| < 2047.5
    """c += U (a - shift)' diag(scale^2) (a - shift) U from slices of 11 bits."""
    _syrk(c, a, units, slices, levels, scale, shift, unit_code(unit("shorts"), "shorts"))


def int16_gram(c, a, lo, hi, units, slices, levels, shift):
    # as sliced_gram, but |(a_ij - shift_j) units_i| < 2047.5
    """c += U (a - shift) (a - shift)' U over columns lo..hi from slices of 11 bits."""
    _gram(c, a, lo, hi, units, slices, levels, shift, unit_code(unit("shorts"), "shorts"))


def bf16_syrk(c, a, units, slices, levels, scale, shift):
    # as sliced_syrk
    """c += U (a - shift)' diag(scale^2) (a - shift) U from slices in bfloat16."""
    _syrk(c, a, units, slices, levels, scale, shift, unit_code(unit("halves"), "halves"))


def bf16_gram(c, a, lo, hi, units, slices, levels, shift):
    # as sliced_gram
    """c += U (a - shift) (a - shift)' U over columns lo..hi from slices in bfloat16."""
    _gram(c, a, lo, hi, units, slices, levels, shift, unit_code(unit("halves"), "halves"))


def is_exact(code):
    """True if this code sums a small product right, over both axes and several panels."""
    rng, largest = np.random.default_rng(0), min(2 ** (code.bits or 7), 128) - 1
    a = rng.integers(-largest, largest + 1, (150, 70)).astype(np.float64)
    a[0], a[1] = largest, -largest
    none, c, d = np.empty(0), np.zeros((70, 70)), np.zeros((150, 150))
    _syrk(c, a, np.ones(70), 1, 1, none, none, code)
    _gram(d, a, 0, 70, np.ones(150), 1, 1, none, code)
    return np.array_equal(c, np.tril(a.T @ a)) and np.array_equal(d, np.tril(a @ a.T))


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
    # out    OUT (n, n) float32, lower triangle;  units  IN (n,)
    # c      IN (n, n) double or float32, or out itself
    """out_ij = units_i c_ij units_j for j <= i, rounded once to single precision."""
    _narrow(out, c, units)
