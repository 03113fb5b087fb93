"""What all models share: y | x follows a family whose parameters are a function of theta and x."""

import math

import numpy as np

from ..arrays import as_array
from ..errors import InputError
from ..scalars import as_generator
from .categorical import Categorical
from .checks import check_features, check_labels, check_parameters, check_penalty

__all__ = ["Classifier", "Model", "some_rows", "with_ones"]


class Model:
    """p(y | x, theta) = family(z), z (n, k) the outputs of a network in theta (p,) and X (n, d).

    A model supplies the network; everything below follows by the chain rule from the closed forms
    of its family. Results have the dtype of theta and X, float32 or float64. Outputs that
    overflow make `loss` infinite; every other method raises InputError there, so nothing is
    silently NaN.
    """

    def __init__(self, family, l2):
        self.family = family
        self.l2 = check_penalty(l2)

    # What a model supplies.

    n_features: int
    layer_sizes: list  # (d_in, d_out) of each layer, a bias counted in: what KroneckerFisher takes
    _outputs = "outputs"

    def _forward(self, theta, X):
        """The input A_l of each layer, a column of ones included, and z (possibly not finite)."""

    def _backward(self, theta, inputs, E):
        """The E_l of all layers from that of z; inputs and E may stack several outcomes."""

    # What it has.

    @property
    def n_params(self):
        """Number of parameters, biases included."""
        return sum(d_in * d_out for d_in, d_out in self.layer_sizes)

    def _checked_outputs(self, theta, X):
        """Layer inputs and finite z."""
        theta, X = check_parameters(theta, self.n_params), check_features(X, self.n_features)
        inputs, z = self._forward(theta, X)
        if not np.isfinite(z).all():
            self._refuse_overflow(theta, z)
        return inputs, z

    def _refuse_overflow(self, theta, z):
        raise InputError(
            f"the {self._outputs} overflow {z.dtype}: max |theta| is {np.abs(theta).max():.3g}; "
            "take smaller steps or scale X"
        )

    def _layers(self, theta, inputs, E, z):
        """(A_l, E_l) of all layers, finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            signals = self._backward(theta, inputs, E)
        if not all(np.isfinite(S).all() for S in signals):
            self._refuse_overflow(theta, z)
        return list(zip(inputs, signals, strict=True))

    def _outcomes(self, y, n):
        # The family would broadcast a column of outcomes, or one outcome, over all rows.
        core = (self.family.n_params,) if self.family.outcome_ndim else ()
        y = as_array(y, "y", need="one outcome per row")
        if y.shape != (n, *core):
            raise InputError(
                f"y has shape {y.shape} but X has {n} rows; "
                f"pass one outcome per row, shape {(n, *core)}"
            )
        return y

    # Predictions.

    def outputs(self, theta, X):
        """z, the family's parameters for each row, shape (n, k)."""
        return self._checked_outputs(theta, X)[1]

    def mean(self, theta, X):
        """E[y | x] of each row."""
        return self.family.mean(self.outputs(theta, X))

    def variance(self, theta, X):
        """Var[y | x] of each row."""
        return self.family.variance(self.outputs(theta, X))

    def sample(self, theta, X, rng):
        """One outcome per row drawn from the model's own p(. | x); rng is a Generator or a seed."""
        z = self.outputs(theta, X)
        return self.family._sample(z, as_generator(rng), z.shape[:-1])

    def kl(self, theta, theta_new, X):
        """Mean over rows of KL(p_theta(. | x) || p_theta_new(. | x)), a float."""
        check_parameters(theta_new, self.n_params, "theta_new")
        z = self.outputs(theta, X)
        some_rows(z)
        return float(self.family.kl(z, self.outputs(theta_new, X)).mean(dtype="f8"))

    # Loss, gradient, scores.

    def log_likelihood(self, theta, X, y):
        """log p(y_i | x_i) of each row, shape (n,), without the l2 term."""
        z = self.outputs(theta, X)
        return self.family.log_likelihood(z, self._outcomes(y, len(z)))

    def loss(self, theta, X, y):
        """mean_i -log p(y_i | x_i) + l2/2 ||theta||^2, a float; inf where the outputs overflow."""
        theta, X = check_parameters(theta, self.n_params), check_features(X, self.n_features)
        y = self._outcomes(y, some_rows(X))
        z = self._forward(theta, X)[1]
        if not np.isfinite(z).all():
            return math.inf
        with np.errstate(over="ignore"):
            nll = -self.family.log_likelihood(z, y).mean(dtype=np.float64)
            if self.l2 == 0:  # times an infinite square it is no number
                return float(nll)
            return float(nll + 0.5 * self.l2 * np.square(theta, dtype=np.float64).sum())

    def gradient(self, theta, X, y):
        """Gradient of `loss`, shape (p,); per-sample gradients are never formed."""
        layers = self.layers(theta, X, y)
        n = some_rows(layers[0][0])
        with np.errstate(over="ignore", invalid="ignore"):
            data = np.concatenate([(E.T @ A).ravel() for A, E in layers]) / n
            gradient = self.l2 * np.asarray(theta) - data
        if not np.isfinite(gradient).all():
            raise InputError(f"the gradient overflows {gradient.dtype}; scale X or y")
        return gradient

    def layers(self, theta, X, y):
        """[(A_l (n, d_in), E_l (n, d_out)), ...] with one score = concatenated kron(e, a).

        What `LayeredFisher` and `KroneckerFisher` are updated with; A_l has the column of ones of
        a bias in it.
        """
        inputs, z = self._checked_outputs(theta, X)
        E = self.family.score(z, self._outcomes(y, len(z)))
        return self._layers(theta, inputs, E, z)

    def scores(self, theta, X, y):
        """s_i = grad_theta log p(y_i | x_i), shape (n, p), without the l2 term (F1)."""
        return _rows(self.layers(theta, X, y), self.n_params)

    def exact_layers(self, theta, X):
        """The layers (A_l, E_l) and weights whose Fisher is the exact one (F4).

        Returns
        -------
        layers : [(A_l (n m, d_in), E_l (n m, d_out)), ...]
            m rows for each row of X: one for each class, or for each output of other families.
        weights : (n m,)
            They sum to n. The probabilities p(c | x_i) of classes.
        """
        inputs, z = self._checked_outputs(theta, X)
        E, weights = self.family.exact_scores(z)
        m = E.shape[1]
        inputs = [np.repeat(A, m, axis=0) for A in inputs]
        E = E.reshape(len(z) * m, z.shape[1])
        return self._layers(theta, inputs, E, z), weights.ravel()

    def exact_scores(self, theta, X):
        """Rows (n m, p) and weights (n m,) whose Fisher is the exact one (F2, F4).

        For classes, row ``i * n_classes + c`` is grad_theta log p(c | x_i) and its weight is
        p(c | x_i); ``rows' diag(weights) rows / sum(weights)`` is the exact Fisher.
        """
        layers, weights = self.exact_layers(theta, X)
        return _rows(layers, self.n_params), weights


