"""What a maximum-likelihood estimate tells: the object that statisticians know."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..errors import InputError
from .checks import check_number
from .covariances import from_information, meat, opg, sandwich, standard_errors
from .hypotheses import confidence_intervals, likelihood_ratio_test, wald_test

__all__ = ["Results", "infer", "observed_information"]

COV_TYPES = ("exact", "observed", "opg", "HC0", "HC1", "cluster", "HAC")


def observed_information(model, theta, X, y):
    """Minus the Hessian of the log-likelihood of the sample, (p, p).

    Central differences of fourth order of ``model.gradient``: 4 p gradients, some 12 digits. In
    natural parameters, as of the named regressions, it equals the exact Fisher information (F6),
    which costs less.
    """
    theta = np.asarray(theta, np.float64)
    X = np.asarray(X, np.float64)
    # Steps of one KL in each direction: the units of the features do not matter.
    information = np.diagonal(_exact_information(model, theta, X)) / len(X)
    scale = np.where(information > 0, information, 1.0) ** -0.5
    steps = np.finfo(np.float64).eps ** 0.2 * scale
    rows = []
    for k, h in enumerate(steps):
        e = np.zeros_like(theta)
        e[k] = h
        near = model.gradient(theta + e, X, y) - model.gradient(theta - e, X, y)
        far = model.gradient(theta + 2 * e, X, y) - model.gradient(theta - 2 * e, X, y)
        rows.append((8 * near - far) / (12 * h))
    hessian = np.array(rows).reshape(len(theta), len(theta)) - model.l2 * np.eye(len(theta))
    return len(X) * (hessian + hessian.T) / 2


def infer(
    model,
    theta,
    X,
    y,
    *,
    cov_type="exact",
    groups=None,
    lags=None,
    correction=None,
    scale=1.0,
    use_t=False,
    names=None,
    singular="raise",
):
    """Standard errors, tests and intervals of a maximum-likelihood estimate.

    Parameters
    ----------
    model : model of `fastfisher.models`
        With l2 = 0: a penalised estimate has no such covariance.
    theta : (p,) array
        The estimate, as `fastfisher.optim.minimize` returns it.
    X, y : arrays
        The data it was fitted to.
    cov_type : str
        ==========  ======================================================================
        exact       (n F)^-1, F the exact Fisher: the model is taken to be right
        observed    inverse of minus the Hessian (OIM), from `observed_information`
        opg         (G'G)^-1, from the empirical Fisher (`fisher_metric` says when it differs)
        HC0, HC1    sandwich with the exact information; HC1 times n / (n - p)
        cluster     sandwich over `groups`
        HAC         sandwich over time with `lags` lags
        ==========  ======================================================================
    groups : (n,) array, optional
        Labels of clusters.
    lags : int, optional
    correction : bool, optional
        Small-sample factor of `sandwich`; by default of HC1 and cluster.
    scale : float or "pearson"
        Dispersion, which divides the log-likelihood: "exact" and "observed" are multiplied by
        it, "opg" by its square, sandwiches do not change. "pearson":
        ``sum (y - mean)^2 / variance / (n - p)``, the residual variance of least squares and
        the over-dispersion of quasi-Poisson. llf stays that of the model.
    use_t : bool
        Student's t with n - p degrees of freedom in place of the normal; needs n > p.
    names : sequence of str, optional
        Of the p parameters.
    singular : {"raise", "pinv"}
        As in `from_information`.

    Returns
    -------
    Results

    Raises
    ------
    InputError, NotPositiveDefiniteError

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([1.0, 2.0, 2.0, 4.0])
    >>> model = ff.models.LinearRegression(1)
    >>> fit = ff.optim.minimize(model, X, y, iterations=5,
    ...                         optimizer=ff.optim.NaturalGradient(damping=0.0))
    >>> result = ff.stats.infer(model, fit.theta, X, y, scale="pearson", use_t=True)
    >>> result.params.round(4), result.bse.round(4)
    (array([0.9, 0.9]), array([0.2646, 0.495 ]))
    """
    if not (hasattr(model, "l2") and hasattr(model, "log_likelihood")):
        raise InputError(f"model is {model!r}, expected a model of fastfisher.models")
    if model.l2:
        raise InputError(
            f"l2 is {model.l2}: the covariance of a penalised estimate is not that of a "
            "maximum-likelihood estimate; fit a model with l2=0"
        )
    if cov_type not in COV_TYPES:
        raise InputError(f"cov_type is {cov_type!r}, expected one of {', '.join(COV_TYPES)}")
    for name, value, wanted in (("groups", groups, "cluster"), ("lags", lags, "HAC")):
        if value is None and cov_type == wanted:
            raise InputError(f"cov_type={wanted!r} needs {name}=")
        if value is not None and cov_type != wanted:
            raise InputError(f"{name} belongs to cov_type={wanted!r}; got cov_type={cov_type!r}")
    theta = np.asarray(theta)
    log_likelihood = model.log_likelihood(theta, X, y)
    n, p = len(log_likelihood), len(theta)
    if n == 0:
        raise InputError("X has no rows")
    if use_t and n <= p:
        raise InputError(f"use_t=True needs more rows than parameters, got {n} and {p}")
    dispersion = _dispersion(model, theta, X, y, scale, n, p)

    if cov_type == "opg":
        covariance = dispersion**2 * opg(model.scores(theta, X, y), singular=singular)
    else:
        information = (
            observed_information(model, theta, X, y)
            if cov_type == "observed"
            else _exact_information(model, theta, X)
        )
        if cov_type in ("exact", "observed"):
            covariance = dispersion * from_information(information, singular=singular)
        else:
            covariance = sandwich(
                model.scores(theta, X, y),
                information,
                groups=groups,
                lags=lags or 0,
                correction=cov_type in ("HC1", "cluster") if correction is None else correction,
                singular=singular,
            )
    return Results(
        params=theta.copy(),
        covariance=covariance,
        names=_names(model, names, p),
        llf=float(log_likelihood.sum(dtype=np.float64)),
        nobs=n,
        cov_type=cov_type,
        scale=dispersion,
        use_t=bool(use_t),
        model=repr(model),
    )


def _exact_information(model, theta, X):
    """n F in double, without scores where the model can."""
    if hasattr(model, "exact_fisher"):
        F = model.exact_fisher(theta, X)
        return F.weight * F.matrix().astype(np.float64)
    rows, weights = model.exact_scores(theta, X)
    return meat(np.sqrt(weights)[:, None] * rows)


def _dispersion(model, theta, X, y, scale, n, p):
    if isinstance(scale, str) and scale == "pearson":
        if n <= p:
            raise InputError(f"scale='pearson' needs more rows than parameters, got {n} and {p}")
        mean, variance = model.mean(theta, X), model.variance(theta, X)
        if mean.shape != np.shape(y):
            raise InputError("scale='pearson' needs one number as outcome of each row")
        with np.errstate(all="ignore"):
            squares = np.square(y - mean) / variance
            dispersion = float(squares.sum(dtype=np.float64) / (n - p))
        if not 0 < dispersion < math.inf:
            raise InputError(
                f"scale='pearson' is {dispersion} for these residuals, expected a positive finite "
                "number; pass scale=1.0"
            )
        return dispersion
    try:
        return check_number(scale, "scale", 0)
    except InputError:
        raise InputError(f"scale is {scale!r}, expected a number > 0 or 'pearson'") from None


def _names(model, names, p):
    if names is not None:
        names = tuple(map(str, names))
        if len(names) != p:
            raise InputError(f"names has {len(names)} entries but there are {p} parameters")
        return names
    if hasattr(model, "intercept"):
        features = [f"x{i}" for i in range(model.n_features)] + ["const"] * model.intercept
        k = model.family.n_params
        if k == 1:
            return tuple(features)
        outputs = getattr(model.family, "_free", range(k))
        return tuple(f"y={c}: {f}" for c in outputs for f in features)
    return tuple(f"theta{i}" for i in range(p))


@dataclass(frozen=True, eq=False)
class Results:
    """An estimate with its covariance.

    Attributes
    ----------
    params : (p,) array
    covariance : (p, p) array
    names : tuple of str
    llf : float
        Log-likelihood of the sample.
    nobs : int
    cov_type : str
    scale : float
        Dispersion inside the covariance.
    use_t : bool
    model : str
    """

    params: np.ndarray
    covariance: np.ndarray = field(repr=False)
    names: tuple = field(repr=False)
    llf: float
    nobs: int
    cov_type: str
    scale: float = 1.0
    use_t: bool = False
    model: str = ""

    def cov_params(self):
        """Covariance of the estimate, a copy (p, p)."""
        return self.covariance.copy()

    @property
    def df_resid(self):
        return self.nobs - len(self.params)

    @cached_property
    def bse(self):
        """Standard errors, (p,)."""
        return standard_errors(self.covariance)

    @cached_property
    def tvalues(self):
        """params / bse; NaN only for 0 / 0, a parameter that is zero without doubt."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.params / self.bse

    @cached_property
    def pvalues(self):
        """Two-sided, that each parameter is zero."""
        from scipy.stats import norm, t

        size = np.abs(self.tvalues)
        return 2 * (t.sf(size, self.df_resid) if self.use_t else norm.sf(size))

    def conf_int(self, alpha=0.05):
        """Intervals of level 1 - alpha, rows of (lower, upper)."""
        df = self.df_resid if self.use_t else None
        return confidence_intervals(self.params, self.covariance, alpha=alpha, df=df)

    @property
    def aic(self):
        """2 p - 2 llf."""
        return 2 * len(self.params) - 2 * self.llf

    @property
    def bic(self):
        """p log n - 2 llf."""
        return len(self.params) * math.log(self.nobs) - 2 * self.llf

    def wald_test(self, restrictions=None, null=0.0):
        """The hypothesis R theta = r; see `fastfisher.stats.wald_test`."""
        return wald_test(self.params, self.covariance, null=null, restrictions=restrictions)

    def lr_test(self, restricted):
        """Likelihood ratio against the results of a restricted model on the same data."""
        if not isinstance(restricted, Results):
            raise InputError(
                f"restricted is {restricted!r}, expected the Results of the restricted model"
            )
        if restricted.nobs != self.nobs:
            raise InputError(
                f"the restricted model saw {restricted.nobs} rows, this one {self.nobs}; "
                "fit both to the same data"
            )
        df = len(self.params) - len(restricted.params)
        return likelihood_ratio_test(self.llf, restricted.llf, df)

    def summary(self, alpha=0.05):
        """A table as text: coefficient, standard error, z or t, p-value, interval."""
        letter = "t" if self.use_t else "z"
        width = max(map(len, (*self.names, "name")), default=4)
        ends = (f"{100 * q:g}%" for q in (alpha / 2, 1 - alpha / 2))
        head = (
            f"{self.model}\nn = {self.nobs}   log-likelihood = {self.llf:.6g}   "
            f"AIC = {self.aic:.6g}   BIC = {self.bic:.6g}\ncovariance: {self.cov_type}   "
            f"scale = {self.scale:.6g}\n"
        )
        columns = ("coef", "std err", letter, f"P>|{letter}|", *ends)
        lines = [" ".join([f"{'name':<{width}}", *(f"{c:>11}" for c in columns)])]
        table = np.column_stack(
            [self.params, self.bse, self.tvalues, self.pvalues, self.conf_int(alpha)]
        )
        for name, row in zip(self.names, table, strict=True):
            lines.append(
                f"{name:<{width}} {row[0]:>11.5g} {row[1]:>11.4g} {row[2]:>11.3f} "
                f"{row[3]:>11.4f} {row[4]:>11.4g} {row[5]:>11.4g}"
            )
        return head + "\n".join(lines)
