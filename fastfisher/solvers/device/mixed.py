"""Mixed precision on a device: a rough matrix from products of bytes, its factor in single
precision, conjugate gradients in double on the true residual. Twin of `solvers.refine`.

The host looks at the sizes of the scores (a number for each parameter or sample) to choose how many
slices to take, at the status of the factor, at the recurrence every few iterations, and at the
report. There is no product in single precision and no `Probe`: where slices do not promise to do,
the exact route follows.
"""

import math
from functools import partial

import numpy as np

from ...devices import passes
from ...devices.door import none
from ...devices.passes import load
from ...kernels.cuda import compat, memory, ranges, single, squares, sums, vectors
from ...kernels.cuda.vectors import ADDED, LARGEST, NORM, TRACE
from ...kernels.slicing import FORMS, full_units
from ...planning import NORM_STEPS, device_mixed_costs, mixed_side
from ..certificate import REFINEMENTS, direct_status
from ..fine import REACHED
from ..outcome import Outcome
from ..ranges import in_range
from ..refine import IMPROVED, STEPS
from ..rough import GRADED, Model, noise_of, predicted_steps
from .direct import GIVEN, SOLUTION, certificate_of, certify
from .matrix import resolved
from .steps import Steps

__all__ = ["mixed"]

BYTES = [form for form in FORMS if form.kind == "bytes"]


def mixed(system, report, b, coef, finish, *, problem):
    """The Outcome for rows b (k, p), or b = G'(w o coef)/W with rows coef (k, n).

    None where it does not reach what a direct route promises; the rough matrix is then gone.
    """
    side = mixed_side(problem)
    if side == "dual" and system.damping.needs == "diagonal":
        return None
    rough = _Rough.seen(system, report, side)
    if rough is None:
        return None
    f = None if coef is None else system.from_coefficients(coef)
    if b is None:
        b = system.apply_adjoint(f)
    for form in rough.chosen(device_mixed_costs(problem, side)):
        factor = rough.factored(form)
        if factor is None:
            continue
        if side == "primal":
            found = _primal(rough, factor, b, finish)
        else:
            found = _dual(rough, factor, b, f, finish)
        del factor
        if found is None:
            continue
        x, certificate, iterations, cancellation, error = found
        status = direct_status(system, certificate)
        if status == "converged":
            return Outcome(
                system,
                x,
                certificate,
                status,
                float(report.host[ADDED]),
                iterations=iterations,
                rung=f"{form.name}+cg",
                cancellation=cancellation,
                rank=rough.order,
                slices=form.slices,
                rough_error=error,
            )
    return None


