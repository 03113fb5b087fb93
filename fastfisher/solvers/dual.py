"""Dual route: the n x n Gram matrix instead of F. For fewer samples than parameters.

With B = T T' + lambda I: b = T'f gives x = T'B^-1 f (docs/math.md D3), any other b
x = (b - T'B^-1 T b) / lambda (D2). Diagonal damping D scales the columns of T by D^-1/2.
"""

from dataclasses import replace

import numpy as np

from ..errors import NotPositiveDefiniteError
from ..kernels.cpu.memory import SMALL, forget
from ..passes import sums_dtype
from .certificate import direct_status, row_norms
from .factored import CholeskyFactor, rank_deficient, suggestion
from .fine import certified, right_side
from .ladder import allowed, climb
from .outcome import Outcome
from .ranges import unit_roundoff
from .system import dots

__all__ = ["INSIDE", "Pair", "applied_inverse", "dual", "gram_factor"]

# Up to so much of the trace, damping hardly lifts what T' maps to zero out of rounding.
FAINT = 2.0**-26
# Below so much of the norm, lambda makes rounding large beside rows of T: x = T'y is corrected by
# T'B^-1 B^-1 T, which is all but A^-1 where F is above lambda.
INSIDE = 1e-3
ROWS = 256  # of a matrix changed at once


def gram_lower(system, column_weights=None):
    """Lower triangle of T diag(column_weights) T', (n, n) double, and the system it belongs to."""
    weighted = column_weights is not None
    for attempt in (0, 1):
        if attempt == 0 and system.kept_gram and not weighted and system.G.scale == 1:
            K = system.kept_gram(system)
        else:
            K = np.zeros((system.n, system.n), sums_dtype(system.dtype))
            system.add_gram(K, column_weights)
        diagonal = K.diagonal().real
        if attempt == 0 and system.n and not weighted:
            scaled = system.rescaled(_largest_that_counts(diagonal, system.weights, system.p))
            if scaled is not system:
                del K, diagonal
                system = scaled
                continue
        break
    forget(SMALL)  # what follows is planned without the scratch of the product
    system.checked(diagonal, "the Gram matrix")
    u = system.root_weights
    K *= u[:, np.newaxis]
    K *= u
    return K, system


def _largest_that_counts(squares, weights, p):
    """The largest of mean squares of rows, by their weights over the largest; Inf, which would make
    something of no weight, where there is one."""
    if weights is not None and np.isfinite(squares).all():
        squares = squares * (weights / (weights.max() or 1.0))
    return float(squares.max()) / max(p, 1)


def gram_factor(K, lam, system, trace):
    """Factor of K + lambda for right-hand sides that need 1 / lambda: where that is 0 the ladder in
    force gives some damping, or the error is that of too few samples."""
    extra = 0.0
    if lam == 0:
        extra, _ = allowed(len(K), float(K.diagonal().real.max(initial=0.0)))
        if not extra:
            raise rank_deficient(system, trace)
    factor = climb(
        K,
        lam + extra,
        trace=trace,
        what="the Gram matrix + damping",
        rows=system.adjoint_blocks,
        dtype=system.dtype,
        scale=system.G.scale,
    )
    if extra:
        factor.rung, factor.escalation = "cholesky+damping", factor.escalation + extra
    return factor


def _mend_null_space(K, system, trace):
    """Make the Gram matrix definite in directions that T' maps to zero, so x is the same.

    Rows of weight 0 are zero rows of T; for centred rows T'u = 0 with u = sqrt(w / W) (D5).
    """
    u = system.root_weights
    size = trace / max(np.count_nonzero(u), 1)
    np.einsum("ii->i", K)[u == 0] += size
    if system.mean is not None:
        for lo in range(0, len(u), ROWS):
            K[lo : lo + ROWS] += (size * u[lo : lo + ROWS])[:, np.newaxis] * u


def _mended_blocks(system, trace):
    """Blocks of rows whose products are the mended Gram matrix."""
    u = system.root_weights
    root = np.sqrt(trace / max(np.count_nonzero(u), 1))

    def blocks():
        yield from system.adjoint_blocks()
        for i in np.flatnonzero(u == 0):
            yield root * (np.arange(len(u)) == i)[np.newaxis].astype(sums_dtype(system.dtype))
        if system.mean is not None:
            yield (root * u)[np.newaxis].astype(sums_dtype(system.dtype))

    return blocks


