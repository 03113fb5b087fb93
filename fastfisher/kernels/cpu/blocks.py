"""Blocks of a block-diagonal Fisher: sums of products, Cholesky and solves of very many of them."""

import numpy as np

from . import across, threads
from .jit import kernel
from .lane_kernel import FACTOR, RECIPROCALS, SUBSTITUTE
from .memory import aligned
from .moves import copy_at, split_at
from .packing import operand
from .parallel import for_each
from .products import KC, Place, add_complex, add_lower, panels_of
from .simd import address, call_entry
from .systems import group_of, load, scratch, store
from .threads import driver

__all__ = ["block_cholesky", "block_solve", "block_syrk"]

PACKED_BYTES = 384 << 10  # of packed blocks per task
BLOCKS = 64  # per task, at most
GROUPS = 64  # blocks per task of block_cholesky and block_solve, a multiple of the lanes


@kernel
def _pack(out, x, start, k0, kb, blocks, d, depth, panels):
    """Rows k0..k0+kb of so many blocks, a panel each, scaled; each row is read in one go."""
    one, none = out.dtype.type(1), np.int64(0)
    for k in range(kb + kb % 2):
        factor = x.scale[k0 + k] if x.scale.size > 0 and k < kb else one
        count = d if k < kb else none
        for b in range(blocks):
            to = address(out, (b * depth + x.parts * k) * panels.ld)
            row = ((k0 + min(k, kb - 1)) * x.p + start + b * d) * x.parts
            source = x.a + row * panels.bytes
            if x.parts == 1:
                copy_at(to, panels.ld, source, count, panels.width, factor, source, none, one)
            else:
                split_at(to, panels.ld, source, count, panels.width, factor, source, none, one)


@kernel
def _add(c, at, d, parts, sums, rows, ld):
    """Add to the lower triangle of the block of c at `at`, and mirror it."""
    for i in range(d):
        for part in range(parts):
            source, to = (part * rows + i) * ld, at + i * d * parts + part
            for j in range(i + 1):
                c[to + j * parts] += sums[source + j]
    for i in range(d):
        for j in range(i):
            low, high = at + (i * d + j) * parts, at + (j * d + i) * parts
            c[high] = c[low]
            if parts == 2:
                c[high + 1] = -c[low + 1]
        if parts == 2:
            c[at + (i * d + i) * 2 + 1] = 0


