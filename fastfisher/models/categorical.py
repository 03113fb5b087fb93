"""The categorical distribution: in its logits the output of every classifier here."""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..scalars import as_choice, as_count
from .family import Family, exp_excess

__all__ = ["Categorical", "kl_divergence", "log_softmax", "sample"]


def log_softmax(logits):
    """log p of softmax probabilities along the last axis.

    The largest logit is subtracted first, so p reaches exactly 0 and exactly 1 and log p is never
    NaN for finite logits (docs/math.md, G2).
    """
    with np.errstate(over="ignore"):
        shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def kl_divergence(log_p, log_q):
    """KL(p || q) along the last axis from log-probabilities; inf where q = 0 < p.

    Near p = q the textbook sum of p log(p/q) loses half of the digits, because its terms of first
    order cancel. They are left out here: with t = log(q/p), KL = sum p (e^t - 1 - t), whose terms
    are all >= 0.
    """
    p = np.exp(log_p)
    with np.errstate(invalid="ignore", over="ignore"):
        t = log_q - log_p
        near = p * exp_excess(t)
        far = np.exp(log_q) - p - p * t
    terms = np.where(np.abs(t) < 1, near, far)
    return np.where(p > 0, terms, np.exp(log_q)).sum(axis=-1)


def sample(log_p, rng):
    """One label per row of log-probabilities, by inversion of the cumulative sum."""
    cumulative = np.exp(log_p, dtype=np.float64).cumsum(axis=-1)
    u = rng.random(log_p.shape[:-1]) * cumulative[..., -1]
    # `<=` keeps classes of probability zero out: u never falls on an empty interval.
    return (cumulative <= u[..., None]).sum(axis=-1)


