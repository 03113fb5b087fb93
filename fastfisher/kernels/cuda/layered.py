"""Gram matrix of one layer's scores from its inputs and output gradients; scores never exist.

A block of threads makes a tile of A A' and the same tile of E E' in registers and multiplies them
there. Where samples have tokens, the products of their pairs then meet in shared memory.
"""

import functools

from . import compat
from .compat import ALIGNED, cuda, types
from .rank_k import engine, source_of
from .staging import flat
from .tilings import layered_tiling, tiny_tiling

__all__ = ["layered_gram"]

GRID = 2 if compat.SIMULATED else 65535  # blocks along y, at most


@functools.cache
def _kernel(tiling, inputs, outputs, paired):
    """Kernel; `paired`: samples have several tokens."""
    left, right = engine(tiling, inputs), engine(tiling, outputs)
    of_inputs, of_outputs, row, column = left.accumulate, right.accumulate, left.row, left.column
    narrow, number, shared = left.narrow, left.number, max(left.shared, right.shared)
    halves, elements, threads = max(left.raw, right.raw), tiling.sums, tiling.threads
    rows, columns = tiling.rows, tiling.columns
    keep = compat.move(elements, 1, 1, "=")
    multiply = compat.move(elements, 1, 1, "*=")
    add_lower = compat.add_lower(left.places)
    ld = columns + 1
    spread = compat.spread(left.places, ld)
    across = columns // 2  # samples on a side of a tile of pairs, at most
    room, partial = (rows * ld, rows * across) if paired else (1, 1)

    @compat.kernel(threads)
    def add_products(c, n, a, d_in, e, d_out, tokens, down, over):
        tiles = cuda.shared.array(shared, number, ALIGNED)
        raw = cuda.shared.array(halves, types.uint16, ALIGNED)
        met = cuda.shared.array(room, types.float64)
        by_row = cuda.shared.array(partial, types.float64)
        sums = cuda.local.array(elements, types.float64)
        first = cuda.local.array(elements, types.float64)
        narrow_sums = cuda.local.array(elements, number)
        acc = narrow_sums if narrow else sums
        t, j0 = cuda.threadIdx.x, cuda.blockIdx.x * over
        i0 = (cuda.blockIdx.z * cuda.gridDim.y + cuda.blockIdx.y) * down
        if j0 >= i0 + down or i0 >= n:
            return
        r_end, s_end = min(i0 + down, n) * tokens, min(j0 + over, n) * tokens
        for r0 in range(i0 * tokens, r_end, rows):
            for s0 in range(j0 * tokens, s_end, columns):
                of_inputs(
                    sums, acc, tiles, raw, a, 0, d_in, r0, r_end, s0, s_end, 0, d_in, a[:0], a[:0]
                )
                keep(first, 0, sums, 0)
                of_outputs(
                    sums, acc, tiles, raw, e, 0, d_out, r0, r_end, s0, s_end, 0, d_out, e[:0], e[:0]
                )
                multiply(sums, 0, first, 0)
                if not paired:
                    add_lower(c, 0, n, n, r0 + row(), s0 + column(), 1.0, sums)
                    continue
                spread(met, row() * ld + column(), sums)
                cuda.syncthreads()
                width, height = min(columns, s_end - s0), min(rows, r_end - r0)
                for q in range(t, height * over, threads):
                    r, j = q // over, q % over
                    total = 0.0
                    for s in range(j * tokens, min((j + 1) * tokens, width)):
                        total += met[r * ld + s]
                    by_row[r * across + j] = total
                cuda.syncthreads()
                for q in range(t, down * over, threads):
                    i, j = q // over, q % over
                    if i0 + i < n and j0 + j <= i0 + i:
                        total = 0.0
                        for r in range(i * tokens, min((i + 1) * tokens, height)):
                            total += by_row[r * across + j]
                        c[(i0 + i) * n + j0 + j] += total

    return add_products


def layered_gram(c, a, e, tokens):
    # c       INOUT (n, n) double; lower triangle, upper not read or written
    # a, e    IN READ-ONLY (n tokens, d_in), (n tokens, d_out) C order, one dtype
    # tokens  rows of a and e per sample
    """Lower triangle of c[i, j] += sum over tokens t, t' of (a_it a_jt'') (e_it e_jt'')."""
    if not (c.size and a.size and e.size):
        return
    if compat.SIMULATED:
        tiling = tiny_tiling()
    else:
        tiling = layered_tiling(tokens, a.dtype.name, compat.capability())
    n, d_in, d_out = len(c), a.shape[1], e.shape[1]
    inputs, outputs = (source_of(x, False, x.shape[1], 0, tiling, False) for x in (a, e))
    down, over = max(1, tiling.rows // tokens), max(1, tiling.columns // tokens)
    kernel = _kernel(tiling, inputs, outputs, tokens > 1)
    rows = -(-n // down)
    grid = -(-n // over), min(rows, GRID), -(-rows // GRID)
    args = flat(c), n, flat(a), d_in, flat(e), d_out, tokens, down, over
    compat.launch(kernel, grid, tiling.threads, *args)
