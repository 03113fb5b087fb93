"""A Cholesky factor after a change of low rank, without factoring anew. docs/math.md Q5."""

import copy

import numpy as np

from .. import linalg
from ..errors import InputError, NotPositiveDefiniteError
from .factored import smallest_pivot, solve_lower

__all__ = ["modified"]

PANEL = 64  # columns of the factor changed at once
MARGIN = 0.1  # share of the damping that has to be left of the smallest pivot


def modified(factor, V, sign):
    """The `CholeskyFactor` of A + D + sign V'V for rows V (k, p) in its dtype; sign is 1 or -1.

    With ``Q = L^-1 V'``, I + sign Q Q' = C C' and the new factor is L C. C is found panel by panel
    of Q, its part below a panel being of rank k; that part times L is what is left of ``L Q = V'``.

    Raises NotPositiveDefiniteError where the result is indefinite or, in a pivot, less than a tenth
    of D: then rounding may be all that is left of it. InputError where V'V, or Q Q', overflows.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _modified(factor, V, sign)


def _modified(factor, V, sign):
    change = float(np.square(np.linalg.norm(V)))
    L, p = factor.L, len(factor.L)
    W = np.array(V.conj().T, order="C")
    Q = solve_lower(L, np.array(V.conj(), dtype=L.dtype, order="C"))
    Q = np.ascontiguousarray(Q.T)
    inner, new = np.eye(Q.shape[1], dtype=L.dtype), np.zeros_like(L)
    for lo in range(0, p, PANEL):
        hi = min(lo + PANEL, p)
        q, below = Q[lo:hi], slice(hi, None)
        seen = inner @ q.conj().T
        square = np.eye(hi - lo) + sign * (q @ seen)
        if not (np.isfinite(change) and np.isfinite(square).all()):
            raise InputError(
                "squares of V overflow beside F + D; scale V, and the scores behind F, down"
            )
        try:
            C = linalg.cholesky(square, lower=True)
        except linalg.LinAlgError:
            raise _refusal(lo, p, sign) from None
        # sign T q' C^-', and with it the Schur complement of what has been done.
        turn = linalg.solve_triangular(C, seen.conj().T, lower=True).conj().T
        here = np.tril(L[lo:hi, lo:hi])
        new[lo:hi, lo:hi] = here @ C
        W[below] -= L[below, lo:hi] @ q
        new[below, lo:hi] = L[below, lo:hi] @ C + sign * (W[below] @ turn)
        inner = inner - sign * (turn @ turn.conj().T)
    made = copy.copy(factor)
    made.L, made.rcond = new, None
    largest = float((np.abs(new) ** 2).sum(axis=1).max(initial=0.0))
    made.norm = max(largest, factor.norm - (change if sign < 0 else 0.0))
    least = MARGIN * float(np.min(factor.added)) if p else 0.0
    noise = 4 * p * np.finfo(np.float64).eps * (factor.norm + change)
    if sign < 0 and p and smallest_pivot(new) < (least or noise):
        raise _refusal(int(np.argmin(new.diagonal().real)), p, sign)
    return made


def _refusal(first, p, sign):
    which = "F + D - V'V" if sign < 0 else "F + D + V'V"
    return NotPositiveDefiniteError(
        f"{which} is not positive definite, or hardly more than rounding, from pivot {first + 1} "
        f"of {p} on; factor what is left anew",
        order=first + 1,
        rcond=0.0,
        suggested_damping=None,
    )
