"""From a system and a plan to a Solution: picks the route, undoes scaling, dresses the result."""

import functools
from dataclasses import replace

import numpy as np

from ..arrays import all_finite, to_origin
from ..damping import Marquardt
from ..errors import InputError, NotPositiveDefiniteError
from ..passes import bad_rows
from ..planning import Problem, mixed_side, plan_problem
from .certificate import (
    Certificate,
    as_returned,
    direct_statuses,
    finite_statuses,
    paired,
    pairwise,
    with_lost_digits,
    worst,
)
from .cg import cg, default_rtol, reached
from .cutoffs import Cutoff
from .dual import dual
from .factored import rank_deficient
from .fine import right_side
from .ladder import current_ladder
from .outcome import Outcome
from .primal import primal
from .ranges import shifted
from .refine import MixedSolver
from .small import small_outcome, solve_small
from .solution import solution_of
from .spectral import spectral
from .system import made_smaller

__all__ = ["plan_system", "solve_system"]

SIDES = {"primal": primal, "dual": dual}  # the direct routes
TAME = 30  # right-hand sides between 2^-TAME and 2^TAME are taken as they are
LIFT = 900  # powers of two that right-hand sides are made larger by where x underflows


def plan_system(
    G,
    weights,
    center,
    rhs,
    method,
    *,
    undamped=False,
    spectral=False,
    kept=False,
    staged=False,
    dampings=1,
):
    """Plan for these scores, refused with MemoryLimitError if it does not fit.

    `undamped`: damping is 0 and the right-hand side is in the row space; `spectral`: eigenvalues
    are wanted; `kept`: most of the Gram matrix is there; `staged`: as `in_stages` says; `dampings`:
    how many are solved for.
    """
    n, p = G.shape
    rank = n if weights is None else int(np.count_nonzero(weights))
    problem = _problem(
        n,
        p,
        rhs,
        G.dtype,
        method,
        weights is not None,
        center,
        G.direct,
        G.stored != G.dtype,
        undamped and rank - bool(center) < p,
        spectral,
        kept,
        staged,
        dampings,
    )
    return plan_problem(problem, enforce=True)


@functools.lru_cache(maxsize=1024)
def _problem(
    n,
    p,
    rhs,
    dtype,
    method,
    weighted,
    centered,
    direct,
    halves,
    singular,
    spectral,
    kept,
    staged,
    dampings,
):  # kept, since a small solve takes little longer than describing it
    return Problem(
        n=n,
        p=p,
        rhs=rhs,
        dtype=dtype.name,
        method=method,
        weighted=weighted,
        centered=centered,
        direct=direct,
        halves=halves,
        singular=singular,
        spectral=spectral,
        kept=kept,
        staged=staged,
        dampings=dampings,
    )


def _split(rows, dtype):
    """Complex right-hand sides of a real system as twice as many real ones."""
    if rows is None or rows.dtype.kind != "c" or dtype.kind == "c":
        return rows, False
    return np.concatenate([rows.real, rows.imag]), True


def solve_system(system, plan, b, coef, *, single, **settings):
    """Solve for rows b (k, p) or coef (k, n); `single` asks for a vector instead of columns.

    `settings`: those of `_solve`.
    """
    split = system.dtype.kind != "c" and (b if coef is None else coef).dtype.kind == "c"
    if not split and plan.method in SIDES and plan.problem.small(plan.method):
        solution = solve_small(system, plan, b, coef, single=single)
        if solution is not None:
            return solution
    return _solve(system, plan, b, coef, single=single, **settings)


