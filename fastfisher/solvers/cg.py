"""Matrix-free conjugate gradients on (F + D) x = b, preconditioned, several right-hand sides.

One fused pass over the scores per iteration. The verdict rests on the residual recomputed from the
scores, never on the recurrence alone.
"""

import numpy as np

from ..errors import InputError
from ..planning import current_options
from .certificate import USELESS, certify, row_norms
from .outcome import Outcome
from .preconditioners import Preconditioner, jacobi
from .system import unit_roundoff

__all__ = ["Iteration", "cg"]

DEFAULT_RTOL = {4: 1e-5, 8: 1e-10}
RESTARTS = 8  # times the recurrence may be restarted from the true residual
PATIENCE = 100  # iterations without a new smallest residual before it counts as stagnation
BACKWARD_LIMIT = 10  # in u: the best any method can do where the condition is bad


def default_rtol(dtype):
    """1e-10 for double, 1e-5 for single."""
    return DEFAULT_RTOL[np.empty(0, dtype).real.dtype.itemsize]


def cg(system, b, coef, *, rtol=None, maxiter=None, x0=None, preconditioner="auto"):
    """Solve for rows b (k, p), or for b = G'(w o coef)/W with rows coef (k, n).

    `preconditioner` is "auto", "jacobi", None, a `Preconditioner`, or a callable on arrays (p, k)
    that applies an approximate inverse of F + D, Hermitian positive definite.
    """
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
    elif callable(preconditioner):
        precondition = _checked_preconditioner(preconditioner)
    else:
        raise InputError(
            f"preconditioner is {preconditioner!r}; expected 'auto', 'jacobi', None, "
            "ff.Nystrom(rank), ff.BlockJacobi(sizes) or a callable"
        )
    state = Iteration(system, added, b, precondition, rtol, maxiter)
    x = np.zeros_like(b) if x0 is None else x0.astype(b.dtype)
    x[~b.any(axis=1)] = 0
    x, status, iterations = state.run(x)
    certificate = certify(system, added, x, b, state.norm)
    u = unit_roundoff(system.dtype)
    reached = (certificate.residuals <= rtol) | (
        (certificate.backward_errors <= BACKWARD_LIMIT * u) & (certificate.residuals < USELESS)
    )
    if reached.all():
        status = "converged"
    elif not np.isfinite(certificate.residual):
        status = "not_finite"
    elif status == "converged":
        status = "stagnated"
    return Outcome(system, x, certificate, status, added, iterations=iterations, rung="cg")


def _checked_preconditioner(apply):
    def precondition(r):
        z = np.asarray(apply(r.T))
        if z.shape != r.T.shape or z.dtype.kind not in "fc":
            raise InputError(
                f"preconditioner returned {z.dtype} of shape {z.shape}; expected floats of shape "
                f"{r.T.shape}"
            )
        return z.T.astype(r.dtype)

    return precondition


class Iteration:
    """The recurrences for all right-hand sides at once; rows that are done rest."""

    def __init__(self, system, added, b, precondition, rtol, maxiter):
        self.system, self.added, self.b = system, added, b
        self.precondition = precondition
        self.maxiter = maxiter
        self.sizes = np.linalg.norm(b, axis=1)
        self.target = rtol * self.sizes
        self.floor = BACKWARD_LIMIT * unit_roundoff(system.dtype)
        # A solution this large beside b means that no damping holds it back.
        self.runaway = float(self.sizes.max(initial=0.0)) / unit_roundoff(system.dtype) ** 2
        self.norm = 0.0  # of F + D, from below: the largest stretch of a direction seen

    def apply(self, v):
        y = self.system.apply_fisher(v) + self.added * v
        lengths = row_norms(v)
        stretched = row_norms(y)[lengths > 0] / lengths[lengths > 0]
        self.norm = max(self.norm, float(stretched.max(initial=0.0)))
        return y

    def done(self, sizes, x):
        """Rows whose residual norms `sizes` meet the tolerance or the floor that rounding sets."""
        floor = self.floor * (self.norm * row_norms(x) + self.sizes)
        return (sizes <= self.target) | ((sizes <= floor) & (sizes < USELESS * self.sizes))

    def run(self, x):
        iterations, status = 0, "stagnated"
        before = np.full(len(x), np.inf)
        for _ in range(RESTARTS + 1):
            r = self.b - self.apply(x) if np.any(x) else self.b.copy()
            sizes = row_norms(r)
            active = ~self.done(sizes, x)
            if not active.any():
                return x, "converged", iterations
            # A restart must have gained something, or rounding is all that is left.
            if not (sizes[active] < 0.5 * before[active]).any():
                return x, status if status != "converged" else "stagnated", iterations
            before = sizes
            x, r, status, used = self.sweep(x, r, active, self.maxiter - iterations)
            iterations += used
            if status in ("breakdown", "not_finite") or iterations >= self.maxiter:
                break
        return x, status, iterations

    def sweep(self, x, r, active, limit):
        """Iterate from the residual r until the recurrence meets the tolerance or gives up."""
        progress = current_options().progress
        z = self.precondition(r)
        d = z.copy()
        rz = _dots(r, z)
        best, since = row_norms(r), 0
        for k in range(limit):
            q = self.apply(d)
            curvature = _dots(d, q)
            bad = active & ~(curvature > 0)
            if not np.isfinite(curvature[active]).all():
                return x, r, "not_finite", k + 1
            if bad.any():
                return x, r, "breakdown", k + 1
            alpha = np.where(active, rz / np.where(active, curvature, 1.0), 0.0)[:, np.newaxis]
            x = x + alpha * d
            r = r - alpha * q
            sizes = row_norms(r)
            if progress is not None:
                progress("cg", k + 1, limit)
            active = active & ~self.done(sizes, x)
            if not active.any():
                return x, r, "converged", k + 1
            if self.norm * float(row_norms(x)[active].max()) > self.runaway:
                return x, r, "breakdown", k + 1
            since = 0 if (sizes[active] < best[active]).any() else since + 1
            best = np.minimum(best, sizes)
            if since >= PATIENCE:
                return x, r, "stagnated", k + 1
            z = self.precondition(r)
            rz, before = _dots(r, z), rz
            beta = np.where(active, rz / np.where(before > 0, before, 1.0), 0.0)[:, np.newaxis]
            d = z + beta * d
        return x, r, "max_iterations", limit


def _dots(x, y):
    return np.einsum("kp,kp->k", x.conj(), y).real
