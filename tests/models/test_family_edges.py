"""Families at the boundary of their domain, their dtypes and shapes, and what they refuse."""

import copy
import math
import pickle

import numpy as np
import pytest
from scipy import special, stats

from fastfisher.errors import InputError
from fastfisher.models import (
    Bernoulli,
    Categorical,
    ExponentialFamily,
    Gaussian,
    GaussianMean,
    Poisson,
)
from fastfisher.models.family import exp_excess
from tests.models.families import CASES, GAMMA, NAMED
from tests.tolerances import unit_roundoff

U = unit_roundoff("float64")


@pytest.fixture(params=CASES, ids=str)
def case(request):
    family, theta, near, reference, support = CASES[request.param]
    return family, np.array(theta), np.array(near), reference, support


# Boundaries, dtype, shapes --------------------------------------------------------------------


def test_the_boundary_of_a_coin_is_infinite_and_never_nan():
    coin, ends = Bernoulli(), np.array([[0.0], [1.0]])
    np.testing.assert_array_equal(coin.log_likelihood(ends, [0, 1]), [0, 0])
    np.testing.assert_array_equal(coin.log_likelihood(ends, [1, 0]), [-np.inf, -np.inf])
    np.testing.assert_array_equal(coin.score(ends, [0, 1]), [[-1], [1]])
    np.testing.assert_array_equal(coin.score(ends, [1, 0]), [[np.inf], [-np.inf]])
    np.testing.assert_array_equal(coin.fisher(ends).ravel(), [np.inf, np.inf])
    np.testing.assert_array_equal(coin.kl(ends, ends), [0, 0])
    np.testing.assert_array_equal(coin.kl(ends, ends[::-1]), [np.inf, np.inf])
    np.testing.assert_array_equal(coin.kl(ends, np.array([[0.5], [0.5]])), np.log([2, 2]))
    np.testing.assert_array_equal(coin.sample(ends, 0, size=3), [[0, 1]] * 3)
    saturated = np.array([[-1000.0], [1000.0]])
    logit = Bernoulli("logit")
    np.testing.assert_array_equal(logit.log_likelihood(saturated, [1, 0]), [-1000, -1000])
    np.testing.assert_array_equal(logit.score(saturated, [1, 0]), [[1], [-1]])
    np.testing.assert_array_equal(logit.fisher(saturated).ravel(), [0, 0])
    np.testing.assert_array_equal(logit.kl(saturated, -saturated), [1000, 1000])


def test_the_boundaries_of_poisson_and_categorical_are_never_nan():
    none, some = np.array([0.0]), np.array([2.0])
    count = Poisson()
    assert count.log_likelihood(none, 0) == 0
    assert count.log_likelihood(none, 1) == -np.inf
    np.testing.assert_array_equal(count.score(none, [0, 3]), [[-1], [np.inf]])
    assert count.fisher(none) == np.inf
    assert (count.kl(none, some), count.kl(some, none), count.kl(none, none)) == (2, np.inf, 0)
    huge = np.array([800.0])
    assert Poisson("log").log_likelihood(huge, 3) == -np.inf
    assert Poisson("log").log_likelihood(np.array([1e308]), 3) == -np.inf
    assert Gaussian("log_sigma").kl(np.array([0.0, 1e308]), np.array([0.0, 1.0])) == np.inf
    assert Poisson("log").kl(huge, huge) == 0
    corner = np.array([0.0, 1.0])
    die = Categorical(3)
    np.testing.assert_array_equal(die.log_likelihood(corner, [0, 1, 2]), [-np.inf, 0, -np.inf])
    np.testing.assert_array_equal(die.score(corner, 1), [0, 1])
    assert not np.isnan(die.fisher(corner)).any()
    assert die.kl(corner, corner) == 0
    above = np.array([1.0, 2.0**-52])  # rounding may carry a sum over one
    np.testing.assert_array_equal(die.log_likelihood(above, [0, 2]), [0, -np.inf])


def test_saturated_logits_G2_keep_exact_zeros():
    family = Categorical(3, "logits")
    theta = np.array([2000.0, 0.0, -2000.0])
    np.testing.assert_array_equal(family.fisher(theta), np.zeros((3, 3)))
    np.testing.assert_array_equal(family.score(theta, 0), np.zeros(3))


