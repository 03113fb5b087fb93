"""The true residual of a candidate solution, recomputed from the scores, and the verdict."""

import math
from dataclasses import dataclass, replace

import numpy as np

from .ranges import number_range, shifted, unit_roundoff

__all__ = [
    "DIRECT_LIMIT",
    "USELESS",
    "Certificate",
    "as_returned",
    "certificate_of",
    "certify",
    "direct_status",
    "direct_statuses",
    "finite_statuses",
    "is_backward_stable",
    "kept_digits",
    "may_lose_digits",
    "paired",
    "pairwise",
    "refine",
    "row_norms",
    "underflowed",
    "with_lost_digits",
    "worst",
]

DIRECT_LIMIT = 100  # backward error of a direct solve, in u, up to which it counts as converged
REFINEMENTS = 8  # corrections by the residual, where cancellation made it too large
FARTHEST = 2000  # powers of two between a row and what is left of it: more than a double spans
MIDDLE = 2.0**-400, 2.0**400  # sums of squares that neither overflow nor lost digits
USELESS = 0.5  # relative residual from which x is no solution, whatever its backward error


@dataclass(frozen=True)
class Certificate:
    """Residuals per right-hand side, in double; `rows` is b - (F + D) x, where it was kept."""

    rows: np.ndarray | None
    residuals: np.ndarray
    backward_errors: np.ndarray

    @property
    def residual(self):
        return _largest(self.residuals)

    @property
    def backward_error(self):
        return _largest(self.backward_errors)


def _largest(values):
    return float(values[0]) if len(values) == 1 else float(values.max(initial=0.0))


def certify(system, added, x, b, norm):
    """Recompute b - (F + D) x from G, for x as it will be returned; `norm` bounds F + D below."""
    return certificate_of(b - system.apply_fisher(x) - added * x, x, b, norm)


def certificate_of(rows, x, b, norm):
    """The verdict on x whose residual rows b - (F + D) x were just recomputed."""
    sizes, given = row_norms(rows), row_norms(b)
    # b = 0 asks for x = 0: then the residual is its own measure.
    residuals = sizes / np.where(given > 0, given, 1.0)
    with np.errstate(over="ignore"):  # a product out of range makes the quotient 0, rightly
        scale = norm * row_norms(x) + given
    backward = sizes / np.where(scale > 0, scale, 1.0)
    return Certificate(rows, residuals, backward)


def refine(operator, added, x, b, norm, improve, dtype, limit=DIRECT_LIMIT):
    """Certify x; ``improve(x, residual)`` it while the residual is too large and falls.

    Too large is a backward error above `limit` u. Returns x, its certificate, and whether it was
    improved.
    """
    certificate, improved = certify(operator, added, x, b, norm), False
    for _ in range(REFINEMENTS):
        if certificate.backward_error <= limit * unit_roundoff(dtype):
            break
        better = improve(x, certificate.rows)
        again = certify(operator, added, better, b, norm)
        if not again.backward_error < certificate.backward_error:
            break
        x, certificate, improved = better, again, True
    return x, certificate, improved


def row_norms(rows):
    """2-norms of rows without overflow; powers of two on a row are on its norm, to the bit."""
    squares = _squares(rows)
    if all(MIDDLE[0] < square < MIDDLE[1] for square in squares.tolist()):
        return np.sqrt(squares)
    exponents = np.frexp(np.abs(rows).max(axis=1, initial=0.0))[1]
    near = shifted(rows.astype(np.result_type(rows.dtype, np.float64)), -exponents[:, np.newaxis])
    return np.ldexp(np.sqrt(_squares(near)), exponents)


def _squares(rows):
    if rows.dtype.kind == "c":
        rows = np.ascontiguousarray(rows).view(rows.real.dtype)
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)


def is_backward_stable(backward_error, dtype):
    """True where a direct solve with this backward error counts as converged."""
    return backward_error <= DIRECT_LIMIT * unit_roundoff(dtype)


def direct_status(system, certificate):
    """Status of a direct solve with this certificate."""
    if not math.isfinite(certificate.backward_error):
        return "not_finite"
    small = is_backward_stable(certificate.backward_error, system.dtype)
    small = small and certificate.residual < USELESS
    return "converged" if small else "inaccurate"


def direct_statuses(system, certificate):
    """The same for each right-hand side."""
    ones = zip(
        certificate.residuals[:, np.newaxis],
        certificate.backward_errors[:, np.newaxis],
        strict=True,
    )
    return tuple(direct_status(system, Certificate(None, *one)) for one in ones)


