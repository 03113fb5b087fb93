"""The result object: relations between its parts, and what `infer` refuses."""

import copy
import pickle

import numpy as np
import pytest
from scipy.stats import norm, t

from fastfisher.errors import InputError, NotPositiveDefiniteError
from fastfisher.models import (
    GLM,
    MLP,
    Gaussian,
    LinearRegression,
    LogisticRegression,
    PoissonRegression,
    SoftmaxRegression,
)
from fastfisher.optim import NaturalGradient, fisher_metric, minimize
from fastfisher.stats import infer, observed_information, opg


def fitted(model, n=200, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, model.n_features))
    y = model.sample(0.4 * rng.normal(size=model.n_params), X, rng)
    fit = minimize(
        model, X, y, theta0=model.start(y), iterations=50, gtol=1e-12,
        optimizer=NaturalGradient(damping=0.0),
    )  # fmt: skip
    return fit.theta, X, y


MODEL = PoissonRegression(3)
DATA = fitted(MODEL)


@pytest.mark.parametrize("use_t", [False, True])
def test_parts_belong_together(use_t):
    result = infer(MODEL, *DATA, use_t=use_t)
    law = t(200 - 4) if use_t else norm
    np.testing.assert_array_equal(result.params, DATA[0])
    np.testing.assert_allclose(result.bse**2, np.diag(result.cov_params()))
    np.testing.assert_allclose(result.tvalues, result.params / result.bse)
    np.testing.assert_allclose(result.pvalues, 2 * law.sf(np.abs(result.tvalues)))
    half = law.isf(0.05) * result.bse
    np.testing.assert_allclose(
        result.conf_int(alpha=0.1), np.c_[result.params - half, result.params + half]
    )
    assert result.llf == pytest.approx(-200 * MODEL.loss(*DATA))
    assert (result.nobs, result.df_resid) == (200, 196)
    assert result.aic == pytest.approx(8 - 2 * result.llf)
    assert result.bic == pytest.approx(4 * np.log(200) - 2 * result.llf)
    single = result.wald_test([[1.0, 0, 0, 0]])
    assert single.statistic == pytest.approx(result.tvalues[0] ** 2)
    assert result.wald_test(null=result.params).statistic == 0


def test_covariances_of_every_kind():
    exact = infer(MODEL, *DATA)
    F = fisher_metric(MODEL, DATA[0], DATA[1])
    np.testing.assert_allclose(exact.cov_params(), np.linalg.inv(200 * F.matrix()), rtol=1e-9)
    observed = infer(MODEL, *DATA, cov_type="observed")
    np.testing.assert_allclose(observed.bse, exact.bse, rtol=1e-9)  # F6
    by_scores = infer(MODEL, *DATA, cov_type="opg")
    np.testing.assert_array_equal(by_scores.cov_params(), opg(MODEL.scores(*DATA)))
    # the model is right, so all agree to the error of 200 rows, and none is equal
    for cov_type in ("opg", "HC0", "HC1"):
        other = infer(MODEL, *DATA, cov_type=cov_type).bse
        assert np.all(np.abs(np.log(other / exact.bse)) < 0.35)
        assert np.abs(other - exact.bse).max() > 1e-4
    scaled = infer(MODEL, *DATA, scale=4.0)
    np.testing.assert_allclose(scaled.bse, 2 * exact.bse)


def test_observed_information_F6_differs_outside_natural_parameters():
    model = GLM(Gaussian("log_sigma"), 1)
    theta, X, y = fitted(model)
    observed, F = observed_information(model, theta, X, y), model.exact_fisher(theta, X)
    assert np.abs(observed - 200 * F.matrix()).max() > 1
    h = 1e-5
    numeric = [
        -200 * (model.gradient(theta - h * e, X, y) - model.gradient(theta + h * e, X, y)) / (2 * h)
        for e in np.eye(4)
    ]
    np.testing.assert_allclose(observed, numeric, atol=1e-5)
    np.testing.assert_array_equal(observed, observed.T)
    # the estimates of mean and spread do not depend on the choice for long
    exact, oim = infer(model, theta, X, y), infer(model, theta, X, y, cov_type="observed")
    assert np.abs(np.log(oim.bse / exact.bse)).max() < 0.2


@pytest.mark.parametrize("cov_type", ["exact", "observed", "opg", "HC0"])
def test_dispersion_is_the_variance_that_the_model_left_out(cov_type):
    theta, X, y = fitted(LinearRegression(2, sigma=3.0))
    known = infer(LinearRegression(2, sigma=3.0), theta, X, y, cov_type=cov_type)
    scaled = infer(LinearRegression(2), theta, X, y, cov_type=cov_type, scale=9.0)
    np.testing.assert_allclose(scaled.cov_params(), known.cov_params(), rtol=1e-9, atol=1e-15)


