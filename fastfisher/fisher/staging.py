"""Rows that wait until there are enough of them for matrix-matrix speed."""

import numpy as np

from ..arrays import Scores

__all__ = ["Staging"]


class Staging:
    """Up to `capacity` weighted rows (p,), in the dtype of the first one."""

    def __init__(self, capacity, p, dtype):
        self.dtype = dtype
        self._rows = np.empty((capacity, p), dtype)
        self._weights = np.empty(capacity)
        self._count = 0

    def takes(self, scores):
        """True if these rows can be added as they are."""
        return scores.dtype == self.dtype and self._count + scores.shape[0] <= len(self._rows)

    def add(self, scores, weights):
        """Copy rows and their weights (ones for None)."""
        lo, hi = self._count, self._count + scores.shape[0]
        self._rows[lo:hi] = scores.rows(0, hi - lo)
        self._weights[lo:hi] = 1.0 if weights is None else weights
        self._count = hi

    def decay(self, decay):
        """Multiply the weights."""
        self._weights[: self._count] *= decay

    def take(self):
        """The rows as scores, and their weights (None for ones); none are left."""
        count, self._count = self._count, 0
        weights = self._weights[:count]
        plain = bool(np.all(weights == 1))
        return Scores(self._rows[:count], self.dtype), None if plain else weights

    def __len__(self):
        return self._count
