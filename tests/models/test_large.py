"""Finite values so large that something overflows: infinite or refused, never NaN, no warning."""

import numpy as np
import pytest

from fastfisher.errors import InputError
from fastfisher.models import GLM, MLP, Gaussian, GaussianMean, LinearRegression, SoftmaxRegression
from fastfisher.optim import Adam, GradientDescent, minimize
from tests.models.families import CASES

X = np.array([[1.0, 2.0], [3.0, 4.0]])
CLASSES, Y = np.array([0, 1]), np.array([1.0, 2.0])


def test_rows_of_a_gaussian_far_out_are_roots_of_its_information_F4():
    family = Gaussian("log_sigma")
    with np.errstate(under="ignore"):
        rows, weights = family.exact_scores(np.array([800.0, 800.0]))
    np.testing.assert_allclose(rows.T @ (weights[:, None] * rows), np.diag([0.0, 2.0]))
    rows, weights = GLM(family, 2).exact_scores(np.full(6, 1e-298), X * 1e300)
    assert np.isfinite(rows).all() and np.isfinite(weights).all()


def test_information_without_a_root_is_named():
    class Flat(GaussianMean):
        def _fisher(self, theta):
            return np.zeros((*theta.shape, 2))

    with pytest.raises(InputError, match="the Fisher information is singular"):
        Flat(dim=2).exact_scores(np.zeros(2))


@pytest.mark.parametrize("model", [SoftmaxRegression(2, 2), MLP((2, 3, 2))], ids=repr)
def test_loss_without_a_penalty_does_not_look_at_its_size(model):
    assert not np.isnan(model.loss(np.full(model.n_params, 1e200), X, CLASSES))
    assert model.loss(np.full(model.n_params, 1e200), X * 0, CLASSES) >= 0


def test_features_far_out_make_the_loss_infinite_and_the_rest_a_refusal():
    model, theta = LinearRegression(2), np.ones(3)
    assert model.loss(theta, X * 1e300, Y) == np.inf
    assert (model.log_likelihood(theta, X * 1e300, Y) == -np.inf).all()
    for call in (model.gradient, model.scores):
        with pytest.raises(InputError, match="overflow"):
            call(theta, X * 1e300, Y)
    steep = MLP((2, 2, 1), output="gaussian", activation="relu")
    theta = np.r_[np.full(6, 1e-160), 1e170, 1e170, 0.0]
    with pytest.raises(InputError, match="overflow"):
        steep.gradient(theta, X * 1e150, -Y)


def test_opposite_overflows_of_a_gradient_are_no_nan():
    model, far = LinearRegression(1, intercept=False), np.array([[1e200], [-1e200]])
    with pytest.raises(InputError, match="the gradient overflows"):
        model.gradient(np.zeros(1), far, np.array([1e150, 1e150]))


@pytest.mark.parametrize("optimizer", [GradientDescent(1e3), Adam(1e160)], ids=repr)
@pytest.mark.parametrize("batch", [None, 10])
def test_a_run_that_diverges_ends_as_not_finite_without_a_warning(optimizer, batch):
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(50, 2)), rng.normal(size=50)
    for model in (LinearRegression(2), MLP((2, 4, 1), output="gaussian", activation="relu")):
        fit = minimize(model, A, b, optimizer=optimizer, iterations=500, batch=batch, rng=0)
        assert fit.status == "not_finite"
        assert np.isfinite(fit.theta).all()


def test_random_numbers_come_from_whatever_numpy_takes():
    model, theta = LinearRegression(2), np.zeros(3)
    known = model.sample(theta, X, np.random.default_rng(5))
    np.testing.assert_array_equal(model.sample(theta, X, 5), known)
    assert model.sample(theta, X, None).shape == (2,)
    network = MLP((2, 3, 2))
    np.testing.assert_array_equal(network.init(5), network.init(np.random.default_rng(5)))
    assert network.init(None).shape == (17,)


@pytest.mark.parametrize("name", CASES)
def test_no_outcomes_have_no_estimate(name):
    family = CASES[name][0]
    y = np.empty((0, family.n_params)) if family.outcome_ndim else []
    with pytest.raises(InputError):
        family.fit(y)