class _Rough:
    """What is known of F (or K) before it is formed, and the rough matrices of it.

    F ~ diag(outer) c diag(outer) with c from slices in these units; `scales`, powers of two, bring
    the diagonal of F + D near 1. These three lie on the host, all else on the device.
    """

    def __init__(self, system, report, side, added, peaks, diagonal, ratio):
        self.system, self.report, self.primal = system, report, side == "primal"
        self.order, self.spread = (system.p, system.n) if self.primal else (system.n, system.p)
        self.added, host = added, report.host
        self.units = full_units(peaks, system.dtype)
        roots = math.sqrt(system.inverse_total)
        if not self.primal and system.roots is not None:
            roots = memory.to_host(system.roots)
        self.outer = roots / self.units
        self.damping = float(host[ADDED])
        if self.primal:
            sizes = diagonal + (self.damping + ratio * diagonal)
            self.damping += ratio * diagonal if ratio else 0.0
        else:  # of K no diagonal is known: each element is between these and `spread` times them
            sizes = np.square(peaks * roots) + self.damping
        exponents = np.frexp(np.where(sizes > 0, sizes, 1.0))[1]
        self.scales = np.ldexp(1.0, -(exponents // 2))
        self.graded = self.primal and self.scales.max() > GRADED * self.scales.min()
        norm, least = float(host[NORM]), float(np.min(self.damping))
        self.norm = max(norm, float(host[LARGEST])) + least  # of F + D, from below
        noise = noise_of(peaks, self.outer, self.spread)
        above = min(2 * norm, float(host[TRACE]))
        self.model = Model(noise, self.order, self.spread, above, diagonal)

    @classmethod
    def seen(cls, system, report, side):
        """Look at all scores; None where they are not finite, or their squares leave the range."""
        primal, p = side == "primal", system.p
        peaks = memory.zeros((p if primal else system.n,), np.float64)
        scale = system.roots if primal else None
        passes.add_peaks(peaks, system.G, by_rows=primal, scale=scale, shift=system.mean)
        diagonal = system.diagonal()
        added, ratio = resolved(report, diagonal, system.damping, p)
        _queue_norm(system, report, diagonal)
        host, peaks = report.read(), memory.to_host(peaks)
        if not (np.isfinite(host[[TRACE, NORM, ADDED]]).all() and np.isfinite(peaks).all()):
            return None
        if not in_range(float(host[LARGEST]), system.dtype.itemsize):
            return None
        known = memory.to_host(diagonal) if primal else None
        if not primal:
            added = compat.empty((system.n,), np.float64)
            vectors.spread(added, report.device, 0.0)
        with np.errstate(all="ignore"):
            return cls(system, report, side, added, peaks, known, ratio)

    def chosen(self, costs):
        """The forms to be tried: the cheapest, then one more slice where it has no factor, or takes
        too many steps."""
        found = []
        with np.errstate(all="ignore"):
            for form in BYTES:
                error = float(self.model.error(form, self.damping))
                steps = predicted_steps(error, self.system.dtype)
                if steps <= STEPS:
                    found.append((costs.product(form) + steps * costs.step, form))
        if not found:
            return []
        first = min(found)[1].slices
        return [form for _, form in found if 0 <= form.slices - first <= 1]

    def factored(self, form):
        """The factor of the rough matrix + D, or None where single precision has none."""
        order, system = self.order, self.system
        c = memory.zeros((order, order), np.float64)
        by = self.outer * self.scales
        host = np.stack([self.units, by, np.square(by), self.scales, np.square(self.scales)])
        rows = memory.to_device(host)  # one wait
        units, by, squared, scales, scales_squared = (rows[i] for i in range(5))
        how = units, form.slices, form.levels
        if self.primal:
            passes.add_sliced_syrk(c, system.G, *how, scale=system.roots, shift=system.mean)
        else:
            passes.add_sliced_gram(c, system.G, *how, shift=system.mean)
        L = compat.empty((order, order), np.float32)
        load("narrow", order)(L, c, by)
        diagonal, added = (compat.empty((1, order), np.float64) for _ in range(2))
        squares.diagonal_of(diagonal.reshape(order), c)
        vectors.times(diagonal, diagonal, squared)
        vectors.times(added, self.added.reshape(1, order), scales_squared)
        squares.add_to_diagonal(L, diagonal.reshape(order), added.reshape(order))
        info = load("cholesky", order, np.float32)(L)
        return None if memory.to_host(info)[0] else _Factor(L, scales)


class _Factor:
    """L L' = S (A + D) S nearly, in single precision, S = diag(scales)."""

    def __init__(self, L, scales):
        self.L, self.scales = L, scales

    def preconditioner(self, b, *, scaled=False):
        """(A + D)^-1, nearly, for residuals of rows b; that of S (A + D) S if `scaled`."""
        k, order = b.shape
        scales = none(np.float64) if scaled else self.scales
        seen, half = (compat.empty((k, order), dtype) for dtype in (np.float64, np.float32))
        sizes, by = (compat.empty((k,), np.float64) for _ in range(2))
        vectors.times(seen, b, scales)
        sums.largest(sizes, seen)
        ranges.exponents(by, sizes)

        def precondition(rows):
            out = compat.empty((k, order), np.float64)
            single.to_single(half, rows, scales, by)
            load("solve_lower", order, np.float32)(self.L, half)
            load("solve_lower_adjoint", order, np.float32)(self.L, half)
            single.from_single(out, half, scales, by)
            return out

        return precondition


def _queue_norm(system, report, start):
    """Queue a norm of F, from below, by a few products with it."""
    p, size, best = system.p, compat.empty((1,), np.float64), none(np.float64)
    x, y = compat.empty((1, p), np.float64), start.reshape(1, p)
    for _ in range(NORM_STEPS + 1):
        sums.norms(size, y)
        vectors.normalise(x, y, size, best)
        if best.size == 0:
            best = report.place(NORM)
        y = system.raw_fisher(x)
        vectors.times(y, y, none(np.float64), system.inverse_total)
    sums.norms(size, y)
    vectors.normalise(x, y, size, best)


class _Scaled:
    """S F S as the operator of a recurrence."""

    inverse_total = 1.0

    def __init__(self, system, scales):
        self._system, self._scales = system, scales
        self.dtype, self.roundoff = system.dtype, system.roundoff

    def scaled(self, rows, by=1.0):
        out = compat.empty(tuple(rows.shape), np.float64)
        vectors.times(out, rows, self._scales, by)
        return out

    def raw_fisher(self, v):
        y = self._system.raw_fisher(self.scaled(v))
        return self.scaled(y, self._system.inverse_total)


class _Gram:
    """K = T T' as the operator of a recurrence."""

    inverse_total = 1.0

    def __init__(self, system):
        self._system, self.dtype, self.roundoff = system, system.dtype, system.roundoff

    def raw_fisher(self, v):
        return self._system.apply_rows(self._system.apply_adjoint(v))


def _certified(rough, added, x, b):
    certify(rough.system, rough.report, added, x, b)
    rough.report.read()
    return certificate_of(rough.report, rough.norm)


def _primal(rough, factor, b, finish):
    """x, its certificate, steps, no cancellation, and the error of the rough matrix as they saw it;
    None where conjugate gradients are slow.

    Where columns differ much the scaled system is solved: else the residual of small ones is lost
    beside that of large ones.
    """
    system, added = rough.system, rough.added
    if rough.graded:
        scaled = _Scaled(system, factor.scales)
        d = scaled.scaled(scaled.scaled(added.reshape(1, rough.order))).reshape(rough.order)
        given = scaled.scaled(b)
        run = Steps(scaled, d, given, partial(factor.preconditioner, scaled=True), 1.0)
    else:
        run = Steps(system, added, b, factor.preconditioner, rough.norm)
    found = run.run()
    if found is None:
        return None
    x, steps, error = found
    if rough.graded:
        x = scaled.scaled(x)
    finish(x)
    return x, _certified(rough, added, x, b), steps, None, error


class _Pair:
    """x and y of `solvers.dual.Pair` (docs/math.md D9): the residual of y, and x after a step."""

    def __init__(self, rough, b, f):
        self.system, self.report, self.along, self.f = rough.system, rough.report, rough.added, f
        self.fresh, k = True, b.shape[0]
        self.y, self.sum = (memory.zeros((k, m), np.float64) for m in (rough.order, b.shape[1]))
        if f is None:
            memory.copy(self.sum, b)

    def rest(self):
        """f - T x - lambda y; its negative, in units of lambda, where b is not T'f."""
        if self.f is not None and self.fresh:
            return self.f
        t = self.system.apply_rows(self.sum)
        given = none(np.float64, 2) if self.f is None else self.f
        vectors.combine(t, given, t, 1.0, self.along, self.y)
        return t

    def moved(self, step):
        """x after this step."""
        self.fresh, by = False, 1.0 if self.f is None else -1.0
        for rows, change in ((self.y, step), (self.sum, self.system.apply_adjoint(step))):
            vectors.combine(rows, rows, change, by, none(np.float64), none(np.float64, 2))
        x = compat.empty(tuple(self.sum.shape), np.float64)
        if self.f is None:
            nothing = memory.zeros(tuple(x.shape), np.float64)
            vectors.woodbury(x, self.sum, nothing, self.report.device, 0.0)
        else:
            memory.copy(x, self.sum)
        return x


def _dual(rough, factor, b, f, finish):
    """The same through K, for any b (f None) or b = T'f."""
    system, report = rough.system, rough.report
    operator, pair = _Gram(system), _Pair(rough, b, f)
    added = compat.empty((system.p,), np.float64)
    vectors.spread(added, report.device, 0.0)

    def solved(rest, share=0.0):
        args = operator, rough.added, rest, factor.preconditioner
        return Steps(*args, rough.norm, share).run()

    first = solved(pair.rest())
    if first is None:
        return None
    step, steps, error = first
    x = pair.moved(step)
    finish(x)
    certificate = _certified(rough, added, x, b)
    for _ in range(REFINEMENTS):
        if certificate.backward_error <= REACHED * system.roundoff:
            break
        more = solved(pair.rest(), IMPROVED)
        if more is None:
            break
        better = pair.moved(more[0])
        again = _certified(rough, added, better, b)
        if not again.backward_error < certificate.backward_error:
            break
        x, certificate, steps = better, again, steps + more[1]
        finish(x)
        report.read()
    if f is not None:
        return x, certificate, steps, None, error
    sizes = report.values(SOLUTION) * float(report.host[ADDED])
    growth = report.values(GIVEN) / np.where(sizes > 0, sizes, np.inf)
    return x, certificate, steps, system.roundoff * float(growth.max(initial=0.0)), error
