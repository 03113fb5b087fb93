"""Symmetric rank-k update over the samples: C += (A - m)' diag(s^2) (A - m), lower triangle."""

from .jit import kernel
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
def _mirror_rows(t, thread, c):
    for j0 in range(0, (t + 1) * MIRROR, MIRROR):
        for i in range(t * MIRROR, min((t + 1) * MIRROR, c.shape[0])):
            for j in range(j0, min(j0 + MIRROR, i)):
                c[j, i] = c[i, j].conjugate()
    for i in range(t * MIRROR, min((t + 1) * MIRROR, c.shape[0])):
        c[i, i] = c[i, i].real


@driver
def _mirror(launch, c):
    for_each(launch, _mirror_rows, (c.shape[0] + MIRROR - 1) // MIRROR, (c,))


def mirror(c):
    # c  INOUT (p, p)
    """Fill the upper triangle with the conjugate of the lower; the diagonal becomes real."""
    _mirror(c)
