"""The loop: history, reasons to stop, callbacks."""

import numpy as np
import pytest

from fastfisher.errors import InputError
from fastfisher.models import LinearRegression, SoftmaxRegression
from fastfisher.optim import Adam, GradientDescent, NaturalGradient, minimize


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3))
    return X, (X[:, 0] > 0.2).astype(int)


MODEL = SoftmaxRegression(3, 2, l2=0.05)
OPTIMIZERS = [GradientDescent(0.5), Adam(0.1), NaturalGradient(damping=0.1)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_history_has_one_row_per_state_and_ends_at_the_result(optimizer, data):
    fit = minimize(MODEL, *data, optimizer=optimizer, iterations=7)
    history = fit.history
    assert fit.status == "max_iterations"
    assert fit.iterations == 7
    assert {len(column) for column in history.values()} == {8}
    assert all(isinstance(column, np.ndarray) for column in history.values())
    assert history["loss"][0] == MODEL.loss(np.zeros(8), *data) == np.log(2)
    assert history["loss"][-1] == fit.loss == MODEL.loss(fit.theta, *data)
    assert history["gradient_norm"][-1] == np.linalg.norm(MODEL.gradient(fit.theta, *data))
    assert np.all(np.diff(history["loss"]) < 0)
    assert np.all(np.diff(history["seconds"]) >= 0)
    assert fit.seconds == history["seconds"][-1]
    natural = isinstance(optimizer, NaturalGradient)
    assert np.isfinite(history["residual"][1:]).all() == natural
    assert (fit.plan is not None) == natural


def test_gradient_descent_is_its_own_loop(data):
    fit = minimize(MODEL, *data, optimizer=GradientDescent(0.5), iterations=3)
    theta = np.zeros(8)
    for _ in range(3):
        theta = theta - 0.5 * MODEL.gradient(theta, *data)
    np.testing.assert_array_equal(fit.theta, theta)


def test_gtol_stops_where_the_gradient_is_small(data):
    fit = minimize(MODEL, *data, optimizer=GradientDescent(1.0), iterations=5000, gtol=1e-6)
    assert fit.status == "converged"
    assert fit.converged
    assert np.abs(MODEL.gradient(fit.theta, *data)).max() <= 1e-6
    again = minimize(
        MODEL, *data, optimizer=GradientDescent(1.0), iterations=10, theta0=fit.theta, gtol=1e-6
    )
    assert again.iterations == 0
    assert again.status == "converged"


def test_overflow_stops_at_the_point_before(data):
    X, y = data
    fit = minimize(MODEL, X, y, optimizer=GradientDescent(1e200), iterations=10)
    assert fit.status == "not_finite"
    assert np.isfinite(fit.theta).all()
    assert np.isfinite(fit.loss)
    assert not np.isfinite(fit.history["loss"][-1])


def test_callback_sees_every_step_and_can_stop(data):
    seen = []

    def callback(iteration, theta, record):
        seen.append((iteration, record["loss"]))
        return iteration == 3

    fit = minimize(MODEL, *data, optimizer=Adam(0.1), iterations=10, callback=callback)
    assert fit.status == "callback"
    assert seen == list(zip((1, 2, 3), fit.history["loss"][1:], strict=True))


def test_progress_counts_to_the_end(data):
    calls = []
    minimize(MODEL, *data, optimizer=Adam(0.1), iterations=3, progress=lambda *a: calls.append(a))
    assert [call[:2] for call in calls] == [(1, 3), (2, 3), (3, 3)]


def test_no_iterations_return_the_start(data):
    theta0 = np.arange(8.0) / 10
    fit = minimize(MODEL, *data, optimizer=Adam(0.1), iterations=0, theta0=theta0)
    np.testing.assert_array_equal(fit.theta, theta0)
    assert not np.shares_memory(fit.theta, theta0)
    assert fit.seconds == 0.0


def test_theta0_is_left_as_it_is(data):
    theta0 = np.arange(8.0) / 10
    theta0.flags.writeable = False
    for optimizer in OPTIMIZERS:
        minimize(MODEL, *data, optimizer=optimizer, iterations=2, theta0=theta0)
    np.testing.assert_array_equal(theta0, np.arange(8.0) / 10)


def test_same_seed_same_bits(data):
    optimizer = NaturalGradient(damping=0.1, fisher="mc", metric_batch=20)
    fits = [minimize(MODEL, *data, optimizer=optimizer, iterations=4, rng=s) for s in (1, 1, 2)]
    np.testing.assert_array_equal(fits[0].theta, fits[1].theta)
    assert (fits[0].theta != fits[2].theta).any()


def test_result_is_readable(data):
    fit = minimize(MODEL, *data, optimizer=Adam(0.1), iterations=2)
    assert repr(fit).startswith("MinimizeResult(loss=0.")
    assert "status='max_iterations', iterations=2, rejected=0)" in repr(fit)


def test_a_start_whose_gradient_alone_overflows_is_named():
    model, far = LinearRegression(1, intercept=False), np.array([[1e200], [-1e200]])
    with pytest.raises(InputError, match=r"theta0 is .* but its gradient overflows"):
        minimize(model, far, np.full(2, 1e150), optimizer=Adam(0.1), iterations=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": -1}, "iterations is -1; expected an integer >= 0"),
        ({"iterations": 2.5}, "iterations is 2.5"),
        ({"optimizer": "adam"}, r"optimizer is 'adam', expected an optimizer, such as .*Adam\(0"),
        ({"optimizer": Adam}, r"optimizer is <class .*, expected an optimizer"),
        ({"optimizer": None}, "optimizer is None"),
        ({"theta0": np.zeros(7)}, r"theta has shape \(7,\), expected \(8,\)"),
        ({"theta0": np.full(8, 1e308)}, "the loss at theta0 is inf; start from a smaller theta0"),
        ({"theta0": np.where(np.arange(8) == 2, np.nan, 0)}, r"theta0\[2\] is nan; every entry"),
        ({"theta0": np.ma.zeros(8)}, "theta0 is a masked array"),
        ({"theta0": np.zeros((8, 1))}, r"theta0 is float64 of shape \(8, 1\); expected numbers"),
        ({"theta0": "zeros"}, "theta0 is str"),
        ({"X": np.ma.ones((50, 3))}, "X is a masked array"),
        ({"X": None}, "X is NoneType"),
        ({"X": [[1.0], [1.0, 2.0]]}, "X of type list is no array"),
        ({"y": np.ma.ones(50, int)}, "y is a masked array"),
        ({"y": "labels"}, "y is str"),
        ({"rng": "seed"}, "rng is 'seed'; expected a numpy.random.Generator, a seed >= 0 or None"),
        ({"rng": -1}, "rng is -1"),
        ({"gtol": float("nan")}, "gtol is nan; expected a finite real number >= 0"),
        ({"gtol": "small"}, "gtol is 'small'"),
        ({"batch": "all"}, "batch is 'all', expected an integer from 1 to the 50 rows of X"),
        ({"batch": float("nan")}, "batch is nan"),
        ({"batch": 2, "X": np.float64(1)}, "to the 0 rows of X"),
        ({"callback": 3}, "callback is 3; expected a function or None"),
        ({"progress": "bar"}, "progress is 'bar'; expected a function or None"),
        ({"model": None}, "model is None; expected one of fastfisher.models"),
        ({"model": SoftmaxRegression}, "model is <class .*; expected one of fastfisher.models"),
    ],
)
def test_bad_input_is_named(data, change, message):
    args = {"model": MODEL, "X": data[0], "y": data[1]} | change
    args = {"optimizer": Adam(0.1), "iterations": 2} | args
    with pytest.raises(InputError, match=message):
        minimize(args.pop("model"), args.pop("X"), args.pop("y"), **args)


