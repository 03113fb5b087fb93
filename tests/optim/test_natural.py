"""Natural gradient descent: Newton on softmax regression, damping, trust region, rejection."""

from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fastfisher.damping import LevenbergMarquardt, Relative, Tikhonov
from fastfisher.errors import ConvergenceError, InputError, NotPositiveDefiniteError
from fastfisher.models import MLP, SoftmaxRegression
from fastfisher.optim import NaturalGradient, minimize
from tests.oracle import damped_solve, fisher
from tests.tolerances import unit_roundoff

U = unit_roundoff("float64")


@dataclass(frozen=True)
class FixedSchedule:
    """A damping object that records what it was told and multiplies by a factor at rejection."""

    lam: float
    told: list
    raised: float = 4.0

    def step(self, rho):
        self.told.append(rho)
        lam = self.lam if rho > 0 else self.lam * self.raised
        return FixedSchedule(lam, self.told, self.raised)


def softmax_case(n=60, l2=1e-2, seed=0):
    rng = np.random.default_rng(seed)
    model = SoftmaxRegression(4, 3, l2=l2)
    X = rng.normal(size=(n, 4))
    y = (X @ rng.normal(size=(4, 3)) + rng.normal(size=(n, 3))).argmax(axis=1)
    return model, X, y


def reference_loop(model, X, y, theta, damping, iterations):
    """The article's algorithm in NumPy: loss, gradient, Fisher, step (S2)."""
    losses = [model.loss(theta, X, y)]
    for _ in range(iterations):
        F = fisher(*model.exact_scores(theta, X))
        theta = theta - damped_solve(F, model.gradient(theta, X, y), model.l2 + damping)
        losses.append(model.loss(theta, X, y))
    return theta, np.array(losses)


# The loop ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [SoftmaxRegression(4, 3, l2=0.01), MLP((4, 5, 3), l2=0.01)], ids=repr
)
def test_natural_gradient_S2_equals_a_loop_in_numpy(model):
    _, X, y = softmax_case()
    theta0 = model.init(np.random.default_rng(0))
    fit = minimize(model, X, y, optimizer=NaturalGradient(damping=0.3), iterations=5, theta0=theta0)
    theta, losses = reference_loop(model, X, y, theta0, 0.3, 5)
    np.testing.assert_allclose(fit.history["loss"], losses, rtol=1e-12)
    np.testing.assert_allclose(fit.theta, theta, rtol=1e-10, atol=1e-12)


def test_natural_gradient_F6_of_softmax_with_l2_is_newton():
    model, X, y = softmax_case()
    theta = np.random.default_rng(1).normal(size=15) / 10
    h = U ** (1 / 3)
    hessian = np.array(
        [
            (model.gradient(theta + h * e, X, y) - model.gradient(theta - h * e, X, y)) / (2 * h)
            for e in np.eye(15)
        ]
    )
    fit = minimize(model, X, y, optimizer=NaturalGradient(damping=0.0), iterations=1, theta0=theta)
    newton = theta - np.linalg.solve(hessian, model.gradient(theta, X, y))
    np.testing.assert_allclose(fit.theta, newton, atol=1e-7)


def test_natural_gradient_reaches_the_optimum_of_scikit_learn():
    model, X, y = softmax_case(n=200, l2=1e-3)
    other = LogisticRegression(
        C=1 / (len(X) * model.l2), fit_intercept=False, solver="newton-cg", tol=1e-10, max_iter=1000
    ).fit(np.c_[X, np.ones(len(X))], y)
    best = model.loss(other.coef_.ravel(), X, y)
    fit = minimize(
        model, X, y, optimizer=NaturalGradient(damping=LevenbergMarquardt(1e-3)), iterations=40
    )
    assert fit.status == "converged"
    assert abs(fit.loss - best) <= 1e-12
    np.testing.assert_allclose(fit.theta, other.coef_.ravel(), atol=1e-8)


