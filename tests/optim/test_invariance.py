"""Invariance under reparametrisation (Y1), and what breaks it (Y2); Chentsov (Y3)."""

import numpy as np
import pytest

from fastfisher import Marquardt, solve
from fastfisher.models import Categorical, LogisticRegression
from fastfisher.optim import NaturalGradient, minimize

D = 3
BASE = LogisticRegression(D, intercept=False)


class Reparametrised:
    """The logistic regression in gamma, theta = zeta(gamma) with Jacobian J."""

    l2 = 0.0

    def __init__(self, zeta, jacobian):
        self.zeta, self.jacobian = zeta, jacobian

    def loss(self, gamma, X, y):
        return BASE.loss(self.zeta(gamma), X, y)

    def gradient(self, gamma, X, y):
        return self.jacobian(gamma).T @ BASE.gradient(self.zeta(gamma), X, y)

    def scores(self, gamma, X, y):
        return BASE.scores(self.zeta(gamma), X, y) @ self.jacobian(gamma)

    def exact_scores(self, gamma, X):
        rows, weights = BASE.exact_scores(self.zeta(gamma), X)
        return rows @ self.jacobian(gamma), weights

    def kl(self, gamma, new, X):
        return BASE.kl(self.zeta(gamma), self.zeta(new), X)


@pytest.fixture
def data(rng):
    X = rng.normal(size=(60, D)) * [1.0, 2.0, 0.5]
    return X, (rng.random(60) < 1 / (1 + np.exp(-X @ [1.0, -0.5, 0.3]))).astype(int)


def affine(rng):
    B = rng.normal(size=(D, D)) + 2 * np.eye(D)
    return B, Reparametrised(lambda gamma: B @ gamma, lambda gamma: B)


def end_points(model, theta0, gamma0, data, iterations=3, **settings):
    """Where theta and zeta(gamma) end."""
    fits = [
        minimize(m, *data, optimizer=NaturalGradient(**settings), iterations=iterations, theta0=t)
        for m, t in ((BASE, theta0), (model, gamma0))
    ]
    return fits[0].theta, model.zeta(fits[1].theta)


@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_natural_gradient_Y1_is_the_same_in_every_affine_parametrisation(fisher, data, rng):
    B, model = affine(rng)
    theta0 = rng.normal(size=D) / 3
    a, b = end_points(
        model, theta0, np.linalg.solve(B, theta0), data, damping=0.0, fisher=fisher,
        learning_rate=0.5,
    )  # fmt: skip
    assert np.abs(a - b).max() <= 1e-12 * np.linalg.cond(B)


@pytest.mark.parametrize(
    "broken",
    [
        {"damping": 0.1},
        {"damping": 0.0, "structure": "diagonal"},
        {"damping": 0.0, "power": 0.5},
    ],
    ids=["lambda I", "diagonal", "power 1/2"],
)
def test_natural_gradient_Y2_negative_controls_differ(broken, data, rng):
    B, model = affine(rng)
    theta0 = rng.normal(size=D) / 3
    settings = {"learning_rate": 0.5} | broken
    a, b = end_points(model, theta0, np.linalg.solve(B, theta0), data, **settings)
    assert np.abs(a - b).max() > 1e-2 * np.abs(a - theta0).max()


def test_marquardt_Y2_P3_survives_a_diagonal_map_only(data, rng):
    X, y = data
    theta = rng.normal(size=D) / 3
    G, g = BASE.scores(theta, X, y), BASE.gradient(theta, X, y)
    step = solve(G, g, damping=Marquardt(0.5)).x
    for J, same in ((np.diag([3.0, 0.2, 1.5]), True), (affine(rng)[0], False)):
        other = J @ solve(G @ J, J.T @ g, damping=Marquardt(0.5)).x
        gap = np.abs(other - step).max() / np.abs(step).max()
        assert gap < 1e-12 if same else gap > 1e-2


def test_natural_gradient_Y1_differs_at_second_order_under_a_nonlinear_map(data, rng):
    model = Reparametrised(np.sinh, lambda gamma: np.diag(np.cosh(gamma)))
    theta0 = rng.normal(size=D)
    gaps = []
    for rate in (1e-2, 1e-3):
        a, b = end_points(
            model, theta0, np.arcsinh(theta0), data, 1, damping=0.0, learning_rate=rate
        )
        gaps.append(np.abs(a - b).max())
    assert abs(np.log10(gaps[0] / gaps[1]) - 2) <= 0.15


def test_newton_Y2_differs_at_first_order_under_a_nonlinear_map(data, rng):
    """Its Hessian picks up g zeta''; the Fisher matrix does not."""
    X, y = data
    theta = rng.normal(size=D)
    gamma, J = np.arcsinh(theta), np.diag(np.sqrt(1 + theta**2))
    H = BASE.exact_fisher(theta, X).matrix()  # the Hessian: the parameter is natural (F6)
    g = BASE.gradient(theta, X, y)
    second = J @ H @ J + np.diag(g * np.sinh(gamma))
    gaps = []
    for rate in (1e-2, 1e-3):
        plain = theta - rate * np.linalg.solve(H, g)
        gaps.append(np.abs(plain - np.sinh(gamma - rate * np.linalg.solve(second, J @ g))).max())
    assert abs(np.log10(gaps[0] / gaps[1]) - 1) <= 0.15


def test_categorical_Y3_fisher_survives_splitting_by_a_sufficient_statistic(rng):
    """Outcomes split with probabilities that do not depend on theta carry the same information."""
    p = rng.dirichlet(np.ones(3))
    family, theta = Categorical(3, "probabilities"), p[:2]
    share = rng.uniform(0.2, 0.8, size=3)
    split = np.stack([p * share, p * (1 - share)]).ravel()
    derivative = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    rows = np.concatenate([derivative * share[:, None], derivative * (1 - share)[:, None]])
    finer = rows.T @ (rows / split[:, None])
    np.testing.assert_allclose(finer, family.fisher(theta), rtol=1e-12)
    lost = np.stack([p[0] + p[1], p[2]])
    merged = np.array([[1.0, 1.0], [-1.0, -1.0]])
    coarser = merged.T @ (merged / lost[:, None])
    assert np.linalg.eigvalsh(finer - coarser).min() > -1e-12, "K3: merging loses information"
    assert np.abs(finer - coarser).max() > 0.1


def test_fisher_Y3_relative_to_the_hessian_has_invariant_eigenvalues(data, rng):
    """E = F^-1 H with the empirical F at the optimum, in two parametrisations."""
    X, y = data
    theta = minimize(BASE, X, y, optimizer=NaturalGradient(damping=0.0), iterations=30).theta
    H, G = BASE.exact_fisher(theta, X).matrix(), BASE.scores(theta, X, y)
    J = np.diag(np.sqrt(1 + theta**2)) @ (rng.normal(size=(D, D)) + 2 * np.eye(D))
    F = G.T @ G / len(X)
    values = [
        np.sort(np.linalg.eigvals(np.linalg.solve(T.T @ F @ T, T.T @ H @ T)).real)
        for T in (np.eye(D), J)
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-10)
