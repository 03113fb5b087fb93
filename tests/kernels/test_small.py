"""The whole small primal solve in one call: solution, damping, certificate, refusal."""

from dataclasses import replace

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastfisher as ff
from fastfisher.kernels import reference
from fastfisher.kernels.cpu import isa
from fastfisher.kernels.cpu.small import ROWS
from fastfisher.kernels.cpu.splitting import formed_apart
from fastfisher.kernels.reference import HEAD
from fastfisher.planning import records
from fastfisher.solvers import small, solve
from tests import matrices
from tests.kernels.cases import implementations, unchanged
from tests.kernels.processes import in_a_process
from tests.tolerances import assert_ratio, solve_ratio, unit_roundoff

over_implementations = implementations("primal_small")
over_reals = pytest.mark.parametrize("dtype", ("float32", "float64"))
LARGE = (301, 257), (70, 384)  # and some whose matrix is formed apart, in both ways
LARGE += (2201, 100), (151, 383), (7001, 55)


def rounding(dtype, n, p, order):
    """Roundoff that sums are formed in."""
    return unit_roundoff(dtype if formed_apart(n * p, order) else "float64")


def run(entry, a, weights, b, damping, share, shift=(), coef=None):
    k = len(b if coef is None else coef)
    x, report = np.full((k, a.shape[1]), np.nan), np.full(HEAD + 2 * k, np.nan)
    coef = np.empty((0, len(a))) if coef is None else coef
    entry.load()(x, report, a, weights, np.array(shift, float), b, coef, damping, share)
    return x, report


def fisher(a, weights, shift=0):
    a = a.astype(np.float64) - shift
    w = weights if weights.size else np.ones(len(a))
    return (a.T * w) @ a / w.sum()


@over_implementations
def test_small_solve_by_hand(entry):
    x, report = run(entry, np.array([[1.0, 0], [0, 2]]), np.empty(0), np.ones((1, 2)), 0.5, 0.0)
    assert np.allclose(x, [[1.0, 0.4]], rtol=1e-15)
    assert report[:4].tolist() == [2.0, 2.5, 0.5, 0.0]
    assert report[4:6].tolist() == [1.0, 1.0] and report[6:8].max() < 1e-15
    assert report[8] == 1.0 and report[HEAD:].max() < 1e-15


@over_implementations
@over_reals
@given(
    n=st.integers(1, 140),
    p=st.integers(1, 70),
    k=st.integers(1, 3),
    weighted=st.booleans(),
    shifted=st.booleans(),
)
def test_27_4_small_solve_is_backward_stable(entry, dtype, n, p, k, weighted, shifted):
    compare(entry, dtype, n, p, k, weighted, shifted)


@over_implementations
@over_reals
@pytest.mark.parametrize("weighted", (False, True), ids=("plain", "weighted"))
@pytest.mark.parametrize("shifted", (False, True), ids=("", "shifted"))
def test_27_4_small_solve_around_every_tile_and_block(entry, dtype, weighted, shifted):
    edges = matrices.edges(ROWS)
    shapes = [(n, p) for n in (1, 2, *edges) for p in (*range(1, 20), 23, 24, 25, 47, 48, 49)]
    shapes += [(n, p) for n in edges for p in (63, 64, 65, 100, 127, 128)]
    shapes += [(2 * ROWS + 1, 7), (1000, 100), (1001, 3), *LARGE]
    for n, p in shapes:
        compare(entry, dtype, n, p, 2, weighted, shifted)


