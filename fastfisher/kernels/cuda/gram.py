"""Gram matrix over the long axis: C += (A - m) diag(d) (A - m)', lower triangle."""

from .rank_k import add_rank_k

__all__ = ["gram", "plain_gram"]


def gram(c, a, lo, hi, weight, shift):
    # c       INOUT (n, n) double; lower triangle, upper not read or written
    # a       IN READ-ONLY (n, p) C order; columns lo..hi are summed over
    # weight  IN (p,) or (0,) non-negative column weights;  shift IN (p,) or (0,), as computed
    """Lower triangle of c += (a - shift) diag(weight) (a - shift)', over columns lo..hi."""
    add_rank_k(c, a, False, lo, hi, weight, shift)


def plain_gram(c, a, lo, hi, weight, shift):
    """`gram` without tensor cores."""
    add_rank_k(c, a, False, lo, hi, weight, shift, tensor=False)
