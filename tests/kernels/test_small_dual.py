"""The whole small dual solve in one call: solution, damping, improvement, certificate, refusal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastfisher as ff
from fastfisher.kernels.cpu.small import ROWS
from fastfisher.kernels.reference import HEAD
from fastfisher.planning import records
from fastfisher.solvers import dual as general
from fastfisher.solvers import small, solve
from fastfisher.solvers.fine import REACHED
from tests import matrices, oracle
from tests.kernels.cases import implementations, unchanged
from tests.kernels.test_small import LARGE, rounding
from tests.tolerances import assert_ratio, solve_ratio, unit_roundoff

over_implementations = implementations("dual_small")
over_reals = pytest.mark.parametrize("dtype", ("float32", "float64"))
NONE = np.empty(0)


def run(entry, a, weights, b, coef, damping, share, shift=NONE, steps=8):
    """x (k, p) and the report, for rows b (k, p) or coef (k, n), the other one None."""
    n, p = a.shape
    k = len(coef if b is None else b)
    x, report = np.full((k, p), np.nan), np.full(HEAD + 2 * k, np.nan)
    b = np.empty((0, p)) if b is None else b
    coef = np.empty((0, n)) if coef is None else coef
    limit = REACHED * unit_roundoff(a.dtype)
    entry.load()(x, report, a, weights, shift, b, coef, damping, share, limit, steps)
    return x, report


def rows_of(a, weights, shift):
    """T with F = T'T, and u."""
    w = weights if weights.size else np.ones(len(a))
    u = np.sqrt(w / w.sum())
    return u[:, np.newaxis] * (a.astype(np.float64) - (shift if shift.size else 0)), u


@over_implementations
def test_small_dual_by_hand(entry):
    a = np.array([[2.0, 0, 0, 2]])  # F + 1 is I + vv', v'v = 8
    x, report = run(entry, a, NONE, np.array([[9.0, 9, 0, 9]]), None, 1.0, 0.0)
    assert np.allclose(x, [[1.0, 9, 0, 1]], rtol=1e-14)
    assert report[:4].tolist() == [2.0, 8.0, 1.0, 0.0]
    assert np.allclose(report[4:6], 9, rtol=1e-14) and report[6:8].max() < 1e-14
    assert np.isclose(report[8], 9) and report[9] == 0
    assert np.isclose(report[10], np.sqrt(243 / 83), rtol=1e-12)
    x, report = run(entry, a, NONE, None, np.array([[4.5]]), 1.0, 0.0)
    assert np.allclose(x, [[1.0, 0, 0, 1]], rtol=1e-14) and report[10] == 0


@over_implementations
@over_reals
@given(
    n=st.integers(1, 70),
    p=st.integers(1, 140),
    k=st.integers(1, 3),
    weighted=st.booleans(),
    centred=st.booleans(),
    of_samples=st.booleans(),
)
def test_27_4_small_dual_is_backward_stable(entry, dtype, n, p, k, weighted, centred, of_samples):
    compare(entry, dtype, n, p, k, weighted, centred, of_samples)


@over_implementations
@over_reals
@pytest.mark.parametrize("weighted", (False, True), ids=("plain", "weighted"))
@pytest.mark.parametrize("of_samples", (False, True), ids=("b", "coef"))
def test_27_4_small_dual_around_every_tile_and_block(entry, dtype, weighted, of_samples):
    edges = matrices.edges(ROWS)
    shapes = [(n, p) for n in (*range(1, 20), 23, 24, 25, 47, 48, 49) for p in (1, 2, *edges)]
    shapes += [(n, p) for n in (63, 64, 65, 100, 127, 128) for p in edges]
    shapes += [(7, 2 * ROWS + 1), (100, 1000), (3, 1001), (2, 9001)]
    shapes += [(p, n) for n, p in LARGE]
    for i, (n, p) in enumerate(shapes):
        compare(entry, dtype, n, p, 2, weighted, i % 2 == 0, of_samples)


