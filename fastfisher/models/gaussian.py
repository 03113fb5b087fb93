"""The Gaussian: unknown mean with a known scale, and unknown mean and scale."""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .family import Family, exp_excess

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
        if not 0 < self.sigma < np.inf:
            raise InputError(f"sigma is {self.sigma}, expected a finite number > 0")
        if int(self.dim) != self.dim or self.dim < 1:
            raise InputError(f"dim is {self.dim}, expected an integer >= 1")

    @property
    def n_params(self):
        return int(self.dim)

    @property
    def outcome_ndim(self):
        return int(self.dim > 1)

    def _residual(self, theta, y):
        """(y - theta) / sigma, shape (..., dim)."""
        return ((y if self.outcome_ndim else y[..., None]) - theta) / theta.dtype.type(self.sigma)

    def _log_likelihood(self, theta, y):
        z = self._residual(theta, y)
        constant = self.dim * (_LOG_2PI / 2 + np.log(self.sigma))
        return -0.5 * np.square(z).sum(axis=-1) - theta.dtype.type(constant)

    def _score(self, theta, y):
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

    def _kl(self, theta, theta_new):
        return 0.5 * np.square(self._residual(theta, self._mean(theta_new))).sum(axis=-1)

    def distance(self, theta, theta_new):
        """Fisher-Rao distance ``|theta - theta_new| / sigma``: this manifold is flat."""
        return np.sqrt(2 * self.kl(theta, theta_new))


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
        if self.parameter not in ("sigma", "log_sigma", "variance"):
            raise InputError(
                f"parameter is {self.parameter!r}, expected 'sigma', 'log_sigma' or 'variance'"
            )

    @property
    def _domain(self):
        return f"(mean, {self.parameter}) with {self.parameter} > 0"

    def _inside(self, theta):
        return None if self.parameter == "log_sigma" else theta[..., 1] > 0

    def _sigma(self, theta):
        s = theta[..., 1]
        if self.parameter == "log_sigma":
            return np.exp(s)
        return np.sqrt(s) if self.parameter == "variance" else s

    def _slope(self, sigma):
        """d sigma / d theta_2."""
        if self.parameter == "log_sigma":
            return sigma
        return 0.5 / sigma if self.parameter == "variance" else np.ones_like(sigma)

    def _log_likelihood(self, theta, y):
        sigma = self._sigma(theta)
        z = (y - theta[..., 0]) / sigma
        return -0.5 * z * z - np.log(sigma) - theta.dtype.type(_LOG_2PI / 2)

    def _score(self, theta, y):
        sigma = self._sigma(theta)
        z = (y - theta[..., 0]) / sigma
        return np.stack([z / sigma, (z * z - 1) * (self._slope(sigma) / sigma)], axis=-1)

    def _fisher(self, theta):
        sigma = self._sigma(theta)
        F = np.zeros((*theta.shape, 2), theta.dtype)
        F[..., 0, 0] = sigma**-2
        F[..., 1, 1] = 2 * (self._slope(sigma) / sigma) ** 2
        return F

    def _mean(self, theta):
        return theta[..., 0]

    def _variance(self, theta):
        return self._sigma(theta) ** 2

    def _sample(self, theta, rng, shape):
        return theta[..., 0] + self._sigma(theta) * rng.standard_normal(shape, theta.dtype)

    def _kl(self, theta, theta_new):
        old, new = self._sigma(theta), self._sigma(theta_new)
        if self.parameter == "log_sigma":
            t = 2 * (theta - theta_new)[..., 1]
        elif self.parameter == "variance":
            t = np.log1p((theta - theta_new)[..., 1] / theta_new[..., 1])
        else:
            t = 2 * np.log1p((old - new) / new)
        return 0.5 * exp_excess(t) + 0.5 * ((theta - theta_new)[..., 0] / new) ** 2

    def distance(self, theta, theta_new):
        """Fisher-Rao distance ``sqrt(2) arccosh(1 + (dmu^2/2 + ds^2) / (2 s s_new))`` (N1)."""
        theta, theta_new = self._parameters(theta), self._parameters(theta_new, "theta_new")
        old, new = self._sigma(theta), self._sigma(theta_new)
        squares = (theta - theta_new)[..., 0] ** 2 / 2 + (old - new) ** 2
        # arccosh(1 + x) = 2 arcsinh(sqrt(x / 2)), which keeps small distances
        return 2 * np.sqrt(2, dtype=theta.dtype) * np.arcsinh(np.sqrt(squares / (4 * old * new)))
