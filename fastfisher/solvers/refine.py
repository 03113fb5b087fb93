"""Mixed precision: sums and a Cholesky factor in single, the solution in the precision of G.

The single-precision factor preconditions conjugate gradients on the true residual, which refines
where plain refinement does and also where it diverges; docs/math.md X1, X4.
"""

from dataclasses import replace

import numpy as np

from ..ops.factorizations import factor, solve_factored
from .certificate import certify, direct_status, refine, row_norms
from .cg import Iteration
from .dual import gram_lower
from .factored import spectral_norm
from .outcome import Outcome
from .primal import fisher_lower
from .system import unit_roundoff

__all__ = ["mixed"]

STEPS = 40  # iterations after which the exact route is the better choice
SINGLE = {"float64": "float32", "complex128": "complex64"}


class _SingleFactor:
    """A + D ~ L L' in single precision, scaled by powers of two to a diagonal near 1.

    `order` is that of the failing pivot, or 0. A (double, lower triangle) is destroyed.
    """

    def __init__(self, A, added):
        self.norm = spectral_norm(A) + float(np.max(added, initial=0.0))
        np.einsum("ii->i", A)[:] += added
        diagonal = A.diagonal().real
        exponents = np.frexp(np.where(diagonal > 0, diagonal, 1.0))[1]
        self._scales = np.ldexp(1.0, -(exponents // 2))
        A *= self._scales[:, np.newaxis]
        A *= self._scales
        with np.errstate(under="ignore"):
            self._L = A.astype(SINGLE[A.dtype.name])
        self.order = factor(self._L)

    def solve(self, rows):
        """(A + D)^-1 rows, nearly: each row in units of its largest entry."""
        scaled = rows * self._scales
        exponents = np.frexp(np.abs(scaled).max(axis=1, initial=0.0))[1][:, np.newaxis]
        half = np.ascontiguousarray(scaled * np.ldexp(1.0, -exponents), dtype=self._L.dtype)
        solve_factored(self._L, half)
        return half * np.ldexp(1.0, exponents) * self._scales


class _GramSystem:
    """The Gram matrix T T' in the place of F, for `Iteration`."""

    def __init__(self, system):
        self._system, self.dtype = system, system.dtype

    def apply_fisher(self, rows):
        return self._system.apply_rows(self._system.apply_adjoint(rows))


def mixed(system, b, coef, side):
    """Solve for rows b (k, p) or coef (k, n) through a single-precision factor.

    None where it does not reach what a direct route promises: single precision cannot hold the
    damping, or the dual was asked for a diagonal D or for no damping.
    """
    system, diagonal = system.with_diagonal()
    added = system.resolve_damping(diagonal)
    scalar = np.ndim(added) == 0
    if side == "dual" and not (scalar and added > 0):
        return None
    half = _halved(system, float(diagonal.max(initial=0.0)))
    matrix, scaled = (fisher_lower if side == "primal" else gram_lower)(half)
    square = (scaled.G.scale / system.G.scale) ** 2
    rough = _SingleFactor(matrix, added * square)
    del matrix
    if rough.order:
        return None
    f = None if coef is None else system.from_coefficients(coef)
    if b is None:
        b = system.apply_adjoint(f)
        system.checked(b, "b = G'(w o coef)/sum(w)")
    cancellation = None
    if side == "primal":
        x, used = _refine(system, added, b, rough)
    else:
        right = system.apply_rows(b) if f is None else f
        y, used = _refine(_GramSystem(system), added, right, rough)
        x = system.apply_adjoint(y)
        if f is None:
            x = (b - x) / added
            sizes = row_norms(x) * added
            growth = row_norms(b) / np.where(sizes > 0, sizes, np.inf)
            cancellation = unit_roundoff(system.dtype) * float(growth.max(initial=0.0))
    norm = rough.norm / square
    if side == "primal" or f is None:
        certificate = certify(system, added, x, b, norm)
    else:

        def improve(x, rest):  # as in the dual, on T x + lambda y = f
            nonlocal y
            step = square * rough.solve(f - system.apply_rows(x) - added * y)
            y = y + step
            return x + system.apply_adjoint(step)

        x, certificate, _ = refine(system, added, x, b, norm, improve, system.dtype)
    status = direct_status(system, certificate)
    if status != "converged":
        return None
    return Outcome(
        system,
        x,
        certificate,
        status,
        added,
        iterations=used,
        rung="single+cg",
        cancellation=cancellation,
        rank=len(rough._L),
    )


def _halved(system, largest_square):
    """The system with scores in single precision, in units of the largest column's mean square."""
    name = SINGLE.get(system.dtype.name)
    if name is None:
        return system
    s = np.ldexp(1.0, -(int(np.frexp(largest_square)[1]) // 2)) if largest_square > 0 else 1.0
    mean = None if system.mean is None else system.mean * s
    G = replace(system.G, dtype=np.dtype(name), scale=system.G.scale * float(s))
    return replace(system, G=G, mean=mean)


def _refine(system, added, right, rough):
    """Conjugate gradients down to rounding, preconditioned by the rough factor."""
    iteration = Iteration(system, added, right, rough.solve, 0.0, STEPS)
    x, _, used = iteration.run(np.zeros_like(right))
    return x, used