def compare(entry, dtype, n, p, k, weighted, shifted):
    rng = matrices.generator("small", n, p, k, weighted)
    a = matrices.gaussian((n, p), dtype, rng)
    b = matrices.gaussian((k, p), "float64", rng)
    weights = matrices.weights(n, "float64") if weighted else np.empty(0)
    shift = 10 * matrices.gaussian((p,), "float64", rng) if shifted else np.empty(0)
    intact = unchanged(a, b, weights, shift)
    x, report = run(entry, a, weights, b, 1e-3, 0.1, shift)
    intact()
    F = fisher(a, weights, shift if shifted else 0)
    largest, trace, added, order = report[:4]
    u = unit_roundoff("float64") if weighted else rounding(dtype, n, p, p)
    assert order == 0 and np.isclose(largest, F.diagonal().max(), rtol=90 * u)
    assert np.isclose(trace, np.trace(F), rtol=900 * u)
    assert np.isclose(added, 1e-3 + 0.1 * np.trace(F) / p, rtol=900 * u)
    A = F + added * np.eye(p)
    assert_ratio(solve_ratio(A, x.T.astype(dtype), b.T), "goal", f"{n} x {p}")
    assert report[6] == report[HEAD::2].max() and report[7] == report[HEAD + 1 :: 2].max()
    assert_ratio(report[7] / unit_roundoff(dtype), "goal", f"{n} x {p}, as reported")

    coef, w = matrices.gaussian((k, n), "float64", rng), weights if weighted else np.ones(n)
    x, report = run(entry, a, weights, b[:0], 1e-3, 0.1, shift, coef)
    T, factors = a.astype(np.longdouble) - (shift if shifted else 0), coef * w / w.sum()
    rest = np.linalg.norm((factors @ T - x @ A).astype(float), axis=1)  # all that is rounded in b:
    size = np.linalg.norm(A, 2) * np.linalg.norm(x, axis=1)
    size += np.linalg.norm((abs(factors) @ abs(T)).astype(float), axis=1)
    assert_ratio((rest / size).max() / unit_roundoff(dtype), "goal", f"{n} x {p}, coefficients")
    assert_ratio(report[7] / unit_roundoff(dtype), "goal", f"{n} x {p}, coefficients, as reported")


@over_implementations
def test_the_report_is_the_true_residual(entry):
    a = matrices.gaussian((30, 4), "float64", matrices.generator("report"))
    b = np.array([[1.0, 2, 3, 4], [0, 0, 0, 0]])
    x, report = run(entry, a, np.empty(0), b, 0.1, 0.0)
    A = fisher(a, np.empty(0)) + 0.1 * np.eye(4)
    r = np.linalg.norm(b[0] - A @ x[0])
    residual, backward, *zeros = report[HEAD:]
    assert residual <= 2e-15 and r / np.linalg.norm(b[0]) <= 2e-15
    assert backward <= residual and zeros == [0, 0] and not x[1].any()


@over_implementations
@over_reals
def test_powers_of_two_on_right_hand_sides_are_on_solutions_to_the_bit(entry, dtype):
    a = matrices.gaussian((30, 4), dtype, matrices.generator("powers"))
    b = np.array([[1.0, 2, 3, 4], [0, 0, 0, 0], [-4, 1, 1, 2]])
    powers = np.array([[600], [0], [-1030]])
    one, report = run(entry, a, np.empty(0), b, 0.1, 0.0)
    coef = matrices.gaussian((2, 30), "float64", matrices.generator("coefficients"))
    of, by = (np.empty(0), b[:0], 0.1, 0.0, ()), np.array([[600], [-900]])
    near, far = run(entry, a, *of, coef)[0], run(entry, a, *of, np.ldexp(coef, by))[0]
    assert np.array_equal(far, np.ldexp(near, by))
    x, moved = run(entry, a, np.empty(0), np.ldexp(b, powers), 0.1, 0.0)
    assert np.array_equal(x[:2], np.ldexp(one, powers)[:2])
    np.testing.assert_allclose(x[2], np.ldexp(one[2], -1030), rtol=0, atol=5e-324)
    sizes = np.abs(x[[0, 2]]).max(axis=1)
    assert moved[4:6].tolist() == [sizes.min(), sizes.max()]
    assert np.array_equal(moved[HEAD:], report[HEAD:])
    _, report = run(entry, a, np.empty(0), 0 * b, 0.1, 0.0)
    assert report[4:6].tolist() == [np.inf, 0.0] and not report[HEAD:].any()


@over_implementations
def test_the_failing_order_is_reported(entry):
    a = np.array([[1.0, 1, 0], [2, 2, 0]])
    _, report = run(entry, a, np.empty(0), np.ones((1, 3)), 0.0, 0.0)
    assert report[3] in (2, 3)
    with np.errstate(invalid="ignore"):
        _, report = run(entry, a * np.nan, np.empty(0), np.ones((1, 3)), 1.0, 0.0)
    assert report[3] == 1 and not np.isfinite(report[0])


