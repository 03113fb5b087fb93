"""What to do where a Cholesky factorisation fails: raise, or climb the rungs the caller allows.

docs/math.md P9. The same for the primal, the dual and the factors of Fisher objects.
"""

from dataclasses import dataclass

import numpy as np

from .. import linalg
from ..errors import InputError, NotPositiveDefiniteError
from ..planning import current_options
from ..scalars import as_count
from .cutoffs import Cutoff
from .factored import CholeskyFactor, smallest_pivot, spectral_norm
from .ranges import unit_roundoff

__all__ = ["HELD", "Ladder", "allowed", "allowed_cutoff", "climb", "current_ladder", "escalation"]

BLOCK = 256  # rows of scores folded into the triangular factor at once
PANEL = 32  # columns per compact WY block
EPS = float(np.finfo(np.float64).eps)
HELD = 0.9  # share of the damping added that rounding must leave of the smallest pivot


@dataclass(frozen=True)
class Ladder:
    """What may be tried after a Cholesky factorisation failed: ``ff.options(ladder=Ladder(...))``.

    The rungs, in this order; the first that holds is taken and named in ``Solution.rung``:

    1. "cholesky": always tried first. Scaling by powers of two changes none of its pivots but
       their exponents, so it enters the condition estimate alone (docs/math.md P4).
    2. "orthogonal": the factor from the scores by orthogonal transformations, without forming F:
       as good as twice the precision. Only where the scores are at hand.
    3. "cholesky+damping": up to `escalations` times, damping 2 p u 10^j max diag(F + D) is added,
       j = 1, 2, ... (u the roundoff of the scores), until rounding takes less than a tenth of it
       from any pivot. A matrix (or a block) that is zero has no size to go by and fails.
    4. "eigen": `cutoff` in place of the inverse.

    Parameters
    ----------
    escalations : int
        0 (none) to 16.
    cutoff : HardCutoff or SoftCutoff, optional

    Notes
    -----
    Without a ladder a failure raises `NotPositiveDefiniteError`; with one it still does if no rung
    holds. ``Solution.damping``, ``.escalation``, ``.rank``, ``.rcond`` and ``.smallest_pivot`` say
    what was done. Rung 2 costs about twice the flops of the primal or dual route.

    Fisher objects climb the same rungs. `BlockDiagonalFisher` damps the blocks that failed and no
    other; `BatchedFisher` climbs for every system by itself (``BatchedSolution.rungs``);
    `DiagonalFisher` and `KroneckerFisher` start from "division" and "eigenbasis", and add to the
    diagonal or the eigenvalues.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> G = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    >>> with ff.options(ladder=ff.Ladder(cutoff=ff.HardCutoff(1e-10))):
    ...     sol = ff.solve(G, np.ones(2), damping=0.0)
    >>> sol.rung, sol.rank, sol.x.round(12)
    ('eigen', 1, array([0.10714286, 0.10714286]))
    """

    escalations: int = 0
    cutoff: Cutoff | None = None

    def __post_init__(self):
        tries = as_count(self.escalations, "escalations", most=16)
        object.__setattr__(self, "escalations", tries)
        if self.cutoff is not None and (
            not isinstance(self.cutoff, Cutoff) or self.cutoff.per_sample
        ):
            raise InputError(f"cutoff is {self.cutoff!r}; expected HardCutoff or SoftCutoff")


def current_ladder():
    """The ladder of the options in force, or None."""
    ladder = current_options().ladder
    if ladder is not None and not isinstance(ladder, Ladder):
        raise InputError(f"options(ladder={ladder!r}): expected an ff.Ladder or None")
    return ladder


def allowed_cutoff():
    """The cutoff of the ladder in force, or None."""
    ladder = current_ladder()
    return None if ladder is None else ladder.cutoff


def allowed(order, size):
    """The damping to add to eigenvalues that are not positive, exactly zero after rounding (0: none
    is allowed), and the cutoff of the ladder in force or None."""
    ladder = current_ladder()
    if ladder is None:
        return 0.0, None
    return float(escalation(1, order, size)) if ladder.escalations else 0.0, ladder.cutoff


def escalation(j, order, size, dtype=np.float64):
    """The damping of try j = 1, 2, ... for matrices of this order, whose largest diagonal elements
    are `size`: none for zero, which stays singular."""
    # At j = 0 rounding would be as large.
    return order * 2 * unit_roundoff(dtype) * 10.0**j * size


