"""The failure ladder, P9: a constructed matrix reaches every rung, and none is climbed unasked."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError, NotPositiveDefiniteError
from tests import matrices, oracle
from tests.tolerances import assert_ratio, forward_ratio, solve_ratio

HARD = ff.HardCutoff(1e-10)
over_dtypes = pytest.mark.parametrize("dtype", ["float64", "complex128"])


def nearly_singular(dtype, rng, n=60, p=12, gap=1e-9):
    """Scores whose last column is the first plus `gap` of noise: kappa(F) about gap^-2."""
    G = matrices.gaussian((n, p), dtype, rng)
    G[:, -1] = G[:, 0] + gap * matrices.gaussian((n,), dtype, rng)
    return G


@over_dtypes
@pytest.mark.parametrize("method", ["primal", "dual"])
def test_ladder_P9_default_is_to_raise_with_pivot_and_advice(method, dtype, rng):
    G = nearly_singular(dtype, rng)
    if method == "dual":
        G = G.T.copy()
    c = matrices.gaussian((len(G),), dtype, rng)
    with pytest.raises(NotPositiveDefiniteError, match=r"pivot 12 of 12.*damping") as caught:
        ff.solve(G, coef=c, damping=0, method=method)
    assert caught.value.order == 12 and caught.value.rcond < 1e-14
    ff.solve(G, coef=c, damping=caught.value.suggested_damping, method=method)


@over_dtypes
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("center", [False, True])
def test_ladder_P9_orthogonal_factor_has_twice_the_precision(dtype, weighted, center, rng):
    G = nearly_singular(dtype, rng, gap=1e-7)
    w = matrices.weights(60) if weighted else None
    G = 3 + G if center else G
    truth = matrices.gaussian((12,), dtype, rng)
    S = oracle.scaled_rows(G, w, center, precise=True)
    b = (S.conj().T @ (S @ truth)).astype(dtype)
    with ff.options(ladder=ff.Ladder()):
        sol = ff.solve(G, b, damping=0, weights=w, center=center, method="primal")
    assert sol.rung == "orthogonal" and sol.converged and sol.rank == 12
    assert_ratio(solve_ratio(S.conj().T @ S, sol.x, b), "lapack", "residual")
    kappa = np.linalg.cond(S.astype(dtype)) ** 2
    assert sol.rcond == pytest.approx(1 / kappa, rel=1, abs=10 / kappa)
    assert sol.smallest_pivot > 0 and sol.damping == 0 and sol.escalation == 0


@over_dtypes
def test_ladder_P9_orthogonal_factor_of_the_gram_matrix(dtype, rng):
    """Rows nearly equal: the minimum-norm solution, right where K has lost its last pivot."""
    G = nearly_singular(dtype, rng, gap=1e-7).T.copy()
    for w, center in ((None, False), (np.r_[1.0, 0.0, np.ones(10)], False), (None, True)):
        f = matrices.gaussian((12,), dtype, rng)
        with ff.options(ladder=ff.Ladder()):
            sol = ff.solve(G, coef=f, damping=0, weights=w, center=center, method="dual")
        assert sol.rung.startswith("orthogonal"), sol
        S = oracle.scaled_rows(G, w, center)
        weights = np.ones(12) if w is None else w
        right = np.sqrt(weights / weights.sum()) * f
        expected = np.linalg.lstsq(S, right - right.mean() * center, rcond=1e-12)[0]
        np.testing.assert_allclose(sol.x, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("method", ["primal", "dual"])
@over_dtypes
def test_ladder_P9_tiny_damping_beside_large_scores(method, dtype, rng):
    """lambda = 1e-19 lambda_max is lost in the sums, not in the scores."""
    G = (
        matrices.scores(8, 12, dtype, cond=1e2)
        if method == "dual"
        else matrices.scores(30, 12, dtype)
    )
    G = np.concatenate([G, G[:4]])
    lam = 1e-19 * np.linalg.norm(oracle.fisher(G), 2)
    if method == "primal":
        G[:, 5] = G[:, 4]
    c = matrices.gaussian((len(G),), dtype, rng)
    with pytest.raises(NotPositiveDefiniteError):
        for _ in range(1):
            ff.solve(G, coef=c, damping=lam, method=method)
            pytest.skip("rounding left a positive pivot")
    with ff.options(ladder=ff.Ladder()):
        sol = ff.solve(G, coef=c, damping=lam, method=method)
    assert sol.rung.startswith("orthogonal") and sol.converged and sol.damping == lam
    b = oracle.coef_rhs(G, c)
    assert_ratio(solve_ratio(oracle.fisher(G), sol.x, b), "lapack", "residual")


@pytest.mark.parametrize("method", ["primal", "dual"])
@over_dtypes
def test_ladder_P9_escalation_is_bounded_and_reported(method, dtype, rng):
    G = matrices.gaussian((30, 8), dtype, rng)
    G[:, 7] = G[:, 0]
    G = G.T.copy() if method == "dual" else G
    c = matrices.gaussian((len(G),), dtype, rng)
    with ff.options(ladder=ff.Ladder(escalations=7)):
        sol = ff.solve(G, coef=c, damping=0, method=method)
    A = oracle.fisher(G)
    order = min(G.shape)
    top = np.abs(np.diag(A if method == "primal" else oracle.gram(G) / len(G))).max()
    tried = order * 2.0**-52 * 10.0 ** np.arange(1, 8) * top
    assert sol.rung.startswith("cholesky+damping") and sol.converged
    assert np.isclose(tried, sol.escalation, rtol=1e-10).any()
    assert sol.damping == sol.escalation > 0
    A = A + sol.damping * np.eye(len(A))
    assert_ratio(solve_ratio(A, sol.x, oracle.coef_rhs(G, c)), "lapack", "residual")
    with ff.options(ladder=ff.Ladder(escalations=7)):
        fine = ff.solve(G, coef=c, damping=0.1, method=method)
    assert fine.rung in ("cholesky", "cholesky+refinement") and fine.escalation == 0
    assert fine.rank == order


@pytest.mark.parametrize("ladder", [ff.Ladder(escalations=7), ff.Ladder(cutoff=HARD)], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_ladder_P9_mixed_precision_climbs_like_the_exact_routes(ladder, weighted, rng):
    G, b = rng.standard_normal((25 if weighted else 3, 20)), np.ones(20)
    weights = np.r_[np.ones(3), np.zeros(22)] if weighted else None
    settings = dict(damping=0.0, weights=weights)
    with pytest.raises(NotPositiveDefiniteError, match="rank at most 3"):
        ff.solve(G, b, method="mixed", **settings)
    exact = "primal" if weighted else "dual"
    with ff.options(ladder=ladder):
        sol, expected = (ff.solve(G, b, method=m, **settings) for m in ("mixed", exact))
    assert sol.converged and sol.rung == expected.rung and sol.rung != "cholesky"
    assert sol.escalation == expected.escalation and sol.x.tobytes() == expected.x.tobytes()


@pytest.mark.parametrize("method", ["primal", "dual"])
@over_dtypes
def test_ladder_P9_cutoff_is_the_last_rung(method, dtype, rng):
    G = matrices.gaussian((30, 8), dtype, rng)
    G[:, 7] = G[:, 0] * 3
    G = G.T.copy() if method == "dual" else G
    c = matrices.gaussian((len(G),), dtype, rng)
    with ff.options(ladder=ff.Ladder(cutoff=HARD)):
        sol = ff.solve(G, coef=c, damping=0, method=method)
        many = ff.solve(G, coef=np.stack([c, 2 * c], axis=1), damping=0, method=method)
    b = oracle.coef_rhs(G, c)
    expected = np.linalg.pinv(oracle.fisher(G), rcond=1e-10, hermitian=True) @ b
    assert_ratio(forward_ratio(sol.x, expected, 1e3), "lapack", "pseudo-inverse")
    np.testing.assert_allclose(many.x[:, 1], 2 * sol.x, rtol=1e-10)
    assert sol.rung == "eigen" and sol.rank == 7 and sol.converged and sol.rcond > 1e-10
    assert sol.damping == pytest.approx(1e-10 * np.linalg.norm(oracle.fisher(G), 2), rel=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("method", ["primal", "dual"])
def test_ladder_P9_scores_in_single_precision(dtype, method, rng):
    G = matrices.gaussian((30, 8), dtype, rng)
    G[:, 7] = G[:, 0]
    G = G.T.copy() if method == "dual" else G
    c = matrices.gaussian((len(G),), dtype, rng)
    for ladder, rung in [
        (ff.Ladder(escalations=7), "cholesky+damping"),
        (ff.Ladder(cutoff=HARD), "eigen"),
    ]:
        with ff.options(ladder=ladder):
            sol = ff.solve(G, coef=c, damping=0, method=method)
        assert sol.rung.startswith(rung) and sol.converged and sol.x.dtype == dtype
        assert sol.residual < 1e-3 and np.isfinite(sol.x).all()


def test_ladder_P9_fewer_samples_than_parameters_and_any_right_hand_side(rng):
    G, b = rng.standard_normal((5, 20)), rng.standard_normal(20)
    expected = np.linalg.pinv(oracle.fisher(G), rcond=1e-10, hermitian=True) @ b
    with ff.options(ladder=ff.Ladder(cutoff=HARD)):
        for method in ("primal", "dual"):
            sol = ff.solve(G, b, damping=0, method=method)
            np.testing.assert_allclose(sol.x, expected, rtol=1e-8, atol=1e-10)
            assert sol.rung == "eigen" and sol.rank == 5
        for F in (ff.DenseFisher(20).update(G), ff.GramFisher().update(G)):
            assert F.factor(0.0).rung == "eigen"
            sol = F.solve(b, damping=0.0)
            np.testing.assert_allclose(sol.x, expected, rtol=1e-8, atol=1e-10)
            assert sol.rung == "eigen" and sol.rank == 5 and sol.converged


def test_ladder_P9_factors_of_fisher_objects(rng):
    G = matrices.gaussian((30, 8), "float64", rng)
    G[:, 7] = G[:, 0]
    F, b = ff.DenseFisher(8).update(G), rng.standard_normal(8)
    with pytest.raises(NotPositiveDefiniteError):
        F.factor(0.0)
    with ff.options(ladder=ff.Ladder(escalations=3)):
        factor, sol = F.factor(0.0), F.solve(b, damping=0.0)
    assert factor.rung == sol.rung == "cholesky+damping"
    assert factor.damping == sol.damping == sol.escalation > 0 and sol.converged
    A = F.matrix() + factor.damping * np.eye(8)
    assert factor.logdet() == pytest.approx(np.linalg.slogdet(A)[1], abs=0.5)
    few = ff.GramFisher().update(np.vstack([G.T, G.T]))
    lam = 1e-20 * np.linalg.norm(few.gram(), 2)
    with ff.options(ladder=ff.Ladder()):
        gram = few.factor(lam)
    assert gram.rung == "orthogonal" and gram.damping == lam


@pytest.mark.parametrize("k", [-490, 490])
@pytest.mark.parametrize("method", ["primal", "dual"])
def test_ladder_26_15_extreme_scales(k, method, rng):
    G = nearly_singular("float64", rng, gap=1e-7)
    G = G if method == "primal" else G.T.copy()
    c = rng.standard_normal(len(G))
    for ladder in (ff.Ladder(), ff.Ladder(cutoff=ff.HardCutoff(1e-8))):
        with ff.options(ladder=ladder):
            plain = ff.solve(G, coef=c, damping=0, method=method)
            scaled = ff.solve(G * 2.0**k, coef=c, damping=0, method=method)
        assert plain.rung == scaled.rung and plain.converged and scaled.converged
        np.testing.assert_allclose(scaled.x * 2.0**k, plain.x, rtol=1e-6)


def test_ladder_P9_marquardt_without_floor(rng):
    """A parameter without scores: cut in the primal, refused in the dual, whose D must be > 0."""
    G, b = rng.standard_normal((30, 9)), np.ones(9)
    G[:, 5] = 0
    with ff.options(ladder=ff.Ladder(cutoff=HARD)):
        sol = ff.solve(G, b, damping=ff.Marquardt(0.5), method="primal")
        assert (
            sol.rung == "eigen" and abs(sol.x[5]) < 1e-12 and sol.rank == 8 and sol.damping == 0.5
        )
        with pytest.raises(NotPositiveDefiniteError):
            ff.solve(G, b, damping=ff.Marquardt(0.5), method="dual")


def test_ladder_P9_singular_to_working_precision_still_raises(rng):
    G = rng.standard_normal((30, 8))
    G[:, 7] = G[:, 0]
    G[:, 3] = 0
    with ff.options(ladder=ff.Ladder()):
        with pytest.raises(NotPositiveDefiniteError, match="pivot 4 of 8") as caught:
            ff.solve(G, np.ones(8), damping=0, method="primal")
    assert caught.value.order == 4
    bad = G.copy()
    bad[2, 2] = np.nan
    with ff.options(ladder=ff.Ladder(escalations=7, cutoff=HARD)):
        with pytest.raises(InputError, match="row 2, column 2"):
            ff.solve(bad, np.ones(8), damping=0, method="primal")


def test_P4_powers_of_two_change_no_pivot_of_a_cholesky_factor(rng):
    """Equilibration by powers of two is exact: why it is part of the estimate, not a rung."""
    A = oracle.fisher(matrices.scores(50, 12, cond=1e8))
    D = 2.0 ** rng.integers(-30, 30, 12)
    L, scaled = ff.ops.cholesky(A), ff.ops.cholesky(D[:, None] * A * D)
    assert np.array_equal(scaled, D[:, None] * L)


@pytest.mark.parametrize("method", ["auto", "primal", "dual", "mixed"])
def test_ladder_P9_zero_has_no_size_to_measure_damping_by(method):
    G, b = np.zeros((5, 8)), np.ones(8)
    with ff.options(ladder=ff.Ladder(escalations=7)):
        for scores in (G, G.T.copy()):
            with pytest.raises(NotPositiveDefiniteError):
                ff.solve(scores, np.ones(scores.shape[1]), damping=0, method=method)
        assert ff.solve(G, b, damping=0.1, method=method).escalation == 0
    with ff.options(ladder=ff.Ladder(escalations=7, cutoff=HARD)):
        sol = ff.solve(G, b, damping=0, method=method)
    assert sol.rung == "eigen" and sol.rank == 0 and not sol.x.any()


def test_ladder_refuses_what_is_none():
    for call, message in [
        (lambda: ff.Ladder(escalations=17), "integer from 0 to 16"),
        (lambda: ff.Ladder(escalations=True), "integer from 0 to 16"),
        (lambda: ff.Ladder(cutoff=1e-3), "expected HardCutoff or SoftCutoff"),
        (lambda: ff.Ladder(cutoff=ff.SNRCutoff(1.0)), "expected HardCutoff or SoftCutoff"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    with ff.options(ladder="eigen"), pytest.raises(InputError, match=r"expected an ff.Ladder"):
        ff.solve(np.ones((50, 40)), np.ones(40), damping=1.0)