class Classifier:
    """Predictions of a model whose family is categorical."""

    @property
    def _outputs(self):
        return "logits" if isinstance(self.family, Categorical) else "outputs"

    @property
    def n_classes(self):
        return self._categorical().n_classes

    def _categorical(self):
        if not isinstance(self.family, Categorical):
            raise InputError(f"{self} predicts no classes; use mean(theta, X)")
        return self.family

    def _outcomes(self, y, n):
        if not isinstance(self.family, Categorical):
            return super()._outcomes(y, n)
        return check_labels(y, n, self.n_classes)

    def log_probabilities(self, theta, X):
        """log p(c | x), shape (n, n_classes)."""
        return self._categorical().log_probabilities(self.outputs(theta, X))

    def probabilities(self, theta, X):
        """p(c | x), shape (n, n_classes)."""
        return np.exp(self.log_probabilities(theta, X))

    def predict(self, theta, X):
        """The most probable class of each row, shape (n,)."""
        return self.log_probabilities(theta, X).argmax(axis=1)

    def accuracy(self, theta, X, y):
        """Share of rows whose most probable class is y."""
        predicted = self.predict(theta, X)
        return float(np.mean(predicted == self._outcomes(y, some_rows(predicted))))


def some_rows(rows):
    """Their number; a mean needs at least one."""
    if len(rows) == 0:
        raise InputError("X has no rows, so a mean over them is undefined; pass at least one")
    return len(rows)


def with_ones(H, dtype=None):
    """[H, 1]."""
    A = np.ones((len(H), H.shape[1] + 1), dtype or H.dtype)
    A[:, :-1] = H
    return A


def _rows(layers, n_params):
    """kron(e_i, a_i) of each layer, side by side."""
    A, E = layers[0]
    G = np.empty((len(A), n_params), E.dtype)
    start = 0
    for A, E in layers:
        shape = (len(A), E.shape[1], A.shape[1])
        stop = start + shape[1] * shape[2]
        try:
            with np.errstate(over="raise"):
                np.multiply(E[:, :, None], A[:, None, :], out=G[:, start:stop].reshape(shape))
        except FloatingPointError:
            raise InputError(f"the scores overflow {G.dtype}; scale X or y") from None
        start = stop
    return G
