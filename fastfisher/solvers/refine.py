"""Mixed precision: a rough matrix and its single-precision factor, the solution in that of G.

The factor preconditions conjugate gradients on the true residual, which refine where plain
refinement does and also where it diverges; docs/math.md X1-X5.
"""

import math
from dataclasses import replace

import numpy as np

from ..errors import InputError
from ..kernels.cpu.splitting import SLICED_ORDER, one_pass
from ..kernels.slicing import FORMS, KINDS, SINGLE, full_units
from ..planning import mixed_costs
from .certificate import certificate_of, direct_status, refine
from .dual import INSIDE, Pair
from .fine import GATE, careful, certified, right_side
from .outcome import Outcome
from .pcg import FLOOR, Rounding, refined
from .probe import BLOCK, PART, TERMS, Probe
from .ranges import in_range, real_bytes, unit_roundoff
from .rough import (
    Model,
    Slicing,
    long_direction,
    noise_of,
    power_norm,
    predicted_steps,
    rough_matrix,
)

__all__ = ["MixedSolver"]

STEPS = 40  # iterations after which the exact route is the better choice
ASIDE = 6  # rows of a product with x beside its directions: as few as our own kernels serve
IMPROVED = 1e-3  # of the residual of a dual that a correction of x leaves
WORTH = 0.8  # of the exact route's time that an unasked try may be expected to take


def tried_unit(kind):
    """What multiplies slices of a kind here, once all its gates are passed; it brings the compiler
    along."""
    from ..kernels.cpu.units import unit

    return unit(kind)


