"""What an optimizer works on: a model with its data, evaluated at points."""

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Point", "Problem"]


@dataclass(frozen=True)
class Point:
    """A parameter vector with its loss and gradient; no gradient where the loss is not finite."""

    theta: np.ndarray
    loss: float
    gradient: np.ndarray | None

    @property
    def finite(self):
        return self.gradient is not None


@dataclass(frozen=True)
class Problem:
    """A model, its data and the random generator that draws batches and labels."""

    model: object
    X: np.ndarray
    y: np.ndarray
    rng: np.random.Generator = field(repr=False)

    def at(self, theta):
        """The point theta; a step that overflowed gives a point whose loss is infinite."""
        if not np.isfinite(theta).all():
            return Point(theta, np.inf, None)
        loss = float(self.model.loss(theta, self.X, self.y))
        if not np.isfinite(loss):
            return Point(theta, loss, None)
        gradient = self.model.gradient(theta, self.X, self.y)
        return Point(theta, loss, gradient if np.isfinite(gradient).all() else None)
