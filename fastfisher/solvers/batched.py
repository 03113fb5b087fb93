"""What solving very many small systems at once returns: a status per system."""

from dataclasses import dataclass

import numpy as np

from ..errors import ConvergenceError
from .solution import Solution

__all__ = ["BatchedSolution"]

NAMED = 5  # systems that a message lists


@dataclass(frozen=True, eq=False, repr=False)
class BatchedSolution(Solution):
    """Solutions of many systems; a system that fails is NaN and named, and touches no other.

    ``x, info = solution`` works as for `fastfisher.ops.batched_solve`.

    Attributes
    ----------
    x : array (n, p) or (n, p, k)
        NaN in the systems that failed, unless by underflow.
    systems : array (n,) of int32
        Also ``.info``. 0: solved; j > 0: minor j is not positive definite; -1: the system, its
        right-hand side or its solution is not finite; -2: the residual is larger than rounding
        explains; -3: x, which is kept, underflows its dtype.
    status : str
        "converged" if every system was solved, else that of the first one that was not:
        "not_positive_definite", "not_finite", "inaccurate" or "underflow".
    converged : bool
        True if every system was solved.
    failed : array of int
        Indices of those that were not.
    residual, backward_error : float
        The largest over the systems that were solved.
    damping : float
        The largest absolute lambda asked for (for Marquardt, its c; the largest cutoff).
    rungs : array (n,) of int8, or None where neither a `Ladder` nor a cutoff was in force
        What solved each system: 0 "cholesky", 1 "cholesky+damping", 2 "eigen"; ``rung`` is the
        highest of them, ``escalation`` the largest damping that was added.
    rank, smallest_pivot, rcond : int, float, float
        The smallest over the systems that were solved; rcond is pivot over norm, from above.
    """

    systems: np.ndarray = None
    rungs: np.ndarray = None

    @property
    def info(self):
        """The status of each system, (n,)."""
        return self.systems

    @property
    def failed(self):
        return np.flatnonzero(self.systems)

    def _say(self):
        failed = self.failed
        first = ", ".join(map(str, failed[:NAMED])) + (", ..." if len(failed) > NAMED else "")
        return f"{len(failed)} of {len(self.systems)} systems failed: {first}"

    def __repr__(self):
        said = "" if self.converged else f", {self._say()}"
        return super().__repr__().replace("Solution(", "BatchedSolution(", 1)[:-1] + said + ")"

    def require_convergence(self):
        """Return self, or raise ConvergenceError that names systems and carries this solution."""
        if not self.converged:
            raise ConvergenceError(
                f"{self._say()} (the first as {self.status!r}); raise their damping, which may be "
                "an array (n,)",
                solution=self,
            )
        return self
