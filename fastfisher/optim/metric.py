"""The Fisher matrix of a model as an object of the core: exact, Monte-Carlo or empirical."""

import numpy as np

from ..arrays import as_array
from ..errors import InputError
from ..fisher import DenseFisher, GramFisher
from ..scalars import as_choice, as_count, as_generator

__all__ = ["FISHERS", "add_scores", "checked_operands", "fisher_metric", "labelled"]

FISHERS = ("exact", "mc", "empirical")

# Scores are formed this many bytes at a time; for a dense F as many rows as parameters where that
# is more: they are no larger than F, and its upkeep per update is small beside the products.
_BLOCK_BYTES = 8 << 20


def fisher_metric(model, theta, X, y=None, *, fisher="exact", rng=None, labels=1):
    """The Fisher matrix of `model` at `theta`, averaged over the rows of X.

    ===========  ============================================  ==================================
    ``fisher``   F is the mean over rows of                    which is
    ===========  ============================================  ==================================
    exact        E[s s'] over y drawn from the model: for      the Fisher (F2, type II of F4)
                 classes, sum_c p(c|x) s_c s_c'
    mc           s s' at `labels` outcomes drawn from the      an unbiased estimate; its error
                 model                                         falls like labels^-1/2 (F3)
    empirical    s s' at the outcomes y of the data            not the Fisher (F5): it shrinks
                                                               with the residuals, so steps blow
                                                               up near a perfect fit
    ===========  ============================================  ==================================

    The three agree in expectation only where the data come from the model itself: with a wrong
    model, or away from the optimum, the empirical one differs however many data there are. That
    difference is also what a sandwich covariance measures (`fastfisher.stats.sandwich`).

    Parameters
    ----------
    model : object
        With ``exact_scores``, or ``scores`` and ``sample``, as in `fastfisher.models`; where it
        has ``exact_fisher``, that forms the exact Fisher without any scores.
    theta : (p,) array
    X : (n, d) array
    y : (n,) array, optional
        Needed by the empirical Fisher only.
    fisher : {"exact", "mc", "empirical"}
    rng : numpy.random.Generator, int or None
        Draws the labels of "mc".
    labels : int
        Labels drawn per row for "mc".

    Returns
    -------
    DenseFisher or GramFisher
        The latter where there are fewer rows of scores than parameters: the dual route.

    Raises
    ------
    InputError
        Unknown name, no rows, or "empirical" without y.

    References
    ----------
    J. Martens (2020), JMLR 21:146.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.models import SoftmaxRegression
    >>> X = np.array([[-1.0], [0.5], [2.0]])
    >>> F = fisher_metric(SoftmaxRegression(1, 2), np.zeros(4), X)
    >>> F @ np.array([1.0, 0.0, 0.0, 0.0])      # p(1-p) mean(x^2) first: 1.75 / 4
    array([ 0.4375,  0.125 , -0.4375, -0.125 ])
    """
    as_choice(fisher, "fisher", FISHERS)
    theta, X, y = checked_operands(theta, X, y, labels)
    rng = as_generator(rng)
    p = len(theta)
    if len(X) * _rows_per_sample(model, theta, X, fisher, labels) < p:
        rows = _scores(model, theta, X, y, fisher, rng, labels)
        return GramFisher(kind=fisher).update(*rows)
    if fisher == "exact" and hasattr(model, "exact_fisher"):
        return model.exact_fisher(theta, X)
    metric = DenseFisher(p, dtype=np.asarray(theta).dtype, kind=fisher)
    return add_scores(metric, model, theta, X, y, fisher, rng, labels)


def checked_operands(theta, X, y, labels):
    """theta, X and y as arrays; what a model says of them comes after."""
    theta, X, y = as_array(theta, "theta"), as_array(X, "X"), y if y is None else as_array(y, "y")
    if theta.ndim != 1:
        raise InputError(f"theta has shape {theta.shape}, expected (p,)")
    if X.ndim == 0 or len(X) == 0:
        raise InputError("X has no rows, so the mean over them is undefined; pass at least one")
    as_count(labels, "labels", least=1)
    return theta, X, y


def add_scores(metric, model, theta, X, y, fisher, rng, labels, decay=1.0):
    """Update `metric` with explicit scores, some rows of X at a time."""
    p = len(theta)
    decay = decay if metric.weight else 1.0
    size = _BLOCK_BYTES // (p * np.asarray(theta).itemsize)
    if isinstance(metric, DenseFisher):
        size = max(p, size)
    size = size // _rows_per_sample(model, theta, X, fisher, labels) + 1
    for start in range(0, len(X), size):
        block = slice(start, start + size)
        part = None if y is None else y[block]
        rows, weights = _scores(model, theta, X[block], part, fisher, rng, labels)
        metric.update(rows, weights, decay=decay)
        decay = 1.0
    return metric


def labelled(model, theta, X, y, fisher, rng, labels):
    """The rows and labels whose scores make the sampled or the empirical Fisher."""
    if fisher == "empirical":
        if y is None:
            raise InputError("fisher='empirical' needs the labels y of the data")
        return X, y
    X = np.repeat(X, labels, axis=0)
    return X, model.sample(theta, X, rng)


def _scores(model, theta, X, y, fisher, rng, labels):
    """(scores, weights or None) whose second moment is the Fisher of these rows."""
    if fisher == "exact":
        return model.exact_scores(theta, X)
    return model.scores(theta, *labelled(model, theta, X, y, fisher, rng, labels)), None


def _rows_per_sample(model, theta, X, fisher, labels):
    if fisher == "exact":
        return len(model.exact_scores(theta, X[:1])[0])
    return labels if fisher == "mc" else 1
