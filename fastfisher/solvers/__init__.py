"""Algorithms over the passes and ops; each returns a `Solution`."""

from .batched import BatchedSolution
from .solution import STATUSES, Solution

__all__ = ["STATUSES", "BatchedSolution", "Solution"]
