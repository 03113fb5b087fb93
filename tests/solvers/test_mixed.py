"""Mixed precision, X1 and X4: single-precision work, full-precision answers or the exact route."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import fastfisher as ff
from fastfisher import passes
from fastfisher.arrays import as_scores
from fastfisher.errors import InputError, NotPositiveDefiniteError
from fastfisher.solvers.refine import ASIDE
from fastfisher.solvers.system import System
from tests import matrices, oracle
from tests.solvers.mixed_cases import extended, wide_root
from tests.tolerances import assert_ratio, forward_ratio, solve_ratio, unit_roundoff

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
over_shapes = pytest.mark.parametrize("shape", [(90, 40), (40, 90)], ids=lambda s: f"{s[0]}x{s[1]}")


@over_shapes
@over_dtypes
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
def test_mixed_X4_reaches_the_precision_of_the_scores(shape, dtype, weighted, center, rng):
    n, p = shape
    G, w = matrices.scores(n, p, dtype, cond=1e4), matrices.weights(n, dtype) if weighted else None
    F = oracle.fisher(G, w, center)
    lam = 1e-3 * np.linalg.norm(F, 2)
    A = F + lam * np.eye(p)
    b, c = matrices.gaussian((p, 2), dtype, rng), matrices.gaussian((n,), dtype, rng)
    settings = dict(damping=lam, weights=w, center=center, method="mixed")
    for sol, right in (
        (ff.solve(G, b, **settings), oracle.wide(b)),
        (ff.solve(G, coef=c, **settings), oracle.coef_rhs(G, c, w, center)),
    ):
        assert sol.converged and sol.method == "mixed" and sol.rung == "single+cg", sol
        assert sol.x.dtype == dtype and sol.iterations <= 8 and sol.damping == lam
        assert_ratio(solve_ratio(A, sol.x, right), "lapack", "residual")
        assert_ratio(forward_ratio(sol.x, np.linalg.solve(A, right), 1e3), "forward", "x")
    ops = [(stage.op, stage.kernel) for stage in sol.plan.stages]
    assert ops[0][0] == ("syrk" if n > p else "gram")


@pytest.mark.parametrize("side", ["primal", "dual"])
@pytest.mark.parametrize("spectrum", ["geo", "power"])
def test_mixed_X4_iterations_stay_few_down_to_the_roundoff_of_single(side, spectrum, rng):
    shape = (300, 120) if side == "primal" else (120, 300)
    G = matrices.scores(*shape, spectrum=spectrum, cond=1e6)
    top = np.linalg.norm(oracle.fisher(G), 2)
    c, previous = rng.standard_normal(shape[0]), 0
    for share in (1e-2, 1e-4, 1e-6):
        sol = ff.solve(G, coef=c, damping=share * top, method="mixed")
        assert sol.rung == "single+cg" and sol.iterations <= 10, sol
        exact = ff.solve(G, coef=c, damping=share * top, method=side)
        assert np.linalg.norm(sol.x - exact.x) <= 1e-13 / share * np.linalg.norm(exact.x)
        assert sol.iterations >= previous
        previous = sol.iterations - 1


@pytest.mark.parametrize("side", ["primal", "dual"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_mixed_falls_back_to_the_exact_route(side, dtype, rng):
    """Damping far below what single precision resolves: same bits as the route in double."""
    shape = (90, 40) if side == "primal" else (40, 90)
    G = matrices.scores(*shape, dtype, cond=1e11)
    c = matrices.gaussian((shape[0],), dtype, rng)
    lam = 1e-13 * np.linalg.norm(oracle.fisher(G), 2)
    sol = ff.solve(G, coef=c, damping=lam, method="mixed")
    exact = ff.solve(G, coef=c, damping=lam, method=side)
    assert sol.method == "mixed" and sol.rung == exact.rung and "cholesky" in sol.rung
    assert sol.x.tobytes() == exact.x.tobytes() and sol.iterations == 0


@over_shapes
def test_mixed_is_accepted_on_the_true_residual_alone(shape, rng, monkeypatch):
    """One step does not get there: the exact route repeats the solve."""
    from fastfisher.solvers import certificate, refine, small

    G, c = matrices.scores(*shape, cond=1e4), rng.standard_normal(shape[0])
    settings = dict(coef=c, damping=ff.Relative(1e-4))
    assert ff.solve(G, method="mixed", **settings).rung == "single+cg"
    monkeypatch.setattr(refine, "STEPS", 1)
    monkeypatch.setattr(certificate, "REFINEMENTS", 0)
    monkeypatch.setattr(small, "REFINEMENTS", 0)
    sol, exact = ff.solve(G, method="mixed", **settings), ff.solve(G, **settings)
    assert sol.rung == "cholesky" and sol.converged and sol.x.tobytes() == exact.x.tobytes()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n, p", [(255, 27), (2000, 40), (300, 700)])
def test_mixed_reaches_its_gate_where_rows_are_all_alike(n, p, dtype):
    """Long sums then round one way, in a matrix as in products; the residual tells."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        G = np.tile(rng.standard_normal((1, p)), (n, 1)).astype(dtype)
        b, (T, _) = np.stack([rng.standard_normal(p), G[0]], axis=1).astype(dtype), wide_root(G)
        lam = 1e-2 * np.linalg.norm(G[0].astype(float)) ** 2
        sol = ff.solve(G, b, damping=lam, method="mixed")
        assert sol.converged
        assert_ratio(extended(T, sol.x, b, lam)[0] / unit_roundoff(dtype), "gate", sol.rung)


