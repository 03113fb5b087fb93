"""What an optimizer works on: a model with its data, evaluated at points."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..arrays import as_array
from ..errors import InputError
from ..scalars import as_number

__all__ = ["Point", "Problem", "batches"]


@dataclass(frozen=True)
class Point:
    """A parameter vector with its loss; the gradient is formed when it is asked for."""

    theta: np.ndarray
    loss: float
    problem: "Problem" = field(repr=False)

    @cached_property
    def gradient(self):
        """(p,); None where the loss or the gradient is not finite."""
        if not np.isfinite(self.loss):
            return None
        try:
            given = self.problem.model.gradient(self.theta, self.problem.X, self.problem.y)
        except InputError:  # operands that gave a loss are right, so it overflowed
            return None
        gradient = as_array(given, "the gradient of the model")
        kinds = "fiuc" if self.theta.dtype.kind == "c" else "fiu"
        if gradient.shape != self.theta.shape or gradient.dtype.kind not in kinds:
            raise InputError(
                f"the gradient of the model is {gradient.dtype} of shape {gradient.shape}; theta "
                f"is {self.theta.dtype} of shape {self.theta.shape}"
            )
        return gradient if np.isfinite(gradient).all() else None

    @property
    def finite(self):
        """Whether a step may end here: the loss is finite, and the gradient if it will be used.

        After a batch the next step takes the gradient of another one.
        """
        if self.problem.pool is not None:
            return bool(np.isfinite(self.loss))
        return self.gradient is not None


@dataclass(frozen=True)
class Problem:
    """A model, the rows that loss and gradient are taken over, and the generator that draws.

    ``pool`` has all the rows where these are a batch of them.
    """

    model: object
    X: np.ndarray
    y: np.ndarray
    rng: np.random.Generator = field(repr=False)
    pool: tuple | None = field(repr=False, default=None)

    @property
    def all_rows(self):
        """(X, y) of the whole data."""
        return self.pool or (self.X, self.y)

    def at(self, theta):
        """The point theta; a step that overflowed gives a point whose loss is infinite."""
        if not np.isfinite(theta).all():
            return Point(theta, np.inf, self)
        loss = as_number(self.model.loss(theta, self.X, self.y), "the loss of the model")
        return Point(theta, loss, self)


def batches(problem, size):
    """Problems of `size` rows each, for ever: every pass over the data in a new order.

    Rows left over at the end of a pass, fewer than `size`, wait for another pass.
    """
    X, y = problem.all_rows
    while True:
        order = problem.rng.permutation(len(X))
        for start in range(0, len(X) - size + 1, size):
            rows = order[start : start + size]
            yield replace(problem, X=X[rows], y=None if y is None else y[rows], pool=(X, y))
