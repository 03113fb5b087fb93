"""Monte-Carlo metrics solved at once: (sum_s w_ts a_ts a_ts' / sum_s w_ts + damping_t I)^-1 g_t."""

import numpy as np
import pytest
from hypothesis import given

import fastfisher as ff
from fastfisher.kernels.cpu.lanes import width
from fastfisher.kernels.cpu.metric import TASK
from tests import matrices, oracle
from tests.kernels.cases import implementations, over_dtypes, real_dtype, sizes, unchanged
from tests.tolerances import assert_ratio, solve_ratio

over_implementations = implementations("batched_metric_solve")
over_weights = pytest.mark.parametrize("weighted", ("not", "shared", "own"))

LANES = width("float32")
COUNTS = (1, *matrices.edges(LANES), *matrices.edges(TASK, upto=TASK + 1))
SHAPES = [(n, 5, 3) for n in COUNTS] + [(3, S, 4) for S in (1, 2, 15, 16, 17, 255, 256, 257, 600)]
SHAPES += [(5, 21, p) for p in (1, 2, 3, 5, 6, 7, 9, 16, 17, 31, 33)]


def problem(n, S, p, dtype, weighted="not"):
    rng = matrices.generator("metric", n, S, p, str(dtype), weighted)
    real = real_dtype(dtype)
    shape = {"not": (0,), "shared": (S,), "own": (n, S)}[weighted]
    w = rng.uniform(0.1, 2, shape).astype(real)
    if S > 4:
        w[..., 1:2] = 0
    damping = rng.uniform(0.1, 1, n).astype(real)
    return (
        matrices.gaussian((n, S, p), dtype, rng),
        w,
        matrices.gaussian((n, p), dtype, rng),
        damping,
    )


def run(entry, scores, w, g, damping):
    x, info = np.full_like(g, 7), np.full(len(g), 7, np.int32)
    intact = unchanged(scores, w, g, damping)
    entry.load()(x, info, scores, w, g, damping)
    intact()
    return x, info


def metric(scores, w, t):
    own = w[t] if w.ndim == 2 else w if w.size else np.ones(scores.shape[1])
    return oracle.syrk(scores[t], own) / np.sum(own, dtype=np.float64)


def compare(entry, n, S, p, dtype, weighted):
    scores, w, g, damping = problem(n, S, p, dtype, weighted)
    x, info = run(entry, scores, w, g, damping)
    assert not info.any()
    for t in range(n):
        A = oracle.damped(metric(scores, w, t), float(damping[t]))
        what = f"{entry.name} {n} x {S} x {p} {dtype} {weighted}: {t}"
        assert_ratio(solve_ratio(A, x[t], g[t]), "lapack", what)


@over_implementations
def test_metric_by_hand(entry):
    scores = np.array([[[1.0, 0.0], [0.0, 2.0]], [[1, 1], [1, 1]], [[2, 0], [0, 2]]])
    g = np.array([[1.0, 4.0], [1.0, 1.0], [3.0, 5.0]])
    none = np.empty(0)
    x, info = run(entry, scores, none, g, np.array([0.0, 0.0, 1.0]))
    assert info.tolist() == [0, 2, 0]
    assert np.allclose(x[0], [2, 2]) and np.isnan(x[1]).all() and np.allclose(x[2], [1, 5 / 3])
    x, _ = run(entry, scores, np.array([3.0, 1.0]), g, np.array([1.0, 1.0, 0.0]))
    assert np.allclose(x[0], [1 / 1.75, 2]) and np.allclose(x[2], [1, 5])


@over_implementations
@over_dtypes
@over_weights
def test_metric_backward_error_at_every_block_edge(entry, dtype, weighted):
    for n, S, p in SHAPES:
        compare(entry, n, S, p, dtype, weighted)


@over_implementations
@over_dtypes
@over_weights
@given(n=sizes.map(lambda k: 1 + k % 9), S=sizes.map(lambda k: k + 1), p=sizes.map(lambda k: k % 9))
def test_metric_backward_error_at_any_size(entry, dtype, weighted, n, S, p):
    compare(entry, n, S, p, dtype, weighted)


