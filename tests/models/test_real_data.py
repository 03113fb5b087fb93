"""Fisher scoring on the data sets that statsmodels and scikit-learn bring, beside their fits.

Coefficients and standard errors agree to 1e-8 of the largest of them (or of 1, where all are
smaller); features are scaled to at most 1. Iterations are fewer than their gradient methods take.
"""

import warnings

import numpy as np
import pytest

from fastfisher.models import (
    LinearRegression,
    LogisticRegression,
    PoissonRegression,
    SoftmaxRegression,
)
from fastfisher.optim import NaturalGradient, minimize
from fastfisher.stats import infer

sm = pytest.importorskip("statsmodels.api")


def load(name, outcome=None):
    """y, X scaled by its largest entries, and X with a constant at the end for statsmodels."""
    data = getattr(sm.datasets, name).load_pandas()
    X = np.asarray(data.exog, np.float64)
    X = X / np.abs(X).max(axis=0)
    y = np.asarray(data.endog, np.float64)
    return (y if outcome is None else outcome(y)), X, np.c_[X, np.ones(len(X))]


def fisher_scoring(model, X, y):
    fit = minimize(
        model, X, y, theta0=model.start(y), iterations=30,
        optimizer=NaturalGradient(damping=0.0), gtol=1e-13,
    )  # fmt: skip
    assert fit.status == "converged"
    return fit


def equal(ours, theirs):
    """To 1e-8, relative to each value or absolute where it is small."""
    theirs = np.asarray(theirs, np.float64)
    return np.abs(ours - theirs).max() <= 1e-8 * max(1.0, np.abs(theirs).max())


GRADIENT_SOLVERS = {
    "bfgs": {"gtol": 1e-8},
    "lbfgs": {"pgtol": 1e-8, "factr": 1.0},
    "ncg": {"avextol": 1e-10},  # Newton with conjugate gradients inside
}


def takes_fewer_steps(ours, reference):
    """Than the gradient methods of statsmodels need to gradients some digits larger than ours."""
    for method, tolerance in GRADIENT_SOLVERS.items():
        seen = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some stop short of their tolerance
            reference.fit(method=method, maxiter=5000, disp=0, callback=seen.append, **tolerance)
        assert 0 < ours < len(seen), f"{method} took {len(seen)} iterations, Fisher scoring {ours}"


DISCRETE = {
    "spector": (LogisticRegression, "Logit", "Binomial", ("spector", None)),
    "fair": (LogisticRegression, "Logit", "Binomial", ("fair", lambda y: (y > 0) * 1.0)),
    "randhie": (PoissonRegression, "Poisson", "Poisson", ("randhie", None)),
    "cpunish": (PoissonRegression, "Poisson", "Poisson", ("cpunish", None)),
}


@pytest.mark.parametrize("name", DISCRETE)
def test_logit_poisson_and_glm_are_reproduced(name):
    regression, discrete, family, which = DISCRETE[name]
    y, X, Z = load(*which)
    model = regression(X.shape[1])
    fit = fisher_scoring(model, X, y)
    ours = infer(model, fit.theta, X, y)

    reference = getattr(sm, discrete)(y, Z)
    theirs = reference.fit(method="newton", tol=1e-14, maxiter=100, disp=0)
    glm = sm.GLM(y, Z, family=getattr(sm.families, family)()).fit(tol=1e-14)
    for result in (theirs, glm):
        assert equal(ours.params, result.params)
        assert equal(ours.bse, result.bse)
        assert equal(ours.tvalues, result.tvalues)
        assert np.abs(ours.pvalues - result.pvalues).max() < 1e-8
        assert equal(ours.conf_int(), result.conf_int())
        assert equal(ours.cov_params(), result.cov_params())
        assert ours.llf == pytest.approx(result.llf, rel=1e-10)
        assert ours.aic == pytest.approx(result.aic, rel=1e-10)
    assert ours.bic == pytest.approx(theirs.bic, rel=1e-10)
    assert ours.df_resid == theirs.df_resid == glm.df_resid
    takes_fewer_steps(fit.iterations, reference)


@pytest.mark.parametrize("name", ["spector", "randhie"])
def test_robust_covariances_V1_are_those_of_statsmodels(name):
    regression, discrete, _, which = DISCRETE[name]
    y, X, Z = load(*which)
    model = regression(X.shape[1])
    theta = fisher_scoring(model, X, y).theta
    reference = getattr(sm, discrete)(y, Z)
    groups = np.arange(len(y)) // 4
    for mine, theirs, extra in (
        ({"cov_type": "HC0"}, "HC0", {}),
        ({"cov_type": "cluster", "groups": groups}, "cluster", {"groups": groups}),
        ({"cov_type": "HAC", "lags": 3}, "HAC", {"maxlags": 3}),
    ):
        settings = {"cov_type": theirs} | ({"cov_kwds": extra} if extra else {})
        fit = reference.fit(method="newton", tol=1e-14, maxiter=100, disp=0, **settings)
        ours = infer(model, theta, X, y, **mine)
        assert equal(ours.bse, fit.bse), theirs
        assert equal(ours.cov_params(), fit.cov_params()), theirs
    # for such models statsmodels' HC1 leaves its factor out; of OLS it is compared below
    n, k = Z.shape
    plain, corrected = (infer(model, theta, X, y, cov_type=c).bse for c in ("HC0", "HC1"))
    np.testing.assert_allclose(corrected, plain * np.sqrt(n / (n - k)), rtol=1e-14)


