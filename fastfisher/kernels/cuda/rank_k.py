"""Lower triangles of sums of outer products, C += A' A or A A', tile by tile.

A block of threads owns a tile of C, or a share of its sums where there are few tiles; shares are
then added in order.
"""

import functools
from types import SimpleNamespace

import numpy as np

from . import compat
from .compat import ALIGNED, cuda, device, opaque, types
from .fragments import products
from .staging import Source, flat, formats, stage
from .tilings import SUM, plain_tiling, shares, tensor_tiling, tiny_tiling

__all__ = ["add_rank_k", "engine", "source_of", "tiling_of", "update"]


def source_of(a, by_rows, ld, start, tiling, changed):
    """How a kernel reads scores from element `start` on, in rows of `ld`."""
    dtype, storage = formats(a)
    source = Source(dtype, storage, by_rows, 1, changed)
    if tiling.instruction is None and not by_rows:
        return source  # transposed element by element
    vector = 16 // source.itemsize
    edge = min(tiling.rows, tiling.columns) if by_rows else tiling.depth
    places = compat.address(a) // source.itemsize + start, ld, edge
    while vector > 1 and any(place % vector for place in places):
        vector //= 2
    return Source(dtype, storage, by_rows, vector, changed)


def tiling_of(order, dtype, tensor=True, changed=False):
    """The tiling for a C of that order."""
    if compat.SIMULATED:
        return tiny_tiling()
    if not tensor:
        return plain_tiling(order, dtype)
    return tensor_tiling(order, dtype, compat.capability(), changed)


@functools.cache
def engine(tiling, source):
    """`accumulate`: the sums of a tile over k0..k1, in the registers of a block of threads."""
    left = stage(tiling.rows, source, tiling)
    right = stage(tiling.columns, source, tiling)
    made = products(tiling, source, left, right)
    square, settled = tiling.rows == tiling.columns, source.half or source.changed
    whole, raw_right, depth = left.size + right.size, left.raw, tiling.depth
    narrow, block = source.dtype == "float32", tiling.block // tiling.depth
    clear = compat.clear(tiling.sums)
    add_block = compat.move(tiling.sums, 1, 1, "+=")
    fetch_left, fetch_right, right_at = left.fetch, right.fetch, left.size
    settle_left, settle_right = left.settle, right.settle
    multiply = made.multiply
    commit, wait = compat.cp_async_commit, compat.cp_async_wait(0)

    @device
    def accumulate(sums, acc, tiles, raw, a, base, ld, i0, i1, j0, j1, k0, k1, scale, shift):
        # sums  OUT double registers;  acc  registers in the dtype of the scores, or sums
        # rows of C i0 up to i1 and columns j0 up to j1, as many as fit the tile; terms k0 up to k1
        clear(sums)
        if narrow:
            clear(acc)
        same = square and i0 == j0
        across = 0 if same else right_at
        fetch_left(tiles, 0, raw, 0, a, base, ld, i0, i1, k0, k1)
        if not same:
            fetch_right(tiles, right_at, raw, raw_right, a, base, ld, j0, j1, k0, k1)
        commit()
        steps = (k1 - k0 + depth - 1) // depth
        for s in range(steps):
            at, k = s % 2 * whole, k0 + s * depth
            wait()
            if settled:
                settle_left(tiles, at, raw, 0, i0, i1, k, k1, scale, shift)
                if not same:
                    settle_right(tiles, at + right_at, raw, raw_right, j0, j1, k, k1, scale, shift)
            cuda.syncthreads()
            if s + 1 < steps:
                to, k = (s + 1) % 2 * whole, k + depth
                fetch_left(tiles, to, raw, 0, a, base, ld, i0, i1, k, k1)
                if not same:
                    to += right_at
                    fetch_right(tiles, to, raw, raw_right, a, base, ld, j0, j1, k, k1)
                commit()
            multiply(acc, tiles, at, at + across)
            if narrow and (s % block == block - 1 or s == steps - 1):
                add_block(sums, 0, acc, 0)
                clear(acc)
        cuda.syncthreads()

    return SimpleNamespace(
        accumulate=accumulate,
        row=made.row,
        column=made.column,
        places=made.places,
        number=types.float32 if narrow else types.float64,
        narrow=narrow,
        shared=2 * whole,
        raw=max(left.raw + right.raw, 1),
    )


