"""Gradient descent and Adam against their recursions."""

import numpy as np
import pytest

from fastfisher.errors import InputError
from fastfisher.optim import Adam, GradientDescent
from tests.tolerances import unit_roundoff

U = unit_roundoff("float64")


def steps_of(optimizer, gradients):
    state, steps = optimizer.start(np.zeros_like(gradients[0])), []
    for g in gradients:
        step, state = optimizer.update(g, state)
        steps.append(step)
    return np.array(steps)


def test_gradient_descent_steps_along_the_gradient():
    g = np.array([1.0, -2.0])
    step, _ = GradientDescent(0.25).update(g)
    np.testing.assert_array_equal(step, [-0.25, 0.5])


def test_adam_M1_equals_the_recursion_written_out():
    gradients = np.random.default_rng(0).normal(size=(20, 3))
    b1, b2, lr, eps = 0.8, 0.97, 0.05, 1e-6
    m = v = np.zeros(3)
    expected = []
    for t, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        expected.append(-lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps))
    steps = steps_of(Adam(lr, beta1=b1, beta2=b2, eps=eps), gradients)
    np.testing.assert_allclose(steps, expected, rtol=100 * U)


def test_adam_M1_second_moment_of_a_mini_batch_mean_is_not_the_fisher_diagonal():
    mu, sigma, B = 1.0, 2.0, 8
    means = np.random.default_rng(0).normal(mu, sigma / np.sqrt(B), size=(50_000, 1))
    adam = Adam(1e-3, beta2=1 - 1e-4)
    state = adam.start(np.zeros(1))
    for g in means:
        _, state = adam.update(g, state)
    v_hat = state.square[0] / (1 - adam.beta2**state.steps)
    assert abs(v_hat - (mu**2 + sigma**2 / B)) < 0.1, "1.5, where the Fisher diagonal is 5"


def test_adam_M2_constant_gradient_gives_full_steps_from_the_first():
    g = np.array([3.0, -1e-3])
    steps = steps_of(Adam(0.1, eps=1e-8), np.tile(g, (50, 1)))
    np.testing.assert_allclose(steps, np.tile(-0.1 * g / (np.abs(g) + 1e-8), (50, 1)), rtol=1e-12)


def test_adam_M2_without_eps_does_not_see_the_scale_of_the_gradient():
    gradients = np.random.default_rng(1).normal(size=(30, 4))
    plain = steps_of(Adam(0.1, eps=0.0), gradients)
    np.testing.assert_array_equal(plain, steps_of(Adam(0.1, eps=0.0), 2.0**40 * gradients))
    np.testing.assert_allclose(plain, steps_of(Adam(0.1, eps=0.0), 3e-7 * gradients), rtol=1e-12)


def test_adam_M2_a_single_late_gradient_takes_3_162_learning_rates():
    gradients = np.zeros((20_000, 1))
    gradients[-1] = 5.0
    step = steps_of(Adam(1.0, eps=0.0), gradients)[-1, 0]
    assert f"{-step:.3f}" == "3.162"


def test_adam_M3_a_step_can_be_seven_learning_rates_and_never_more_than_the_bound():
    b1, b2, t = 0.9, 0.999, 3000
    k = np.arange(t)
    a = (1 - b1) * b1**k / (1 - b1**t)
    b = (1 - b2) * b2**k / (1 - b2**t)
    bound = np.sqrt(np.sum(a**2 / b))
    worst = steps_of(Adam(1.0, eps=0.0), (a / b)[::-1, None])[-1, 0]
    assert abs(-worst / bound - 1) < 1e-9
    limit = (1 - b1) / np.sqrt((1 - b2) * (1 - b1**2 / b2))
    assert f"{limit:.3f}" == "7.270"
    random = steps_of(Adam(1.0, eps=0.0), np.random.default_rng(0).normal(size=(200, 50)))
    assert np.abs(random).max() <= limit


def test_adam_zero_gradient_is_no_step_even_without_eps():
    steps = steps_of(Adam(1.0, eps=0.0), np.array([[0.0, 1.0], [0.0, 1.0]]))
    np.testing.assert_array_equal(steps[:, 0], 0)
    assert np.isfinite(steps).all()


def test_adam_update_leaves_the_old_state_alone():
    adam = Adam(0.1)
    old = adam.start(np.zeros(2))
    adam.update(np.ones(2), old)
    assert old.steps == 0
    assert not old.mean.any() and not old.square.any()


def test_dtype_follows_the_gradient():
    g = np.ones(3, np.float32)
    for optimizer in (Adam(0.1), GradientDescent(0.1)):
        assert optimizer.update(g, optimizer.start(g))[0].dtype == np.float32


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GradientDescent(0.0), "learning_rate is 0.0, expected a positive finite number"),
        (lambda: Adam(-1.0), "learning_rate is -1.0"),
        (lambda: Adam(float("nan")), "learning_rate is nan"),
        (lambda: Adam(0.1, beta1=1.0), "beta1 is 1.0, expected a number in"),
        (lambda: Adam(0.1, beta2=-0.1), "beta2 is -0.1"),
        (lambda: Adam(0.1, eps=-1e-8), "eps is -1e-08"),
    ],
)
def test_bad_settings_are_named(build, message):
    with pytest.raises(InputError, match=message):
        build()
