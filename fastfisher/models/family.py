"""What all families share: parameters and outcomes checked at the door, then closed forms."""

import numpy as np

from ..arrays import as_array
from ..errors import InputError
from ..scalars import as_count, as_generator
from .checks import check_floating

__all__ = ["Family", "exp_excess", "log_ratio"]


def exp_excess(t):
    """e^t - 1 - t >= 0 without cancellation near zero."""
    series = np.ones_like(t)
    small = np.clip(t, -0.1, 0.1)
    for k in range(9, 2, -1):  # 0.1^8 / 9! is below the roundoff of double
        series = 1 + small / k * series
    with np.errstate(over="ignore", invalid="ignore"):
        large = np.where(t == np.inf, t, np.expm1(t) - t)
        return np.where(np.abs(t) < 0.1, small * small / 2 * series, large)


def log_ratio(a, b):
    """log(a / b), accurate where they are near and where they are far apart."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        near = np.abs(a - b) <= b / 2
        return np.where(near, np.log1p((a - b) / b), np.log(a) - np.log(b))


class Family:
    """A distribution p(y | theta) with score, Fisher information and KL in closed form.

    The last axis of theta holds the `n_params` parameters; the axes before it are broadcast with
    those of y, so one theta (k,) serves many outcomes (n,), and theta (n, k) is a parameter for
    each. Results have the dtype of theta, float32 or float64. Where a parameter lies on the
    boundary of its domain results may be infinite, never NaN.

    Raises
    ------
    InputError
        From every method, for a theta outside its domain or an outcome that cannot occur.
    """

    outcome_ndim = 0
    _domain = "finite"

    # What a family supplies; theta and y have been checked.

    def _inside(self, theta):
        """Where theta lies in its domain, without the last axis; None for everywhere."""
        return None

    def _possible(self, y):
        """Where y can occur, and the words for what is expected."""
        return np.isfinite(y), "finite numbers"

    # What it offers.

    def log_likelihood(self, theta, y):
        """log p(y | theta), shape (...)."""
        theta = self._parameters(theta)
        return self._log_likelihood(theta, self._outcomes(y, theta))

    def score(self, theta, y):
        """Gradient of log p(y | theta) in theta, shape (..., k). docs/math.md F1."""
        theta = self._parameters(theta)
        return self._score(theta, self._outcomes(y, theta))

    def fisher(self, theta):
        """Exact Fisher information of one observation, shape (..., k, k). docs/math.md F2."""
        return self._fisher(self._parameters(theta))

    def exact_scores(self, theta):
        """Rows E (..., m, k) and weights w (..., m), sum w = 1: fisher = E' diag(w) E (F4)."""
        root = np.sqrt(self.fisher(theta)) if self.n_params == 1 else self._root(theta)
        m = root.shape[-1]
        rows = np.sqrt(m, dtype=root.dtype) * root.swapaxes(-1, -2)
        return rows, np.full(rows.shape[:-1], 1 / m, rows.dtype)

    def _root(self, theta):
        try:
            return np.linalg.cholesky(self.fisher(theta))
        except np.linalg.LinAlgError:
            raise InputError(
                f"the Fisher information is singular to working precision at theta = {theta}, so "
                "it has no exact scores there"
            ) from None

    def mean(self, theta):
        """E[y], shape (...)."""
        return self._mean(self._parameters(theta))

    def variance(self, theta):
        """Var[y], shape (...)."""
        return self._variance(self._parameters(theta))

    def sample(self, theta, rng, size=None):
        """Outcomes drawn from p(. | theta), shape (size, ...); rng is a Generator or a seed."""
        theta = self._parameters(theta)
        sizes = [] if size is None else np.atleast_1d(size).tolist()
        size = tuple(as_count(length, "size") for length in sizes)
        return self._sample(theta, as_generator(rng), (*size, *theta.shape[:-1]))

    def fit(self, y):
        """Maximum-likelihood theta (k,) of outcomes y (n, ...), in double.

        Raises
        ------
        InputError
            No outcomes, no closed form, or an estimate at infinity, as a logit of equal outcomes.
        """
        y = self._outcomes(y, np.zeros(self.n_params))
        if len(np.atleast_1d(y)) == 0:
            raise InputError("y is empty; pass at least one outcome")
        theta = np.atleast_1d(self._fit(np.atleast_1d(y)))
        if not np.isfinite(theta).all():
            raise InputError(
                f"the estimate is {theta}: y has {len(np.unique(y))} different outcomes, too few "
                f"for {self}"
            )
        return theta

    def _fit(self, y):
        raise InputError(f"{self} has no closed-form estimate; minimize the loss of GLM(family, 0)")

    def kl(self, theta, theta_new):
        """KL(p(. | theta) || p(. | theta_new)), shape (...), accurate for near parameters too.

        Infinite where theta_new excludes what theta allows. docs/math.md K1, K2.
        """
        return self._kl(*self._pair(theta, theta_new))

    # The door.

    def _parameters(self, theta, name="theta"):
        theta = check_floating(theta, name, (..., self.n_params))
        inside = self._inside(theta)
        if inside is not None and not np.all(inside):
            where = tuple(int(i) for i in np.argwhere(~np.atleast_1d(inside))[0])
            which = list(where) if theta.ndim > 1 else ""
            raise InputError(
                f"{name}{which} is {np.atleast_2d(theta)[where]}, expected {self._domain}"
            )
        return theta

    def _pair(self, theta, theta_new):
        """Two checked parameters, of which one may serve many of the other."""
        theta, theta_new = self._parameters(theta), self._parameters(theta_new, "theta_new")
        try:
            np.broadcast_shapes(theta.shape, theta_new.shape)
        except ValueError:
            raise InputError(
                f"theta has shape {theta.shape} and theta_new {theta_new.shape}, which do not "
                "broadcast"
            ) from None
        return theta, theta_new

    def _outcomes(self, y, theta):
        y = as_array(y, "y", need="real numbers")
        if y.dtype.kind not in "fiub":
            raise InputError(f"y has dtype {y.dtype}, expected real numbers")
        core = (self.n_params,) if self.outcome_ndim else ()
        if y.ndim < len(core) or y.shape[y.ndim - len(core) :] != core:
            raise InputError(f"y has shape {y.shape}, expected (..., {self.n_params})")
        try:
            np.broadcast_shapes(y.shape[: y.ndim - len(core)], theta.shape[:-1])
        except ValueError:
            raise InputError(
                f"y has shape {y.shape}, which does not broadcast with theta of shape "
                f"{theta.shape}; pass one outcome per row of theta"
            ) from None
        possible, wanted = self._possible(y)
        if not np.all(possible):
            where = tuple(int(i) for i in np.argwhere(~np.atleast_1d(possible))[0])
            raise InputError(
                f"y{list(where) if y.ndim else ''} is {np.atleast_1d(y)[where]}, expected {wanted}"
            )
        return self._stored(y, theta)

    def _stored(self, y, theta):
        return y.astype(theta.dtype, copy=False)
