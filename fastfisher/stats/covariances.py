"""Covariances of a maximum-likelihood estimate, from its scores and its information."""

import numpy as np

from ..arrays import as_array, as_scores
from ..errors import InputError, NotPositiveDefiniteError
from ..ops import cho_solve, cholesky, group_sums, syrk
from .checks import check_count, check_finite

__all__ = ["covariance", "from_information", "meat", "opg", "sandwich", "standard_errors"]


def covariance(
    scores=None, information=None, *, groups=None, lags=0, correction=False, singular="raise"
):
    """Covariance of a maximum-likelihood estimate from what is known about it.

    ===================  =======================================================
    scores only          `opg`, (G'G)^-1
    information only     `from_information`, I_n^-1
    both                 `sandwich`, I_n^-1 (G'G) I_n^-1, with groups or lags
    ===================  =======================================================

    Parameters
    ----------
    scores : array (n, p), optional
    information : array (p, p), optional
        A sum over the sample.
    groups, lags, correction
        Of `sandwich`.
    singular : {"raise", "pinv"}

    Returns
    -------
    array (p, p)

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.stats import covariance
    >>> G = np.array([[2.0], [-2.0]])
    >>> covariance(G), covariance(information=np.array([[4.0]])), covariance(G, np.array([[4.0]]))
    (array([[0.125]]), array([[0.25]]), array([[0.5]]))
    """
    if scores is None and information is None:
        raise InputError("covariance needs scores, information, or both")
    if scores is not None and information is not None:
        return sandwich(
            scores, information, groups=groups, lags=lags, correction=correction, singular=singular
        )
    if groups is not None or lags or correction:
        raise InputError("groups, lags and correction need both scores and information")
    if scores is None:
        return from_information(information, singular=singular)
    return opg(scores, singular=singular)


def from_information(information, *, singular="raise"):
    """Inverse of the information of the whole sample, I_n^-1.

    Parameters
    ----------
    information : array (p, p)
        A sum over the sample, not a mean: ``weight * matrix()`` of a Fisher object, or minus the
        Hessian of the log-likelihood.
    singular : {"raise", "pinv"}
        What to do with an information that is singular to working precision: an error, or the
        Moore-Penrose pseudo-inverse, which holds for estimable contrasts only (those in the row
        space of the scores), as of softmax coefficients without a reference class.

    Returns
    -------
    array (p, p)
        Symmetric to the bit.

    Raises
    ------
    InputError
        Not a finite symmetric matrix, or one whose inverse overflows.
    NotPositiveDefiniteError
        Singular or indefinite; the message names the parameters that are not identified.

    Notes
    -----
    The matrix is scaled to a unit diagonal first, so the units of the features do not matter
    (docs/math.md, P4, V1). p^3 flops.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.stats import from_information
    >>> from_information(np.diag([4.0, 100.0]))
    array([[0.25, 0.  ],
           [0.  , 0.01]])
    """
    if singular not in ("raise", "pinv"):
        raise InputError(f"singular is {singular!r}, expected 'raise' or 'pinv'")
    remedy = "drop one, fix a reference class, or pass singular='pinv' for estimable contrasts"
    return inverse(information, singular=singular, remedy=remedy)


