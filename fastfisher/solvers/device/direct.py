"""Primal and dual on a device: product, damping, Cholesky, substitution, residual; one queue.

The host waits once, for the report; again only where it says that something must be repeated:
refinement, or a rung of the ladder.
"""

from dataclasses import replace

import numpy as np

from ...devices import passes
from ...devices.door import none
from ...errors import InputError
from ...kernels.cuda import compat, memory, squares, sums, vectors
from ...kernels.cuda.vectors import ADDED, INVERSE, LARGEST, NORM, ORDER, PIVOT, SCALED, TRACE
from ...planning import choose, current_options
from ..certificate import DIRECT_LIMIT, REFINEMENTS, Certificate, direct_status
from ..factored import POWER_STEPS, SINGULAR, refusal
from ..ladder import Ladder
from ..outcome import Outcome

__all__ = ["certificate_of", "certify", "dual", "factored", "parts", "primal"]

RESIDUAL, SOLUTION, GIVEN = range(3)  # sums of each right-hand side in the report
EPS = float(np.finfo(np.float64).eps)


def _kernel(op, size):
    return choose(op, size, np.dtype(np.float64), device="cuda").load()


def certify(system, report, added, x, b, keep=None):
    """Queue the residual b - (F + D) x and the sums that the certificate is made of."""
    y = system.raw_fisher(x)
    r = y if keep is None else keep
    vectors.combine(r, b, y, system.inverse_total, added, x)
    for i, rows in ((RESIDUAL, r), (SOLUTION, x), (GIVEN, b)):
        sums.dots(report.each(i), rows, rows)
    return r


def certificate_of(report, norm):
    """The certificate that a report holds, once it has been read; `norm` bounds F + D below."""
    rest, length, given = (report.sizes(i) for i in (RESIDUAL, SOLUTION, GIVEN))
    with np.errstate(over="ignore", invalid="ignore"):
        residuals = rest / np.where(given > 0, given, 1.0)
        scale = norm * length + given
        backward = rest / np.where(scale > 0, scale, 1.0)
    return Certificate(None, residuals, backward)


class Matrix:
    """F or K on the device, both triangles, with what is known of it in the report.

    `factor` overwrites the lower triangle; the upper one and the diagonal bring it back.
    """

    def __init__(self, A, report, damping, p):
        self.A, self.report, self.order = A, report, A.shape[0]
        self.diagonal = compat.empty((self.order,), np.float64)
        squares.diagonal_of(self.diagonal, A)
        rows = self.diagonal.reshape(1, self.order)
        sums.largest(report.place(LARGEST), rows)
        sums.totals(report.place(TRACE), rows)
        lam, share, self.ratio = parts(damping)
        self.added = compat.empty((self.order,), np.float64)
        vectors.resolve(self.added, report.device, self.diagonal, lam, share / p, self.ratio)
        self.free = damping.is_zero
        self._factored = False

    def measure(self):
        """Queue the spectral norm, from below, by a few power steps."""
        multiply, rows = _kernel("matvec", 1), self.diagonal.reshape(1, self.order)
        self._power(lambda y, x: multiply(y, self.A, x, none(np.float64)), rows, NORM)

    def _power(self, apply, start, place):
        square, best = compat.empty((1,), np.float64), none(np.float64)
        x, y = (compat.empty((1, self.order), np.float64) for _ in range(2))
        memory.copy(y, start)
        for _ in range(POWER_STEPS + 1):
            sums.dots(square, y, y)
            vectors.normalise(x, y, square, best)
            apply(y, x)
            best = self.report.place(place)
        sums.dots(square, y, y)
        vectors.normalise(x, y, square, best)

    def factor(self, extra=0.0):
        """Queue the factorisation of A + D + extra I."""
        if self._factored:
            squares.restore(self.A)
        self._factored = True
        if self.free and not extra:
            self._condition_before()
        squares.add_to_diagonal(self.A, self.diagonal, self.added, extra)
        info = _kernel("cholesky", self.order)(self.A)
        memory.copy(self.report.place(ORDER), info)
        pivots = compat.empty((1, self.order), np.float64)
        squares.diagonal_of(pivots.reshape(self.order), self.A)
        sums.least(self.report.place(PIVOT), pivots)
        if self.free and not extra:
            self._condition_after()

    def _condition_before(self):
        """The norm of A scaled to a unit diagonal (docs/math.md P4)."""
        self._up, self._down = (compat.empty((self.order,), np.float64) for _ in range(2))
        vectors.square_roots(self._up, self._down, self.diagonal)
        multiply, t = _kernel("matvec", 1), compat.empty((1, self.order), np.float64)

        def apply(y, x):
            vectors.times(t, x, self._down)
            multiply(y, self.A, t, none(np.float64))
            vectors.times(y, y, self._down)

        self._power(apply, self._down.reshape(1, self.order), SCALED)

    def _condition_after(self):
        """The norm of its inverse."""

        def apply(y, x):
            vectors.times(y, x, self._up)
            self.solve_in_place(y)
            vectors.times(y, y, self._up)

        self._power(apply, self._down.reshape(1, self.order), INVERSE)

    def solve_in_place(self, x):
        """x <- (L L')^-1 x for rows x."""
        _kernel("solve_lower", self.order)(self.A, x)
        _kernel("solve_lower_adjoint", self.order)(self.A, x)

    def solve(self, rows):
        """The same for a copy of the rows."""
        x = compat.empty(tuple(rows.shape), np.float64)
        memory.copy(x, rows)
        self.solve_in_place(x)
        return x

    # After the report has been read.

    @property
    def lam(self):
        return float(self.report.host[ADDED])

    def largest_added(self, extra):
        return self.lam + self.ratio * float(self.report.host[LARGEST]) + extra

    def norm(self, extra):
        """||A + D||, from below."""
        known = float(max(self.report.host[NORM], self.report.host[LARGEST]))
        return known + self.largest_added(extra)

    def failure(self, extra, what):
        """The error if the factorisation failed, or succeeded on noise; else None."""
        host = self.report.host
        order, rcond = int(host[ORDER]), 0.0
        if self.free and not extra and not order:
            rcond = self.rcond
            if not rcond >= SINGULAR * self.order * EPS:
                order = self.order
        if not order:
            return None
        added = np.array([self.largest_added(extra)])
        return refusal(order, self.order, rcond, added, host[TRACE], what)

    @property
    def rcond(self):
        """Reciprocal condition number of the scaled matrix, estimated; only without damping."""
        product = float(self.report.host[SCALED] * self.report.host[INVERSE])
        return 1 / product if product > 0 else 0.0


