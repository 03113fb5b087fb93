"""Weights far from 1, and far from each other: their digits count, whatever the scores' dtype."""

import warnings

import numpy as np
import pytest

import fastfisher as ff
from fastfisher import ops, passes
from fastfisher.arrays import as_scores
from fastfisher.errors import InputError
from fastfisher.ops import products
from tests import matrices, oracle
from tests.tolerances import (
    LIMITS,
    assert_ratio,
    entrywise_ratio,
    forward_ratio,
    solve_ratio,
    unit_roundoff,
)

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
SCALES = (1e-190, 1e-60, 1e60, 1e190)


def balanced(n, p, dtype, scale):
    """Scores and weights, w |G|^2 about 1 (single precision: as near as its range allows)."""
    rng = matrices.generator("far weights", n, p, str(dtype), scale)
    size = np.clip(scale**-0.5, 1e-28, 1e28) if matrices.is_single(dtype) else scale**-0.5
    G = (matrices.gaussian((n, p), dtype, rng) * size).astype(dtype)
    return G, rng.uniform(0.5, 2, n) * (size**-2.0 if matrices.is_single(dtype) else scale), rng


def close(x, exact, bound, terms):
    u = unit_roundoff(x.dtype)
    assert_ratio(entrywise_ratio(x, exact, max(terms, 1) * u * bound), "goal", "far weights")


