"""The dual: cancellation D2, D3, centring D5, D6, minimum norm D7."""

import numpy as np
import pytest

import fastfisher as ff
from tests import matrices, oracle
from tests.solvers.routes import over_dtypes
from tests.tolerances import assert_ratio, forward_ratio, unit_roundoff


def in_range(ratio, rng, n=30, p=200):
    """Scores with n < p, coefficients, lambda = ratio lambda_max, and the solution by an SVD."""
    G = rng.standard_normal((n, p))
    f = rng.standard_normal(n)
    U, s, Vt = np.linalg.svd(G / np.sqrt(n), full_matrices=False)
    lam = ratio * s[0] ** 2
    b = G.T @ f / n
    x = Vt.T @ (s / (s**2 + lam) * (U.T @ f)) / np.sqrt(n)
    return G, f, b, lam, x


@pytest.mark.parametrize("ratio", [1e-4, 1e-8, 1e-12])
def test_dual_D3_push_through_does_not_cancel(ratio, rng):
    G, f, _, lam, x = in_range(ratio, rng)
    for method in ("dual", "auto"):
        result = ff.solve(G, coef=f, damping=lam, method=method)
        assert result.method == "dual" and result.converged
        assert np.linalg.norm(result.x - x) <= 1e-13 * np.linalg.norm(x)


def test_dual_D3_the_mean_gradient_does_not_cancel(rng):
    G, _, _, lam, _ = in_range(1e-12, rng)
    U, s, Vt = np.linalg.svd(G / np.sqrt(30), full_matrices=False)
    x = Vt.T @ (s / (s**2 + lam) * (U.T @ np.ones(30))) / np.sqrt(30)
    assert np.linalg.norm(ff.natural_gradient(G, damping=lam) - x) <= 1e-13 * np.linalg.norm(x)


@pytest.mark.parametrize("ratio", [1e-4, 1e-8, 1e-12])
def test_dual_D2_cancellation_is_reported(ratio, rng):
    G, _, b, lam, x = in_range(ratio, rng)
    result = ff.solve(G, b, damping=lam, method="dual")
    error = np.linalg.norm(result.x - x) / np.linalg.norm(x)
    predicted = unit_roundoff("float64") * np.linalg.norm(b) / (lam * np.linalg.norm(x))
    assert result.cancellation == pytest.approx(predicted, rel=0.1)
    assert error <= 100 * result.cancellation
    if ratio <= 1e-8:
        assert error >= 0.01 * result.cancellation


def test_dual_D2_generic_b_is_harmless(rng):
    G, _, _, lam, _ = in_range(1e-12, rng)
    b = rng.standard_normal(200)
    result = ff.solve(G, b, damping=lam, method="dual")
    S = G / np.sqrt(30)
    _, s, Vt = np.linalg.svd(S, full_matrices=False)
    c = Vt @ b
    x = Vt.T @ (c / (s**2 + lam)) + (b - Vt.T @ c) / lam
    assert result.cancellation < 1e-15
    assert np.linalg.norm(result.x - x) <= 1e-13 * np.linalg.norm(x)
    assert ff.solve(G, coef=np.ones(30), damping=lam).cancellation is None


def test_dual_D2_indicator_is_the_worst_column(rng):
    G, _, b, lam, _ = in_range(1e-8, rng)
    generic = 1e3 * rng.standard_normal(200)
    alone = ff.solve(G, b, damping=lam, method="dual").cancellation
    both = ff.solve(G, np.stack([generic, b], axis=1), damping=lam, method="dual").cancellation
    assert both == pytest.approx(alone, rel=0.5)


@pytest.mark.parametrize("lam", [1e-2, 1e-6, 1e-10])
def test_dual_D6_mean_gradient_against_a_centred_fisher(lam, rng):
    G = rng.standard_normal((30, 200)) + 1.0
    S, u = G / np.sqrt(30), np.full(30, 1 / np.sqrt(30))
    y = np.linalg.solve(S @ S.T + lam * np.eye(30), u)
    x = S.T @ y / (lam * (u @ y))
    raw = ff.natural_gradient(G, damping=lam)
    centred = ff.natural_gradient(G, damping=lam, center=True)
    cosine = raw @ centred / (np.linalg.norm(raw) * np.linalg.norm(centred))
    # Both are right to rounding, so parallel to the condition that lambda sets.
    assert np.linalg.norm(raw / np.linalg.norm(raw) - centred / np.linalg.norm(centred)) <= 1e-11
    assert cosine > 0
    assert np.linalg.norm(centred - x) <= 1e-11 * np.linalg.norm(x)


