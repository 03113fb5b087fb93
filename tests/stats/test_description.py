"""Jeffreys' prior, volumes and description lengths: the printed numbers, and invariance."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import beta

from fastfisher.errors import InputError
from fastfisher.models import Bernoulli, Categorical, Gaussian, GaussianMean, Poisson
from fastfisher.stats import fia, fia_penalty, jeffreys, jeffreys_volume, nml_complexity

COIN = Bernoulli()


def test_volumes_V4_as_printed():
    assert jeffreys_volume(COIN, (0, 1)) == pytest.approx(math.pi, rel=1e-8)

    def hardy_weinberg(theta):
        return 2 / (theta * (1 - theta))

    volume = jeffreys_volume(hardy_weinberg, (0, 1))
    assert volume == pytest.approx(math.sqrt(2) * math.pi, rel=1e-8)

    def trinomial(t):  # in the first probability and the share of the second in the rest
        first, share = t
        return np.diag([1 / (first * (1 - first)), (1 - first) / (share * (1 - share))])

    t = np.array([0.2, 0.6])
    J = np.array([[1.0, 0.0], [-t[1], 1 - t[0]]])
    F = Categorical(3).fisher(np.array([t[0], (1 - t[0]) * t[1]]))
    np.testing.assert_allclose(trinomial(t), J.T @ F @ J, atol=1e-14)
    volume = jeffreys_volume(trinomial, [(0, 1), (0, 1)])
    assert volume == pytest.approx(2 * math.pi, rel=1e-5)


def test_volume_V4_does_not_depend_on_the_parameters():
    logit = jeffreys_volume(Bernoulli("logit"), (-np.inf, np.inf))
    assert logit == pytest.approx(math.pi, rel=1e-8)
    rate = jeffreys_volume(Poisson("rate"), (1, 9))
    assert rate == pytest.approx(jeffreys_volume(Poisson("log"), (0, math.log(9))), rel=1e-8)
    assert rate == pytest.approx(4, rel=1e-8)  # 2 (sqrt 9 - sqrt 1)
    # N3: the length of the whole family is its volume
    assert COIN.distance(np.array([0.0]), np.array([1.0])) == pytest.approx(math.pi)
    sigma = jeffreys_volume(Gaussian("sigma"), [(0, 1), (1, 2)])
    variance = jeffreys_volume(Gaussian("variance"), [(0, 1), (1, 4)])
    assert sigma == pytest.approx(variance, rel=1e-8)


def test_information_V4_transforms_with_the_square_of_the_slope():
    phi = np.array([0.4])
    theta = 1 / (1 + np.exp(-phi))
    slope = theta * (1 - theta)
    expected = slope**2 * COIN.fisher(theta)
    np.testing.assert_allclose(Bernoulli("logit").fisher(phi), expected)


def test_jeffreys_prior_V4_of_the_coin_as_printed():
    prior = jeffreys(COIN, (0, 1))
    assert prior.volume == pytest.approx(math.pi, rel=1e-8)
    exact = beta(0.5, 0.5)
    t = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(prior.pdf(t), exact.pdf(t), rtol=1e-8)
    assert (round(prior.mass(0.6, 0.7), 4), round(prior.mass(0.9, 1.0), 4)) == (0.0669, 0.2048)
    assert prior.mean() == pytest.approx(0.5)
    assert prior.pdf(1.5) == 0.0

    posterior = prior.posterior(
        lambda t: COIN.log_likelihood(np.array([t]), [1] * 7 + [0] * 3).sum()
    )
    exact = beta(7.5, 3.5)
    np.testing.assert_allclose(posterior.pdf(t), exact.pdf(t), rtol=1e-7)
    assert round(posterior.mean(), 5) == 0.68182
    low, high = posterior.interval(0.95)
    assert (round(low, 4), round(high, 4)) == (0.3942, 0.9073)
    assert posterior.mass(0, 1) == pytest.approx(1)
    assert posterior.pdf(0.0) == posterior.pdf(1.0) == 0.0
    assert prior.pdf(0.0) == np.inf


def test_posterior_of_much_data_does_not_underflow():
    prior = jeffreys(COIN, (0, 1))
    posterior = prior.posterior(lambda t: 7e4 * math.log(t) + 3e4 * math.log1p(-t))
    assert posterior.mean() == pytest.approx(0.7, abs=1e-5)


@pytest.mark.parametrize(
    ("n", "exact", "approximate"), [(10, 1.53906, 1.37708), (100, 2.58097, 2.52838)]
)
def test_penalties_V5_as_printed(n, exact, approximate):
    assert abs(nml_complexity(n) - exact) < 5e-6
    assert abs(fia_penalty(n, 1, math.pi) - approximate) < 5e-6
    assert fia(-3.0, n, 1, math.pi) == 3.0 + fia_penalty(n, 1, math.pi)


def test_gap_V5_between_nml_and_fia_falls_like_the_root_of_n():
    gaps = [nml_complexity(n) - fia_penalty(n, 1, math.pi) for n in (100, 10_000, 1_000_000)]
    slopes = np.diff(np.log10(gaps)) / 2
    np.testing.assert_allclose(slopes, -0.5, atol=0.02)


@pytest.mark.parametrize("classes", [1, 2, 3, 4])
def test_nml_complexity_V5_is_the_sum_over_all_data(classes):
    n = 5
    total = 0.0
    for data in itertools.product(range(classes), repeat=n):
        p = np.bincount(data, minlength=classes) / n
        total += np.prod(p[list(data)])
    assert nml_complexity(n, classes) == pytest.approx(math.log(total), rel=1e-12, abs=1e-12)


def test_nml_and_fia_agree_for_many_classes_and_much_data():
    gap = nml_complexity(1_000_000, 3) - fia_penalty(1_000_000, 2, 2 * math.pi)
    assert 0 < gap < 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jeffreys_volume(Poisson(), (0.0, np.inf)), "prior is improper there"),
        (lambda: jeffreys_volume(Gaussian(), [(0, 1), (0, 1)]), "prior is improper there"),
        (lambda: jeffreys_volume(lambda t: -1.0, (0, 1)), "det of the Fisher information is -1"),
        (lambda: jeffreys(COIN, (1, 0)), "expected low < high"),
        (lambda: jeffreys(COIN, (0, 1)).interval(1.0), "level is 1.0"),
        (
            lambda: jeffreys(Bernoulli("logit"), (-np.inf, np.inf)).posterior(lambda t: 0.0).mean(),
            "a posterior needs finite bounds",
        ),
        (lambda: fia_penalty(0, 1, 1.0), "n is 0"),
        (lambda: fia_penalty(10, 1, np.inf), "volume is inf"),
        (lambda: jeffreys(Gaussian(), (0, 1)), "has 2 parameters, expected one"),
        (lambda: jeffreys(lambda t: np.eye(2), (0, 1)), r"shape \(2, 2\), expected that of one"),
        (lambda: jeffreys("coin", (0, 1)), "fisher is 'coin', expected a family"),
        (lambda: jeffreys(COIN, (-1, 2)), r"theta is \[-0.99"),
        (lambda: jeffreys(COIN, (0, 1, 2)), r"bounds are \(0, 1, 2\), expected low < high"),
        (lambda: jeffreys(COIN, (0, np.nan)), "expected low < high"),
        (lambda: jeffreys(COIN, ("a", "b")), "expected low < high"),
        (lambda: jeffreys(COIN, 1.0), "bounds are 1.0, expected low < high"),
        (lambda: jeffreys(COIN, (0, 1)).mass(0.7, 0.6), "the interval is .*, expected low <= high"),
        (lambda: jeffreys(COIN, (0, 1)).mass(np.nan, 0.6), "the interval is"),
        (lambda: jeffreys(COIN, (0, 1)).interval("x"), "level is 'x'"),
        (lambda: fia(np.nan, 10, 1, 1.0), "llf is nan"),
        (lambda: fia_penalty(10, -1, 1.0), "n_params is -1, expected an integer >= 0"),
        (lambda: fia_penalty(10, 1.5, 1.0), "n_params is 1.5"),
        (lambda: fia_penalty("x", 1, 1.0), "n is 'x'"),
        (lambda: fia_penalty(10, 1, "x"), "volume is 'x'"),
        (lambda: nml_complexity(np.nan), "n is nan"),
        (lambda: nml_complexity(-1), "n is -1"),
        (lambda: nml_complexity(3, 0), "n_classes is 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_likelihood_that_is_no_number_is_named(value):
    posterior = jeffreys(COIN, (0.1, 0.9)).posterior(lambda t: value if t > 0.5 else -t)
    for call in (posterior.mean, lambda: posterior.pdf(0.3), lambda: posterior.mass(0.2, 0.3)):
        with pytest.raises(InputError, match=f"log_likelihood.* is {value}, expected a number"):
            call()


def test_a_likelihood_whose_mode_is_not_found_is_refused():
    posterior = jeffreys(COIN, (0.1, 0.9)).posterior(
        lambda t: 0.0 if 0.7 < t < 0.702 else -math.inf
    )
    with pytest.raises(InputError, match="log_likelihood is -inf wherever it was tried"):
        posterior.mean()


def test_posterior_of_a_box_is_the_prior_in_it():
    prior = jeffreys(COIN, (0.1, 0.9))
    box = prior.posterior(lambda t: 0.0 if 0.3 < t < 0.6 else -math.inf)
    assert box.mass(0.4, 0.5) == pytest.approx(prior.mass(0.4, 0.5) / prior.mass(0.3, 0.6), 1e-6)


def test_an_integral_that_is_not_reached_is_refused():
    rough = jeffreys(COIN, (0.1, 0.9)).posterior(lambda t: 5 * math.sin(1e7 * t * t))
    with pytest.raises(InputError, match=r"the posterior .* with an error of"):
        rough.mean()


def test_mean_of_a_posterior_round_zero():
    prior = jeffreys(GaussianMean(), (-3.0, 3.0))
    assert abs(prior.posterior(lambda t: -50 * t * t).mean()) < 1e-8
    assert abs(prior.mean()) < 1e-8
    assert abs(jeffreys(Bernoulli("logit"), (-np.inf, np.inf)).mean()) < 1e-6
