"""The Gaussian: unknown mean with a known scale, and unknown mean and scale."""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..scalars import as_choice, as_count, as_positive
from .family import Family, exp_excess, log_ratio

__all__ = ["Gaussian", "GaussianMean"]

_LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True)
class GaussianMean(Family):
    """N(theta, sigma^2 I) with sigma known; Fisher information I / sigma^2.

    Parameters
    ----------
    sigma : float
        Standard deviation, > 0.
    dim : int
        Length of the mean; for more than one, outcomes y are (..., dim).

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.models import GaussianMean
    >>> narrow = GaussianMean(sigma=0.5)
    >>> narrow.fisher(np.array([-2.0])).item()
    4.0
    >>> narrow.kl(np.array([-2.0]), np.array([2.0])).item()
    32.0
    """

    sigma: float = 1.0
    dim: int = 1

    def __post_init__(self):
        as_positive(self.sigma, "sigma")
        as_count(self.dim, "dim", least=1)

    @property
    def n_params(self):
        return int(self.dim)

    @property
    def outcome_ndim(self):
        return int(self.dim > 1)

    def _residual(self, theta, y):
        """(y - theta) / sigma, shape (..., dim)."""
        y = y if self.outcome_ndim else y[..., None]
        with np.errstate(over="ignore"):
            return (y - theta) / theta.dtype.type(self.sigma)

    def _log_likelihood(self, theta, y):
        constant = self.dim * (_LOG_2PI / 2 + np.log(self.sigma))
        return -self._half_square(theta, y) - theta.dtype.type(constant)

    def _half_square(self, theta, y):
        with np.errstate(over="ignore"):
            return 0.5 * np.square(self._residual(theta, y)).sum(axis=-1)

    def _score(self, theta, y):
        with np.errstate(over="ignore"):
            return self._residual(theta, y) / theta.dtype.type(self.sigma)

    def _fisher(self, theta):
        identity = np.eye(self.dim, dtype=theta.dtype) / theta.dtype.type(self.sigma) ** 2
        return np.broadcast_to(identity, (*theta.shape, self.dim)).copy()

    def _mean(self, theta):
        return theta if self.outcome_ndim else theta[..., 0]

    def _variance(self, theta):
        return np.full_like(self._mean(theta), self.sigma**2)

    def _sample(self, theta, rng, shape):
        shape = (*shape, self.dim) if self.outcome_ndim else shape
        return self._mean(theta) + theta.dtype.type(self.sigma) * rng.standard_normal(
            shape, theta.dtype
        )

    def _fit(self, y):
        return y.mean(axis=0)

    def _kl(self, theta, theta_new):
        return self._half_square(theta, self._mean(theta_new))

    def distance(self, theta, theta_new):
        """Fisher-Rao distance ``|theta - theta_new| / sigma``: this manifold is flat."""
        theta, theta_new = self._pair(theta, theta_new)
        return np.hypot.reduce(np.abs(self._residual(theta, self._mean(theta_new))), axis=-1)


