"""Generalised linear models and Gaussian networks: each closed form against a law."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.models import (
    GLM,
    Gaussian,
    LinearRegression,
    LogisticRegression,
    PoissonRegression,
    SoftmaxRegression,
)
from fastfisher.models import linear as linear_module
from fastfisher.optim import NaturalGradient, fisher_metric, minimize
from tests.models.regressions import GLMS, MODELS, NATURAL, U, case, derivative
from tests.oracle import fisher


@pytest.fixture(params=MODELS, ids=str)
def model(request):
    return MODELS[request.param]


@pytest.fixture(params=GLMS, ids=str)
def glm(request):
    return MODELS[request.param]


# Values by hand ------------------------------------------------------------------------------


def test_losses_and_scores_by_hand():
    X, theta = np.array([[2.0]]), np.array([0.5, -1.0])  # z = 0
    linear = LinearRegression(1, sigma=2.0)
    assert linear.loss(theta, X, [4.0]) == pytest.approx(2 + np.log(2 * np.sqrt(2 * np.pi)))
    np.testing.assert_array_equal(linear.scores(theta, X, [4.0]), [[2, 1]])
    logistic = LogisticRegression(1)
    assert logistic.loss(theta, X, [1]) == pytest.approx(np.log(2))
    np.testing.assert_array_equal(logistic.scores(theta, X, [1]), [[1, 0.5]])
    poisson = PoissonRegression(1)
    assert poisson.loss(theta, X, [3]) == pytest.approx(1 + np.log(6))
    np.testing.assert_array_equal(poisson.scores(theta, X, [3]), [[4, 2]])
    for model, expected in ((linear, 0.25), (logistic, 0.25), (poisson, 1.0)):
        F = model.exact_fisher(theta, X).matrix()
        np.testing.assert_allclose(F, expected * np.array([[4, 2], [2, 1]]), rtol=8 * U)


def test_two_classes_with_a_reference_are_logistic_regression():
    softmax, logistic = SoftmaxRegression(3, 2, reference=0), LogisticRegression(3)
    theta, X, y = case(logistic)
    assert softmax.loss(theta, X, y) == pytest.approx(logistic.loss(theta, X, y), rel=16 * U)
    for method in ("scores", "gradient"):
        pair = [getattr(m, method)(theta, X, y) for m in (softmax, logistic)]
        np.testing.assert_allclose(*pair, rtol=64 * U, atol=8 * U)
    F = softmax.exact_fisher(theta, X).matrix()
    np.testing.assert_allclose(F, logistic.exact_fisher(theta, X).matrix(), rtol=64 * U)


def test_a_reference_class_is_a_class_whose_weights_are_zero():
    full, free = SoftmaxRegression(3, 4), MODELS["reference"]
    theta, X, y = case(free)
    padded = np.insert(theta.reshape(3, 4), 1, 0.0, axis=0).ravel()
    kept = np.repeat([True, False, True, True], 4)
    np.testing.assert_allclose(
        free.scores(theta, X, y), full.scores(padded, X, y)[:, kept], atol=8 * U
    )
    F = full.exact_fisher(padded, X).matrix()[np.ix_(kept, kept)]
    np.testing.assert_allclose(free.exact_fisher(theta, X).matrix(), F, atol=64 * U)


# Derivatives ---------------------------------------------------------------------------------


def test_scores_F1_and_gradient_are_derivatives(model):
    theta, X, y = case(model)
    numeric = derivative(lambda t: model.log_likelihood(t, X, y), theta).T
    scale = max(1.0, np.abs(numeric).max())
    np.testing.assert_allclose(model.scores(theta, X, y), numeric, atol=1e-9 * scale)
    numeric = derivative(lambda t: model.loss(t, X, y), theta)
    np.testing.assert_allclose(model.gradient(theta, X, y), numeric, atol=1e-9 * scale)
    assert model.loss(theta, X, y) == pytest.approx(
        0.5 * model.l2 * theta @ theta - model.log_likelihood(theta, X, y).mean()
    )


@pytest.mark.parametrize("name", NATURAL)
def test_exact_fisher_F6_is_the_hessian_in_natural_parameters(name):
    model = MODELS[name]
    theta, X, y = case(model)
    hessian = derivative(lambda t: model.gradient(t, X, y), theta) - model.l2 * np.eye(len(theta))
    F = model.exact_fisher(theta, X).matrix()
    np.testing.assert_allclose(F, hessian, atol=1e-9 * max(1.0, np.abs(F).max()))


def test_fisher_F6_negative_control_mean_and_spread():
    """Outside natural parameters the Hessian is another matrix, and indefinite."""
    model = GLM(Gaussian("log_sigma"), 0)  # one mean, one log-spread
    theta, r = np.array([0.3, np.log(2.0)]), 1.7
    X, y = np.empty((1, 0)), np.array([0.3 + r])
    hessian = derivative(lambda t: model.gradient(t, X, y), theta)
    assert np.linalg.det(hessian) == pytest.approx(-2 * r**2 / 2.0**4, rel=1e-6)
    np.testing.assert_allclose(model.exact_fisher(theta, X).matrix(), np.diag([0.25, 2]))


# Fisher --------------------------------------------------------------------------------------


def test_exact_fisher_F4_without_scores_is_that_of_the_scores(glm):
    for n in (1, 2, 7, 300):
        theta, X, _ = case(glm, n)
        F = glm.exact_fisher(theta, X)
        rows, weights = glm.exact_scores(theta, X)
        assert weights.sum() == pytest.approx(n)
        expected = fisher(rows, weights)
        ratio = np.abs(F.matrix() - expected).max() / (30 * n * U * np.abs(expected).max())
        assert ratio <= 1
        np.testing.assert_array_equal(F.matrix(), F.matrix().T)
        assert (F.n_samples, F.weight, F.kind) == (n, n, "exact")
        assert not F.mean.any()


def test_exact_fisher_does_not_depend_on_the_block_size(glm, monkeypatch):
    theta, X, _ = case(glm, 700)
    whole = glm.exact_fisher(theta, X).matrix()
    monkeypatch.setattr(linear_module, "_BLOCK_BYTES", 1)  # blocks of 256 rows
    blocks = glm.exact_fisher(theta, X).matrix()
    np.testing.assert_allclose(blocks, whole, atol=30 * 700 * U * np.abs(whole).max())


def test_exact_fisher_F2_is_the_mean_over_outcomes_of_the_model(glm):
    theta, X, _ = case(glm, 3)
    n, repeats = 3, 40_000
    many = np.repeat(X, repeats, axis=0)
    G = glm.scores(theta, many, glm.sample(theta, many, np.random.default_rng(3)))
    F = glm.exact_fisher(theta, X).matrix()
    sampled, fourth = G.T @ G / len(G), (G**2).T @ G**2 / len(G)
    assert np.all(np.abs(sampled - F) <= 5 * np.sqrt(fourth / (n * repeats)) + 1e-12)


def test_exact_fisher_G1_of_softmax_is_the_kronecker_sum_with_its_null_space():
    model = SoftmaxRegression(3, 4)
    theta, X, _ = case(model, 20)
    P, Z = model.probabilities(theta, X), np.c_[X, np.ones(20)]
    expected = np.mean(
        [np.kron(np.diag(p) - np.outer(p, p), np.outer(z, z)) for p, z in zip(P, Z, strict=True)],
        axis=0,
    )
    F = model.exact_fisher(theta, X).matrix()
    np.testing.assert_allclose(F, expected, atol=100 * U)
    assert np.abs(F.reshape(4, 4, 4, 4).sum(axis=2)).max() <= 4 * U, "block rows sum to zero"
    assert np.linalg.matrix_rank(F) == 3 * 4
    assert np.linalg.matrix_rank(MODELS["reference"].exact_fisher(theta[:12], X).matrix()) == 12


@pytest.mark.parametrize("reference", [None, 2])
def test_fisher_bound_G2_is_above_every_exact_fisher(reference):
    model = SoftmaxRegression(3, 4, reference=reference)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3))
    bound = model.fisher_bound(X).matrix()
    for scale in (0.0, 0.1, 1.0, 10.0):
        F = model.exact_fisher(scale * rng.normal(size=model.n_params), X).matrix()
        assert np.linalg.eigvalsh(bound - F)[0] >= -100 * U * np.abs(bound).max()
    binary = SoftmaxRegression(3, 2, reference=0)
    Z = np.c_[X, np.ones(30)]
    np.testing.assert_allclose(binary.fisher_bound(X).matrix(), Z.T @ Z / 120, rtol=64 * U)


def test_saturated_rows_G2_are_exact_zeros():
    for model in (LogisticRegression(1), SoftmaxRegression(1, 3), PoissonRegression(1)):
        theta = np.zeros(model.n_params)
        theta[0] = -2000.0
        X = np.array([[1.0], [2.0]])
        F = model.exact_fisher(theta, X).matrix()
        if model.family.n_params == 1:
            assert not F.any()
        assert np.isfinite(F).all()
        assert np.isfinite(model.scores(theta, X, np.array([0, 0]))).all()


def test_empirical_fisher_F5_of_least_squares_is_another_matrix():
    model = LinearRegression(3, intercept=False)
    theta, X, y = case(model, 40)
    r = y - X @ theta
    empirical = fisher_metric(model, theta, X, y, fisher="empirical").matrix()
    np.testing.assert_allclose(empirical, X.T * r**2 @ X / 40, rtol=1e-12)
    F = fisher_metric(model, theta, X).matrix()
    np.testing.assert_allclose(F, X.T @ X / 40, rtol=1e-12)
    assert np.abs(F - empirical).max() > 0.01

    # residuals times c divide the empirical step by c: it blows up near a perfect fit
    def step(c):
        target = X @ theta + c * r
        metric = fisher_metric(model, theta, X, target, fisher="empirical")
        return metric.solve(model.gradient(theta, X, target), damping=0.0).x

    np.testing.assert_allclose(step(1e-3), 1e3 * step(1.0), rtol=1e-9)


def test_one_natural_step_F5_lands_on_the_least_squares_solution():
    model = LinearRegression(3, sigma=2.5)
    theta, X, y = case(model, 40)
    fit = minimize(model, X, y, optimizer=NaturalGradient(damping=0.0), iterations=1, theta0=theta)
    expected = np.linalg.lstsq(np.c_[X, np.ones(40)], y, rcond=None)[0]
    np.testing.assert_allclose(fit.theta, expected, rtol=1e-12)


@pytest.mark.parametrize("name", NATURAL)
def test_natural_gradient_E2_is_newtons_method_at_every_iteration(name):
    model = MODELS[name]
    _, X, y = case(model, 60)
    if name in ("softmax", "softmax-origin"):
        model = SoftmaxRegression(3, 4, intercept=model.intercept, l2=0.1)
    theta, path = model.init(), []
    minimize(
        model, X, y, iterations=4, optimizer=NaturalGradient(damping=0.0),
        callback=lambda iteration, theta, record: path.append(theta),
    )  # fmt: skip
    for reached in path:
        F = fisher(*model.exact_scores(theta, X)) + model.l2 * np.eye(len(theta))
        theta = theta - np.linalg.solve(F, model.gradient(theta, X, y))
        np.testing.assert_allclose(reached, theta, atol=1e-12 * max(1, np.abs(theta).max()))


def test_metric_takes_the_models_own_exact_fisher_where_it_has_one(monkeypatch):
    model = LogisticRegression(3)
    theta, X, _ = case(model, 40)
    expected = fisher_metric(model, theta, X).matrix()
    monkeypatch.setattr(LogisticRegression, "exact_fisher", lambda *args: "its own")
    assert fisher_metric(model, theta, X) == "its own"
    assert isinstance(fisher_metric(model, theta, X[:2]), ff.GramFisher), "fewer rows than p"
    assert fisher_metric(model, theta, X, fisher="mc", rng=0).kind == "mc"
    monkeypatch.delattr(LogisticRegression, "exact_fisher")
    np.testing.assert_array_equal(fisher_metric(model, theta, X).matrix(), expected)
