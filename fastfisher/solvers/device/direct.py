"""Primal and dual on a device: product, damping, Cholesky, substitution, residual; one queue.

The host waits once, for the report; again only where it says that something must be repeated:
refinement, or a rung of the ladder.
"""

from dataclasses import replace

import numpy as np

from ...damping import Tikhonov
from ...devices import passes
from ...devices.door import none
from ...errors import NotPositiveDefiniteError
from ...kernels.cuda import compat, memory, squares, sums, vectors
from ...kernels.cuda.vectors import ADDED, LARGEST, LEAST, NORM, PIVOT, TRACE
from ..certificate import DIRECT_LIMIT, REFINEMENTS, Certificate, direct_status
from ..dual import FAINT
from ..factored import rank_deficient, suggestion
from ..ladder import HELD, allowed, current_ladder, escalation
from ..outcome import Outcome
from .matrix import Matrix, resolved
from .system import apply_tamed

__all__ = [
    "GIVEN",
    "RETURNED",
    "SOLUTION",
    "certificate_of",
    "certify",
    "climb",
    "dual",
    "factored",
    "primal",
]

RESIDUAL, SOLUTION, GIVEN, RETURNED = range(4)  # norms of each right-hand side in the report


def certify(system, report, added, x, b, keep=None):
    """Queue the residual b - (F + D) x and the norms that the certificate is made of."""
    y = apply_tamed(system.raw_fisher, x, system.dtype)
    r = y if keep is None else keep
    vectors.combine(r, b, y, system.inverse_total, added, x)
    for i, rows in ((RESIDUAL, r), (SOLUTION, x), (GIVEN, b)):
        sums.norms(report.each(i), rows)
    return r


def certificate_of(report, norm):
    """The certificate that a report holds, once it has been read; `norm` bounds F + D below."""
    rest, length, given = (report.values(i) for i in (RESIDUAL, SOLUTION, GIVEN))
    with np.errstate(over="ignore", invalid="ignore"):
        residuals = rest / np.where(given > 0, given, 1.0)
        scale = norm * length + given
        backward = rest / np.where(scale > 0, scale, 1.0)
    return Certificate(None, residuals, backward)


def climb(matrix, system, attempt, what, blocks=None):
    """The outcome of the first factor that holds: without more damping, from the scores (`blocks`),
    with more damping; the last two as the ladder in force allows."""
    ladder = current_ladder()
    tries = 0 if ladder is None else ladder.escalations
    matrix.factor()
    outcome = attempt(0.0)
    error = matrix.failure(0.0, what, system)
    if error is None or not np.isfinite(matrix.report.host[TRACE]):
        return outcome()  # NaN in the scores is told by the certificate
    if ladder is not None and blocks is not None and matrix.orthogonal(blocks):
        return attempt(0.0)()
    size = matrix.largest
    for j in range(1, tries + 1):  # as in `solvers.ladder`
        extra = float(escalation(j, matrix.order, size, system.dtype))
        matrix.factor(extra)
        outcome = attempt(extra)
        if matrix.failure(extra, what, system) is not None:
            continue
        if float(matrix.report.host[PIVOT]) ** 2 < HELD * extra and j < tries:
            continue
        return outcome()
    raise error


def primal(system, report, b, coef, finish):
    """Solve for rows b (k, p), or b = G'(w o coef)/W with rows coef (k, n); `finish` takes x."""
    F = memory.zeros((system.p, system.p), np.float64)
    system.add_fisher(F)
    passes.mirror(F)
    if b is None:
        b = system.apply_adjoint(system.from_coefficients(coef))
    return factored(system, report, F, b, finish, system.row_blocks)


def factored(system, report, F, b, finish, blocks=None):
    """Solve for rows b (k, p) with F (p, p), both triangles; F is destroyed."""
    matrix = Matrix(F, report, system.damping, F.shape[0])

    def attempt(extra):
        added = matrix.added
        if extra:
            rows = compat.empty((1, added.size), np.float64)
            memory.fill(rows, extra)
            added = _sum(added.reshape(1, added.size), rows).reshape(added.size)
        return _attempted(system, report, matrix, added, extra, matrix.solve(b), b, None, finish)

    return climb(matrix, system, attempt, "F + damping", blocks)


def dual(system, report, b, coef, finish):
    """Solve for rows b (k, p), or b = G'(w o coef)/W with rows coef (k, n); `finish` takes x."""
    route = _diagonal if system.damping.needs == "diagonal" else _scalar
    return route(system, report, b, coef, finish)


def _scalar(system, report, b, coef, finish):
    n, p, bare = system.n, system.p, system.damping.is_zero
    K = memory.zeros((n, n), np.float64)
    system.add_gram(K)
    passes.mirror(K)
    f = None if coef is None else system.from_coefficients(coef)
    blocks, mend = system.adjoint_blocks, None
    if f is not None:
        blocks, mend = _mending(system, report)
    matrix = Matrix(K, report, system.damping, p, mend)
    if bare and f is None:
        extra, _ = allowed(n, float(report.read()[LARGEST]))
        if not extra:
            raise rank_deficient(system, float(report.host[TRACE]))
        matrix.give(extra)
    given = b if f is None else system.apply_adjoint(f)

    def attempt(extra):
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
            if bare and system.mean is not None:
                system.off_mean(t)
            step = matrix.solve(t)
            memory.copy(y, _sum(y, step))
            return _sum(x, system.apply_adjoint(step))

        return _attempted(system, report, matrix, added, extra, x, given, improve, finish)

    outcome = climb(matrix, system, attempt, "the Gram matrix + damping", blocks)
    if f is not None:
        return outcome
    sizes = report.values(SOLUTION) * outcome.added
    growth = report.values(GIVEN) / np.where(sizes > 0, sizes, np.inf)
    return replace(outcome, cancellation=system.roundoff * float(growth.max(initial=0.0)))


