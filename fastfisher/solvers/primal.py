"""Primal route: F (p x p) -> damp -> Cholesky -> solve. For p up to the number of samples."""

import numpy as np

from ..damping import Relative
from ..passes import sums_dtype
from ..planning import choose, current_options
from .certificate import Certificate, certify, direct_status
from .ladder import climb
from .outcome import Outcome
from .system import in_range

__all__ = ["primal"]


def fisher_lower(system):
    """Lower triangle of F, (p, p) double, and the system it belongs to (rescaled if need be)."""
    for attempt in (0, 1):
        if system.kept_fisher and system.G.scale == 1:
            F = system.kept_fisher(system)
        else:
            F = np.zeros((system.p, system.p), sums_dtype(system.dtype))
            system.add_syrk(F)
        diagonal = F.diagonal().real
        if attempt == 0 and system.p and system.total:
            scaled = system.ranged(diagonal / system.total)
            if scaled is not system:
                del F, diagonal
                system = scaled
                continue
        break
    system.checked(diagonal, "F")
    if system.total:
        F /= system.total
    return F, system


def _small(system, b, coef):
    """The outcome of an uneventful small problem; None where the general route must look at it."""
    damping = system.damping
    if (
        not system.total
        or (damping.needs and type(damping) is not Relative)
        or current_options().progress is not None
    ):
        return None
    rows = system.G.rows(0, system.n)
    weights = np.empty(0) if system.weights is None else system.weights
    if b is None:
        b = (coef * system.root_weights**2) @ rows.astype(np.float64, copy=False)
    share = damping.c if damping.needs else 0.0
    lam = 0.0 if damping.needs else damping.resolve(None, None, system.p)
    x, report = np.empty(b.shape), np.empty(4 + 2 * len(b))
    choose("primal_small", system.p, system.dtype).load()(x, report, rows, weights, b, lam, share)
    largest, _, added, order = report[:4].tolist()
    if order or not added or not in_range(largest, system.dtype.itemsize):
        return None
    certificate = Certificate(None, report[4::2], report[5::2])
    status = direct_status(system, certificate)
    if status != "converged":
        return None
    return Outcome(system, x, certificate, status, added, rank=system.p)


def primal(system, b, coef, *, small=False):
    """Solve for rows b (k, p), or for b = G'(w o coef)/W with rows coef (k, n).

    `small`: the plan's problem is; one compiled call may do.
    """
    outcome = _small(system, b, coef) if small else None
    if outcome is not None:
        return outcome
    F, system = fisher_lower(system)
    if b is None:
        b = system.apply_adjoint(system.from_coefficients(coef))
        system.checked(b, "b = G'(w o coef)/sum(w)")
    diagonal = F.diagonal().real.copy()
    added = system.resolve_damping(diagonal)
    factor = climb(
        F,
        added,
        trace=diagonal.sum(),
        what="F + damping",
        rows=system.row_blocks,
        dtype=system.dtype,
    )
    added, x = factor.added, factor.solve(b)
    certificate = certify(system, added, x, b, factor.norm)
    status = direct_status(system, certificate)
    return Outcome(system, x, certificate, status, added, **factor.facts)
