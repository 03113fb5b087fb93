"""Families of distributions: closed forms against sums, quadrature and differences."""

import copy
import pickle

import numpy as np
import pytest
from scipy import special, stats
from scipy.integrate import quad

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
from tests.tolerances import unit_roundoff

U = unit_roundoff("float64")

GAMMA = ExponentialFamily(  # of shape k and scale s: eta = (k, -1/s), T = (log y, y)
    2,
    lambda eta: special.gammaln(eta[..., 0]) - eta[..., 0] * np.log(-eta[..., 1]),
    lambda eta: np.stack(
        [special.digamma(eta[..., 0]) - np.log(-eta[..., 1]), -eta[..., 0] / eta[..., 1]], axis=-1
    ),
    lambda eta: np.stack(
        [
            np.stack([special.polygamma(1, eta[..., 0]), -1 / eta[..., 1]], axis=-1),
            np.stack([-1 / eta[..., 1], eta[..., 0] / eta[..., 1] ** 2], axis=-1),
        ],
        axis=-1,
    ),
    lambda y: np.stack([np.log(y), y], axis=-1),
    log_base=lambda y: -np.log(y),
    sampler=lambda eta, rng, shape: rng.gamma(eta[..., 0], -1 / eta[..., 1], shape),
    contains=lambda eta: (eta[..., 0] > 0) & (eta[..., 1] < 0),
    supports=lambda y: y > 0,
)
BETA = ExponentialFamily(  # eta = (a, b), T = (log y, log(1 - y))
    2,
    lambda eta: special.betaln(eta[..., 0], eta[..., 1]),
    lambda eta: special.digamma(eta) - special.digamma(eta.sum(axis=-1, keepdims=True)),
    lambda eta: (
        special.polygamma(1, eta)[..., None] * np.eye(2)
        - special.polygamma(1, eta.sum(axis=-1))[..., None, None]
    ),
    lambda y: np.stack([np.log(y), np.log1p(-y)], axis=-1),
    log_base=lambda y: -np.log(y) - np.log1p(-y),
    sampler=lambda eta, rng, shape: rng.beta(eta[..., 0], eta[..., 1], shape),
    contains=lambda eta: (eta > 0).all(axis=-1),
    supports=lambda y: (y > 0) & (y < 1),
)
# family, theta, a near theta, its distribution in SciPy where there is one, support
CASES = {
    "bernoulli": (Bernoulli(), [0.3], [0.31], stats.bernoulli(0.3), (0, 1)),
    "bernoulli-logit": (Bernoulli("logit"), [-0.4], [-0.38], None, (0, 1)),
    "poisson": (Poisson(), [2.5], [2.55], stats.poisson(2.5), (0, 60)),
    "poisson-log": (Poisson("log"), [0.9], [0.92], stats.poisson(np.exp(0.9)), (0, 60)),
    "categorical": (Categorical(3), [0.2, 0.5], [0.21, 0.48], None, (0, 2)),
    "logits": (Categorical(3, "logits"), [0.2, -0.5, 1.0], [0.21, -0.5, 1.02], None, (0, 2)),
    "reference": (Categorical(3, "logits", 1), [0.2, 1.0], [0.21, 1.02], None, (0, 2)),
    "mean": (GaussianMean(1.5), [0.7], [0.72], stats.norm(0.7, 1.5), (-np.inf, np.inf)),
    "sigma": (Gaussian(), [0.7, 1.5], [0.72, 1.49], stats.norm(0.7, 1.5), (-np.inf, np.inf)),
    "log-sigma": (
        Gaussian("log_sigma"), [0.7, 0.3], [0.72, 0.29], stats.norm(0.7, np.exp(0.3)),
        (-np.inf, np.inf),
    ),
    "variance": (
        Gaussian("variance"), [0.7, 2.25], [0.72, 2.2], stats.norm(0.7, 1.5), (-np.inf, np.inf),
    ),
    "gamma": (GAMMA, [2.5, -1 / 1.7], [2.52, -0.6], stats.gamma(2.5, scale=1.7), (0, np.inf)),
    "beta": (BETA, [2.2, 3.1], [2.22, 3.05], stats.beta(2.2, 3.1), (0, 1)),
}  # fmt: skip
NAMED = [name for name in CASES if name not in {"gamma", "beta"}]


