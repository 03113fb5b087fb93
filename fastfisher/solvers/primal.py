"""Primal route: F (p x p) -> damp -> Cholesky -> solve. For p up to the number of samples."""

import numpy as np

from ..kernels.cpu.memory import SMALL, forget
from ..passes import sums_dtype
from .certificate import direct_status
from .fine import certified, right_side
from .ladder import climb
from .outcome import Outcome

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
    forget(SMALL)  # what follows is planned without the scratch of the product
    system.checked(diagonal, "F")
    if system.total:
        F /= system.total
    return F, system


def primal(system, b, coef):
    """Solve for rows b (k, p), or for b = G'(w o coef)/W with rows coef (k, n)."""
    F, system = fisher_lower(system)
    if b is None:
        b = right_side(system, coef)
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
        scale=system.G.scale,
    )
    added, facts = factor.added, factor.facts

    def improve(x, rest):
        return x + factor.solve(rest)

    x, certificate, improved = certified(
        system, added, factor.solve(b), b, factor.norm, improve, improve
    )
    if improved:
        facts["rung"] += "+refinement"
    return Outcome(system, x, certificate, direct_status(system, certificate), added, **facts)
