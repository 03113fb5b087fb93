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
from .splitting import STEP_BYTES
from .systems import group_of, load, scratch, store
from .threads import driver

__all__ = ["batched_syrk", "block_cholesky", "block_solve", "block_syrk"]

PACKED_BYTES = 384 << 10  # of packed blocks per task,
PACKED_TERMS = 2 * KC  # and rows of each
BLOCKS = 64  # per task, at most
NOTHING = (0, 0)  # to fetch meanwhile
GROUPS = 64  # blocks per task of block_cholesky and block_solve, a multiple of the lanes


class Blocks(NamedTuple):
    """Where the rows of blocks of d columns lie, in elements, and their scales."""

    start: int
    across: int  # from block to block
    down: int  # from row to row
    rows: int  # of a block
    scales: int  # from block to block; 0: shared


@kernel
def _pack(out, x, s, first, k0, kb, here, d, depth, panels):
    """Rows k0..k0+kb of blocks first..first+here, a panel each, scaled; a row in one go."""
    one, none = out.dtype.type(1), np.int64(0)
    for k in range(kb + kb % 2):
        count, row = d if k < kb else none, k0 + min(k, kb - 1)
        for b in range(here):
            block = first + b
            factor = x.scale[block * s.scales + row] if x.scale.size > 0 else one
            to = address(out, (b * depth + x.parts * k) * panels.ld)
            at = (s.start + block * s.across + row * s.down) * x.parts
            source = x.a + at * x.bytes
            if x.parts == 1:
                copy_at(to, panels.ld, source, count, panels.width, factor, source, none, one)
            else:
                split_at(to, panels.ld, source, count, panels.width, factor, source, none, one)


@kernel
def _mirror(sums, start, d, ld, sign):
    """sums[j, i] = sign * sums[i, j] below the diagonal of d rows from `start`."""
    for i in range(d):
        for j in range(i):
            sums[start + j * ld + i] = sign * sums[start + i * ld + j]


@kernel
def _add(c, at, d, parts, sums, rows, ld):
    """Add both triangles to the block of c at `at`, given the lower one."""
    one = np.float64(1)
    _mirror(sums, np.int64(0), d, ld, one)
    if parts == 1:
        for i in range(d):
            to, source = at + i * d, i * ld
            for j in range(d):
                c[to + j] += sums[source + j]
        return
    im = rows * ld
    _mirror(sums, im, d, ld, -one)
    for i in range(d):
        to, source = at + 2 * i * d, i * ld
        sums[im + source + i] = 0
        for j in range(d):
            c[to + 2 * j] += sums[source + j]
            c[to + 2 * j + 1] += sums[im + source + j]


@kernel
def _syrk_task(t, thread, c, x, s, d, blocks, share, depth, work, totals, panels):
    """Task: `share` blocks, `depth` packed rows after the other."""
    packed, sums = work[thread], totals[thread]
    first, zero, one = t * share, np.int64(0), np.int64(1)
    here, rows = min(share, blocks - first), (d + panels.rows - 1) // panels.rows * panels.rows
    ld, parts, step = panels.ld, x.parts, STEP_BYTES // (panels.bytes * x.parts)
    re, im = Place(zero, ld, one, one), Place(rows * ld, ld, one, one)
    every, add, size = (zero, d), panels.add, rows * ld * parts
    for k0 in range(0, s.rows, depth // parts):
        kb = min(depth // parts, s.rows - k0)
        _pack(packed, x, s, first, k0, kb, here, d, depth, panels)
        for b in range(here):
            sums[:size] = 0
            for k in range(0, kb, step):
                at, terms = (b * depth + k * parts) * ld, min(step, kb - k)
                terms += terms % 2
                if parts == 1:
                    a = address(packed, at)
                    add_lower_ahead(
                        sums, re, d, every, every, add, a, a, ld, terms, panels, sums, NOTHING
                    )
                else:
                    add_complex(
                        sums, re, im, d, every, every, packed, at, at, terms, False, panels, sums
                    )
            _add(c, (first + b) * d * d * parts, d, parts, sums, rows, ld)


@driver
def _syrk(launch, c, x, s, d, blocks, share, depth, work, totals, panels):
    args = (c, x, s, d, blocks, share, depth, work, totals, panels)
    for_each(launch, _syrk_task, (blocks + share - 1) // share, args)


def _add_products(c, x, s):
    """c[b] += the products of the rows of block b with themselves, both triangles."""
    blocks, d, _ = c.shape
    if c.size == 0 or s.rows == 0:
        return
    parts, real = x.parts, x.dtype
    depth = min(PACKED_TERMS, -(-s.rows * parts // 4) * 4)
    panels = panels_of(real, depth, order=d, subtract=parts == 2)
    share = max(1, min(BLOCKS, PACKED_BYTES // (panels.stride * real.itemsize)))
    rows = -(-d // panels.rows) * panels.rows
    work = aligned((threads.max_threads(), share * panels.stride), real)
    totals = aligned((threads.max_threads(), parts * rows * panels.ld), np.float64)
    flat = c.view(np.float64).reshape(-1)
    _syrk(flat, x, s, d, blocks, share, depth, work, totals, panels)


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