def parts(damping):
    """Damping as lam + share trace + ratio diag: (lam, share, ratio)."""
    if damping.needs == "trace":
        return 0.0, damping.c, 0.0
    if damping.needs == "diagonal":
        return damping.shift, 0.0, damping.c
    return float(damping.resolve(None, None, 1)), 0.0, 0.0


def _climb(matrix, system, attempt, what):
    """The outcome of the first attempt that holds: without, then with more damping as allowed."""
    ladder = current_options().ladder
    tries = ladder.escalations if isinstance(ladder, Ladder) else 0
    outcome = attempt(0.0)
    error = matrix.failure(0.0, what)
    if error is None or not np.isfinite(matrix.report.host[TRACE]):
        return outcome()  # NaN in the scores is told by the certificate
    size = float(matrix.report.host[LARGEST]) + matrix.largest_added(0.0)
    for j in range(1, tries + 1):  # as in `solvers.ladder`
        extra = matrix.order * 2 * system.roundoff * 10.0**j * size
        outcome = attempt(extra)
        if matrix.failure(extra, what) is not None:
            continue
        if float(matrix.report.host[PIVOT]) ** 2 < 0.9 * extra and j < tries:
            continue
        return outcome()
    if isinstance(ladder, Ladder) and ladder.cutoff is not None:
        error.add_note("the cutoff of a ladder is computed on the host only")
    raise error


def primal(system, report, b, coef, finish):
    """Solve for rows b (k, p), or b = G'(w o coef)/W with rows coef (k, n); `finish` takes x."""
    F = memory.zeros((system.p, system.p), np.float64)
    passes.add_syrk(F, system.G, scale=system.roots, shift=system.mean)
    passes.mirror(F)
    if system.roots is None:
        squares.scale_square(F, none(np.float64), system.inverse_total)
    if b is None:
        b = system.apply_adjoint(system.from_coefficients(coef))
    return factored(system, report, F, b, finish)


