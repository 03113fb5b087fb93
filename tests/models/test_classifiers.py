"""Softmax regression and the MLP: each closed form against a law that does not know it."""

import numpy as np
import pytest

from fastfisher.models import MLP, SoftmaxRegression
from tests.models.classifiers import MODELS, U, case, central_difference, jacobian_of_logits
from tests.models.classifiers import model as model
from tests.oracle import fisher, layer_scores

# Values by hand ------------------------------------------------------------------------------


def test_softmax_loss_and_scores_by_hand():
    model = SoftmaxRegression(1, 2)
    theta, X, y = np.array([0.0, 0.0, np.log(3.0), 0.0]), np.array([[1.0]]), np.array([0])
    np.testing.assert_allclose(model.probabilities(theta, X), [[0.25, 0.75]], rtol=4 * U)
    np.testing.assert_allclose(model.loss(theta, X, y), np.log(4.0), rtol=4 * U)
    np.testing.assert_allclose(model.scores(theta, X, y), [[0.75, 0.75, -0.75, -0.75]], rtol=4 * U)
    assert model.predict(theta, X) == 1
    assert model.accuracy(theta, X, y) == 0.0


@pytest.mark.parametrize(
    ("model", "n_params"),
    [(SoftmaxRegression(64, 10), 650), (MLP((64, 32, 10)), 2410), (MLP((3, 2)), 8)],
    ids=repr,
)
def test_number_of_parameters(model, n_params):
    assert model.n_params == n_params
    assert model.init(np.random.default_rng(0)).shape == (n_params,)


def test_parameters_of_softmax_are_class_major_with_the_bias_last():
    model = SoftmaxRegression(2, 3)
    W = np.arange(9.0).reshape(3, 3) / 10
    X = np.array([[1.0, -2.0]])
    logits = W[:, :2] @ X[0] + W[:, 2]
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(model.probabilities(W.ravel(), X)[0], expected, rtol=8 * U)


def test_network_without_hidden_layer_is_softmax_regression():
    network, softmax = MLP((4, 3), l2=0.2), SoftmaxRegression(4, 3, l2=0.2)
    theta, X, y = case(softmax)
    assert network.loss(theta, X, y) == softmax.loss(theta, X, y)
    np.testing.assert_array_equal(network.scores(theta, X, y), softmax.scores(theta, X, y))


def test_start_is_reproducible_with_zero_biases_and_the_stated_variance():
    for activation, variance in (("tanh", 2 / 500), ("relu", 2 / 300)):
        model = MLP((300, 200, 2), activation=activation)
        theta = model.init(np.random.default_rng(3))
        np.testing.assert_array_equal(theta, model.init(np.random.default_rng(3)))
        W = theta[: 200 * 301].reshape(200, 301)
        assert not W[:, -1].any()
        # relative s.e. of a variance over N normals is sqrt(2/N); four of them
        assert abs(W[:, :-1].var() / variance - 1) < 4 * np.sqrt(2 / 60_000)
    assert not SoftmaxRegression(5, 3).init().any()


# Derivatives ---------------------------------------------------------------------------------


def test_gradient_is_the_derivative_of_the_loss(model):
    theta, X, y = case(model)
    numeric = central_difference(lambda t: model.loss(t, X, y), theta)
    np.testing.assert_allclose(model.gradient(theta, X, y), numeric, atol=30 * U ** (2 / 3))


def test_scores_are_the_derivatives_of_the_log_likelihood(model):
    theta, X, y = case(model)
    numeric = central_difference(
        lambda t: model.log_probabilities(t, X)[np.arange(len(y)), y], theta
    )
    np.testing.assert_allclose(model.scores(theta, X, y), numeric.T, atol=30 * U ** (2 / 3))


def test_gradient_is_the_penalty_minus_the_mean_score(model):
    theta, X, y = case(model)
    expected = model.l2 * theta - model.scores(theta, X, y).mean(axis=0)
    np.testing.assert_allclose(model.gradient(theta, X, y), expected, atol=30 * len(y) * U)


def test_l2_enters_loss_and_gradient_and_nothing_else():
    plain, penal = SoftmaxRegression(4, 3), SoftmaxRegression(4, 3, l2=0.5)
    theta, X, y = case(plain)
    added = penal.loss(theta, X, y) - plain.loss(theta, X, y)
    assert abs(added - 0.25 * theta @ theta) <= 30 * U * added
    np.testing.assert_array_equal(penal.scores(theta, X, y), plain.scores(theta, X, y))
    np.testing.assert_array_equal(penal.exact_scores(theta, X)[0], plain.exact_scores(theta, X)[0])


def test_layers_L1_give_the_scores_as_kron_of_signal_and_input(model):
    theta, X, y = case(model)
    layers = model.layers(theta, X, y)
    assert [(A.shape[1], E.shape[1]) for A, E in layers] == model.layer_sizes
    assert all((A[:, -1] == 1).all() for A, _ in layers)
    np.testing.assert_array_equal(layer_scores(layers), model.scores(theta, X, y))


# Fisher --------------------------------------------------------------------------------------