def climb(A, added, *, trace, what, rows=None, dtype=np.float64, scale=1.0):
    """The factor of A + added, A in its lower triangle; destroyed.

    `rows` yields blocks S_i (m, n) in double whose products add up to A = sum S_i'S_i; `dtype` is
    that of the scores, in whose roundoff damping is escalated; they were multiplied by `scale`.
    """
    ladder, given = current_ladder(), dict(trace=trace, what=what, dtype=dtype, scale=scale)
    if ladder is None:
        return CholeskyFactor(A, added, **given)
    diagonal = A.diagonal().real.copy()
    try:
        return CholeskyFactor(A, added, **given)
    except NotPositiveDefiniteError as error:
        if rows is not None:
            factor = OrthogonalFactor(_restored(A, diagonal), added, rows)
            if factor.definite:
                return factor
        size = float(np.max(diagonal + added))
        for j in range(1, ladder.escalations + 1):
            extra = float(escalation(j, len(A), size, dtype))
            try:
                factor = CholeskyFactor(_restored(A, diagonal), added + extra, **given)
            except NotPositiveDefiniteError:
                continue
            # A pivot of a semidefinite matrix + extra is at least that: the rest is rounding.
            if smallest_pivot(factor.L) < HELD * extra and j < ladder.escalations:
                continue
            factor.rung, factor.escalation = "cholesky+damping", extra
            return factor
        raise error


def _restored(A, diagonal):
    """A with its lower triangle copied back from the upper, which factorisations leave alone."""
    for lo in range(0, len(A), BLOCK):
        rows = A[lo : lo + BLOCK]
        below = np.tri(len(rows), len(A), lo - 1, dtype=bool)
        rows[below] = A[:, lo : lo + BLOCK].conj().T[below]
    np.einsum("ii->i", A)[:] = diagonal
    return A


class OrthogonalFactor(CholeskyFactor):
    """A + D = L L' with L' = R of [D^1/2; S] = Q R; A (n, n) is given for its norm and its room.

    R comes from S itself, so its relative error is u kappa(S), where a Cholesky factor of the sums
    has u kappa(S)^2. The upper triangle of A stays.
    """

    rung = "orthogonal"

    def __init__(self, A, added, rows):
        n = len(A)
        self.undamped_norm, self.added = spectral_norm(A), added
        self.norm = self.undamped_norm + (float(np.max(added)) if n else 0.0)
        fold = linalg.lapack.ztpqrt if A.dtype.kind == "c" else linalg.lapack.dtpqrt
        R = A.T  # Fortran order, its upper triangle is the lower of A: conj(R)' = L
        for lo in range(0, n, BLOCK):
            part = A[lo : lo + BLOCK]
            part[np.tri(len(part), n, lo, dtype=bool)] = 0
        np.einsum("ii->i", A)[:] = np.sqrt(added)
        for block in rows():
            for lo in range(0, len(block), BLOCK):
                part = np.asfortranarray(block[lo : lo + BLOCK].conj())
                fold(0, min(PANEL, n), R, part, overwrite_a=1, overwrite_b=1)
        signs = np.where(R.diagonal().real < 0, -1.0, 1.0)
        for lo in range(0, n, BLOCK):  # R -> diag(signs) R, in its upper triangle
            part = A[lo : lo + BLOCK]
            below = np.tri(len(part), n, lo, dtype=bool)
            part[below] = (part * signs)[below]
        self.L = A
        sizes = np.sqrt(np.maximum(_row_squares(A), np.finfo(np.float64).tiny))
        pivots = A.diagonal().real
        # The distance of each column of S from the span of those before it, by its own length.
        self.definite = bool(np.all(pivots > 8 * n * EPS * sizes))
        self.rcond = float((pivots / sizes).min()) ** 2 if n else 1.0


def _row_squares(L):
    """Squared lengths of the rows of a lower triangle: the diagonal of L L'."""
    out = np.empty(len(L))
    for lo in range(0, len(L), BLOCK):
        out[lo : lo + BLOCK] = (np.abs(np.tril(L[lo : lo + BLOCK], lo)) ** 2).sum(axis=1)
    return out