@pytest.fixture(params=CASES, ids=str)
def case(request):
    family, theta, near, reference, support = CASES[request.param]
    return family, np.array(theta), np.array(near), reference, support


def discrete(family):
    return isinstance(family, Bernoulli | Poisson | Categorical)


def expectation(family, theta, f, support):
    """E[f(y)] with y drawn from the family: a sum, or quadrature."""
    if discrete(family):
        y = np.arange(support[0], support[1] + 1)
        p = np.exp(family.log_likelihood(theta, y))
        return np.tensordot(p, f(y), axes=1)
    shape = np.shape(f(np.array(0.5)))

    def entry(index):
        def integrand(y):
            y = np.array(y)
            return np.exp(family.log_likelihood(theta, y)) * f(y)[index]

        return quad(integrand, *support, epsabs=1e-13, epsrel=1e-11, limit=200)[0]

    return np.array([entry(i) for i in np.ndindex(shape)]).reshape(shape)


def derivative(f, theta):
    h = U ** (1 / 3)
    return np.stack([(f(theta + h * e) - f(theta - h * e)) / (2 * h) for e in np.eye(len(theta))])


# Values by hand ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "theta", "expected"),
    [
        (Bernoulli(), [0.2], [[6.25]]),
        (Bernoulli("logit"), [np.log(0.25)], [[0.16]]),
        (Poisson(), [4.0], [[0.25]]),
        (Poisson("log"), [np.log(4.0)], [[4.0]]),
        (GaussianMean(0.5), [-2.0], [[4.0]]),  # A2
        (GaussianMean(2.0), [-2.0], [[0.25]]),
        (GaussianMean(2.0, dim=2), [0.0, 1.0], [[0.25, 0], [0, 0.25]]),
        (Gaussian("sigma"), [0.0, 2.0], [[0.25, 0], [0, 0.5]]),
        (Gaussian("log_sigma"), [0.0, np.log(2.0)], [[0.25, 0], [0, 2]]),
        (Gaussian("variance"), [0.0, 4.0], [[0.25, 0], [0, 1 / 32]]),
        (Categorical(3), [0.25, 0.25], [[6, 2], [2, 6]]),
        (Categorical(2, "logits", 0), [0.0], [[0.25]]),
    ],
    ids=repr,
)
def test_closed_form_fisher_of_section_2(family, theta, expected):
    np.testing.assert_allclose(family.fisher(np.array(theta)), expected, rtol=16 * U)


def test_gamma_and_beta_of_section_2_by_change_of_parameters():
    k, s = 2.5, 1.7
    J = np.diag([1, 1 / s**2])  # d(k, -1/s) / d(k, s)
    F = J @ GAMMA.fisher(np.array([k, -1 / s])) @ J
    expected = [[0.490358, 0.588235], [0.588235, 0.865052]]
    np.testing.assert_allclose(F, expected, atol=5e-7)
    F = BETA.fisher(np.array([2.2, 3.1]))
    np.testing.assert_allclose(F, [[0.365342, -0.207591], [-0.207591, 0.172505]], atol=5e-7)


def test_negative_binomial_and_exponential_of_section_2_by_change_of_parameters():
    r, m = 2.0, 3.0  # size known; eta = log(m / (m + r)), A = -r log(1 - e^eta)
    family = ExponentialFamily(
        1,
        lambda eta: -r * np.log1p(-np.exp(eta[..., 0])),
        lambda eta: r / np.expm1(-eta),
        lambda eta: (r * np.exp(-eta) / np.expm1(-eta) ** 2)[..., None],
        lambda y: y[..., None],
        log_base=lambda y: special.gammaln(y + r) - special.gammaln(r) - special.gammaln(y + 1),
        contains=lambda eta: eta[..., 0] < 0,
    )
    eta = np.log([m / (m + r)])
    y = np.arange(9)
    np.testing.assert_allclose(
        family.log_likelihood(eta, y), stats.nbinom(r, r / (m + r)).logpmf(y), rtol=1e-12
    )
    slope = r / (m * (m + r))  # d eta / d m
    assert abs(slope**2 * family.fisher(eta).item() - 0.133333) < 5e-7
    exponential = ExponentialFamily(
        1, lambda eta: -np.log(-eta[..., 0]), lambda eta: -1 / eta,
        lambda eta: eta[..., None] ** -2, lambda y: y[..., None],
    )  # fmt: skip
    assert exponential.fisher(np.array([-2.0])).item() == 0.25


