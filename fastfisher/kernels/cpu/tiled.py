"""C += sum_k conj(x_k) x_k' for a C too large for every task to own one: in blocks.

The summed axis is worked off in stretches. A task packs some columns of a stretch, or sums a block
of C over a stretch: in scratch that stays in L2, with the panels it needs next fetched meanwhile.
Scratch is added to C when all is summed or, where C is too large, after every stretch. The next
stretch is packed between the blocks of this one, so nobody waits at a barrier, and reading the
scores overlaps with computing. Complex terms are packed and summed in planes (planes.py).
"""

from typing import NamedTuple

import numpy as np

from ...machine import cache_sizes
from . import planes, threads
from .elimination import LINE, publish, run_blocks, wait_for
from .jit import kernel
from .memory import aligned
from .packing import pack
from .parallel import for_each
from .products import Place, add_lower_ahead, panels_of, triangle_corner
from .simd import address
from .splitting import (
    AT_ONCE,
    PLANES,
    SUMS,
    TASKS,
    block_columns,
    is_kept,
    step_rows,
    stretch,
)
from .threads import driver

__all__ = ["add_tiled"]

ALONE = 3e6  # products up to which waking another thread costs more than it saves
GROUP = 16  # panels packed by a task, of one step, where scores are summed over their rows;
ALONG = 4  # of a whole stretch where over their columns: pieces of a row that follow each other


class Cut(NamedTuple):
    """How the sum is cut into tasks."""

    lo: int
    hi: int
    stretch: int  # summed terms
    step: int  # of a block sum
    panels: int
    side: int  # panels of a block
    blocks: int
    group: int  # panels packed by a task
    groups: int
    reach: int  # steps packed by a task
    packs: int  # tasks that pack a stretch
    planes: int  # of panels
    kept: bool  # blocks are added to C once, not after every stretch
    fresh: bool  # or are C, which holds nothing yet


@kernel
def _pack(cut, s, g, packed, work, x, panels, counters):
    """Some panels of stretch s, once the blocks of the one before the last are done."""
    for t in range(cut.blocks):
        wait_for(counters, t, s - 1)
    first_step, first = g // cut.groups * cut.reach, g % cut.groups * cut.group
    at_once = 1 if cut.reach > 1 else cut.group
    steps = cut.packs // cut.groups * cut.reach
    for q in range(first, min(first + cut.group, cut.panels), at_once):
        for step in range(first_step, first_step + cut.reach):
            k0 = cut.lo + s * cut.stretch + step * cut.step
            kb = min(cut.step, cut.hi - k0)
            if kb > 0:
                size, end = cut.panels * panels.stride, min(q + at_once, cut.panels)
                base = (s % 2 * steps + step) * cut.planes * size
                if x.parts == 1:
                    pack(packed, base, x, k0, kb, q, end, panels)
                else:
                    like = work.dtype.type(0)
                    planes.pack_planes(packed, base, size, work, x, k0, kb, q, end, panels, like)
    publish(counters, cut.blocks + g, s + 1)


@kernel
def _add(c, order, parts, own, rows, columns, side, width, fresh, sign):
    """The sums in `own`, one column of tiles after the other, to the lower triangle of c."""
    for i in range(rows[0], rows[1]):
        for j in range(columns[0], min(columns[1], i + 1), width):
            to = (i * order + j) * parts
            at = (j - columns[0]) * side + (i - rows[0]) * width
            count = min(width, columns[1] - j, i + 1 - j)
            if fresh:
                for r in range(count * parts):
                    c[to + r] = 0
            if parts == 1:
                for r in range(count):
                    c[to + r] += own[at + r]
            else:
                planes.add_parts(c, to, own, at, side * side, count, i - j, sign)


@kernel
def _fetched(at, columns, panels):
    """(first, last) address of the panels of some columns, of those from `at` on; or nothing."""
    w, stride = panels.width, panels.stride * panels.bytes
    if at:
        return at + columns[0] // w * stride, at + (columns[1] + w - 1) // w * stride
    return at, at