@pytest.mark.parametrize("shape, route", [((600, 150), "fisher"), ((60, 300), "rows")])
def test_mixed_X1_the_last_step_tells_the_residual(shape, route, rng, monkeypatch):
    """Double: one pass over the scores per step, and none for the residual that is told."""
    passes_made, through = [], getattr(System, f"apply_{route}")

    def counted(self, v):
        passes_made.append(len(v))
        return through(self, v)

    monkeypatch.setattr(System, f"apply_{route}", counted)
    G, b = rng.standard_normal(shape), rng.standard_normal((shape[1], 1))
    for lam in (1.0, 1e-2):
        passes_made.clear()
        sol = ff.solve(G, b, damping=lam, method="mixed")
        assert len(passes_made) == 1 + sol.iterations  # the norm of F comes first, or T b
        assert max(passes_made) == 2
        backward = extended(wide_root(G)[0], sol.x, b, lam)[0]
        assert abs(sol.backward_error - backward) <= 2 * unit_roundoff("float64")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("sides", [2, ASIDE // 2, ASIDE // 2 + 1])
def test_mixed_X1_residuals_of_many_sides_are_those_of_what_is_returned(sides, dtype, rng):
    """Sides that arrive early, late and at once; single precision rounds x, and starts anew."""
    G = matrices.scores(400, 90, dtype, cond=1e3)
    b = rng.standard_normal((90, sides)).astype(dtype)
    b[:, 1] = G[0] * 1e-6
    sol = ff.solve(G, b, damping=1e-3, method="mixed")
    A = oracle.fisher(G) + 1e-3 * np.eye(90)
    rest = b - A @ sol.x.astype(np.longdouble)
    told = np.linalg.norm(rest.astype(float), axis=0) / np.linalg.norm(b.astype(float), axis=0)
    scale = np.linalg.norm(A.astype(float), 2) * np.linalg.norm(sol.x.astype(float), axis=0)
    room = 2 * unit_roundoff(dtype) * (scale / np.linalg.norm(b.astype(float), axis=0) + 1)
    assert sol.rung.endswith("+cg") and (np.abs(sol.residuals - told) <= room).all(), sol


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 97, 300])
def test_fine_sums_are_sums_of_all_rows(n, weighted, rng):
    G, v = as_scores(rng.integers(-9, 9, (n, 5)).astype(float)), rng.integers(-9, 9, (2, 5))
    w, shift = rng.integers(0, 4, n) if weighted else None, np.arange(5.0)
    found, expected = np.zeros((2, 2, 5))
    passes.add_fvp(expected, G, v, weights=w, shift=shift)
    passes.add_fvp(found, G, v, weights=w, shift=shift, finely=True)
    assert np.array_equal(found, expected)


@given(n=st.integers(0, 9), p=st.integers(0, 9), seed=st.integers(0, 50))
def test_mixed_26_14_every_small_size(n, p, seed):
    rng = np.random.default_rng(seed)
    G, b = rng.standard_normal((n, p)), rng.standard_normal((p, 2))
    sol = ff.solve(G, b, damping=0.3, method="mixed")
    F = oracle.fisher(G) if n else np.zeros((p, p))
    assert sol.converged
    A = F + 0.3 * np.eye(p)
    cond = np.linalg.cond(A) if p else 1.0
    assert_ratio(forward_ratio(sol.x, np.linalg.solve(A, b), cond), "forward", "x")


@over_shapes
@pytest.mark.parametrize("damping", [ff.Relative(1e-2), ff.Marquardt(0.3, shift=1e-3)], ids=str)
def test_mixed_takes_every_damping(shape, damping, rng):
    G, b = matrices.scores(*shape, cond=1e3), rng.standard_normal(shape[1])
    sol = ff.solve(G, b, damping=damping, method="mixed")
    exact = ff.solve(G, b, damping=damping)
    np.testing.assert_allclose(sol.x, exact.x, rtol=1e-9, atol=1e-12)
    assert sol.damping == pytest.approx(exact.damping)
    with pytest.raises(InputError, match="replaces the inverse"):
        ff.solve(G, b, damping=ff.HardCutoff(0.1), method="mixed")


