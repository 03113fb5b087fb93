"""Blocks of a block-diagonal Fisher: sums of products, Cholesky and solves of very many of them."""

from typing import NamedTuple

import numpy as np

from . import across, threads
from .jit import kernel
from .lane_kernel import FACTOR, RECIPROCALS, SUBSTITUTE
from .memory import aligned
from .moves import copy_at, split_at
from .packing import operand
from .parallel import for_each
from .products import KC, Place, add_complex, add_lower_ahead, panels_of
from .simd import address, call_entry
from .systems import group_of, load, scratch, store
from .threads import driver

__all__ = ["batched_syrk", "block_cholesky", "block_solve", "block_syrk"]

PACKED_BYTES = 384 << 10  # of packed blocks per task
BLOCKS = 64  # per task, at most
NOTHING = (0, 0)  # to fetch meanwhile
GROUPS = 64  # blocks per task of block_cholesky and block_solve, a multiple of the lanes


class Blocks(NamedTuple):
    """Where the rows of blocks of d columns lie, in elements, and their scales."""

    start: int
    across: int  # from block to block; d: side by side, and packed in one go
    down: int  # from row to row
    rows: int  # of a block
    scales: int  # from block to block; 0: shared


@kernel
def _pack(out, x, s, first, k0, kb, here, d, ld, lanes):
    """Rows k0..k0+kb of blocks first..first+here, scaled: row k of block b at k * ld + b * d.

    Rows end in whole vectors, so what is to the right comes later.
    """
    one, none = out.dtype.type(1), np.int64(0)
    together = s.across == d and s.scales == 0
    runs, columns = (1, here * d) if together else (here, d)
    width = (columns + lanes - 1) // lanes * lanes
    for k in range(kb + kb % 2):
        count, row = columns if k < kb else none, k0 + min(k, kb - 1)
        for b in range(runs):
            block = first + b
            factor = x.scale[block * s.scales + row] if x.scale.size > 0 else one
            to = address(out, x.parts * k * ld + b * d)
            at = (s.start + block * s.across + row * s.down) * x.parts
            source = x.a + at * x.bytes
            if x.parts == 1:
                copy_at(to, ld, source, count, width, factor, source, none, one)
            else:
                split_at(to, ld, source, count, width, factor, source, none, one)


@kernel
def _add(c, at, d, parts, sums, rows, ld):
    """Add to the lower triangle of the block of c at `at`, and mirror it."""
    if parts == 1:
        for i in range(d):
            for j in range(i + 1):
                c[at + i * d + j] += sums[i * ld + j]
        for i in range(d):
            for j in range(i + 1, d):
                c[at + i * d + j] = c[at + j * d + i]
        return
    for i in range(d):
        for part in range(parts):
            source, to = (part * rows + i) * ld, at + i * d * parts + part
            for j in range(i + 1):
                c[to + j * parts] += sums[source + j]
    for i in range(d):
        for j in range(i):
            low, high = at + (i * d + j) * parts, at + (j * d + i) * parts
            c[high], c[high + 1] = c[low], -c[low + 1]
        c[at + (i * d + i) * 2 + 1] = 0


@kernel
def _syrk_task(t, thread, c, x, s, d, blocks, share, depth, work, totals, panels, wide):
    """Task: `share` blocks, `depth` packed rows after the other."""
    packed, sums = work[thread], totals[thread]
    first, zero, one = t * share, np.int64(0), np.int64(1)
    here, rows = min(share, blocks - first), (d + panels.rows - 1) // panels.rows * panels.rows
    re, im = Place(zero, wide, one, one), Place(rows * wide, wide, one, one)
    every, add, size, ld = (zero, d), panels.add, rows * wide * x.parts, panels.ld
    for k in range(0, s.rows, depth // x.parts):
        kb = min(depth // x.parts, s.rows - k)
        terms = kb + kb % 2
        _pack(packed, x, s, first, k, kb, here, d, ld, panels.lanes)
        for b in range(here):
            at = b * d
            sums[:size] = 0
            if x.parts == 1:
                here_ = address(packed, at)
                add_lower_ahead(
                    sums, re, d, every, every, add, here_, here_, ld, terms, panels, sums, NOTHING
                )
            else:
                add_complex(
                    sums, re, im, d, every, every, packed, at, at, terms, False, panels, sums
                )
            _add(c, (first + b) * d * d * x.parts, d, x.parts, sums, rows, wide)


@driver
def _syrk(launch, c, x, s, d, blocks, share, depth, work, totals, panels, wide):
    args = (c, x, s, d, blocks, share, depth, work, totals, panels, wide)
    for_each(launch, _syrk_task, (blocks + share - 1) // share, args)


def _add_products(c, x, s):
    """c[b] += the products of the rows of block b with themselves, both triangles."""
    blocks, d, _ = c.shape
    if c.size == 0 or s.rows == 0:
        return
    parts, real = x.parts, x.dtype
    depth = min(KC, -(-s.rows * parts // 4) * 4)
    panels = panels_of(real, depth, order=d, subtract=parts == 2)
    wide, lanes = panels.width, panels.lanes
    share = max(1, min(BLOCKS, PACKED_BYTES // (depth * d * real.itemsize)))
    ld = (-(-(share * d + wide) // lanes) | 1) * lanes  # odd: rows fall on different cache sets
    rows = -(-d // panels.rows) * panels.rows
    work = aligned((threads.max_threads(), depth * ld), real)
    totals = aligned((threads.max_threads(), parts * rows * wide), np.float64)
    flat = c.view(np.float64).reshape(-1)
    panels = panels._replace(stride=0, ld=ld)
    _syrk(flat, x, s, d, blocks, share, depth, work, totals, panels, wide)


def block_syrk(c, a, start, scale):
    # c      INOUT (B, d, d) double or double complex
    # a      IN READ-ONLY (n, p) C order; the blocks are its columns start.. start + B d
    # scale  IN (n,) square roots of the weights, or (0,)
    """c[b] += a_b' diag(scale^2) a_b, both triangles, Hermitian to the bit."""
    _add_products(c, operand(a, True, scale), Blocks(start, c.shape[1], a.shape[1], len(a), 0))


def batched_syrk(c, a, scale):
    # c      INOUT (n, p, p) double or double complex
    # a      IN READ-ONLY (n, S, p) C order
    # scale  IN (n, S) or (S,) square roots of the weights, or (0,)
    """c[t] += a_t' diag(scale_t^2) a_t, both triangles, Hermitian to the bit."""
    count, p = a.shape[1:]
    scales = count if scale.ndim == 2 else 0
    x = operand(a.reshape(-1, p), True, scale.reshape(-1))
    _add_products(c, x, Blocks(0, count * p, p, count, scales))


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
