"""What a solve returns: the step and its certificate."""

from dataclasses import dataclass

import numpy as np

from ..errors import ConvergenceError
from ..planning import Plan

__all__ = ["STATUSES", "Solution", "solution_of"]

STATUSES = {
    "converged": "the tolerance was reached",
    "max_iterations": "the iteration limit came before the tolerance",
    "stagnated": "the residual no longer falls: rounding limits it",
    "breakdown": "a search direction has no positive curvature; the damping is too small",
    "inaccurate": "the residual of a direct solve is larger than rounding explains, or half of b",
    "not_positive_definite": "a matrix has no Cholesky factor; the damping is too small",
    "not_finite": "the scores are not finite (nan_policy='propagate'), or x overflows its dtype",
    "underflow": "x is so small that its dtype has lost digits of it, or all",
}


@dataclass(frozen=True, eq=False)
class Solution:
    """A damped solve and its certificate; ``x, info = solution`` also works (info 0 = converged).

    Attributes
    ----------
    x : array (p,) or (p, k)
        The solution, of the kind and dtype of the scores.
    status : str
        One of `fastfisher.solvers.STATUSES`.
    converged : bool
        Direct routes: backward error <= 100 u, with a residual below 1/2. cg: residual <= rtol, or
        backward error <= 10 u with such a residual (where the condition puts rtol out of reach).
    residual : float
        max over right-hand sides of ||b - (F + D) x|| / ||b||, recomputed from the scores. With an
        eigenvalue cutoff b stands for what the cutoff leaves of it.
    backward_error : float
        max of ||b - (F + D) x|| / (||F + D|| ||x|| + ||b||).
    statuses, residuals : tuple of str, array (k,)
        The same for each right-hand side (one for a vector).
    iterations : int
        Iterations of cg, for all right-hand sides together, or of the refinement in mixed
        precision; 0 for direct routes.
    method : str
        "primal", "dual", "cg" or "mixed".
    damping : float
        The absolute lambda used (for Marquardt, its c; for a cutoff, the eigenvalue it lies at).
    rung : str
        What produced x: "cholesky", "division" or "eigenbasis", "cg" or "none"; with a cutoff
        "eigen"; on a `Ladder` "orthogonal", "cholesky+damping" or "eigen"; in mixed precision
        "int8+cg", "int7+cg", "int16+cg", "bf16+cg" or "single+cg". "+refinement" is added where
        the residual corrected x.
    cancellation : float or None
        Dual route with an arbitrary b: u ||b|| / (lambda ||x||), the relative forward error to
        expect. If it is large and b = G'(w o c)/sum(w), pass ``coef=c`` instead of b.
    plan : Plan
        The plan that was carried out.
    rank : int or None
        Order of the matrix that was factored, or eigenvalues that a cutoff kept; None if unknown.
    rcond : float or None
        Estimated reciprocal condition number of what was solved with; None where none was made:
        a damped Cholesky does without, `Factor.rcond` makes one.
    smallest_pivot : float or None
        The smallest squared diagonal element of the Cholesky factor.
    escalation : float
        What a `Ladder` added to the damping asked for; part of ``damping`` where that is lambda.
    slices : int or None
        Mixed precision: slices that the scores were cut into, of the kind that `rung` names; None
        where it was single precision, or another route.
    rough_error : float or None
        Mixed precision: the preconditioner's error ||A^-1/2 (M - A) A^-1/2|| for A = F + D, from
        below, as conjugate gradients saw it (docs/math.md X10): mostly nine tenths of it, less
        where right-hand sides hardly meet it. It may exceed 1; None where there was no step.
    """

    x: object
    status: str
    converged: bool
    residual: float
    backward_error: float
    iterations: int
    method: str
    damping: float
    rung: str
    plan: Plan
    cancellation: float | None = None
    rank: int | None = None
    rcond: float | None = None
    smallest_pivot: float | None = None
    escalation: float = 0.0
    statuses: tuple | None = None
    residuals: np.ndarray | None = None
    slices: int | None = None
    rough_error: float | None = None

    @property
    def info(self):
        """0 if converged, else the number of iterations (at least 1), as in SciPy."""
        return 0 if self.converged else max(self.iterations, 1)

    def __iter__(self):
        return iter((self.x, self.info))

    def __repr__(self):
        return (
            f"Solution(status={self.status!r}, method={self.method!r}, "
            f"residual={self.residual:.2e}, iterations={self.iterations}, "
            f"damping={self.damping:.6g}, rung={self.rung!r}, "
            f"x={type(self.x).__name__}{tuple(np.shape(self.x))})"
        )

    def require_convergence(self):
        """Return self, or raise ConvergenceError carrying this solution."""
        if not self.converged:
            advice = "raise damping or maxiter, loosen rtol, or choose another method"
            if self.status == "underflow":
                advice = "multiply the right-hand side by a power of two, or pass float64"
            raise ConvergenceError(
                f"{self.method} stopped as {self.status!r} after {self.iterations} iterations with "
                f"residual {self.residual:.2e}: {STATUSES[self.status]}; {advice}",
                solution=self,
            )
        return self


def solution_of(outcome, *, x, plan, status, damping, scale, statuses, residuals):
    """What a route came to, whose scores were `scale` times those of the caller."""
    certificate, pivot = outcome.certificate, outcome.smallest_pivot
    return Solution(
        x=x,
        status=status,
        converged=status == "converged",
        residual=certificate.residual,
        backward_error=certificate.backward_error,
        iterations=outcome.iterations,
        method=plan.method,
        damping=damping,
        rung=outcome.rung,
        plan=plan,
        cancellation=outcome.cancellation,
        rank=outcome.rank,
        rcond=outcome.rcond,
        smallest_pivot=None if pivot is None else pivot / scale / scale,
        escalation=outcome.escalation / scale / scale,
        statuses=statuses,
        residuals=residuals,
        slices=outcome.slices,
        rough_error=outcome.rough_error,
    )
