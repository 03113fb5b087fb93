"""What a natural gradient step takes over from the step before it."""

import numbers
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .steps import two_steps

__all__ = ["HeavyBall", "ModelMomentum", "SpringMomentum"]


class _Momentum:
    """Base: the system's right-hand side, the step from its solution, and what is remembered."""

    def right_hand_side(self, gradient, lam, previous):
        return gradient

    def step(self, natural, previous, rate, gradient, apply):
        """The step, given ``natural = A^-1 b``; `apply` multiplies by A."""
        return -rate * natural

    def remember(self, step, rate):
        return step

    def _check(self):
        if not (isinstance(self.mu, numbers.Real) and 0 <= self.mu <= 1):
            raise InputError(f"mu is {self.mu!r}, expected a number from 0 to 1")


class NoMomentum(_Momentum):
    """The step of this gradient alone."""


@dataclass(frozen=True)
class HeavyBall(_Momentum):
    """d = mu d_ - rate A^-1 g, with d_ the last step taken.

    Parameters
    ----------
    mu : float in [0, 1]

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.optim.NaturalGradient(damping=0.1, momentum=ff.optim.HeavyBall(0.9)).momentum
    HeavyBall(mu=0.9)
    """

    mu: float

    def __post_init__(self):
        self._check()

    def step(self, natural, previous, rate, gradient, apply):
        return self.mu * previous - rate * natural


@dataclass(frozen=True)
class SpringMomentum(_Momentum):
    """SPRING: d = rate (mu d_ - A^-1 (g + mu (A - lambda I) d_)), docs/math.md R2.

    ``d / rate`` minimises ``g'd + 1/2 d'(F + l2 I)d + lambda/2 |d - mu d_|^2``: damping pulls to
    the last direction in place of zero, so that directions which this metric does not see are
    kept. `spring` is the same step from the coefficients of the samples.

    Parameters
    ----------
    mu : float in [0, 1]

    References
    ----------
    G. Goldshlager, N. Abrahamsen, L. Lin, 2024, arXiv:2401.10190.

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.optim.NaturalGradient(damping=0.1, momentum=ff.optim.SpringMomentum(0.9)).momentum
    SpringMomentum(mu=0.9)
    """

    mu: float

    def __post_init__(self):
        self._check()

    def right_hand_side(self, gradient, lam, previous):
        return gradient - lam * self.mu * previous

    def remember(self, step, rate):
        return step / rate if rate else np.zeros_like(step)


@dataclass(frozen=True)
class ModelMomentum(_Momentum):
    """d = rate (alpha D + mu d_), D = -A^-1 g, alpha and mu the best for the quadratic model.

    The model is ``g'd + 1/2 d'Ad``, see `two_steps` (docs/math.md, T2): an exact D has alpha = 1
    and mu = 0, an approximate one is mended.

    References
    ----------
    J. Martens, R. Grosse (2015), arXiv:1503.05671, section 7.

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.optim.NaturalGradient(damping=0.1, momentum=ff.optim.ModelMomentum()).momentum
    ModelMomentum()
    """

    def step(self, natural, previous, rate, gradient, apply):
        alpha, mu = two_steps(gradient, -natural, previous, -apply(natural), apply(previous))
        return rate * (mu * previous - alpha * natural)