def _mending(system, report):
    """What makes K definite in directions that T' maps to zero where damping is faint, as
    `solvers.dual` does; and the rows whose products K then is."""
    n, centred, used = system.n, system.mean is not None, system.used(report)
    u = none(np.float64) if system.roots is None else system.roots

    def mend(K):
        squares.mend(K, u, n**-0.5, report.device, FAINT, used, along=centred)

    def blocks():
        yield from system.adjoint_blocks()
        trace = float(report.host[TRACE])
        if not report.host[ADDED] <= FAINT * trace:
            return
        root = float(np.sqrt(trace / max(memory.to_host(used)[0], 1)))
        for first in np.flatnonzero(memory.to_host(u) == 0).tolist():
            unit = compat.empty((1, n), np.float64)
            vectors.units(unit, first)
            vectors.times(unit, unit, none(np.float64), root)
            yield unit
        if centred:
            ones = compat.empty((1, n), np.float64)
            memory.fill(ones, root if u.size else root * n**-0.5)
            vectors.times(ones, ones, u)
            yield ones

    return blocks, mend


def _diagonal(system, report, b, coef, finish):
    """D is a positive vector: x = D^-1/2 (T_D'T_D + I)^-1 D^-1/2 b with T_D = T D^-1/2."""
    n, p = system.n, system.p
    added, ratio = resolved(report, system.diagonal(), system.damping, p)
    sums.least(report.place(LEAST), added.reshape(1, p))
    inverse, zeros = compat.empty((p,), np.float64), memory.zeros((p,), np.float64)
    vectors.invert_sum(inverse, added, zeros)
    K = memory.zeros((n, n), np.float64)
    system.add_gram(K, inverse)
    passes.mirror(K)
    matrix = Matrix(K, report.inner, Tikhonov(1.0), p)
    f = None if coef is None else system.from_coefficients(coef)
    b = b if f is None else system.apply_adjoint(f)
    matrix.factor()

    def scaled(rows):
        out = compat.empty(tuple(rows.shape), np.float64)
        vectors.times(out, rows, inverse)
        return out

    def woodbury(rows):
        t = system.apply_adjoint(matrix.solve(system.apply_rows(scaled(rows))))
        vectors.combine(t, rows, t, 1.0, none(np.float64), none(np.float64, 2))
        return scaled(t)

    def improve(x, rest):
        return _sum(x, woodbury(rest))

    def norm():
        host = report.host
        largest = float(host[LARGEST])
        least = float(host[LEAST]) * (float(matrix.report.host[NORM]) + 1)
        return max(least, largest + ratio * largest + float(host[ADDED]))

    x = woodbury(b) if f is None else scaled(system.apply_adjoint(matrix.solve(f)))
    outcome = _attempted(system, report, matrix, added, 0.0, x, b, improve, finish, norm)
    if report.host[LEAST] <= 0:
        first = int(np.argmin(memory.to_host(added) > 0))
        raise _undamped(first, float(report.host[LARGEST]), system.scale)
    error = matrix.failure(0.0, "the scaled Gram matrix + 1", system)
    if error is not None and np.isfinite(report.host[TRACE]):
        raise error
    return outcome()


def _undamped(first, largest, scale):
    """The error for a parameter without score and damping."""
    return NotPositiveDefiniteError(
        f"parameter {first} has no score and no damping (Marquardt without shift); "
        "pass Marquardt(c, shift=...) > 0",
        order=first + 1,
        rcond=0.0,
        suggested_damping=suggestion(1e-8 * (largest or 1.0), scale),
    )


def _attempted(system, report, matrix, added, extra, x, b, improve, finish, norm=None):
    """Queue the certificate of x and what takes x, read the report; a function of no arguments
    that refines x if the report asks for it, and makes the outcome."""
    rest = compat.empty(tuple(x.shape), np.float64)
    certify(system, report, added, x, b, rest)
    finish(x)
    report.read()

    def outcome():
        nonlocal x, rest
        bound = matrix.norm(extra) if norm is None else norm()
        certificate, limit = certificate_of(report, bound), DIRECT_LIMIT * system.roundoff
        refined = False
        for _ in range(REFINEMENTS if improve is not None else 0):
            if not certificate.backward_error > limit:
                break
            better, kept = improve(x, rest), compat.empty(tuple(x.shape), np.float64)
            certify(system, report, added, better, b, kept)
            report.read()
            again = certificate_of(report, bound)
            if not again.backward_error < certificate.backward_error:
                break
            x, rest, certificate, refined = better, kept, again, True
        if refined:
            finish(x)
            report.read()
        facts = matrix.facts(extra)
        facts["rung"] += "+refinement" * refined
        status = direct_status(system, certificate)
        total = float(report.host[ADDED]) + extra
        return Outcome(system, x, certificate, status, total, **facts)

    return outcome


def _sum(x, t):
    """x + t."""
    out = compat.empty(tuple(x.shape), np.float64)
    vectors.combine(out, x, t, -1.0, none(np.float64), none(np.float64, 2))
    return out
