"""Jeffreys' prior, its volume, and the description length that it gives (MDL)."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..errors import InputError
from .checks import check_count, check_number

__all__ = [
    "JeffreysPrior",
    "fia",
    "fia_penalty",
    "jeffreys",
    "jeffreys_volume",
    "nml_complexity",
]

_SETTINGS = {"epsabs": 1e-10, "epsrel": 1e-9, "limit": 200}
_NESTED = {"epsabs": 1e-6, "epsrel": 1e-6, "limit": 50}  # rounding at the edges allows no more


def _root_det(fisher):
    """theta -> sqrt(det I(theta)) of a family or of a function."""
    matrix = getattr(fisher, "fisher", fisher)

    def density(*theta):
        F = np.atleast_2d(np.asarray(matrix(np.array(theta, np.float64)), np.float64))
        value = float(F[0, 0]) if len(F) == 1 else float(np.linalg.det(F))
        if not value >= -1e-10 * abs(np.prod(F.diagonal())):
            raise InputError(f"det of the Fisher information is {value} at theta = {theta}")
        return math.sqrt(max(value, 0.0))  # of a singular matrix, rounding may leave less

    return density


def jeffreys_volume(fisher, bounds):
    """Integral of sqrt(det I(theta)): the number of distinguishable models, up to a constant.

    Parameters
    ----------
    fisher : family of `fastfisher.models`, or callable
        theta (p,) -> Fisher information (p, p) of one observation.
    bounds : sequence of p pairs, or of callables
        Limits of theta_1, theta_2, ...; a callable gets the parameters after its own, as in
        `scipy.integrate.nquad`. For one parameter a single pair will do.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If the integral diverges: the prior is improper. Pass bounds of the range that matters.

    Notes
    -----
    Adaptive quadrature, some 8 digits for one parameter and 5 for more; singular ends are fine.
    Its time grows steeply with p: seconds for two parameters.
    The volume does not depend on the parameters that are chosen (docs/math.md, V4).

    Examples
    --------
    >>> from fastfisher.models import Bernoulli
    >>> from fastfisher.stats import jeffreys_volume
    >>> round(jeffreys_volume(Bernoulli(), (0, 1)), 6)      # pi
    3.141593
    """
    from scipy.integrate import nquad

    bounds = list(bounds)
    if len(bounds) == 2 and all(np.isscalar(b) for b in bounds):
        bounds = [tuple(bounds)]
    settings = _SETTINGS if len(bounds) == 1 else _NESTED
    volume, error = _quietly(nquad, _root_det(fisher), bounds, opts=settings)
    if not (math.isfinite(volume) and error <= 1e-3 * volume):
        raise InputError(
            f"the integral of sqrt(det I) over {bounds} is {volume:.3g} with an error of "
            f"{error:.1g}: Jeffreys' prior is improper there, or too rough; pass finite bounds"
        )
    return float(volume)


def _quietly(integrate, *args, **settings):
    """(integral, its error), the error infinite where the integral seems to diverge."""
    import warnings

    from scipy.integrate import IntegrationWarning

    with warnings.catch_warnings(record=True) as said:
        # Rounding at singular ends stops the refinement early; there the error estimate decides.
        warnings.simplefilter("always", IntegrationWarning)
        value, error = integrate(*args, **settings)
    divergent = any("divergent" in str(warning.message) for warning in said)
    return value, math.inf if divergent else error


@dataclass(frozen=True)
class JeffreysPrior:
    """sqrt(I(theta)) / volume on an interval: the prior that no change of parameters changes.

    Parameters
    ----------
    fisher : family of `fastfisher.models` with one parameter, or callable
        theta (1,) -> Fisher information of one observation.
    bounds : (float, float)
    log_likelihood : callable, optional
        theta (float) -> log-likelihood of data: makes this the posterior; see `posterior`.

    """

    fisher: object
    bounds: tuple
    log_likelihood: object = field(default=None, repr=False)

    def __post_init__(self):
        bounds = self.bounds
        numbers = np.shape(bounds) == (2,) and np.asarray(bounds).dtype.kind in "fiu"
        if not (numbers and bounds[0] < bounds[1]):
            raise InputError(f"bounds are {bounds}, expected low < high, two numbers")
        matrix = getattr(self.fisher, "fisher", self.fisher)
        if not callable(matrix):
            raise InputError(f"fisher is {self.fisher!r}, expected a family or a function of theta")
        if getattr(self.fisher, "n_params", 1) != 1:
            raise InputError(f"{self.fisher} has {self.fisher.n_params} parameters, expected one")
        for theta in _inside(*bounds):
            shape = np.shape(matrix(np.array([theta])))
            if math.prod(shape) != 1:
                raise InputError(
                    f"the Fisher information has shape {shape}, expected that of one parameter"
                )

    @cached_property
    def volume(self):
        """Of the prior: the integral of sqrt(I)."""
        return jeffreys_volume(self.fisher, self.bounds)

    @cached_property
    def _peak(self):
        """Where the log-likelihood is highest, and its value: the density is scaled to order 1."""
        from scipy.optimize import minimize_scalar

        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError("a posterior needs finite bounds")
        with np.errstate(invalid="ignore"):  # of -inf, which a likelihood may be
            best = minimize_scalar(
                lambda t: -self._log_likelihood(t),
                bounds=self.bounds,
                method="bounded",
                options={"xatol": 1e-10 * (high - low)},
            )
        if best.fun == math.inf:
            raise InputError(
                f"log_likelihood is -inf wherever it was tried in {self.bounds}; pass bounds close "
                "round the mode"
            )
        return float(best.x), -float(best.fun)

    def _log_likelihood(self, theta):
        value = float(self.log_likelihood(theta))
        if not value < math.inf:
            raise InputError(f"log_likelihood({theta}) is {value}, expected a number or -inf")
        return value

    def _unnormalised(self, theta):
        density = _root_det(self.fisher)(theta)
        if self.log_likelihood is None:
            return density
        likelihood = self._relative_likelihood(theta)
        return density * likelihood if likelihood else 0.0  # at an end the density is infinite

    def _relative_likelihood(self, theta):
        """Of the peak; higher elsewhere if there are several modes."""
        try:
            return math.exp(self._log_likelihood(theta) - self._peak[1])
        except OverflowError:
            raise InputError(
                f"log_likelihood is higher by far at {theta} than at the mode found, "
                f"{self._peak[0]}; pass bounds with one mode"
            ) from None

    def _integral(self, low, high, f=lambda t: 1.0, scale=None):
        """With an error of at most 1e-3 of `scale`, by default of itself."""
        from scipy.integrate import quad

        points = None
        if self.log_likelihood is not None:  # steps towards the peak, however narrow it is
            steps = (self.bounds[1] - self.bounds[0]) * 10.0 ** -np.arange(1, 8)
            around = self._peak[0] + np.concatenate([-steps, [0], steps])
            points = around[(around > low) & (around < high)]

        def integrand(t):
            return f(t) * self._unnormalised(t)

        value, error = _quietly(quad, integrand, low, high, points=points, **_SETTINGS)
        scale = value if scale is None else scale
        if not (math.isfinite(value) and scale > 0 and error <= 1e-3 * scale):
            what = "prior" if self.log_likelihood is None else "posterior"
            raise InputError(
                f"an integral of the {what} over ({low:.6g}, {high:.6g}) is {value:.3g} with an "
                f"error of {error:.1g}; pass bounds of the range that matters, with one mode"
            )
        return value

    @cached_property
    def _total(self):
        if self.log_likelihood is None:
            return self.volume
        return self._integral(*self.bounds)

    def pdf(self, theta):
        """Density at theta, a float or an array; zero outside the bounds."""
        low, high = self.bounds
        values = [
            self._unnormalised(t) / self._total if low <= t <= high else 0.0
            for t in np.ravel(theta)
        ]
        return np.reshape(values, np.shape(theta))[()]

    def mass(self, low, high):
        """Probability of the interval (low, high)."""
        if not low <= high:
            raise InputError(f"the interval is ({low}, {high}), expected low <= high")
        low, high = np.clip([low, high], *self.bounds)
        return self._integral(low, high, scale=self._total) / self._total

    def mean(self):
        """Expectation of theta."""
        scale = (self.bounds[1] - self.bounds[0]) * self._total
        return self._integral(*self.bounds, f=lambda t: t, scale=scale) / self._total

    def interval(self, level=0.95):
        """Central interval of this probability, (low, high)."""
        from scipy.optimize import brentq

        level = check_number(level, "level", 0, 1)

        def quantile(q):
            return brentq(lambda t: self.mass(self.bounds[0], t) - q, *self.bounds, xtol=1e-10)

        return quantile((1 - level) / 2), quantile((1 + level) / 2)

    def posterior(self, log_likelihood):
        """The posterior given log_likelihood: theta (float) -> float, of one mode.

        -inf excludes a theta. Modes are not searched for: of two narrow ones the second can be
        missed, so pass bounds that hold one.
        """
        return JeffreysPrior(self.fisher, self.bounds, log_likelihood)


def _inside(low, high):
    """Points between the bounds where the information is tried."""
    if math.isfinite(high - low):
        return [low + share * (high - low) for share in (1e-6, 0.5, 1 - 1e-6)]
    if math.isfinite(low):
        return [low + 1.0]
    return [high - 1.0] if math.isfinite(high) else [0.0]


def jeffreys(fisher, bounds):
    """Jeffreys' prior of one parameter on an interval: sqrt(I(theta)) / volume.

    Parameters
    ----------
    fisher : family of `fastfisher.models` with one parameter, or callable
        theta (1,) -> Fisher information of one observation.
    bounds : (float, float)

    Returns
    -------
    JeffreysPrior
        With pdf, mass, mean, interval, volume, and `posterior` of a log-likelihood.

    Raises
    ------
    InputError
        Not of one parameter, or bounds outside its domain; later, from an integral that is not
        reached or a log-likelihood that is NaN or +inf.

    Examples
    --------
    >>> from fastfisher.models import Bernoulli
    >>> from fastfisher.stats import jeffreys
    >>> prior = jeffreys(Bernoulli(), (0.0, 1.0))            # Beta(1/2, 1/2)
    >>> round(prior.mass(0.6, 0.7), 4), round(prior.mass(0.9, 1.0), 4)
    (0.0669, 0.2048)
    """
    return JeffreysPrior(fisher, tuple(bounds) if np.iterable(bounds) else bounds)


def fia_penalty(n, n_params, volume):
    """(d/2) log(n / 2 pi) + log volume: what a model of d parameters pays for its freedom.

    Parameters
    ----------
    n : int
        Number of observations.
    n_params : int
        d.
    volume : float
        `jeffreys_volume` of the model.

    References
    ----------
    J. Rissanen (1996), IEEE Transactions on Information Theory 42; A. Ly et al. (2017),
    arXiv:1705.01064; docs/math.md V5.

    Examples
    --------
    >>> import math
    >>> from fastfisher.stats import fia_penalty, nml_complexity
    >>> round(fia_penalty(100, 1, math.pi), 5), round(nml_complexity(100), 5)
    (2.52838, 2.58097)
    """
    n, n_params = check_count(n, "n", 1), check_count(n_params, "n_params", 0)
    volume = check_number(volume, "volume", 0)
    return 0.5 * n_params * math.log(n / (2 * math.pi)) + math.log(volume)


def fia(llf, n, n_params, volume):
    """Fisher information approximation of the description length, -llf + `fia_penalty`, in nats.

    The model with the smallest wins. llf is the log-likelihood of the sample at its maximum.
    """
    return fia_penalty(n, n_params, volume) - check_number(llf, "llf")


def nml_complexity(n, n_classes=2):
    """log of the sum over all data of their maximised likelihood, exact, for a categorical.

    The penalty that `fia_penalty` approximates; the normalised maximum likelihood of data is
    ``-llf + nml_complexity``. n_classes = 2 is the Bernoulli.

    References
    ----------
    P. Kontkanen, P. Myllymaki (2007), Information Processing Letters 103 (the recurrence in the
    number of classes).
    """
    for name, value, least in (("n", n, 0), ("n_classes", n_classes, 1)):
        check_count(value, name, least)
    if n == 0 or n_classes == 1:
        return 0.0
    from scipy.special import gammaln, xlogy

    h = np.arange(n + 1)
    logs = gammaln(n + 1) - gammaln(h + 1) - gammaln(n - h + 1) + xlogy(h, h / n)
    logs += xlogy(n - h, (n - h) / n)
    before, complexity = 1.0, float(np.exp(logs).sum())
    for k in range(1, n_classes - 1):
        before, complexity = complexity, complexity + n / k * before
    return math.log(complexity)
