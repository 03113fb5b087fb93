"""Few scores and parameters: an uneventful primal solve in one compiled call.

Up to a hundred parameters or so what lies around the arithmetic costs more than it does, so this
route goes straight from the system to the Solution. Whatever asks for a second look is left to the
general route, which also raises the errors.
"""

import numpy as np

from ..arrays import all_finite, to_origin
from ..damping import Relative
from ..kernels.reference import HEAD
from ..planning import choose, current_options
from .certificate import USELESS, Certificate, may_lose_digits
from .fine import REACHED, right_side
from .outcome import Outcome
from .ranges import in_range, number_range, unit_roundoff
from .solution import Solution

__all__ = ["small_outcome", "solve_small"]

_NONE = np.empty(0)


def solve_small(system, plan, b, coef, *, single):
    """The Solution for real rows b (k, p) or coef (k, n) of a small problem, or None."""
    ladder = current_options().ladder  # whether it is one, the general route knows
    found = _solved(system, b, coef) if ladder is None else None
    if found is None:
        return None
    x, report, added, residual, backward_error, pivot = found
    x = x.astype(system.dtype, copy=False)
    return Solution(
        x=to_origin(x[0] if single else np.ascontiguousarray(x.T), system.G.origin),
        status="converged",
        converged=True,
        residual=residual,
        backward_error=backward_error,
        iterations=0,
        method="primal",
        damping=added,
        rung="cholesky",
        plan=plan,
        rank=system.p,
        smallest_pivot=pivot,
        statuses=("converged",) * len(x),
        residuals=report[HEAD::2],
    )


def small_outcome(system, b, coef):
    """The same on the way of another route, as the Outcome of a primal solve."""
    found = _solved(system, b, coef)
    if found is None:
        return None
    x, report, added, *_, pivot = found
    certificate = Certificate(None, report[HEAD::2], report[HEAD + 1 :: 2])
    facts = {"rank": system.p, "smallest_pivot": pivot}
    return Outcome(system, x, certificate, "converged", added, **facts)


def _solved(system, b, coef):
    """x in double, the kernel's report, and of it the damping added, the largest residual and
    backward error, the smallest pivot; None where something asks for a second look."""
    damping, dtype, mean, share, lam = system.damping, system.dtype, system.mean, 0.0, 0.0
    if not damping.needs:
        lam = damping.resolve(None, None, system.p)
    elif type(damping) is Relative:
        share = damping.c
    else:
        return None
    if not system.total or current_options().progress is not None:
        return None
    rows = system.G.rows(0, system.n)
    weights = _NONE if system.weights is None else system.weights
    if b is None:
        with np.errstate(over="ignore", invalid="ignore"):
            b = right_side(system, coef)
        if not all_finite(b):
            return None
    b = b.astype(np.float64, copy=False)
    x, report = np.empty(b.shape), np.empty(HEAD + 2 * len(b))
    solve = choose("primal_small", system.p, dtype).load()
    solve(x, report, rows, weights, _NONE if mean is None else mean, b, lam, share)
    largest, _, added, order, least, most, residual, backward_error, pivot = report[:HEAD].tolist()
    if order or not added or not in_range(largest, dtype.itemsize):
        return None
    if may_lose_digits(least, system.p, dtype) or not most <= number_range(dtype)[1]:
        return None
    if not (backward_error <= REACHED * unit_roundoff(dtype) and residual < USELESS):
        return None
    return x, report, added, residual, backward_error, pivot
