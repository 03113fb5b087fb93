"""Algorithms over the passes and ops; each returns a `Solution`."""

from .solution import STATUSES, Solution

__all__ = ["STATUSES", "Solution"]