def test_article_A1_A2_same_euclidean_distance_different_kl():
    left, right = np.array([-2.0]), np.array([2.0])
    for sigma, kl, peak in ((2.0, 2.0, 0.1995), (0.5, 32.0, 0.7979)):
        family = GaussianMean(sigma)
        assert family.kl(left, right) == kl
        assert 0.5 * 4**2 * family.fisher(left).item() == kl, "no term of third order"
        assert abs(np.exp(family.log_likelihood(left, -2.0)) - peak) < 5e-5
    assert GaussianMean(np.sqrt(2)).kl(left, right) == pytest.approx(4.0)  # the variance reading
    assert GaussianMean(np.sqrt(0.5)).kl(left, right) == pytest.approx(16.0)


@pytest.mark.parametrize(("sigma", "distance"), [(2.0, 1.862460), (0.5, 4.985802)])
def test_article_A4_fisher_rao_distance(sigma, distance):
    found = Gaussian().distance(np.array([-2.0, sigma]), np.array([2.0, sigma]))
    assert abs(found - distance) < 5e-7


# Laws ----------------------------------------------------------------------------------------


def test_probabilities_sum_to_one_and_agree_with_scipy(case):
    family, theta, _, reference, support = case
    total = expectation(family, theta, lambda y: np.ones(np.shape(y)), support)
    assert abs(total - 1) < 1e-10
    if reference is not None:
        y = reference.rvs(20, random_state=0)
        log_p = reference.logpmf(y) if discrete(family) else reference.logpdf(y)
        np.testing.assert_allclose(family.log_likelihood(theta, y), log_p, rtol=1e-12, atol=1e-12)


def test_score_F1_is_the_derivative_of_the_log_likelihood_with_mean_zero(case):
    family, theta, _, _, support = case
    y = family.sample(theta, np.random.default_rng(1), size=6)
    numeric = derivative(lambda t: family.log_likelihood(t, y), theta).T
    np.testing.assert_allclose(family.score(theta, y), numeric, atol=1e-8, rtol=1e-8)
    mean = expectation(family, theta, lambda y: family.score(theta, y), support)
    np.testing.assert_allclose(mean, 0, atol=1e-9)


def test_fisher_F2_is_the_second_moment_of_the_score_and_the_mean_curvature(case):
    family, theta, _, _, support = case
    F = family.fisher(theta)

    def outer(y):
        s = family.score(theta, y)
        return s[..., :, None] * s[..., None, :]

    np.testing.assert_allclose(expectation(family, theta, outer, support), F, atol=1e-8)
    curvature = -derivative(
        lambda t: expectation(family, theta, lambda y: family.score(t, y), support), theta
    )
    np.testing.assert_allclose(curvature, F, atol=1e-7)
    np.testing.assert_array_equal(F, F.swapaxes(-1, -2))


def test_exact_scores_F4_are_a_root_of_the_fisher(case):
    family, theta, near, _, _ = case
    stacked = np.stack([theta, near])
    rows, weights = family.exact_scores(stacked)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=16 * U)
    product = np.einsum("nmi,nm,nmj->nij", rows, weights, rows)
    np.testing.assert_allclose(product, family.fisher(stacked), rtol=1e-13, atol=1e-13)


