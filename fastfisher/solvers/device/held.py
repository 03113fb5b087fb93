"""Sums of a dense Fisher that are held on a device, and what is answered from them."""

import numpy as np

from ...devices import passes
from ...devices.door import as_rows, as_scores, as_weights, none, result, working_with
from ...errors import InputError, NotPositiveDefiniteError, StateError
from ...kernels.cuda import compat, memory, ranges, squares, sums, vectors
from ...planning import Problem, plan_problem
from ..cutoffs import Cutoff
from ..ladder import allowed_cutoff
from ..ranges import unit_roundoff
from .direct import RETURNED, factored
from .factor import DeviceFactor
from .path import DevicePath
from .report import Report
from .samples import examined, mean_row, without_bad_rows
from .solve import dressed, emit, kept
from .spectral import HeldSeen, spectral
from .system import drift_of

__all__ = ["Held"]


class _Normalised:
    """F (p, p) as a system: what the certificate of a solve asks of one."""

    inverse_total, roots, shares, mean, scale = 1.0, None, None, None, 1.0

    def __init__(self, F, damping, dtype):
        self.F, self.damping, self.dtype, self.p = F, damping, dtype, F.shape[0]
        self.roundoff = unit_roundoff(dtype)

    def add_fisher(self, F):
        """F, into zeros."""
        memory.copy(F, self.F)

    def raw_fisher(self, v):
        """F v for rows v."""
        y = compat.empty(tuple(v.shape), np.float64)
        passes.load("matvec", v.shape[0])(y, self.F, v, none(np.float64))
        return y