def test_observed_information_does_not_depend_on_the_units_of_the_features():
    theta, X, y = DATA
    units = np.array([1e7, 1.0, 1e-6])
    changed = theta / np.append(units, 1.0)
    scale = np.append(units, 1.0)
    observed = observed_information(MODEL, changed, X * units, y) / np.outer(scale, scale)
    expected = observed_information(MODEL, theta, X, y)
    np.testing.assert_allclose(observed, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


def test_standard_errors_are_the_spread_of_estimates_over_samples():
    model, rng = LogisticRegression(2), np.random.default_rng(5)
    truth, X = np.array([0.8, -0.5, 0.2]), rng.normal(size=(200, 2))
    estimates = []
    for _ in range(100):
        y = model.sample(truth, X, rng)
        estimates.append(
            minimize(
                model, X, y, optimizer=NaturalGradient(damping=0.0), iterations=20, gtol=1e-9
            ).theta
        )
    result = infer(model, truth, X, y)
    spread = np.std(estimates, axis=0)
    assert np.abs(np.log(spread / result.bse)).max() < 4 / np.sqrt(2 * 100)


def test_softmax_without_a_reference_is_singular_and_its_contrasts_are_not():
    full, free = SoftmaxRegression(2, 3), SoftmaxRegression(2, 3, reference=0)
    theta, X, y = fitted(free)
    padded = np.append(np.zeros(3), theta)
    with pytest.raises(NotPositiveDefiniteError, match=r"singular.*fix a reference class"):
        infer(full, padded, X, y)
    known = infer(free, theta, X, y)
    result = infer(full, padded, X, y, singular="pinv")
    contrast = np.hstack([-np.tile(np.eye(3), (2, 1)), np.eye(6)])
    np.testing.assert_allclose(
        contrast @ result.cov_params() @ contrast.T, known.cov_params(), rtol=1e-8, atol=1e-12
    )
    assert known.names[:3] == ("y=1: x0", "y=1: x1", "y=1: const")


def test_a_network_has_standard_errors_where_its_fisher_is_regular():
    model = MLP((2, 1), output="gaussian", sigma=0.5)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 2))
    theta = np.array([0.5, -1.0, 0.2])
    y = model.sample(theta, X, rng)
    Z = np.c_[X, np.ones(50)]
    result = infer(model, theta, X, y)
    np.testing.assert_allclose(result.cov_params(), 0.25 * np.linalg.inv(Z.T @ Z), rtol=1e-10)
    assert result.names == ("theta0", "theta1", "theta2")


def test_likelihood_ratio_of_nested_models():
    _, X, y = DATA
    small = PoissonRegression(1)
    fit = minimize(
        small, X[:, :1], y, optimizer=NaturalGradient(damping=0.0), iterations=50, gtol=1e-12
    )
    large, restricted = infer(MODEL, *DATA), infer(small, fit.theta, X[:, :1], y)
    test = large.lr_test(restricted)
    assert (test.df, test.statistic) == (2, pytest.approx(2 * (large.llf - restricted.llf)))
    with pytest.raises(InputError, match="fit both to the same data"):
        large.lr_test(infer(small, fit.theta, X[:10, :1], y[:10]))


def test_summary_is_a_table_of_the_parameters():
    result = infer(MODEL, *DATA, names=["age", "dose", "weight_in_kg", "const"])
    lines = result.summary().splitlines()
    assert lines[0] == "PoissonRegression(3, l2=0.0)"
    assert "n = 200" in lines[1] and "covariance: exact" in lines[2]
    assert lines[3].split()[:4] == ["name", "coef", "std", "err"]
    assert lines[3].split()[4:] == ["z", "P>|z|", "2.5%", "97.5%"]
    assert [line.split()[0] for line in lines[4:]] == list(result.names)
    row = [float(v) for v in lines[4].split()[1:]]
    expected = [
        result.params[0], result.bse[0], result.tvalues[0], result.pvalues[0],
        *result.conf_int()[0],
    ]  # fmt: skip
    np.testing.assert_allclose(row, expected, rtol=1e-3, atol=1e-3)
    assert len({len(line) for line in lines[3:]}) == 1, "columns are aligned"


def test_results_are_values_that_can_be_copied_and_pickled():
    result = infer(MODEL, *DATA)
    for clone in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        np.testing.assert_array_equal(clone.bse, result.bse)
    result.cov_params()[:] = 0
    assert result.bse.all()
    assert "llf" in repr(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cov_type": "HC3"}, "cov_type is 'HC3', expected one of exact, observed, opg"),
        ({"cov_type": "cluster"}, "cov_type='cluster' needs groups="),
        ({"groups": np.zeros(200)}, "groups belongs to cov_type='cluster'; got cov_type='exact'"),
        ({"cov_type": "HAC"}, "cov_type='HAC' needs lags="),
        ({"lags": 2}, "lags belongs to cov_type='HAC'; got cov_type='exact'"),
        ({"scale": np.nan}, "scale is nan"),
        ({"scale": [1.0]}, r"scale is \[1.0\]"),
        ({"scale": 0.0}, "scale is 0.0, expected a number > 0 or 'pearson'"),
        ({"scale": "deviance"}, "scale is 'deviance'"),
        ({"names": ["a"]}, "names has 1 entries but there are 4 parameters"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(InputError, match=message):
        infer(MODEL, *DATA, **change)


def test_penalised_models_are_refused():
    model = PoissonRegression(3, l2=0.1)
    with pytest.raises(InputError, match=r"l2 is 0\.1: the covariance of a penalised estimate"):
        infer(model, *DATA)


@pytest.mark.parametrize("n", [3, 4])
def test_student_t_needs_more_rows_than_parameters(n):
    theta, X, y = DATA
    with pytest.raises(InputError, match=f"use_t=True needs more rows than parameters, got {n} an"):
        infer(MODEL, theta, X[:n], y[:n], use_t=True, cov_type="exact", singular="pinv")


def test_residuals_that_vanish_have_no_pearson_scale():
    model, X = LinearRegression(1), np.arange(4.0)[:, None]
    with pytest.raises(InputError, match=r"scale='pearson' is 0\.0 .*, expected a positive"):
        infer(model, np.array([1.0, 0.0]), X, X[:, 0], scale="pearson")


def test_objects_of_the_wrong_kind_are_named():
    with pytest.raises(InputError, match="model is 'm', expected a model"):
        infer("m", *DATA)
    with pytest.raises(InputError, match="restricted is 'x', expected the Results of the"):
        infer(MODEL, *DATA).lr_test("x")


def test_results_compare_by_identity():
    one, other = infer(MODEL, *DATA), infer(MODEL, *DATA)
    assert one == one and one != other
    assert len({one, other}) == 2
