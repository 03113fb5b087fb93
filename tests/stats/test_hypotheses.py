"""Tests, intervals and bounds: the numbers of the coin, and laws."""

import numpy as np
import pytest
from scipy.stats import binom

from fastfisher.errors import InputError, NotPositiveDefiniteError
from fastfisher.models import Bernoulli, LinearRegression
from fastfisher.stats import (
    confidence_intervals,
    covariance,
    cramer_rao,
    likelihood_ratio_test,
    score_test,
    score_test_opg,
    wald_test,
)

COIN = Bernoulli()
N, Y = 10, 7  # tosses, heads


def information(theta):
    return N * COIN.fisher(np.array([theta]))


def log_likelihood(theta):
    y = np.repeat([1, 0], [Y, N - Y])
    return COIN.log_likelihood(np.array([theta]), y).sum()


def score(theta):
    return COIN.score(np.array([theta]), np.repeat([1, 0], [Y, N - Y])).sum(axis=0)


def test_three_tests_V2_of_the_coin_as_printed():
    free, null = COIN.fit(np.repeat([1, 0], [Y, N - Y])), 0.5
    wald = wald_test(free, covariance(information=information(0.7)), null=null)
    rao = score_test(score(null), information(null))
    ratio = likelihood_ratio_test(log_likelihood(0.7), log_likelihood(null), 1)
    printed = ((wald, 1.904762, 0.16755), (rao, 1.6, 0.20590), (ratio, 1.645658, 0.19955))
    for test, statistic, pvalue in printed:
        assert abs(test.statistic - statistic) < 5e-7
        assert abs(test.pvalue - pvalue) < 5e-6
        assert test.df == 1
    assert str(rao) == "score: chi2(1) = 1.6, p = 0.205903"


def test_coin_V3_as_printed():
    y = np.repeat([1, 0], [Y, N - Y])
    sequence = np.exp(COIN.log_likelihood(np.array([0.6]), y).sum())
    assert abs(sequence - 0.0017916) < 5e-8
    assert abs(binom.pmf(Y, N, 0.6) - 0.21499) < 5e-6
    low, high = confidence_intervals([0.7], covariance(information=information(0.7)))[0]
    assert (round(low, 4), round(high, 4)) == (0.4160, 0.9840)
    # theta = 1/2 is rejected outside the interval with the information at 1/2
    low, high = confidence_intervals([0.5], covariance(information=information(0.5)))[0]
    assert (round(low, 4), round(high, 4)) == (0.1901, 0.8099)


