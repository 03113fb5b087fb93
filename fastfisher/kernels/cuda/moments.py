"""Second moments of a layer's scores, sum_n |sum_t e_nt a_nt'|^2: the scores never exist.

In the eigenbases of the Kronecker factors this is what EKFAC corrects with.
"""

import functools

import numpy as np

from . import compat
from .compat import ALIGNED, cuda, types
from .rank_k import source_of
from .rows import fold
from .staging import flat, stage
from .tilings import Tiling

__all__ = ["layered_diag"]

SIDE = 4  # of the part of a tile that a thread owns
TILING = Tiling(8, 8, 4, SIDE, SIDE) if compat.SIMULATED else Tiling(64, 64, 16, SIDE, SIDE)
BLOCK = 2 if compat.SIMULATED else 64  # samples summed in the dtype of the scores
BLOCKS = 4 if compat.SIMULATED else 512  # of threads wanted: samples are cut into shares


@functools.cache
def _kernel(tiling, inputs, outputs):
    """Kernel: a tile of the moments, over a share of the samples."""
    e_stage, a_stage = stage(tiling.rows, outputs, tiling), stage(tiling.columns, inputs, tiling)
    halves, depth, a_at = inputs.half, tiling.depth, e_stage.size
    fetch_e, settle_e, e_along = e_stage.fetch, e_stage.settle, e_stage.along
    fetch_a, settle_a, a_along = a_stage.fetch, a_stage.settle, a_stage.along
    shared, raw_size, raw_a = a_at + a_stage.size, max(e_stage.raw + a_stage.raw, 1), e_stage.raw
    rows, columns, threads = tiling.rows, tiling.columns, tiling.threads
    number = types.float64 if outputs.dtype == "float64" else types.float32
    across, elements = columns // SIDE, SIDE * SIDE
    commit, wait = compat.cp_async_commit, compat.cp_async_wait(0)

    @compat.kernel(threads)
    def add_moments(parts, a, d_in, e, d_out, tokens, n, share):
        tiles = cuda.shared.array(shared, number, ALIGNED)
        raw = cuda.shared.array(raw_size, types.uint16, ALIGNED)
        score = cuda.local.array(elements, number)
        block = cuda.local.array(elements, number)
        sums = cuda.local.array(elements, types.float64)
        i0, j0, z = cuda.blockIdx.y * rows, cuda.blockIdx.x * columns, cuda.blockIdx.z
        left, right = cuda.threadIdx.x // across * SIDE, cuda.threadIdx.x % across * SIDE
        for u in range(elements):
            score[u] = 0
            block[u] = 0
            sums[u] = 0
        k1, of_sample, samples = min((z + 1) * share, n) * tokens, 0, 0
        for k in range(z * share * tokens, k1, depth):
            fetch_e(tiles, 0, raw, 0, e, 0, d_out, i0, d_out, k, k1)
            fetch_a(tiles, a_at, raw, raw_a, a, 0, d_in, j0, d_in, k, k1)
            commit()
            wait()
            if halves:
                settle_e(tiles, 0, raw, 0, i0, d_out, k, k1, e[:0], e[:0])
                settle_a(tiles, a_at, raw, raw_a, j0, d_in, k, k1, a[:0], a[:0])
            cuda.syncthreads()
            for l in range(min(depth, k1 - k)):
                for u in range(SIDE):
                    x = tiles[l * e_along + left + u]
                    for v in range(SIDE):
                        score[u * SIDE + v] += x * tiles[a_at + l * a_along + right + v]
                of_sample += 1
                if of_sample == tokens:
                    for u in range(elements):
                        block[u] += score[u] * score[u]
                        score[u] = 0
                    of_sample = 0
                    samples += 1
                    if samples == BLOCK:
                        for u in range(elements):
                            sums[u] += block[u]
                            block[u] = 0
                        samples = 0
            cuda.syncthreads()
        for u in range(elements):
            i, j = i0 + left + u // SIDE, j0 + right + u % SIDE
            if i < d_out and j < d_in:
                parts[(z * d_out + i) * d_in + j] = sums[u] + block[u]

    return add_moments


def layered_diag(c, a, e, tokens):
    # c       INOUT (d_out, d_in) double
    # a, e    IN READ-ONLY (n tokens, d_in), (n tokens, d_out) C order, one dtype
    # tokens  rows of a and e per sample
    """c += sum over samples of |sum over tokens t of e_t a_t'|^2, element by element."""
    if not (c.size and a.size):
        return
    (d_out, d_in), n = c.shape, len(a) // tokens
    inputs, outputs = (source_of(x, True, x.shape[1], 0, TILING, False) for x in (a, e))
    grid = -(-d_in // TILING.columns), -(-d_out // TILING.rows)
    share = -(-n // max(1, BLOCKS // (grid[0] * grid[1])))
    share = max(-(-share // BLOCK) * BLOCK, BLOCK)
    count = -(-n // share)
    parts = compat.empty(count * d_out * d_in, np.float64)
    args = parts, flat(a), d_in, flat(e), d_out, tokens, n, share
    compat.launch(_kernel(TILING, inputs, outputs), (*grid, count), TILING.threads, *args)
    fold(flat(c), parts, count, d_out * d_in, True)
