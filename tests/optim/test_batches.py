"""Minibatches, schedules, and what Martens says of 1/k: the natural gradient is an average (W1)."""

import itertools

import numpy as np
import pytest

from fastfisher.damping import LevenbergMarquardt
from fastfisher.errors import InputError
from fastfisher.models import MLP, SoftmaxRegression
from fastfisher.optim import Adam, GradientDescent, NaturalGradient, minimize
from tests.tolerances import unit_roundoff

U = unit_roundoff("float64")
MODEL = SoftmaxRegression(3, 2, l2=0.05)
OPTIMIZERS = [GradientDescent(0.5), Adam(0.1), NaturalGradient(damping=0.1)]


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3))
    return X, (X[:, 0] > 0.2).astype(int)


class Recording(MLP):
    """Softmax regression that keeps the rows of each gradient and of each Fisher."""

    def __init__(self):
        super().__init__((3, 2), l2=0.05)
        self.gradients, self.metrics = [], []

    def gradient(self, theta, X, y):
        self.gradients.append(X.copy())
        return super().gradient(theta, X, y)

    def exact_scores(self, theta, X):
        self.metrics.append(X.copy())
        return super().exact_scores(theta, X)


# Batches -------------------------------------------------------------------------------------


def test_a_pass_takes_every_row_once_in_an_order_of_its_own(data):
    model = Recording()
    minimize(model, *data, optimizer=GradientDescent(0.1), iterations=10, batch=10, rng=0)
    seen = np.concatenate(model.gradients[1:])  # the first is that of the start, of all rows
    first, second = seen[:50], seen[50:]
    for rows in (first, second):
        np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(data[0], axis=0))
    assert (first != second).any()


def test_rows_left_over_wait_for_another_pass(data):
    model = Recording()
    minimize(model, *data, optimizer=GradientDescent(0.1), iterations=6, batch=15, rng=0)
    sizes = [len(rows) for rows in model.gradients[1:]]
    assert sizes == [15] * 6
    assert len(np.unique(np.concatenate(model.gradients[1:4]), axis=0)) == 45


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_batch_of_all_rows_is_the_whole_problem_up_to_order(optimizer, data):
    whole = minimize(MODEL, *data, optimizer=optimizer, iterations=4)
    batched = minimize(MODEL, *data, optimizer=optimizer, iterations=4, batch=50, rng=0)
    np.testing.assert_allclose(batched.theta, whole.theta, rtol=1e-10)
    assert batched.loss == MODEL.loss(batched.theta, *data)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_history_with_batches_is_that_of_the_batch(optimizer, data):
    seen = []
    fit = minimize(
        MODEL,
        *data,
        optimizer=optimizer,
        iterations=12,
        batch=10,
        rng=0,
        callback=lambda i, theta, record: seen.append(theta.copy()),
    )
    assert fit.status == "max_iterations"
    assert fit.loss == MODEL.loss(seen[-1], *data) < fit.history["loss"][0]
    assert {len(column) for column in fit.history.values()} == {13}
    assert fit.history["loss"][0] == MODEL.loss(np.zeros(8), *data)
    order = np.random.default_rng(0).permutation(50)[:10]
    X, y = data[0][order], data[1][order]
    assert fit.history["loss"][1] == MODEL.loss(seen[0], X, y)
    assert fit.history["gradient_norm"][1] == np.linalg.norm(MODEL.gradient(np.zeros(8), X, y))


@pytest.mark.parametrize("damping", [0.1, LevenbergMarquardt(0.1)], ids=["float", "lm"])
def test_a_batch_costs_one_gradient(damping, data):
    model = Recording()
    optimizer = NaturalGradient(damping=damping)
    minimize(model, *data, optimizer=optimizer, iterations=6, batch=10, rng=0)
    assert len(model.gradients) == 1 + 6, "that of the start, and one for each batch"


def test_same_seed_same_batches(data):
    fits = [
        minimize(MODEL, *data, optimizer=OPTIMIZERS[2], iterations=5, batch=8, rng=seed).theta
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(fits[0], fits[1])
    assert (fits[0] != fits[2]).any()


def test_metric_Z2_comes_from_the_batch_or_from_rows_of_all(data):
    for settings, rows in (({}, 10), ({"metric_batch": 25}, 25)):
        model = Recording()
        optimizer = NaturalGradient(damping=0.1, **settings)
        minimize(model, *data, optimizer=optimizer, iterations=3, batch=10, rng=0)
        sizes = {len(X) for X in model.metrics} - {1}
        assert sizes == {rows}
    same = model.metrics[-1][:10] == model.gradients[-1]
    assert not same.all()


def test_overflow_in_a_batch_stops_at_the_point_before(data):
    fit = minimize(MODEL, *data, optimizer=GradientDescent(1e200), iterations=9, batch=10, rng=0)
    assert fit.status == "not_finite"
    assert np.isfinite(fit.theta).all()
    assert np.isfinite(fit.loss)


def test_batches_do_not_stop_for_one_that_is_fitted(data):
    """A batch without gradient is no optimum: the run goes on."""
    X = np.concatenate([np.zeros((10, 3)), data[0]])
    y = np.concatenate([np.tile([0, 1], 5), data[1]])
    optimizer = NaturalGradient(damping=0.1)
    fit = minimize(MODEL, X, y, optimizer=optimizer, iterations=20, batch=2, rng=0)
    assert fit.iterations == 20
    assert fit.status == "max_iterations"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch is 0, expected an integer from 1 to the 50 rows of X"),
        ({"batch": 51}, "batch is 51, expected an integer from 1 to the 50 rows of X"),
        ({"batch": 2.5}, "batch is 2.5"),
        ({"batch": 5, "gtol": 1e-3}, "gtol is 0.001 but a batch does not show the gradient"),
    ],
)
def test_bad_batches_are_named(data, change, message):
    with pytest.raises(InputError, match=message):
        minimize(MODEL, *data, optimizer=Adam(0.1), iterations=2, **change)


