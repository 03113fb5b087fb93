"""Undamped and singular systems: the pivot, a damping that would do, what is still solved."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import NotPositiveDefiniteError
from tests import matrices, oracle
from tests.solvers.routes import over_dtypes, over_methods, tight
from tests.tolerances import assert_ratio, forward_ratio, solve_ratio


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
