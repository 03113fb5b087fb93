"""Models with closed-form per-sample scores, Fisher information and KL divergence.

Every model offers, for a parameter vector theta (p,), features X and outcomes y::

    n_params, l2                     p, and the penalty l2/2 ||theta||^2 of the loss
    init(rng)                        a start (p,)
    loss(theta, X, y)                mean negative log-likelihood + l2/2 ||theta||^2
    gradient(theta, X, y)            its gradient (p,)
    scores(theta, X, y)              s_i = grad log p(y_i|x_i), (n, p), without l2
    exact_scores(theta, X)           rows and weights whose Fisher is the exact one
    sample(theta, X, rng)            outcomes drawn from the model
    kl(theta, theta_new, X)          mean KL between the predictive distributions

which is all that `fastfisher.optim` asks of a model of your own. Those here also have
log_likelihood(theta, X, y) (n,), outputs, mean and variance of y given x, `layers` and
`exact_layers` for the layered Fishers, and the generalised linear models
``exact_fisher(theta, X)``, a DenseFisher formed without scores.

Families are distributions of one outcome, p(y | theta), and offer::

    log_likelihood(theta, y), score(theta, y), fisher(theta), sample(theta, rng, size),
    mean(theta), variance(theta), kl(theta, theta_new), the named ones distance(theta, theta_new)

with the parameters on the last axis of theta and everything before it broadcast.
"""

from .categorical import Categorical
from .discrete import Bernoulli, Poisson
from .exponential import ExponentialFamily
from .gaussian import Gaussian, GaussianMean
from .linear import GLM, LinearRegression, LogisticRegression, PoissonRegression
from .mlp import MLP
from .softmax import SoftmaxRegression

__all__ = [
    "GLM",
    "MLP",
    "Bernoulli",
    "Categorical",
    "ExponentialFamily",
    "Gaussian",
    "GaussianMean",
    "LinearRegression",
    "LogisticRegression",
    "Poisson",
    "PoissonRegression",
    "SoftmaxRegression",
]