@pytest.mark.parametrize("name", NAMED)
def test_dtype_is_that_of_theta_and_input_is_unchanged(name):
    family, theta, near, *_ = CASES[name]
    theta, near = np.array(theta, "f4"), np.array(near, "f4")
    for a in (theta, near):
        a.flags.writeable = False
    y = family.sample(theta, 0, size=4)
    results = {
        "log_likelihood": family.log_likelihood(theta, y),
        "score": family.score(theta, y),
        "fisher": family.fisher(theta),
        "kl": family.kl(theta, near),
        "distance": family.distance(theta, near),
        "mean": family.mean(theta),
        "variance": family.variance(theta),
        "rows": family.exact_scores(theta)[0],
    }
    assert {what: str(r.dtype) for what, r in results.items()} == dict.fromkeys(results, "float32")
    wide = family.kl(theta.astype("f8"), near.astype("f8"))
    assert abs(results["kl"] - wide) <= 1e-4 * wide


def test_a_parameter_for_each_outcome_gives_what_one_at_a_time_gives(case):
    family, theta, near, *_ = case
    stacked = np.stack([theta, near, theta])
    y = family.sample(stacked, np.random.default_rng(2))
    assert np.shape(y)[:1] == (3,)
    for method in (family.log_likelihood, family.score):
        one_by_one = np.stack([method(t, yi) for t, yi in zip(stacked, y, strict=True)])
        np.testing.assert_allclose(method(stacked, y), one_by_one, rtol=8 * U, atol=8 * U)
    np.testing.assert_allclose(
        family.fisher(stacked), np.stack([family.fisher(t) for t in stacked]), rtol=8 * U
    )
    assert family.kl(stacked, theta).shape == (3,)
    assert family.sample(theta, 0, size=(2, 5)).shape[:2] == (2, 5)


def test_several_means_take_outcomes_as_rows():
    family = GaussianMean(2.0, dim=3)
    theta = np.zeros((4, 3))
    y = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(family.score(theta, y), y / 4)
    expected = stats.norm(0, 2).logpdf(y).sum(axis=1)
    np.testing.assert_allclose(family.log_likelihood(theta, y), expected, rtol=16 * U)
    assert family.sample(theta, 0).shape == (4, 3)
    with pytest.raises(InputError, match=r"y has shape \(4,\), expected \(\.\.\., 3\)"):
        family.score(theta, y[:, 0])


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_the_distance_of_means_holds_at_the_ends_of_the_range(size):
    family = GaussianMean(2.0, dim=2)
    found = family.distance(np.zeros(2), size * np.array([3.0, -4.0]))
    assert found == pytest.approx(2.5 * size, rel=1e-14)


def test_exp_excess_has_no_cancellation():
    t = np.array([1e-12, -1e-9, 1e-3, -0.0999, 0.1, 0.5, -3.0, 20.0])
    exact = [
        float(sum(np.longdouble(v) ** k / special.factorial(k) for k in range(2, 120))) for v in t
    ]
    np.testing.assert_allclose(exp_excess(t), exact, rtol=64 * U)
    assert exp_excess(np.array(-np.inf)) == np.inf