@dataclass(frozen=True)
class Gaussian(Family):
    """N(mu, s^2), both unknown; the Fisher information is diagonal.

    ``diag(1/s^2, 2/s^2)`` in (mu, s), ``diag(1/s^2, 2)`` in (mu, log s) and
    ``diag(1/s^2, 1/(2 s^4))`` in (mu, s^2). The manifold has constant curvature -1/2
    (docs/math.md, N1).

    Parameters
    ----------
    parameter : {"sigma", "log_sigma", "variance"}
        What theta (..., 2) holds beside the mean.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.models import Gaussian
    >>> Gaussian().fisher(np.array([0.0, 2.0]))
    array([[0.25, 0.  ],
           [0.  , 0.5 ]])
    """

    parameter: str = "sigma"

    n_params = 2

    def __post_init__(self):
        as_choice(self.parameter, "parameter", ("sigma", "log_sigma", "variance"))

    @property
    def _domain(self):
        return f"(mean, {self.parameter}) with {self.parameter} > 0"

    def _inside(self, theta):
        return None if self.parameter == "log_sigma" else theta[..., 1] > 0

    # Scales are used by their logarithm and their inverse, so that a log_sigma far out gives
    # zeros and infinities, and a zero residual stays one.

    def _log_sigma(self, theta):
        s = theta[..., 1]
        return s if self.parameter == "log_sigma" else np.log(s) / self._power

    def _inverse(self, theta):
        """1 / sigma."""
        s = theta[..., 1]
        with np.errstate(over="ignore"):
            if self.parameter == "log_sigma":
                return np.exp(-s)
            return 1 / (np.sqrt(s) if self.parameter == "variance" else s)

    @property
    def _power(self):
        return 2 if self.parameter == "variance" else 1

    def _slope(self, inverse):
        """d log(sigma) / d theta_2."""
        if self.parameter == "log_sigma":
            return np.ones_like(inverse)
        with np.errstate(over="ignore"):
            return inverse**self._power / self._power

    def _log_ratio(self, theta, theta_new):
        """log(sigma / sigma_new), accurate."""
        if self.parameter == "log_sigma":
            return (theta - theta_new)[..., 1]
        return log_ratio(theta[..., 1], theta_new[..., 1]) / self._power

    def _log_likelihood(self, theta, y):
        z = _times(y - theta[..., 0], self._inverse(theta))
        with np.errstate(over="ignore"):
            return -0.5 * z * z - self._log_sigma(theta) - theta.dtype.type(_LOG_2PI / 2)

    def _score(self, theta, y):
        inverse = self._inverse(theta)
        z = _times(y - theta[..., 0], inverse)
        with np.errstate(over="ignore"):
            return np.stack([_times(z, inverse), (z * z - 1) * self._slope(inverse)], axis=-1)

    def _fisher(self, theta):
        inverse = self._inverse(theta)
        F = np.zeros((*theta.shape, 2), theta.dtype)
        with np.errstate(over="ignore"):
            F[..., 0, 0] = inverse**2
            F[..., 1, 1] = 2 * self._slope(inverse) ** 2
        return F

    def _root(self, theta):
        return np.sqrt(self._fisher(self._parameters(theta)))  # of a diagonal, zeros too

    def _mean(self, theta):
        return theta[..., 0]

    def _variance(self, theta):
        with np.errstate(over="ignore"):
            return (
                np.exp(2 * theta[..., 1])
                if self.parameter == "log_sigma"
                else (theta[..., 1] ** (2 // self._power))
            )

    def _sample(self, theta, rng, shape):
        sigma = np.sqrt(self._variance(theta))
        return theta[..., 0] + sigma * rng.standard_normal(shape, theta.dtype)

    def _fit(self, y):
        if np.ptp(y) == 0:
            raise InputError(f"all outcomes are {y[0]}, so sigma would be 0; use GaussianMean")
        variance = y.var()
        powers = {"sigma": np.sqrt(variance), "variance": variance}
        return np.array([y.mean(), powers.get(self.parameter, 0.5 * np.log(variance))])

    def _kl(self, theta, theta_new):
        shift = _times((theta - theta_new)[..., 0], self._inverse(theta_new))
        with np.errstate(over="ignore"):
            return 0.5 * exp_excess(2 * self._log_ratio(theta, theta_new)) + 0.5 * shift**2

    def distance(self, theta, theta_new):
        """Fisher-Rao distance ``sqrt(2) arccosh(1 + (dmu^2/2 + ds^2) / (2 s s_new))`` (N1)."""
        theta, theta_new = self._pair(theta, theta_new)
        shift = np.abs((theta - theta_new)[..., 0])
        # arccosh(1 + x) = 2 arcsinh(sqrt(x / 2)) and ds^2 / (s s_new) = 4 sinh^2(log(s/s_new) / 2)
        with np.errstate(over="ignore"):
            for scale in (theta, theta_new):
                shift = _times(shift, np.sqrt(self._inverse(scale)))
            half = np.hypot(
                shift / np.sqrt(8, dtype=theta.dtype),
                np.sinh(self._log_ratio(theta, theta_new) / 2),
            )
        return 2 * np.sqrt(2, dtype=theta.dtype) * np.arcsinh(half)


def _times(a, b):
    """a b, where 0 times infinity is 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(a == 0, np.zeros_like(b), a * b)
