"""Families at one parameter each: theta, a near one, SciPy's distribution, the support."""

import numpy as np
from scipy import special, stats

from fastfisher.models import (
    Bernoulli,
    Categorical,
    ExponentialFamily,
    Gaussian,
    GaussianMean,
    Poisson,
)

GAMMA = ExponentialFamily(  # of shape k and scale s: eta = (k, -1/s), T = (log y, y)
    2,
    lambda eta: special.gammaln(eta[..., 0]) - eta[..., 0] * np.log(-eta[..., 1]),
    lambda eta: np.stack(
        [special.digamma(eta[..., 0]) - np.log(-eta[..., 1]), -eta[..., 0] / eta[..., 1]], axis=-1
    ),
    lambda eta: np.stack(
        [
            np.stack([special.polygamma(1, eta[..., 0]), -1 / eta[..., 1]], axis=-1),
            np.stack([-1 / eta[..., 1], eta[..., 0] / eta[..., 1] ** 2], axis=-1),
        ],
        axis=-1,
    ),
    lambda y: np.stack([np.log(y), y], axis=-1),
    log_base=lambda y: -np.log(y),
    sampler=lambda eta, rng, shape: rng.gamma(eta[..., 0], -1 / eta[..., 1], shape),
    contains=lambda eta: (eta[..., 0] > 0) & (eta[..., 1] < 0),
    supports=lambda y: y > 0,
)
BETA = ExponentialFamily(  # eta = (a, b), T = (log y, log(1 - y))
    2,
    lambda eta: special.betaln(eta[..., 0], eta[..., 1]),
    lambda eta: special.digamma(eta) - special.digamma(eta.sum(axis=-1, keepdims=True)),
    lambda eta: (
        special.polygamma(1, eta)[..., None] * np.eye(2)
        - special.polygamma(1, eta.sum(axis=-1))[..., None, None]
    ),
    lambda y: np.stack([np.log(y), np.log1p(-y)], axis=-1),
    log_base=lambda y: -np.log(y) - np.log1p(-y),
    sampler=lambda eta, rng, shape: rng.beta(eta[..., 0], eta[..., 1], shape),
    contains=lambda eta: (eta > 0).all(axis=-1),
    supports=lambda y: (y > 0) & (y < 1),
)
# family, theta, a near theta, its distribution in SciPy where there is one, support
CASES = {
    "bernoulli": (Bernoulli(), [0.3], [0.31], stats.bernoulli(0.3), (0, 1)),
    "bernoulli-logit": (Bernoulli("logit"), [-0.4], [-0.38], None, (0, 1)),
    "poisson": (Poisson(), [2.5], [2.55], stats.poisson(2.5), (0, 60)),
    "poisson-log": (Poisson("log"), [0.9], [0.92], stats.poisson(np.exp(0.9)), (0, 60)),
    "categorical": (Categorical(3), [0.2, 0.5], [0.21, 0.48], None, (0, 2)),
    "logits": (Categorical(3, "logits"), [0.2, -0.5, 1.0], [0.21, -0.5, 1.02], None, (0, 2)),
    "reference": (Categorical(3, "logits", 1), [0.2, 1.0], [0.21, 1.02], None, (0, 2)),
    "mean": (GaussianMean(1.5), [0.7], [0.72], stats.norm(0.7, 1.5), (-np.inf, np.inf)),
    "sigma": (Gaussian(), [0.7, 1.5], [0.72, 1.49], stats.norm(0.7, 1.5), (-np.inf, np.inf)),
    "log-sigma": (
        Gaussian("log_sigma"), [0.7, 0.3], [0.72, 0.29], stats.norm(0.7, np.exp(0.3)),
        (-np.inf, np.inf),
    ),
    "variance": (
        Gaussian("variance"), [0.7, 2.25], [0.72, 2.2], stats.norm(0.7, 1.5), (-np.inf, np.inf),
    ),
    "gamma": (GAMMA, [2.5, -1 / 1.7], [2.52, -0.6], stats.gamma(2.5, scale=1.7), (0, np.inf)),
    "beta": (BETA, [2.2, 3.1], [2.22, 3.05], stats.beta(2.2, 3.1), (0, 1)),
}  # fmt: skip
NAMED = [name for name in CASES if name not in {"gamma", "beta"}]
