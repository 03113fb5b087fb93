"""Mixed precision: a rough matrix and its single-precision factor, the solution in that of G.

The factor preconditions conjugate gradients on the true residual, which refine where plain
refinement does and also where it diverges; docs/math.md X1-X5.
"""

import math

import numpy as np

from ..kernels.cpu.splitting import SLICED_ORDER
from ..planning import mixed_costs
from .certificate import Certificate, direct_status, refine, row_norms
from .outcome import Outcome
from .pcg import refined
from .rough import Model, Slicing, power_norm, predicted_steps, rough_matrix
from .system import RANGE, unit_roundoff

__all__ = ["MixedSolver", "mixed"]

STEPS = 40  # iterations after which the exact route is the better choice
MOST_SLICES = 3  # more are nearer than their factor in single precision
REACHED = 9  # backward error, in u, up to which x of the dual is improved
WORTH = 0.8  # of the exact route's time that an unasked try may be expected to take


def tried_unit():
    """What multiplies bytes here, once all its gates are passed; it brings the compiler along."""
    from ..kernels.cpu.integer import unit

    return unit()


def mixed(system, plan, b, coef, side):
    """Solve for rows b (k, p) or coef (k, n) through a rough factor.

    None where it does not reach what a direct route promises: single precision cannot hold the
    damping, the dual was asked for a diagonal D or for no damping, or (where nobody asked for it
    by name) the exact route promises to be as fast.
    """
    return MixedSolver(system, plan.problem, side).solve(b, coef)


