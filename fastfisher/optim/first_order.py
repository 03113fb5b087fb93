"""Gradient descent and Adam."""

from dataclasses import dataclass

import numpy as np

from ..arrays import as_array
from ..errors import InputError
from ..scalars import as_choice, as_flag, as_number, as_real
from .power import check_power
from .schedules import check_rate, rate_at
from .structures import structured_metric

__all__ = ["Adam", "AdamState", "GradientDescent"]


class _FirstOrder:
    """An optimizer whose step needs the gradient alone."""

    def __post_init__(self):
        check_rate(self.learning_rate)

    def step(self, problem, point, state):
        state = self.start(point.theta) if state is None else state
        seen = self._seen(problem, point)
        with np.errstate(over="ignore", invalid="ignore"):
            delta, state = self.update(point.gradient, state, **seen)
            theta = point.theta + delta
        return problem.at(theta), state, {}

    def _seen(self, problem, point):
        """What `update` is told besides the gradient."""
        return {}


@dataclass(frozen=True)
class GradientDescent(_FirstOrder):
    """theta <- theta - learning_rate * gradient.

    Parameters
    ----------
    learning_rate : float > 0, or callable
        A callable is given the step's number 1, 2, ... and answers its rate.
    """

    learning_rate: object

    def start(self, theta):
        """The number of steps taken."""
        return 0

    def update(self, gradient, state=0):
        """(step, state)."""
        return -rate_at(self.learning_rate, state + 1) * np.asarray(gradient), state + 1


SECOND_MOMENTS = ("gradient", "fisher")


@dataclass(frozen=True)
class AdamState:
    """Moving averages of the gradient and of its square, the number of steps, the largest v^."""

    mean: np.ndarray
    square: np.ndarray
    steps: int = 0
    largest: np.ndarray | None = None


@dataclass(frozen=True)
class Adam(_FirstOrder):
    """Adam: a diagonal Fisher to the power 1/2, with momentum (docs/math.md, M1-M4).

    ``m = b1 m + (1-b1) g``, ``v = b2 v + (1-b2) q``, step ``-learning_rate * m^ / (v^^power +
    eps)`` with ``m^ = m/(1-b1^t)`` and ``v^ = v/(1-b2^t)``. What q is has two answers:

    - ``second_moment="gradient"``: ``g^2``, the square of the mean gradient; this is Adam. v^ is
      the diagonal of the empirical Fisher for batches of one sample only: for a mean of B
      gradients its variance part is divided by B.
    - ``second_moment="fisher"``: the mean of the squares of the scores, the diagonal of the
      empirical Fisher (F11) for every batch size.

    A single step may be up to 7.27 learning rates long at the defaults (M3).

    Parameters
    ----------
    learning_rate : float > 0, or callable
        A callable is given the step's number 1, 2, ... and answers its rate.
    beta1, beta2 : float in [0, 1)
    eps : float >= 0
        With 0 the steps do not depend on the scale of the gradient; 0/0 counts as no step.
    second_moment : {"gradient", "fisher"}
    power : float in (0, 1]
        1/2 is Adam; 1 with ``second_moment="fisher"`` the diagonal natural gradient.
    amsgrad : bool
        Divide by the largest v^ so far, so that steps never grow again.

    References
    ----------
    D. P. Kingma, J. Ba (2015), arXiv:1412.6980, algorithm 1; S. Reddi, S. Kale, S. Kumar (2018),
    On the convergence of Adam and beyond, ICLR.

    Examples
    --------
    >>> import numpy as np
    >>> adam = Adam(0.1, eps=0.0)
    >>> step, state = adam.update(np.array([5.0, -0.01]), adam.start(np.zeros(2)))
    >>> step
    array([-0.1,  0.1])
    """

    learning_rate: object
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    second_moment: str = "gradient"
    power: float = 0.5
    amsgrad: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("beta1", "beta2"):
            if not 0 <= as_number(getattr(self, name), name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected a number in [0, 1)")
        as_real(self.eps, "eps")
        as_choice(self.second_moment, "second_moment", SECOND_MOMENTS)
        check_power(self.power)
        as_flag(self.amsgrad, "amsgrad")

    def start(self, theta):
        """The state before the first step."""
        zeros = np.zeros_like(theta)
        return AdamState(zeros, zeros.copy(), largest=zeros.copy() if self.amsgrad else None)

    def update(self, gradient, state, squares=None):
        """(step, new state) for one gradient (p,); the state that came in is left as it is.

        ``squares`` (p,) is q where it is not the square of the gradient.
        """
        g, t = as_array(gradient, "gradient"), state.steps + 1
        if g.shape != state.mean.shape:
            raise InputError(f"gradient has shape {g.shape}, the state {state.mean.shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            m = self.beta1 * state.mean + (1 - self.beta1) * g
            q = g * g if squares is None else squares
            v = self.beta2 * state.square + (1 - self.beta2) * q
        # A step of 0 would follow, and after an overflow nothing else.
        if not np.isfinite(v).all():
            raise InputError(f"the square of the gradient overflows {v.dtype}; scale the loss down")
        if not self.eps and squares is None and np.any((v == 0) & (g != 0)):
            raise InputError(f"the square of the gradient vanishes in {v.dtype}; take an eps > 0")
        top = -rate_at(self.learning_rate, t) / (1 - self.beta1**t) * m
        corrected = v / (1 - self.beta2**t)
        largest = np.maximum(state.largest, corrected) if self.amsgrad else None
        scale = corrected if largest is None else largest
        bottom = (np.sqrt(scale) if self.power == 0.5 else scale**self.power) + self.eps
        step = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
        return step, AdamState(m, v, t, largest)

    def _seen(self, problem, point):
        if self.second_moment == "gradient":
            return {}
        metric = structured_metric(
            problem.model,
            point.theta,
            problem.X,
            problem.y,
            structure="diagonal",
            fisher="empirical",
        )
        return {"squares": metric.diagonal()}