@functools.cache
def _kernels(tiling, source):
    """(tiles of C += sums, shares of sums -> C)."""
    made = engine(tiling, source)
    accumulate, row, column, narrow = made.accumulate, made.row, made.column, made.narrow
    shared, halves, number, elements = made.shared, made.raw, made.number, tiling.sums
    rows, columns, threads = tiling.rows, tiling.columns, tiling.threads

    clear, add_sums = compat.clear(elements), compat.add_lower(made.places)
    keep = compat.move(elements, threads, 1, "=")
    add_kept = compat.move(elements, threads, 1, "+=")
    gather = compat.move(elements, 1, threads, "+=")

    @compat.kernel(threads)
    def add_tiles(c, at, ldc, parts, a, base, ld, order, lo, hi, share, scale, shift, sign):
        tiles = cuda.shared.array(shared, number, ALIGNED)
        raw = cuda.shared.array(halves, types.uint16, ALIGNED)
        sums = cuda.local.array(elements, types.float64)
        acc = cuda.local.array(elements, number)
        i0, j0, z = cuda.blockIdx.y * rows, cuda.blockIdx.x * columns, cuda.blockIdx.z
        if j0 >= i0 + rows:
            return
        k0 = lo + z * share
        k1 = min(k0 + share, hi)
        block = (z * cuda.gridDim.y + cuda.blockIdx.y) * cuda.gridDim.x + cuda.blockIdx.x
        place = block * elements * threads + cuda.threadIdx.x
        for k in range(k0, k1, SUM):
            end = min(k + SUM, k1)
            part = acc if narrow else sums
            accumulate(
                sums, part, tiles, raw, a, base, ld, i0, order, j0, order, k, end, scale, shift
            )
            # opaque: else all addresses are made before the loop, and no register is left in it
            if parts.size == 0:
                i, j = opaque(i0 + row()), opaque(j0 + column())
                add_sums(c, at, ldc, order, i, j, sign, sums)
            elif k == k0:
                keep(parts, opaque(place), sums, 0)
            else:
                add_kept(parts, opaque(place), sums, 0)

    @compat.kernel(threads)
    def add_shares(c, at, ldc, parts, order, count, sign):
        i0, j0 = cuda.blockIdx.y * rows, cuda.blockIdx.x * columns
        if j0 >= i0 + rows:
            return
        block = cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x
        place = block * elements * threads + cuda.threadIdx.x
        step = cuda.gridDim.y * cuda.gridDim.x * elements * threads
        sums = cuda.local.array(elements, types.float64)
        clear(sums)
        for z in range(count):
            gather(sums, 0, parts, place + z * step)
        add_sums(c, at, ldc, order, i0 + row(), j0 + column(), sign, sums)

    return add_tiles, add_shares


def _add(c, at, ldc, a, base, ld, order, lo, hi, scale, shift, source, tiling, sign):
    add_tiles, add_shares = _kernels(tiling, source)
    share = shares(order, hi - lo)
    count = -(-(hi - lo) // share)
    grid = -(-order // tiling.columns), -(-order // tiling.rows)
    parts = compat.empty(
        grid[0] * grid[1] * count * tiling.rows * tiling.columns if count > 1 else 0, np.float64
    )
    compat.launch(
        add_tiles,
        (*grid, count),
        tiling.threads,
        *(c, at, ldc, parts, a, base, ld, order, lo, hi, share, scale, shift, sign),
    )
    if count > 1:
        compat.launch(add_shares, grid, tiling.threads, c, at, ldc, parts, order, count, sign)


def add_rank_k(c, a, by_rows, lo, hi, scale, shift, tensor=True):
    """Lower triangle of c += products of the columns (by_rows) or rows of a; terms lo..hi."""
    order, ld = c.shape[0], a.shape[1]
    if not (order and hi > lo):
        return
    changed = bool(scale.size or shift.size)
    tiling = tiling_of(order, a.dtype.name, tensor, changed)
    source = source_of(a, by_rows, ld, 0 if by_rows else lo, tiling, changed)
    _add(flat(c), 0, order, flat(a), 0, ld, order, lo, hi, scale, shift, source, tiling, 1.0)


def update(c, at_c, ldc, a, at_a, lda, order, length, *, subtract=True):
    # c, a  one-dimensional device arrays; element (i, j) at at_c + i ldc + j, at_a + i lda + j
    """Lower triangle of c -= a a' (or +=) for a of order x length, anywhere in larger arrays."""
    if not (order and length):
        return
    tiling = tiling_of(order, a.dtype.name)
    source = source_of(a, False, lda, at_a, tiling, False)
    none, sign = a[:0], -1.0 if subtract else 1.0
    _add(c, at_c, ldc, a, at_a, lda, order, 0, length, none, none, source, tiling, sign)
