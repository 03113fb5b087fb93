"""Symmetric rank-k update over the samples: C += (A - m)' diag(s^2) (A - m), lower triangle."""

from . import compat
from .compat import cuda, types
from .rank_k import add_rank_k

__all__ = ["mirror", "plain_syrk", "syrk"]

SIDE = 4 if compat.SIMULATED else 32  # of a tile that is transposed, ROWS of it at a time
ROWS = 2 if compat.SIMULATED else 8
PADDED = SIDE + 1


def syrk(c, a, scale, shift):
    # c      INOUT (p, p) double; lower triangle, upper not read or written
    # a      IN READ-ONLY (n, p) C order; n = 0 leaves c unchanged
    # scale  IN (n,) or (0,) square roots of the weights;  shift IN (p,) or (0,), as computed
    """Lower triangle of c += (a - shift)' diag(scale^2) (a - shift)."""
    add_rank_k(c, a, True, 0, a.shape[0], scale, shift)


def plain_syrk(c, a, scale, shift):
    """`syrk` without tensor cores."""
    add_rank_k(c, a, True, 0, a.shape[0], scale, shift, tensor=False)


@compat.kernel(SIDE * ROWS)
def _mirror(out, c, whole):
    tile = cuda.shared.array((SIDE, PADDED), types.float64)
    i0, j0 = cuda.blockIdx.y * SIDE, cuda.blockIdx.x * SIDE
    x, order = cuda.threadIdx.x, c.shape[0]
    if j0 > i0:
        return
    for r in range(cuda.threadIdx.y, SIDE, ROWS):
        if i0 + r < order and j0 + x < order:
            tile[r, x] = c[i0 + r, j0 + x]
            if whole and i0 + r >= j0 + x:
                out[i0 + r, j0 + x] = c[i0 + r, j0 + x]
    cuda.syncthreads()
    for r in range(cuda.threadIdx.y, SIDE, ROWS):
        if j0 + r < order and i0 + x < order and i0 + x > j0 + r:
            out[j0 + r, i0 + x] = tile[x, r]


def mirror(c, out=None):
    # c  INOUT (p, p); only read where out (p, p) of any precision is given
    """Both triangles, into c or `out`, from the lower of c."""
    blocks = -(-c.shape[0] // SIDE)
    if blocks:
        whole = out is not None
        target = out if whole else c
        compat.launch(_mirror, (blocks, blocks), (SIDE, ROWS), target, c, whole)