def inverse(A, name="information", of="parameters", *, singular="raise", remedy="drop one"):
    """Inverse of a symmetric matrix `A`; `name`, `of` and `remedy` are words of its refusals."""
    A = _symmetric(A, name)
    p = len(A)
    diagonal = A.diagonal()
    positive = diagonal > 0
    # powers of two: scaling is exact
    root = np.ldexp(1.0, -(np.frexp(np.where(positive, diagonal, 1.0))[1] // 2))
    scaled = A * root[:, None] * root
    result = None
    if positive.all():
        try:
            result = cho_solve(cholesky(scaled), np.eye(p))
        except NotPositiveDefiniteError:
            pass
    tolerance = p * np.finfo(np.float64).eps
    if result is not None and p:
        rcond = 1 / (np.linalg.norm(scaled, 1) * np.linalg.norm(result, 1))
        if not rcond > tolerance:
            result = None
    if result is None and singular == "raise":
        _refuse(scaled, tolerance, name, of, remedy)
    if result is None:
        from scipy.linalg import pinvh

        return _mirrored(pinvh(A))
    with np.errstate(over="ignore"):
        result = _mirrored(result * root[:, None] * root)
    lost = np.flatnonzero(~np.isfinite(result).all(axis=1))
    if len(lost):
        raise InputError(
            f"the inverse of the {name} at {of[:-1]} {lost[0]} overflows: its diagonal is "
            f"{diagonal[lost[0]]:.3g} there; change the unit"
        )
    return result


def _refuse(scaled, tolerance, name, of, remedy):
    eigenvalues, vectors = np.linalg.eigh(scaled)
    direction = np.abs(vectors[:, 0])
    named = np.flatnonzero(direction > 0.1 * direction.max())
    listed = ", ".join(map(str, named[:10])) + (", ..." if len(named) > 10 else "")
    what = "indefinite" if eigenvalues[0] < -tolerance * abs(eigenvalues[-1]) else "singular"
    raise NotPositiveDefiniteError(
        f"the {name} is {what} (smallest scaled eigenvalue {eigenvalues[0]:.1e}): {of} "
        f"{listed} are not identified together; {remedy}",
        order=int(named[-1]) + 1,
        rcond=max(float(eigenvalues[0] / eigenvalues[-1]), 0.0) if eigenvalues[-1] else 0.0,
    )


def opg(scores, *, singular="raise"):
    """Outer product of gradients, (G'G)^-1: the inverse of the empirical information.

    Parameters
    ----------
    scores : array (n, p)
        Per-sample scores at the estimate.
    singular : {"raise", "pinv"}
        As in `from_information`.

    Returns
    -------
    array (p, p)

    Notes
    -----
    Right where the model is, and a poor estimate in small samples (docs/math.md, V1, F5).

    References
    ----------
    E. Berndt, B. Hall, R. Hall, J. Hausman (1974), Annals of Economic and Social Measurement 3.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.stats import opg
    >>> opg(np.array([[1.0, 0.0], [1.0, 2.0], [0.0, -2.0]]))
    array([[ 0.66666667, -0.16666667],
           [-0.16666667,  0.16666667]])
    """
    return from_information(meat(scores), singular=singular)


def meat(scores, *, groups=None, lags=0):
    """Covariance of the summed score, G'G, with dependence inside groups or over time.

    Parameters
    ----------
    scores : array (n, p)
    groups : array (n,), optional
        Labels of clusters: scores are summed inside each, ``sum_c s_c s_c'`` (F10).
    lags : int
        Rows in order of time, correlated over this many: Bartlett weights
        ``G_0 + sum_l (1 - l/(lags+1)) (G_l + G_l')``, which stays positive semidefinite.

    Returns
    -------
    array (p, p)

    References
    ----------
    W. Newey, K. West (1987), Econometrica 55.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.stats import meat
    >>> meat(np.array([[1.0], [1.0], [-2.0]]), groups=np.array(["a", "a", "b"]))
    array([[8.]])
    """
    G = as_scores(scores, "scores").data
    if G.dtype.kind == "c":
        raise InputError("scores are complex; those of a log-likelihood are real")
    if len(G) == 0:
        raise InputError("scores have no rows")
    lags = check_count(lags, "lags", 0)
    if groups is not None and lags:
        raise InputError("groups and lags exclude each other; pass one of them")
    G = G.astype(np.float64, copy=False)
    if groups is not None:
        G = _sums_by_group(G, groups)
    total = syrk(G)
    for lag in range(1, min(lags, len(G) - 1) + 1):
        shifted = G[lag:].T @ G[:-lag]
        total += (1 - lag / (lags + 1)) * (shifted + shifted.T)
    return total


def _sums_by_group(G, groups):
    groups = np.asarray(groups)
    if groups.shape != (len(G),):
        raise InputError(f"groups has shape {groups.shape}, expected one label per row ({len(G)},)")
    if groups.dtype.kind in "fc" and not np.isfinite(groups).all():
        raise InputError("groups has labels that are not finite")
    if groups.dtype.kind in "mM" and np.isnat(groups).any():
        raise InputError("groups has labels that are not a time (NaT)")
    try:
        if groups.dtype.kind == "O" and any(g is None or g != g for g in groups):
            raise TypeError
        _, label = np.unique(groups, return_inverse=True)
    except TypeError:  # from the order of labels, too
        raise InputError(
            "groups has labels that are missing or cannot be compared; pass all as numbers or "
            "all as strings"
        ) from None
    return group_sums(G, label)


def sandwich(scores, information, *, groups=None, lags=0, correction=False, singular="raise"):
    """Robust covariance I_n^-1 (G'G) I_n^-1, right where the model is not.

    Parameters
    ----------
    scores : array (n, p)
    information : array (p, p)
        Of the whole sample, as in `from_information`.
    groups, lags
        As in `meat`: clusters, or a Bartlett window over time (HAC).
    correction : bool
        Factor for small samples: n / (n - p), which makes HC0 to HC1; with c groups
        c / (c - 1) (n - 1) / (n - p).
    singular : {"raise", "pinv"}

    Returns
    -------
    array (p, p)

    Raises
    ------
    InputError
        Shapes that do not belong together, or too few rows or groups for the correction.

    References
    ----------
    H. White (1980), Econometrica 48; docs/math.md V1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.stats import sandwich
    >>> sandwich(np.array([[2.0], [-2.0]]), np.array([[4.0]]), correction=True)
    array([[1.]])
    """
    bread = from_information(information, singular=singular)
    G = as_array(scores, "scores")
    filling = meat(G, groups=groups, lags=lags)
    n, p = G.shape
    if bread.shape != (p, p):
        raise InputError(f"information has shape {bread.shape} but scores have {p} columns")
    covariance = bread @ filling @ bread
    if correction:
        if n <= p:
            raise InputError(f"correction needs more rows than parameters, got {n} and {p}")
        factor = n / (n - p)
        if groups is not None:
            c = len(np.unique(groups))
            if c < 2:
                raise InputError("correction needs at least two groups")
            factor = c / (c - 1) * (n - 1) / (n - p)
        covariance *= factor
    return _mirrored(covariance)


def standard_errors(covariance):
    """Square roots of the diagonal, (p,)."""
    covariance = as_array(covariance, "covariance")
    if covariance.dtype.kind not in "fiu":
        raise InputError(f"covariance has dtype {covariance.dtype}, expected real numbers")
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise InputError(f"covariance has shape {covariance.shape}, expected a square one (p, p)")
    variance = np.diagonal(covariance)
    wrong = np.flatnonzero(~((variance >= 0) & (variance < np.inf)))
    if len(wrong):
        k = int(wrong[0])
        raise InputError(
            f"covariance[{k}, {k}] is {variance[k]:.3g}, expected a finite variance >= 0"
        )
    return np.sqrt(variance)


def _symmetric(A, name):
    if hasattr(A, "matrix"):
        raise InputError(
            f"{name} is a {type(A).__name__}, expected an array, a sum over the sample: "
            "pass F.weight * F.matrix()"
        )
    A = check_finite(A, name)
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise InputError(f"{name} has shape {A.shape}, expected a square matrix (p, p)")
    if np.abs(A - A.T).max(initial=0.0) > 1e-8 * np.abs(A).max(initial=0.0):
        raise InputError(f"{name} is not symmetric")
    return _mirrored(A)


def _mirrored(A):
    return (A + A.T) / 2
