"""Block conjugate gradients: the iteration behind cg and behind refinement in mixed precision.

One application of the operator per step, whatever the number of right-hand sides. When a row is
done, and when the whole is given up, is for a rule to say.
"""

import numpy as np

from .. import linalg
from ..planning import choose, current_options
from .certificate import row_norms
from .ranges import unit_roundoff

__all__ = ["PATIENCE", "RESTARTS", "Iteration", "gained"]

RESTARTS = 8  # times the recurrence may be restarted from the true residual
PATIENCE = 100  # iterations without a new smallest residual before it counts as stagnation
LASTING = 3  # steps that a product with x is followed through: in each x is rounded, and the sum
GAIN = 0.5  # of the residual that a restart must take from some row; else rounding is all there is


def gained(sizes, before):
    """True if some row lost as much of its residual as makes another restart worth while."""
    return bool((sizes < GAIN * before).any())


class Iteration:
    """All right-hand sides search the space that they span together; rows that are done rest.

    Directions are kept orthonormal: what depends on the others, because right-hand sides do or
    because some have converged, leaves the block instead of spoiling it. docs/math.md I2; H. Ji,
    Y. Li, A breakdown-free block conjugate gradient method, BIT 57, 2017.

    ``operator(rows)`` is Hermitian positive definite. A `rule` has ``done(r, x, rows, norm)``: what
    rows, of residuals r, have arrived; and ``hopeless(course, limit)``: whether to give up, by the
    largest share of a residual that was left after each step so far, of at most `limit`. A `Ritz`
    is told what the steps show of the preconditioner.

    Where the next step may be the last, by ``ends(r, rates, x, rows, norm)`` of the rule, x goes
    along with its directions, up to `aside` rows in all: the residual is recomputed at no product
    of its own, and taken where it is ``clear(r, x, rows, norm)`` of what that rounds more.
    """

    def __init__(
        self,
        operator,
        b,
        precondition,
        rule,
        maxiter,
        *,
        dtype,
        name,
        index=None,
        ritz=None,
        aside=0,
    ):
        self.operator, self.b, self.precondition = operator, b, precondition
        self.rule, self.maxiter, self.dtype, self.name = rule, maxiter, dtype, name
        self.index = np.arange(len(b)) if index is None else index  # what the rule calls our rows
        self.ritz = ritz
        # Products round x where scores are single: the residual is that of rounded x.
        self.aside = aside if b.dtype == dtype else 0
        u = unit_roundoff(dtype)
        # Directions that differ by less are one: products with F do not tell them apart.
        self.alike = np.sqrt(u)
        # A solution this large beside b means that no damping holds it back.
        self.runaway = float(row_norms(b).max(initial=0.0)) / u**2
        self.norm = 0.0  # of the operator, from below: the largest stretch of a direction seen
        self.rest = None  # b - operator(x), where products with the last x are at hand

    def apply(self, v):
        y = self.operator(v)
        lengths = row_norms(v)
        stretched = row_norms(y)[lengths > 0] / lengths[lengths > 0]
        self.norm = max(self.norm, float(stretched.max(initial=0.0)))
        return y

    def done(self, r, x, rows=slice(None)):
        """Which of some rows, with residuals r, have arrived."""
        return self.rule.done(r, x, self.index[rows], self.norm)

    def run(self, x):
        """x (k, m) improved in place; a status for each row; iterations taken."""
        statuses = ["stagnated"] * len(x)
        iterations, before = 0, np.full(len(x), np.inf)
        for _ in range(RESTARTS + 1):
            if self.rest is None:
                self.rest = self.b - self.apply(x) if np.any(x) else self.b.copy()
            r, sizes, finished = self.rest, row_norms(self.rest), self.done(self.rest, x)
            rows = np.flatnonzero(~finished)
            for j in range(len(x)):
                if finished[j]:
                    statuses[j] = "converged"
                elif statuses[j] == "converged":  # by its recurrence only
                    statuses[j] = "stagnated"
            if not gained(sizes[rows], before[rows]):
                break
            before, self.rest = sizes, None
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
            if status in ("breakdown", "not_finite", "slow") or iterations >= self.maxiter:
                break
        return x, statuses, iterations

    def alone(self, x, j, limit):
        """Row j by itself: its status and the iterations taken."""
        part = slice(j, j + 1)
        one = Iteration(
            self.operator,
            self.b[part],
            self.precondition,
            self.rule,
            limit,
            dtype=self.dtype,
            name=self.name,
            index=self.index[part],
        )
        _, (status,), used = one.run(x[part])
        self.norm = max(self.norm, one.norm)
        return status, used

    def sweep(self, x, r, rows, limit):
        """Iterate on some rows of x from their residuals r until the recurrence meets the rule
        or gives up: the rows it did not finish, why, and the iterations taken."""
        progress = current_options().progress
        r = r[rows]
        P, known = self.onwards(r)
        start = best = sizes = row_norms(r)
        since, course, ending, fitted = 0, [], False, _Fitted()
        for k in range(limit):
            if P is None or not len(P):
                return rows, "not_finite" if P is None else "breakdown", k
            Q = fitted.product(self.apply, P, x, ending)
            curvature = _products(P, Q)
            if not np.isfinite(curvature).all():
                return rows, "not_finite", k + 1
            try:
                factor = linalg.cho_factor(curvature / 2 + curvature.conj().T / 2, lower=True)
            except linalg.LinAlgError:
                return rows, "breakdown", k + 1
            if known is not None:
                self.ritz.step(rows, *known, curvature)
            step = linalg.cho_solve(factor, _products(P, r))
            x[rows] += _combined(step, P)
            fitted.step(rows, r, _combined(step, Q))
            before, sizes = sizes, row_norms(r)
            if progress is not None:
                progress(self.name, k + 1, limit)
            going = ~self.done(r, x[rows], rows)
            if not going.any():
                self.rest = self.known_rest(fitted, x)
                return rows[:0], "converged", k + 1
            rows, r, sizes, before = rows[going], r[going], sizes[going], before[going]
            best, start = best[going], start[going]
            ending = self.may_end(r, sizes / before, x, rows)
            if self.norm * float(row_norms(x[rows]).max()) > self.runaway:
                return rows, "breakdown", k + 1
            course.append(float((sizes / start).max()))
            if self.rule.hopeless(course, limit):
                return rows, "slow", k + 1
            since = 0 if (sizes < best).any() else since + 1
            best = np.minimum(best, sizes)
            if since >= PATIENCE:
                return rows, "stagnated", k + 1
            P, known = self.onwards(r, P, Q, factor)
        return rows, "max_iterations", limit

    def may_end(self, r, rates, x, rows):
        """Whether x should go along with the next step."""
        few = len(rows) + len(x) <= self.aside
        return few and self.rule.ends(r, rates, x[rows], self.index[rows], self.norm)

    def known_rest(self, fitted, x):
        """b - operator(x) as far as it is known, and surely; or None."""
        if fitted.y is None:
            return None
        rest = self.b - fitted.y
        return rest if self.rule.clear(rest, x, self.index, self.norm).all() else None

    def onwards(self, r, P=None, Q=None, factor=None):
        """Directions for residuals r, conjugate to those before, and what they tell `ritz`."""
        z = self.precondition(r)
        link = None if P is None else linalg.cho_solve(factor, _products(Q, z))
        along = z if P is None else z - _combined(link, P)
        P = self.directions(along)
        if self.ritz is None or P is None:
            return P, None
        inner = np.einsum("ij,ij->i", r.conj(), z).real
        return P, (inner, _products(P, along), link)

    def directions(self, z):
        """An orthonormal basis of rows z, each of which counts the same; None if not finite."""
        sizes = row_norms(z)
        if not np.isfinite(sizes).all():
            return None
        z = z[sizes > 0] / sizes[sizes > 0, np.newaxis]
        if len(z) < 2:
            return z
        columns, R, _ = linalg.qr(z.T, mode="economic", pivoting=True, overwrite_a=True)
        return np.ascontiguousarray(columns.T[np.abs(R.diagonal()) > self.alike])