# Objects and refusals --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_named_families_are_values(name):
    family = CASES[name][0]
    assert eval(repr(family)) == family
    assert copy.deepcopy(family) == family == pickle.loads(pickle.dumps(family))
    with pytest.raises(AttributeError):
        family.parameter = "other"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Bernoulli("odds"), "parameter is 'odds'; expected one of mean, logit"),
        (lambda: Poisson("mean"), "expected one of rate, log"),
        (lambda: Gaussian("precision"), "parameter is 'precision'"),
        (lambda: GaussianMean(0.0), "sigma is 0.0; expected a finite real number > 0"),
        (lambda: GaussianMean(dim=0), "dim is 0"),
        (lambda: Categorical(1), "n_classes is 1; expected an integer >= 2"),
        (lambda: Categorical(3, "simplex"), "parameter is 'simplex'"),
        (lambda: Categorical(3, reference=1), "reference is for parameter='logits' only"),
        (lambda: Categorical(3, "logits", 3), "reference is 3; expected an integer from 0 to 2"),
        (lambda: Bernoulli().fisher(np.array([1.5])), r"theta is \[1\.5\], expected a probability"),
        (lambda: Bernoulli().fisher(np.array([[0.5], [-1.0]])), r"theta\[1\] is \[-1\.\]"),
        (lambda: Poisson().fisher(np.array([-1.0])), "expected a rate >= 0"),
        (lambda: Gaussian().fisher(np.array([0.0, 0.0])), r"with sigma > 0"),
        (lambda: Categorical(3).fisher(np.array([0.7, 0.4])), "2 probabilities >= 0"),
        (lambda: GAMMA.fisher(np.array([1.0, 1.0])), "natural parameter space"),
        (lambda: Gaussian().fisher(np.array([1.0])), r"shape \(1,\), expected \(\.\.\., 2\)"),
        (lambda: Poisson().fisher(np.array([1])), r"dtype int64.*theta\.astype\('float64'\)"),
        (lambda: Poisson().fisher(np.array([np.nan])), r"theta\[0\] is nan"),
        (lambda: Bernoulli().score(np.array([0.5]), [0, 2]), r"y\[1\] is 2, expected 0 or 1"),
        (lambda: Poisson().score(np.array([0.5]), 1.5), "y is 1.5, expected a count"),
        (lambda: Categorical(2).score(np.array([0.5]), 2), r"expected a class in 0\.\.1"),
        (lambda: Gaussian().score(np.array([0.5, 1.0]), np.nan), "y is nan, expected finite"),
        (lambda: GAMMA.score(np.array([1.0, -1.0]), -1.0), "an outcome in the support"),
        (lambda: Bernoulli().score(np.array([0.5]), "heads"), "expected real numbers"),
        (lambda: Bernoulli().score(np.full((3, 1), 0.5), [0, 1]), "does not broadcast"),
        (
            lambda: Poisson("log").sample(np.array([60.0]), 0),
            "the largest rate is 1.14e",
        ),
        (lambda: Bernoulli("logit").fit([1, 1]), r"estimate is \[inf\]: y has 1 different"),
        (lambda: Poisson().fit([]), "y is empty"),
        (lambda: Gaussian().fit([2.0, 2.0]), "all outcomes are 2.0, so sigma would be 0"),
        (lambda: GAMMA.fit([1.0, 2.0]), "no closed-form estimate"),
        (lambda: GaussianMean("wide"), "sigma is 'wide'; expected a real number"),
        (lambda: GaussianMean(dim=np.nan), "dim is nan; expected an integer >= 1"),
        (lambda: Categorical(3, "logits", 1.0), "reference is 1.0"),
        (lambda: Poisson(["log"]), r"parameter is \['log'\]"),
        (lambda: Poisson().sample(np.array([1.0]), "seed"), "rng is 'seed'"),
        (lambda: Poisson().sample(np.array([1.0]), 0, -1), "size is -1; expected an integer >= 0"),
        (lambda: Poisson().sample(np.array([1.0]), 0, "many"), "size is .*'many'"),
        (lambda: Gaussian().score(np.array([0.0, 1.0]), [[1.0], [1.0, 2.0]]), "y of type list is"),
        (lambda: Gaussian().kl(np.ones((2, 2)), np.ones((3, 2))), r"\(2, 2\) and theta_new \(3, 2"),
        (lambda: Poisson().distance(np.ones((2, 1)), np.ones((3, 1))), "which do not broadcast"),
        (
            lambda: ExponentialFamily(1, *[abs] * 4).sample(np.array([1.0]), 0),
            "without a sampler; pass sampler=",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("ratio", [0.3, 1e-4, 1e-8, 1e-17])
def test_K2_parameters_far_apart_keep_their_divergence(ratio, dtype):
    a, b = np.array([0.0, ratio], dtype), np.array([0.0, 1.0], dtype)
    r = float(a[1])
    tolerance = dict(rtol=16 * unit_roundoff(dtype))
    gaussian = -math.log(r) + r * r / 2 - 0.5
    np.testing.assert_allclose(Gaussian("sigma").kl(a, b), gaussian, **tolerance)
    poisson = -math.log(r) + r - 1
    np.testing.assert_allclose(Poisson("rate").kl(b[1:], a[1:]), poisson, **tolerance)
    distance = math.sqrt(2) * abs(math.log(r))
    np.testing.assert_allclose(Gaussian("sigma").distance(a, b), distance, **tolerance)
