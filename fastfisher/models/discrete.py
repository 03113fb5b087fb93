"""Bernoulli and Poisson, each in its mean and in its natural parameter."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, gammaln, xlogy

from ..errors import InputError
from ..scalars import as_choice
from .categorical import kl_divergence
from .family import Family, exp_excess, log_ratio

__all__ = ["Bernoulli", "Poisson"]

_MOST = 9e18  # a Poisson rate beyond it has draws that int64 cannot hold


def _softplus(z):
    return np.logaddexp(np.zeros((), z.dtype), z)


@dataclass(frozen=True)
class Bernoulli(Family):
    """A coin: y is 1 with probability p, else 0.

    Fisher information ``1 / (p (1 - p))`` in p, ``p (1 - p)`` in the logit log(p / (1 - p)).

    Parameters
    ----------
    parameter : {"mean", "logit"}
        What theta (..., 1) holds.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.models import Bernoulli
    >>> coin, theta = Bernoulli(), np.array([0.5])
    >>> coin.score(theta, [0, 1]).ravel(), coin.fisher(theta).item()
    (array([-2.,  2.]), 4.0)
    """

    parameter: str = "mean"

    def __post_init__(self):
        as_choice(self.parameter, "parameter", ("mean", "logit"))

    n_params = 1
    _domain = "a probability in [0, 1]"

    def _inside(self, theta):
        if self.parameter == "mean":
            return (theta[..., 0] >= 0) & (theta[..., 0] <= 1)
        return None

    def _possible(self, y):
        return (y == 0) | (y == 1), "0 or 1"

    def _log_p(self, theta):
        """log of the probabilities of 0 and 1, shape (..., 2)."""
        if self.parameter == "logit":
            return -_softplus(theta * np.array([1, -1], theta.dtype))
        with np.errstate(divide="ignore"):
            return np.concatenate([np.log1p(-theta), np.log(theta)], axis=-1)

    def _log_likelihood(self, theta, y):
        log_p = self._log_p(theta)
        return np.where(y == 1, log_p[..., 1], log_p[..., 0])

    def _score(self, theta, y):
        t, y = theta, y[..., None]
        if self.parameter == "logit":
            return np.where(y == 1, expit(-t), -expit(t))
        with np.errstate(divide="ignore"):
            return np.where(y == 1, 1 / t, -1 / (1 - t))

    def _fisher(self, theta):
        with np.errstate(divide="ignore"):
            return self._variance(theta)[..., None, None] ** (-1 if self.parameter == "mean" else 1)

    def _mean(self, theta):
        return (expit(theta) if self.parameter == "logit" else theta)[..., 0]

    def _variance(self, theta):
        t = theta[..., 0]
        return expit(t) * expit(-t) if self.parameter == "logit" else t * (1 - t)

    def _sample(self, theta, rng, shape):
        return (rng.random(shape) < self._mean(theta)).astype(np.int64)

    def _fit(self, y):
        p = y.mean()
        with np.errstate(divide="ignore"):
            return np.log(p) - np.log1p(-p) if self.parameter == "logit" else p

    def _kl(self, theta, theta_new):
        return kl_divergence(self._log_p(theta), self._log_p(theta_new))

    def distance(self, theta, theta_new):
        """Fisher-Rao distance ``2 |asin sqrt(p) - asin sqrt(q)|``, at most pi (N3)."""
        p, q = map(self._mean, self._pair(theta, theta_new))
        return 2 * np.abs(np.arcsin(np.sqrt(p)) - np.arcsin(np.sqrt(q)))


@dataclass(frozen=True)
class Poisson(Family):
    """Counts y = 0, 1, 2, ... with mean r.

    Fisher information ``1 / r`` in the rate r, ``r`` in log r.

    Parameters
    ----------
    parameter : {"rate", "log"}
        What theta (..., 1) holds.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.models import Poisson
    >>> Poisson().fisher(np.array([4.0])).item(), Poisson().score(np.array([4.0]), 6).item()
    (0.25, 0.5)
    """

    parameter: str = "rate"

    def __post_init__(self):
        as_choice(self.parameter, "parameter", ("rate", "log"))

    n_params = 1
    _domain = "a rate >= 0"

    def _inside(self, theta):
        return theta[..., 0] >= 0 if self.parameter == "rate" else None

    def _possible(self, y):
        with np.errstate(invalid="ignore"):
            return (y >= 0) & (y == np.floor(y)) & np.isfinite(y), "a count 0, 1, 2, ..."

    def _mean(self, theta):
        if self.parameter == "rate":
            return theta[..., 0]
        with np.errstate(over="ignore"):
            return np.exp(theta[..., 0])

    _variance = _mean

    def _log_likelihood(self, theta, y):
        rate = self._mean(theta)
        with np.errstate(over="ignore", invalid="ignore"):
            log_terms = xlogy(y, rate) if self.parameter == "rate" else y * theta[..., 0]
            return np.where(np.isinf(rate), -rate, log_terms - rate) - gammaln(y + 1)

    def _score(self, theta, y):
        rate = self._mean(theta)
        if self.parameter == "log":
            return (y - rate)[..., None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return (np.where(y == 0, np.zeros_like(rate), y / rate) - 1)[..., None]

    def _fisher(self, theta):
        with np.errstate(divide="ignore"):
            return self._mean(theta)[..., None, None] ** (1 if self.parameter == "log" else -1)

    def _sample(self, theta, rng, shape):
        rate = self._mean(theta)
        if np.any(rate > _MOST):
            raise InputError(f"the largest rate is {rate.max():.3g}, too large to draw counts of")
        return rng.poisson(rate, shape)

    def _fit(self, y):
        with np.errstate(divide="ignore"):
            return np.log(y.mean()) if self.parameter == "log" else y.mean()

    def _kl(self, theta, theta_new):
        rate, rate_new = self._mean(theta), self._mean(theta_new)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if self.parameter == "log":
                t = (theta_new - theta)[..., 0]
            else:
                t = log_ratio(rate_new, rate)
            kl = np.where(rate > 0, rate * exp_excess(t), rate_new)
            return np.where(t == 0, np.zeros_like(kl), kl)  # where the rate overflows too

    def distance(self, theta, theta_new):
        """Fisher-Rao distance ``2 |sqrt(r) - sqrt(r_new)|``."""
        r, s = map(self._mean, self._pair(theta, theta_new))
        return 2 * np.abs(np.sqrt(r) - np.sqrt(s))
