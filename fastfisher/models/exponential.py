"""The generic exponential family in its natural parameter."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from .family import Family

__all__ = ["ExponentialFamily"]


@dataclass(frozen=True)
class ExponentialFamily(Family):
    """log p(y | eta) = eta'T(y) - A(eta) + log h(y), with the functions that you give.

    Score ``T(y) - grad A``, Fisher information ``hess A``, and
    ``KL(eta || eta_new) = A(eta_new) - A(eta) - (eta_new - eta)' grad A(eta)`` (docs/math.md, K2).
    With m = grad A(eta) the natural gradient in eta is the plain gradient in m.

    Parameters
    ----------
    n_params : int
        k, the length of eta.
    log_partition, mean_statistic, fisher_matrix : callable
        A, its gradient and its Hessian: eta (..., k) -> (...), (..., k) and (..., k, k).
    statistic : callable
        T: y (...) -> (..., k).
    log_base : callable, optional
        log h: y (...) -> (...); 0 by default.
    sampler : callable, optional
        (eta, rng, shape) -> outcomes; `sample` is refused without it.
    contains : callable, optional
        eta (..., k) -> (...) bool, the natural parameter space; all of R^k by default.
    supports : callable, optional
        y (...) -> bool, the outcomes that can occur; all numbers by default.

    Notes
    -----
    The KL is a difference, so it loses digits for near parameters; the named families do not.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.models import ExponentialFamily
    >>> exponential = ExponentialFamily(               # p(y) = r exp(-r y), eta = -r
    ...     1, lambda eta: -np.log(-eta[..., 0]), lambda eta: -1 / eta,
    ...     lambda eta: eta[..., None] ** -2, lambda y: y[..., None],
    ...     contains=lambda eta: eta[..., 0] < 0)
    >>> exponential.fisher(np.array([-2.0])).item(), exponential.score(np.array([-2.0]), 0.75)
    (0.25, array([0.25]))
    """

    n_params: int
    log_partition: Callable = field(repr=False)
    mean_statistic: Callable = field(repr=False)
    fisher_matrix: Callable = field(repr=False)
    statistic: Callable = field(repr=False)
    log_base: Callable | None = field(repr=False, default=None)
    sampler: Callable | None = field(repr=False, default=None)
    contains: Callable | None = field(repr=False, default=None)
    supports: Callable | None = field(repr=False, default=None)

    _domain = "a point of the natural parameter space"

    def _inside(self, theta):
        return None if self.contains is None else self.contains(theta)

    def _possible(self, y):
        if self.supports is None:
            return super()._possible(y)
        return self.supports(y), "an outcome in the support"

    def _log_likelihood(self, theta, y):
        linear = (theta * self.statistic(y)).sum(axis=-1) - self.log_partition(theta)
        return linear if self.log_base is None else linear + self.log_base(y)

    def _score(self, theta, y):
        return self.statistic(y) - self.mean_statistic(theta)

    def _fisher(self, theta):
        return self.fisher_matrix(theta)

    def mean(self, theta):
        """E[T(y)] = grad A, shape (..., k)."""
        return self.mean_statistic(self._parameters(theta))

    def variance(self, theta):
        """Variances of T(y), the diagonal of hess A, shape (..., k)."""
        return np.einsum("...ii->...i", self.fisher(theta)).copy()

    def _sample(self, theta, rng, shape):
        if self.sampler is None:
            raise InputError("this family was made without a sampler; pass sampler=")
        return self.sampler(theta, rng, shape)

    def _kl(self, theta, theta_new):
        first_order = ((theta_new - theta) * self.mean_statistic(theta)).sum(axis=-1)
        return self.log_partition(theta_new) - self.log_partition(theta) - first_order
