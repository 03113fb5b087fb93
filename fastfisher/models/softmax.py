"""Softmax (multinomial logistic) regression."""

import numpy as np

from ..arrays import as_scores
from ..fisher import DenseFisher
from .base import Classifier, some_rows
from .categorical import Categorical
from .checks import check_features
from .linear import GLM, weighted_sum

__all__ = ["SoftmaxRegression"]


class SoftmaxRegression(Classifier, GLM):
    """p(y|x) = softmax(W [x; 1]): the network without hidden layers, whose loss is convex.

    The bias is a column of ones appended to X; the parameters are ``W.ravel()``, W of shape
    (n_classes, n_features + 1), class-major. The exact Fisher is
    ``mean_i (diag(p_i) - p_i p_i') kron x_i x_i'`` (docs/math.md, G1). It equals the Hessian of the
    mean negative log-likelihood (F6), so natural gradient with ``l2 > 0`` is Newton's method.

    Parameters
    ----------
    n_features, n_classes : int
    reference : int, optional
        The class whose weights are fixed at 0: W has n_classes - 1 rows and the Fisher matrix its
        full rank, so that no penalty or damping is needed. By default all classes have weights,
        and an offset common to them changes nothing.
    intercept : bool
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

    def __init__(self, n_features, n_classes, *, reference=None, intercept=True, l2=0.0):
        family = Categorical(n_classes, "logits", reference)
        super().__init__(family, n_features, intercept=intercept, l2=l2)

    @property
    def _operands(self):
        reference = self.family.reference
        chosen = "" if reference is None else f", reference={reference}"
        return f"{self.n_features}, {self.n_classes}{chosen}"

    @property
    def _rows_of_blocks_vanish(self):
        """Each row of diag(p) - pp' over all classes sums to zero (G1)."""
        return self.family.reference is None

    def fisher_bound(self, X):
        """(1/2) (I - 11'/C) kron X'X/n, which no exact Fisher exceeds (docs/math.md, G2).

        The same for every theta: formed and factored once, it preconditions all iterations.

        Returns
        -------
        DenseFisher

        References
        ----------
        D. Boehning (1992), Annals of the Institute of Statistical Mathematics 44.
        """
        X = check_features(X, self.n_features)
        (Z,), z = self._forward(self.init(dtype=X.dtype), X)
        R = 0.5 * (np.eye(z.shape[1]) - 1 / self.n_classes)
        sums = np.kron(R, weighted_sum(as_scores(Z), np.ones(some_rows(X))))
        return DenseFisher.from_sums(sums, len(X), n_samples=len(X), dtype=Z.dtype, kind="bound")