class MixedSolver:
    """Rough matrices of one system, for all dampings of the problem: formed when first wanted.

    `given` is the system as it came; its damping matters only where it needs the diagonal of F.
    """

    def __init__(self, system, problem, side):
        self.side, self.given, self.problem = side, system, problem
        self.picky = problem.method == "auto"
        order = system.p if side == "primal" else system.n
        large = system.dtype.kind != "c" and order >= SLICED_ORDER
        units = {kind: tried_unit(kind) if large else "plain" for kind in KINDS}
        self.forms = [form for form in FORMS if units[form.kind] != "plain"]
        self.costs = mixed_costs(problem, side, units)
        self._matrices, self._norm, self._probe = {}, None, None
        self._doubted = False  # what half of F promised, and a rung rests on
        self._left = problem.dampings  # that are still to be solved for
        self.system = self.slicing = self.diagonal = self.largest_square = None

    def prepare(self):
        """Look at all scores once: units of the slices, or the diagonal; rescale if need be."""
        if self.system is not None:
            return
        system = self.given
        if self.forms:
            self.slicing = Slicing(system, self.side)
            system.checked(self.slicing.peaks, "G")
            with np.errstate(over="ignore"):
                largest = float(np.square(np.max(self.slicing.peaks, initial=0.0)))
            if in_range(largest, system.dtype.itemsize):
                self.largest_square = largest
            else:
                self.slicing = None
        if self.largest_square is None or system.damping.needs:
            system, self.diagonal = system.with_diagonal()
            self.largest_square = float(self.diagonal.max(initial=0.0))
            if system is not self.given:  # scaled
                self.slicing = None
        self.system = system

    @property
    def probe(self):
        """What a sample tells; made when first asked for."""
        if self._probe is None:
            self._probe = Probe(self.given, self.side)
        return self._probe

    @property
    def norm(self):
        """||F||, from below."""
        if self._norm is None:
            self._norm = max(self._largest, power_norm(self.system))
        return self._norm

    @property
    def _largest(self):
        """The largest entry of the diagonal of F, where that is known."""
        return 0.0 if self.diagonal is None else float(self.diagonal.max(initial=0.0))

    def apply_fisher(self, rows):
        """F rows, after which the norm is known: the direction that tells it goes along with a
        single row, so that scores are read once for both."""
        if self._norm is None:
            v = long_direction(self.system) if len(rows) == 1 else None
            if v is not None:
                rows, stretched = np.split(self.system.apply_fisher(np.concatenate([rows, v])), 2)
                self._norm = max(self._largest, float(np.linalg.norm(stretched)))
                return rows
            self._norm = self.norm  # a product of its own
        return self.system.apply_fisher(rows)

    def bound(self, added, *, at_hand=False):
        """||F + D||, from below; `at_hand`: 0 rather than a product with the scores."""
        if at_hand and self._norm is None:
            return 0.0
        norm = self.norm + float(np.min(added, initial=math.inf) if np.ndim(added) else added)
        return norm if math.isfinite(norm) else self.norm

    def matrix(self, form):
        """The rough matrix of this form."""
        found = self._matrices.get(form)
        if found is None:
            self._matrices.clear()  # one is in memory at a time
            found = rough_matrix(self.system, self.side, form, self.slicing, self.largest_square)
            self._matrices[form] = found
        if self._left == 1:
            found.last = True
            self._matrices.clear()
        return found

    def model(self):
        """Sizes of errors before anything is formed."""
        order, spread = self._lengths()
        if self.slicing is None:
            return Model(None, order, spread, self.norm, self.diagonal)
        trace = self.probe.trace
        noise, mean = self.slicing.noise, trace / max(order, 1)
        return Model(noise, order, spread, trace, self.diagonal, squares=mean)

    def _lengths(self):
        s = self.given
        return (s.p, s.n) if self.side == "primal" else (s.n, s.p)

    @np.errstate(all="ignore")  # what leaves the range is not promising
    def promising(self, damping):
        """False where a sample says that the exact route will do: scores are not read for it."""
        probe, (order, spread) = self.probe, self._lengths()
        added = damping.resolve(probe.trace, probe.diagonal, self.given.p)
        noise = noise_of(probe.peaks, 1 / full_units(probe.peaks), spread)
        known = probe.diagonal
        model = Model(noise, order, spread, probe.trace, known, squares=known)
        if self._crudest(self.rungs(model, added)):
            return True
        model = self._beside(replace(model, noise=noise * probe.growth))
        return bool(self.rungs(model, added))

    def _beside(self, model):
        """The model that also knows, of what the probe has seen, how much F has in itself."""
        probe = self.probe
        floor, norm = probe.kept * probe.diagonal, min(model.norm, probe.norm)
        return replace(model, floor=floor, norm=norm, squares=probe.diagonal)

    def rungs(self, model, added):
        """Forms to be tried, the most promising first."""
        costs, found = self.costs, []
        for form in (SINGLE, *self.forms):
            steps = predicted_steps(model.error(form, added), self.given.dtype)
            product = 0.0 if form in self._matrices else costs.product(form)
            seconds = product + self._left * (costs.factor + steps * costs.step)
            found.append((seconds if steps <= STEPS else math.inf, form))
        found.sort(key=lambda rung: rung[0])
        if self.picky:  # single precision alone is a draw at best
            most = WORTH * costs.exact * self._left / self.problem.dampings
            found = [rung for rung in found if rung[1] is not SINGLE and rung[0] <= most]
            return [form for _, form in found[:1]]
        tried = [form for seconds, form in found if seconds < math.inf]
        best = tried[:1]
        if best and best[0] is not SINGLE:  # one more slice where the first has no factor
            name, slices = best[0]
            best += [form for form in tried[1:] if form == (name, slices + 1)]
        return best + [SINGLE] * (SINGLE not in best)

    def _crudest(self, rungs):
        """True if the crudest form there is comes first: it is as suitable as any."""
        return bool(rungs) and rungs[0] in self.forms[:1]

    def chosen(self, added):
        """The forms to be tried, as `rungs`, by what is known of the scores."""
        model = self.model()
        rungs = self.rungs(model, added)
        if self.slicing is not None and not self._crudest(rungs):
            diagonal = None if model.diagonal is None else _seen(model.diagonal)
            model = self._beside(replace(model, noise=_seen(model.noise), diagonal=diagonal))
            added = _seen(added)
            rungs = self.rungs(model, added)
            self._doubted = self.picky
        return rungs

    def _factored(self, form, added):
        """The factor of the rough matrix, or None where single precision has none or, unasked, F
        has less in itself than half of it promised: that shows in a matrix of few terms."""
        order, spread = self._lengths()
        doubted, self._doubted = self._doubted and form is not SINGLE, False
        if doubted and form not in self._matrices:
            terms = min(-(-int(TERMS * order) // BLOCK) * BLOCK, spread)
            if self.costs.product(form) * (1 - terms / spread) > self.costs.factor:
                early = self.slicing.begun(form, terms).factored(added)
                if early is None or not self.probe.holds(early.least(terms)):
                    return None
                early, doubted = None, False
        found = self.matrix(form).factored(added)
        if doubted and found is not None and not self.probe.holds(found.least(spread)):
            return None
        return found

    def solve(self, b, coef, damping):
        """The Outcome for rows b (k, p) or coef (k, n).

        None where it does not reach what a direct route promises: single precision cannot hold the
        damping, the dual was asked for a diagonal D or for no damping, or (where nobody asked for
        it by name) the exact route promises to be as fast. The memory of the rough matrix is then
        free for that.
        """
        outcome = self._tried(b, coef, damping)
        self._left = max(self._left - 1, 1)
        if outcome is None:
            self._matrices.clear()
            if self.slicing is not None:
                self.slicing.forget()
        return outcome

    def _tried(self, b, coef, damping):
        if self.side == "dual" and damping.needs == "diagonal":
            return None
        if self.picky and not self.promising(damping):
            return None
        self.prepare()
        scale = self.system.G.scale / self.given.G.scale
        try:
            damping = damping if scale == 1 else damping.scaled(scale)
            system = replace(self.system, damping=damping)
        except InputError:  # lambda overflows: F is negligible beside it
            return None
        added = system.resolve_damping(self.diagonal)
        scalar = np.ndim(added) == 0
        if self.side == "dual" and not (scalar and added > 0):
            return None
        f = None if coef is None else system.from_coefficients(coef)
        for form in self.chosen(added):
            rough = self._factored(form, added)
            if rough is None:
                continue
            if b is None:
                b = right_side(system, coef)
                system.checked(b, "b = G'(w o coef)/sum(w)")
            outcome = self._outcome(rough, added, b, f, form)
            if outcome is not None:
                return outcome
            rough = None  # before the next one is made
        return None

    def _outcome(self, rough, added, b, f, form):
        system = self.system
        if self.side == "primal":
            found = _primal(self, rough, added, b)
        else:
            found = _dual(system, rough, added, b, f, self.bound(added))
        if found is None:
            return None
        x, certificate, iterations, cancellation, error = found
        status = direct_status(system, certificate)
        gate = GATE * unit_roundoff(system.dtype)
        if status != "converged" or certificate.backward_error > gate:
            return None
        return Outcome(
            system,
            x,
            certificate,
            status,
            added,
            iterations=iterations,
            rung=f"{form.name}+cg",
            cancellation=cancellation,
            rank=len(rough),
            slices=form.slices or None,
            rough_error=error,
        )


def _seen(values):
    """What a probe sees of one number per row."""
    return values[::PART] if np.ndim(values) else values


def _primal(solver, rough, added, b):
    """x, its certificate, steps, no cancellation, and the error of the rough matrix as they saw it;
    None where conjugate gradients are slow."""
    system = solver.system

    def operator(rows):
        return solver.apply_fisher(rows) + added * rows

    def bound():  # at first x is 0, and no norm is needed
        return solver.bound(added, at_hand=True)

    # Two of long rows are two passes where one is a single one.
    parts, size = 1 + (system.dtype.kind == "c"), real_bytes(system.dtype)
    aside = ASIDE if one_pass(parts * system.p, size, parts * ASIDE) else 0
    rule = Rounding(b, bound, system.dtype, rough.graded)
    found = refined(operator, rough.solve, b, rule, system.dtype, STEPS, aside)
    if found.slow:
        return None
    norm = solver.bound(added)
    steps, certificate = found.steps, certificate_of(found.rest, found.x, b, norm)
    seen = careful(system, added, found.x, b, norm, certificate)
    if seen is system:
        return found.x, certificate, steps, None, found.error

    def improve(x, rest):
        nonlocal steps
        rule = Rounding(rest, norm, system.dtype, share=IMPROVED)
        more = refined(operator, rough.solve, rest, rule, system.dtype, STEPS)
        steps += more.steps
        return x + more.x

    x, certificate, _ = refine(seen, added, found.x, b, norm, improve, system.dtype, FLOOR)
    return x, certificate, steps, None, found.error


def _dual(system, rough, added, b, f, norm):
    """The same through the pair of docs/math.md D9, for any b (f None) or b = T'f."""
    dtype = system.dtype

    def operator(rows):
        return system.apply_rows(system.apply_adjoint(rows)) + added * rows

    def solved(rest, share=None):
        rule = Rounding(rest, norm, dtype, share=share)
        return refined(operator, rough.solve, rest, rule, dtype, STEPS, ASIDE)

    pair = Pair(system, added, b, f)
    first = solved(pair.rest())
    if first.slow:
        return None
    steps, error = first.steps, first.error

    def improve(x, _):
        nonlocal steps
        more = solved(pair.rest(), IMPROVED)
        steps += more.steps
        return pair.moved(more.x)

    def correct(x, rest):  # of which the pair knows nothing: its products round as they do
        nonlocal steps
        beside = Pair(system, added, rest, None)
        more = solved(beside.rest(), IMPROVED)
        steps += more.steps
        if f is None or added >= INSIDE * norm:
            return x + beside.moved(more.x)
        again = solved(-more.x, IMPROVED)
        steps += again.steps
        return x + system.apply_adjoint(again.x)

    x = pair.moved(first.x)
    x, certificate, _ = certified(system, added, x, b, norm, improve, correct)
    return x, certificate, steps, pair.cancellation(b) if f is None else None, error