def test_natural_gradient_takes_the_dual_route_with_few_rows_and_the_same_steps():
    model, X, y = softmax_case(n=4)  # 12 rows of scores, 15 parameters
    fit = minimize(model, X, y, optimizer=NaturalGradient(damping=0.1), iterations=3)
    theta, _ = reference_loop(model, X, y, np.zeros(15), 0.1, 3)
    np.testing.assert_allclose(fit.theta, theta, rtol=1e-10, atol=1e-12)
    assert set(fit.history["method"][1:]) == {"dual"}
    assert np.nanmax(fit.history["residual"]) < 1e-12


@pytest.mark.parametrize("kind", ["mc", "empirical"])
def test_other_fishers_find_the_same_optimum(kind):
    model, X, y = softmax_case(n=200)
    losses = [
        minimize(
            model,
            X,
            y,
            optimizer=NaturalGradient(damping=LevenbergMarquardt(0.1), fisher=name),
            iterations=30,
            rng=0,
        ).loss
        for name in ("exact", kind)
    ]
    assert abs(losses[1] - losses[0]) < 1e-9


def test_empirical_fisher_F5_blows_up_near_a_perfect_fit():
    # scores scaled by c scale the empirical step by 1/c: residuals vanish, steps do not
    model, X, y = softmax_case(l2=0.0)
    y = (X[:, 0] > 0).astype(int)
    theta = np.zeros((3, 5))
    theta[1, 0], theta[0, 0] = 40.0, -40.0
    steps = {}
    for kind in ("exact", "empirical"):
        optimizer = NaturalGradient(damping=1e-12, fisher=kind)
        fit = minimize(model, X, y, optimizer=optimizer, iterations=1, theta0=theta.ravel())
        steps[kind] = np.linalg.norm(fit.theta - theta.ravel())
    assert steps["empirical"] > 10 * steps["exact"] > 0


# Damping and rejection -----------------------------------------------------------------------


def test_gain_ratio_T1_drives_the_damping():
    model, X, y = softmax_case()
    told = []
    schedule = FixedSchedule(1e-3, told)
    fit = minimize(model, X, y, optimizer=NaturalGradient(damping=schedule), iterations=4)
    np.testing.assert_array_equal(fit.history["rho"][1:], told)
    assert np.all(np.abs(np.array(told[2:]) - 1) < 0.2), "near the optimum the model is right"


def test_gain_ratio_T1_counts_the_penalty_as_curvature():
    _, X, y = softmax_case()
    model = SoftmaxRegression(4, 3, l2=50.0)
    fit = minimize(
        model, X, y, optimizer=NaturalGradient(damping=1.0), iterations=1, theta0=np.ones(15)
    )
    assert abs(fit.history["rho"][1] - 1) < 0.01, "the loss is all but the penalty's quadratic"


class Flat(MLP):
    """Softmax regression through `exact_scores`, from zeros."""

    def __init__(self, n_features, n_classes, *, l2=0.0):
        super().__init__((n_features, n_classes), l2=l2)

    def init(self, rng):
        return np.zeros(self.n_params)


class Overshooting(Flat):
    """Claims a Fisher 1000 times too small, so that lightly damped steps overshoot."""

    def exact_scores(self, theta, X):
        rows, weights = super().exact_scores(theta, X)
        return rows / np.sqrt(1000), weights


def test_rejected_step_keeps_theta_raises_the_damping_and_is_counted():
    _, X, y = softmax_case()
    model, told, thetas = Overshooting(4, 3), [], []
    optimizer = NaturalGradient(damping=FixedSchedule(1e-8, told))
    fit = minimize(
        model,
        X,
        y,
        optimizer=optimizer,
        iterations=16,
        callback=lambda i, theta, record: thetas.append(theta.copy()),
    )
    accepted = fit.history["accepted"]
    assert fit.rejected == (~accepted).sum() >= 3
    assert fit.iterations == 16
    first = np.flatnonzero(accepted[1:])[0]
    assert first >= 3
    for t in range(first):
        np.testing.assert_array_equal(thetas[t], np.zeros(15))
        assert fit.history["loss"][t + 1] == fit.history["loss"][0]
        assert told[t] <= 0
    lams = fit.history["damping"][1 : first + 2]
    np.testing.assert_allclose(lams[1:] / lams[:-1], 4.0)
    assert fit.loss < fit.history["loss"][0]
    assert np.all(np.diff(fit.history["loss"]) <= 0)


