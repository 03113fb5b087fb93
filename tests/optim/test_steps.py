"""KL clipping and the gain ratio."""

import numpy as np
import pytest

from fastfisher.errors import InputError
from fastfisher.optim import gain_ratio, kl_clip
from tests.tolerances import unit_roundoff

U = unit_roundoff("float64")


def quadratic(p=6, seed=0):
    """An SPD matrix F, a gradient g and the damped steps' solve."""
    rng = np.random.default_rng(seed)
    B = rng.normal(size=(2 * p, p))
    return B.T @ B / (2 * p), rng.normal(size=p)


def damped(F, g, lam):
    return -np.linalg.solve(F + lam * np.eye(len(g)), g)


# KL clip -------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [1e-12, 1e-3, 1.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6, 1e180])
def test_kl_clip_S4_stays_inside_the_radius(radius, scale):
    F, g = quadratic()
    d = scale * damped(F, g, 1e-3)
    clipped = kl_clip(d, F @ d, radius)
    assert 0.5 * clipped @ F @ clipped <= radius * (1 + 30 * U)
    cosine = clipped @ g / np.linalg.norm(clipped) / np.linalg.norm(g)
    np.testing.assert_allclose(
        cosine, d / scale @ g / np.linalg.norm(d / scale) / np.linalg.norm(g)
    )


def test_kl_clip_S4_reaches_the_radius_exactly_when_it_acts():
    F, g = quadratic()
    d = 100 * damped(F, g, 1e-3)
    clipped = kl_clip(d, F @ d, 0.01)
    assert abs(0.5 * clipped @ F @ clipped / 0.01 - 1) <= 30 * U


def test_kl_clip_S4_leaves_short_steps_alone_to_the_bit():
    F, g = quadratic()
    d = 1e-4 * damped(F, g, 1.0)
    np.testing.assert_array_equal(kl_clip(d, F @ d, 1.0), d)
    np.testing.assert_array_equal(kl_clip(0 * d, 0 * d, 1.0), 0 * d)


def test_kl_clip_S4_by_the_damped_bound_clips_at_least_as_hard():
    F, g = quadratic()
    d = damped(F, g, 0.5)
    free, bound = kl_clip(d, F @ d, 1e-3), kl_clip(d, -g, 1e-3)
    assert np.linalg.norm(bound) < np.linalg.norm(free)
    assert 0.5 * bound @ F @ bound <= 1e-3 * (1 + 30 * U)


def test_kl_clip_in_the_null_space_of_the_metric_predicts_no_kl():
    d = np.array([0.0, 5.0])
    np.testing.assert_array_equal(kl_clip(d, np.array([0.0, 0.0]), 1e-6), d)


def test_kl_clip_keeps_the_dtype_and_the_input():
    d = np.full(3, 10, np.float32)
    d.flags.writeable = False
    assert kl_clip(d, d, 0.5).dtype == np.float32
    assert (d == 10).all()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((np.ones(2), np.ones(3), 1.0), r"step has shape \(2,\) and metric_step \(3,\)"),
        ((np.ones(2), np.ones(2), 0.0), "radius is 0.0; expected a finite real number > 0"),
        ((np.ones(2), np.ones(2), np.nan), "radius is nan"),
        ((np.ones(2), np.ones(2), "long"), "radius is 'long'; expected a real number"),
        ((np.array([1, np.inf]), np.ones(2), 1.0), "step has entries that are not finite"),
        ((np.ones(2, int), np.ones(2), 1.0), "step has dtype int64"),
    ],
)
def test_kl_clip_refuses(args, message):
    with pytest.raises(InputError, match=message):
        kl_clip(*args)


# Gain ratio ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.0, 0.3, 10.0])
def test_gain_ratio_T1_is_one_on_a_quadratic_for_any_damping(lam):
    F, g = quadratic()
    d = damped(F, g, lam)
    rho = gain_ratio(7.0, 7.0 + g @ d + 0.5 * d @ F @ d, g, d, F @ d)
    assert abs(rho - 1) <= 100 * U * 7 / abs(g @ d)


def test_gain_ratio_T1_with_damping_in_the_model_is_larger_by_the_known_amount():
    F, g = quadratic()
    lam = 0.3
    d = damped(F, g, lam)
    rho = gain_ratio(0.0, g @ d + 0.5 * d @ F @ d, g, d, F @ d, damping=lam)
    assert abs(rho - (1 + lam * d @ d / -(g @ d))) <= 100 * U
    assert rho > 1.01, "a quadratic step must show that lambda entered the model"


def test_gain_ratio_T1_damped_model_decreases_by_half_of_g_d():
    F, g = quadratic()
    d = damped(F, g, 0.3)
    # with new_loss = loss + g'd/2 the damped model is exactly right
    assert abs(gain_ratio(0.0, 0.5 * g @ d, g, d, F @ d, damping=0.3) - 1) <= 100 * U


def test_gain_ratio_is_negative_uphill_and_minus_infinity_without_a_finite_loss():
    F, g = quadratic()
    d = damped(F, g, 0.1)
    assert gain_ratio(1.0, 1.5, g, d, F @ d) < 0
    for bad in (np.inf, np.nan):
        assert gain_ratio(1.0, bad, g, d, F @ d) == -np.inf
    assert gain_ratio(1.0, 0.5, g, -d, -F @ d) == -np.inf, "no decrease was predicted"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": np.nan}, "loss is nan; start from a point where it is finite"),
        ({"loss": np.inf}, "loss is inf"),
        ({"loss": "low"}, "loss is 'low'; expected a real number"),
        ({"new_loss": None}, "new_loss is None"),
        ({"damping": np.nan}, "damping is nan; expected a finite real number >= 0"),
    ],
)
def test_gain_ratio_refuses_what_is_no_loss(change, message):
    d = np.ones(2)
    given = {"loss": 1.0, "new_loss": 0.5, "gradient": -d, "step": d, "metric_step": d} | change
    with pytest.raises(InputError, match=message):
        gain_ratio(**given)


def test_gain_ratio_refuses_mismatched_vectors():
    with pytest.raises(InputError, match="gradient has shape"):
        gain_ratio(1.0, 0.5, np.ones(3), np.ones(2), np.ones(2))
