"""Wald, score and likelihood-ratio tests, intervals and the Cramer-Rao bound."""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .checks import check_count, check_finite, check_number
from .covariances import inverse, meat, standard_errors

__all__ = [
    "HypothesisTest",
    "confidence_intervals",
    "cramer_rao",
    "likelihood_ratio_test",
    "score_test",
    "score_test_opg",
    "wald_test",
]


@dataclass(frozen=True)
class HypothesisTest:
    """A statistic that is chi-square distributed under the hypothesis.

    Attributes
    ----------
    name : str
    statistic : float
    df : int
        Number of restrictions.
    pvalue : float
        Probability of a statistic at least as large.
    """

    name: str
    statistic: float
    df: int

    @property
    def pvalue(self):
        from scipy.stats import chi2

        return float(chi2.sf(self.statistic, self.df))

    def __str__(self):
        return f"{self.name}: chi2({self.df}) = {self.statistic:.6g}, p = {self.pvalue:.6g}"


def wald_test(theta, covariance, *, null=0.0, restrictions=None):
    """(R t - r)' (R V R')^-1 (R t - r) for the hypothesis R theta = r.

    Parameters
    ----------
    theta : (p,) array
        The estimate t.
    covariance : (p, p) array
        V, of the estimate.
    null : float or (q,) array
        r; zero by default.
    restrictions : (q, p) array, optional
        R of full row rank; the identity by default, which tests all parameters.

    Returns
    -------
    HypothesisTest

    Examples
    --------
    Seven heads in ten tosses of a fair coin (docs/math.md, V2):

    >>> import numpy as np
    >>> from fastfisher.stats import wald_test
    >>> print(wald_test(np.array([0.7]), np.array([[0.021]]), null=0.5))
    Wald: chi2(1) = 1.90476, p = 0.167546
    """
    theta, V = np.atleast_1d(check_finite(theta, "theta")), np.atleast_2d(covariance)
    p = len(theta)
    R = np.eye(p)
    if restrictions is not None:
        R = np.atleast_2d(check_finite(restrictions, "restrictions"))
    if theta.ndim != 1 or V.shape != (p, p) or R.shape[1:] != (p,):
        raise InputError(
            f"theta, covariance and restrictions have shapes {theta.shape}, {V.shape}, {R.shape}; "
            "expected (p,), (p, p) and (q, p)"
        )
    if np.shape(null) not in ((), (len(R),)):
        raise InputError(f"null has shape {np.shape(null)}, expected one number or ({len(R)},)")
    difference = R @ theta - check_finite(null, "null")
    RVR = R @ check_finite(V, "covariance") @ R.T
    inner = inverse(RVR, "covariance of the restrictions", "restrictions")
    return _quadratic("Wald", difference, inner)


def score_test(score, information):
    """s' I_n^-1 s at the restricted estimate (Rao, Lagrange multiplier).

    Parameters
    ----------
    score : (p,) array
        Sum of the scores at the hypothesis.
    information : (p, p) array
        Of the whole sample, at the hypothesis.

    Returns
    -------
    HypothesisTest
        With p degrees of freedom; where only q parameters are restricted, `dataclasses.replace`
        its df by q (the score of the free ones is zero).

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.stats import score_test
    >>> print(score_test(np.array([8.0]), np.array([[40.0]])))      # the coin of `wald_test`
    score: chi2(1) = 1.6, p = 0.205903
    """
    score = np.atleast_1d(check_finite(score, "score"))
    return _quadratic("score", score, inverse(np.atleast_2d(information)))


def score_test_opg(scores):
    """1'G (G'G)^-1 G'1 at the restricted estimate, at most n (docs/math.md, V2)."""
    inner = inverse(meat(scores))
    return _quadratic("score (OPG)", np.asarray(scores, np.float64).sum(axis=0), inner)


def likelihood_ratio_test(llf, llf_null, df):
    """2 (llf - llf_null) for nested models.

    Parameters
    ----------
    llf, llf_null : float
        Log-likelihoods of the sample at both maxima.
    df : int
        Number of restrictions.

    Raises
    ------
    InputError
        If the restricted model fits better than the free one by more than rounding.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.stats import likelihood_ratio_test
    >>> free, fair = 7 * np.log(0.7) + 3 * np.log(0.3), 10 * np.log(0.5)
    >>> print(likelihood_ratio_test(free, fair, 1))
    likelihood ratio: chi2(1) = 1.64566, p = 0.199551
    """
    for name, value in (("llf", llf), ("llf_null", llf_null)):
        check_number(value, name)
    statistic = 2 * (float(llf) - float(llf_null))
    if not statistic >= -1e-8 * max(1.0, abs(llf)):
        raise InputError(
            f"llf is {llf} and llf_null {llf_null}: the free model must fit at least as well; "
            "swap them or fit to the maximum"
        )
    return HypothesisTest("likelihood ratio", max(statistic, 0.0), check_count(df, "df", 1))


def confidence_intervals(theta, covariance, *, alpha=0.05, df=None):
    """theta -+ z se, rows of (lower, upper).

    Parameters
    ----------
    theta : (p,) array
    covariance : (p, p) array
    alpha : float
        One minus the level, in (0, 1).
    df : float, optional
        Degrees of freedom of Student's t, > 0; the normal by default.

    Returns
    -------
    array (p, 2)

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.stats import confidence_intervals
    >>> confidence_intervals(np.array([0.7]), np.array([[0.021]])).round(4)
    array([[0.416, 0.984]])
    """
    from scipy.stats import norm, t

    alpha = check_number(alpha, "alpha", 0, 1)
    theta, V = np.atleast_1d(check_finite(theta, "theta")), np.atleast_2d(covariance)
    if V.shape != theta.shape * 2:
        raise InputError(
            f"theta and covariance have shapes {theta.shape} and {V.shape}; expected (p,), (p, p)"
        )
    law = norm if df is None else t(check_number(df, "df", 0))
    width = law.isf(alpha / 2) * standard_errors(V)
    return np.stack([theta - width, theta + width], axis=1)


def cramer_rao(information, jacobian=None):
    """J I_n^-1 J', below which no covariance of an unbiased estimate of f(theta) can be.

    Parameters
    ----------
    information : (p, p) array
        Of the whole sample.
    jacobian : (q, p) array, optional
        J, of the expectation of the estimator in theta; the identity for theta itself.

    Returns
    -------
    array (p, p) or (q, q)

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.stats import cramer_rao
    >>> cramer_rao(np.array([[40.0]]))                 # ten tosses of a fair coin
    array([[0.025]])
    """
    bound = inverse(np.atleast_2d(information))
    if jacobian is None:
        return bound
    J = np.atleast_2d(check_finite(jacobian, "jacobian"))
    if J.shape[1:] != bound.shape[:1]:
        raise InputError(f"jacobian has shape {J.shape}, expected (q, {len(bound)})")
    return J @ bound @ J.T


def _quadratic(name, v, inner):
    if v.shape != inner.shape[:1]:
        raise InputError(f"{v.shape} and {inner.shape} do not belong together")
    return HypothesisTest(name, max(float(v @ inner @ v), 0.0), len(v))