def _scalar(system, b, coef):
    K, system = gram_lower(system)
    trace = float(K.diagonal().real.sum())
    lam = system.resolve_damping(None, trace=trace)
    if b is not None or lam > FAINT * trace:
        factor = gram_factor(K, lam, system, trace)
    else:
        _mend_null_space(K, system, trace)
        factor = climb(
            K,
            lam,
            trace=trace,
            what="the Gram matrix + damping",
            rows=_mended_blocks(system, trace),
            dtype=system.dtype,
            scale=system.G.scale,
        )
    lam = factor.added
    pair = Pair(system, lam, b, None if coef is None else system.from_coefficients(coef))

    def improve(x, rest):
        return pair.moved(factor.solve(pair.rest()))

    def correct(x, rest):  # of which the pair knows nothing: its products round as they do
        return x + applied_inverse(system, factor, lam, rest)

    def correct_inside(x, rest):
        y = factor.solve(system.apply_rows(rest))
        return x + system.apply_adjoint(factor.solve(y))

    x = improve(None, None)
    if b is not None:
        outcome = _refined(system, x, b, lam, factor, improve, correct)
        return replace(outcome, cancellation=pair.cancellation(b))
    b = right_side(system, coef)
    inside = lam < INSIDE * factor.norm
    outcome = _refined(system, x, b, lam, factor, improve, correct_inside if inside else correct)
    if lam and outcome.status == "inaccurate":  # b = T'f is hardly more than its rounding
        again = _refined(system, outcome.x, b, lam, factor, correct, correct)
        if again.certificate.backward_error < outcome.certificate.backward_error:
            outcome = again
    return outcome


def applied_inverse(system, factor, lam, b):
    """(b - T'B^-1 T b) / lambda for rows b and the factor of B."""
    return (b - system.apply_adjoint(factor.solve(system.apply_rows(b)))) / lam


class Pair:
    """x and y with T x + lambda y = f and x = T'y, or for any b with x = (b + T'y) / lambda and
    f = 0, moved together: x stays accurate where y is so large that T'y cancels (docs/math.md D9).
    """

    def __init__(self, system, lam, b, f):
        self.system, self.lam = system, lam
        self.f = 0.0 if f is None else f
        self._unit = lam if f is None else 1.0
        self._sum = b if f is None else 0.0  # x in this unit
        self._y = 0.0

    def rest(self):
        """f - T x - lambda y, in units that keep it in range."""
        seen = self.system.apply_rows(self._sum) if np.ndim(self._sum) else 0.0
        rest = self.f - seen - self.lam * self._y
        if not self.lam and self.system.mean is not None:
            u = self.system.root_weights  # T'u = 0
            rest -= dots(rest, u)[:, np.newaxis] * u
        return rest

    def moved(self, step):
        """x after this step of y."""
        self._y = self._y + step
        self._sum = self._sum + self.system.apply_adjoint(step)
        return self._sum / self._unit

    def growth(self, b):
        """|b| / (lambda |x|) of each row, for an arbitrary b; Inf where nothing is left of x."""
        sizes, given = row_norms(self._sum), row_norms(b)
        lost = np.where(given > 0, np.inf, 0.0)
        return np.where(sizes > 0, given / np.where(sizes > 0, sizes, 1.0), lost)

    def cancellation(self, b):
        """u |b| / (lambda |x|), the relative forward error of x."""
        return unit_roundoff(self.system.dtype) * float(self.growth(b).max(initial=0.0))


def _refined(system, x, b, added, factor, improve, correct, norm=None):
    """Certify x, refine it, and tell how it came about."""
    norm = factor.norm if norm is None else norm
    x, certificate, refined = certified(system, added, x, b, norm, improve, correct)
    status, facts = direct_status(system, certificate), factor.facts
    if refined:
        facts["rung"] += "+refinement"
    return Outcome(system, x, certificate, status, added, **facts)


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
            suggested_damping=suggestion(1e-8 * float(diagonal.max() or 1.0), system.G.scale),
        )
    K, system = gram_lower(system, column_weights=1 / added)
    trace = float(K.diagonal().real.sum())
    factor = CholeskyFactor(K, 1.0, trace=trace, what="the scaled Gram matrix + 1")

    def woodbury(b):
        return (b - system.apply_adjoint(factor.solve(system.apply_rows(b / added)))) / added

    def improve(x, rest):
        return x + woodbury(rest)

    norm = float(np.min(added)) * factor.norm if system.p else 0.0
    if b is not None:
        return _refined(system, woodbury(b), b, added, factor, improve, improve, norm)
    f = system.from_coefficients(coef)
    x = system.apply_adjoint(factor.solve(f)) / added
    return _refined(system, x, right_side(system, coef), added, factor, improve, improve, norm)


def dual(system, b, coef):
    """Solve for rows b (k, p), or for b = G'(w o coef)/W with rows coef (k, n)."""
    return (_diagonal if system.damping.needs == "diagonal" else _scalar)(system, b, coef)
