"""Preconditioned conjugate gradients down to rounding, for refinement: few, bounded steps.

What is returned rests on the residual recomputed from the scores.
"""

from dataclasses import dataclass

import numpy as np

from .certificate import row_norms
from .krylov import Iteration
from .ranges import unit_roundoff
from .ritz import Ritz

__all__ = ["Refined", "Rounding", "hopeless", "refined"]

FLOOR = 7  # backward error, in u, that is always reached for; 2 u where that helps towards
CLEAR = 3  # to which three steps add 2 u each, at the very worst, and all stays below 9 u
SMALL = 5e-13  # this residual beside b, in double; rounding allows no more
EARLY, FALLING = 5, 3  # steps before the rate is judged, and of them since the residual rose
AGAIN = 0.25  # steps differ: one that takes so much more than the last is foreseen, too
GOAL = 1e4  # share of the residual, in u, that a steady fall is followed to


@dataclass(frozen=True)
class Refined:
    """Rows x, their residual rows, how many steps there were; `slow`: given up, see `refined`.

    `error` of the preconditioner, as they saw it; None where they saw nothing, or were too slow.
    """

    x: np.ndarray
    rest: np.ndarray
    steps: int
    slow: bool
    error: float | None


class Rounding:
    """The rule of refinement: a backward error of a few u for each of rows b, or a share of b.

    `norm` bounds the operator below, or tells the best bound there is by now. Given `scales` that
    bring its diagonal near 1, the scaled system is solved to rounding as well.
    """

    def __init__(self, b, norm, dtype, scales=None, share=None):
        self.u, self.norm, self.scales, self.share = unit_roundoff(dtype), norm, scales, share
        self.sizes = row_norms(b)
        self.scaled = None if scales is None else row_norms(b * scales)

    def done(self, r, x, rows, norm):
        sizes, rest = self.sizes[rows], row_norms(r)
        if self.share is not None:
            return rest <= self.share * sizes
        small = SMALL * (self.u / unit_roundoff(np.float64)) * sizes
        scale = self._unit(x, sizes)
        there = rest <= np.minimum(FLOOR * scale, np.maximum(small, 2 * scale))
        if self.scales is not None:
            scale = self.u * (row_norms(x / self.scales) + self.scaled[rows])
            there &= row_norms(r * self.scales) <= FLOOR * scale
        return there

    def _unit(self, x, sizes):
        """A backward error of u."""
        bound = self.norm() if callable(self.norm) else self.norm
        return self.u * (bound * row_norms(x) + sizes)

    def ends(self, r, rates, x, rows, norm):
        """True if a step that takes a bit more of each residual than the last one is enough, which
        left these `rates` of them."""
        return bool(self.done((AGAIN * rates)[:, np.newaxis] * r, x, rows, norm).all())

    def clear(self, r, x, rows, norm):
        """Which rows, with residuals r, are far from what `done` allows at most."""
        return row_norms(r) <= CLEAR * self._unit(x, self.sizes[rows])

    def hopeless(self, course, limit):
        """As `hopeless`."""
        return hopeless(course, limit, self.u)


def hopeless(course, limit, u):
    """True if the rate since the residual was largest, kept up, takes more than all steps.

    `course`: the share of the residual left after each step so far; `limit` steps at most.
    """
    k, last = len(course), course[-1]
    peak = int(np.argmax(course))
    since, goal = k - 1 - peak, GOAL * u
    if k < EARLY or last <= goal or (since < FALLING and k < 2 * EARLY):
        return False
    if not last < course[peak]:
        return True
    rate = np.log(last / course[peak]) / since
    return bool(k + np.log(goal / last) / rate > limit)


def refined(operator, precondition, b, rule, dtype, limit, aside=0):
    """x with operator(x) = b for rows b, from 0, as near as `rule` says.

    Gives up, `slow`, after `limit` steps, or where the rate says that they will not do. Up to
    `aside` rows go through one product, where x goes along with the last one.
    """
    ritz = Ritz()
    iteration = Iteration(
        operator, b, precondition, rule, limit, dtype=dtype, name="mixed", ritz=ritz, aside=aside
    )
    x, statuses, steps = iteration.run(np.zeros_like(b))
    rest = b - operator(x) if iteration.rest is None else iteration.rest
    given_up = not {"converged", "stagnated"}.issuperset(statuses)
    slow = given_up and not iteration.done(rest, x).all()
    return Refined(x, rest, steps, slow, None if slow else ritz.error())
