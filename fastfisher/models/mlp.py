"""Multilayer perceptron with a softmax output: scores, gradient and Fisher in closed form."""

import math

import numpy as np

from ..errors import InputError
from .categorical import kl_divergence, log_softmax, sample
from .checks import check_features, check_labels, check_parameters, check_penalty

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


class MLP:
    """Dense network x -> logits with categorical output p(y|x) = softmax(logits).

    Layer l computes ``W_l [h; 1]`` with W_l of shape (d_out, d_in + 1), the bias being the last
    column. The parameter vector is the concatenation of ``W_l.ravel()``, so one score is the
    concatenation over layers of ``kron(e, a)``: a the input of the layer with a one appended, e
    the derivative of log p with respect to its output (docs/math.md, section 0 and L1).

    Parameters
    ----------
    sizes : sequence of int
        Features, hidden widths, classes; at least (features, classes).
    activation : {"tanh", "relu"}
        Of the hidden layers.
    l2 : float
        Penalty ``l2/2 ||theta||^2`` (biases too) in `loss` and `gradient`, not in the scores.

    Notes
    -----
    Results have the dtype of theta and X, float32 or float64. Overflowing logits make `loss`
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

    def __init__(self, sizes=(64, 32, 10), *, activation="tanh", l2=0.0):
        sizes = tuple(sizes)
        if len(sizes) < 2 or any(int(d) != d or d < 1 for d in sizes) or sizes[-1] < 2:
            raise InputError(
                f"sizes is {sizes}, expected positive integers (features, hidden..., classes) "
                "with at least 2 classes"
            )
        if activation not in _ACTIVATIONS:
            raise InputError(f"activation is {activation!r}, expected 'tanh' or 'relu'")
        self.sizes = tuple(int(d) for d in sizes)
        self.activation = activation
        self.l2 = check_penalty(l2)

    def __repr__(self):
        return f"MLP({self.sizes}, activation={self.activation!r}, l2={self.l2:g})"

    @property
    def n_features(self):
        return self.sizes[0]

    @property
    def n_classes(self):
        return self.sizes[-1]

    @property
    def _shapes(self):
        return [(d_out, d_in + 1) for d_in, d_out in zip(self.sizes, self.sizes[1:], strict=False)]

    @property
    def n_params(self):
        """Number of parameters, biases included."""
        return sum(math.prod(shape) for shape in self._shapes)

    def init(self, rng, dtype="float64"):
        """Random start of Glorot (tanh) or He (relu) variance, biases zero; rng is a Generator."""
        layers = []
        for d_out, d_in_and_bias in self._shapes:
            W = np.zeros((d_out, d_in_and_bias))
            d_in = d_in_and_bias - 1
            scale = math.sqrt(_INIT_VARIANCE[self.activation](d_in, d_out))
            W[:, :-1] = rng.normal(scale=scale, size=(d_out, d_in))
            layers.append(W.ravel())
        return np.concatenate(layers).astype(dtype)

    # Passes ----------------------------------------------------------------------------------

    def _weights(self, theta):
        """The views W_l (d_out, d_in + 1) into theta."""
        ends = np.cumsum([math.prod(shape) for shape in self._shapes])
        pieces = np.split(theta, ends[:-1])
        return [W.reshape(shape) for W, shape in zip(pieces, self._shapes, strict=True)]

    def _forward(self, theta, X):
        """Layer inputs A_l, each with its column of ones, and the logits (possibly not finite)."""
        phi, _ = _ACTIVATIONS[self.activation]
        *hidden, last = self._weights(theta)
        inputs = [_with_ones(X, np.result_type(theta, X))]
        with np.errstate(over="ignore", invalid="ignore"):
            for W in hidden:
                inputs.append(_with_ones(phi(inputs[-1] @ W.T)))
            return inputs, inputs[-1] @ last.T

    def _backward(self, theta, inputs, E):
        """The E_l of all layers from that of the logits; inputs and E may stack several labels."""
        _, slope = _ACTIVATIONS[self.activation]
        signals = [E]
        for W, A in zip(self._weights(theta)[:0:-1], inputs[:0:-1], strict=True):
            signals.append(signals[-1] @ W[:, :-1] * slope(A[:, :-1]))
        return signals[::-1]

    def _inputs_and_log_p(self, theta, X):
        theta, X = check_parameters(theta, self.n_params), check_features(X, self.n_features)
        inputs, logits = self._forward(theta, X)
        if not np.isfinite(logits).all():
            raise InputError(
                f"the logits overflow {logits.dtype}: max |theta| is {np.abs(theta).max():.3g}; "
                "take smaller steps or scale X"
            )
        return inputs, log_softmax(logits)

    # Predictions -----------------------------------------------------------------------------

    def log_probabilities(self, theta, X):
        """log p(c|x), shape (n, n_classes)."""
        return self._inputs_and_log_p(theta, X)[1]

    def probabilities(self, theta, X):
        """p(c|x), shape (n, n_classes)."""
        return np.exp(self.log_probabilities(theta, X))

    def predict(self, theta, X):
        """The most probable class of each row, shape (n,)."""
        return self.log_probabilities(theta, X).argmax(axis=1)

    def sample(self, theta, X, rng):
        """One label per row drawn from the model's own p(.|x), shape (n,)."""
        return sample(self.log_probabilities(theta, X), rng)

    def accuracy(self, theta, X, y):
        """Share of rows whose most probable class is y."""
        predicted = self.predict(theta, X)
        return float(np.mean(predicted == self._labels(y, predicted)))

    def kl(self, theta, theta_new, X):
        """Mean over rows of KL(p_theta(.|x) || p_theta_new(.|x))."""
        check_parameters(theta_new, self.n_params, "theta_new")
        log_p = self.log_probabilities(theta, X)
        _some_rows(log_p)
        return float(kl_divergence(log_p, self.log_probabilities(theta_new, X)).mean(dtype="f8"))

    # Loss, gradient, scores ------------------------------------------------------------------

    def _labels(self, y, rows):
        return check_labels(y, _some_rows(rows), self.n_classes)

    def loss(self, theta, X, y):
        """mean_i -log p(y_i|x_i) + l2/2 ||theta||^2, a float; inf where the logits overflow."""
        theta, X = check_parameters(theta, self.n_params), check_features(X, self.n_features)
        y = self._labels(y, X)
        logits = self._forward(theta, X)[1]
        if not np.isfinite(logits).all():
            return math.inf
        nll = -log_softmax(logits)[np.arange(len(y)), y].mean(dtype=np.float64)
        with np.errstate(over="ignore"):
            return float(nll + 0.5 * self.l2 * np.square(theta, dtype=np.float64).sum())

    def gradient(self, theta, X, y):
        """Gradient of `loss`, shape (p,); per-sample gradients are never formed."""
        layers = self.layers(theta, X, y)
        n = _some_rows(layers[0][0])
        data = np.concatenate([(E.T @ A).ravel() for A, E in layers]) / n
        return self.l2 * np.asarray(theta) - data

    def layers(self, theta, X, y):
        """[(A_l (n, d_in + 1), E_l (n, d_out)), ...] with one score = concatenated kron(e, a)."""
        inputs, log_p = self._inputs_and_log_p(theta, X)
        y = check_labels(y, len(log_p), self.n_classes)
        E = -np.exp(log_p)
        E[np.arange(len(y)), y] += 1
        return list(zip(inputs, self._backward(theta, inputs, E), strict=True))

    def scores(self, theta, X, y):
        """s_i = grad_theta log p(y_i|x_i), shape (n, p), without the l2 term (F1)."""
        return _rows(self.layers(theta, X, y), self.n_params)

    def exact_scores(self, theta, X):
        """The score of every label c of every row, and its probability (F2, F4).

        Returns
        -------
        rows : (n * n_classes, p)
            Row ``i * n_classes + c`` is grad_theta log p(c|x_i).
        weights : (n * n_classes,)
            p(c|x_i); ``rows' diag(weights) rows / sum(weights)`` is the exact Fisher.
        """
        layers, weights = self.exact_layers(theta, X)
        return _rows(layers, self.n_params), weights

    def exact_layers(self, theta, X):
        """`exact_scores` before their products: ([(A_l, E_l), ...], weights) of n * n_classes rows.

        Row ``i * n_classes + c`` belongs to label c of row i of X, its weight is p(c|x_i).
        """
        inputs, log_p = self._inputs_and_log_p(theta, X)
        C = self.n_classes
        p = np.exp(log_p)
        E = (np.eye(C, dtype=p.dtype) - p[:, None, :]).reshape(-1, C)
        inputs = [np.repeat(A, C, axis=0) for A in inputs]
        return list(zip(inputs, self._backward(theta, inputs, E), strict=True)), p.ravel()


def _some_rows(rows):
    """Their number; a mean needs at least one."""
    if len(rows) == 0:
        raise InputError("X has no rows, so a mean over them is undefined; pass at least one")
    return len(rows)


def _with_ones(H, dtype=None):
    A = np.ones((len(H), H.shape[1] + 1), dtype or H.dtype)
    A[:, :-1] = H
    return A


def _rows(layers, n_params):
    """kron(e_i, a_i) of each layer, side by side."""
    layers = list(layers)
    A, E = layers[0]
    G = np.empty((len(A), n_params), E.dtype)
    start = 0
    for A, E in layers:
        shape = (len(A), E.shape[1], A.shape[1])
        stop = start + shape[1] * shape[2]
        np.multiply(E[:, :, None], A[:, None, :], out=G[:, start:stop].reshape(shape))
        start = stop
    return G