@kernel
def _add_step(own, place, order, rows, columns, these, after, terms, panels):
    """Products of a step's panels, on the left and on the right, to sums in `own`; those that come
    after them are fetched."""
    (left, right), add, ld, w = these, panels.add, panels.ld, panels.width
    above, beside = _fetched(after[0], rows, panels), _fetched(after[1], columns, panels)
    if rows == columns and after[0] == after[1]:
        beside = np.int64(0), np.int64(0)
    middle = min(columns[0] + ((columns[1] - columns[0]) // w + 1) // 2 * w, columns[1])
    first, second = (columns[0], middle), (middle, columns[1])
    add_lower_ahead(own, place, order, rows, first, add, left, right, ld, terms, panels, own, above)
    add_lower_ahead(
        own, place, order, rows, second, add, left, right, ld, terms, panels, own, beside
    )


@kernel
def _block(cut, s, t, thread, c, order, packed, x, panels, sums, counters):
    """Block t of c over stretch s."""
    bi, bj = triangle_corner(cut.blocks - 1 - t)  # the last (and longest) rows first
    side, w = cut.side * panels.width, panels.width
    i0, j0 = bi * side, bj * side
    rows, columns = (i0, min(i0 + side, order)), (j0, min(j0 + side, order))
    one, start, plane = np.int64(1), -(i0 * w + j0 * side), side * side
    place, second = Place(start, w, side, one), Place(start + plane, w, side, one)
    third = Place(start + 2 * plane, w, side, one)
    own = sums[t if cut.kept else thread]
    wait_for(counters, t, s)
    if s == 0 or not cut.kept:
        own[:] = 0
    first = cut.lo + s * cut.stretch
    last, size = min(first + cut.stretch, cut.hi), cut.panels * panels.stride * panels.bytes
    step = cut.planes * size
    at = address(packed, np.int64(0)) + s % 2 * (cut.packs // cut.groups * cut.reach) * step
    packed_by = cut.blocks
    for k in range(first, last, cut.step):
        if (k - first) % (cut.step * cut.reach) == 0:
            for g in range(cut.groups):
                wait_for(counters, packed_by + g, s + 1)
            packed_by += cut.groups
        terms = min(cut.step, last - k)
        terms += terms % 2
        after = at + step if k + cut.step < last else np.int64(0)
        if x.parts == 1:
            _add_step(own, place, order, rows, columns, (at, at), (after, after), terms, panels)
        else:
            im, less, plus = at + size, at + 2 * size, at + 3 * size
            _add_step(own, place, order, rows, columns, (at, at), (im, im), terms, panels)
            _add_step(own, second, order, rows, columns, (im, im), (less, plus), terms, panels)
            _add_step(own, third, order, rows, columns, (less, plus), (after, after), terms, panels)
        at += step
    if last == cut.hi or not cut.kept:
        sign = np.float64(1 if x.by_rows else -1)
        _add(c, order, x.parts, own, rows, columns, side, w, cut.fresh, sign)
    publish(counters, t, s + 1)


@kernel
def _task(t, thread, c, order, packed, work, x, panels, cut, sums, counters):
    """Task: the first stretch is packed; then its blocks, and the next one packed between them."""
    if t < cut.packs:
        _pack(cut, np.int64(0), t, packed, work[thread], x, panels, counters)
        return
    every = cut.blocks + cut.packs
    s, u = (t - cut.packs) // every, (t - cut.packs) % every
    if cut.lo + (s + 1) * cut.stretch >= cut.hi:
        _block(cut, s, u, thread, c, order, packed, x, panels, sums, counters)
        return
    before, after = u * cut.packs // every, (u + 1) * cut.packs // every
    if before < after:
        _pack(cut, s + 1, before, packed, work[thread], x, panels, counters)
    else:
        _block(cut, s, u - before, thread, c, order, packed, x, panels, sums, counters)


@driver
def _tasks(launch, tasks, c, order, packed, work, x, panels, cut, sums, counters):
    for_each(launch, _task, tasks, (c, order, packed, work, x, panels, cut, sums, counters))


def add_tiled(c, x, lo, hi, order, *, fresh=False):
    # c  INOUT flat double, (order, order, parts) C order; lower triangle
    #    OUT of either precision if `fresh`: for sums that are `written_once`
    # x  IN Operand, summed over lo..hi
    """c += sum_k conj(x_k) x_k'."""
    step, terms, pairs = step_rows(x.dtype.itemsize), hi - lo, x.parts == 2
    panels = panels_of(x.dtype, step)
    depth = min(stretch(order, x.dtype.itemsize, x.parts), -(-terms // step) * step)
    stretches, count = -(-terms // depth), -(-order // panels.width)
    side = block_columns(cache_sizes()["L2"]) // panels.width
    while side > 1 and (count / side) ** 2 * stretches < TASKS * threads.thread_count():
        side -= 1
    group, reach = (GROUP, 1) if x.by_rows else (ALONG, depth // step)
    blocks, groups = -(-count // side), -(-count // group)
    blocks, packs = blocks * (blocks + 1) // 2, groups * (depth // step // reach)
    copies, size = PLANES if pairs else 1, (side * panels.width) ** 2 * (SUMS if pairs else 1)
    kept = is_kept(order, x.parts, stretches)
    numbers = (depth, step, count, side, blocks, group, groups, reach, packs)
    cut = Cut(lo, hi, *numbers, copies, kept, fresh)
    stored = min(stretches, 2), depth // step, copies, count, panels.stride
    packed = aligned(stored, x.dtype).reshape(-1)
    scratch = AT_ONCE * 2 * panels.stride if pairs else 1
    work = aligned((threads.max_threads(), scratch), x.dtype)
    sums = aligned((blocks if kept else threads.max_threads(), size), np.float64)
    counters = np.zeros((blocks + packs) * LINE, np.int64)
    tasks = stretches * (blocks + packs)
    parallel = terms * order**2 * x.parts**2 > ALONE
    run_blocks(_tasks, parallel, tasks, c, order, packed, work, x, panels, cut, sums, counters)