def test_multinomial_logit_is_reproduced():
    y, X, Z = load("anes96", lambda y: y.astype(int))
    model = SoftmaxRegression(X.shape[1], 7, reference=0)
    fit = fisher_scoring(model, X, y)
    ours = infer(model, fit.theta, X, y)
    reference = sm.MNLogit(y, Z)
    theirs = reference.fit(method="newton", tol=1e-14, maxiter=100, disp=0)
    assert equal(ours.params.reshape(6, -1).T, theirs.params)
    assert equal(ours.bse.reshape(6, -1).T, theirs.bse)
    assert ours.llf == pytest.approx(theirs.llf, rel=1e-12)
    takes_fewer_steps(fit.iterations, reference)


@pytest.mark.parametrize("name", ["longley", "stackloss"])
def test_least_squares_is_reproduced_in_one_step(name):
    y, X, _ = load(name)
    y, X = y / np.abs(y).max(), X - X.mean(axis=0)  # Longley's years: nearly a constant
    Z = np.c_[X, np.ones(len(X))]
    model = LinearRegression(X.shape[1])
    first = minimize(model, X, y, optimizer=NaturalGradient(damping=0.0), iterations=1)
    exact = np.linalg.lstsq(Z, y, rcond=None)[0]
    # the normal equations square the condition number; one more step refines
    condition = np.linalg.cond(Z) ** 2
    assert np.abs(first.theta - exact).max() <= 1e-15 * condition * np.abs(exact).max()

    fit = minimize(model, X, y, optimizer=NaturalGradient(damping=0.0), iterations=3)
    ours = infer(model, fit.theta, X, y, scale="pearson", use_t=True)
    theirs = sm.OLS(y, Z).fit()
    assert equal(ours.params, theirs.params)
    assert equal(ours.bse, theirs.bse)
    assert np.abs(ours.pvalues - theirs.pvalues).max() < 1e-8
    assert equal(ours.conf_int(), theirs.conf_int())
    glm = sm.GLM(y, Z, family=sm.families.Gaussian()).fit()
    assert equal(ours.bse, glm.bse)
    for cov_type in ("HC0", "HC1"):
        robust = infer(model, fit.theta, X, y, cov_type=cov_type)
        assert equal(robust.bse, sm.OLS(y, Z).fit(cov_type=cov_type).bse)
    # at the likelihood's own sigma the log-likelihood is that of least squares
    sigma = float(np.sqrt(np.mean((y - model.mean(fit.theta, X)) ** 2)))
    own = infer(LinearRegression(X.shape[1], sigma=sigma), fit.theta, X, y)
    assert own.llf == pytest.approx(theirs.llf, rel=1e-12)


def test_quasi_poisson_is_reproduced():
    y, X, Z = load("randhie")
    model = PoissonRegression(X.shape[1])
    theta = fisher_scoring(model, X, y).theta
    ours = infer(model, theta, X, y, scale="pearson")
    theirs = sm.GLM(y, Z, family=sm.families.Poisson()).fit(scale="X2", tol=1e-14)
    assert ours.scale == pytest.approx(theirs.scale, rel=1e-9)
    assert equal(ours.bse, theirs.bse)


def test_tests_of_hypotheses_V2_are_those_of_statsmodels():
    y, X, Z = load("spector")
    model, small = LogisticRegression(3), LogisticRegression(1)
    theta = fisher_scoring(model, X, y).theta
    ours = infer(model, theta, X, y)
    theirs = sm.Logit(y, Z).fit(method="newton", tol=1e-14, disp=0)
    R = np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    test = theirs.wald_test(R, scalar=True, use_f=False)
    assert ours.wald_test(R).statistic == pytest.approx(test.statistic, rel=1e-8)
    assert ours.wald_test(R).pvalue == pytest.approx(test.pvalue, rel=1e-8)
    restricted = infer(small, fisher_scoring(small, X[:, :1], y).theta, X[:, :1], y)
    statistic = 2 * (theirs.llf - sm.Logit(y, Z[:, [0, 3]]).fit(disp=0, tol=1e-14).llf)
    ratio = ours.lr_test(restricted)
    assert (ratio.df, ratio.statistic) == (2, pytest.approx(statistic, rel=1e-8))


@pytest.mark.parametrize(("name", "classes"), [("load_breast_cancer", 2), ("load_iris", 3)])
def test_penalised_classifiers_of_scikit_learn_are_reproduced(name, classes):
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.linear_model import LogisticRegression as Reference

    X, y = getattr(datasets, name)(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    l2, n = 1e-2, len(X)
    # scikit-learn leaves the intercept out of its penalty, so there is none here
    model = (
        LogisticRegression(X.shape[1], intercept=False, l2=l2)
        if classes == 2
        else SoftmaxRegression(X.shape[1], classes, intercept=False, l2=l2)
    )
    fit = minimize(model, X, y, optimizer=NaturalGradient(damping=0.0), iterations=30, gtol=1e-13)
    settings = {"C": 1 / (n * l2), "fit_intercept": False, "tol": 1e-12, "max_iter": 10_000}
    newton = Reference(solver="newton-cg", **settings).fit(X, y)
    assert equal(fit.theta, newton.coef_.ravel())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lbfgs = Reference(solver="lbfgs", **settings | {"tol": 1e-8}).fit(X, y)
    assert fit.iterations < lbfgs.n_iter_.max()