def test_wald_ratio_and_score_V2_are_ordered_in_linear_regression():
    """Each with the maximum-likelihood variance of its own model."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X = np.c_[rng.normal(size=(40, 2)), np.ones(40)]
        y = X @ [0.2, 0.0, 1.0] + rng.normal(size=40)
        free = np.linalg.lstsq(X, y, rcond=None)[0]
        restricted = np.append(np.zeros(2), y.mean())
        variance, variance_0 = (np.mean((y - X @ t) ** 2) for t in (free, restricted))
        full = LinearRegression(3, sigma=np.sqrt(variance), intercept=False)
        null = LinearRegression(3, sigma=np.sqrt(variance_0), intercept=False)
        H, H_0 = (40 * m.exact_fisher(free, X).matrix() for m in (full, null))
        R = np.eye(3)[:2]
        wald = wald_test(free, covariance(information=H), restrictions=R)
        llf, llf_0 = -40 * full.loss(free, X, y), -40 * null.loss(restricted, X, y)
        ratio = likelihood_ratio_test(llf, llf_0, 2)
        rao = score_test(null.scores(restricted, X, y).sum(axis=0), H_0)
        assert wald.statistic >= ratio.statistic >= rao.statistic > 0
        assert wald.df == ratio.df == 2


def test_score_test_V2_by_outer_products_is_at_most_n():
    rng = np.random.default_rng(0)
    for n in (5, 12, 50):
        G = rng.normal(size=(n, 4)) + 3.0  # far from the hypothesis
        test = score_test_opg(G)
        assert 0 < test.statistic <= n * (1 + 1e-12)
        ones = np.ones(n)
        projected = G @ np.linalg.lstsq(G, ones, rcond=None)[0]
        assert test.statistic == pytest.approx(ones @ projected)


def test_wald_of_all_parameters_at_their_own_values_is_zero():
    theta = np.array([0.5, -1.0])
    test = wald_test(theta, np.eye(2), null=theta)
    assert (test.statistic, test.df, test.pvalue) == (0.0, 2, 1.0)


def test_wald_does_not_depend_on_how_the_hypothesis_is_written():
    rng = np.random.default_rng(0)
    theta, A = rng.normal(size=4), rng.normal(size=(4, 4))
    V, R, M = A @ A.T, rng.normal(size=(2, 4)), rng.normal(size=(2, 2))
    one, other = (wald_test(theta, V, restrictions=S) for S in (R, M @ R))
    assert one.statistic == pytest.approx(other.statistic, rel=1e-9)


def test_intervals_use_student_t_when_asked():
    normal = confidence_intervals([1.0], [[4.0]], alpha=0.1)
    student = confidence_intervals([1.0], [[4.0]], alpha=0.1, df=3)
    np.testing.assert_allclose(normal, [[1 - 2 * 1.6448536, 1 + 2 * 1.6448536]], rtol=1e-7)
    np.testing.assert_allclose(student, [[1 - 2 * 2.3533634, 1 + 2 * 2.3533634]], rtol=1e-7)


# Cramer-Rao ------------------------------------------------------------------------------------


def moments(f, n, theta):
    y = np.arange(n + 1)
    p, values = binom.pmf(y, n, theta), f(y / n)
    mean = p @ values
    return mean, p @ (values - mean) ** 2


def test_cramer_rao_V6_by_enumeration():
    n, theta, h = 4, 0.3, 1e-6
    total = n * COIN.fisher(np.array([theta]))

    def square(t):
        return t * t

    slope = (moments(square, n, theta + h)[0] - moments(square, n, theta - h)[0]) / (2 * h)
    bound = cramer_rao(total, slope).item()
    variance = moments(square, n, theta)[1]
    assert (round(variance, 6), round(bound, 6)) == (0.029859, 0.025725)
    # with equality for the estimate itself
    assert moments(lambda t: t, n, theta)[1] == pytest.approx(cramer_rao(total).item())


def test_cramer_rao_of_a_function_uses_its_jacobian():
    I, J = np.diag([4.0, 2.0]), np.array([[1.0, -1.0]])
    np.testing.assert_allclose(cramer_rao(I, J), [[0.75]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wald_test([1.0, 2.0], np.eye(3)), r"shapes \(2,\), \(3, 3\)"),
        (lambda: wald_test([1.0, 2.0], np.eye(2), null=[1.0]), r"null has shape \(1,\)"),
        (lambda: likelihood_ratio_test(-5.0, -4.0, 1), "must fit at least as well"),
        (lambda: likelihood_ratio_test(np.nan, -4.0, 1), "llf is nan, expected a finite"),
        (lambda: likelihood_ratio_test(-4.0, -5.0, 0), "df is 0, expected an integer >= 1"),
        (lambda: confidence_intervals([1.0], [[1.0]], alpha=1.5), "alpha is 1.5"),
        (lambda: cramer_rao(np.eye(2), np.ones((1, 3))), r"jacobian has shape \(1, 3\)"),
        (lambda: score_test(np.ones(2), np.eye(3)), "do not belong together"),
        (lambda: confidence_intervals([1.0], [[1.0]], alpha="x"), "alpha is 'x'"),
        (lambda: confidence_intervals([1.0], [[1.0]], df=0), "df is 0, expected a number > 0"),
        (lambda: confidence_intervals([1.0], [[1.0]], df=np.nan), "df is nan"),
        (lambda: confidence_intervals([1.0, 2.0], [[1.0]]), r"shapes \(2,\) and \(1, 1\)"),
        (lambda: confidence_intervals([np.nan], [[1.0]]), "theta has entries that are not finite"),
        (lambda: wald_test([1.0], [[1.0]], null=np.nan), "null has entries that are not finite"),
        (lambda: wald_test([np.nan], [[1.0]]), "theta has entries that are not finite"),
        (lambda: wald_test([1.0], [[1.0]], restrictions=[[np.inf]]), "restrictions has entries"),
        (lambda: wald_test(["a"], [[1.0]]), "theta has dtype"),
        (lambda: score_test([np.nan], [[1.0]]), "score has entries that are not finite"),
        (lambda: score_test_opg(np.empty((0, 2))), "scores have no rows"),
        (lambda: likelihood_ratio_test("a", -4.0, 1), "llf is 'a'"),
        (lambda: likelihood_ratio_test(-4.0, -5.0, 1.5), "df is 1.5, expected an integer >= 1"),
        (lambda: likelihood_ratio_test(-4.0, -5.0, np.nan), "df is nan, expected an integer"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_redundant_restrictions_are_an_error():
    with pytest.raises(NotPositiveDefiniteError, match="singular"):
        wald_test([1.0, 2.0], np.eye(2), restrictions=[[1.0, 0.0], [2.0, 0.0]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: wald_test([1.0, 2.0], np.ones((2, 2))), "restrictions 0, 1 .* drop one"),
        (lambda: score_test([1.0, 2.0], np.ones((2, 2))), "parameters 0, 1 .* drop one"),
        (lambda: score_test_opg(np.ones((4, 2))), "parameters 0, 1 .* drop one"),
        (lambda: cramer_rao(np.zeros((2, 2))), "parameters 0.* drop one"),
    ],
)
def test_singular_matrices_are_named_without_an_option_that_is_not_there(call, words):
    with pytest.raises(NotPositiveDefiniteError, match=words) as raised:
        call()
    assert "pinv" not in str(raised.value)
