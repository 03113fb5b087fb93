"""Dense Hermitian matrices given by their lower triangle: norm, damping, Cholesky, refusal."""

import numpy as np

from .. import linalg
from ..errors import NotPositiveDefiniteError
from ..ops.factorizations import factor, round_up, solve_factored
from ..planning import choose
from .ranges import unit_roundoff

__all__ = [
    "VANISHED",
    "CholeskyFactor",
    "inverse_squares",
    "rank_deficient",
    "refusal",
    "smallest_pivot",
    "solve_lower",
    "solve_lower_adjoint",
    "spectral_norm",
    "sufficient",
    "suggestion",
]

# Undamped sums of products carry errors of a few n eps: below that a pivot is noise.
SINGULAR = 2
VANISHED = 2.0**-1012  # a mean square up to here has lost digits to underflow


def spectral_norm(A):
    """Largest eigenvalue of a positive semidefinite A, from below, by a few power steps.

    Only the lower triangle is given; the upper one is filled.
    """
    if not len(A):
        return 0.0
    choose("mirror", len(A), A.dtype).load()(A)
    return choose("spectral_norm", len(A), A.dtype).load()(A)


class CholeskyFactor:
    """Cholesky factor of A + D, in place of the lower triangle of A (double, C-ordered), which is
    made of scores of this dtype times `scale`.

    Raises NotPositiveDefiniteError naming the pivot and a sufficient damping; with D = 0 also if
    the reciprocal condition number, after diagonal scaling, is that of noise.
    """

    rung, escalation = "cholesky", 0.0

    def __init__(self, A, added, *, trace, what, dtype=np.float64, scale=1.0):
        n = len(A)
        self.undamped_norm = spectral_norm(A)
        diagonal = np.einsum("ii->i", A)
        diagonal += added
        self.added = added
        self.norm = self.undamped_norm + (float(np.max(added)) if n else 0.0)
        free = n > 0 and not np.any(added)
        scales = _diagonal_scales(A) if free else None
        anorm = _one_norm(A, scales) if free else 0.0
        weakest = int(np.argmin(A.diagonal().real)) if free else 0
        vanished = free and A[weakest, weakest].real < VANISHED
        order = factor(A)
        if vanished and not order:
            order = weakest + 1
        rcond = 0.0
        if free and not order:
            rcond = _reciprocal_condition(A, scales, anorm)
            if rcond < SINGULAR * n * np.finfo(np.float64).eps:
                pivots = A.diagonal().real * scales
                order = int(np.argmin(pivots)) + 1
        if order:
            raise refusal(order, n, rcond, added, trace, what, dtype, scale)
        self.L = A
        self.rcond = rcond if free else None

    @property
    def facts(self):
        """What a Solution tells of the factor."""
        return {
            "rung": self.rung,
            "rank": len(self.L),
            "rcond": self.rcond,
            "smallest_pivot": smallest_pivot(self.L),
            "escalation": self.escalation,
        }

    def solve(self, rows):
        """(A + D)^-1 rows, for rows (k, n); a new array."""
        x = np.array(rows, dtype=self.L.dtype)
        solve_factored(self.L, x)
        return x


def solve_lower(L, rows):
    """rows <- L^-1 rows, in place."""
    if rows.size:
        choose("solve_lower", len(L), L.dtype, sides=len(rows)).load()(L, rows, 0)
    return rows


def solve_lower_adjoint(L, rows):
    """rows <- L^-' rows, in place."""
    if rows.size:
        choose("solve_lower_adjoint", len(L), L.dtype, sides=len(rows)).load()(L, rows)
    return rows


def inverse_squares(L):
    """Column sums of squares of L^-1: the diagonal of (L L')^-1."""
    out = np.empty(len(L))
    choose("inverse_diagonal", len(L), L.dtype).load()(out, L)
    return out


