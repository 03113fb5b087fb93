"""Dense Hermitian matrices given by their lower triangle: norm, damping, Cholesky, refusal."""

import numpy as np
from scipy.linalg import blas, lapack

from ..errors import NotPositiveDefiniteError
from ..ops.factorizations import factor, round_up, solve_factored

__all__ = ["CholeskyFactor", "rank_deficient", "spectral_norm"]

POWER_STEPS = 4


def _times_lower(A, x):
    """A x for the Hermitian A whose lower triangle is stored C-ordered."""
    complex_ = A.dtype.kind == "c"
    multiply = blas.zhemv if complex_ else blas.dsymv
    # The Fortran view is conj(A), upper triangle.
    y = multiply(1.0, A.T, x.conj() if complex_ else x, lower=0)
    return y.conj() if complex_ else y


def spectral_norm(A):
    """Largest eigenvalue of a positive semidefinite A, from below, by a few power steps."""
    n = len(A)
    if n == 0:
        return 0.0
    diagonal = A.diagonal().real
    x = np.zeros(n, A.dtype)
    x[int(np.argmax(diagonal))] = 1
    norm = float(diagonal.max())
    for _ in range(POWER_STEPS):
        y = _times_lower(A, x)
        size = float(np.linalg.norm(y))
        if not size > norm:
            break
        norm, x = size, y / size
    return norm


class CholeskyFactor:
    """Cholesky factor of A + D, in place of the lower triangle of A (double, C-ordered).

    Raises NotPositiveDefiniteError naming the pivot and a sufficient damping; with D = 0 also if
    the reciprocal condition number is below the unit roundoff.
    """

    def __init__(self, A, added, *, trace, what):
        n = len(A)
        self.undamped_norm = spectral_norm(A)
        diagonal = np.einsum("ii->i", A)
        diagonal += added
        self.norm = self.undamped_norm + (float(np.max(added)) if n else 0.0)
        free = not np.any(added)
        anorm = _one_norm(A) if free and n else 0.0
        order = factor(A)
        rcond = 0.0
        if free and n and not order:
            pocon = lapack.zpocon if A.dtype.kind == "c" else lapack.dpocon
            rcond, _ = pocon(A.T, anorm, uplo="U")
            if rcond < np.finfo(np.float64).eps / 2:
                order = int(np.argmin(A.diagonal().real)) + 1
        if order:
            raise _refusal(order, n, rcond, added, trace, what)
        self.L = A

    def solve(self, rows):
        """(A + D)^-1 rows, for rows (k, n); a new array."""
        x = np.array(rows, dtype=self.L.dtype)
        solve_factored(self.L, x)
        return x


def _one_norm(A):
    """1-norm of the Hermitian matrix stored as a lower triangle, row block by row block."""
    sums = np.zeros(len(A))
    for lo in range(0, len(A), 256):
        block = np.abs(np.tril(A[lo : lo + 256], lo))
        sums[lo : lo + 256] += block.sum(axis=1)
        block[np.arange(len(block)), np.arange(lo, lo + len(block))] = 0
        sums += block.sum(axis=0)
    return float(sums.max())


def _refusal(order, n, rcond, added, trace, what):
    largest = float(np.max(added)) if n else 0.0
    # F is positive semidefinite up to rounding of the order n u trace(F).
    suggested = round_up(largest + 20 * n * np.finfo(np.float64).eps * float(trace)) or None
    advice = (
        f"an absolute damping of {suggested:.3g} would factor, a larger one is better conditioned"
        if suggested
        else "the matrix is zero: any positive absolute damping would factor"
    )
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
    suggested = None if trace is None else round_up(1e-8 * trace / max(p, 1))
    return NotPositiveDefiniteError(
        f"F has rank at most {rank} but {p} parameters, and damping is 0: pivot {rank + 1} of {p} "
        "cannot be positive; raise damping, or pass coef= (b = G'(w o coef)/sum(w)) for the "
        "minimum-norm solution",
        order=min(rank + 1, p),
        rcond=0.0,
        suggested_damping=suggested or None,
    )