def compare(entry, dtype, n, p, k, weighted, centred, of_samples):
    rng = matrices.generator("small dual", n, p, k, weighted)
    a = matrices.gaussian((n, p), dtype, rng)
    given = matrices.gaussian((k, n if of_samples else p), "float64", rng)
    weights = matrices.weights(n, "float64") if weighted else NONE
    w = weights if weighted else np.ones(n)
    shift = w @ (a + 10) / w.sum() if centred else NONE
    a += 10 if centred else 0
    intact = unchanged(a, given, weights, shift)
    b, coef = (None, given) if of_samples else (given, None)
    x, report = run(entry, a, weights, b, coef, 1e-3, 0.1, shift)
    intact()
    T, u = rows_of(a, weights, shift)
    largest, trace, added, order = report[:4]
    mean_squares = np.square(a.astype(float) - (shift if centred else 0)).mean(axis=1)
    eps = unit_roundoff("float64") if weighted else rounding(dtype, n, p, n)
    assert order == 0 and np.isclose(largest, mean_squares.max(), rtol=900 * eps)
    assert np.isclose(trace, np.sum(T * T), rtol=900 * eps, atol=1e-28)
    assert np.isclose(added, 1e-3 + 0.1 * np.sum(T * T) / p, rtol=900 * eps)
    b, known = given, np.linalg.norm(given, axis=1)
    if of_samples:  # b = T'f is known to rounding of its terms
        f = given * u
        f -= (f @ u)[:, np.newaxis] * u if centred else 0
        b, known = f @ T, np.linalg.norm(T) * np.linalg.norm(f, axis=1)
    x = x.astype(dtype).astype(float)
    r = np.linalg.norm(b - (x @ T.T) @ T - added * x, axis=1)
    scale = (np.linalg.norm(T, 2) ** 2 + added) * np.linalg.norm(x, axis=1) + known
    assert_ratio(
        (r / np.where(scale > 0, scale, 1)).max() / unit_roundoff(dtype), "goal", f"{n} x {p}"
    )
    assert report[6] == report[HEAD::2].max() and report[7] == report[HEAD + 1 :: 2].max()
    if n <= p or not of_samples:  # with fewer parameters T'f may cancel
        assert_ratio(report[7] / unit_roundoff(dtype), "goal", f"{n} x {p}, as reported")


@over_implementations
def test_the_report_is_the_true_residual(entry):
    a = matrices.gaussian((4, 30), "float64", matrices.generator("report"))
    b = np.stack([np.arange(1.0, 31), np.zeros(30)])
    x, report = run(entry, a, NONE, b, None, 0.1, 0.0, steps=0)
    T, _ = rows_of(a, NONE, NONE)
    r = np.linalg.norm(b[0] - (T @ x[0]) @ T - 0.1 * x[0])
    residual, backward, *zeros = report[HEAD:]
    assert residual <= 1e-13 and abs(r / np.linalg.norm(b[0]) - residual) <= 3e-15
    assert backward <= residual and zeros == [0, 0] and not x[1].any()


@over_implementations
def test_D9_a_right_hand_side_in_the_row_space_is_improved(entry):
    a = matrices.gaussian((5, 40), "float64", matrices.generator("improved"))
    T, _ = rows_of(a, NONE, NONE)
    inside, outside = a.mean(axis=0)[np.newaxis], np.ones((1, 40))
    _, report = run(entry, a, NONE, inside, None, 1e-7, 0.0, steps=0)
    assert report[9] == 0 and report[7] > 100 * unit_roundoff("float64")
    x, report = run(entry, a, NONE, inside, None, 1e-7, 0.0)
    assert report[9] == 1 and report[7] <= 6 * unit_roundoff("float64")
    y = np.linalg.solve(T @ T.T + 1e-7 * np.eye(5), np.full(5, 5**-0.5))
    assert np.isclose(report[10], np.linalg.norm(inside) / (1e-7 * np.linalg.norm(x)), rtol=1e-6)
    forward = np.linalg.norm(x[0] - y @ T) / np.linalg.norm(x)
    assert forward <= 4 * report[10] * unit_roundoff("float64")
    _, report = run(entry, a, NONE, outside, None, 1e-7, 0.0)
    assert report[9] == 0 and report[10] < 2