def smallest_pivot(L):
    """Smallest squared diagonal element of a Cholesky factor; None if it has none."""
    return float(L.diagonal().real.min()) ** 2 if len(L) else None


def _diagonal_scales(A):
    """Powers of two that bring the diagonal of A near 1 (docs/math.md P4)."""
    diagonal = A.diagonal().real
    exponents = np.frexp(np.where(diagonal > 0, diagonal, 1.0))[1]
    return np.ldexp(1.0, -(exponents // 2))


def _one_norm(A, scales):
    """1-norm of diag(scales) A diag(scales), A Hermitian in its lower triangle, in row blocks."""
    sums = np.zeros(len(A))
    for lo in range(0, len(A), 256):
        block = np.abs(np.tril(A[lo : lo + 256], lo)) * scales
        block *= scales[lo : lo + 256, np.newaxis]
        sums[lo : lo + 256] += block.sum(axis=1)
        block[np.arange(len(block)), np.arange(lo, lo + len(block))] = 0
        sums += block.sum(axis=0)
    return float(sums.max())


def _reciprocal_condition(L, scales, anorm):
    """1-norm rcond of the scaled matrix whose factor is diag(scales) L; L is left as it was."""
    pocon = linalg.lapack.zpocon if L.dtype.kind == "c" else linalg.lapack.dpocon
    L *= scales[:, np.newaxis]
    try:
        rcond, _ = pocon(L.T, anorm, uplo="U")
    finally:
        L /= scales[:, np.newaxis]
    return float(rcond)


def sufficient(n, dtype, size):
    """Damping that lifts a semidefinite matrix of order n and this trace, or norm, over rounding:
    of its sums in `dtype`, and of a factor or eigenvalues in double."""
    return 20 * (n * np.finfo(np.float64).eps + 2 * unit_roundoff(dtype)) * max(size, 0.0)


def refusal(order, n, rcond, added, trace, what, dtype=np.float64, scale=1.0):
    """The error for a failing pivot, with a damping that would do, for scores without `scale`."""
    largest = (float(np.max(added)) if n else 0.0) / scale / scale
    enough = largest + sufficient(n, dtype, float(trace)) / scale / scale
    suggested = suggestion(enough)
    if suggested:
        advice = f"an absolute damping of {suggested:.3g} would factor, a larger one is better"
        advice += " conditioned"
    elif enough == 0:
        advice = "zero" if trace == 0 else "below the range of double"
        advice = f"the matrix is {advice}: any positive absolute damping would factor"
    else:
        advice = "no damping in the range of double would do; scale the scores"
    return NotPositiveDefiniteError(
        f"pivot {order} of {n} of {what} is not positive at damping {largest:.3g} "
        f"(reciprocal condition {rcond:.1e}); {advice}",
        order=order,
        rcond=float(rcond),
        suggested_damping=suggested,
    )


def rank_deficient(system, trace=None):
    """The error for damping 0, an arbitrary right-hand side and fewer samples than parameters."""
    rank, p = system.rank_bound, system.p
    scale = system.G.scale
    suggested = None if trace is None else suggestion(1e-8 * trace / max(p, 1), scale)
    why = f"F has rank at most {rank} but {p} parameters, and damping is 0 (or vanishes beside F)"
    why += f": pivot {rank + 1} of {p} cannot be positive; raise damping, or pass coef="
    if rank >= p:  # the dual has no inverse for it
        why = "damping is 0, or vanishes beside F, and the dual divides by it; raise damping, take"
        why += " method='primal', or pass coef="
    return NotPositiveDefiniteError(
        f"{why} (b = G'(w o coef)/sum(w)) for the minimum-norm solution",
        order=min(rank + 1, p),
        rcond=0.0,
        suggested_damping=suggested,
    )


def suggestion(damping, scale=1.0):
    """A damping to be suggested, for scores without `scale`; None where it left the range."""
    damping = damping / scale / scale
    return round_up(damping) if 0 < damping < np.inf else None
