"""Generalised linear models: the parameters of a family are linear in the features."""

import numpy as np

from ..arrays import as_scores
from ..errors import InputError
from ..fisher import DenseFisher
from ..passes import add_syrk
from ..planning import dtype_name
from ..scalars import as_count, as_flag
from .base import Model, some_rows, with_ones
from .discrete import Bernoulli, Poisson
from .family import Family
from .gaussian import GaussianMean

__all__ = ["GLM", "LinearRegression", "LogisticRegression", "PoissonRegression"]


_BLOCK_BYTES = 8 << 20  # of the family's information, k x k for each row, at a time


class GLM(Model):
    """y | x ~ family(W [x; 1]): a generalised linear model.

    The parameters are ``W.ravel()``, W of shape (k, n_features + 1), k the number of parameters
    of the family and the intercept the last column. One score is ``kron(e, [x; 1])`` and the
    exact Fisher ``mean_i R_i kron x_i x_i'``, R the information of the family: k (k + 1) / 2
    weighted sums of x x', straight from the data. In natural parameters it is the Hessian of the
    mean negative log-likelihood (docs/math.md, F6), so the natural gradient is Fisher scoring and
    Newton's method at once.

    Parameters
    ----------
    family : family of `fastfisher.models`
        In a parameter that may be any real number: ``Poisson("log")``, not ``Poisson("rate")``.
    n_features : int
    intercept : bool
        Append a column of ones to X; its coefficients come last.
    l2 : float
        Penalty ``l2/2 ||theta||^2`` (intercepts too) in `loss` and `gradient`, not in the scores.

    Examples
    --------
    A mean and a spread that both depend on x:

    >>> import numpy as np
    >>> from fastfisher.models import GLM, Gaussian
    >>> model = GLM(Gaussian("log_sigma"), 1)
    >>> model.exact_fisher(np.zeros(4), np.array([[1.0], [3.0]])).matrix()
    array([[ 5.,  2.,  0.,  0.],
           [ 2.,  1.,  0.,  0.],
           [ 0.,  0., 10.,  4.],
           [ 0.,  0.,  4.,  2.]])
    """

    def __init__(self, family, n_features, *, intercept=True, l2=0.0):
        if not isinstance(family, Family):
            raise InputError(f"family is {family!r}, expected a family of fastfisher.models")
        self.intercept = as_flag(intercept, "intercept")
        self.n_features = as_count(n_features, "n_features", least=1 - self.intercept)
        super().__init__(family, l2)

    def __repr__(self):
        return f"{type(self).__name__}({self._operands}{self._settings})"

    @property
    def _operands(self):
        return f"{self.family!r}, {self.n_features}"

    @property
    def _settings(self):
        return (", intercept=False" if not self.intercept else "") + f", l2={self.l2!r}"

    @property
    def layer_sizes(self):
        """[(n_features + 1, k)], what `KroneckerFisher` takes."""
        return [(self.n_features + self.intercept, self.family.n_params)]

    def init(self, rng=None, dtype="float64"):
        """Zeros: the loss of natural parameters is convex, so chance has no part."""
        return np.zeros(self.n_params, dtype_name(dtype))

    def start(self, y, dtype="float64"):
        """The fit of the intercepts alone, (p,): a start nearer to the optimum than zeros.

        From zeros, the first step of a Poisson regression can overshoot by far.
        """
        theta = self.init(dtype=dtype).reshape(self.family.n_params, -1)
        if self.intercept:
            theta[:, -1] = self.family.fit(y)
        return theta.ravel()

    def _forward(self, theta, X):
        dtype = np.result_type(theta, X)
        Z = with_ones(X, dtype) if self.intercept else X.astype(dtype, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            return [Z], Z @ theta.reshape(self.family.n_params, -1).T

    def _backward(self, theta, inputs, E):
        return [E]

    def exact_fisher(self, theta, X):
        """The exact Fisher, straight from the data: no scores are formed (F4, G1).

        Returns
        -------
        DenseFisher
            Of kind "exact". n_samples and weight are the rows of X, so ``weight * matrix()`` is
            the information of the sample.

        Notes
        -----
        n k (k + 1) / 2 d^2 flops for d columns; k (k - 1) / 2 d^2 for logits of all classes.
        """
        (Z,), z = self._checked_outputs(theta, X)
        n = some_rows(Z)
        k, d = z.shape[1], Z.shape[1]
        sums = np.zeros((k, d, k, d))
        step = max(_BLOCK_BYTES // (8 * k * k), 256)
        for start in range(0, n, step):
            block = slice(start, start + step)
            R = self.family.fisher(z[block])
            if not np.isfinite(R).all():
                self._refuse_overflow(theta, z)
            scores = as_scores(Z[block])
            for a in range(k):
                for b in range(a + self._rows_of_blocks_vanish, k):
                    sums[a, :, b] += weighted_sum(scores, R[:, a, b])
        for a in range(k):
            for b in range(a):
                sums[a, :, b] = sums[b, :, a]
        if self._rows_of_blocks_vanish:
            for a in range(k):
                sums[a, :, a] = -sums[a].sum(axis=1)
        sums = sums.reshape(k * d, k * d)
        return DenseFisher.from_sums(sums, n, n_samples=n, dtype=Z.dtype, kind="exact")

    _rows_of_blocks_vanish = False


def weighted_sum(scores, weights):
    """sum_i w_i x_i x_i' in double, w of either sign."""
    total = np.zeros((scores.shape[1],) * 2)
    for sign in (1, -1):
        part = np.maximum(sign * weights.astype(np.float64), 0)
        if part.any():
            block = np.zeros_like(total)
            add_syrk(block, scores, weights=part)
            total += sign * block
    return np.tril(total) + np.tril(total, -1).T


class LinearRegression(GLM):
    """y ~ N(w'x + b, sigma^2) with sigma known; the loss is the squared error and a constant.

    One natural-gradient step of rate 1 reaches the least-squares solution (docs/math.md, F5).

    Parameters
    ----------
    n_features : int
    sigma : float
        The standard deviation; it scales loss, scores and Fisher, not the optimum.
    intercept, l2
        As in `GLM`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.models import LinearRegression
    >>> X = np.array([[0.0], [1.0], [2.0]])
    >>> LinearRegression(1).exact_fisher(np.zeros(2), X).matrix().round(4)
    array([[1.6667, 1.    ],
           [1.    , 1.    ]])
    """

    def __init__(self, n_features, *, sigma=1.0, intercept=True, l2=0.0):
        super().__init__(GaussianMean(sigma=sigma), n_features, intercept=intercept, l2=l2)

    @property
    def _operands(self):
        return f"{self.n_features}, sigma={self.family.sigma!r}"


class LogisticRegression(GLM):
    """P(y = 1 | x) = 1 / (1 + exp(-w'x - b)), y 0 or 1; Fisher ``mean p (1 - p) x x'``.

    Parameters
    ----------
    n_features : int
    intercept, l2
        As in `GLM`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.models import LogisticRegression
    >>> model = LogisticRegression(1)
    >>> X, y = np.array([[0.5], [1.0]]), np.array([0, 1])
    >>> round(model.loss(model.init(), X, y), 6)
    0.693147
    """

    def __init__(self, n_features, *, intercept=True, l2=0.0):
        super().__init__(Bernoulli("logit"), n_features, intercept=intercept, l2=l2)

    @property
    def _operands(self):
        return str(self.n_features)


class PoissonRegression(GLM):
    """Counts with mean exp(w'x + b); Fisher ``mean rate x x'``.

    Parameters
    ----------
    n_features : int
    intercept, l2
        As in `GLM`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.models import PoissonRegression
    >>> model = PoissonRegression(1)
    >>> model.mean(np.log([2.0, 3.0]), np.array([[0.0], [1.0]]))
    array([3., 6.])
    """

    def __init__(self, n_features, *, intercept=True, l2=0.0):
        super().__init__(Poisson("log"), n_features, intercept=intercept, l2=l2)

    _operands = LogisticRegression._operands