@kernel
def _syrk_task(t, thread, c, x, start, d, blocks, share, depth, work, totals, panels):
    """Task: `share` blocks, KC terms after the other."""
    packed, sums = work[thread], totals[thread]
    first, zero, one = t * share, np.int64(0), np.int64(1)
    here, rows = min(share, blocks - first), (d + panels.rows - 1) // panels.rows * panels.rows
    re, im = Place(zero, panels.ld, one, one), Place(rows * panels.ld, panels.ld, one, one)
    every, add, size = (zero, d), panels.add, rows * panels.ld * x.parts
    for k in range(0, x.n, depth // x.parts):
        kb = min(depth // x.parts, x.n - k)
        terms = kb + kb % 2
        _pack(packed, x, start + first * d, k, kb, here, d, depth, panels)
        for b in range(here):
            at = b * depth * panels.ld
            sums[:size] = 0
            if x.parts == 1:
                add_lower(
                    sums,
                    re,
                    d,
                    every,
                    every,
                    add,
                    packed,
                    at,
                    packed,
                    at,
                    panels.ld,
                    terms,
                    panels,
                    sums,
                )
            else:
                add_complex(
                    sums, re, im, d, every, every, packed, at, at, terms, False, panels, sums
                )
            _add(c, (first + b) * d * d * x.parts, d, x.parts, sums, rows, panels.ld)


@driver
def _syrk(launch, c, x, start, d, blocks, share, depth, work, totals, panels):
    args = (c, x, start, d, blocks, share, depth, work, totals, panels)
    for_each(launch, _syrk_task, (blocks + share - 1) // share, args)


def block_syrk(c, a, start, scale):
    # c      INOUT (B, d, d) double or double complex
    # a      IN READ-ONLY (n, p) C order; the blocks are its columns start.. start + B d
    # scale  IN (n,) square roots of the weights, or (0,)
    """c[b] += a_b' diag(scale^2) a_b, both triangles, Hermitian to the bit."""
    blocks, d, _ = c.shape
    if c.size == 0 or len(a) == 0:
        return
    x = operand(a, True, scale)
    parts, real = x.parts, x.dtype
    depth = min(KC, -(-len(a) * parts // 4) * 4)
    panels = panels_of(real, depth, order=d, subtract=parts == 2)
    share = max(1, min(BLOCKS, PACKED_BYTES // (panels.stride * real.itemsize)))
    rows = -(-d // panels.rows) * panels.rows
    work = aligned((threads.max_threads(), share * panels.stride), real)
    totals = aligned((threads.max_threads(), parts * rows * panels.ld), np.float64)
    flat = c.view(np.float64).reshape(-1)
    _syrk(flat, x, start, d, blocks, share, depth, work, totals, panels)


@kernel
def _nothing(work, lane, group):
    """The matrix of a lane that failed."""
    for i in range(group.p):
        for j in range(i + 1):
            work[(i * group.ld + j) * group.lanes + lane] = np.nan


@kernel
def _cholesky_task(t, thread, c, info, work, group):
    w, d, lanes, zero = work[thread], group.p, group.lanes, np.int64(0)
    a, roots = address(w, zero), address(w, group.roots)
    bad, shift = address(w, group.bad), address(w, group.shift)
    w[group.shift : group.shift + lanes] = 0
    for first in range(t * GROUPS, min((t + 1) * GROUPS, info.size), lanes):
        count, start = min(lanes, info.size - first), first * d * d
        load(w, zero, c, start, d * d, d, d, count, group)
        ahead = address(c, start + 2 * lanes * d * d)
        call_entry(group.code, (FACTOR, a, group.ld, d, ahead, roots, bad, shift))
        for s in range(count):
            info[first + s] = np.int32(w[group.bad + s])
            if info[first + s] != 0:
                _nothing(w, s, group)
        store(c, start, d * d, d, d, count, w, zero, group)


@driver
def _cholesky(launch, c, info, work, group):
    for_each(launch, _cholesky_task, (info.size + GROUPS - 1) // GROUPS, (c, info, work, group))


def block_cholesky(c, info):
    # c     INOUT (B, d, d) C order; lower triangles in, factors out; upper ones left alone
    # info  OUT (B,) int32
    """c[b] = L L' in place; info[b] = 0 or the failing order, and NaN in that block."""
    if c.size == 0:
        info[:] = 0
    elif across.needed(c.dtype):
        across.block_cholesky(c, info)
    else:
        group = group_of(c.shape[1], c.dtype)
        _cholesky(c.reshape(-1), info, scratch(group, c.dtype)[0], group)


@kernel
def _solve_task(t, thread, l, x, blocks, work, group):
    w, d, zero, one = work[thread], group.p, np.int64(0), np.int64(1)
    a, y, roots = address(w, zero), address(w, group.right), address(w, group.roots)
    ld, lanes, code = group.ld, group.lanes, group.code
    for first in range(t * GROUPS, min((t + 1) * GROUPS, blocks), lanes):
        count, ahead = min(lanes, blocks - first), address(l, (first + 2 * lanes) * d * d)
        load(w, zero, l, first * d * d, d * d, d, d, count, group)
        call_entry(code, (RECIPROCALS, a, ld, d, ahead, roots, zero, zero))
        for at in range(first * d, x.size, blocks * d):
            load(w, group.right, x, at, d, one, d, count, group)
            call_entry(code, (SUBSTITUTE, y, a, ld, d, ahead, roots, zero))
            store(x, at, d, one, d, count, w, group.right, group)


@driver
def _solve(launch, l, x, blocks, work, group):
    for_each(launch, _solve_task, (blocks + GROUPS - 1) // GROUPS, (l, x, blocks, work, group))


def block_solve(l, x):
    # l  IN READ-ONLY (B, d, d) C order, lower factors
    # x  INOUT (k, B d) C order, rows are right-hand sides
    """x <- (L L')^-1 x, block by block."""
    if l.size == 0 or x.size == 0:
        return
    if across.needed(l.dtype):
        across.block_solve(l, x)
        return
    group = group_of(l.shape[1], l.dtype)
    _solve(l.reshape(-1), x.reshape(-1), len(l), scratch(group, l.dtype)[0], group)
