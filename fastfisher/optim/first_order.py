"""Gradient descent and Adam."""

import math
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

__all__ = ["Adam", "AdamState", "GradientDescent"]


class _FirstOrder:
    """An optimizer whose step needs the gradient alone."""

    def __post_init__(self):
        if not 0 < self.learning_rate < math.inf:
            raise InputError(
                f"learning_rate is {self.learning_rate}, expected a positive finite number"
            )

    def step(self, problem, point, state):
        state = self.start(point.theta) if state is None else state
        delta, state = self.update(point.gradient, state)
        with np.errstate(over="ignore", invalid="ignore"):
            theta = point.theta + delta
        return problem.at(theta), state, {}


@dataclass(frozen=True)
class GradientDescent(_FirstOrder):
    """theta <- theta - learning_rate * gradient."""

    learning_rate: float

    def start(self, theta):
        """No state."""
        return ()

    def update(self, gradient, state=()):
        """(step, state)."""
        return -self.learning_rate * np.asarray(gradient), state


@dataclass(frozen=True)
class AdamState:
    """Moving averages of the gradient and of its square, and the number of steps taken."""

    mean: np.ndarray
    square: np.ndarray
    steps: int = 0


@dataclass(frozen=True)
class Adam(_FirstOrder):
    """Adam: the gradient's moving average over the root of its square's (docs/math.md, M1).

    ``m = b1 m + (1-b1) g``, ``v = b2 v + (1-b2) g^2``, step ``-learning_rate * m^ / (sqrt(v^) +
    eps)`` with ``m^ = m/(1-b1^t)`` and ``v^ = v/(1-b2^t)``. v^ is the diagonal of the empirical
    Fisher for batches of one sample only; for a mini-batch mean its variance part is divided by
    the batch size. A single step may be up to 7.27 learning rates long at the defaults (M3).

    Parameters
    ----------
    learning_rate : float > 0
    beta1, beta2 : float in [0, 1)
    eps : float >= 0
        With 0 the steps do not depend on the scale of the gradient; 0/0 counts as no step.

    References
    ----------
    D. P. Kingma, J. Ba (2015), arXiv:1412.6980, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> adam = Adam(0.1, eps=0.0)
    >>> step, state = adam.update(np.array([5.0, -0.01]), adam.start(np.zeros(2)))
    >>> step
    array([-0.1,  0.1])
    """

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self):
        super().__post_init__()
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected a number in [0, 1)")
        if not 0 <= self.eps < math.inf:
            raise InputError(f"eps is {self.eps}, expected a finite number >= 0")

    def start(self, theta):
        """The state before the first step."""
        return AdamState(np.zeros_like(theta), np.zeros_like(theta))

    def update(self, gradient, state):
        """(step, new state) for one gradient (p,); the state that came in is left as it is."""
        g = np.asarray(gradient)
        t = state.steps + 1
        m = self.beta1 * state.mean + (1 - self.beta1) * g
        v = self.beta2 * state.square + (1 - self.beta2) * g * g
        top = -self.learning_rate / (1 - self.beta1**t) * m
        bottom = np.sqrt(v / (1 - self.beta2**t)) + self.eps
        step = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
        return step, AdamState(m, v, t)
