"""The categorical distribution in its logits."""

import numpy as np
import pytest

from fastfisher.models.categorical import kl_divergence, log_softmax
from tests.tolerances import unit_roundoff

U = unit_roundoff("float64")


def test_log_softmax_of_equal_logits_is_minus_log_of_the_count():
    for offset in (0.0, 1e300, -1e300):
        np.testing.assert_allclose(log_softmax(np.full((1, 5), offset)), -np.log(5), rtol=4 * U)


def test_log_softmax_does_not_depend_on_an_offset():
    z = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_allclose(log_softmax(z + 64), log_softmax(z), atol=4 * 64 * U)


@pytest.mark.parametrize("spread", [5e2, 1e6, 1e154, 1.7e308])
def test_log_softmax_G2_of_any_finite_logits_is_never_nan(spread):
    log_p = log_softmax(np.array([[spread, 0.0, -spread]]))
    assert not np.isnan(log_p).any()
    np.testing.assert_array_equal(np.exp(log_p) > 0, [[True, spread == 5e2, False]])
    assert log_p[0, 0] == 0.0


def test_kl_of_a_coin_by_hand():
    log_p, log_q = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    expected = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    np.testing.assert_allclose(kl_divergence(log_p, log_q), expected, rtol=16 * U)


def test_kl_is_infinite_only_where_q_excludes_what_p_allows():
    with np.errstate(divide="ignore"):
        coin, heads, tails = np.log([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])
    assert kl_divergence(coin, heads) == np.inf
    assert kl_divergence(heads, tails) == np.inf
    np.testing.assert_allclose(kl_divergence(heads, coin), np.log(2), rtol=16 * U)
    assert kl_divergence(heads, heads) == 0.0


def test_kl_is_nonnegative_and_zero_only_at_equality():
    rng = np.random.default_rng(2)
    for scale in (1e-12, 1e-6, 1.0, 50.0):
        z = rng.normal(size=(200, 6))
        log_p, log_q = log_softmax(z), log_softmax(z + scale * rng.normal(size=z.shape))
        assert np.all(kl_divergence(log_p, log_q) > 0)
    assert np.all(kl_divergence(log_p, log_p) == 0)