class Held:
    """Raw sums over everything that was added: lower triangle of sum w g g', and sum w g.

    Centred, the first are those of g less the mean: batches meet as in docs/math.md U2.
    """

    def __init__(self, p, dtype, center=False):
        self.p, self.dtype, self.center, self.origin = p, dtype, center, None

    def _start(self, G, sums=None):
        """The first batch decides on which device, and in which kind answers come."""
        origin = result(G, (0,), self.dtype)[0]
        self.sums, self.first = self._nothing() if sums is None else sums
        self.origin = origin  # last: now there are sums

    def _nothing(self):
        return tuple(memory.zeros((m, self.p), np.float64) for m in (self.p, 1))

    def add(self, G, weights, decay, weight, skip=False):
        """Add a batch after the sums so far, of this weight, are multiplied by decay; (rows, sum of
        weights, rows left out because they are not finite)."""
        with working_with(G, weights, self.origin):
            scores = as_scores(G)
            n, p = scores.shape
            if p != self.p or scores.dtype != self.dtype:
                raise InputError(
                    f"G is {scores.dtype} with {p} columns; expected {self.dtype} with {self.p}"
                )
            rows, bad = None if weights is None else as_weights(weights, n), 0
            if skip and n:
                scores, rows, bad = without_bad_rows(scores, rows)
            total, batch = 0.0, None
            if n:
                scores, roots, u, total = examined(scores, rows)
                batch = self._batch(scores, roots, u, total, weight, decay)
            if self.origin is None and batch is not None:
                self._start(G, batch)
                return n - bad, total, bad
            if decay != 1 and self.origin is not None:
                squares.scale_square(self.sums, none(np.float64), decay)
                vectors.times(self.first, self.first, none(np.float64), decay)
            if batch is not None:
                self._include(*batch)
            return n - bad, total, bad

    def _batch(self, scores, roots, u, total, weight, decay):
        """The sums of a batch, with what lies between its mean and ours: in memory of their own, so
        that where there is no room for something ours are as they were."""
        made, first = self._nothing()
        mean = self._mean_of(scores, u, roots, total) if self.center else None
        passes.add_syrk(made, scores, scale=roots, shift=mean)
        if (drift := drift_of(mean, self.dtype)) is not None:
            ranges.subtract_outer(made, drift, drift, total / 2)
        if self.center:
            self._between(made, mean, weight, total, decay)
        passes.add_rmatvec(first, scores.weighed, u)
        return made, first

    def _include(self, made, first):
        for mine, theirs in ((self.sums, made), (self.first, first)):
            vectors.combine(mine, mine, theirs, -1.0, none(np.float64), none(np.float64, 2))

    @staticmethod
    def _mean_of(scores, u, roots, total):
        """The mean row (p,) of a batch."""
        shares = None
        if roots is not None:
            rows = compat.empty(tuple(u.shape), np.float64)
            vectors.times(rows, u, none(np.float64), 1.0 / total if total > 0 else 0.0)
            shares = rows.reshape(rows.size)
        return mean_row(scores, shares)

    def _between(self, out, mean, weight, total, decay=1.0):
        """Add what lies between the means of the sums so far and of a batch."""
        if not (weight > 0 and total > 0):
            return
        row, none_ = compat.empty((1, self.p), np.float64), none(np.float64)
        rows = mean.reshape(1, self.p)
        vectors.combine(row, rows, self.first, 1.0 / weight, none_, none(np.float64, 2))
        weight *= decay
        root = float(np.sqrt(weight * (total / (weight + total))))
        vectors.times(row, row, none_, root)
        passes.load("syrk", self.p)(out, row, none_, none_)

    def merge(self, other, weight, total):
        """Add the sums of another; the weights of both."""
        if other.origin is None:
            return
        with working_with(other.origin, self.origin):
            if self.origin is None:
                self._start(other.origin)
            if self.center:
                self._between(self.sums, other.mean(total).reshape(self.p), weight, total)
            self._include(other.sums, other.first)

    # Answers; the caller is inside `working`.

    def working(self, *others):
        """Context: where the sums lie."""
        if self.origin is None:
            raise StateError("this Fisher has seen nothing; update it first")
        return working_with(*(x for x in others if x is not None), self.origin)

    def matrix(self, weight):
        """F (p, p) in double, both triangles; a new array."""
        F = compat.empty((self.p, self.p), np.float64)
        passes.mirror(self.sums, F)
        squares.scale_square(F, none(np.float64), 1.0 / weight if weight > 0 else 0.0)
        return F

    def mean(self, weight):
        """The mean row (1, p)."""
        rows = compat.empty((1, self.p), np.float64)
        vectors.times(rows, self.first, none(np.float64), 1.0 / weight if weight > 0 else 0.0)
        return rows

    def answer(self, values, dtype=None):
        """A device array in the kind of what was added."""
        made, view = result(self.origin, tuple(values.shape), dtype or self.dtype)
        memory.copy(view, values)
        return made

    def rows(self, b, weight):
        """Rows (k, p) of b, or the mean; and whether it is one vector."""
        return (self.mean(weight), True) if b is None else as_rows(b, self.p, "b")

    def columns(self, rows, single):
        """Rows answered as (p,) or (p, k)."""
        shape = (self.p,) if single else (self.p, rows.shape[0])
        made, view = result(self.origin, shape, self.dtype)
        vectors.emit(view.reshape(self.p, rows.shape[0]), rows, none(np.float64))
        return made

    def apply(self, v, weight):
        """F v."""
        with self.working(v):
            rows, single = as_rows(v, self.p, "v")
            y = _Normalised(self.matrix(weight), None, self.dtype).raw_fisher(rows)
            return self.columns(y, single)

    def solve(self, b, damping, weight, n):
        """The Solution of (F + D) x = b."""
        with self.working(b):
            given, single = self.rows(b, weight)
            F, report = self.matrix(weight), Report(given.shape[0])
            k, system = given.shape[0], _Normalised(F, damping, self.dtype)
            made, out = result(self.origin, (self.p,) if single else (self.p, k), self.dtype)

            def finish(x):
                emit(out, x, none(np.float64), report)

            outcome = None
            cutoff = damping if isinstance(damping, Cutoff) else allowed_cutoff()
            if cutoff is not damping:
                work = compat.empty((self.p, self.p), np.float64)
                memory.copy(work, F)
                try:
                    outcome = factored(system, report, work, given, finish)
                except NotPositiveDefiniteError:
                    if cutoff is None:
                        raise
            if outcome is None:
                outcome = spectral(HeldSeen.of(system), given, None, "primal", cutoff=cutoff)
                finish(memory.to_device(outcome.x))
                report.read()
            spectrum = outcome.rung == "eigen"
            problem = Problem(
                n, self.p, k, self.dtype.name, "primal", device="cuda", spectral=spectrum
            )
            outcome = kept(outcome, HeldSeen.of(system), out, report)
            finite = np.isfinite(report.values(RETURNED))
            return dressed(made, outcome, plan_problem(problem), damping, 1.0, finite)

    def factor(self, damping, weight):
        """The DeviceFactor of F + D."""
        with self.working():
            return DeviceFactor(_Normalised(self.matrix(weight), damping, self.dtype), self.origin)

    def trace(self, weight):
        """Trace of F, on the host."""
        diagonal, total = (compat.empty((size,), np.float64) for size in (self.p, 1))
        squares.diagonal_of(diagonal, self.sums)
        sums.totals(total, diagonal.reshape(1, self.p))
        return float(memory.to_host(total)[0]) / (weight or 1.0)

    def on_host(self, weight):
        """The sums (p, p), both triangles, and the mean (p,), copied to the host."""
        with self.working():
            both = compat.empty((self.p, self.p), np.float64)
            passes.mirror(self.sums, both)
            return memory.to_host(both), memory.to_host(self.mean(weight))[0]

    def path(self, b, dampings, weight):
        """The DevicePath for b and absolute dampings."""
        with self.working(b):
            rows, single = self.rows(b, weight)
            if not single:
                raise InputError(f"b has shape {tuple(b.shape)}; a path takes one vector")
            F = self.matrix(weight)
            return DevicePath(F, rows, dampings, dtype=self.dtype, origin=self.origin)