def test_rejected_step_reuses_the_fisher():
    calls = []

    class Counting(Overshooting):
        def exact_scores(self, theta, X):
            if len(X) > 1:
                calls.append(len(X))
            return super().exact_scores(theta, X)

    _, X, y = softmax_case()
    optimizer = NaturalGradient(damping=FixedSchedule(1e-8, []))
    fit = minimize(Counting(4, 3), X, y, optimizer=optimizer, iterations=16)
    assert len(calls) == 1 + fit.history["accepted"][1:-1].sum()


def test_damping_that_makes_steps_vanish_ends_as_stagnated():
    class Uphill(SoftmaxRegression):
        """Its gradient points the wrong way, so no damping helps."""

        def gradient(self, theta, X, y):
            return -super().gradient(theta, X, y)

    _, X, y = softmax_case()
    optimizer = NaturalGradient(damping=FixedSchedule(1.0, [], raised=100.0))
    fit = minimize(Uphill(4, 3), X, y, optimizer=optimizer, iterations=100)
    assert fit.status == "stagnated"
    assert not fit.converged
    np.testing.assert_array_equal(fit.theta, np.zeros(15))


def test_undamped_singular_fisher_raises_with_a_float_and_is_rejected_by_an_object():
    model, X, y = softmax_case(l2=0.0)
    X[:, 2] = 0.0  # its parameters have no score at all
    with pytest.raises((NotPositiveDefiniteError, ConvergenceError), match="damping"):
        minimize(model, X, y, optimizer=NaturalGradient(damping=0.0), iterations=1)

    class FromZero:
        lam = 0.0

        def step(self, rho):
            return FixedSchedule(1e-3, [])

    fit = minimize(model, X, y, optimizer=NaturalGradient(damping=FromZero()), iterations=5)
    assert not fit.history["accepted"][1]
    assert fit.history["accepted"][2]
    assert fit.loss < fit.history["loss"][0]


def test_rejection_that_cannot_raise_the_damping_ends_as_stagnated():
    _, X, y = softmax_case()
    damping = LevenbergMarquardt(1e-8, grow=1.0)
    fit = minimize(
        Overshooting(4, 3), X, y, optimizer=NaturalGradient(damping=damping), iterations=50
    )
    assert fit.status == "stagnated"
    assert fit.iterations == fit.rejected == 1


def test_fixed_damping_too_large_to_move_is_not_called_converged():
    model, X, y = softmax_case()
    fit = minimize(model, X, y, optimizer=NaturalGradient(damping=1e20), iterations=50)
    assert fit.status == "stagnated"
    assert fit.iterations == 1


def test_tikhonov_is_a_float_with_a_name():
    model, X, y = softmax_case()
    fits = [
        minimize(model, X, y, optimizer=NaturalGradient(damping=d), iterations=3)
        for d in (0.1, Tikhonov(0.1))
    ]
    np.testing.assert_array_equal(fits[0].theta, fits[1].theta)
    np.testing.assert_array_equal(fits[1].history["damping"][1:], 0.1)


# Trust region and metric batch ---------------------------------------------------------------


@pytest.mark.parametrize("damping", [1e-4, LevenbergMarquardt(1e-4)], ids=["float", "lm"])
def test_trust_region_S4_bounds_the_predicted_kl(damping):
    model, X, y = softmax_case()
    optimizer = NaturalGradient(damping=damping, kl_radius=1e-3)
    history = minimize(model, X, y, optimizer=optimizer, iterations=10).history
    predicted, actual = history["predicted_kl"][1:], history["actual_kl"][1:]
    assert np.all(predicted <= 1e-3 * (1 + 100 * U))
    np.testing.assert_allclose(predicted[:5], 1e-3, rtol=1e-9)
    np.testing.assert_allclose(actual, predicted, rtol=0.1)


