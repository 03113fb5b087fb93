"""From a system on a device and a plan to a Solution: routes, rungs, ranges, refusals."""

from dataclasses import dataclass

import numpy as np

from ...damping import Marquardt
from ...devices.door import none
from ...devices.passes import bad_rows
from ...errors import InputError, NotPositiveDefiniteError
from ...kernels.cuda import compat, memory, ranges, sums, vectors
from ...kernels.cuda.vectors import LARGEST, LOW, TOTAL, TRACE
from ...planning import Plan, mixed_side
from ..certificate import (
    Certificate,
    as_returned,
    direct_statuses,
    may_lose_digits,
    with_lost_digits,
)
from ..cutoffs import Cutoff
from ..factored import rank_deficient
from ..ladder import allowed_cutoff, current_ladder
from ..outcome import Outcome
from ..solution import solution_of
from ..solve import LIFT
from ..system import made_smaller
from .direct import GIVEN, RETURNED, dual, primal
from .iterative import cg
from .mixed import mixed
from .samples import not_finite
from .spectral import Seen, spectral
from .system import check_weights

__all__ = ["Run", "dressed", "emit", "kept"]

ROUTES = {"primal": primal, "dual": dual}


@dataclass(frozen=True)
class Run:
    """A planned solve for rows b (k, p), or f (k, n) with b = G'(w o f) / sum(w)."""

    place: object  # answers where the operands lay
    plan: Plan
    b: object
    f: object
    x0: object
    single: bool
    nan_policy: str
    settings: dict  # of cg

    @property
    def given(self):
        return self.b if self.f is None else self.f

    @property
    def side(self):
        """The exact route: what was planned, or what mixed precision falls back to."""
        plan = self.plan
        return mixed_side(plan.problem) if plan.method == "mixed" else plan.method

    def solution(self, system, report):
        """The Solution; by scores of another scale where the squares of theirs leave the range."""
        p, k = system.p, report.sides
        sizes, moved = (compat.empty((k,), np.float64) for _ in range(2))
        sums.largest(sizes, self.given)
        ranges.exponents(moved, sizes)
        self._shift(moved)
        made, out = self.place.new((p,) if self.single else (p, k), system.dtype)

        def finish(x, report, power):
            emit(out, x, moved, report, power)

        outcome, report = self._outcome(system, report, finish)
        lifts = _lifts(outcome, sizes)
        if lifts is not None:  # as in `solvers.solve`
            moved = memory.to_device(memory.to_host(moved) + lifts)
            self._shift(memory.to_device(lifts))
            outcome, report = self._outcome(system, report.again(), finish)
        if not np.isfinite(report.host[TRACE]):  # propagated: all of x is NaN
            memory.fill(out, np.nan)
        finite = np.isfinite(report.values(RETURNED)) & np.isfinite(report.host[TRACE])
        seen = outcome.system
        if not isinstance(seen, Seen):
            seen = Seen.of(seen)
        power = made_smaller(outcome.system, system, self.f is not None)
        outcome = kept(outcome, seen, out, report, moved, power)
        x = self.place.answer(made)
        return dressed(x, outcome, self.plan, system.damping, self._scale(outcome, system), finite)

    def _shift(self, exponents):
        """Multiply what is given, and where cg starts, by powers of two."""
        for rows in (self.given, self.x0):
            if rows is not None:
                ranges.shift_rows(rows, exponents)

    def _outcome(self, system, report, finish):
        """The outcome, and the report that tells of it."""
        if isinstance(system.damping, Cutoff) and self.plan.method in ROUTES:
            self._read(system, report)
            return self._spectral(system.widened(report), report, finish), report
        used, failure = system, None
        try:
            outcome = self._route(system, report, finish)
        except NotPositiveDefiniteError as error:
            failure = error
        if report.host is None:  # hopeless from the start
            self._read(system, report)
        else:
            used = self._checked(system, report)
        tries = [used] if used is not system else []
        while tries:
            used, report, failure = tries.pop(), report.again(), None
            try:
                power = made_smaller(used, system, self.f is not None)
                outcome = self._route(used, report, finish, power)
            except NotPositiveDefiniteError as error:
                failure = error
            if used.G.scale == system.G.scale:  # widened: what is out of range shows now
                better = self._checked(used, report)
                tries = [better] if better is not used else []
        if failure is None:
            return outcome, report
        cutoff = allowed_cutoff()
        diagonal = self.side == "dual" and system.damping.needs == "diagonal"
        if cutoff is None or diagonal or self.plan.method == "cg":
            raise failure
        return self._spectral(system, report, finish, cutoff), report

    def _route(self, system, report, finish, power=0):
        """The outcome of a system whose x is smaller by this power of two."""
        ladder = current_ladder()
        hopeless = self.f is None and system.damping.is_zero and system.rank_bound < system.p
        if hopeless and (self.plan.method == "cg" or not (ladder and ladder.escalations)):
            raise rank_deficient(system)

        def take(x):
            finish(x, report, power)

        if self.plan.method == "cg":
            new = self.place.new if self.place.there else None
            settings = {**self.settings, "x0": self._start(power), "new": new}
            return cg(system, report, self.b, self.f, take, **settings)
        if self.plan.method == "mixed" and not hopeless:
            outcome = mixed(system, report, self.b, self.f, take, problem=self.plan.problem)
            if outcome is not None:
                return outcome
        return ROUTES[self.side](system, report, self.b, self.f, take)

    def _start(self, power):
        """Where cg starts."""
        if self.x0 is None or not power:
            return self.x0
        rows, moved = compat.empty(tuple(self.x0.shape), np.float64), np.full(len(self.x0), -power)
        memory.copy(rows, self.x0)
        ranges.shift_rows(rows, memory.to_device(moved.astype(np.float64)))
        return rows

    def _spectral(self, system, report, finish, cutoff=None):
        seen = Seen.of(system, self.nan_policy == "propagate")
        if seen.propagate and bad_rows(system.G)[0].any():
            outcome = _propagated(seen, report.sides)
        else:
            outcome = spectral(seen, self.b, self.f, self.side, cutoff=cutoff)
        power = made_smaller(outcome.system, system, self.f is not None)
        finish(memory.to_device(outcome.x), report, power)
        report.read()
        return outcome

    # What was wrong with the operands explains any failure.

    def _read(self, system, report):
        """Read what the report says of weights and right-hand sides alone."""
        sums.norms(report.each(GIVEN), self.given)
        report.read()
        self._examined(system, report)

    def _examined(self, system, report):
        check_weights(system, report)
        if np.isfinite(report.values(GIVEN)).all():
            return
        bad = memory.to_host(self.given)
        if not np.isfinite(bad).all():
            index = int(np.flatnonzero(~np.isfinite(bad).all(axis=0))[0])
            raise InputError(f"the right-hand side is not finite at index {index}; repair it")

    def _checked(self, system, report):
        """The system to solve: this one, or of another scale; InputError for bad operands."""
        self._examined(system, report)
        largest = float(report.host[LARGEST])
        if not np.isfinite(report.host[TRACE]):
            bad, _ = bad_rows(system.G)
            if bad.any():
                if self.nan_policy == "propagate":
                    return system
                raise not_finite(int(np.argmax(bad)))
            largest = np.inf
        if system.shares is not None and not report.host[TOTAL] > 0:  # F = 0 at any scale
            return system
        wide = system.widened(report)
        if wide is not system:
            return wide
        used = system.rescaled(largest)
        if used is system and system.damping.needs == "diagonal":
            return system.without_faint(float(report.host[LOW]))
        return used

    @staticmethod
    def _scale(outcome, system):
        return outcome.system.G.scale / system.G.scale


