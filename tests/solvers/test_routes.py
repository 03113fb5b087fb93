"""Primal, dual and cg against the oracle and against each other."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import NotPositiveDefiniteError
from fastfisher.solvers import STATUSES
from tests import matrices, oracle
from tests.tolerances import assert_ratio, forward_ratio, solve_ratio, unit_roundoff

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
over_methods = pytest.mark.parametrize("method", ["primal", "dual", "cg"])
over_shapes = pytest.mark.parametrize(
    "shape", [(40, 9), (9, 40), (20, 20)], ids=lambda s: f"{s[0]}x{s[1]}"
)
COND = 1e3
DAMPINGS = {
    "number": 0.05,
    "Tikhonov": ff.Tikhonov(0.05),
    "Relative": ff.Relative(0.05),
    "Marquardt": ff.Marquardt(0.05, shift=0.02),
    "LevenbergMarquardt": ff.LevenbergMarquardt(0.05),
}


def added(damping, F):
    """What each damping adds to F, written down independently."""
    p = len(F)
    if isinstance(damping, ff.Relative):
        return np.full(p, damping.c * np.trace(F).real / p)
    if isinstance(damping, ff.Marquardt):
        return damping.c * np.diag(F).real + damping.shift
    return np.full(p, damping if isinstance(damping, float) else damping.lam)


def tight(method, dtype):
    return {"rtol": 8 * unit_roundoff(dtype)} if method == "cg" else {}


@over_methods
@over_shapes
@over_dtypes
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
@pytest.mark.parametrize("damping", DAMPINGS.values(), ids=DAMPINGS.keys())
def test_law_26_10_every_route_solves_the_dense_system(
    method, shape, dtype, weighted, center, damping, rng
):
    (n, p), G = shape, matrices.scores(*shape, dtype, cond=COND)
    w = matrices.weights(n, dtype) if weighted else None
    F = oracle.fisher(G, w, center)
    D = added(damping, F)
    A = F + np.diag(D)
    cond = np.linalg.cond(A)
    b, c = matrices.gaussian((p, 3), dtype, rng), matrices.gaussian((n, 3), dtype, rng)
    settings = dict(
        damping=damping, weights=w, center=center, method=method, **tight(method, dtype)
    )
    for sides, rhs in [({"b": b}, oracle.wide(b)), ({"coef": c}, oracle.coef_rhs(G, c, w, center))]:
        result = ff.solve(G, **sides, **settings)
        x = result.x
        assert x.shape == (p, 3) and x.dtype == dtype
        assert result.status == "converged" and result.converged and result.method == method
        assert_ratio(solve_ratio(A, x, rhs) * p, 100, f"{method} backward")
        assert_ratio(forward_ratio(x, np.linalg.solve(A, rhs), cond), 30 + 10 * p, "forward")
        true = np.linalg.norm(rhs - A @ x.astype(A.dtype), axis=0) / np.linalg.norm(rhs, axis=0)
        assert result.residual == pytest.approx(
            true.max(), rel=0.5, abs=50 * p * unit_roundoff(dtype)
        )
        expected = damping.c if isinstance(damping, ff.Marquardt) else D[0]
        assert result.damping == pytest.approx(expected, rel=1e3 * unit_roundoff(dtype))
        # One column at a time is the same problem.
        name, columns = next(iter(sides.items()))
        single = ff.solve(G, **{name: columns[:, 1]}, **settings)
        assert single.x.shape == (p,)
        assert_ratio(forward_ratio(single.x, x[:, 1], cond), 60 + 20 * p, "one column")


@over_methods
@over_shapes
@over_dtypes
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
def test_natural_gradient_defaults_to_the_mean_gradient_without_a_sign(
    method, shape, dtype, center, rng
):
    G = matrices.scores(*shape, dtype, cond=COND)
    w = matrices.weights(shape[0], dtype)
    F = oracle.fisher(G, w, center)
    A = F + 0.05 * np.eye(len(F))
    x = ff.natural_gradient(G, damping=0.05, weights=w, center=center, method=method)
    assert x.dtype == dtype and x.shape == (shape[1],)
    mean = oracle.mean_gradient(G, w)
    # cg promises a residual, not a forward error.
    slack = 1e5 if method == "cg" else 1
    limit = 300 * np.linalg.cond(A) * unit_roundoff(dtype) * slack
    error = np.linalg.norm(x - np.linalg.solve(A, mean)) / np.linalg.norm(np.linalg.solve(A, mean))
    assert error <= limit
    given = ff.natural_gradient(
        G, mean.astype(dtype), damping=0.05, weights=w, center=center, method=method
    )
    assert np.linalg.norm(given - x) <= 2 * limit * np.linalg.norm(x)


@over_methods
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@over_shapes
def test_complex_right_hand_sides_with_real_scores(method, dtype, shape, rng):
    n, p = shape
    G = matrices.scores(n, p, dtype, cond=COND)
    wide = np.result_type(dtype, np.complex64)
    b, c = matrices.gaussian((p, 2), wide, rng), matrices.gaussian((n,), wide, rng)
    A = oracle.fisher(G, None, True) + 0.1 * np.eye(p)
    settings = dict(damping=0.1, center=True, method=method, **tight(method, dtype))
    for result, rhs in [
        (ff.solve(G, b, **settings), b),
        (ff.solve(G, b, x0=b, **settings), b),
        (ff.solve(G, coef=c, **settings), oracle.coef_rhs(G, c, None, True)),
    ]:
        assert result.x.dtype == wide and result.converged
        expected = np.linalg.solve(A, oracle.wide(rhs))
        assert_ratio(forward_ratio(result.x, expected, np.linalg.cond(A)), 50 + 10 * p, "complex b")
        assert result.x.imag.any()


@over_methods
def test_real_right_hand_sides_with_complex_scores(method, rng):
    G = matrices.scores(30, 8, "complex128", cond=COND)
    b = rng.standard_normal(8)
    result = ff.solve(G, b, damping=0.1, method=method, **tight(method, "complex128"))
    A = oracle.fisher(G) + 0.1 * np.eye(8)
    assert result.x.dtype == np.complex128
    np.testing.assert_allclose(result.x, np.linalg.solve(A, b), rtol=1e-11)


def test_F9_complex_scores_equal_stacked_real_ones(rng):
    """Real parameters of a complex amplitude: Re T by stacking, D3 with the residual behind it."""
    O, e = (
        matrices.gaussian((25, 7), "complex128", rng),
        matrices.gaussian((25,), "complex128", rng),
    )
    O_c, e_c = O - O.mean(axis=0), e - e.mean()
    T = oracle.ct(O_c) @ O_c / 25
    np.testing.assert_allclose(
        ff.solve(O, coef=e, damping=0.1, center=True).x,
        np.linalg.solve(T + 0.1 * np.eye(7), oracle.ct(O_c) @ e / 25),
        rtol=1e-12,
    )
    stacked, right = np.vstack([O_c.real, O_c.imag]), np.concatenate([e_c.real, e_c.imag])
    # 2n rows: F of the stack is Re T / 2, so twice the coefficients and half the damping.
    x = ff.solve(stacked, coef=right, damping=0.05).x
    expected = np.linalg.solve(T.real + 0.1 * np.eye(7), (oracle.ct(O_c) @ e_c / 25).real)
    np.testing.assert_allclose(x, expected, rtol=1e-12)


# The dual ----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("method", ["auto", "primal", "dual", "cg"])
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
def test_damping_0_with_fewer_samples_than_parameters_refuses_b(method, center, rng):
    n, p = 12, 50
    order = n + 1 - center
    G = rng.standard_normal((n, p))
    with pytest.raises(NotPositiveDefiniteError, match=r"pass coef=.*minimum-norm") as caught:
        ff.solve(G, np.ones(p), damping=0, method=method, center=center)
    assert caught.value.order == order
    w = np.ones(n)
    w[:4] = 0
    with pytest.raises(NotPositiveDefiniteError) as caught:
        ff.solve(G, np.ones(p), damping=0, method=method, center=center, weights=w)
    assert caught.value.order == order - 4


@over_methods
@over_dtypes
def test_damping_0_with_full_rank_is_an_ordinary_solve(method, dtype, rng):
    G = matrices.scores(50, 8, dtype, cond=100)
    b = matrices.gaussian((8,), dtype, rng)
    expected = np.linalg.solve(oracle.fisher(G), oracle.wide(b))
    if method == "dual":
        with pytest.raises(NotPositiveDefiniteError):
            ff.solve(G, b, damping=0, method=method)
        return
    result = ff.solve(G, b, damping=0, method=method, **tight(method, dtype))
    assert result.converged
    assert_ratio(forward_ratio(result.x, expected, 100), 100, "undamped")


# Failures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("p", [4, 10, 130])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("reproducible", [False, True], ids=["vendor", "ours"])
def test_primal_P9_a_parameter_without_scores_is_named(dtype, p, where, reproducible):
    zero = {"first": 0, "middle": p // 2, "last": p - 1}[where]
    G = matrices.named(f"geo_zerocol{zero}", 2 * p + 5, p, dtype, cond=10).G
    with ff.options(reproducible=reproducible):
        with pytest.raises(NotPositiveDefiniteError, match=f"pivot {zero + 1} of {p}") as caught:
            ff.solve(G, np.ones(p), damping=0, method="primal")
        error = caught.value
        assert error.order == zero + 1 and error.rcond == 0
        assert error.suggested_damping > 0
        result = ff.solve(G, np.ones(p), damping=error.suggested_damping, method="primal")
    assert np.isfinite(result.x).all()
    assert result.x[zero] == pytest.approx(1 / error.suggested_damping, rel=1e-2)


def test_primal_P9_a_hopeless_condition_is_refused_with_rcond():
    """kappa = 0.1 / eps may pass; far beyond it the factor means nothing and rcond says so."""
    G = matrices.scores(60, 10, "float64", cond=1e19)
    with pytest.raises(NotPositiveDefiniteError, match="reciprocal condition") as caught:
        ff.solve(G, np.ones(10), damping=0, method="primal")
    assert caught.value.rcond < 1e-15 and 1 <= caught.value.order <= 10
    fixed = ff.solve(G, np.ones(10), damping=caught.value.suggested_damping, method="primal")
    assert fixed.converged


def test_primal_P9_equal_columns_are_refused_though_rounding_may_leave_a_pivot():
    """The factorisation runs to the end in about half of these; rcond is near u in all."""
    refused = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        G = rng.standard_normal((30, 5))
        G[:, 4] = G[:, seed % 4]
        try:
            ff.solve(G, rng.standard_normal(5), damping=0, method="primal")
        except NotPositiveDefiniteError as error:
            assert error.rcond < 1e-15
            refused += 1
    assert refused >= 35


def test_primal_P4_a_bad_scale_of_parameters_is_no_bad_condition(rng):
    """Columns graded from 1 to 1e-12: the scaled system has the condition of the ungraded one."""
    G, b = matrices.scores(40, 9, cond=100), rng.standard_normal(9)
    D = 2.0 ** -np.round(np.linspace(0, 40, 9))
    x = ff.solve(G, b, damping=0, method="primal").x
    graded = ff.solve(G * D, D * b, damping=0, method="primal")
    np.testing.assert_allclose(D * graded.x, x, rtol=1e-10)


def test_primal_P9_two_clusters_and_worst_accepted_condition(rng):
    for spectrum, cond in [("halves", 1e12), ("cluster0", 1e13), ("geo", 1e14)]:
        G = matrices.scores(60, 10, "float64", spectrum=spectrum, cond=cond)
        b = rng.standard_normal(10)
        result = ff.solve(G, b, damping=0, method="primal")
        assert result.converged, result
        F = oracle.fisher(G)
        assert_ratio(solve_ratio(F, result.x, b), "lapack", spectrum)


def test_duplicated_rows_at_damping_0_name_the_rank(rng):
    row = rng.standard_normal((1, 4))
    G = np.repeat(row, 9, axis=0)
    with pytest.raises(NotPositiveDefiniteError) as caught:
        ff.solve(G, np.ones(4), damping=0, method="primal")
    assert caught.value.order >= 2
    ff.solve(G, np.ones(4), damping=caught.value.suggested_damping)


@pytest.mark.parametrize("method", ["primal", "dual", "cg"])
def test_marquardt_P3_needs_a_floor_where_a_parameter_has_no_scores(method, rng):
    G = rng.standard_normal((6, 9) if method == "dual" else (30, 9))
    G[:, 5] = 0
    b = np.ones(9)
    if method == "cg":
        result = ff.solve(G, b, damping=ff.Marquardt(0.5), method=method)
        assert not result.converged, result
    else:
        with pytest.raises(NotPositiveDefiniteError) as caught:
            ff.solve(G, b, damping=ff.Marquardt(0.5), method=method)
        assert caught.value.order == 6
    floored = ff.solve(G, b, damping=ff.Marquardt(0.5, shift=0.25), method=method)
    assert floored.converged and floored.x[5] == pytest.approx(4.0, rel=1e-8)


def test_every_status_that_solve_can_return_is_listed():
    assert set(STATUSES) >= {
        "converged",
        "max_iterations",
        "stagnated",
        "breakdown",
        "inaccurate",
        "not_finite",
    }


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