def test_what_a_callback_does_to_its_arguments_changes_nothing(data):
    def callback(iteration, theta, record):
        theta[:] = 99
        record["loss"] = -1

    plain = minimize(MODEL, *data, optimizer=Adam(0.1), iterations=3)
    fit = minimize(MODEL, *data, optimizer=Adam(0.1), iterations=3, callback=callback)
    np.testing.assert_array_equal(fit.theta, plain.theta)
    np.testing.assert_array_equal(fit.history["loss"], plain.history["loss"])


class Answering:
    """A model of three parameters that answers what it is told to."""

    l2 = 0.0

    def __init__(self, loss=1.0, gradient=(1.0, 2.0, 3.0)):
        self.answers = loss, gradient

    def loss(self, theta, X, y):
        return self.answers[0]

    def gradient(self, theta, X, y):
        return self.answers[1]

    def exact_scores(self, theta, X):
        return np.eye(3), np.ones(3)

    def kl(self, theta, theta_new, X):
        return 0.0


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"gradient": np.ones(1)}, r"gradient of the model is float64 of shape \(1,\); theta is"),
        ({"gradient": np.ones((3, 1))}, r"of shape \(3, 1\)"),
        ({"gradient": 1.0}, r"of shape \(\)"),
        ({"gradient": 1j * np.ones(3)}, "gradient of the model is complex128"),
        ({"gradient": np.ma.ones(3)}, "gradient of the model is a masked array"),
        ({"gradient": None}, "gradient of the model is NoneType"),
        ({"loss": None}, "the loss of the model is None; expected a real number"),
        ({"loss": 1j}, "the loss of the model is 1j"),
        ({"loss": np.ones(3)}, r"the loss of the model is array\(\[1., 1., 1.\]\)"),
        ({"loss": "1"}, "the loss of the model is '1'"),
    ],
)
def test_what_a_model_answers_wrongly_is_named(optimizer, answers, message):
    settings = {"optimizer": optimizer, "iterations": 2, "theta0": np.zeros(3)}
    with pytest.raises(InputError, match=message):
        minimize(Answering(**answers), np.ones((4, 1)), None, **settings)
    assert minimize(Answering(), np.ones((4, 1)), None, **settings).iterations == 2
    assert minimize(Answering(), np.ones((4, 1)), None, batch=2, **settings).iterations == 2
