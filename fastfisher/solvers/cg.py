"""Matrix-free block conjugate gradients on (F + D) x = b, preconditioned.

One fused pass over the scores per iteration, whatever the number of right-hand sides. The verdict
rests on the residual recomputed from the scores, never on the recurrence alone.
"""

import numpy as np

from ..errors import InputError
from .certificate import USELESS, certificate_of, row_norms, worst
from .krylov import PATIENCE, RESTARTS, Iteration
from .outcome import Outcome
from .preconditioners import Preconditioner, jacobi
from .ranges import real_bytes, shifted, unit_roundoff
from .system import made_smaller

__all__ = ["BACKWARD_LIMIT", "PATIENCE", "RESTARTS", "Tolerance", "cg", "default_rtol", "reached"]

DEFAULT_RTOL = {4: 1e-5, 8: 1e-10}
BACKWARD_LIMIT = 10  # in u: the best any method can do where the condition is bad


def default_rtol(dtype):
    """1e-10 for double, 1e-5 for single."""
    return DEFAULT_RTOL[real_bytes(dtype)]


def cg(system, b, coef, *, rtol=None, maxiter=None, x0=None, preconditioner="auto"):
    """Solve for rows b (k, p), or for b = G'(w o coef)/W with rows coef (k, n).

    `preconditioner` is "auto", "jacobi", None, a `Preconditioner`, or a callable on arrays (p, k)
    that applies an approximate inverse of F + D, Hermitian positive definite.

    A row has converged where its residual is `rtol` of b or, since rounding allows no more, its
    backward error is at most BACKWARD_LIMIT u and its residual below USELESS.
    """
    given = system
    system, diagonal = system.with_diagonal()
    if b is None:
        b = system.apply_adjoint(system.from_coefficients(coef))
        system.checked(b, "b = G'(w o coef)/sum(w)")
    added = system.resolve_damping(diagonal)
    rtol = default_rtol(system.dtype) if rtol is None else rtol
    if preconditioner == "auto":
        # Jacobi would spoil what makes few samples easy: F + lambda I has rank + 1 eigenvalues.
        few = system.rank_bound < system.p and np.ndim(added) == 0
        preconditioner = None if few else "jacobi"
    if maxiter is None:
        maxiter = 10 * ((system.p if preconditioner else min(system.n, system.p)) + 10)
    if preconditioner == "jacobi":
        precondition = jacobi(diagonal + added)
    elif preconditioner is None:
        # One factor for all changes no iterate; it keeps directions in range at any scale.
        factor = 1 / (float(np.max(diagonal + added, initial=0.0)) or 1.0)
        precondition = lambda r: r * factor  # noqa: E731
    elif isinstance(preconditioner, Preconditioner):
        precondition = preconditioner.build(system, added, diagonal)
    else:
        precondition = _checked(preconditioner)

    def operator(v):
        return system.apply_fisher(v) + added * v

    rule = Tolerance(row_norms(b), rtol, system.dtype)
    iteration = Iteration(operator, b, precondition, rule, maxiter, dtype=system.dtype, name="cg")
    if x0 is None:
        x = np.zeros_like(b)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            x = shifted(x0, -made_smaller(system, given, coef is not None)).astype(b.dtype)
    x[~b.any(axis=1)] = 0
    x, statuses, iterations = iteration.run(x)
    rest = b - operator(x) if iteration.rest is None else iteration.rest
    certificate = certificate_of(rest, x, b, iteration.norm)
    there = reached(certificate.residuals, certificate.backward_errors, rtol, system.dtype)
    for j in range(len(x)):
        if there[j]:
            statuses[j] = "converged"
        elif not np.isfinite(certificate.residuals[j]):
            statuses[j] = "not_finite"
        elif statuses[j] == "converged":
            statuses[j] = "stagnated"
    return Outcome(
        system,
        x,
        certificate,
        worst(statuses),
        added,
        statuses=tuple(statuses),
        iterations=iterations,
        rung="cg",
    )


def _checked(apply):
    def precondition(r):
        z = np.asarray(apply(r.T))
        if z.shape != r.T.shape or z.dtype.kind not in "fc":
            raise InputError(
                f"preconditioner returned {z.dtype} of shape {z.shape}; expected floats of shape "
                f"{r.T.shape}"
            )
        return z.T.astype(r.dtype)

    return precondition


def reached(residuals, backward_errors, rtol, dtype):
    """Which rows count as solved: by relative residual or, where rounding allows no more, by
    backward error."""
    floor = BACKWARD_LIMIT * unit_roundoff(dtype)
    return (residuals <= rtol) | ((backward_errors <= floor) & (residuals < USELESS))


class Tolerance:
    """The rule of cg, for right-hand sides of these norms."""

    def __init__(self, sizes, rtol, dtype):
        self.sizes, self.rtol, self.dtype = sizes, rtol, dtype

    def done(self, r, x, rows, norm):
        rest, given = row_norms(r), self.sizes[rows]
        scale = norm * row_norms(x) + given
        none = given == 0  # then a residual is its own measure, and x = 0 the solution
        residuals = rest / np.where(none, 1.0, given)
        return reached(residuals, rest / np.where(scale > 0, scale, 1.0), self.rtol, self.dtype)

    def hopeless(self, course, limit):
        return False