# Schedules -----------------------------------------------------------------------------------


def test_schedule_is_asked_for_every_step(data):
    asked = []

    def rate(step):
        asked.append(step)
        return 0.5 / step

    for make in (GradientDescent, Adam, lambda r: NaturalGradient(damping=0.1, learning_rate=r)):
        asked.clear()
        scheduled = minimize(MODEL, *data, optimizer=make(rate), iterations=3)
        assert asked == [1, 2, 3]
        steady = minimize(MODEL, *data, optimizer=make(0.5), iterations=1)
        assert scheduled.history["loss"][1] == steady.loss


@pytest.mark.parametrize("bad", [-1.0, float("inf"), float("nan"), "fast"])
def test_schedule_that_answers_nonsense_is_named(bad, data):
    for make in (GradientDescent, Adam, lambda r: NaturalGradient(damping=0.1, learning_rate=r)):
        with pytest.raises(InputError, match=r"learning_rate\(1\) is .*, expected a finite number"):
            minimize(MODEL, *data, optimizer=make(lambda step: bad), iterations=1)
        with pytest.raises(InputError, match=r"learning_rate is .*, expected a positive finite"):
            make(bad)


# Asymptotics (Martens) -----------------------------------------------------------------------


class Mean:
    """N(theta, I): the loss is |x - theta|^2 / 2 on average; outcomes X, no labels."""

    l2 = 0.0

    def loss(self, theta, X, y):
        return 0.5 * float(np.square(X - theta).sum(axis=1).mean())

    def gradient(self, theta, X, y):
        return theta - X.mean(axis=0)

    def exact_scores(self, theta, X):
        return np.eye(X.shape[1]) * np.sqrt(X.shape[1]), np.full(X.shape[1], 1 / X.shape[1])

    def kl(self, theta, new, X):
        return 0.5 * float(np.square(theta - new).sum())


def test_natural_gradient_W1_at_1_over_k_is_the_running_mean(rng):
    X, seen = rng.normal(size=(20, 4)), []
    optimizer = NaturalGradient(damping=0.0, learning_rate=lambda k: 1 / k)
    minimize(
        Mean(),
        X,
        np.zeros(20),
        optimizer=optimizer,
        iterations=20,
        theta0=np.full(4, 7.0),
        batch=1,
        rng=5,
        callback=lambda i, theta, record: seen.append(theta.copy()),
    )
    order = np.random.default_rng(5).permutation(20)
    means = np.cumsum(X[order], axis=0) / np.arange(1, 21)[:, None]
    np.testing.assert_allclose(seen, means, atol=1e-13)


def test_efficiency_W1_k_times_the_excess_is_n_over_2k():
    """k E[h - h*] = p/2 for every k and any start; a constant rate does not get there."""
    p, runs, k = 10, 2000, 30
    draws = np.random.default_rng(0).normal(size=(runs, k, p))
    theta = {"1/k": np.full((runs, p), 3.0), "constant": np.full((runs, p), 3.0)}
    excess = {name: [] for name in theta}
    for step in range(1, k + 1):
        for name, rate in (("1/k", 1 / step), ("constant", 0.3)):
            theta[name] = theta[name] - rate * (theta[name] - draws[:, step - 1])
            excess[name].append(step * 0.5 * np.square(theta[name]).sum(axis=1).mean())
    for value in excess["1/k"]:
        assert abs(value - p / 2) <= 0.2, "four standard errors; 5 % of 5 is 0.25"
    assert excess["constant"][-1] > 4 * p / 2, "W2: only 1/k steps are efficient"


def test_efficiency_W1_of_another_metric_is_worse():
    """Gradient descent at 1/k, where the Hessian is not the identity, has a larger constant."""
    h = np.array([0.25, 4.0])
    draws = np.random.default_rng(1).normal(size=(2000, 200, 2)) / np.sqrt(h)
    natural = plain = np.zeros((2000, 2))
    for step, x in enumerate(np.moveaxis(draws, 1, 0), start=1):
        natural = natural - (natural - x) / step
        plain = plain - h * (plain - x) / step
    excess = [200 * 0.5 * (h * np.square(t)).sum(axis=1).mean() for t in (natural, plain)]
    assert abs(excess[0] - 1) < 0.1
    assert excess[1] > 1.2


def test_consecutive_steps_of_a_schedule_count_accepted_ones_only(data):
    """A rejected try does not use up a step of the schedule."""
    asked = []

    class Overshooting(MLP):
        def exact_scores(self, theta, X):
            rows, weights = super().exact_scores(theta, X)
            return rows / np.sqrt(1000), weights

    class Raise:
        def __init__(self, lam):
            self.lam = lam

        def step(self, rho):
            return Raise(self.lam * (1 if rho > 0 else 4))

    optimizer = NaturalGradient(damping=Raise(1e-8), learning_rate=lambda k: asked.append(k) or 1.0)
    fit = minimize(
        Overshooting((3, 2)), *data, theta0=np.zeros(8), optimizer=optimizer, iterations=14
    )
    assert fit.rejected >= 2
    assert all(after - before in (0, 1) for before, after in itertools.pairwise(asked))
    assert asked.count(1) == 1 + np.argmax(fit.history["accepted"][1:])