def test_kl_K2_is_the_expected_log_ratio(case):
    family, theta, near, _, support = case

    def log_ratio(y):
        return family.log_likelihood(theta, y) - family.log_likelihood(near, y)

    expected = expectation(family, theta, log_ratio, support)
    assert abs(family.kl(theta, near) - expected) < 1e-10
    assert family.kl(theta, theta) == pytest.approx(0, abs=1e-15)


def test_kl_K1_is_half_the_quadratic_form_with_slope_three(case):
    family, theta, near, _, _ = case
    F, d = family.fisher(theta), (near - theta) / np.abs(near - theta).max()

    def excess(t):
        return abs(family.kl(theta, theta + t * d) - 0.5 * t * t * d @ F @ d)

    if excess(1e-1) < 1e-15:  # known variance: no third order at all
        assert isinstance(family, GaussianMean)
    else:
        assert abs(np.log10(excess(1e-2) / excess(1e-3)) - 3) < 0.15


def test_kl_K1_slope_of_the_coin_as_printed():
    coin, theta = Bernoulli(), np.array([0.3])

    def excess(t):
        return coin.kl(theta, theta + t).item() - 0.5 * t * t / 0.21

    assert abs(np.log10(excess(1e-2) / excess(1e-3)) - 2.987) < 5e-4

    def symmetric(t):
        both = coin.kl(theta, theta + t) + coin.kl(theta + t, theta)
        return abs(both / 2 - 0.5 * t * t * coin.fisher(theta + t / 2).item()).item()

    assert abs(np.log10(symmetric(1e-1) / symmetric(1e-2)) - 3.85) < 5e-3


@pytest.mark.parametrize("name", NAMED)
def test_kl_keeps_its_digits_for_the_nearest_parameters(name):
    family, theta = CASES[name][0], np.array(CASES[name][1])
    d = np.full(len(theta), 2.0**-30)
    if name == "logits":
        d[0] *= -1  # an offset of all logits is no change
    quadratic = 0.5 * d @ family.fisher(theta) @ d
    assert abs(family.kl(theta, theta + d) / quadratic - 1) < 1e-6


@pytest.mark.parametrize("name", [n for n in NAMED if "logits" not in n and n != "reference"])
def test_distance_N1_N3_is_the_length_of_small_steps(name):
    family, theta = CASES[name][0], np.array(CASES[name][1])
    d = np.full(len(theta), 2.0**-14)
    length = np.sqrt(d @ family.fisher(theta) @ d)
    assert abs(family.distance(theta, theta + d) / length - 1) < 1e-3


def test_distance_N1_N3_by_hand():
    assert Gaussian().distance(np.array([0, 1.0]), np.array([0, np.e])) == pytest.approx(np.sqrt(2))
    ends = np.array([0.0]), np.array([1.0])
    assert Bernoulli().distance(*ends) == pytest.approx(np.pi)
    assert Categorical(2).distance(*ends) == pytest.approx(np.pi)
    p, q = np.array([0.2, 0.3]), np.array([0.5, 0.1])
    overlap = np.sqrt([0.1, 0.03, 0.2]).sum()
    assert Categorical(3).distance(p, q) == pytest.approx(2 * np.arccos(overlap))


def test_curvature_N1_of_the_gaussians_is_minus_one_half():
    family, h = Gaussian(), 1e-3

    def root(s):  # sqrt of the metric's coefficients, E = 1/s^2 and G = 2/s^2
        F = family.fisher(np.array([0.0, s]))
        assert F[0, 1] == 0
        return np.sqrt(np.diag(F))

    # orthogonal coordinates that depend on s only: K = -(1/sqrt(EG)) d/ds (d sqrt(E)/ds / sqrt(G))
    def inner(s):
        return (root(s + h)[0] - root(s - h)[0]) / (2 * h) / root(s)[1]

    s = 1.7
    curvature = -(inner(s + h) - inner(s - h)) / (2 * h) / root(s).prod()
    assert abs(curvature + 0.5) < 1e-5


def test_categorical_inverse_and_determinant_of_section_2():
    theta = np.array([0.2, 0.5])
    F, p = Categorical(3).fisher(theta), np.array([0.2, 0.5, 0.3])
    np.testing.assert_allclose(
        np.linalg.inv(F), np.diag(theta) - np.outer(theta, theta), atol=1e-15
    )
    assert np.linalg.det(F) == pytest.approx(1 / p.prod())