def test_kl_history_K1_compares_prediction_and_truth_of_the_step():
    model, X, y = softmax_case()
    fit = minimize(model, X, y, optimizer=NaturalGradient(damping=0.5), iterations=1)
    F = fisher(*model.exact_scores(np.zeros(15), X))
    d = fit.theta
    np.testing.assert_allclose(fit.history["predicted_kl"][1], 0.5 * d @ F @ d, rtol=1e-12)
    np.testing.assert_allclose(fit.history["actual_kl"][1], model.kl(0 * d, d, X), rtol=1e-12)


def test_metric_batch_has_its_own_size_and_the_loss_keeps_all_rows():
    sizes = []

    class Recording(Flat):
        def exact_scores(self, theta, X):
            sizes.append(len(X))
            return super().exact_scores(theta, X)

    _, X, y = softmax_case()
    model = Recording(4, 3, l2=0.01)
    optimizer = NaturalGradient(damping=0.1, metric_batch=20)
    fit = minimize(model, X, y, optimizer=optimizer, iterations=3, rng=0)
    assert set(sizes) == {1, 20}, "one row tells how many scores there are for each"
    assert fit.loss == model.loss(fit.theta, X, y)
    again = minimize(model, X, y, optimizer=optimizer, iterations=3, rng=0)
    np.testing.assert_array_equal(fit.theta, again.theta)


def test_learning_rate_scales_the_step():
    model, X, y = softmax_case()
    full, half = (
        minimize(
            model, X, y, optimizer=NaturalGradient(damping=0.1, learning_rate=r), iterations=1
        ).theta
        for r in (1.0, 0.5)
    )
    np.testing.assert_allclose(half, full / 2, rtol=1e-12)


def test_float32_stays_float32():
    model, X, y = softmax_case(n=200)
    fit = minimize(
        model,
        X.astype("f4"),
        y,
        optimizer=NaturalGradient(damping=LevenbergMarquardt(1e-2)),
        iterations=30,
        theta0=np.zeros(15, "f4"),
    )
    assert fit.theta.dtype == np.float32
    exact = minimize(
        model, X, y, optimizer=NaturalGradient(damping=LevenbergMarquardt(1e-2)), iterations=30
    )
    assert abs(fit.loss - exact.loss) < 1e-5


# Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"damping": -1.0},
            "damping is -1.0, expected a finite number >= 0, Tikhonov or Levenberg",
        ),
        ({"damping": "auto"}, "damping is 'auto'"),
        ({"damping": Relative(0.1)}, r"damping is Relative\(c=0.1\)"),
        ({"damping": 0.1, "fisher": "true"}, "fisher is 'true'; expected one of"),
        ({"damping": 0.1, "learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"damping": 0.1, "kl_radius": -1.0}, "kl_radius is -1.0"),
        ({"damping": 0.1, "metric_batch": 0}, "metric_batch is 0; expected an integer >= 1"),
        ({"damping": 0.1, "labels": 1.5}, "labels is 1.5"),
        ({"damping": 0.1, "labels": "two"}, "labels is 'two'; expected an integer >= 1"),
        ({"damping": 0.1, "metric_batch": float("nan")}, "metric_batch is nan"),
        ({"damping": 0.1, "kl_radius": "small"}, "kl_radius is 'small'; expected a real number"),
        ({"damping": 0.1, "decay": "slow"}, "decay is 'slow'; expected a real number"),
        ({"damping": 0.1, "fisher": np.ones(2)}, "fisher is array"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        NaturalGradient(**settings)


def test_damping_is_never_chosen_silently():
    with pytest.raises(TypeError, match="damping"):
        NaturalGradient()


def test_metric_batch_larger_than_the_data_is_refused():
    model, X, y = softmax_case()
    optimizer = NaturalGradient(damping=0.1, metric_batch=61)
    with pytest.raises(InputError, match="metric_batch is 61 but X has 60 rows"):
        minimize(model, X, y, optimizer=optimizer, iterations=1)
