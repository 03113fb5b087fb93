"""Multilayer perceptron: scores, gradient and Fisher in closed form."""

import math

import numpy as np

from ..errors import InputError
from ..planning import dtype_name
from ..scalars import as_choice, as_count, as_generator
from .base import Classifier, Model, with_ones
from .categorical import Categorical
from .gaussian import GaussianMean

__all__ = ["MLP"]

# The slope is written in the output of the activation, which is what the backward pass has.
_ACTIVATIONS = {
    "tanh": (np.tanh, lambda out: 1 - out * out),
    "relu": (lambda z: np.maximum(z, 0), lambda out: (out > 0).astype(out.dtype)),
}
# Variance of the initial weights is gain / (d_in + d_out) or gain / d_in: Glorot and He.
_INIT_VARIANCE = {
    "tanh": lambda d_in, d_out: 2 / (d_in + d_out),
    "relu": lambda d_in, d_out: 2 / d_in,
}
_OUTPUTS = ("categorical", "gaussian")


class MLP(Classifier, Model):
    """Dense network x -> z with p(y|x) = softmax(z), or N(z, sigma^2 I).

    Layer l computes ``W_l [h; 1]`` with W_l of shape (d_out, d_in + 1), the bias being the last
    column. The parameter vector is the concatenation of ``W_l.ravel()``, so one score is the
    concatenation over layers of ``kron(e, a)``: a the input of the layer with a one appended, e
    the derivative of log p with respect to its output (docs/math.md, section 0 and L1).

    Parameters
    ----------
    sizes : sequence of int
        Features, hidden widths, classes (at least 2) or dimensions of y.
    activation : {"tanh", "relu"}
        Of the hidden layers.
    output : {"categorical", "gaussian"}
        Outcomes y are classes (n,), or real: (n,) for one output, (n, d) for more.
    sigma : float
        Standard deviation of a Gaussian output; a squared loss has 1.
    l2 : float
        Penalty ``l2/2 ||theta||^2`` (biases too) in `loss` and `gradient`, not in the scores.

    Notes
    -----
    Results have the dtype of theta and X, float32 or float64. Overflowing outputs make `loss`
    infinite; every other method raises InputError there, so nothing is silently NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.models import MLP
    >>> model = MLP((2, 3, 2), l2=1e-2)
    >>> theta = model.init(np.random.default_rng(0))
    >>> X, y = np.array([[0.5, -1.0], [1.0, 2.0]]), np.array([0, 1])
    >>> model.n_params, model.scores(theta, X, y).shape
    (17, (2, 17))
    """

    def __init__(
        self, sizes=(64, 32, 10), *, activation="tanh", output="categorical", sigma=1.0, l2=0.0
    ):
        classes = as_choice(output, "output", _OUTPUTS) == "categorical"
        try:
            widths = tuple(as_count(d, "a width", least=1) for d in sizes)
        except (InputError, TypeError):
            widths = ()
        if len(widths) < 2 or (classes and widths[-1] < 2):
            last = "classes) with at least 2 classes" if classes else "outputs)"
            raise InputError(
                f"sizes is {sizes}, expected positive integers (features, hidden..., {last}"
            )
        self.sizes = widths
        self.activation = as_choice(activation, "activation", _ACTIVATIONS)
        last = self.sizes[-1]
        super().__init__(
            Categorical(last, "logits") if classes else GaussianMean(sigma=sigma, dim=last), l2
        )

    def __repr__(self):
        output = ""
        if isinstance(self.family, GaussianMean):
            output = f", output='gaussian', sigma={self.family.sigma!r}"
        return f"MLP({self.sizes}, activation={self.activation!r}{output}, l2={self.l2!r})"

    @property
    def n_features(self):
        return self.sizes[0]

    @property
    def layer_sizes(self):
        """[(d_in + 1, d_out), ...]: what `KroneckerFisher` takes."""
        return [(d_in + 1, d_out) for d_in, d_out in zip(self.sizes, self.sizes[1:], strict=False)]

    def init(self, rng, dtype="float64"):
        """Start of Glorot (tanh) or He (relu) variance, biases zero; rng: Generator or seed."""
        rng = as_generator(rng)
        layers = []
        for d_in_and_bias, d_out in self.layer_sizes:
            W = np.zeros((d_out, d_in_and_bias))
            d_in = d_in_and_bias - 1
            scale = math.sqrt(_INIT_VARIANCE[self.activation](d_in, d_out))
            W[:, :-1] = rng.normal(scale=scale, size=(d_out, d_in))
            layers.append(W.ravel())
        return np.concatenate(layers).astype(dtype_name(dtype))

    def _weights(self, theta):
        """The views W_l (d_out, d_in + 1) into theta."""
        ends = np.cumsum([d_in * d_out for d_in, d_out in self.layer_sizes])
        pieces = np.split(theta, ends[:-1])
        return [W.reshape(size[::-1]) for W, size in zip(pieces, self.layer_sizes, strict=True)]

    def _forward(self, theta, X):
        phi, _ = _ACTIVATIONS[self.activation]
        *hidden, last = self._weights(theta)
        inputs = [with_ones(X, np.result_type(theta, X))]
        with np.errstate(over="ignore", invalid="ignore"):
            for W in hidden:
                inputs.append(with_ones(phi(inputs[-1] @ W.T)))
            return inputs, inputs[-1] @ last.T

    def _backward(self, theta, inputs, E):
        _, slope = _ACTIVATIONS[self.activation]
        signals = [E]
        for W, A in zip(self._weights(theta)[:0:-1], inputs[:0:-1], strict=True):
            signals.append(signals[-1] @ W[:, :-1] * slope(A[:, :-1]))
        return signals[::-1]