@over_implementations
@over_dtypes
def test_a_bad_system_leaves_its_neighbours_as_they_are(entry, dtype):
    scores, w, g, damping = problem(2 * LANES + 3, 20, 4, dtype, "own")
    expected, _ = run(entry, scores, w, g, damping)
    for bad in (0, 5, LANES - 1, LANES, 2 * LANES + 2):
        broken, zero, right = scores.copy(), w.copy(), g.copy()
        broken[bad, 3, 2], zero[bad], right[bad, 1] = np.nan, 0, np.inf
        for args in ((broken, w, g), (scores, zero, g), (scores, w, right)):
            with np.errstate(invalid="ignore"):
                x, info = run(entry, *args, damping)
            assert np.flatnonzero(info).tolist() == [bad] and np.isnan(x[bad]).all()
            assert np.array_equal(np.delete(x, bad, 0), np.delete(expected, bad, 0))


@over_implementations
def test_single_sums_do_not_stall_with_many_samples(entry):
    scores, g = np.ones((2, 70000, 1), np.float32), np.ones((2, 1), np.float32)
    scores[1] *= np.float32(0.1)
    x, _ = run(entry, scores, np.empty(0, np.float32), g, np.zeros(2, np.float32))
    exact = np.array([[1.0], [1 / np.float64(np.float32(0.1)) ** 2]])
    assert np.all(np.abs(x / exact - 1) < 1e-5)


# Public op -----------------------------------------------------------------------------------


@over_dtypes
@over_weights
def test_metric_solve_is_the_explicit_one(dtype, weighted):
    scores, w, g, damping = problem(37, 23, 5, dtype, weighted)
    given_weights = w if weighted != "not" else None
    x, info = ff.ops.batched_metric_solve(scores, g, given_weights, damping=damping)
    assert x.dtype == dtype and x.shape == g.shape and info.dtype == np.int32 and not info.any()
    F = np.array([metric(scores, w, t) for t in range(len(g))])
    expected, _ = ff.ops.batched_solve(F, g.astype(F.dtype), damping=damping)
    assert np.allclose(x, expected, rtol=1e4 * np.finfo(dtype).eps, atol=1e3 * np.finfo(dtype).eps)


def test_metric_solve_in_other_layouts():
    scores, w, g, damping = problem(9, 7, 4, "float64", "own")
    expected, _ = ff.ops.batched_metric_solve(scores, g, w, damping=damping)
    for stored in (np.asfortranarray(scores), scores.astype(">f8"), np.repeat(scores, 2, 0)[::2]):
        x, _ = ff.ops.batched_metric_solve(stored, g, np.asfortranarray(w), damping=damping)
        assert np.array_equal(x, expected)


@pytest.mark.parametrize(
    "scores, g, weights, damping, message",
    [
        ((3, 2), (3, 2), None, 0.0, r"scores has shape \(3, 2\); expected \(n, S, p\)"),
        ((3, 0, 2), (3, 2), None, 0.0, r"with S >= 1"),
        ((3, 4, 2), (3, 3), None, 0.0, r"g has shape \(3, 3\); expected \(3, 2\)"),
        ((3, 4, 2), (3, 2), (3,), 0.0, r"weights has shape \(3,\); expected \(3, 4\) or \(4,\)"),
        ((3, 4, 2), (3, 2), None, -1.0, r"damping is -1\.0"),
    ],
)
def test_operands_that_do_not_fit_are_refused(scores, g, weights, damping, message):
    w = None if weights is None else np.ones(weights)
    with pytest.raises(ff.errors.InputError, match=message):
        ff.ops.batched_metric_solve(np.ones(scores), np.ones(g), w, damping=damping)


def test_weights_that_are_negative_are_refused():
    with pytest.raises(ff.errors.InputError, match=r"weights\[2\] is -1"):
        ff.ops.batched_metric_solve(np.ones((1, 3, 1)), np.ones((1, 1)), [1, 1, -1])
