"""Powers of the inverse between Adam's diagonal scaling and the natural gradient (S3)."""

import numpy as np
import pytest

from fastfisher.errors import InputError, NotPositiveDefiniteError
from fastfisher.fisher import DenseFisher, DiagonalFisher, GramFisher, KroneckerFisher
from fastfisher.models import SoftmaxRegression
from fastfisher.optim import Adam, NaturalGradient, inverse_power, minimize


def metrics(rng, n=20):
    G = rng.normal(size=(n, 6))
    A, E = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    return {
        "dense": DenseFisher(6).update(G),
        "gram": GramFisher().update(G[:4]),
        "diagonal": DiagonalFisher(6).update(G),
        "kfac": KroneckerFisher([(3, 2)]).update([(A, E)]),
        "ekfac": KroneckerFisher([(3, 2)], corrected=True).update([(A, E)]),
    }


@pytest.mark.parametrize("name", ["dense", "gram", "diagonal", "kfac", "ekfac"])
def test_power_S3_half_applied_twice_is_the_natural_gradient(name, rng):
    metric, b = metrics(rng)[name], rng.normal(size=6)
    once = inverse_power(metric, b, damping=0.1, power=0.5)
    twice = inverse_power(metric, once, damping=0.1, power=0.5)
    natural = metric.solve(b, damping=0.1).x
    np.testing.assert_allclose(twice, natural, rtol=1e-12, atol=1e-13)
    whole = inverse_power(metric, b, damping=0.1, power=1.0)
    np.testing.assert_allclose(whole, natural, rtol=1e-11, atol=1e-13)
    assert np.abs(once - natural).max() > 1e-2


@pytest.mark.parametrize("name", ["dense", "gram", "diagonal", "kfac", "ekfac"])
def test_power_S3_thirds_add_up(name, rng):
    metric, x = metrics(rng)[name], rng.normal(size=6)
    expected = inverse_power(metric, x, damping=0.1, power=0.9)
    for _ in range(3):
        x = inverse_power(metric, x, damping=0.1, power=0.3)
    np.testing.assert_allclose(x, expected, rtol=1e-12, atol=1e-13)


def test_power_S3_half_of_the_diagonal_is_the_first_step_of_adam(rng):
    model = SoftmaxRegression(3, 3)
    X, y = rng.normal(size=(1, 3)), np.array([1])
    adam = minimize(model, X, y, optimizer=Adam(0.1, eps=0.0), iterations=1)
    natural = NaturalGradient(
        damping=1e-30, fisher="empirical", structure="diagonal", power=0.5, learning_rate=0.1
    )
    root = minimize(model, X, y, optimizer=natural, iterations=1)
    np.testing.assert_allclose(root.theta, adam.theta, rtol=1e-12)
    assert root.history["method"][1] == "power"
    assert np.isnan(root.history["residual"][1])


def test_power_of_a_singular_matrix_needs_damping(rng):
    G = np.array([[1.0, 0.0], [2.0, 0.0]])
    for metric in (DenseFisher(2).update(G), DiagonalFisher(2).update(G)):
        with pytest.raises(NotPositiveDefiniteError, match="1 of 2 eigenvalues"):
            inverse_power(metric, np.ones(2), damping=0.0, power=0.5)
        np.testing.assert_allclose(
            inverse_power(metric, np.ones(2), damping=0.25, power=0.5), [2.75**-0.5, 2.0]
        )


@pytest.mark.parametrize("power", [0.0, -0.5, 1.5, float("nan")])
def test_power_out_of_range_is_named(power):
    with pytest.raises(InputError, match=r"power is .*, expected a number in \(0, 1\]"):
        inverse_power(DiagonalFisher(1), np.ones(1), damping=1.0, power=power)
    with pytest.raises(InputError, match="power is"):
        NaturalGradient(damping=1.0, power=power)


@pytest.mark.parametrize("kind", [DiagonalFisher, DenseFisher])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": [1.0, np.nan]}, r"b.* not finite|b.*nan"),
        ({"b": [1.0, 2.0, 3.0]}, "b has shape"),
        ({"b": [[1.0, 2.0]]}, "b has shape"),
        ({"b": ["a", "b"]}, "b has dtype"),
        ({"damping": -0.1}, "damping is -0.1"),
        ({"damping": np.nan}, "damping is nan"),
        ({"damping": "x"}, "damping is 'x'"),
        ({"damping": None}, "damping is None"),
        ({"power": "x"}, "power is 'x'"),
        ({"b": np.full(2, 1.7e308), "damping": 0.0, "power": 1.0}, "b overflows float64"),
    ],
)
def test_bad_operands_are_named(kind, change, message):
    metric = kind(2).update(np.eye(2))
    given = {"b": np.ones(2), "damping": 1.0, "power": 0.5} | change
    with pytest.raises(InputError, match=message):
        inverse_power(metric, np.array(given.pop("b")), **given)