def test_score_F1_has_mean_zero_under_the_model(model):
    theta, X, _ = case(model)
    rows, weights = model.exact_scores(theta, X)
    C = model.n_classes
    mean = (weights[:, None] * rows).reshape(len(X), C, -1).sum(axis=1)
    assert np.abs(mean).max() <= 30 * C * U * np.abs(rows).max()


def test_exact_scores_F4_are_the_scores_of_every_label(model):
    theta, X, _ = case(model)
    rows, weights = model.exact_scores(theta, X)
    C = model.n_classes
    assert rows.shape == (len(X) * C, model.n_params)
    np.testing.assert_array_equal(weights.reshape(-1, C), model.probabilities(theta, X))
    for c in range(C):
        labelled = model.scores(theta, X, np.full(len(X), c))
        np.testing.assert_allclose(rows[c::C], labelled, atol=8 * U)


def test_exact_fisher_F4_is_the_generalised_gauss_newton_matrix(model):
    theta, X, _ = case(model, n=4)
    F = fisher(*model.exact_scores(theta, X))
    ggn = np.zeros_like(F)
    for i in range(len(X)):
        J = jacobian_of_logits(model, theta, X[i : i + 1])
        p = model.probabilities(theta, X[i : i + 1])[0]
        ggn += J.T @ (np.diag(p) - np.outer(p, p)) @ J / len(X)
    np.testing.assert_allclose(F, ggn, atol=100 * U ** (2 / 3))


def test_exact_fisher_F6_of_softmax_is_the_hessian_of_the_loss():
    model = MODELS["softmax"]
    theta, X, y = case(model)
    hessian = central_difference(lambda t: model.gradient(t, X, y), theta)
    F = fisher(*model.exact_scores(theta, X))
    np.testing.assert_allclose(F, hessian, atol=30 * U ** (2 / 3))
    empirical = fisher(model.scores(theta, X, y))
    assert np.abs(empirical - hessian).max() > 0.01, "F5: the empirical Fisher is another matrix"


def test_exact_fisher_G1_of_softmax_is_a_kronecker_sum_with_a_null_space():
    model = MODELS["softmax"]
    theta, X, _ = case(model)
    F = fisher(*model.exact_scores(theta, X))
    Z = np.c_[X, np.ones(len(X))]
    expected = sum(
        np.kron(np.diag(p) - np.outer(p, p), np.outer(z, z)) / len(X)
        for p, z in zip(model.probabilities(theta, X), Z, strict=True)
    )
    scale = np.abs(F).max()
    np.testing.assert_allclose(F, expected, atol=30 * len(X) * U * scale)
    shift = np.kron(np.ones(3), np.array([0.3, -1.0, 2.0, 0.5, 1.0]))
    assert np.abs(F @ shift).max() <= 30 * len(F) * U * scale * np.abs(shift).max()
    assert np.linalg.matrix_rank(F) <= 2 * 5


def test_exact_fisher_F2_is_symmetric_psd_of_limited_rank():
    model = MLP((4, 6, 3))
    theta, X, _ = case(model, n=5)
    eigenvalues = np.linalg.eigvalsh(fisher(*model.exact_scores(theta, X)))
    p, largest = model.n_params, eigenvalues[-1]
    assert eigenvalues[0] >= -30 * p * U * largest
    # one label's score per row is a combination of the others
    assert (eigenvalues > 30 * p * U * largest).sum() <= 5 * (3 - 1)


def test_sampled_fisher_F3_converges_to_the_exact_one():
    model = MODELS["softmax"]
    theta, X, _ = case(model)
    exact = fisher(*model.exact_scores(theta, X))
    repeated = np.repeat(X, 4000, axis=0)
    labels = model.sample(theta, repeated, np.random.default_rng(5))
    rows = model.scores(theta, repeated, labels)
    sampled = fisher(rows)
    # variance of one entry under the model, in its four standard errors
    R, w = model.exact_scores(theta, X)
    second = (w[:, None] * R**2).T @ R**2 / w.sum()
    error = np.sqrt(second / len(rows))
    assert np.all(np.abs(sampled - exact) <= 4 * error + 30 * len(rows) * U)


# KL ------------------------------------------------------------------------------------------


def test_kl_K1_is_half_the_quadratic_form_with_slope_three(model):
    theta, X, _ = case(model)
    F = fisher(*model.exact_scores(theta, X))
    d = np.random.default_rng(1).normal(size=model.n_params) / 10

    def excess(t):
        return abs(model.kl(theta, theta + t * d, X) - 0.5 * t * t * d @ F @ d)

    slope = np.log10(excess(1e-2) / excess(1e-3))
    assert abs(slope - 3) <= 0.15


def test_kl_is_accurate_where_the_textbook_sum_has_lost_every_digit(model):
    theta, X, _ = case(model)
    F = fisher(*model.exact_scores(theta, X))
    d = 1e-9 * np.random.default_rng(1).normal(size=model.n_params)
    assert abs(model.kl(theta, theta + d, X) / (0.5 * d @ F @ d) - 1) < 1e-5
    assert model.kl(theta, theta, X) == 0.0


def test_kl_equals_the_textbook_sum_for_large_steps(model):
    theta, X, _ = case(model)
    log_p, log_q = (model.log_probabilities(t, X) for t in (theta, -2 * theta))
    textbook = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    assert abs(model.kl(theta, -2 * theta, X) - textbook) <= 100 * U * textbook