@over_implementations
@pytest.mark.parametrize("weighted", (False, True))
def test_D5_the_mean_of_centred_coefficients_is_lost_on_the_way_in(entry, weighted):
    rng = matrices.generator("mean")
    a, coef = rng.standard_normal((6, 30)), rng.standard_normal((1, 6))
    weights = np.arange(1.0, 7) if weighted else NONE
    shift = np.average(a, axis=0, weights=weights if weighted else None)
    coef -= np.average(coef[0], weights=weights if weighted else None)
    given = weights, None, coef, 1e-9, 0.0, shift
    one, _ = run(entry, a, *given)
    x, _ = run(entry, a, *given[:2], coef + 2.0**20, *given[3:])
    assert np.linalg.norm(x - one) <= 1e-8 * np.linalg.norm(one)


@over_implementations
@over_reals
@pytest.mark.parametrize("of_samples", (False, True), ids=("b", "coef"))
def test_powers_of_two_on_right_hand_sides_are_on_solutions_to_the_bit(entry, dtype, of_samples):
    a = matrices.gaussian((3, 4), dtype, matrices.generator("powers"))
    given = np.array([[1.0, 2, 3, 4], [0, 0, 0, 0], [-4, 1, 1, 2]])[:, : 3 if of_samples else 4]
    powers = np.array([[600], [0], [-1030]])

    def call(rows):
        return run(entry, a, NONE, *((None, rows) if of_samples else (rows, None)), 0.1, 0.0)

    one, report = call(given)
    x, moved = call(np.ldexp(given, powers))
    assert np.array_equal(x[:2], np.ldexp(one, powers)[:2])
    np.testing.assert_allclose(x[2], np.ldexp(one[2], -1030), rtol=0, atol=5e-324)
    sizes = np.abs(x[[0, 2]]).max(axis=1)
    assert moved[4:6].tolist() == [sizes.min(), sizes.max()]
    assert np.array_equal(moved[HEAD:], report[HEAD:])
    _, report = call(0 * given)
    assert report[4:6].tolist() == [np.inf, 0.0] and not report[HEAD:].any()


@over_implementations
def test_the_failing_order_is_reported(entry):
    a = np.array([[1.0, 1, 0], [2, 2, 0], [0, 0, 1]])
    _, report = run(entry, a, NONE, np.ones((1, 3)), None, 0.0, 0.0)
    assert report[3] in (2, 3)
    with np.errstate(invalid="ignore"):
        _, report = run(entry, a * np.nan, NONE, np.ones((1, 3)), None, 1.0, 0.0)
    assert report[3] == 1 and not np.isfinite(report[0])


@over_implementations
def test_a_bad_solution_is_seen_wherever_it_stands(entry):
    a, b = matrices.gaussian((4, 30), "float64", matrices.generator("bad")), np.ones((3, 30))
    for place in range(3):
        bad = b.copy()
        bad[place] = np.nan
        with np.errstate(invalid="ignore"):
            _, report = run(entry, a, NONE, bad, None, 0.1, 0.0)
        assert np.isnan(report[6]) and np.isnan(report[7]), place


# The route ---------------------------------------------------------------------------------------

LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "strided": lambda G: np.repeat(np.repeat(G, 2, 0), 3, 1)[::2, ::3],
    "reversed": lambda G: np.ascontiguousarray(G[::-1, ::-1])[::-1, ::-1],
}


@pytest.fixture
def one_call(monkeypatch):
    """The general route is not there."""
    monkeypatch.setattr(solve, "_solve", None)


