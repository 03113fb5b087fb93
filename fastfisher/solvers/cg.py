"""Matrix-free block conjugate gradients on (F + D) x = b, preconditioned.

One fused pass over the scores per iteration, whatever the number of right-hand sides. The verdict
rests on the residual recomputed from the scores, never on the recurrence alone.
"""

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, qr

from ..errors import InputError
from ..planning import current_options
from .certificate import USELESS, certify, row_norms, worst
from .outcome import Outcome
from .preconditioners import Preconditioner, jacobi
from .system import made_smaller, shifted, unit_roundoff

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
    elif callable(preconditioner):
        precondition = _checked_preconditioner(preconditioner)
    else:
        raise InputError(
            f"preconditioner is {preconditioner!r}; expected 'auto', 'jacobi', None, "
            "ff.Nystrom(rank), ff.BlockJacobi(sizes) or a callable"
        )
    iteration = Iteration(system, added, b, precondition, rtol, maxiter)
    if x0 is None:
        x = np.zeros_like(b)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            x = shifted(x0, -made_smaller(system, given, coef is not None)).astype(b.dtype)
    x[~b.any(axis=1)] = 0
    x, statuses, iterations = iteration.run(x)
    certificate = certify(system, added, x, b, iteration.norm)
    u = unit_roundoff(system.dtype)
    reached = (certificate.residuals <= rtol) | (
        (certificate.backward_errors <= BACKWARD_LIMIT * u) & (certificate.residuals < USELESS)
    )
    for j in range(len(x)):
        if reached[j]:
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
    """All right-hand sides search the space that they span together; rows that are done rest.

    Directions are kept orthonormal: what depends on the others, because right-hand sides do or
    because some have converged, leaves the block instead of spoiling it. docs/math.md I2; H. Ji,
    Y. Li, A breakdown-free block conjugate gradient method, BIT 57, 2017.
    """

    def __init__(self, system, added, b, precondition, rtol, maxiter):
        self.system, self.added, self.b = system, added, b
        self.precondition = precondition
        self.rtol, self.maxiter = rtol, maxiter
        self.sizes = np.linalg.norm(b, axis=1)
        self.target = rtol * self.sizes
        self.floor = BACKWARD_LIMIT * unit_roundoff(system.dtype)
        # Directions that differ by less are one: products with F do not tell them apart.
        self.alike = np.sqrt(unit_roundoff(system.dtype))
        # A solution this large beside b means that no damping holds it back.
        self.runaway = float(self.sizes.max(initial=0.0)) / unit_roundoff(system.dtype) ** 2
        self.norm = 0.0  # of F + D, from below: the largest stretch of a direction seen

    def apply(self, v):
        y = self.system.apply_fisher(v) + self.added * v
        lengths = row_norms(v)
        stretched = row_norms(y)[lengths > 0] / lengths[lengths > 0]
        self.norm = max(self.norm, float(stretched.max(initial=0.0)))
        return y

    def done(self, sizes, x, rows=slice(None)):
        """Which of some rows, with residual norms `sizes`, meet the tolerance or the floor that
        rounding sets."""
        given = self.sizes[rows]
        floor = self.floor * (self.norm * row_norms(x) + given)
        return (sizes <= self.target[rows]) | ((sizes <= floor) & (sizes < USELESS * given))

    def run(self, x):
        """x (k, p) improved in place; a status for each row; iterations taken."""
        statuses = ["stagnated"] * len(x)
        iterations, before = 0, np.full(len(x), np.inf)
        for _ in range(RESTARTS + 1):
            r = self.b - self.apply(x) if np.any(x) else self.b.copy()
            sizes = row_norms(r)
            finished = self.done(sizes, x)
            rows = np.flatnonzero(~finished)
            for j in range(len(x)):
                if finished[j]:
                    statuses[j] = "converged"
                elif statuses[j] == "converged":  # by its recurrence only
                    statuses[j] = "stagnated"
            # A restart must have gained something, or rounding is all that is left.
            if not (sizes[rows] < 0.5 * before[rows]).any():
                break
            before = sizes
            left, status, used = self.sweep(x, r, rows, self.maxiter - iterations)
            iterations += used
            if status == "breakdown" and len(left) > 1:
                # One of them has no solution, or none within reach: that is no fault of the rest.
                for j in left:
                    statuses[j], used = self.alone(x, j, self.maxiter - iterations)
                    iterations += used
                break
            for j in rows:
                statuses[j] = status if j in left else "converged"
            if status in ("breakdown", "not_finite") or iterations >= self.maxiter:
                break
        return x, statuses, iterations

    def alone(self, x, j, limit):
        """Row j by itself: its status and the iterations taken."""
        part = slice(j, j + 1)
        one = Iteration(self.system, self.added, self.b[part], self.precondition, self.rtol, limit)
        _, (status,), used = one.run(x[part])
        self.norm = max(self.norm, one.norm)
        return status, used

    def sweep(self, x, r, rows, limit):
        """Iterate on some rows of x from their residuals r until the recurrence meets the tolerance
        or gives up: the rows it did not finish, why, and the iterations taken."""
        progress = current_options().progress
        P, r = self.directions(self.precondition(r[rows])), r[rows]
        best, since = row_norms(r), 0
        for k in range(limit):
            if P is None or not len(P):
                return rows, "not_finite" if P is None else "breakdown", k
            Q = self.apply(P)
            curvature = _products(P, Q)
            if not np.isfinite(curvature).all():
                return rows, "not_finite", k + 1
            try:
                factor = cho_factor((curvature + curvature.conj().T) / 2, lower=True)
            except LinAlgError:
                return rows, "breakdown", k + 1
            step = cho_solve(factor, _products(P, r))
            x[rows] += _combined(step, P)
            r -= _combined(step, Q)
            sizes = row_norms(r)
            if progress is not None:
                progress("cg", k + 1, limit)
            going = ~self.done(sizes, x[rows], rows)
            if not going.any():
                return rows[:0], "converged", k + 1
            rows, r, sizes, best = rows[going], r[going], sizes[going], best[going]
            if self.norm * float(row_norms(x[rows]).max()) > self.runaway:
                return rows, "breakdown", k + 1
            since = 0 if (sizes < best).any() else since + 1
            best = np.minimum(best, sizes)
            if since >= PATIENCE:
                return rows, "stagnated", k + 1
            z = self.precondition(r)
            P = self.directions(z - _combined(cho_solve(factor, _products(Q, z)), P))
        return rows, "max_iterations", limit

    def directions(self, z):
        """An orthonormal basis of rows z, each of which counts the same; None if not finite."""
        sizes = row_norms(z)
        if not np.isfinite(sizes).all():
            return None
        z = z[sizes > 0] / sizes[sizes > 0, np.newaxis]
        if len(z) < 2:
            return z
        columns, R, _ = qr(z.T, mode="economic", pivoting=True, overwrite_a=True)
        return np.ascontiguousarray(columns.T[np.abs(R.diagonal()) > self.alike])


def _products(x, y):
    """<x_i, y_j> for rows of x and y."""
    if len(x) == 1:  # BLAS would leave threads spinning beside our kernels
        return np.einsum("ip,jp->ij", x.conj(), y)
    return x.conj() @ y.T


def _combined(c, rows):
    """sum_i c_ij rows_i for every j."""
    return c.T * rows if len(rows) == 1 else c.T @ rows
