"""Many small systems at once, a status per system: x_t = (F_t + damping_t I)^-1 g_t."""

import numba
import numpy as np
import pytest
from hypothesis import given

import fastfisher as ff
from fastfisher.kernels.cpu import batched
from fastfisher.kernels.cpu.batched import TASK
from fastfisher.kernels.cpu.lanes import NOT_FINITE, width
from fastfisher.kernels.cpu.tiny import LARGEST
from tests import matrices, oracle
from tests.kernels.cases import implementations, over_dtypes, real_dtype, sizes, unchanged
from tests.tolerances import assert_ratio, forward_ratio, solve_ratio

over_implementations = implementations("batched_solve")

LANES = width("float32")  # a group of the most systems; in double it is half of it
COUNTS = (0, 1, *matrices.edges(LANES), *matrices.edges(TASK, upto=TASK + 1))
ORDERS = (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, 20, 31, 32, 33, 40)
SHAPES = [(n, p) for p in (3, 4) for n in COUNTS] + [(11, p) for p in ORDERS]
SHAPES += [(LANES + 3, p) for p in range(1, LARGEST + 2)]


def systems(n, p, dtype):
    """Definite systems (n, p, p) with NaN above the diagonal, right-hand sides and dampings."""
    rng = matrices.generator("systems", n, p, str(dtype))
    rows = matrices.gaussian((n, p + 3, p), dtype, rng)
    F = np.tril(oracle.ct(rows) @ rows)
    F[:, *np.triu_indices(p, 1)] = np.nan
    damping = (10.0 ** rng.uniform(-3, 0, n)).astype(real_dtype(dtype))
    return F.astype(dtype), matrices.gaussian((n, p), dtype, rng), damping


def run(entry, F, g, damping):
    x, info = np.full_like(g, 7), np.full(len(g), 7, np.int32)
    intact = unchanged(F, g, damping)
    entry.load()(x, info, F, g, damping)
    intact()
    return x, info


def compare(entry, n, p, dtype):
    F, g, damping = systems(n, p, dtype)
    x, info = run(entry, F, g, damping)
    assert not info.any()
    for t in range(n):
        A = oracle.damped(F[t], float(damping[t]))
        assert_ratio(solve_ratio(A, x[t], g[t]), "goal", f"{entry.name} {n} x {p} {dtype}: {t}")


@over_implementations
def test_batched_solve_by_hand(entry):
    F = np.array([[[3.0, np.nan], [2.0, 6.0]], [[1, 0], [2, 1]], [[0, 0], [0, 0]]])
    g = np.array([[8.0, 4.0], [1.0, 1.0], [3.0, 6.0]])
    x, info = run(entry, F, g, np.array([1.0, 0.0, 3.0]))
    assert info.tolist() == [0, 2, 0]
    assert np.allclose(x[0], [2.0, 0.0], atol=1e-15) and np.all(np.isnan(x[1]))
    assert np.allclose(x[2], [1.0, 2.0])


@over_implementations
@over_dtypes
def test_27_3_batched_backward_error_at_every_block_edge(entry, dtype):
    for n, p in SHAPES:
        compare(entry, n, p, dtype)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("p", range(1, LARGEST + 1))
def test_a_pivot_whose_reciprocal_overflows_fails_at_its_order(dtype, p):
    """Little systems are multiplied by reciprocals: what would overflow is named, not hidden."""
    least = np.finfo(dtype).smallest_subnormal
    for k in range(p):
        # Without the compiler x is divided by the pivot: then it is x that is not finite.
        order = NOT_FINITE if numba.config.DISABLE_JIT else k + 1
        F = np.broadcast_to(np.eye(p, dtype=dtype), (LANES + 1, p, p)).copy()
        F[2, k, k], F[3, k, k] = least, 0
        x, info = np.empty((LANES + 1, p), dtype), np.empty(LANES + 1, np.int32)
        with np.errstate(over="ignore", invalid="ignore"):
            batched.batched_solve(x, info, F, np.ones_like(x), np.zeros(1, dtype))
        assert info[2] == order and info[3] == k + 1 and np.isnan(x[2:4]).all()
        assert not np.delete(info, (2, 3)).any() and (np.delete(x, (2, 3), axis=0) == 1).all()


@over_implementations
@over_dtypes
@given(n=sizes, p=sizes.map(lambda k: k % 9))
def test_27_3_batched_backward_error_at_any_size(entry, dtype, n, p):
    compare(entry, n, p, dtype)


@over_implementations
@over_dtypes
@pytest.mark.parametrize("p", (3, 4))
def test_one_failed_system_leaves_its_neighbours_as_they_are(entry, dtype, p):
    F, g, damping = systems(2 * LANES + 3, p, dtype)
    expected, _ = run(entry, F, g, damping)
    for bad in (0, 5, LANES - 1, LANES, 2 * LANES + 2):
        for order in (1, 2, p):
            broken = F.copy()
            broken[bad, order - 1, order - 1] = -1000
            x, info = run(entry, broken, g, damping)
            assert info[bad] == order and np.count_nonzero(info) == 1
            assert np.all(np.isnan(x[bad]))
            assert np.array_equal(np.delete(x, bad, 0), np.delete(expected, bad, 0))