class _Fitted:
    """operator(x) of all rows, once they went along with a product, through some steps of x."""

    def __init__(self):
        self.y, self.steps = None, 0

    def product(self, apply, P, x, wanted):
        """apply(P), along with x where that is wanted and not known."""
        if self.steps >= LASTING:
            self.y = None
        if self.y is not None or not wanted:
            return apply(P)
        Q, self.y = np.split(apply(np.concatenate([P, x])), [len(P)])
        self.steps = 0
        return Q

    def step(self, rows, r, change):
        """Some rows of x took a step, of which the operator makes `change`; so do residuals r."""
        r -= change
        if self.y is not None:
            self.y[rows] += change
            self.steps += 1


# Threads of NumPy's BLAS, which wait awake for more work, would cost all others milliseconds.


def _products(x, y):
    """<x_i, y_j> for rows of x and y."""
    if len(x) == 1:
        return np.einsum("ip,jp->ij", x.conj(), y)
    found = np.empty((len(x), len(y)), y.dtype)
    _run("matvec", found, y, x.conj())
    return found


def _combined(c, rows):
    """sum_i c_ij rows_i for every j."""
    if len(rows) == 1:
        return c.T * rows
    found = np.zeros((c.shape[1], rows.shape[1]), rows.dtype)
    _run("rmatvec", found, rows, c.T.conj())
    return found.conj()


def _run(op, found, rows, factors):
    if found.size:
        kernel, none = choose(op, len(found), found.dtype).load(), np.empty(0, found.dtype)
        kernel(found, np.ascontiguousarray(rows), np.ascontiguousarray(factors), none)