def may_lose_digits(largest, p, dtype):
    """Where rows (p,) of such largest magnitudes may be more than rounded in this dtype."""
    return largest < math.sqrt(p) * number_range(dtype)[0]


def pairwise(values, join=np.hypot):
    """Of one number per row, for rows that are real and imaginary parts: one per pair."""
    half = len(values) // 2
    return join(values[:half], values[half:])


def paired(certificate, b):
    """The certificate of complex right-hand sides that were solved as real ones, rows b."""
    given = row_norms(b)
    sizes = certificate.residuals * np.where(given > 0, given, 1.0)
    backward = certificate.backward_errors
    scales = np.where(backward > 0, sizes / np.where(backward > 0, backward, 1.0), given)
    given, sizes, scales = map(pairwise, (given, sizes, scales))
    residuals = sizes / np.where(given > 0, given, 1.0)
    return Certificate(None, residuals, sizes / np.where(scales > 0, scales, 1.0))


def kept_digits(x, exact, exponents=0, *, pairs=False):
    """What rows x, in their dtype, keep of rows `exact`, in double, times 2^exponents.

    In the place of `exact`, and which rows lost more than rounding to underflow; None if none did.
    With `pairs` rows are real parts, and as many imaginary ones, that lose digits together.
    """
    if not may_lose_digits(np.abs(x).max(axis=1, initial=0.0), x.shape[1], x.dtype).any():
        return None
    sizes = np.abs(exact).max(axis=1, initial=0.0)
    sizes = np.tile(pairwise(sizes, np.maximum), 2) if pairs else sizes
    units = np.frexp(sizes)[1][:, np.newaxis]
    # A row that is all lost is 0 in any units; others are not so far away.
    back = np.clip(-(units + exponents), -FARTHEST, FARTHEST)
    near, kept = shifted(exact, -units), shifted(x.astype(exact.dtype), back)
    with np.errstate(invalid="ignore"):  # rows that are not finite
        missed, there = row_norms(near - kept), row_norms(near)
        if pairs:  # whose units are the same
            missed, there = (np.tile(pairwise(sizes), 2) for sizes in (missed, there))
        lost = missed > 2 * unit_roundoff(x.dtype) * there
    if not lost.any():
        return None
    return np.where(lost[:, np.newaxis], shifted(kept, units), exact), lost


def recertified(operator, added, x, kept, certificate):
    """The certificate of rows `kept`, given that of rows x of the same system."""

    def apply(rows):
        return operator.apply_fisher(rows) + added * rows

    fitted, sizes = apply(x), row_norms(x)
    b = fitted if certificate.rows is None else fitted + certificate.rows
    stretches = row_norms(fitted) / np.where(sizes > 0, sizes, 1.0)
    return certificate_of(b - apply(kept), kept, b, float(stretches.max(initial=0.0)))


def as_returned(operator, added, x, exact, certificate, exponents=0, *, pairs=False):
    """The certificate that x deserves, as it is returned in the place of rows `exact` (with
    `certificate`) times 2^exponents, and which rows lost digits; None where none did."""
    found = kept_digits(x, exact, exponents, pairs=pairs)
    if found is None:
        return None
    kept, lost = found
    seen, rows = recertified(operator, added, exact, kept, certificate), certificate.rows
    if rows is not None:
        rows = np.where(lost[:, np.newaxis], seen.rows, rows)
    residuals = np.where(lost, seen.residuals, certificate.residuals)
    return Certificate(
        rows, residuals, np.where(lost, seen.backward_errors, certificate.backward_errors)
    ), lost


def underflowed(statuses, lost):
    """The statuses, where rows that count as solved lost digits to underflow."""
    pairs = zip(statuses, lost, strict=True)
    return tuple("underflow" if s == "converged" and gone else s for s, gone in pairs)


def with_lost_digits(outcome, system, found):
    """The outcome of a system, given what `as_returned` found of its x."""
    certificate, lost = found
    statuses = outcome.statuses or direct_statuses(system, outcome.certificate)
    statuses = underflowed(statuses, lost)
    return replace(outcome, certificate=certificate, statuses=statuses, status=worst(statuses))


def finite_statuses(statuses, x):
    """The statuses, but for rows of x that are not finite."""
    good = np.isfinite(x).all(axis=1)
    return tuple(s if ok else "not_finite" for s, ok in zip(statuses, good, strict=True))


def worst(statuses):
    """One status for all right-hand sides."""
    if "not_finite" in statuses:
        return "not_finite"
    return next((status for status in statuses if status != "converged"), "converged")