@over_reals
@pytest.mark.parametrize("how", ("b", "coef"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_call_solves_as_the_oracle_does(dtype, how, layout, one_call):
    for i, n in enumerate((1, 2, 3, 5, 7, 16, 17, 31, 33, 48, 63, 64)):
        p = n + (1, 13, 2 * n + 1)[i % 3]
        weighted, center = bool(i % 2), bool(i // 2 % 2) and n > 1
        rng = matrices.generator("oracle", dtype, n)
        G = LAYOUTS[layout](matrices.gaussian((n, p), dtype, rng))
        w = matrices.weights(n, "float64") if weighted else None
        k = () if i % 4 == 0 else (1 + i % 3,)
        given = matrices.gaussian(((p if how == "b" else n), *k), dtype, rng)
        settings = {how: given, "damping": 0.05, "weights": w, "center": center}
        found = ff.solve(G, method="dual", **settings)
        assert found.method == "dual" and [s.op for s in found.plan.stages] == ["dual_small"]
        assert found.converged and found.x.dtype == dtype and found.x.shape == (p, *k)
        T = oracle.scaled_rows(G, w, center)
        b = given if how == "b" else oracle.coef_rhs(G, given, w, center)
        A = oracle.fisher(G, w, center) + 0.05 * np.eye(p)
        assert_ratio(solve_ratio(A, found.x, b), "goal", f"{n} x {p}")
        assert found.rank == n and found.damping == 0.05 and found.iterations == 0
        L = np.linalg.cholesky(T @ T.T + 0.05 * np.eye(n))
        assert np.isclose(found.smallest_pivot, L.diagonal().min() ** 2, rtol=1e-6)
        assert len(found.statuses) == len(found.residuals) == (k[0] if k else 1)


@over_reals
@pytest.mark.parametrize("damping", (1e-3, ff.Relative(0.01), ff.LevenbergMarquardt(0.1)))
@pytest.mark.parametrize("how", ("b", "coef"))
@pytest.mark.parametrize("center", (False, True))
def test_small_and_general_route_agree(dtype, damping, how, center, monkeypatch):
    rng = matrices.generator("routes", dtype, how)
    G = matrices.gaussian((6, 50), dtype, rng) + np.arange(50, dtype=dtype) / 50
    given = matrices.gaussian((50 if how == "b" else 6, 2), dtype, rng)
    w = matrices.weights(6, "float64")
    settings = {how: given, "damping": damping, "weights": w, "center": center}
    with monkeypatch.context() as patched:
        patched.setattr(solve, "_solve", None)
        one = ff.solve(G, **settings)
    monkeypatch.setattr(records, "SMALL_ORDER", 0)
    stages = ff.solve(G, **settings)
    assert one.converged and stages.converged and one.x.dtype == stages.x.dtype == dtype
    assert one.method == stages.method == "dual" and one.rank == stages.rank == 6
    assert np.isclose(one.damping, stages.damping, rtol=30 * unit_roundoff(dtype))
    assert np.isclose(one.smallest_pivot, stages.smallest_pivot, rtol=1e-6)
    if how == "b":
        assert np.isclose(one.cancellation, stages.cancellation, rtol=1e-6)
    else:
        assert one.cancellation is stages.cancellation is None
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    np.testing.assert_allclose(one.x, stages.x, rtol=tolerance, atol=tolerance)


def test_the_way_of_another_route_is_the_same_call(rng, monkeypatch):
    G, b = rng.standard_normal((6, 50)), rng.standard_normal((50, 2))
    one = ff.solve(G, b, damping=0.1)
    monkeypatch.setattr(solve, "SIDES", {})  # the routes in stages
    split = ff.solve(G, b[:, 0] + 1j * b[:, 1], damping=0.1)
    assert np.array_equal(split.x.real, one.x[:, 0]) and np.array_equal(split.x.imag, one.x[:, 1])
    assert split.cancellation == one.cancellation and split.smallest_pivot == one.smallest_pivot


def calls(monkeypatch):
    """What the small route hands back, call after call."""
    handed, solved = [], small._solved

    def spied(*given):
        handed.append(solved(*given))
        return handed[-1]

    monkeypatch.setattr(small, "_solved", spied)
    return handed


@pytest.mark.parametrize("singular", ("two rows alike", "a row of zeros", "centred"))
def test_D7_an_undamped_dual_takes_the_general_route(singular, monkeypatch):
    handed = calls(monkeypatch)
    G = matrices.gaussian((5, 20), "float64", matrices.generator("undamped"))
    coef = np.array([1.0, 2, -1, 0, 1])
    assert ff.solve(G, coef=coef, damping=1e-3).converged and handed.pop() is not None
    full = ff.solve(G, coef=coef, damping=0.0)
    np.testing.assert_allclose(G @ full.x, coef, rtol=1e-12, atol=1e-12)
    with pytest.raises(ff.errors.NotPositiveDefiniteError, match="F has rank at most 5"):
        ff.solve(G, np.ones(20), damping=0.0)
    if singular == "centred":
        centred = ff.solve(G, coef=coef, damping=0.0, center=True)
        expected = np.linalg.pinv(G - G.mean(axis=0)) @ (coef - coef.mean())
        np.testing.assert_allclose(centred.x, expected, rtol=1e-9, atol=1e-12)
    else:
        G[3] = G[1] if singular == "two rows alike" else 0
        if singular == "two rows alike":
            with pytest.raises(ff.errors.NotPositiveDefiniteError, match="Gram matrix"):
                ff.solve(G, coef=coef, damping=0.0)
    assert not handed


def test_damping_that_vanishes_beside_coefficients_takes_the_general_route(monkeypatch):
    handed = calls(monkeypatch)
    G = matrices.gaussian((5, 20), "float64", matrices.generator("faint"))
    trace = np.sum(G * G) / 5
    for share, taken in ((0.5, False), (2.0, True)):
        handed.clear()
        found = ff.solve(G, coef=np.ones(5), damping=share * general.FAINT * trace)
        assert found.converged and [x is not None for x in handed[:1]] == [taken]


@over_reals
@pytest.mark.parametrize("size", (1e-30, 1e-12, 1e12, 1e30))
@pytest.mark.parametrize("how", ("b", "coef"))
def test_small_or_large_right_hand_sides_need_no_general_route(dtype, size, how, one_call):
    G = matrices.gaussian((6, 50), dtype, matrices.generator("size"))
    given = np.full(50 if how == "b" else 6, size, dtype)
    far = ff.solve(G, **{how: given}, damping=1e-3)
    T, u = rows_of(G, NONE, NONE)
    b = given.astype(float) if how == "b" else (given * u) @ T
    assert_ratio(solve_ratio(T.T @ T + 1e-3 * np.eye(50), far.x, b), "goal", str(size))
    assert far.converged and far.residuals.shape == (1,)


@over_reals
def test_a_small_x_that_loses_digits_or_overflows_takes_the_general_route(dtype):
    G, info = 8 * np.eye(4, 5, dtype=dtype), np.finfo(dtype)
    lost = ff.solve(G, coef=np.full(4, info.tiny * 1.5, dtype), damping=1.0)
    assert lost.status == "underflow"
    over = ff.solve(G / 16, np.full(5, info.max, dtype), damping=1e-3)
    assert over.status == "not_finite"


@pytest.mark.parametrize("scale", (1e-150, 1e150))
@pytest.mark.parametrize("how", ("b", "coef"))
def test_scores_out_of_range_take_the_general_route(scale, how, monkeypatch):
    handed = calls(monkeypatch)
    G = matrices.gaussian((6, 50), "float64", matrices.generator("range")) * scale
    given = np.ones(50) * scale if how == "b" else np.ones(6)
    solution = ff.solve(G, **{how: given}, damping=ff.Relative(0.1))
    assert solution.converged and np.isfinite(solution.x).all() and handed[0] is None


def test_what_asks_for_a_second_look_takes_the_general_route(rng, monkeypatch):
    handed = calls(monkeypatch)
    G, b = rng.standard_normal((6, 50)), np.ones(50)
    assert ff.solve(G, b, damping=0.1).converged and handed.pop() is not None
    seen = []
    with ff.options(progress=lambda *done: seen.append(done)):
        assert ff.solve(G, b, damping=0.1).converged
    assert ff.solve(G, b, damping=ff.Marquardt(0.1, shift=0.1)).converged
    assert seen and not handed


def test_a_row_that_is_not_finite_is_named_or_skipped_or_propagated():
    G = np.ones((2, 5)) + np.eye(2, 5)
    G[1, 3] = np.nan
    with pytest.raises(ff.errors.InputError, match="G holds nan in row 1, column 3"):
        ff.solve(G, np.ones(5), damping=1.0)
    skipped = ff.solve(G, np.ones(5), damping=1.0, nan_policy="skip")
    expected = ff.solve(G[:1], np.ones(5), damping=1.0)
    np.testing.assert_allclose(skipped.x, expected.x, rtol=1e-12)
    assert ff.solve(G, np.ones(5), damping=1.0, nan_policy="propagate").status == "not_finite"
