"""Conjugate gradients on a device: iterations are queued in chunks, the host looks once per chunk.

Rows that are done rest until the chunk ends, so up to CHUNK - 1 passes over the scores are made in
vain; step lengths, tests and verdicts are the kernels' (`kernels.cuda.recurrence`), which square
vectors: right-hand sides are brought near 1 by powers of two.
"""

import numpy as np

from ...devices.door import none
from ...kernels.cuda import compat, memory, ranges, recurrence, sums, vectors
from ...kernels.cuda.vectors import ADDED, LARGEST
from ...planning import current_options
from ..certificate import USELESS, worst
from ..cg import BACKWARD_LIMIT, PATIENCE, RESTARTS, default_rtol, reached
from ..krylov import gained
from ..outcome import Outcome
from .direct import certificate_of, certify
from .matrix import resolved
from .preconditioners import built
from .system import apply_tamed

__all__ = ["CHUNK", "Recurrence", "cg"]

CHUNK = 16  # iterations between two looks of the host
VERDICTS = {
    recurrence.CONVERGED: "converged",
    recurrence.STAGNATED: "stagnated",
    recurrence.BREAKDOWN: "breakdown",
    recurrence.NOT_FINITE: "not_finite",
    recurrence.EXHAUSTED: "max_iterations",
}
FATAL = recurrence.BREAKDOWN, recurrence.NOT_FINITE, recurrence.EXHAUSTED  # no restart helps


def cg(
    system,
    report,
    b,
    coef,
    finish,
    *,
    rtol=None,
    maxiter=None,
    x0=None,
    preconditioner="auto",
    new=None,
):
    """Solve for rows b (k, p), or b = G'(w o coef)/W with rows coef (k, n); `finish` takes x.

    A callable preconditioner gets arrays that ``new(shape, dtype)`` makes.
    """
    p, floor = system.p, BACKWARD_LIMIT * system.roundoff
    rtol = default_rtol(system.dtype) if rtol is None else rtol
    diagonal = system.diagonal()
    added, ratio = resolved(report, diagonal, system.damping, p)
    if preconditioner == "auto":  # as in `solvers.cg`
        few = system.rank_bound < p and not ratio
        preconditioner = None if few else "jacobi"
    if maxiter is None:
        maxiter = 10 * ((p if preconditioner else min(system.n, p)) + 10)
    weight, precondition = none(np.float64), None
    if preconditioner == "jacobi":
        weight = compat.empty((p,), np.float64)
        vectors.invert_sum(weight, diagonal, added)
        _normalise(weight)
    elif preconditioner is not None:
        precondition = built(preconditioner, system, added, diagonal, new)
    if b is None:
        b = system.apply_adjoint(system.from_coefficients(coef))
    run = Recurrence(system, added, b, weight, precondition, rtol, floor, maxiter)
    x, statuses, iterations = run.solve(x0)
    certify(system, report, added, x, b)
    finish(x)
    host = report.read()
    most = float(host[ADDED]) + ratio * float(host[LARGEST])
    norm = max(run.stretch, most)
    certificate = certificate_of(report, norm)
    residuals = certificate.residuals
    done = reached(residuals, certificate.backward_errors, rtol, system.dtype)
    for j, residual in enumerate(residuals):
        if done[j]:
            statuses[j] = "converged"
        elif not np.isfinite(residual):
            statuses[j] = "not_finite"
        elif statuses[j] == "converged":  # by its recurrence only
            statuses[j] = "stagnated"
    facts = {"statuses": tuple(statuses), "iterations": iterations, "rung": "cg"}
    return Outcome(system, x, certificate, worst(statuses), float(host[ADDED]), **facts)


def _normalise(weight):
    """A preconditioner times a power of two: directions stay in the range of single precision."""
    row, moved = weight.reshape(1, weight.size), compat.empty((1,), np.float64)
    sums.largest(moved, row)
    ranges.exponents(moved, moved)
    ranges.shift_rows(row, moved)


