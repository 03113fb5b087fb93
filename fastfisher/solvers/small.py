"""Few scores, few of them or of parameters: an uneventful direct solve in one compiled call.

Up to some hundred parameters (primal) or samples (dual) what lies around the arithmetic costs more
than it does, so this route goes straight from the system to the Solution. Whatever asks for a
second look is left to the general route, which also raises the errors. Complex systems are solved
as real ones of twice the size.
"""

from typing import NamedTuple

import numpy as np

from ..arrays import to_origin
from ..damping import Relative
from ..kernels.cpu.memory import aligned
from ..kernels.cpu.splitting import formed_apart
from ..kernels.reference import HEAD
from ..passes import sums_dtype
from ..planning import choose, current_options
from .certificate import REFINEMENTS, USELESS, Certificate, may_lose_digits
from .dual import FAINT
from .fine import REACHED
from .outcome import Outcome
from .ranges import in_range, number_range, real_bytes, unit_roundoff
from .solution import Solution

__all__ = ["in_stages", "small_outcome", "solve_small"]

_NONE = np.empty(0)
PARTS = 2  # real numbers of a complex one


class Found(NamedTuple):
    """x in double and what the kernel told of it."""

    x: np.ndarray
    residuals: np.ndarray
    backward_errors: np.ndarray
    added: float
    residual: float  # the largest,
    backward_error: float  # likewise
    facts: dict  # of an Outcome and of a Solution


def in_stages(damping):
    """True if solves with this damping, under the options in force, are never one compiled call."""
    scalar = not damping.needs or type(damping) is Relative
    # Without damping, singular matrices are told by more than a pivot.
    return damping.is_zero or not scalar or current_options().progress is not None


def solve_small(system, plan, b, coef, *, single):
    """The Solution for rows b (k, p) or coef (k, n), real if G is, of a small problem, or None."""
    ladder = current_options().ladder  # whether it is one, the general route knows
    found = _solved(system, plan.method, b, coef) if ladder is None else None
    if found is None:
        return None
    x = found.x.astype(system.dtype, copy=False)
    return Solution(
        x=to_origin(x[0] if single else np.ascontiguousarray(x.T), system.G.origin),
        status="converged",
        converged=True,
        residual=found.residual,
        backward_error=found.backward_error,
        iterations=0,
        method=plan.method,
        damping=found.added,
        plan=plan,
        statuses=("converged",) * len(x),
        residuals=found.residuals,
        **found.facts,
    )


def small_outcome(system, side, b, coef):
    """The same on the way of another route, as the Outcome of a primal or dual solve."""
    found = _solved(system, side, b, coef)
    if found is None:
        return None
    certificate = Certificate(None, found.residuals, found.backward_errors)
    return Outcome(system, found.x, certificate, "converged", found.added, **found.facts)


def _solved(system, side, b, coef):
    """What the kernel found, or None where something asks for a second look."""
    damping, dtype, mean, share, lam = system.damping, system.dtype, system.mean, 0.0, 0.0
    if in_stages(damping) or not (system.explicit and system.total):
        return None
    if damping.needs:
        share = damping.c
    else:
        lam = damping.resolve(None, None, system.p)
    primal, u, double = side == "primal", unit_roundoff(dtype), sums_dtype(dtype)
    given = _as(double, b, system.p), _as(double, coef, system.n)
    if coef is not None and mean is not None:
        with np.errstate(over="ignore", invalid="ignore"):  # the certificate tells
            given = given[0], system.centred(given[1])
    limits = () if primal else (REACHED * u, REFINEMENTS)
    k = max(map(len, given))
    weights = _NONE if system.weights is None else system.weights
    rows, shift, parts = system.G.rows(0, system.n), _NONE if mean is None else mean, 1
    unit, sums = 1.0, None  # of x, in what the kernel found
    if double.kind == "c":
        sums = _sums_as_real(rows, weights, shift, side)
        rows, weights, shift = _as_real(rows, weights, shift)
        given = [values.view(np.float64) for values in given]
        lam, parts, unit = lam / 2, 2, 1.0 if b is None else 0.5
    x, report = np.empty((k, rows.shape[1])), np.empty(HEAD + 2 * k)
    solve = choose(f"{side}_small", rows.shape[primal], rows.dtype).load()
    solve(x, report, rows, weights, shift, *given, lam, share, *limits, sums)
    largest, trace, added, order, least, most, *head = report[:HEAD].tolist()
    residual, backward_error, pivot, improved, growth = head
    least, most = unit * least, unit * most
    if order or not added or not in_range(largest, real_bytes(dtype)):
        return None
    if may_lose_digits(least, system.p, dtype) or not most <= number_range(dtype)[1]:
        return None
    if not (backward_error <= REACHED * u and residual < USELESS):
        return None
    facts = {"rung": "cholesky", "rank": system.p, "smallest_pivot": parts * pivot}
    if not primal:
        if b is None and added <= FAINT * trace:  # the null space of T' may drown the rest
            return None
        facts["rank"] = system.n
        facts["cancellation"] = None if b is None else u * growth
        facts["rung"] += "+refinement" * bool(improved)
    errors = report[HEAD::2], report[HEAD + 1 :: 2]
    x = x if unit == 1 else unit * x
    return Found(x.view(double), *errors, parts * added, residual, backward_error, facts)


def _as(double, rows, size):
    """Rows in double; none where there are none."""
    return np.empty((0, size), double) if rows is None else rows.astype(double, copy=False)


def _sums_as_real(rows, weights, shift, side):
    """Sums of products of `_as_real`, which are half as many in complex numbers; None of few, since
    those are formed sooner than another kernel is loaded."""
    by_rows = side == "primal"
    order, terms = rows.shape[by_rows], rows.shape[not by_rows]
    if not formed_apart(PARTS**2 * rows.size, PARTS * order):
        return None
    from ..kernels.cpu.rank_k import add_rank_k  # which brings the compiler along

    wide = sums_dtype(rows.dtype)
    if weights.size or shift.size:  # in double, as of real scores
        rows = rows.astype(wide, copy=False)
    none = np.empty(0, rows.dtype)
    scale = np.sqrt(weights) if by_rows and weights.size else none.real
    sums, rows = np.zeros((order, order), wide), np.ascontiguousarray(rows)
    add_rank_k(sums, rows, by_rows, 0, terms, scale, shift if shift.size else none)
    both = np.empty((order, PARTS, order, PARTS))
    both[:, 0, :, 0], both[:, 1, :, 1] = sums.real, sums.real
    both[:, 0, :, 1], both[:, 1, :, 0] = -sums.imag, sums.imag
    np.einsum("ijik->jki", both)[1, 0] = 0  # the diagonal is real
    return both.reshape(PARTS * order, PARTS * order)


def _as_real(rows, weights, shift):
    """Scores, weights and no shift of the same problem in real numbers, z as [[re, -im], [im, re]]:
    of F, and of b where it is made of coefficients, they make half, since every sample is two.
    docs/math.md D10."""
    n, p = rows.shape
    both, real = aligned((n, PARTS, p), rows.dtype), rows.real.dtype
    with np.errstate(over="ignore", invalid="ignore"):  # the certificate tells
        if shift.size:
            rows = np.subtract(rows, shift, out=both[:, 1])
        np.conjugate(rows, out=both[:, 0])
        np.multiply(both[:, 0], 1j, out=both[:, 1])
    return both.view(real).reshape(PARTS * n, PARTS * p), np.repeat(weights, PARTS), _NONE