@over_dtypes
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("method", ["auto", "dual"])
def test_dual_D7_coef_at_damping_0_is_the_minimum_norm_solution(
    dtype, center, weighted, method, rng
):
    n, p = 12, 50
    G, c = matrices.gaussian((n, p), dtype, rng), matrices.gaussian((n, 2), dtype, rng)
    w = matrices.weights(n, dtype) if weighted else None
    result = ff.solve(G, coef=c, damping=0, weights=w, center=center, method=method)
    assert result.converged and result.damping == 0
    S = oracle.scaled_rows(G, w, center)
    b = oracle.coef_rhs(G, c, w, center)
    expected = np.linalg.pinv(oracle.ct(S) @ S, rcond=1e-10, hermitian=True) @ b
    assert_ratio(forward_ratio(result.x, expected, 100), 300, "minimum norm")


@pytest.mark.parametrize(
    ("n", "p", "used"), [(8, 9, 8), (40, 41, 40), (12, 9, 5), (9, 9, 9)], ids=str
)
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
def test_dual_D7_auto_finds_the_minimum_norm_solution_where_flops_would_say_primal(
    n, p, used, center, rng
):
    """F is singular whenever fewer rows than parameters count: flops alone must not decide."""
    G, c = rng.standard_normal((n, p)), rng.standard_normal(n)
    w = np.where(np.arange(n) < used, 1.0, 0.0)
    S = oracle.scaled_rows(G, w, center)
    expected = np.linalg.pinv(S.T @ S, rcond=1e-10, hermitian=True) @ oracle.coef_rhs(
        G, c, w, center
    )
    result = ff.solve(G, coef=c, weights=w, center=center, damping=0)
    assert result.converged
    np.testing.assert_allclose(result.x, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_dual_D7_minimum_norm_is_the_limit_of_damped_solutions(rng):
    G, f = rng.standard_normal((8, 30)), rng.standard_normal(8)
    limit = ff.solve(G, coef=f, damping=0).x
    np.testing.assert_allclose(ff.solve(G, coef=f, damping=1e-13).x, limit, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(G @ limit, f, rtol=1e-10)


@over_dtypes
@pytest.mark.parametrize("weighted", (False, True))
def test_D5_the_mean_of_coef_does_not_count_where_scores_are_centred(dtype, weighted, rng):
    """(T T' + lambda I)^-1 makes 1/lambda of it, which T' only takes away up to rounding."""
    n, p, lam = 40, 200, 1e-5
    G, f = (matrices.gaussian(shape, dtype, rng) for shape in ((n, p), (n,)))
    w = matrices.weights(n, dtype) if weighted else np.ones(n)
    far = f + f.dtype.type(100)
    settings = {"damping": lam, "center": True, "method": "dual", "weights": w}
    x = ff.solve(G, coef=far, **settings).x
    wide = np.result_type(dtype, np.float64)
    share, scores, centred = w / w.sum(), G.astype(wide), f.astype(wide)
    T = (scores - share @ scores) * np.sqrt(share)[:, np.newaxis]
    K = T @ T.conj().T + lam * np.eye(n)
    exact = T.conj().T @ np.linalg.solve(K, (centred - share @ centred) * np.sqrt(share))
    error = np.linalg.norm(x - exact) / np.linalg.norm(exact)
    # Adding 100 to coef rounds it; what is centred is the rounded one.
    assert error <= 1e5 * unit_roundoff(dtype), error / unit_roundoff(dtype)


@pytest.mark.parametrize("ratio", [1e-17, 1e-20, 1e-23])
@pytest.mark.parametrize("scale", [1.0, 1e160, 1e-160])
def test_D5_damping_below_rounding_does_not_let_the_mean_back_in(ratio, scale, rng):
    """K u = 0 in theory only: what rounding leaves there is as large as lambda."""
    for n, p in ((3, 50), (20, 60), (8, 40)):
        for _ in range(4):
            G, c = rng.standard_normal((n, p)) * scale, rng.standard_normal(n)
            sol = ff.solve(G, coef=c, damping=ff.Relative(ratio), center=True, method="dual")
            assert sol.converged and sol.backward_error <= 1e-15, (n, p, sol)
            least = ff.solve(G, coef=c, damping=0.0, center=True, method="dual")
            np.testing.assert_allclose(sol.x * scale, least.x * scale, rtol=1e-9)