def _lifts(outcome, sizes):
    """By which powers of two to multiply right-hand sides of these sizes, since x underflows on the
    way; None where it does not. Waits where something is wrong with x."""
    if outcome.status in ("converged", "not_finite"):
        return None
    if isinstance(outcome.x, np.ndarray):
        largest = np.abs(outcome.x).max(axis=1)
    else:
        found = compat.empty(tuple(sizes.shape), np.float64)
        sums.largest(found, outcome.x)
        largest = memory.to_host(found)
    faint = (largest < np.finfo(np.float64).smallest_normal) & (memory.to_host(sizes) > 0)
    return np.where(faint, float(LIFT), 0.0) if faint.any() else None


def _propagated(seen, sides):
    """What NaN in the scores gives where the caller wants it propagated."""
    x, nan = np.full((sides, seen.p), np.nan), np.full(sides, np.nan)
    return Outcome(seen, x, Certificate(None, nan, nan), "not_finite", np.nan, rung="none")


def emit(out, x, moved, report, power=0):
    """Rows x (k, p) times 2^(power - moved) to `out` (p,) or (p, k), and the largest of each, as it
    is returned, to the report."""
    k, p = x.shape
    vectors.emit(out.reshape(p, k), x, moved, power)
    rows = compat.empty((k, p), np.float64)
    vectors.take(rows, out.reshape(p, k), none(np.float64))
    sums.largest(report.each(RETURNED), rows)


def kept(outcome, seen, out, report, moved=None, power=0):
    """The outcome as what is returned in `out` deserves it: x may have lost digits to underflow.
    `seen`: its system, by the host. Waits where x is that small."""
    p, k = seen.p, len(report.values(RETURNED))
    if not may_lose_digits(report.values(RETURNED), p, seen.dtype).any():
        return outcome
    rows = np.ascontiguousarray(memory.to_host(out).reshape(p, k).T)
    exact = outcome.x if isinstance(outcome.x, np.ndarray) else memory.to_host(outcome.x)
    if moved is not None:
        power = power - memory.to_host(moved).astype(int)[:, np.newaxis]
    added = 0.0
    if outcome.rung != "eigen":
        diagonal = seen.raw_diagonal() if seen.damping.needs == "diagonal" else None
        added = outcome.added if diagonal is None else seen.damping.resolve(None, diagonal, p)
    found = as_returned(seen, added, rows, exact, outcome.certificate, power)
    return outcome if found is None else with_lost_digits(outcome, seen, found)


def dressed(x, outcome, plan, damping, scale, finite):
    """The Solution of an outcome, whose scores were `scale` times those of the caller; of which
    right-hand sides x is `finite`."""
    status = outcome.status if finite.all() else "not_finite"
    statuses = outcome.statuses or direct_statuses(outcome.system, outcome.certificate)
    if status == "converged":
        statuses = (status,) * len(statuses)
    pairs = zip(statuses, finite, strict=True)
    statuses = tuple(s if ok else "not_finite" for s, ok in pairs)
    added = outcome.added
    if isinstance(damping, Marquardt):
        added = damping.c
    elif not damping.needs and not outcome.escalation and outcome.rung != "eigen":
        added = damping.resolve(None, None, 1)
    else:
        added = added / scale / scale
    return solution_of(
        outcome,
        x=x,
        plan=plan,
        status=status,
        damping=float(added),
        scale=scale,
        statuses=statuses,
        residuals=outcome.certificate.residuals,
    )