@over_dtypes
@pytest.mark.parametrize("scale", SCALES)
def test_sums_keep_the_digits_of_far_weights(dtype, scale):
    """Of raw sums near 1, from small scores with large weights and the other way round."""
    n, p = 30, 7
    G, w, rng = balanced(n, p, dtype, scale)
    v = matrices.gaussian((p,), dtype, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        F, K, d, y = ops.syrk(G, w), ops.gram(G, w), ops.diag(G, w), ops.fvp(G, v, w)
        blocks, systems = ops.block_syrk(G, 1, w), ops.batched_syrk(G[np.newaxis], w)
    close(F, oracle.syrk(G, w), oracle.syrk_bound(G, w), n)
    close(systems[0], oracle.syrk(G, w), oracle.syrk_bound(G, w), n)
    close(blocks[:, 0, 0].real, oracle.diag(G, w), oracle.diag(G, w), n)
    close(d, oracle.diag(G, w), oracle.diag(G, w), n)
    root = np.sqrt(w)[:, np.newaxis]
    close(K, oracle.gram(root * oracle.wide(G)), oracle.gram_bound(root * oracle.wide(G)), p)
    close(y, oracle.fvp(G, v, w), oracle.fvp_bound(G, v, w), n + p)


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
@pytest.mark.parametrize("n, p", [(30, 7), (300, 70)])
def test_half_precision_beside_far_weights_is_that_of_single(stored, n, p):
    """Both are read in double then."""
    dtype = np.float16 if stored == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    rng = matrices.generator("halves", n, p, stored)
    G, w = rng.standard_normal((n, p)).astype(dtype), np.full(n, 2.0**-120)
    w[:3] = 2.0**110
    v, wide = rng.standard_normal(p), G.astype(np.float32)

    def answers(G):
        solution = ff.solve(G, v, damping=ff.Relative(0.1), weights=w)
        return ops.syrk(G, w), ops.gram(G, w), ops.diag(G, w), ops.fvp(G, v, w), solution.x

    for x, y in zip(answers(G), answers(wide), strict=True):
        assert x.tobytes() == y.tobytes()
    close(ops.syrk(G, w), oracle.syrk(wide, w), oracle.syrk_bound(wide, w), n)


@over_dtypes
def test_one_far_weight_beside_ordinary_ones(dtype):
    """The largest row has so small a weight that it does as much as the others together."""
    n, p, far = 12, 4, 1e24 if matrices.is_single(dtype) else 1e105
    G, w, rng = balanced(n, p, dtype, 1.0)
    G[3], w[3] = (G[3] * far).astype(dtype), far**-2.0
    v = matrices.gaussian((p,), dtype, rng)
    close(ops.diag(G, w), oracle.diag(G, w), oracle.diag(G, w), n)
    close(ops.fvp(G, v, w), oracle.fvp(G, v, w), oracle.fvp_bound(G, v, w), n + p)
    A = oracle.damped(oracle.fisher(G, w), 0.1)
    x, cond = oracle.damped_solve(A, v, 0.0), np.linalg.cond(A)
    for method in ("primal", "dual", "cg", "mixed"):
        solution = ff.solve(G, v, damping=0.1, weights=w, method=method)
        assert solution.converged, method
        assert_ratio(solve_ratio(A, solution.x, v), "goal", method)
        assert_ratio(forward_ratio(solution.x, x, cond), "goal", method)


@over_dtypes
@pytest.mark.parametrize("scale", SCALES)
def test_a_metric_knows_only_ratios_of_weights(dtype, scale):
    scores = matrices.gaussian((5, 6, 3), dtype, matrices.generator("metric", str(dtype)))
    w = matrices.generator("shares").uniform(0.5, 2, (5, 6))
    for weights in (w, w[0]):
        expected, _ = ops.batched_metric_solve(scores, scores[:, 0], weights, damping=0.1)
        x, info = ops.batched_metric_solve(scores, scores[:, 0], scale * weights, damping=0.1)
        assert not info.any()
        error = np.abs(x - expected).max() / np.abs(expected).max()
        assert error <= LIMITS["identity"] * unit_roundoff(dtype)


def test_zeros_with_large_weights_are_zeros():
    G = np.zeros((4, 3), np.float32)
    w = np.full(4, 1e60)
    for result in (ops.syrk(G, w), ops.diag(G, w), ops.fvp(G, G[0], w), ops.gram(G, w)):
        assert not result.any()


@over_dtypes
@pytest.mark.parametrize("double, single", [(1e-170, 1e-24), (1e170, 1e22)])
def test_a_gram_matrix_of_rows_beyond_the_range_of_squares(dtype, double, single):
    size, p = single if matrices.is_single(dtype) else double, 5
    rng = matrices.generator("squares", str(dtype), size)
    G = (matrices.gaussian((9, p), dtype, rng) * size).astype(dtype)
    w = rng.uniform(0.5, 2, 9) / size**1.8
    rows = np.sqrt(w)[:, np.newaxis] * oracle.wide(G)
    close(ops.gram(G, w), oracle.gram(rows), oracle.gram_bound(rows), p)


def test_a_row_of_weight_zero_may_be_too_large_to_square():
    G = np.array([[1e200, 1e200], [1.0, 2.0]])
    np.testing.assert_array_equal(ops.gram(G, np.array([0.0, 1.0])), [[0.0, 0.0], [0.0, 5.0]])


def test_rows_of_zeros_and_nan_do_not_have_a_gram_matrix_formed_twice(monkeypatch):
    seen = []
    monkeypatch.setattr(products, "_add_weighted_gram", lambda *args: seen.append(args))
    G = matrices.gaussian((6, 4), "float64", matrices.generator("zeros", 6))
    G[2] = 0
    w = np.full(6, 3.0)
    assert np.array_equal(ops.gram(G, w)[2], np.zeros(6))
    G[1, 1] = np.nan
    with pytest.raises(InputError, match="row 1"):
        ops.gram(G, w)
    assert not seen
    G[1, 1] = 0
    G[2] = 1e-200
    ops.gram(G, np.full(6, 1e300))
    assert seen


@pytest.mark.parametrize("weight", (1e-40, 1e-35))
def test_scores_are_searched_once_for_small_weights(monkeypatch, weight):
    calls = []
    true = passes.bad_rows
    monkeypatch.setattr(passes, "bad_rows", lambda G: calls.append(1) or true(G))
    G = matrices.gaussian((60, 9), "float32", matrices.generator("once", 60))
    w = np.ones(60)
    w[3] = weight
    sol = ff.solve(G, np.ones(9), weights=w, damping=1e-3, method="cg")
    assert sol.converged and sol.iterations > 3 and len(calls) == 1


def test_what_is_known_of_weights_in_double_is_not_taken_for_single_precision():
    G = as_scores(np.ones((3, 2)))
    w = np.array([1.0, 2.0**-101, 1.0])
    assert not passes.weighed(G, w).weighed
    single = passes.weighed(as_scores(np.ones((3, 2), np.float32)), w)
    assert single.weighed and passes.weighable(single, w) is single
    huge = as_scores(np.full((3, 2), 1e20, np.float32))
    assert not passes.weighed(huge, w).weighed and passes.weighable(huge, w).dtype == np.float64
