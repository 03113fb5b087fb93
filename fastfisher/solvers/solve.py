"""From a system and a plan to a Solution: picks the route, undoes scaling, dresses the result."""

import numpy as np

from ..arrays import to_origin
from ..damping import Marquardt
from ..passes import bad_rows
from ..planning import Problem, plan_problem
from .certificate import Certificate
from .cg import cg
from .dual import dual
from .factored import rank_deficient
from .outcome import Outcome
from .primal import primal
from .solution import Solution

__all__ = ["plan_system", "solve_system"]


def plan_system(G, weights, center, rhs, method):
    """Plan for these scores, refused with MemoryLimitError if it does not fit."""
    n, p = G.shape
    return plan_problem(
        Problem(
            n=n,
            p=p,
            rhs=rhs,
            dtype=G.dtype.name,
            method=method,
            weighted=weights is not None,
            centered=center,
            direct=G.direct,
        ),
        enforce=True,
    )


def _split(rows, dtype):
    """Complex right-hand sides of a real system as twice as many real ones."""
    if rows is None or rows.dtype.kind != "c" or dtype.kind == "c":
        return rows, False
    return np.concatenate([rows.real, rows.imag]), True


def solve_system(
    system, plan, b, coef, *, single, rtol=None, maxiter=None, x0=None, preconditioner="jacobi"
):
    """Solve for rows b (k, p) or coef (k, n); `single` asks for a vector instead of columns."""
    (b, complex_b), (coef, complex_coef) = _split(b, system.dtype), _split(coef, system.dtype)
    # Sums, factors and recurrences are double; kernels cast what they read beside G.
    double = np.complex128 if system.dtype.kind == "c" else np.float64
    b = None if b is None else b.astype(double)
    coef = None if coef is None else coef.astype(double)
    if b is not None and system.damping.is_zero and system.rank_bound < system.p:
        raise rank_deficient(system)
    if system.propagate and bad_rows(system.G)[0].any():
        outcome = _not_finite(system, b if coef is None else coef)
    elif plan.method == "cg":
        outcome = cg(
            system, b, coef, rtol=rtol, maxiter=maxiter, x0=x0, preconditioner=preconditioner
        )
    else:
        outcome = (primal if plan.method == "primal" else dual)(system, b, coef)
    rows = _unscaled(outcome, system, coef is not None)
    if complex_b or complex_coef:
        half = len(rows) // 2
        rows = rows[:half] + 1j * rows[half:]
    dtype = np.result_type(system.dtype, np.complex64) if rows.dtype.kind == "c" else system.dtype
    with np.errstate(over="ignore"):
        rows = rows.astype(dtype, copy=False)
    certificate = outcome.certificate
    status = outcome.status if np.isfinite(rows).all() else "not_finite"
    return Solution(
        x=to_origin(np.ascontiguousarray(rows[0] if single else rows.T), system.G.origin),
        status=status,
        converged=status == "converged",
        residual=certificate.residual,
        backward_error=certificate.backward_error,
        iterations=outcome.iterations,
        method=plan.method,
        damping=_reported(system, outcome),
        rung=outcome.rung,
        plan=plan,
        cancellation=outcome.cancellation,
    )


def _not_finite(system, given):
    """What NaN in the scores gives where the caller wants it propagated."""
    x = np.full((len(given), system.p), np.nan, dtype=given.dtype)
    nan = np.full(len(given), np.nan)
    return Outcome(system, x, Certificate(x, nan, nan), "not_finite", np.nan, rung="none")


def _unscaled(outcome, system, from_coefficients):
    """x of the system as given: scores times s make x smaller by s^2, or by s where b is too."""
    s = outcome.system.G.scale / system.G.scale
    if s == 1:
        return outcome.x
    return outcome.x * s if from_coefficients else outcome.x * s * s


def _reported(system, outcome):
    if isinstance(system.damping, Marquardt):
        return system.damping.c
    if not system.damping.needs:
        return float(system.damping.resolve(None, None, system.p))
    s = outcome.system.G.scale / system.G.scale
    return float(outcome.added) / s / s
