"""The refinement of mixed precision on a device: few iterations, looked at in between. Twin of
`solvers.pcg`."""

import numpy as np

from ...devices.door import none
from ...kernels.cuda import compat, memory, recurrence
from ..pcg import hopeless
from ..refine import STEPS
from ..ritz import Ritz
from .iterative import Recurrence

__all__ = ["Steps"]

LOOK = 4  # iterations between two looks
FLOOR = 4  # backward error, in u, that is iterated down to: residual 1e-12 at condition 1e3


class Steps(Recurrence):
    """Preconditioned conjugate gradients down to rounding, or to a share of b: few, bounded."""

    name = "mixed"

    def __init__(self, operator, added, b, preconditioner, norm, share=0.0):
        floor, weight = FLOOR * operator.roundoff, none(np.float64)
        super().__init__(operator, added, b, weight, None, share, floor, STEPS)
        self.precondition = preconditioner(self.b)
        state = np.zeros(tuple(self.state.shape))
        state[:, recurrence.STRETCH] = norm
        self.state = memory.to_device(state)
        self._seen = compat.empty((self._chunk, *state.shape), np.float64)  # states since a look
        self._count = 0  # of them
        self._ritz = Ritz()

    @property
    def _chunk(self):
        return LOOK

    def _sweep(self, x, r):
        self._course = []
        self._ritz.begin()
        return super()._sweep(x, r)

    def _iterate(self, x, r):
        super()._iterate(x, r)
        memory.copy(self._seen[self._count], self.state)
        self._count += 1

    def _read(self):
        if not self._count:
            return super()._read()
        states, self._count = memory.to_host(self._seen)[: self._count], 0
        for state in states:
            self._ritz.coefficients(state[:, recurrence.ALPHA], state[:, recurrence.BETA])
        return states[-1]

    def _given_up(self, running):
        """By the rate at which the residual fell, as between two looks it may have."""
        left = float((running[:, recurrence.REST] / running[:, recurrence.SIZE]).max())
        before = self._course[-1] if self._course else 1.0
        self._course += np.geomspace(before, left, LOOK + 1)[1:].tolist()
        self.slow = hopeless(self._course, STEPS, self.system.roundoff)
        return self.slow

    def run(self):
        """x, iterations and the error of the preconditioner that they saw; None where they are too
        many."""
        x, verdicts, iterations = self.solve(None)
        arrived = not self.slow and {"converged", "stagnated"}.issuperset(verdicts)
        return (x, iterations, self._ritz.error()) if arrived else None
