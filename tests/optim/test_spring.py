"""SPRING and minSR, R1 to R3; clipping by length; step size and momentum, T2."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import fastfisher as ff
from fastfisher.errors import InputError
from fastfisher.optim import norm_clip, spring, two_steps
from tests import matrices, oracle

over_dtypes = pytest.mark.parametrize("dtype", ["float64", "complex128"])
over_shapes = pytest.mark.parametrize("shape", [(12, 40), (40, 12)], ids=str)


@over_shapes
@over_dtypes
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_spring_R2_is_stationary(shape, dtype, center, weighted, rng):
    n, p = shape
    G, c = matrices.scores(n, p, dtype, cond=1e2), matrices.gaussian((n,), dtype, rng)
    w = matrices.weights(n) if weighted else None
    last, lam, mu = matrices.gaussian((p,), dtype, rng), 1e-2, 0.9
    settings = dict(damping=lam, weights=w, center=center)
    d = spring(G, c, last, momentum=mu, **settings)
    S = oracle.scaled_rows(G, w, center)
    shares = np.ones(n) / n if w is None else w / w.sum()
    f = np.sqrt(shares) * c
    rest = S.conj().T @ (S @ d - f) + lam * (d - mu * last)
    assert np.linalg.norm(rest) <= 1e-12 * np.linalg.norm(d)
    plain = ff.solve(G, coef=c, **settings).x
    for step in (spring(G, c, last, momentum=0, **settings), spring(G, c, momentum=mu, **settings)):
        assert step.tobytes() == plain.tobytes()


def test_spring_R2_a_large_mean_costs_no_accuracy(rng):
    """The centred rows do not see a constant in the target, rounding would."""
    G, c = rng.standard_normal((12, 40)), rng.standard_normal(12)
    last, lam = rng.standard_normal(40), 1e-6
    plain = spring(G, c, last, damping=lam, momentum=0.9, center=True)
    shifted = spring(G + 2.0**20, c, last, damping=lam, momentum=0.9, center=True)
    np.testing.assert_allclose(shifted, plain, rtol=0, atol=1e-7 * np.abs(plain).max())


def test_spring_R3_block_kaczmarz_finds_the_nearest_solution(rng):
    p = 15
    A, truth = rng.standard_normal((40, p)), rng.standard_normal(p)
    d = rng.standard_normal(p)
    for _ in range(400):
        rows = rng.choice(40, 4, replace=False)
        d = spring(A[rows], A[rows] @ truth, d, damping=0.0, momentum=1.0)
        np.testing.assert_allclose(A[rows] @ d, A[rows] @ truth, rtol=1e-8, atol=1e-9)
    assert np.linalg.norm(d - truth) < 1e-6


def test_spring_keeps_kind_and_refuses(rng):
    torch = pytest.importorskip("torch")
    G, c = torch.ones(3, 4, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    d = spring(G, c, torch.ones(4, dtype=torch.float64), damping=1.0, momentum=0.5)
    assert isinstance(d, torch.Tensor)
    np.testing.assert_allclose(d.numpy(), 0.5 + (1 - 2.0) / 5)
    G, c = np.ones((3, 4)), np.ones(3)
    for call, message in [
        (lambda: spring(G, c, np.ones(4), damping=1, momentum=1.5), "momentum is 1.5"),
        (lambda: spring(G, c, np.ones(3), damping=1, momentum=1), r"previous has shape \(3,\)"),
        (lambda: spring(G, np.ones((3, 2)), damping=1, momentum=1), r"coef has shape \(3, 2\)"),
        (lambda: spring(G, c, damping=None, momentum=1), "damping is None"),
    ]:
        with pytest.raises(InputError, match=message):
            call()


@given(st.lists(st.floats(-1e300, 1e300), min_size=0, max_size=6), st.floats(1e-300, 1e300))
def test_norm_clip_bounds_the_length_and_keeps_the_direction(values, radius):
    step = np.array(values)
    clipped = norm_clip(step, radius)
    largest = np.abs(step).max(initial=0.0)
    length = np.linalg.norm(step / largest) * largest if largest else 0.0
    reached = np.abs(clipped).max(initial=0.0)
    after = np.linalg.norm(clipped / reached) * reached if reached else 0.0
    assert after <= radius * (1 + 1e-12)
    if length <= radius:
        assert clipped is step or np.array_equal(clipped, step)
    else:
        assert after == pytest.approx(radius, rel=1e-9, abs=1e-307)
        assert np.all(clipped * np.sign(step) >= 0)


def test_norm_clip_keeps_dtype_and_refuses():
    assert norm_clip(np.array([3.0, 4.0j], np.complex64), 1.0).dtype == np.complex64
    for step, radius, message in [
        (np.ones((2, 2)), 1.0, "pass one vector"),
        (np.array([1, 2]), 1.0, "step is int64"),
        (np.array([np.nan]), 1.0, "not finite"),
        (np.ones(2), 0.0, "radius is 0"),
        (np.ones(2), np.inf, "radius is inf"),
    ]:
        with pytest.raises(InputError, match=message):
            norm_clip(step, radius)


def test_two_steps_T2_is_one_and_zero_for_the_exact_step(rng):
    for scale in (1.0, 1e-150, 1e150):
        A = oracle.fisher(matrices.scores(40, 8, cond=1e2)) + 0.1 * np.eye(8)
        g, last = rng.standard_normal(8), rng.standard_normal(8) * scale
        step = -np.linalg.solve(A, g)
        alpha, mu = two_steps(g, step, last, A @ step, A @ last)
        assert alpha == pytest.approx(1, abs=1e-10) and mu * scale == pytest.approx(0, abs=1e-10)


def test_two_steps_T2_is_the_minimum_of_the_model(rng):
    A = oracle.fisher(matrices.scores(40, 8, cond=1e2)) + 0.1 * np.eye(8)
    g, step, last = (rng.standard_normal(8) for _ in range(3))

    def model(alpha, mu):
        d = alpha * step + mu * last
        return g @ d + d @ A @ d / 2

    alpha, mu = two_steps(g, step, last, A @ step, A @ last)
    best = model(alpha, mu)
    for da, dm in rng.standard_normal((50, 2)):
        assert model(alpha + da, mu + dm) > best
    along, none = two_steps(g, step, np.zeros(8), A @ step, np.zeros(8))
    assert none == 0 and along == pytest.approx(-(g @ step) / (step @ A @ step))
    a, m = two_steps(g, step, 2 * step, A @ step, 2 * A @ step)
    assert a + 2 * m == pytest.approx(along, rel=1e-8)
    with pytest.raises(InputError, match="metric_previous"):
        two_steps(g, step, last, A @ step, np.ones(3))
    far = np.full(8, 1.7e308)
    with pytest.raises(InputError, match="the step times metric_step overflows float64"):
        two_steps(g, 1 / far, last, far, last)
    # steps at the end of the range
    alpha, mu = two_steps(far, -far / 1e8, np.zeros(8), -far / 1e8, np.zeros(8))
    assert alpha == pytest.approx(1e8) and mu == 0


def test_spring_R2_that_overflows_is_an_error():
    G, most = np.eye(2, dtype=np.float32), np.full(2, 3e38, np.float32)
    with pytest.raises(InputError, match="leaves of coef overflows float32"):
        spring(G, most, -most, damping=1e-3, momentum=1.0)
    with pytest.raises(InputError, match="the step overflows float32"):
        spring(G * np.float32(0.3), most * np.float32(0.37), most, damping=1e-3, momentum=1.0)
