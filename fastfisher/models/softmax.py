"""Softmax (multinomial logistic) regression."""

import numpy as np

from ..errors import InputError
from .mlp import MLP

__all__ = ["SoftmaxRegression"]


class SoftmaxRegression(MLP):
    """p(y|x) = softmax(W [x; 1]): the network without hidden layers, whose loss is convex.

    The bias is a column of ones appended to X; the parameters are ``W.ravel()``, W of shape
    (n_classes, n_features + 1), class-major. The exact Fisher is
    ``mean_i (diag(p_i) - p_i p_i') kron x_i x_i'`` (docs/math.md, G1). It equals the Hessian of the
    mean negative log-likelihood (F6), so natural gradient with ``l2 > 0`` is Newton's method.

    Parameters
    ----------
    n_features, n_classes : int
    l2 : float
        Penalty ``l2/2 ||W||^2`` (bias too) in `loss` and `gradient`, not in the scores.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.models import SoftmaxRegression
    >>> model = SoftmaxRegression(2, 3)
    >>> theta = model.init()
    >>> X, y = np.array([[0.5, -1.0], [1.0, 2.0]]), np.array([0, 2])
    >>> round(model.loss(theta, X, y), 6)   # log 3: every class equally probable
    1.098612
    """

    def __init__(self, n_features, n_classes, *, l2=0.0):
        for name, value in (("n_features", n_features), ("n_classes", n_classes)):
            if not isinstance(value, (int, np.integer)):
                raise InputError(f"{name} is {value!r}, expected an integer")
        super().__init__((n_features, n_classes), l2=l2)

    def __repr__(self):
        return f"SoftmaxRegression({self.n_features}, {self.n_classes}, l2={self.l2:g})"

    def init(self, rng=None, dtype="float64"):
        """Zeros: every class equally probable. The loss is convex, so chance has no part."""
        return np.zeros(self.n_params, dtype)
