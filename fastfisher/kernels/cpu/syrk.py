"""Symmetric rank-k update over the samples: C += (A - m)' diag(s^2) (A - m), lower triangle."""

from . import threads
from .jit import kernel
from .memory import aligned
from .parallel import for_each
from .rank_k import add_rank_k
from .threads import driver

__all__ = ["mirror", "syrk"]

MIRROR = 64  # rows and columns of a task's block


def syrk(c, a, scale, shift):
    # c      INOUT (p, p) double or double complex; lower triangle, upper not read or written
    # a      IN READ-ONLY (n, p) C order; n = 0 leaves c unchanged
    # scale  IN (n,) or (0,) square roots of the weights;  shift IN (p,) or (0,), as computed
    """Lower triangle of c += (a - shift)' diag(scale^2) (a - shift)."""
    add_rank_k(c, a, True, 0, a.shape[0], scale, shift)


@kernel
def _mirror_rows(t, thread, out, c, tiles):
    """Task: some rows of the lower triangle, and columns of the upper, block by block."""
    tile, i0 = tiles[thread], t * MIRROR
    rows = min(MIRROR, c.shape[0] - i0)
    for j0 in range(0, i0 + 1, MIRROR):
        for i in range(rows):
            count = MIRROR if j0 < i0 else i + 1
            for j in range(count):
                tile[i, j] = c[i0 + i, j0 + j]
            for j in range(count):
                out[i0 + i, j0 + j] = tile[i, j]
        for j in range(MIRROR if j0 < i0 else rows):
            for i in range(0 if j0 < i0 else j + 1, rows):
                out[j0 + j, i0 + i] = tile[i, j].conjugate()
    for i in range(i0, i0 + rows):
        out[i, i] = out[i, i].real


@driver
def _mirror(launch, out, c, tiles):
    for_each(launch, _mirror_rows, (c.shape[0] + MIRROR - 1) // MIRROR, (out, c, tiles))


def mirror(c, out=None):
    # c    IN READ-ONLY (p, p), or INOUT
    # out  OUT (p, p), by default c itself; of another precision, perhaps
    """out = the Hermitian matrix with this lower triangle; its diagonal becomes real."""
    out = c if out is None else out
    _mirror(out, c, aligned((threads.max_threads(), MIRROR, MIRROR), out.dtype))
