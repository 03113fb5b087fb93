"""Families of distributions: closed forms against sums, quadrature and differences."""

import numpy as np
import pytest
from scipy import special, stats

from fastfisher.models import (
    GLM,
    Bernoulli,
    Categorical,
    ExponentialFamily,
    Gaussian,
    GaussianMean,
    Poisson,
)
from fastfisher.optim import NaturalGradient, minimize
from tests.models.families import BETA, CASES, GAMMA, NAMED
from tests.tolerances import unit_roundoff

U = unit_roundoff("float64")


@pytest.fixture(params=CASES, ids=str)
def case(request):
    family, theta, near, reference, support = CASES[request.param]
    return family, np.array(theta), np.array(near), reference, support


def discrete(family):
    return isinstance(family, Bernoulli | Poisson | Categorical)


def expectation(family, theta, f, support):
    """E[f(y)] with y drawn from the family: a sum, or the trapezoidal rule on the whole line.

    Of smooth integrands that vanish with all derivatives at both ends it has every digit.
    """
    if discrete(family):
        y = np.arange(support[0], support[1] + 1)
        return np.tensordot(np.exp(family.log_likelihood(theta, y)), f(y), axes=1)
    if np.isfinite(support[1]):  # (0, 1)
        u, h = np.linspace(-25, 25, 2001, retstep=True)
        y = special.expit(u)
        slope = y * (1 - y)
    elif np.isfinite(support[0]):  # (0, inf)
        u, h = np.linspace(-30, 5, 2001, retstep=True)
        y = slope = np.exp(u)
    else:
        y, h = np.linspace(-30, 30, 2001, retstep=True)
        slope = 1.0
    return np.tensordot(h * slope * np.exp(family.log_likelihood(theta, y)), f(y), axes=1)


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


def test_retractions_N2_on_the_sphere_of_the_categorical():
    """N3's sphere, halved to radius 1: the natural gradient step is a retraction of first order."""
    model = GLM(Categorical(3, "logits", 2), 0)
    theta, y, X = np.array([0.3, -0.7]), np.array([0, 0, 1]), np.empty((3, 0))
    point, J = _on_sphere(model, theta), derivative(lambda t: _on_sphere(model, t), theta).T
    F, gradient = model.exact_fisher(theta, X).matrix(), model.gradient(theta, X, y)
    np.testing.assert_allclose(4 * J.T @ J, F, rtol=1e-9)  # the metric is the sphere's

    # steps of one length in nats, along the natural gradient and along the gradient
    natural = np.linalg.solve(F, gradient)
    plain = gradient * np.sqrt(natural @ gradient / (gradient @ F @ gradient))
    velocity = -J @ natural
    velocity -= (velocity @ point) * point
    times = 2.0 ** -np.arange(7, 12)

    def step(t):  # the identity retraction of the logits
        optimizer = NaturalGradient(damping=0.0, learning_rate=t)
        fit = minimize(model, X, y, optimizer=optimizer, iterations=1, theta0=theta)
        return _on_sphere(model, fit.theta)

    def geodesic(t):
        length = np.linalg.norm(t * velocity)
        return np.cos(length) * point + np.sin(length) * t * velocity / length

    def projected(t):
        return (point + t * velocity) / np.linalg.norm(point + t * velocity)

    def gaps(curve):
        return np.array([np.linalg.norm(curve(t) - geodesic(t)) for t in times])

    def slope(curve):
        return np.polyfit(np.log(times), np.log(gaps(curve)), 1)[0]

    assert abs(slope(step) - 2) < 0.05
    assert abs(slope(projected) - 3) < 0.01
    lengths = times * np.linalg.norm(velocity)
    np.testing.assert_allclose(gaps(projected), lengths**3 / 3, rtol=1e-3)
    # negative control: another direction is no retraction of this one
    assert abs(slope(lambda t: _on_sphere(model, theta - t * plain)) - 1) < 0.05


def _on_sphere(model, theta):
    """sqrt(p)."""
    return np.sqrt(model.family.mean(theta))


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
