"""Preconditioned conjugate gradients down to rounding, for refinement: few, bounded steps.

All right-hand sides share each pass over the scores; rows that are done rest. What is returned
rests on the residual recomputed from the scores.
"""

from dataclasses import dataclass

import numpy as np

from ..planning import current_options
from .certificate import row_norms
from .system import unit_roundoff

__all__ = ["Refined", "refined"]

FLOOR = 7  # backward error, in u, that is always reached for; 2 u where that helps towards
SMALL = 5e-13  # this residual beside b, in double; rounding allows no more
RESTARTS = 4  # from the residual recomputed
EARLY = 5  # steps before the rate is judged


@dataclass(frozen=True)
class Refined:
    """Rows x, their residual rows, how many steps there were; `slow`: given up, see `refined`."""

    x: np.ndarray
    rest: np.ndarray
    steps: int
    slow: bool


def refined(apply, precondition, b, norm, dtype, limit, scales=None):
    """x with (F + D) x = b for rows b, from 0; ``apply(rows)`` is F + D, `norm` bounds it below.

    Given `scales` that bring the diagonal near 1, the scaled system is solved to rounding as well.
    Gives up, `slow`, after `limit` steps, or where the rate says that they will not do.
    """
    u, sizes = unit_roundoff(dtype), row_norms(b)
    small = SMALL * (u / unit_roundoff(np.float64)) * sizes
    x, r, steps = np.zeros_like(b), b, 0

    def left(r, x):
        """Rows that are not there yet."""
        scale = u * (norm * row_norms(x) + sizes)
        wanted = row_norms(r) > np.minimum(FLOOR * scale, np.maximum(small, 2 * scale))
        if scales is not None:
            scale = u * (row_norms(x / scales) + row_norms(b * scales))
            wanted |= row_norms(r * scales) > FLOOR * scale
        return wanted

    before = np.full(len(b), np.inf)
    for _ in range(RESTARTS + 1):
        active, now = left(r, x), row_norms(r)
        if not active.any():
            return Refined(x, r, steps, False)
        if not (now[active] < 0.5 * before[active]).any():  # rounding is all that is left
            return Refined(x, r, steps, False)
        before = now
        x, used, slow = _sweep(apply, precondition, x, r, active, left, limit - steps)
        steps += used
        r = b - apply(x)
        if slow:
            return Refined(x, r, steps, bool(left(r, x).any()))
    return Refined(x, r, steps, False)


def _sweep(apply, precondition, x, r, active, left, limit):
    """Iterate until the recurrence says that all rows are there: x, steps, whether it gave up."""
    progress, start = current_options().progress, row_norms(r)
    z = precondition(r)
    d, rz = z, _dots(r, z)
    for k in range(1, limit + 1):
        q = apply(d)
        curvature = _dots(d, q)
        if not (curvature[active] > 0).all():  # NaN too
            return x, k, True
        alpha = np.where(active, rz / np.where(active, curvature, 1.0), 0.0)[:, np.newaxis]
        x = x + alpha * d
        r = r - alpha * q
        if progress is not None:
            progress("mixed", k, limit)
        active = active & left(r, x)
        if not active.any():
            return x, k, False
        if k >= EARLY and _hopeless(row_norms(r)[active] / start[active], k, limit):
            return x, k, True
        z = precondition(r)
        rz, past = _dots(r, z), rz
        beta = np.where(active, rz / np.where(past > 0, past, 1.0), 0.0)[:, np.newaxis]
        d = z + beta * d
    return x, max(limit, 0), True


def _hopeless(gained, k, limit):
    """True if the rate so far, kept up, leaves the slowest row at a millionth after all steps."""
    worst = float(gained.max(initial=0.0))
    return worst > 1e-6 ** (k / limit) and worst > 1e-3 and k >= 0.4 * limit


def _dots(x, y):
    return np.einsum("kp,kp->k", x.conj(), y).real