def test_natural_gradient_of_section_2_is_the_gradient_in_the_mean_parameter():
    eta, target = np.array([2.5, -0.6]), np.array([0.4, 1.3])

    def loss_of_mean(m):
        return 0.5 * np.sum((m - target) ** 2)

    gradient = derivative(lambda t: loss_of_mean(GAMMA.mean(t)), eta)
    natural = np.linalg.solve(GAMMA.fisher(eta), gradient)
    np.testing.assert_allclose(natural, GAMMA.mean(eta) - target, rtol=1e-8)


def test_information_K3_never_grows_when_data_are_reduced():
    # N(mu, 1) seen through its sign only: information of a Bernoulli with p = Phi(mu) at mu = 0
    density = stats.norm.pdf(0)
    seen = density**2 * Bernoulli().fisher(np.array([0.5])).item()
    assert abs(seen - 0.636620) < 5e-7
    assert seen <= GaussianMean().fisher(np.array([0.0])).item()


def test_samples_have_the_mean_and_the_variance_of_the_family(case):
    family, theta, *_ = case
    if isinstance(family, Categorical):
        y = family.sample(theta, 0, size=100_000)
        p = np.exp(family.log_probabilities(theta))
        counts = np.bincount(y, minlength=3) / len(y)
        assert np.all(np.abs(counts - p) <= 4 * np.sqrt(p * (1 - p) / len(y)))
        return
    y = family.sample(theta, 0, size=100_000)
    T = family.statistic(y) if isinstance(family, ExponentialFamily) else y
    mean, variance = family.mean(theta), family.variance(theta)
    assert np.all(np.abs(T.mean(axis=0) - mean) <= 4 * np.sqrt(variance / len(y)))
    np.testing.assert_allclose(T.var(axis=0), variance, rtol=0.05)


@pytest.mark.parametrize("name", NAMED)
def test_fit_is_where_the_mean_score_vanishes(name):
    family, theta = CASES[name][0], np.array(CASES[name][1])
    y = family.sample(theta, 3, size=500)
    estimate = family.fit(y)
    assert estimate.shape == theta.shape
    np.testing.assert_allclose(family.score(estimate, y).mean(axis=0), 0, atol=1e-12)
    assert family.kl(theta, estimate) < 0.02


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
    assert Poisson("log").kl(huge, huge) == 0
    corner = np.array([0.0, 1.0])
    die = Categorical(3)
    np.testing.assert_array_equal(die.log_likelihood(corner, [0, 1, 2]), [-np.inf, 0, -np.inf])
    np.testing.assert_array_equal(die.score(corner, 1), [0, 1])
    assert not np.isnan(die.fisher(corner)).any()
    assert die.kl(corner, corner) == 0
    tenths = np.array([0.7, 0.2, 0.1])  # whose sum rounds to just below one
    assert np.isfinite(Categorical(4).log_likelihood(tenths, [0, 1, 2])).all()


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
        (lambda: Bernoulli("odds"), "parameter is 'odds', expected 'mean' or 'logit'"),
        (lambda: Poisson("mean"), "expected 'rate' or 'log'"),
        (lambda: Gaussian("precision"), "parameter is 'precision'"),
        (lambda: GaussianMean(0.0), "sigma is 0.0, expected a finite number > 0"),
        (lambda: GaussianMean(dim=0), "dim is 0"),
        (lambda: Categorical(1), "n_classes is 1, expected an integer, at least 2"),
        (lambda: Categorical(3, "simplex"), "parameter is 'simplex'"),
        (lambda: Categorical(3, reference=1), "reference is for parameter='logits' only"),
        (lambda: Categorical(3, "logits", 3), r"reference is 3, expected a class in 0\.\.2"),
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
        (
            lambda: ExponentialFamily(1, *[abs] * 4).sample(np.array([1.0]), 0),
            "without a sampler; pass sampler=",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