@dataclass(frozen=True)
class Categorical(Family):
    """One of C classes, y = 0 .. C - 1.

    Fisher information ``diag(p) - p p'`` in the logits, singular because an offset of all logits
    changes nothing; ``diag(1/p) + 1 1'/p_C`` in the first C - 1 probabilities, with inverse
    ``diag(p) - p p'`` and determinant 1 / prod p (docs/math.md, section 2).

    Parameters
    ----------
    n_classes : int
    parameter : {"probabilities", "logits"}
        What theta holds: the first C - 1 probabilities, or C logits.
    reference : int, optional
        With logits: the class whose logit is fixed at 0, so that theta has C - 1 entries and the
        Fisher information its full rank.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.models import Categorical
    >>> Categorical(3).fisher(np.array([0.25, 0.25]))
    array([[6., 2.],
           [2., 6.]])
    """

    n_classes: int
    parameter: str = "probabilities"
    reference: int | None = None

    def __post_init__(self):
        C = as_count(self.n_classes, "n_classes", least=2)
        as_choice(self.parameter, "parameter", ("probabilities", "logits"))
        if self.reference is not None:
            if self.parameter != "logits":
                raise InputError("reference is for parameter='logits' only")
            as_count(self.reference, "reference", most=C - 1)

    @property
    def n_params(self):
        full = self.parameter == "logits" and self.reference is None
        return int(self.n_classes) - (not full)

    @property
    def _free(self):
        """Columns of an array over all classes that belong to theta."""
        left_out = self.n_classes - 1 if self.parameter == "probabilities" else self.reference
        return [c for c in range(self.n_classes) if c != left_out]

    @property
    def _domain(self):
        return f"{self.n_params} probabilities >= 0 with a sum <= 1"

    def _inside(self, theta):
        if self.parameter == "logits":
            return None
        excess = theta.sum(axis=-1) - 1  # of a sum that rounding has carried over 1
        return (theta >= 0).all(axis=-1) & (excess <= self.n_classes * np.finfo(theta.dtype).eps)

    def _possible(self, y):
        with np.errstate(invalid="ignore"):
            possible = (y >= 0) & (y < self.n_classes) & (y == np.floor(y))
        return possible, f"a class in 0..{self.n_classes - 1}"

    def _stored(self, y, theta):
        return y.astype(np.intp)

    def log_probabilities(self, theta):
        """log p of all classes, shape (..., C)."""
        return self._log_p(self._parameters(theta))

    def _log_p(self, theta):
        if self.parameter == "logits":
            return log_softmax(self._all(theta))
        rest = np.maximum(1 - theta.sum(axis=-1, keepdims=True), 0)
        with np.errstate(divide="ignore"):
            return np.log(np.concatenate([theta, rest], axis=-1))

    def _all(self, theta):
        """Logits of all classes, zero for the reference."""
        if self.reference is None:
            return theta
        logits = np.zeros((*theta.shape[:-1], self.n_classes), theta.dtype)
        logits[..., self._free] = theta
        return logits

    def _log_likelihood(self, theta, y):
        log_p = self._log_p(theta)
        shape = np.broadcast_shapes(log_p.shape[:-1], y.shape)
        log_p = np.broadcast_to(log_p, (*shape, self.n_classes))
        y = np.broadcast_to(y, shape)
        return np.take_along_axis(log_p, y[..., None], axis=-1)[..., 0]

    def _score(self, theta, y):
        p = np.exp(self._log_p(theta))
        hit = y[..., None] == np.arange(self.n_classes)
        if self.parameter == "logits":
            return (hit.astype(p.dtype) - p)[..., self._free]
        with np.errstate(divide="ignore"):
            inverse = 1 / p
        zero = p.dtype.type(0)
        each = np.where(hit, inverse, zero)
        return each[..., :-1] - each[..., -1:]

    def _fisher(self, theta):
        p = np.exp(self._log_p(theta))
        if self.parameter == "probabilities":
            with np.errstate(divide="ignore"):
                F = np.repeat(1 / p[..., -1:, None], self.n_params, axis=-1)
                F = np.repeat(F, self.n_params, axis=-2)
                np.einsum("...ii->...i", F)[:] += 1 / p[..., :-1]
            return F
        F = -p[..., :, None] * p[..., None, :]
        diagonal = np.einsum("...ii->...i", F)
        diagonal[:] = 0
        # p_c (1 - p_c) as a sum over the other classes: exact where p_c is near 1
        diagonal[:] = -F.sum(axis=-1)
        return F if self.reference is None else F[..., self._free, :][..., self._free]

    def exact_scores(self, theta):
        """The score of every outcome (..., C, k) and its probability (..., C)."""
        theta = self._parameters(theta)
        y = np.arange(self.n_classes)
        return self._score(theta[..., None, :], y), np.exp(self._log_p(theta))

    def _mean(self, theta):
        """Probabilities of all classes: the mean of the indicators."""
        return np.exp(self._log_p(theta))

    def _variance(self, theta):
        p = self._mean(theta)
        return p * (1 - p)

    def _sample(self, theta, rng, shape):
        log_p = self._log_p(theta)
        return sample(np.broadcast_to(log_p, (*shape, self.n_classes)), rng)

    def _fit(self, y):
        p = np.bincount(y, minlength=self.n_classes) / len(y)
        if self.parameter == "probabilities":
            return p[:-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            log_p = np.log(p)
            offset = log_p.mean() if self.reference is None else log_p[self.reference]
            return (log_p - offset)[self._free]

    def _kl(self, theta, theta_new):
        return kl_divergence(self._log_p(theta), self._log_p(theta_new))

    def distance(self, theta, theta_new):
        """Fisher-Rao distance ``2 arccos sum sqrt(p q)``, at most pi (docs/math.md, N3)."""
        p, q = map(self._mean, self._pair(theta, theta_new))
        chord = np.sqrt(np.square(np.sqrt(p) - np.sqrt(q)).sum(axis=-1))
        return 4 * np.arcsin(np.minimum(chord / 2, 1))