@over_implementations
@over_reals
@pytest.mark.parametrize("order", (17, 33, 100, 384))
def test_the_failing_order_is_that_of_any_block(entry, dtype, order):
    a = np.eye(order, dtype=dtype)
    for failing in (order // 2, order - 1):
        a[failing, failing] = 0
        _, report = run(entry, a, np.empty(0), np.ones((1, order)), 0.0, 0.0)
        assert report[3] == failing + 1
        a[failing, failing] = 1
    a[order - 1, order // 2] = np.nan
    with np.errstate(invalid="ignore"):
        _, report = run(entry, a, np.empty(0), np.ones((1, order)), 1.0, 0.0)
    assert 0 < report[3] <= order // 2 + 1 and not np.isfinite(report[0])


def factors(orders, rows=None):
    """Largest error of factors and substitutions, in units of rounding over the order."""
    if rows:  # of tiles, as of another instruction set
        isa.ISAS["plain"] = replace(isa.ISAS["plain"], rows=rows, vectors=3)
        isa.target.cache_clear()
    from fastfisher.kernels.cpu.row_passes import rows_address
    from fastfisher.kernels.cpu.small import DOUBLE, panels_for
    from fastfisher.kernels.cpu.small_factor import factor, rows_of, square, substitute

    @numba.njit
    def run(given, x, scratch, panels, code):
        A = square(len(given))
        A[:, : len(given)] = given
        A[:, len(given) :] = np.nan
        lines = rows_of(A, code)
        failing = factor(A, lines, scratch, panels)
        substitute(A, lines, x, scratch)
        return failing, A

    worst = 0.0
    for n in orders:
        S = matrices.gaussian((n, n), "float64", matrices.generator("factor", n))
        A, x = S.T @ S + np.eye(n), np.ones(n)
        failing, U = run(A, x, np.empty(n + 1), panels_for(n), rows_address(DOUBLE, 8))
        assert failing == 0 and np.isnan(U[:, n:]).all()
        U, size = np.triu(U[:, :n]), n * np.linalg.norm(A, 2) * unit_roundoff("float64")
        assert np.isfinite(U).all() and np.isfinite(x).all()
        worst = max(worst, float(np.linalg.norm(U.T @ U - A, 2) / size))
        worst = max(worst, float(np.linalg.norm(A @ x - 1) / size / np.linalg.norm(x)))
    return worst


def test_a_factor_reads_nothing_that_counts_beside_the_matrix():
    orders = (*range(1, 70), 95, 96, 97, 127, 128, 129, 255, 256, 257, 383, 384)
    assert_ratio(factors(orders), "goal", "factors")


@pytest.mark.parametrize("rows", (2, 4, 6, 8))
def test_factors_by_tiles_of_any_instruction_set(rows):
    """Of six rows, those of NEON, a block is no whole number."""
    worst = in_a_process(factors, (17, 32, 33, 40, 61), rows, NUMBA_DISABLE_JIT="1")
    assert_ratio(worst, "goal", f"tiles of {rows} rows")


@over_reals
@pytest.mark.parametrize("damping", (1e-3, ff.Relative(0.01), ff.LevenbergMarquardt(0.1)))
@pytest.mark.parametrize("how", ("b", "coef"))
@pytest.mark.parametrize("center", (False, True))
def test_small_and_general_route_agree(dtype, damping, how, center, monkeypatch):
    rng = matrices.generator("routes", dtype, how)
    G = matrices.gaussian((50, 6), dtype, rng) + np.arange(6, dtype=dtype)
    w = matrices.weights(50, "float64")
    given = matrices.gaussian((6 if how == "b" else 50, 2), dtype, rng)
    settings = {how: given, "damping": damping, "weights": w, "center": center}
    with monkeypatch.context() as patched:
        patched.setattr(solve, "_solve", None)
        small = ff.solve(G, method="primal", **settings)
    monkeypatch.setattr(records, "SMALL_ORDER", 0)
    general = ff.solve(G, method="primal", **settings)
    assert small.converged and general.converged and small.x.dtype == general.x.dtype == dtype
    assert np.isclose(small.damping, general.damping, rtol=1e-12)
    assert np.isclose(small.smallest_pivot, general.smallest_pivot, rtol=1e-6)
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    np.testing.assert_allclose(small.x, general.x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ("complex64", "complex128"))
@pytest.mark.parametrize("damping", (1e-2, ff.Relative(0.01)))
@pytest.mark.parametrize("how", ("b", "coef"))
@pytest.mark.parametrize("shape", ((50, 6), (6, 50), (1, 3), (3, 1), (300, 101), (63, 1500)))
def test_D10_complex_problems_are_real_ones_of_twice_the_size(
    dtype, damping, how, shape, monkeypatch
):
    n, p = shape
    rng, side = matrices.generator("complex", how, n), "primal" if p <= n else "dual"
    center = dtype == "complex128" and n > 1
    G = matrices.gaussian(shape, dtype, rng)
    G += np.arange(p, dtype=dtype) if n * p <= 300 else 0
    w = matrices.weights(n, "float64")
    given = matrices.gaussian((p if how == "b" else n, 2), dtype, rng)
    settings = {how: given, "damping": damping, "weights": w, "center": center}
    with monkeypatch.context() as patched:
        patched.setattr(solve, "_solve", None)
        small = ff.solve(G, method=side, **settings)
    monkeypatch.setattr(records, "SMALL_ORDER", 0)
    general = ff.solve(G, method=side, **settings)
    assert small.converged and general.converged and small.x.dtype == general.x.dtype == dtype
    tolerance = 1e-4 if dtype == "complex64" else 1e-11
    np.testing.assert_allclose(small.x, general.x, rtol=tolerance, atol=tolerance)
    for fact in ("damping", "smallest_pivot", "cancellation"):
        if getattr(general, fact) is not None:
            found, expected = getattr(small, fact), getattr(general, fact)
            assert np.isclose(found, expected, rtol=1e-5, atol=0), fact
    assert small.rank == general.rank and small.residuals.shape == (2,)
    T = G.astype(complex)
    T = (T - (w @ T / w.sum() if center else 0)) * np.sqrt(w / w.sum())[:, np.newaxis]
    b = given if how == "b" else T.conj().T @ (np.sqrt(w / w.sum())[:, np.newaxis] * given)
    A = T.conj().T @ T + small.damping * np.eye(p)
    # b made of coefficients is known to rounding of its terms
    known = np.linalg.norm(T) * np.linalg.norm(given, axis=0) if how == "coef" else 0
    scale = (
        np.linalg.norm(A, 2) * np.linalg.norm(small.x, axis=0) + np.linalg.norm(b, axis=0) + known
    )
    backward = np.linalg.norm(b - A @ small.x, axis=0) / scale
    assert_ratio(backward.max() / unit_roundoff(dtype), "goal", f"{shape} {how}")


@pytest.mark.parametrize("side", ("primal", "dual"))
@pytest.mark.parametrize("power", (-1074, -900, 900))
def test_powers_of_two_on_complex_right_hand_sides_are_on_solutions_to_the_bit(side, power):
    shape = (30, 4) if side == "primal" else (4, 30)
    G = matrices.gaussian(shape, "complex128", matrices.generator("complex powers"))
    G *= 2.0**-40 if power < -1000 else 1.0  # then x is in range though b is subnormal
    b = np.array([1.0, 3j, -2, 1 + 1j] * 8)[: shape[1]]
    near = ff.solve(G, b, damping=ff.Relative(0.1), method=side)
    far = ff.solve(
        G,
        np.ldexp(b.real, power) + 1j * np.ldexp(b.imag, power),
        damping=ff.Relative(0.1),
        method=side,
    )
    assert near.converged and far.converged
    expected = np.ldexp(near.x.real, power) + 1j * np.ldexp(near.x.imag, power)
    np.testing.assert_allclose(far.x, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("method", ("primal", "dual"))
def test_a_plan_has_one_call_where_there_is_one(method, monkeypatch):
    G = matrices.gaussian(
        (9, 5) if method == "primal" else (5, 9), "float64", matrices.generator("plans")
    )
    c, one = np.ones(len(G)), [f"{method}_small"]

    def planned(damping):
        return [
            stage.op for stage in ff.solve(G, coef=c, damping=damping, method=method).plan.stages
        ]

    assert planned(0.1) == planned(ff.Relative(0.1)) == planned(ff.LevenbergMarquardt(0.1)) == one
    path = ff.solve_path(G, coef=c, dampings=[0.1, ff.Marquardt(0.1, shift=0.1)], method=method)
    assert len(path[0].plan.stages) > 1
    monkeypatch.setattr(small, "choose", None)  # who does not say so does not try
    assert len(planned(0.0)) > 1 and len(planned(ff.Marquardt(0.1, shift=0.1))) > 1
    with ff.options(progress=lambda *_: None):
        assert len(planned(0.1)) > 1


def test_complex_vectors_and_none_at_all():
    G = matrices.gaussian((30, 4), "complex128", matrices.generator("vectors"))
    b = np.arange(4.0)
    alone = ff.solve(G, b, damping=0.1)  # real, for complex scores
    assert alone.x.shape == (4,) and alone.x.dtype == np.complex128
    T = G / np.sqrt(30)
    rest = b - T.conj().T @ (T @ alone.x) - 0.1 * alone.x
    assert np.linalg.norm(rest) <= 1e-14 * np.linalg.norm(b) and alone.residual <= 1e-14
    assert ff.solve(G, np.empty((4, 0)), damping=0.1).x.shape == (4, 0)


def test_single_complex_scores_are_not_centred_in_one_call():
    """Their mean, rounded, would not be what the certificate knows."""
    for dtype, fits in (("complex64", False), ("complex128", True)):
        assert records.Problem(50, 6, dtype=dtype, centered=True).small("primal") is fits
        assert records.Problem(50, 6, dtype=dtype).small("primal")
    assert records.Problem(500, 100, dtype="complex128").small("primal")
    assert not records.Problem(2000, 100, dtype="complex128").small("primal")  # many products
    assert not records.Problem(200, 193, dtype="complex128").small("primal")


@over_reals
@pytest.mark.parametrize("size", (1e-30, 1e-12, 1e12, 1e30))
def test_small_or_large_right_hand_sides_need_no_general_route(dtype, size, monkeypatch):
    monkeypatch.setattr(solve, "_solve", None)
    G = matrices.gaussian((50, 6), dtype, matrices.generator("size"))
    one = ff.solve(G, np.ones(6, dtype), damping=1e-3, method="primal")
    far = ff.solve(G, np.full(6, size, dtype), damping=1e-3, method="primal")
    bound = solve_ratio(fisher(G, np.empty(0)) + 1e-3 * np.eye(6), far.x, np.full(6, size, dtype))
    assert_ratio(bound, "goal", str(size))
    assert far.converged and one.converged and far.residuals.shape == (1,)


@over_reals
def test_a_small_x_that_loses_digits_or_overflows_takes_the_general_route(dtype):
    G, info = 8 * np.eye(4, dtype=dtype), np.finfo(dtype)
    lost = ff.solve(G, np.full(4, info.tiny * 1.5, dtype), damping=1.0, method="primal")
    assert lost.status == "underflow"
    over = ff.solve(G / 16, np.full(4, info.max, dtype), damping=1e-3, method="primal")
    assert over.status == "not_finite"


@over_implementations
def test_a_bad_solution_is_seen_wherever_it_stands(entry):
    a, b = matrices.gaussian((30, 4), "float64", matrices.generator("bad")), np.ones((3, 4))
    for place in range(3):
        bad = b.copy()
        bad[place] = np.nan
        with np.errstate(invalid="ignore"):
            _, report = run(entry, a, np.empty(0), bad, 0.1, 0.0)
        assert np.isnan(report[6]) and np.isnan(report[7]), place


@pytest.mark.parametrize("order", (1, -1))
def test_right_hand_sides_that_overflow_beside_others_take_the_general_route(order):
    rng = matrices.generator("beside")
    G, coef = rng.standard_normal((20, 4)) * 1e60, rng.standard_normal((20, 2))
    coef[:, 0] *= 1e300
    made = ff.solve(G, coef=coef[:, ::order], damping=ff.Relative(0.1), method="primal")
    assert made.converged and np.isfinite(made.x).all()


@pytest.mark.parametrize("scale", (1e-150, 1e150))
def test_scores_out_of_range_take_the_general_route(scale):
    G = matrices.gaussian((50, 6), "float64", matrices.generator("range")) * scale
    solution = ff.solve(G, np.ones(6) * scale, damping=ff.Relative(0.1), method="primal")
    assert solution.converged and np.isfinite(solution.x).all()


def test_a_row_that_is_not_finite_is_named():
    G = np.ones((5, 2))
    G[3, 1] = np.nan
    with pytest.raises(ff.errors.InputError, match="G holds nan in row 3, column 1"):
        ff.solve(G, np.ones(2), damping=1.0)


@implementations("spectral_norm")
@pytest.mark.parametrize("dtype", ("float64", "complex128"))
@pytest.mark.parametrize("n", (*range(1, 10), 33, 64, 150, 512, 513))
def test_norm_is_that_of_a_few_power_steps_at_any_scale(entry, dtype, n):
    g = matrices.gaussian((n // 2 + 1, n), dtype, matrices.generator("norm", n))
    a = g.conj().T @ g
    found, expected = entry.load()(a), reference.spectral_norm(a)
    u = unit_roundoff("float64")
    assert_ratio(abs(found - expected) / expected / u, 10 * n, f"{n}")
    largest = np.linalg.norm(a, 2)
    assert largest / 2 <= found <= largest * (1 + 10 * n * u)
    for power in (-500, 500):
        assert entry.load()(a * 2.0**power) == found * 2.0**power


@implementations("spectral_norm")
def test_norm_of_zeros_and_of_what_is_not_finite(entry):
    norm, a = entry.load(), np.diag([1.0, 3.0, 2.0])
    assert norm(np.zeros((3, 3))) == 0 and norm(a) == 3
    a[0, 1] = a[1, 0] = np.nan
    with np.errstate(invalid="ignore"):
        assert norm(a) == 3