@over_shapes
@pytest.mark.parametrize("k", [-480, -100, 100, 480])
def test_mixed_26_15_extreme_scales(shape, k, rng):
    G, c = matrices.scores(*shape, cond=1e3), rng.standard_normal(shape[0])
    plain = ff.solve(G, coef=c, damping=ff.Relative(1e-2), method="mixed")
    sol = ff.solve(G * 2.0**k, coef=c, damping=ff.Relative(1e-2), method="mixed")
    assert sol.converged and sol.rung == plain.rung == "single+cg"
    np.testing.assert_allclose(sol.x * 2.0**k, plain.x, rtol=1e-12)


def test_mixed_graded_parameters_cost_no_iterations(rng):
    """Columns from 1 to 1e-12: the factor is scaled by powers of two (P4)."""
    G, b = matrices.scores(90, 20, cond=1e2), rng.standard_normal(20)
    D = 2.0 ** -np.round(np.linspace(0, 40, 20))
    sol = ff.solve(G * D, D * b, damping=ff.Marquardt(0.1), method="mixed")
    assert sol.rung == "single+cg" and sol.iterations <= 6
    plain = ff.solve(G, b, damping=ff.Marquardt(0.1))
    np.testing.assert_allclose(D * sol.x, plain.x, rtol=1e-9)


def test_mixed_refuses_what_the_exact_routes_refuse(rng):
    G = rng.standard_normal((30, 8))
    G[:, 7] = G[:, 0]
    with pytest.raises(NotPositiveDefiniteError, match="pivot 8 of 8"):
        ff.solve(G, np.ones(8), damping=0, method="mixed")
    with pytest.raises(NotPositiveDefiniteError, match="rank at most 5"):
        ff.solve(G[:5], np.ones(8), damping=0, method="mixed")
    G[3, 1] = np.inf
    with pytest.raises(InputError, match="row 3, column 1"):
        ff.solve(G, np.ones(8), damping=1.0, method="mixed")
    minimum = ff.solve(G[4:9], coef=np.ones(5), damping=0, method="mixed")
    assert minimum.rung == "cholesky" and minimum.converged


@pytest.mark.parametrize("shape", [(50, 20), (10, 20)], ids=lambda s: f"{s[0]}x{s[1]}")
@over_dtypes
def test_mixed_X1_damping_that_dwarfs_f(shape, dtype, rng):
    """No error is left to a step: F is less than rounding beside D."""
    G, b = matrices.gaussian(shape, dtype, rng), np.ones(20, dtype)
    tiny = (G * 1e-6).astype(dtype)
    for scores, damping, added in (
        (tiny, 0.1, 0.1),
        (G, 1e30, 1e30),
        (G, ff.LevenbergMarquardt(1e12), None),
        (G, ff.Marquardt(1e15), None),
    ):
        sol = ff.solve(scores, b, damping=damping, method="mixed")
        assert sol.converged and sol.iterations <= 3, sol
        if added:
            np.testing.assert_allclose(sol.x, b / added, rtol=1e-6)
    if G.dtype in (np.float64, np.complex128):
        sol = ff.solve(G, b, damping=1e300, method="mixed")
        assert sol.converged and np.allclose(sol.x * 1e300, b, rtol=1e-14, atol=0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("n", [1, 5, 45])
@pytest.mark.parametrize("size", [1.0, 1e60, 1e-60])
def test_mixed_says_nothing_where_centring_leaves_rounding_or_nothing(n, dtype, size, rng):
    G = np.tile(matrices.gaussian((1, 20), dtype, rng) * size, (n, 1))
    lam = 0.1 * size * size
    for sides in ({"b": np.ones(20)}, {"coef": rng.standard_normal(n)}):
        sol = ff.solve(G, damping=lam, center=True, method="mixed", **sides)
        assert sol.converged, sol
        x = 1 / lam if "b" in sides else 0
        np.testing.assert_allclose(sol.x, x, rtol=1e-12, atol=1e-12 / lam * max(size, 1) * size)


def test_mixed_is_planned_and_chosen_only_where_it_gains():
    plan = ff.plan(5000, 2000, method="mixed")
    exact = ff.plan(5000, 2000, method="primal")
    assert plan.method == "mixed" and 1.4 < plan.peak_bytes / exact.peak_bytes < 2.2
    assert {stage.op for stage in plan.stages} >= {"cholesky", "fvp"}
    assert plan.stages[0].seconds < exact.stages[0].seconds
    assert ff.plan(2000, 5000, method="mixed").stages[0].op.endswith("gram")
    for n, p in ((10, 10), (5000, 500), (100, 10**6)):
        assert ff.plan(n, p).method != "mixed"
