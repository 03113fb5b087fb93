"""Models with closed-form per-sample scores, Fisher information and KL divergence.

Every model offers, for a parameter vector theta (p,), features X and outcomes y::

    n_params, l2                     p, and the penalty l2/2 ||theta||^2 of the loss
    init(rng)                        a start (p,)
    loss(theta, X, y)                mean negative log-likelihood + l2/2 ||theta||^2
    gradient(theta, X, y)            its gradient (p,)
    scores(theta, X, y)              s_i = grad log p(y_i|x_i), (n, p), without l2
    exact_scores(theta, X)           scores of every outcome and their probabilities
    sample(theta, X, rng)            outcomes drawn from the model
    kl(theta, theta_new, X)          mean KL between the predictive distributions

which is all that `fastfisher.optim` asks of a model of your own.

Families are distributions of one outcome, p(y | theta), and offer::

    log_likelihood(theta, y), score(theta, y), fisher(theta), sample(theta, rng, size),
    mean(theta), variance(theta), kl(theta, theta_new), the named ones distance(theta, theta_new)

with the parameters on the last axis of theta and everything before it broadcast.
"""

from .categorical import Categorical
from .discrete import Bernoulli, Poisson
from .exponential import ExponentialFamily
from .gaussian import Gaussian, GaussianMean
from .mlp import MLP
from .softmax import SoftmaxRegression

__all__ = [
    "MLP",
    "Bernoulli",
    "Categorical",
    "ExponentialFamily",
    "Gaussian",
    "GaussianMean",
    "Poisson",
    "SoftmaxRegression",
]