class Recurrence:
    """The vectors of the recurrences, and the state of each row; right-hand sides near 1.

    Of a `system` it takes ``raw_fisher``, ``inverse_total``, ``dtype`` and ``roundoff``.
    """

    name, slow = "cg", False

    def __init__(self, system, added, b, weight, precondition, rtol, floor, maxiter):
        self.system, self.added, self.weight = system, added, weight
        self.precondition = precondition
        self.rtol, self.floor, self.maxiter = rtol, floor, maxiter
        self.runaway = system.roundoff**-2
        self.shape = tuple(b.shape)
        self.sizes, self.b = compat.empty((b.shape[0],), np.float64), self._empty()
        sums.largest(self.sizes, b)
        ranges.near(self.b, b, self.sizes)
        self.state = memory.zeros((self.shape[0], recurrence.STATE), np.float64)
        self.partial = recurrence.partials(*self.shape)
        self.d, self.q = (memory.zeros(self.shape, np.float64) for _ in range(2))
        self.stretch = 0.0

    def _empty(self):
        return compat.empty(self.shape, np.float64)

    def solve(self, x0):
        """x, a verdict for each row and the number of iterations."""
        x, r, sizes = self._empty(), self._empty(), compat.empty((self.shape[0],), np.float64)
        sums.dots(sizes, self.b, self.b)
        recurrence.set_sizes(self.state, sizes)
        if x0 is None:
            memory.fill(x, 0.0)
            memory.copy(r, self.b)
        else:
            ranges.near(x, x0, self.sizes)
            vectors.silence(x, sizes)
            self._residual(r, x)
        before = np.full(self.shape[0], np.inf)
        for restart in range(RESTARTS + 1):
            self._begin(x, r, first=restart == 0)
            if restart:
                host = self._look()
                active = host[:, recurrence.STATUS] == recurrence.RUNNING
                rest = host[:, recurrence.REST]
                if not gained(rest[active], before[active]):
                    break  # done, or rounding is all that is left
                before = rest
            host = self._sweep(x, r)
            if self.slow or np.isin(host[:, recurrence.STATUS], FATAL).any():
                break
            self._residual(r, x)
        ranges.back(x, self.sizes)
        verdicts = [VERDICTS.get(int(code), "stagnated") for code in host[:, recurrence.STATUS]]
        return x, verdicts, self._iterations(host)

    def _iterations(self, host):
        return int(host[:, recurrence.ITERATIONS].max(initial=0))

    def _read(self):
        """The state of each row."""
        return memory.to_host(self.state)

    def _look(self):
        host = self._read()
        self.stretch = max(self.stretch, float(host[:, recurrence.STRETCH].max(initial=0.0)))
        return host

    def _residual(self, r, x):
        y = apply_tamed(self.system.raw_fisher, x, self.system.dtype)
        vectors.combine(r, self.b, y, self.system.inverse_total, self.added, x)

    def _begin(self, x, r, *, first):
        recurrence.rest(self.state)
        recurrence.advance(self.partial, x, r, self.d, self.q, 1.0, self.weight, self.state)
        limits = self.rtol, self.floor, USELESS, self.maxiter
        z = self._preconditioned(r)
        recurrence.begin(self.state, self.partial, *limits, first=first)
        recurrence.conclude(self.d, z, 1.0, self.weight, self.state)

    def _preconditioned(self, r):
        """What the weight is multiplied by: r, or P^-1 r, whose products with r enter the sums."""
        if self.precondition is None:
            return r
        z, products = self.precondition(r), compat.empty((self.shape[0],), np.float64)
        sums.dots(products, r, z)
        recurrence.inner(self.partial, products)
        return z

    def _sweep(self, x, r):
        """Chunks of iterations until no row is active; the state."""
        progress = current_options().progress
        while True:
            for _ in range(self._chunk):
                self._iterate(x, r)
            host = self._look()
            done = self._iterations(host)
            if progress is not None:
                progress(self.name, done, self.maxiter)
            running = host[:, recurrence.STATUS] == recurrence.RUNNING
            if not running.any() or self._given_up(host[running]):
                return host

    @property
    def _chunk(self):
        return CHUNK

    def _given_up(self, running):
        """Whether to stop early, by the state of the rows that are not done."""
        return False

    def _iterate(self, x, r):
        system, state = self.system, self.state
        y = system.raw_fisher(self.d)
        recurrence.measure(self.partial, self.q, self.d, y, system.inverse_total, self.added, state)
        recurrence.direct(state, self.partial)
        recurrence.advance(self.partial, x, r, self.d, self.q, 1.0, self.weight, state)
        limits = self.floor, USELESS, self.runaway, PATIENCE, self.maxiter
        z = self._preconditioned(r)
        recurrence.turn(state, self.partial, *limits)
        recurrence.conclude(self.d, z, 1.0, self.weight, state)
