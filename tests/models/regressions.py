"""Generalised linear models and Gaussian networks, with data drawn from each."""

import numpy as np

from fastfisher.models import (
    GLM,
    MLP,
    Gaussian,
    GaussianMean,
    LinearRegression,
    LogisticRegression,
    PoissonRegression,
    SoftmaxRegression,
)
from tests.tolerances import unit_roundoff

U = unit_roundoff("float64")
MODELS = {
    "linear": LinearRegression(3, sigma=0.7),
    "linear-origin": LinearRegression(3, intercept=False, l2=0.2),
    "logistic": LogisticRegression(3, l2=0.1),
    "poisson": PoissonRegression(3),
    "softmax": SoftmaxRegression(3, 4),
    "reference": SoftmaxRegression(3, 4, reference=1, l2=0.1),
    "softmax-origin": SoftmaxRegression(3, 4, intercept=False),
    "planes": GLM(GaussianMean(sigma=0.5, dim=2), 3),
    "spread": GLM(Gaussian("log_sigma"), 3),
    "gaussian-tanh": MLP((3, 4, 2), output="gaussian", sigma=0.5, l2=0.1),
    "gaussian-relu": MLP((3, 5, 1), activation="relu", output="gaussian"),
}
GLMS = [name for name in MODELS if not name.startswith("gaussian")]
NATURAL = [name for name in GLMS if name != "spread"]


def case(model, n=9, seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, model.n_features)).astype(dtype)
    theta = (0.5 * rng.normal(size=model.n_params)).astype(dtype)
    return theta, X, model.sample(theta, X, rng)


def derivative(f, theta):
    h = U ** (1 / 3)
    return np.array([(f(theta + h * e) - f(theta - h * e)) / (2 * h) for e in np.eye(len(theta))])
