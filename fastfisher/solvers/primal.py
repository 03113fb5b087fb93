"""Primal route: F (p x p) -> damp -> Cholesky -> solve. For p up to the number of samples."""

import numpy as np

from ..passes import add_syrk, sums_dtype
from .certificate import certify, direct_status
from .factored import CholeskyFactor
from .outcome import Outcome

__all__ = ["primal"]


def fisher_lower(system):
    """Lower triangle of F, (p, p) double, and the system it belongs to (rescaled if need be)."""
    for attempt in (0, 1):
        F = np.zeros((system.p, system.p), sums_dtype(system.dtype))
        add_syrk(F, system.G, weights=system.weights, shift=system.mean)
        diagonal = F.diagonal().real
        if attempt == 0 and system.p and system.total:
            scaled = system.rescaled(float(diagonal.max()) / system.total)
            if scaled is not system:
                del F, diagonal
                system = scaled
                continue
        break
    system.checked(diagonal, "F")
    if system.total:
        F /= system.total
    return F, system


def primal(system, b, coef):
    """Solve for rows b (k, p), or for b = G'(w o coef)/W with rows coef (k, n)."""
    F, system = fisher_lower(system)
    if b is None:
        b = system.apply_adjoint(system.from_coefficients(coef))
        system.checked(b, "b = G'(w o coef)/sum(w)")
    diagonal = F.diagonal().real.copy()
    added = system.resolve_damping(diagonal)
    factor = CholeskyFactor(F, added, trace=diagonal.sum(), what="F + damping")
    x = factor.solve(b)
    certificate = certify(system, added, x, b, factor.norm)
    return Outcome(system, x, certificate, direct_status(system, certificate), added)
