"""Symmetric rank-k update over the samples: C += (A - m)' diag(s^2) (A - m), lower triangle."""

import numpy as np

from . import threads
from .jit import kernel
from .memory import aligned
from .moves import fetch_at, transpose_at
from .parallel import for_each
from .rank_k import add_rank_k, round_rank_k
from .simd import address
from .threads import driver

__all__ = ["mirror", "syrk"]

MIRROR = 64  # rows and columns of a task's block


def syrk(c, a, scale, shift):
    # c      INOUT (p, p) double or double complex; lower triangle, upper not read or written
    # a      IN READ-ONLY (n, p) C order; n = 0 leaves c unchanged
    # scale  IN (n,) or (0,) square roots of the weights;  shift IN (p,) or (0,), as computed
    """Lower triangle of c += (a - shift)' diag(scale^2) (a - shift)."""
    add_rank_k(c, a, True, 0, a.shape[0], scale, shift)


syrk.rounded = round_rank_k


@kernel
def _lower_block(tile, out, c, here, i0, j0, rows):
    """A block of the lower triangle to `tile`, in the precision of out, and to out unless there."""
    for i in range(rows):
        last = j0 + (MIRROR if j0 < i0 else i + 1)
        source, kept, to = c[i0 + i, j0:last], tile[i], out[i0 + i, j0:last]
        if j0 < i0:
            fetch_at(address(out, (j0 + i) * out.shape[0] + i0), rows * out.itemsize)
        for j in range(source.size):  # rows of their own: loops over them are vector code
            kept[j] = source[j]
        if not here:
            for j in range(source.size):
                to[j] = kept[j]


@kernel
def _upper_block(tile, out, i0, j0, rows):
    """The block of the upper triangle that belongs to it, number by number."""
    for j in range(MIRROR if j0 < i0 else rows):
        first = 0 if j0 < i0 else j + 1
        to = out[j0 + j, i0 + first : i0 + rows]
        for i in range(to.size):
            to[i] = tile[first + i, j].conjugate()


@kernel
def _mirror_real(t, thread, out, c, here, tiles):
    """Task: some rows of the lower triangle, and columns of the upper, block by block."""
    tile, i0, order = tiles[thread], t * MIRROR, c.shape[0]
    rows, zero = min(MIRROR, order - i0), np.int64(0)
    for j0 in range(0, i0, MIRROR):
        _lower_block(tile, out, c, here, i0, j0, rows)
        to, source, one = address(out, j0 * order + i0), address(tile, zero), tile[0, 0]
        transpose_at(to, order, rows, source, np.int64(MIRROR), np.int64(MIRROR), one, one)
    _lower_block(tile, out, c, here, i0, i0, rows)
    _upper_block(tile, out, i0, i0, rows)


@kernel
def _mirror_complex(t, thread, out, c, here, tiles):
    """The same; the upper triangle is conjugated, the diagonal real."""
    tile, i0 = tiles[thread], t * MIRROR
    rows = min(MIRROR, c.shape[0] - i0)
    for j0 in range(0, i0 + 1, MIRROR):
        _lower_block(tile, out, c, here, i0, j0, rows)
        _upper_block(tile, out, i0, j0, rows)
    for i in range(i0, i0 + rows):
        out[i, i] = out[i, i].real


@driver
def _mirrored(launch, out, c, here, tiles):
    for_each(launch, _mirror_real, (c.shape[0] + MIRROR - 1) // MIRROR, (out, c, here, tiles))


@driver
def _mirrored_complex(launch, out, c, here, tiles):
    for_each(launch, _mirror_complex, (c.shape[0] + MIRROR - 1) // MIRROR, (out, c, here, tiles))


def mirror(c, out=None):
    # c    IN READ-ONLY (p, p), or INOUT
    # out  OUT (p, p), by default c itself; of another precision, perhaps
    """out = the Hermitian matrix with this lower triangle; its diagonal becomes real."""
    out = c if out is None else out
    here = out is c
    run = _mirrored_complex if out.dtype.kind == "c" else _mirrored
    run(out, c, here, aligned((threads.max_threads(), MIRROR, MIRROR), out.dtype))