@np.errstate(over="ignore", invalid="ignore")  # the verdict tells what left the range
def _solve(system, plan, b, coef, *, single, x0=None, rough=None, **settings):
    """`solve_system` by the plan's route, step by step.

    `rough`: the `MixedSolver` of this system for any damping, where there is one already;
    `settings`: of cg.
    """
    (b, complex_b), (coef, complex_coef) = _split(b, system.dtype), _split(coef, system.dtype)
    # Sums, factors and recurrences are double; kernels cast what they read beside G.
    double = np.complex128 if system.dtype.kind == "c" else np.float64
    pairs = complex_b or complex_coef
    given, exponents = _normalised((b if coef is None else coef).astype(double), pairs)

    def attempt(given, exponents):
        b_, coef_ = (given, None) if coef is None else (None, given)
        start = None if x0 is None else _moved(x0, exponents)
        if system.propagate and _is_bad(system):
            return _not_finite(system, given)
        if plan.method == "cg":
            _refuse_rank_deficient(system, b_)
            return cg(system, b_, coef_, x0=start, **settings)
        if plan.method == "mixed":
            return _mixed(system, plan, b_, coef_, rough)
        return _direct(system, plan, plan.method, b_, coef_, split=complex_coef)

    outcome = attempt(given, exponents)
    if outcome.status not in ("converged", "not_finite"):
        faint = _largest(outcome.x, pairs) < np.finfo(double).smallest_normal
        faint &= given.any(axis=1)
        if faint.any():  # x underflows on the way: it is linear in what is given
            lifts = np.where(faint, LIFT, 0)
            exponents = (0 if exponents is None else exponents) - lifts
            outcome = attempt(_moved(given, -lifts), exponents)
    power = made_smaller(outcome.system, system, coef is not None)
    rows, outcome = _rounded(outcome, power, exponents, system.dtype, pairs)
    if pairs:
        half = len(rows) // 2
        rows = rows[:half] + 1j * rows[half:]
        rtol = settings.get("rtol") if plan.method == "cg" else None
        outcome = _paired(outcome, given, coef is not None, rtol)
    status = outcome.status if all_finite(rows) else "not_finite"
    return solution_of(
        outcome,
        x=to_origin(rows[0] if single else np.ascontiguousarray(rows.T), system.G.origin),
        plan=plan,
        status=status,
        damping=_reported(system, outcome),
        scale=outcome.system.G.scale / system.G.scale,
        **_each(outcome, rows, status),
    )


def _each(outcome, rows, status):
    """Status and residual of each right-hand side."""
    residuals = outcome.certificate.residuals
    if status == "converged":
        return {"statuses": (status,) * len(rows), "residuals": residuals}
    statuses = outcome.statuses or direct_statuses(outcome.system, outcome.certificate)
    return {"statuses": finite_statuses(statuses, rows), "residuals": residuals}


def _paired(outcome, given, from_coefficients, rtol):
    """The outcome of complex right-hand sides that were solved as twice as many real ones; `rtol`:
    of cg."""
    system, statuses = outcome.system, outcome.statuses
    if outcome.rung == "eigen":  # residuals are those of what the cutoff leaves of b
        errors = outcome.certificate.residuals, outcome.certificate.backward_errors
        certificate = Certificate(None, *(pairwise(values, np.maximum) for values in errors))
    else:
        b = right_side(system, given) if from_coefficients else given
        certificate = paired(outcome.certificate, b)
    if statuses:
        half = len(statuses) // 2
        statuses = map(worst, zip(statuses[:half], statuses[half:], strict=True))
        # One of the two may be of no account.
        there = _is_reached(outcome, certificate, rtol)
        named = zip(statuses, there, strict=True)
        statuses = tuple(
            "converged" if good and status not in ("underflow", "not_finite") else status
            for status, good in named
        )
    status = outcome.status
    if status != "converged":
        status = worst(statuses or direct_statuses(system, certificate))
    return replace(outcome, certificate=certificate, statuses=statuses, status=status)


def _is_reached(outcome, certificate, rtol):
    """For each right-hand side of this certificate: True if it is as good as its route promises."""
    errors, dtype = (certificate.residuals, certificate.backward_errors), outcome.system.dtype
    if outcome.rung == "cg":
        return reached(*errors, default_rtol(dtype) if rtol is None else rtol, dtype)
    found = direct_statuses(outcome.system, certificate)
    return np.array([status == "converged" for status in found])