@over_implementations
@over_dtypes
@pytest.mark.parametrize("bad", (np.nan, np.inf))
@pytest.mark.parametrize("p", (3, 5))
def test_law_26_16_what_is_not_finite_is_flagged_in_its_system(entry, dtype, p, bad):
    F, g, damping = systems(LANES + 8, p, dtype)
    F[2, 1, 0] = F[4, 2, 2] = bad
    g[7, 1] = bad
    with np.errstate(invalid="ignore"):
        x, info = run(entry, F, g, damping)
    assert np.flatnonzero(info).tolist() == [2, 4, 7]
    assert info[2] == 2 and info[4] == 3 and info[7] == -1
    assert np.array_equal(np.isnan(x).all(axis=1), info != 0)
    assert np.isfinite(x[info == 0]).all()


@over_implementations
@pytest.mark.parametrize("p", (2, 5, LARGEST))
def test_systems_are_solved_alike_wherever_they_stand(entry, p):
    F, g, damping = systems(1, p, "float64")
    n = TASK + LANES + 1
    x, _ = run(entry, np.repeat(F, n, 0), np.repeat(g, n, 0), np.repeat(damping, n))
    assert np.all(x == x[0])


@over_dtypes
@pytest.mark.parametrize("p", (1, 3, LARGEST))
@pytest.mark.parametrize("n", (1, batched.PART + LANES + 3, 3 * TASK))
def test_solutions_sent_past_the_caches_are_the_same(monkeypatch, dtype, n, p):
    F, g, damping = systems(n, p, dtype)
    F[n // 2, p - 1, p - 1] = -1000
    size = n * p
    for start in (0, 1, 3):  # x begins anywhere in a line, and what is around it stays
        answers = []
        for cache in (1 << 40, 0):
            monkeypatch.setattr(batched, "cache_sizes", lambda cache=cache: {"L3": cache})
            around, flags = np.full(size + 40, 7, dtype), np.full(n + 40, 7, np.int32)
            x, info = around[start : start + size].reshape(n, p), flags[start : start + n]
            batched.batched_solve(x, info, F, g, damping)
            assert np.all(np.delete(around, np.s_[start : start + size]) == 7)
            assert np.all(np.delete(flags, np.s_[start : start + n]) == 7)
            answers.append((x, info))
        assert np.array_equal(answers[0][0], answers[1][0], equal_nan=True)
        assert np.array_equal(answers[0][1], answers[1][1])
        assert np.flatnonzero(info).tolist() == [n // 2]


@over_implementations
@over_dtypes
@pytest.mark.parametrize("p", (3, LARGEST + 1))
def test_one_damping_may_stand_for_all(entry, dtype, p):
    F, g, damping = systems(TASK + LANES + 3, p, dtype)
    x, _ = run(entry, F, g, np.repeat(damping[:1], len(F)))
    assert np.array_equal(run(entry, F, g, damping[:1])[0], x)


# Public op -----------------------------------------------------------------------------------


@over_dtypes
@given(n=sizes, p=sizes.map(lambda k: k % 7))
def test_batched_solve_agrees_with_the_oracle(dtype, n, p):
    F, g, damping = systems(n, p, dtype)
    x, info = ff.ops.batched_solve(F, g, damping=damping)
    expected, expected_info = oracle.batched_solve(F, g, damping)
    assert x.dtype == dtype and x.shape == (n, p)
    assert info.dtype == np.int32 and np.array_equal(info, expected_info)
    for t in range(n):
        A = oracle.damped(F[t], float(damping[t]))
        cond = np.linalg.cond(A) if p else 1
        assert_ratio(forward_ratio(x[t], expected[t], max(p, 1) * cond), "lapack", f"system {t}")


def test_one_damping_for_all_systems():
    F, g, _ = systems(5, 3, "float64")
    x, _ = ff.ops.batched_solve(F, g, damping=0.5)
    assert np.array_equal(x, ff.ops.batched_solve(F, g, damping=np.full(5, 0.5))[0])
    assert not np.array_equal(x, ff.ops.batched_solve(F, g)[0])


def test_singular_systems_are_reported_not_raised():
    x, info = ff.ops.batched_solve(np.zeros((2, 3, 3)), np.ones((2, 3)), damping=[0.0, 4.0])
    assert info.tolist() == [1, 0] and np.isnan(x[0]).all() and x[1].tolist() == [0.25] * 3


def test_law_26_13_batched_solve_in_other_layouts():
    F, g, damping = systems(9, 4, "complex64")
    expected, _ = ff.ops.batched_solve(F, g, damping=damping)
    for stored in (np.asfortranarray(F), F[::-1][::-1].astype(">c8"), np.repeat(F, 2, 0)[::2]):
        assert np.array_equal(ff.ops.batched_solve(stored, g, damping=damping)[0], expected)
    for name, stored in matrices.layouts(g):
        assert np.array_equal(ff.ops.batched_solve(F, stored, damping=damping)[0], expected), name


@pytest.mark.parametrize(
    "F, g, damping, message",
    [
        ((2, 3, 4), (2, 3), 0.0, r"F has shape \(2, 3, 4\)"),
        ((2, 3, 3), (3, 3), 0.0, r"g has shape \(3, 3\); expected \(2, 3\)"),
        ((2, 3, 3), (2, 3), -1.0, "damping is -1.0"),
        ((2, 3, 3), (2, 3), [0.0, np.nan], r"damping\[1\] is nan"),
        ((2, 3, 3), (2, 3), [0.0] * 3, r"damping has shape \(3,\)"),
    ],
)
def test_bad_operands_are_refused(F, g, damping, message):
    with pytest.raises(ff.errors.InputError, match=message):
        ff.ops.batched_solve(np.zeros(F), np.zeros(g), damping=damping)