class MixedSolver:
    """Rough matrices of one system, for any damping: formed once, when first wanted."""

    def __init__(self, system, problem, side):
        self.side, self.problem = side, problem
        self.picky = problem.method == "auto"
        order = system.p if side == "primal" else system.n
        large = system.dtype.kind != "c" and order >= SLICED_ORDER
        unit = tried_unit() if large else "plain"
        self.costs = mixed_costs(problem, side, unit)
        self._matrices, self._norm = {}, None
        self.slicing, self.largest_square = None, None
        if unit != "plain":
            self.slicing = Slicing(system, side)
            system.checked(self.slicing.peaks, "G")
            largest = float(np.max(self.slicing.peaks, initial=0.0)) ** 2
            least, most, _ = RANGE[system.dtype.itemsize]
            if least <= largest <= most:
                self.largest_square = largest
            else:
                self.slicing = None
        self.diagonal = None
        if self.largest_square is None or system.damping.needs:
            self.system, self.diagonal = system.with_diagonal()
            self.largest_square = float(self.diagonal.max(initial=0.0))
            if self.system is not system:  # scaled
                self.slicing = None
        else:
            self.system = system

    @property
    def norm(self):
        """||F||, from below."""
        if self._norm is None:
            known = 0.0 if self.diagonal is None else float(self.diagonal.max(initial=0.0))
            self._norm = max(known, power_norm(self.system))
        return self._norm

    def matrix(self, slices):
        """The rough matrix from so many slices, 0 for single precision."""
        if slices not in self._matrices:
            self._matrices.clear()  # one is in memory at a time
            self._matrices[slices] = rough_matrix(
                self.system, self.side, slices, self.slicing, self.largest_square
            )
        return self._matrices[slices]

    def model(self):
        """Sizes of errors before anything is formed."""
        slicing, s = self.slicing, self.system
        order, spread = (s.p, s.n) if self.side == "primal" else (s.n, s.p)
        noise = None if slicing is None else slicing.noise
        return Model(noise, order, spread, self.norm, self.diagonal)

    def rungs(self, added):
        """(slices, estimated error, steps allowed), the most promising first."""
        model, costs, found = self.model(), self.costs, []
        for slices in range((MOST_SLICES if self.slicing else 0) + 1):
            error = model.error(slices, added)
            steps = predicted_steps(error)
            seconds = costs.product(slices) + costs.factor + steps * costs.step
            found.append((seconds, slices, error, steps))
        found.sort()
        if self.picky:
            best = [rung for rung in found[:1] if rung[0] <= WORTH * costs.exact]
            return [(slices, error, min(2 * steps + 4, STEPS)) for _, slices, error, steps in best]
        tried = [(slices, error, STEPS) for seconds, slices, error, _ in found if seconds < np.inf]
        single = [(slices, error, STEPS) for _, slices, error, _ in found if slices == 0]
        best = tried[:1]
        if best and best[0][0]:  # one more slice where the first has no factor
            best += [rung for rung in tried[1:] if rung[0] == best[0][0] + 1][:1]
        return best + [rung for rung in single if rung not in best]

    def solve(self, b, coef, added=None):
        """The Outcome for the damping asked for, or for D = `added`; None as `mixed` says."""
        system = self.system
        if added is None:
            added = system.resolve_damping(self.diagonal)
        scalar = np.ndim(added) == 0
        if self.side == "dual" and not (scalar and added > 0):
            return None
        tried = set()
        f = None if coef is None else system.from_coefficients(coef)
        for slices, error, steps in self.rungs(added):
            if slices in tried:
                continue
            tried.add(slices)
            rough = self.matrix(slices).factored(added)
            if rough is None:
                continue
            if b is None:
                b = system.apply_adjoint(f)
                system.checked(b, "b = G'(w o coef)/sum(w)")
            outcome = self._outcome(rough, added, b, f, slices, error, steps)
            if outcome is not None:
                return outcome
        return None

    def _outcome(self, rough, added, b, f, slices, error, steps):
        system, dtype = self.system, self.system.dtype
        norm = self.norm + float(np.min(added, initial=math.inf) if np.ndim(added) else added)
        if not math.isfinite(norm):
            norm = self.norm
        cancellation = None
        if self.side == "primal":

            def fisher(rows):
                return system.apply_fisher(rows) + added * rows

            found = refined(fisher, rough.solve, b, norm, dtype, steps, rough.graded)
            if found.slow:
                return None
            x, certificate = found.x, _certificate(found.rest, found.x, b, norm)
        else:

            def gram(rows):
                return system.apply_rows(system.apply_adjoint(rows)) + added * rows

            right = system.apply_rows(b) if f is None else f
            found = refined(gram, rough.solve, right, norm, dtype, steps)
            if found.slow:
                return None
            y = found.x
            x = system.apply_adjoint(y)

            def through_rows(x, rest):  # as in the dual, on T x + lambda y = f
                nonlocal y
                step = rough.solve(f - system.apply_rows(x) - added * y)
                y = y + step
                return x + system.apply_adjoint(step)

            def woodbury(x, rest):
                inner = rough.solve(system.apply_rows(rest))
                return x + (rest - system.apply_adjoint(inner)) / added

            if f is None:
                x = (b - x) / added
                sizes = row_norms(x) * added
                growth = row_norms(b) / np.where(sizes > 0, sizes, np.inf)
                cancellation = unit_roundoff(dtype) * float(growth.max(initial=0.0))
            improve = woodbury if f is None else through_rows
            x, certificate, _ = refine(system, added, x, b, norm, improve, dtype, REACHED)
        status = direct_status(system, certificate)
        if status != "converged":
            return None
        return Outcome(
            system,
            x,
            certificate,
            status,
            added,
            iterations=found.steps,
            rung=f"{'int8' if slices else 'single'}+cg",
            cancellation=cancellation,
            rank=len(rough),
            slices=slices or None,
            rough_error=error if math.isfinite(error) else None,
        )


def _certificate(rest, x, b, norm):
    """The verdict on x whose residual rows were just recomputed."""
    sizes, given = row_norms(rest), row_norms(b)
    scale = norm * row_norms(x) + given
    return Certificate(
        rest,
        sizes / np.where(given > 0, given, 1.0),
        sizes / np.where(scale > 0, scale, 1.0),
    )
