"""Dual route: the n x n Gram matrix instead of F. For fewer samples than parameters.

With B = T T' + lambda I: b = T'f gives x = T'B^-1 f (docs/math.md D3), any other b
x = (b - T'B^-1 T b) / lambda (D2). Diagonal damping D scales the columns of T by D^-1/2.
"""

from dataclasses import replace

import numpy as np

from ..errors import NotPositiveDefiniteError
from ..passes import sums_dtype
from .certificate import direct_status, refine, row_norms
from .factored import CholeskyFactor, rank_deficient
from .outcome import Outcome
from .system import unit_roundoff

__all__ = ["dual"]


def gram_lower(system, column_weights=None):
    """Lower triangle of T diag(column_weights) T', (n, n) double, and the system it belongs to."""
    for attempt in (0, 1):
        if system.kept_gram and column_weights is None and system.G.scale == 1:
            K = system.kept_gram(system)
        else:
            K = np.zeros((system.n, system.n), sums_dtype(system.dtype))
            system.add_gram(K, column_weights)
        diagonal = K.diagonal().real
        if attempt == 0 and system.n and column_weights is None:
            scaled = system.rescaled(float(diagonal.max()) / max(system.p, 1))
            if scaled is not system:
                del K, diagonal
                system = scaled
                continue
        break
    system.checked(diagonal, "the Gram matrix")
    u = system.root_weights
    K *= u[:, np.newaxis]
    K *= u
    return K, system


def _mend_null_space(K, system, trace):
    """Make the undamped Gram matrix definite in directions that T' maps to zero, so x is the same.

    Rows of weight 0 are zero rows of T; for centred rows T'u = 0 with u = sqrt(w / W) (D5).
    """
    u = system.root_weights
    size = trace / max(np.count_nonzero(u), 1)
    np.einsum("ii->i", K)[u == 0] += size
    if system.mean is not None:
        K += size * np.outer(u, u)


def _scalar(system, b, coef):
    K, system = gram_lower(system)
    trace = float(K.diagonal().real.sum())
    lam = system.resolve_damping(None, trace=trace)
    if lam == 0:
        if b is not None:
            raise rank_deficient(system, trace)
        _mend_null_space(K, system, trace)
    factor = CholeskyFactor(K, lam, trace=trace, what="the Gram matrix + damping")

    def woodbury(b):
        return (b - system.apply_adjoint(factor.solve(system.apply_rows(b)))) / lam

    def pseudo_inverse(b):  # (T'T)^+ b for b = T'f
        return system.apply_adjoint(factor.solve(factor.solve(system.apply_rows(b))))

    if b is None:
        f = system.from_coefficients(coef)
        b = system.apply_adjoint(f)
        x = system.apply_adjoint(factor.solve(f))
        return _refined(system, x, b, lam, factor.norm, woodbury if lam else pseudo_inverse)
    x = woodbury(b)
    sizes = row_norms(x) * lam
    growth = row_norms(b) / np.where(sizes > 0, sizes, np.inf)
    cancellation = unit_roundoff(system.dtype) * float(growth.max(initial=0.0))
    outcome = _refined(system, x, b, lam, factor.norm, woodbury)
    return replace(outcome, cancellation=cancellation)


def _refined(system, x, b, added, norm, inverse):
    """Certify x; correct it by `inverse` of the residual while that is too large and falls."""
    x, certificate, refined = refine(
        system, added, x, b, norm, lambda x, rest: x + inverse(rest), system.dtype
    )
    rung = "cholesky+refinement" if refined else "cholesky"
    status = direct_status(system, certificate)
    return Outcome(system, x, certificate, status, added, rung=rung)


def _diagonal(system, b, coef):
    """D is a positive vector: x = D^-1/2 (T_D'T_D + I)^-1 D^-1/2 b with T_D = T D^-1/2."""
    system, diagonal = system.with_diagonal()
    added = system.resolve_damping(diagonal)
    if not np.all(added > 0):
        order = int(np.argmin(added > 0)) + 1
        raise NotPositiveDefiniteError(
            f"parameter {order - 1} has no score and no damping (Marquardt without shift); "
            "pass Marquardt(c, shift=...) > 0",
            order=order,
            rcond=0.0,
            suggested_damping=float(np.max(diagonal, initial=1.0)) * 1e-8,
        )
    K, system = gram_lower(system, column_weights=1 / added)
    trace = float(K.diagonal().real.sum())
    factor = CholeskyFactor(K, 1.0, trace=trace, what="the scaled Gram matrix + 1")

    def woodbury(b):
        return (b - system.apply_adjoint(factor.solve(system.apply_rows(b / added)))) / added

    norm = float(np.min(added)) * factor.norm if system.p else 0.0
    if b is not None:
        return _refined(system, woodbury(b), b, added, norm, woodbury)
    f = system.from_coefficients(coef)
    x = system.apply_adjoint(factor.solve(f)) / added
    return _refined(system, x, system.apply_adjoint(f), added, norm, woodbury)


def dual(system, b, coef):
    """Solve for rows b (k, p), or for b = G'(w o coef)/W with rows coef (k, n)."""
    return (_diagonal if system.damping.needs == "diagonal" else _scalar)(system, b, coef)
