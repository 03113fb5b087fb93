"""SPRING: stochastic reconfiguration with a memory of the last step."""

import numpy as np

from ..api import solve
from ..arrays import as_answer, as_real, as_scores, as_vectors, as_weights, to_origin
from ..errors import InputError
from ..ops import matvec

__all__ = ["spring"]


def spring(G, coef, previous=None, *, damping, momentum, weights=None, center=False, method="auto"):
    """The step that fits the samples and stays near the last one (R2).

    ``d = mu d_ + S'(S S' + lambda I)^-1 (f - mu S d_)`` minimises ``|S d - f|^2 + lambda |d - mu
    d_|^2`` with ``S = diag(s) G``, ``f = s o coef``, ``s = sqrt(w / sum(w))``. With momentum 0 it
    is minSR, the natural gradient for ``b = G'(w o coef) / sum(w)``; with momentum 1 and damping 0
    a block Kaczmarz step.

    Parameters
    ----------
    G : array (n, p)
        Scores; in variational Monte Carlo the log-derivatives, with ``center=True``.
    coef : array (n,)
        The target on the samples, such as centred local energies.
    previous : array (p,), optional
        d_, the last step; none at the start.
    damping : float or damping object
        lambda, as in `fastfisher.solve`.
    momentum : float in [0, 1]
        mu.
    weights, center, method
        As in `fastfisher.solve`.

    Returns
    -------
    array (p,)
        No sign or learning rate is applied; `norm_clip` bounds its length.

    Raises
    ------
    InputError, NotPositiveDefiniteError, MemoryLimitError
        As in `fastfisher.solve`.
    ConvergenceError
        Instead of an unconverged step.

    Notes
    -----
    A solve of `fastfisher.solve` with ``coef``, and one pass over G.

    References
    ----------
    G. Goldshlager, N. Abrahamsen, L. Lin, A Kaczmarz-inspired approach to accelerate the
    optimization of neural network wavefunctions, 2024, arXiv:2401.10190.

    Examples
    --------
    >>> import numpy as np
    >>> G = np.array([[1.0, 0.0]])
    >>> spring(G, np.array([1.0]), np.array([0.0, 2.0]), damping=1.0, momentum=0.5)
    array([0.5, 1. ])
    """
    scores = as_scores(G)
    n, p = scores.shape
    mu = as_real(momentum, "momentum")
    if mu > 1:
        raise InputError(f"momentum is {momentum!r}; expected a number from 0 to 1")
    rows, single = as_vectors(coef, n, scores.dtype, "coef", axis="n")
    if not single:
        raise InputError(f"coef has shape {np.shape(coef)}; expected ({n},)")
    settings = {"damping": damping, "weights": weights, "center": center, "method": method}
    if previous is None or mu == 0:
        return solve(G, coef=coef, **settings).require_convergence().x
    last, single = as_vectors(previous, p, scores.dtype, "previous")
    if not single:
        raise InputError(f"previous has shape {np.shape(previous)}; expected ({p},)")
    last = mu * last[0]
    seen = np.asarray(matvec(scores.data, last))
    if center and n:
        w = as_weights(weights, n)
        seen = seen - (seen.mean() if w is None else (w @ seen) / (w.sum() or 1.0))
    with np.errstate(over="ignore"):
        rest = rows[0] - seen
        rest = as_answer(rest, rest.dtype, "what the last step leaves of coef")
    solution = solve(G, coef=rest, **settings).require_convergence()
    with np.errstate(over="ignore"):
        step = np.asarray(solution.x) + last
    return to_origin(as_answer(step, step.dtype, "the step"), G)
