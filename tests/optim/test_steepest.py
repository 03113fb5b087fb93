"""Steepest descent in a KL ball, and the article's Gaussian step (S1, A1-A4)."""

import numpy as np
import pytest

from fastfisher.errors import InputError
from fastfisher.models import Gaussian, GaussianMean, LinearRegression
from fastfisher.optim import NaturalGradient, kl_steepest, minimize
from tests.tolerances import unit_roundoff

U = unit_roundoff("float64")


def spd(rng, p=5):
    A = rng.normal(size=(p, p))
    return A @ A.T + np.eye(p)


def test_kl_steepest_S1_lies_on_the_ball_and_falls_as_far_as_it_can(rng):
    F, g, c = spd(rng), rng.normal(size=5), 0.3
    x = np.linalg.solve(F, g)
    d = kl_steepest(g, x, c)
    assert abs(0.5 * d @ F @ d / c - 1) < 1e-12
    assert abs(-g @ d / np.sqrt(2 * c * (g @ x)) - 1) < 1e-12
    others = rng.normal(size=(2000, 5))
    others *= np.sqrt(2 * c / np.einsum("ij,jk,ik->i", others, F, others))[:, None]
    assert (others @ g).min() > g @ d


def test_kl_steepest_S1_with_the_identity_is_the_normalised_gradient(rng):
    g = rng.normal(size=4)
    np.testing.assert_allclose(
        kl_steepest(g, g, 0.02), -g / np.linalg.norm(g) * np.sqrt(0.04), rtol=1e-13
    )


def test_kl_steepest_S1_negative_control_the_gradient_falls_less_far(rng):
    F, g, c = spd(rng), rng.normal(size=5), 0.3
    plain = -g * np.sqrt(2 * c / (g @ F @ g))
    assert g @ kl_steepest(g, np.linalg.solve(F, g), c) < 0.99 * (g @ plain)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_kl_steepest_holds_at_the_ends_of_the_range(scale):
    d = kl_steepest(scale * np.array([3.0, 4.0]), np.array([3.0, 4.0]) * scale, 0.5)
    np.testing.assert_allclose(d, [-0.6, -0.8], rtol=1e-14)


@pytest.mark.parametrize(
    ("g", "x", "radius", "message"),
    [
        (np.ones(2), np.ones(3), 1.0, r"gradient has shape \(2,\) and natural \(3,\)"),
        (np.ones(2), np.ones(2), 0.0, "radius is 0.0; expected a finite real number > 0"),
        (np.zeros(2), np.ones(2), 1.0, "the gradient is zero"),
        (np.full(2, 1e-300), np.full(2, 1e300), 1e300, "the step overflows float64"),
        (np.full(2, 1e-30, "f4"), np.full(2, 1e30, "f4"), 1e30, "the step overflows float32"),
        (np.ones(2), -np.ones(2), 1.0, "expected > 0; pass F"),
        (np.array([np.nan, 1.0]), np.ones(2), 1.0, "gradient has entries that are not finite"),
    ],
)
def test_kl_steepest_refuses(g, x, radius, message):
    with pytest.raises(InputError, match=message):
        kl_steepest(g, x, radius)


# The loop on a quadratic ---------------------------------------------------------------------


def least_squares(rng, n=40):
    X = rng.normal(size=(n, 3))
    return LinearRegression(3, intercept=False), X, X @ rng.normal(size=3) + rng.normal(size=n)


def test_natural_gradient_S2_F5_solves_least_squares_in_one_step(rng):
    model, X, y = least_squares(rng)
    for rate in (1.0, 0.25):
        optimizer = NaturalGradient(damping=0.0, learning_rate=rate)
        fit = minimize(model, X, y, optimizer=optimizer, iterations=1, theta0=np.ones(3))
        best = np.linalg.lstsq(X, y, rcond=None)[0]
        np.testing.assert_allclose(fit.theta, np.ones(3) + rate * (best - 1), rtol=1e-12)
    empirical = NaturalGradient(damping=0.0, fisher="empirical")
    fit = minimize(model, X, y, optimizer=empirical, iterations=1, theta0=np.ones(3))
    assert np.abs(fit.theta - best).max() > 0.1, "F5: the empirical Fisher does not"


@pytest.mark.parametrize("lam", [0.0, 1e-8, 1e-2, 1.0, 1e6])
def test_natural_gradient_S2_is_a_direction_of_descent_for_every_damping(lam, rng):
    model, X, y = least_squares(rng)
    optimizer = NaturalGradient(damping=lam, learning_rate=1e-3)
    fit = minimize(model, X, y, optimizer=optimizer, iterations=1, theta0=np.ones(3))
    assert (fit.theta - 1) @ model.gradient(np.ones(3), X, y) < 0


# The article's pair of Gaussians -------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "kl", "distance"), [(2.0, 2.0, 1.862460), (0.5, 32.0, 4.985802)])
def test_gaussians_A1_A2_A4_at_one_euclidean_distance(sigma, kl, distance):
    a, b = np.array([-2.0]), np.array([2.0])
    family = GaussianMean(sigma=sigma)
    F = family.fisher(a).item()
    assert family.kl(a, b).item() == kl == 0.5 * 4**2 * F
    assert F == 1 / sigma**2
    pair = np.array([[-2.0, sigma], [2.0, sigma]])
    assert f"{Gaussian().distance(*pair):.6f}" == f"{distance:.6f}"


def test_gaussians_A1_erratum_the_drawn_peaks_are_those_of_standard_deviations():
    peaks = [np.exp(GaussianMean(sigma=s).log_likelihood(np.zeros(1), 0.0)) for s in (2.0, 0.5)]
    assert [f"{peak:.4f}" for peak in peaks] == ["0.1995", "0.7979"]
    variances = [GaussianMean(sigma=v**0.5) for v in (2.0, 0.5)]
    peaks = [np.exp(family.log_likelihood(np.zeros(1), 0.0)) for family in variances]
    assert [f"{peak:.4f}" for peak in peaks] == ["0.2821", "0.5642"]
    kls = [family.kl(np.array([-2.0]), np.array([2.0])).item() for family in variances]
    np.testing.assert_allclose(kls, [4.0, 16.0], rtol=1e-13)


@pytest.mark.parametrize(("sigma", "factor"), [(2.0, 0.75), (0.5, -3.0)])
def test_gaussians_A3_one_natural_step_reaches_the_mean_and_plain_descent_may_diverge(
    sigma, factor, rng
):
    family, theta = GaussianMean(sigma=sigma), np.array([5.0])
    y = rng.normal(1.0, sigma, size=30)
    gradient = -family.score(theta, y).mean(axis=0)
    natural = np.linalg.solve(family.fisher(theta), gradient)
    np.testing.assert_allclose(theta - natural, y.mean(), rtol=1e-13)
    error = (theta - gradient - y.mean()) / (theta - y.mean())
    np.testing.assert_allclose(error, factor, rtol=1e-12)
    step = kl_steepest(gradient, natural, 0.08)
    np.testing.assert_allclose(np.abs(step), 0.4 * sigma, rtol=1e-13)