def _rank_deficient(system, b):
    return b is not None and system.damping.is_zero and system.rank_bound < system.p


def _refuse_rank_deficient(system, b):
    if _rank_deficient(system, b):
        raise rank_deficient(system)


def _moved(rows, exponents):
    """Rows over powers of two, a new array."""
    return rows.copy() if exponents is None else shifted(rows, -exponents[:, np.newaxis])


def _mixed(system, plan, b, coef, rough):
    """In mixed precision or, where that does not reach what is promised, exactly."""
    side, outcome = mixed_side(plan.problem), None
    if not _rank_deficient(system, b):
        rough = rough or MixedSolver(system, plan.problem, side)
        outcome = rough.solve(b, coef, system.damping)
    return outcome or _direct(system, plan, side, b, coef)


def _direct(system, plan, side, b, coef, split=False):
    """Primal or dual; by eigenvalues where the damping is a cutoff, or the ladder allows one."""
    if isinstance(system.damping, Cutoff):
        if system.damping.per_sample and split:
            raise InputError(
                f"{system.damping} weighs samples one by one, and coef is complex while G is real; "
                "solve for coef.real and coef.imag"
            )
        return spectral(system, b, coef, side)
    ladder = current_ladder()
    try:
        if not (ladder and ladder.escalations):
            _refuse_rank_deficient(system, b)
        small = plan.problem.small(side) and small_outcome(system, side, b, coef)
        return small or SIDES[side if system.p else "primal"](system, b, coef)
    except NotPositiveDefiniteError:
        cutoff = ladder.cutoff if ladder else None
        if cutoff is None or (side == "dual" and system.damping.needs == "diagonal"):
            raise
    return spectral(system, b, coef, side, cutoff=cutoff)


def _largest(rows, pairs):
    """The largest magnitude in each row; or, of real and imaginary parts, of both."""
    largest = np.abs(rows).max(axis=1, initial=0.0)
    return np.tile(pairwise(largest, np.maximum), 2) if pairs else largest


def _normalised(rows, pairs):
    """Rows divided by powers of two so that none exceeds 1, and the exponents; tame rows as they
    are, and None."""
    largest = _largest(rows, pairs)
    if all(size == 0 or 2.0**-TAME < size < 2.0**TAME for size in largest.tolist()):
        return rows, None
    exponents = np.clip(np.frexp(largest)[1], -1000, 1000)
    return _moved(rows, exponents), exponents


def _is_bad(system):
    """True if scores, or their mean, are not finite."""
    mean = system.mean
    return bad_rows(system.G)[0].any() or not (mean is None or np.isfinite(mean).all())


def _not_finite(system, given):
    """What NaN in the scores gives where the caller wants it propagated."""
    x = np.full((len(given), system.p), np.nan, dtype=given.dtype)
    nan = np.full(len(given), np.nan)
    return Outcome(system, x, Certificate(x, nan, nan), "not_finite", np.nan, rung="none")


def _rounded(outcome, power, exponents, dtype, pairs):
    """x of the problem as given, in its dtype: without the powers of two on scores and right-hand
    sides. And the outcome as that x deserves it."""
    x, moved = outcome.x, 0
    if power or exponents is not None:
        moved = power + (0 if exponents is None else exponents[:, np.newaxis])
        x = shifted(x, moved)
    x = x.astype(dtype, copy=False)
    if x is outcome.x:
        return x, outcome
    added = 0.0 if outcome.rung == "eigen" else outcome.added
    found = as_returned(
        outcome.system, added, x, outcome.x, outcome.certificate, moved, pairs=pairs
    )
    return x, outcome if found is None else with_lost_digits(outcome, outcome.system, found)


def _reported(system, outcome):
    if isinstance(system.damping, Marquardt):
        return system.damping.c
    if not system.damping.needs and not outcome.escalation and outcome.rung != "eigen":
        return float(system.damping.resolve(None, None, system.p))
    s = outcome.system.G.scale / system.G.scale
    return float(outcome.added) / s / s
