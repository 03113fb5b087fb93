"""Classifiers for tests, small enough to be differenced."""

import numpy as np
import pytest

from fastfisher.models import MLP, SoftmaxRegression
from tests.tolerances import unit_roundoff

U = unit_roundoff("float64")
MODELS = {
    "softmax": SoftmaxRegression(4, 3),
    "softmax-l2": SoftmaxRegression(4, 3, l2=0.3),
    "tanh": MLP((4, 6, 5, 3), activation="tanh", l2=0.1),
    "relu": MLP((4, 6, 3), activation="relu"),
}
METHODS = "loss gradient scores exact_scores probabilities predict accuracy layers".split()


def case(model, n=7, seed=0, dtype="float64"):
    """theta with non-zero biases, features and labels that use every class."""
    rng = np.random.default_rng(seed)
    theta = 0.7 * rng.normal(size=model.n_params)
    X = rng.normal(size=(n, model.n_features))
    return theta.astype(dtype), X.astype(dtype), np.arange(n) % model.n_classes


def central_difference(f, theta):
    """Gradient of a scalar or vector f, one row per parameter; its error is some u^(2/3)."""
    h = U ** (1 / 3)
    return np.array([(f(theta + h * e) - f(theta - h * e)) / (2 * h) for e in np.eye(len(theta))])


def jacobian_of_logits(model, theta, x):
    """dz/dtheta of one row, (n_classes, p), from differences of log-probabilities.

    log p differs from the logits by a term equal for all classes, which diag(p) - pp' removes.
    """
    return central_difference(lambda t: model.log_probabilities(t, x)[0], theta).T


@pytest.fixture(params=MODELS, ids=str)
def model(request):
    return MODELS[request.param]
