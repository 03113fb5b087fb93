"""Gradient descent and Adam against their recursions."""

import numpy as np
import pytest

from fastfisher.errors import InputError
from fastfisher.models import SoftmaxRegression
from fastfisher.optim import Adam, GradientDescent, NaturalGradient, minimize
from fastfisher.optim.problem import Problem
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


def test_adam_M3_at_other_betas_the_bound_is_2_345():
    b1, b2 = 0.9, 0.99
    k = np.arange(2000)
    worst = ((1 - b1) * b1**k / ((1 - b2) * b2**k))[::-1, None]
    steps = steps_of(Adam(1.0, beta2=b2, eps=0.0), worst)
    assert f"{-steps[-1, 0]:.3f}" == "2.345"
    assert abs(abs(steps[0, 0]) - 1) < 1e-12, "the first step is one learning rate exactly"


@pytest.mark.parametrize("C", [3.0, 4.0, 10.0])
def test_adam_M4_fails_where_amsgrad_does_not(C):
    """Reddi's game on [-1, 1]: gradient C every third step, else -1; the optimum is -1."""
    ends = {}
    for amsgrad in (False, True):
        adam = Adam(
            lambda t: 0.5 / t**0.5, beta1=0.0, beta2=1 / (1 + C * C), eps=0.0, amsgrad=amsgrad
        )
        x, state = np.zeros(1), adam.start(np.zeros(1))
        for t in range(8_000):
            step, state = adam.update(np.array([C if t % 3 == 0 else -1.0]), state)
            x = np.clip(x + step, -1, 1)
        ends[amsgrad] = x[0]
    assert ends[False] > 0.99
    assert ends[True] < -0.99


def test_amsgrad_keeps_the_largest_second_moment():
    gradients = np.array([[10.0], *[[1.0]] * 200])
    plain, kept = (
        steps_of(Adam(0.1, beta2=0.9, eps=0.0, amsgrad=amsgrad), gradients)[-1, 0]
        for amsgrad in (False, True)
    )
    assert abs(plain + 0.1) < 1e-6
    np.testing.assert_allclose(kept, -0.01, rtol=1e-6)  # the mean is 1, the root of v^ stays 10


def test_adam_M1_fisher_moment_does_not_depend_on_the_size_of_the_batch():
    rng = np.random.default_rng(0)
    model = SoftmaxRegression(3, 2)
    X, y = rng.normal(size=(64, 3)), rng.integers(2, size=64)
    expected = np.square(model.scores(np.zeros(8), X, y)).mean(axis=0)
    problem = Problem(model, X, y, rng)
    optimizer = Adam(1e-9, beta2=0.0, second_moment="fisher")
    _, state, _ = optimizer.step(problem, problem.at(np.zeros(8)), None)
    np.testing.assert_allclose(state.square, expected, rtol=1e-12)
    plain = Adam(1e-9, beta2=0.0)
    _, state, _ = plain.step(problem, problem.at(np.zeros(8)), None)
    assert (state.square < 0.2 * expected).all(), "the square of the mean is smaller"
    _, single, _ = plain.step(one := Problem(model, X[:1], y[:1], rng), one.at(np.zeros(8)), None)
    _, other, _ = optimizer.step(one, one.at(np.zeros(8)), None)
    np.testing.assert_allclose(single.square, other.square, rtol=1e-12)


def test_power_one_with_the_fisher_moment_is_the_diagonal_natural_gradient():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), rng.integers(2, size=40)
    model = SoftmaxRegression(3, 2)
    adam = Adam(0.3, beta1=0.0, beta2=0.0, eps=0.05, second_moment="fisher", power=1.0)
    natural = NaturalGradient(
        damping=0.05, fisher="empirical", structure="diagonal", learning_rate=0.3
    )
    fits = [minimize(model, X, y, optimizer=o, iterations=5) for o in (adam, natural)]
    np.testing.assert_allclose(fits[0].theta, fits[1].theta, rtol=1e-10)


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
        (lambda: Adam(0.1, power=2.0), r"power is 2.0, expected a number in \(0, 1\]"),
        (lambda: Adam(0.1, second_moment="hessian"), "expected one of gradient, fisher"),
        (lambda: Adam(0.1, beta1="most"), "beta1 is 'most'; expected a real number"),
        (lambda: Adam(0.1, beta2=np.ones(2)), "beta2 is array"),
        (lambda: Adam(0.1, eps=None), "eps is None; expected a real number"),
        (lambda: Adam(0.1, amsgrad="no"), "amsgrad is 'no'; expected True or False"),
    ],
)
def test_bad_settings_are_named(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_adam_refuses_squares_that_leave_the_range():
    """A second moment that overflowed would make this step 0, and all later ones."""
    start = Adam(0.1).start(np.zeros(2, np.float32))
    for bad in (1e25, np.nan):
        with pytest.raises(InputError, match="square of the gradient overflows float32; scale"):
            Adam(0.1).update(np.array([1.0, bad], np.float32), start)
    faint = np.array([0.0, 1e-30], np.float32)
    with pytest.raises(InputError, match="vanishes in float32; take an eps > 0"):
        Adam(0.1, eps=0.0).update(faint, start)
    assert Adam(0.1).update(faint, start)[0][1] < 0
    with pytest.raises(InputError, match=r"gradient has shape \(3,\), the state \(2,\)"):
        Adam(0.1).update(np.ones(3, np.float32), start)