def factored(system, report, F, b, finish):
    """Solve for rows b (k, p) with F (p, p), both triangles; F is destroyed."""
    p = F.shape[0]
    matrix = Matrix(F, report, system.damping, p)
    matrix.measure()

    def attempt(extra):
        matrix.factor(extra)
        added = matrix.added
        if extra:
            rows = compat.empty((1, p), np.float64)
            memory.fill(rows, extra)
            added = _sum(matrix.added.reshape(1, p), rows).reshape(p)
        return _attempted(system, matrix, added, extra, matrix.solve(b), b, None, finish)

    return _climb(matrix, system, attempt, "F + damping")


def dual(system, report, b, coef, finish):
    """Solve for rows b (k, p), or b = G'(w o coef)/W with rows coef (k, n); `finish` takes x."""
    if system.damping.needs == "diagonal" or system.damping.is_zero:
        kind = "damping 0" if system.damping.is_zero else "diagonal damping"
        raise InputError(
            f"the dual route with {kind} is computed on the host only; pass method='primal' or "
            "'cg', or a positive scalar damping"
        )
    n, p = system.n, system.p
    K = memory.zeros((n, n), np.float64)
    passes.add_gram(K, system.G, shift=system.mean)
    passes.mirror(K)
    roots = none(np.float64) if system.roots is None else system.roots
    squares.scale_square(K, roots, system.inverse_total)
    matrix = Matrix(K, report, system.damping, p)
    matrix.measure()
    f = None if coef is None else system.from_coefficients(coef)
    given = b if f is None else system.apply_adjoint(f)

    def attempt(extra):
        matrix.factor(extra)
        added, along = (compat.empty((length,), np.float64) for length in (p, n))
        for vector in (added, along):
            vectors.spread(vector, report.device, extra)

        def woodbury(b):
            t = system.apply_adjoint(matrix.solve(system.apply_rows(b)))
            vectors.woodbury(t, b, t, report.device, extra)
            return t

        if f is None:
            y, x = None, woodbury(given)
        else:
            y = matrix.solve(f)
            x = system.apply_adjoint(y)

        def improve(x, rest):
            if f is None:
                return _sum(x, woodbury(rest))
            # On T x + lambda y = f: x stays accurate where T'y cancels.
            t = system.apply_rows(x)
            vectors.combine(t, f, t, 1.0, along, y)
            step = matrix.solve(t)
            memory.copy(y, _sum(y, step))
            return _sum(x, system.apply_adjoint(step))

        return _attempted(system, matrix, added, extra, x, given, improve, finish)

    outcome = _climb(matrix, system, attempt, "the Gram matrix + damping")
    if f is not None:
        return outcome
    sizes = report.sizes(SOLUTION) * outcome.added
    growth = report.sizes(GIVEN) / np.where(sizes > 0, sizes, np.inf)
    return replace(outcome, cancellation=system.roundoff * float(growth.max(initial=0.0)))


def _attempted(system, matrix, added, extra, x, b, improve, finish):
    """Queue the certificate of x and what takes x, read the report; a function of no arguments
    that refines x if the report asks for it, and makes the outcome."""
    report, rest = matrix.report, compat.empty(tuple(x.shape), np.float64)
    certify(system, report, added, x, b, rest)
    finish(x)
    report.read()

    def outcome():
        nonlocal x, rest
        norm, rung = matrix.norm(extra), "cholesky+damping" if extra else "cholesky"
        rcond = matrix.rcond if matrix.free and not extra else None
        pivot = float(report.host[PIVOT]) ** 2
        certificate, limit = certificate_of(report, norm), DIRECT_LIMIT * system.roundoff
        refined = False
        for _ in range(REFINEMENTS if improve is not None else 0):
            if not certificate.backward_error > limit:
                break
            better, kept = improve(x, rest), compat.empty(tuple(x.shape), np.float64)
            certify(system, report, added, better, b, kept)
            report.read()
            again = certificate_of(report, norm)
            if not again.backward_error < certificate.backward_error:
                break
            x, rest, certificate, refined = better, kept, again, True
        if refined:
            finish(x)
            report.read()
        return Outcome(
            system,
            x,
            certificate,
            direct_status(system, certificate),
            matrix.lam + extra,
            rung=rung + "+refinement" * refined,
            rank=matrix.order,
            rcond=rcond,
            smallest_pivot=pivot,
            escalation=extra,
        )

    return outcome


def _sum(x, t):
    """x + t."""
    out = compat.empty(tuple(x.shape), np.float64)
    vectors.combine(out, x, t, -1.0, none(np.float64), none(np.float64, 2))
    return out
