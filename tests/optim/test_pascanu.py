"""Pascanu and Bengio's claims as properties: output metrics, unlabelled rows, order of the data."""

import numpy as np
import pytest

from fastfisher import ops
from fastfisher.errors import InputError
from fastfisher.models import MLP, LogisticRegression, SoftmaxRegression
from fastfisher.optim import NaturalGradient, minimize, structured_metric
from tests.oracle import damped_solve, fisher


def logistic(z):
    return 1 / (1 + np.exp(-z))


# Z1 ------------------------------------------------------------------------------------------


def test_metric_Z1_of_gaussian_outputs_is_that_of_their_jacobian(rng):
    """J'J / sigma^2, for a network whose J comes from differences."""
    model = MLP((3, 4, 2), output="gaussian", sigma=0.5)
    theta, X = model.init(rng), rng.normal(size=(10, 3))
    h = 1e-6 * np.eye(model.n_params)
    J = np.stack(
        [(model.outputs(theta + e, X) - model.outputs(theta - e, X)) / 2e-6 for e in h], axis=-1
    )
    expected = np.einsum("iop,ioq->pq", J, J) / 0.25 / 10
    metric = structured_metric(model, theta, X)
    np.testing.assert_allclose(metric.matrix(), expected, atol=1e-8)


def test_metric_Z1_of_sigmoid_outputs_is_the_logit_form(rng):
    """J' diag(1 / (y (1 - y))) J with J of the output y, not of the logit."""
    model = LogisticRegression(4, intercept=False)
    theta, X = rng.normal(size=4), rng.normal(size=(30, 4))
    y = logistic(X @ theta)
    J = (y * (1 - y))[:, None] * X
    expected = J.T @ (J / (y * (1 - y))[:, None]) / 30
    np.testing.assert_allclose(model.exact_fisher(theta, X).matrix(), expected, rtol=1e-12)


def test_metric_Z1_of_softmax_outputs_is_the_logit_form(rng):
    model = SoftmaxRegression(3, 4)
    theta, X = rng.normal(size=16), rng.normal(size=(20, 3))
    F = np.zeros((16, 16))
    for x, p in zip(X, model.probabilities(theta, X), strict=True):
        J = np.kron(np.diag(p) - np.outer(p, p), np.append(x, 1.0)[None])  # d outputs / d theta
        F += J.T @ np.diag(1 / p) @ J / 20
    np.testing.assert_allclose(model.exact_fisher(theta, X).matrix(), F, atol=1e-14)


# Z2 ------------------------------------------------------------------------------------------


def case(rng, n=30):
    X = rng.normal(size=(n, 4))
    return SoftmaxRegression(4, 3, l2=0.01), X, rng.integers(3, size=n)


def test_metric_Z2_from_unlabelled_rows_of_another_number(rng):
    model, X, y = case(rng)
    unlabelled = rng.normal(size=(70, 4)) * 2
    optimizer = NaturalGradient(damping=0.1, metric_X=unlabelled)
    fit = minimize(model, X, y, optimizer=optimizer, iterations=1)
    theta = np.zeros(15)
    F, g = fisher(*model.exact_scores(theta, unlabelled)), model.gradient(theta, X, y)
    np.testing.assert_allclose(fit.theta, -damped_solve(F, g, 0.11), rtol=1e-10)
    own = minimize(model, X, y, optimizer=NaturalGradient(damping=0.1), iterations=1)
    assert np.abs(own.theta - fit.theta).max() > 1e-2


def test_metric_Z2_draws_its_batch_from_the_unlabelled_rows(rng):
    model, X, y = case(rng)
    pool = np.full((50, 4), 2.0)
    fits = [
        minimize(
            model,
            X,
            y,
            optimizer=NaturalGradient(damping=0.1, metric_X=pool[:k], metric_batch=b),
            iterations=2,
        ).theta
        for k, b in ((1, None), (50, 7))
    ]
    np.testing.assert_allclose(fits[0], fits[1], rtol=1e-9)
    with pytest.raises(InputError, match="metric_batch is 51 but metric_X has 50 rows"):
        optimizer = NaturalGradient(damping=0.1, metric_X=pool, metric_batch=51)
        minimize(model, X, y, optimizer=optimizer, iterations=1)


def test_metric_Z2_sampled_labels_need_none_and_the_empirical_fisher_refuses(rng):
    model, X, y = case(rng)
    optimizer = NaturalGradient(damping=0.1, fisher="mc", metric_X=X[:20], labels=10)
    assert minimize(model, X, y, optimizer=optimizer, iterations=2, rng=0).loss < np.log(3)
    with pytest.raises(InputError, match="metric_X has no labels, which fisher='empirical'"):
        NaturalGradient(damping=0.1, fisher="empirical", metric_X=X)


# Z3 ------------------------------------------------------------------------------------------

D, N, B, REPEATS = 12, 400, 10, 8
SCALES = np.logspace(0, -1, D)


def one_pass(X, t, natural):
    """Online training of many runs at once: X (runs, N, D), t (runs, N)."""
    w = np.zeros((len(X), D))
    for start in range(0, N, B):
        x, y = X[:, start : start + B], t[:, start : start + B]
        p = logistic(np.einsum("rnd,rd->rn", x, w))
        step = np.einsum("rnd,rn->rd", x, p - y) / B
        if natural:
            p = logistic(np.einsum("rnd,rd->rn", X, w))
            S = np.sqrt(p * (1 - p) / N)[..., None] * X
            step, info = ops.batched_solve(S.swapaxes(1, 2) @ S, step, damping=0.003)
            assert not info.any()
        w -= (0.02 if natural else 1.0) * step
    return w


def test_order_Z3_of_the_data_matters_less_to_the_natural_gradient():
    """Variance of the outputs when a quarter of the stream is drawn anew, at equal likelihood."""
    variance, nll = {True: [], False: []}, {True: [], False: []}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        truth = 0.6 * rng.normal(size=D) / SCALES

        def draw(*shape, rng=rng, truth=truth):
            X = rng.normal(size=(*shape, D)) * SCALES
            return X, (rng.random(shape) < logistic(X @ truth)).astype(float)

        (X, t), (X_test, t_test) = draw(N), draw(1000)
        for quarter in range(4):
            Xs, ts = np.repeat(X[None], REPEATS, axis=0), np.repeat(t[None], REPEATS, axis=0)
            part = slice(quarter * N // 4, (quarter + 1) * N // 4)
            Xs[:, part], ts[:, part] = draw(REPEATS, N // 4)
            for natural in variance:
                p = logistic(one_pass(Xs, ts, natural) @ X_test.T)
                variance[natural].append(p.var(axis=0).mean())
                nll[natural].append(-np.log(np.where(t_test == 1, p, 1 - p)).mean())
    means = {natural: np.mean(values) for natural, values in nll.items()}
    assert abs(means[True] - means[False]) < 0.01, "compared at one likelihood only"
    assert np.mean(variance[False]) > 3 * np.mean(variance[True])
