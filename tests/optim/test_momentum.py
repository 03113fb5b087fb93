"""Momentum of the natural gradient: heavy ball, SPRING, the quadratic model's best."""

import itertools

import numpy as np
import pytest

from fastfisher.errors import InputError
from fastfisher.models import SoftmaxRegression
from fastfisher.optim import (
    HeavyBall,
    ModelMomentum,
    NaturalGradient,
    SpringMomentum,
    minimize,
    spring,
)
from tests.oracle import fisher

LAM = 0.3


@pytest.fixture
def data(rng):
    X = rng.normal(size=(40, 4))
    return X, (X @ rng.normal(size=(4, 3)) + rng.normal(size=(40, 3))).argmax(axis=1)


MODEL = SoftmaxRegression(4, 3, l2=0.02)


def steps_of(data, momentum, iterations=4, **settings):
    thetas = [np.zeros(15)]
    minimize(
        MODEL,
        *data,
        optimizer=NaturalGradient(damping=LAM, momentum=momentum, **settings),
        iterations=iterations,
        callback=lambda i, theta, record: thetas.append(theta.copy()),
    )
    return np.array(thetas)


def parts(theta, data):
    """Gradient, F and A = F + (l2 + lambda) I in NumPy."""
    F = fisher(*MODEL.exact_scores(theta, data[0]))
    return MODEL.gradient(theta, *data), F, F + (MODEL.l2 + LAM) * np.eye(15)


def test_heavy_ball_is_its_recursion(data):
    thetas, previous = steps_of(data, HeavyBall(0.7), learning_rate=0.5), np.zeros(15)
    for before, after in itertools.pairwise(thetas):
        g, _, A = parts(before, data)
        previous = 0.7 * previous - 0.5 * np.linalg.solve(A, g)
        np.testing.assert_allclose(after - before, previous, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("rate", [1.0, 0.25])
def test_spring_momentum_R2_minimises_the_model_near_the_last_direction(data, rate):
    mu, last = 0.8, np.zeros(15)
    thetas = steps_of(data, SpringMomentum(mu), learning_rate=rate)
    for before, after in itertools.pairwise(thetas):
        g, F, _ = parts(before, data)
        d = (after - before) / rate
        stationary = g + F @ d + MODEL.l2 * d + LAM * (d - mu * last)
        assert np.abs(stationary).max() < 1e-12
        last = d


def test_spring_momentum_R2_is_the_step_of_spring(data):
    """The empirical Fisher of n rows with coefficients -1: b = -g, and momentum acts alike."""
    free = SoftmaxRegression(4, 3)
    thetas = [np.zeros(15)]
    optimizer = NaturalGradient(damping=LAM, fisher="empirical", momentum=SpringMomentum(0.8))
    minimize(
        free,
        *data,
        optimizer=optimizer,
        iterations=3,
        callback=lambda i, theta, record: thetas.append(theta.copy()),
    )
    previous = None
    for before, after in itertools.pairwise(thetas):
        rows = free.scores(before, *data)
        previous = spring(rows, np.ones(len(rows)), previous, damping=LAM, momentum=0.8)
        np.testing.assert_allclose(after - before, previous, rtol=1e-9, atol=1e-13)


def test_momentum_zero_is_none(data):
    plain = steps_of(data, None)
    for momentum in (HeavyBall(0.0), SpringMomentum(0.0)):
        np.testing.assert_array_equal(steps_of(data, momentum), plain)


def test_model_momentum_T2_leaves_the_exact_step_alone(data):
    np.testing.assert_allclose(steps_of(data, ModelMomentum()), steps_of(data, None), atol=1e-9)


def test_model_momentum_T2_lengthens_a_diagonal_step_as_the_model_says(data):
    """With F whole in the model alpha and mu would differ; with its diagonal they are 1 and 0."""
    kept = steps_of(data, ModelMomentum(), structure="diagonal")
    plain = steps_of(data, None, structure="diagonal")
    np.testing.assert_allclose(kept, plain, atol=1e-9)
    halves = steps_of(data, ModelMomentum(), structure="diagonal", power=0.5)
    g, F, _ = parts(np.zeros(15), data)
    D = np.diag(F.diagonal() + MODEL.l2 + LAM)
    direction = -g / np.sqrt(D.diagonal())
    alpha = -(g @ direction) / (direction @ D @ direction)
    np.testing.assert_allclose(halves[1], alpha * direction, rtol=1e-9)


@pytest.mark.parametrize("mu", [-0.1, 1.1, float("nan"), "x"])
@pytest.mark.parametrize("kind", [HeavyBall, SpringMomentum])
def test_momentum_out_of_range_is_named(kind, mu):
    with pytest.raises(InputError, match=r"mu is .*, expected a number from 0 to 1"):
        kind(mu)


@pytest.mark.parametrize("momentum", [0.9, 0.0, HeavyBall, "heavy"])
def test_momentum_of_the_wrong_kind_is_named(momentum):
    with pytest.raises(InputError, match=r"momentum is .*, expected None or .* HeavyBall\(0\.9\)"):
        NaturalGradient(damping=1.0, momentum=momentum)
