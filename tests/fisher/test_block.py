"""The block-diagonal Fisher: B1, B2, B4, blocks that fail, sizes and layouts."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError, MemoryLimitError, NotPositiveDefiniteError, StateError
from fastfisher.fisher import stacks
from tests import matrices, oracle
from tests.fisher.kinds import check, over_dtypes
from tests.tolerances import assert_ratio, solve_ratio

LAYOUTS = {
    "equal": (6, 5),
    "odd": (31, 1),
    "ragged": [3, 1, 7, 3, 3, 1, 9],
    "large": [2, stacks.SMALL + 3, stacks.SMALL],
    "named": {"a": 4, "b": 13, "c": 4},
    "one": [17],
}
over_layouts = pytest.mark.parametrize("sizes", LAYOUTS.values(), ids=LAYOUTS.keys())


@over_layouts
@over_dtypes
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
@pytest.mark.parametrize("step", [1, 7, 90], ids=lambda s: f"by{s}")
def test_B1_blocks_are_slices_of_the_dense_fisher(sizes, dtype, center, step, rng):
    F = ff.BlockDiagonalFisher(sizes, dtype=dtype, center=center)
    G, w = matrices.gaussian((90, F.p), dtype, rng), matrices.weights(90, dtype)
    for lo in range(0, 90, step):
        F.update(G[lo : lo + step], w[lo : lo + step])
    check(F, G, w, dtype=dtype)
    full, start = F.matrix(), 0
    assert np.array_equal(full, full.conj().T)
    for b, d in enumerate(F.sizes):
        here = slice(start, start + d)
        assert np.array_equal(F.block(b), full[here, here])
        start += d
    assert F.n_samples == 90 and F.weight == pytest.approx(w.sum(dtype=np.float64))


@over_layouts
@over_dtypes
def test_B1_a_solve_never_mixes_blocks(sizes, dtype, rng):
    F = ff.BlockDiagonalFisher(sizes, dtype=dtype)
    F.update(matrices.gaussian((40, F.p), dtype, rng))
    b = matrices.gaussian((F.p, 3), dtype, rng)
    every = F.solve(b, damping=0.2).x
    factor = F.factor(0.2)
    assert np.array_equal(factor.solve(b), every)
    start = 0
    for i, d in enumerate(F.sizes):
        here = slice(start, start + d)
        A = oracle.damped(F.block(i), 0.2)
        assert_ratio(solve_ratio(A, every[here], b[here]), "lapack", f"block {i}")
        alone = np.zeros_like(b)
        alone[here] = b[here]
        x = factor.solve(alone)
        assert np.array_equal(x[here], every[here])
        x[here] = 0
        assert not x.any()
        start += d


@over_layouts
def test_the_spectrum_is_that_of_the_matrix(sizes, rng):
    F = ff.BlockDiagonalFisher(sizes)
    F.update(rng.standard_normal((40, F.p)))
    values, expected = F.eigvalsh(), np.linalg.eigvalsh(F.matrix())
    np.testing.assert_allclose(values, expected, atol=1e-12 * expected[-1])


@pytest.mark.parametrize("d", [1, 2, 33, stacks.SMALL, stacks.SMALL + 1])
@over_dtypes
def test_stacks_Q2_Q3_substitution_and_inverse_diagonal(d, dtype, rng):
    double = np.result_type(dtype, np.float64)
    B = matrices.gaussian((3 * 2 * d, d), double, rng).reshape(3, 2 * d, d)
    A = oracle.ct(B) @ B / d + 0.1 * np.eye(d)
    L = A.copy()
    assert not stacks.factor_stack(L, 0.5).any()
    A += 0.5 * np.eye(d)
    lower = np.tril(L)
    np.testing.assert_allclose(lower @ oracle.ct(lower), A, atol=1e-12)
    z = matrices.gaussian((3 * d, 2), double, rng).reshape(3, d, 2)
    np.testing.assert_allclose(lower @ stacks.solve_lower(L, z.copy()), z, atol=1e-12)
    x = stacks.solve_lower_adjoint(L, z.copy())
    np.testing.assert_allclose(oracle.ct(lower) @ x, z, atol=1e-12)
    rows = np.ascontiguousarray(z.transpose(2, 0, 1).reshape(2, -1))
    x = stacks.solve_stack(L, rows).reshape(2, 3, d).transpose(1, 2, 0)
    np.testing.assert_allclose(A @ x, z, atol=1e-12)
    inverse = np.linalg.inv(A)
    expected = np.einsum("bii->bi", inverse).real
    np.testing.assert_allclose(stacks.inverse_diagonal(L), expected, rtol=1e-12)
    norms = np.linalg.norm(A, 2, axis=(1, 2))
    assert np.all(stacks.norms(A) <= norms * (1 + 1e-12))
    assert np.all(stacks.norms(A) >= norms / 4)


# Damping and blocks that fail --------------------------------------------------------------------


def test_a_failed_block_is_named_and_the_others_stay_valid(rng):
    F = ff.BlockDiagonalFisher({"conv": 3, "norm": 2, "head": 4})
    G = rng.standard_normal((50, 9))
    G[:, 4] = 0
    F.update(G)
    before = F.matrix()
    for call in (lambda: F.solve(damping=0.0), lambda: F.factor(0.0)):
        with pytest.raises(
            NotPositiveDefiniteError, match=r"pivot 2 of 2 in block 1 \('norm'\)"
        ) as e:
            call()
        assert e.value.blocks == (1,) and e.value.order == 5
    assert np.array_equal(F.matrix(), before)
    damping = {"conv": 0.0, "norm": e.value.suggested_damping, "head": 0.0}
    x = F.solve(np.ones(9), damping=damping)
    assert x.converged and x.damping == e.value.suggested_damping
    for name, here in (("conv", slice(0, 3)), ("head", slice(5, 9))):
        alone = np.linalg.solve(F.block(name), np.ones(here.stop - here.start))
        np.testing.assert_allclose(x.x[here], alone, rtol=1e-10)


def test_many_failed_blocks_are_counted_and_the_first_named(rng):
    F = ff.BlockDiagonalFisher((100, 4))
    G = rng.standard_normal((30, 400))
    G[:, 4 * np.arange(3, 100, 10) + 2] = 0
    F.update(G)
    with pytest.raises(NotPositiveDefiniteError, match=r"10 of 100 blocks failed: 3, 13, 23") as e:
        F.factor(0)
    assert e.value.blocks == tuple(range(3, 100, 10)) and e.value.order == 4 * 3 + 3
    F.factor(e.value.suggested_damping)


@pytest.mark.parametrize("d", [5, stacks.SMALL + 2])
def test_fewer_rows_than_a_block_has_parameters_is_singular_not_noise(d, rng):
    F = ff.BlockDiagonalFisher([d, d]).update(rng.standard_normal((d - 1, 2 * d)))
    with pytest.raises(NotPositiveDefiniteError) as e:
        F.solve(damping=0.0)
    assert e.value.blocks == (0, 1)
    assert F.solve(damping=1e-6).converged


def test_damping_per_block_is_that_of_each_block_alone(rng):
    F = ff.BlockDiagonalFisher([2, 5, 3]).update(rng.standard_normal((40, 10)))
    lams = np.array([0.1, 10.0, 0.0])
    A = F.matrix() + np.diag(np.repeat(lams, [2, 5, 3]))
    b = rng.standard_normal(10)
    result = F.solve(b, damping=lams)
    np.testing.assert_allclose(result.x, np.linalg.solve(A, b), rtol=1e-11)
    assert result.converged and result.damping == 10.0 and "converged" in repr(result)
    factor = F.factor(lams.tolist())
    assert factor.logdet() == pytest.approx(np.linalg.slogdet(A)[1], rel=1e-12)
    np.testing.assert_allclose(factor.inv_diagonal(), np.diag(np.linalg.inv(A)), rtol=1e-11)
    for damping, message in [
        ([0.1, 0.2], r"damping has shape \(2,\)"),
        ([0.1, -0.2, 0], r"damping\[1\] is -0.2"),
        ({"a": 1.0}, "these blocks have no names"),
    ]:
        with pytest.raises(InputError, match=message):
            F.solve(b, damping=damping)


# The methods that use it -------------------------------------------------------------------------


def test_B2_equals_the_rank_one_recursion_of_woodfisher(rng):
    """F^-1 -= h h'/(m + g'h), row by row, per block, in any order: what the sums replace."""
    m, d, blocks, lam = 30, 6, 4, 1e-2
    G = rng.standard_normal((m, d * blocks))
    F = ff.BlockDiagonalFisher((blocks, d)).update(G)
    inverse = np.stack([np.eye(d) / lam] * blocks)
    for g in G[rng.permutation(m)].reshape(m, blocks, d):
        h = np.einsum("bij,bj->bi", inverse, g)
        inverse -= h[:, :, None] * h[:, None, :] / (m + np.einsum("bi,bi->b", g, h))[:, None, None]
    x = rng.standard_normal((blocks, d))
    expected = np.einsum("bij,bj->bi", inverse, x).ravel()
    np.testing.assert_allclose(F.solve(x.ravel(), damping=lam).x, expected, rtol=1e-10)


def test_B4_optimal_brain_surgeon(rng):
    F = ff.BlockDiagonalFisher((3, 4)).update(rng.standard_normal((20, 12)))
    theta, lam = rng.standard_normal(12), 0.05
    factor = F.factor(lam)
    diagonal = factor.inv_diagonal()
    saliency = theta**2 / (2 * diagonal)
    A = F.matrix() + lam * np.eye(12)
    for q in range(12):
        step = -theta[q] * factor.solve(np.eye(12)[q]) / diagonal[q]
        assert step[q] == pytest.approx(-theta[q], rel=1e-12)
        assert step @ A @ step / 2 == pytest.approx(saliency[q], rel=1e-10)


# Sizes and layouts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (5, "expected a list of block sizes"),
        ("ab", "expected a list of block sizes"),
        ((3, 0), "a block size in sizes is 0"),
        ((-1, 3), "the count of blocks is -1"),
        ([3, 0], r"sizes\[1\] is 0"),
        ([2.0, 3.0], "sizes has dtype float64"),
        ({}, "the layout is empty"),
        ({"a": 3, "b": slice(3, 4)}, "mixes sizes and slices"),
        ({"a": slice(0, 3), "b": slice(4, 6)}, "expected it to start at 3"),
        ({"a": slice(0, 3), "b": slice(2, 6)}, "expected it to start at 3"),
        ({"a": slice(0, 3), "b": slice(3, 3)}, "at least one parameter"),
        ({"a": -3}, "expected an integer >= 0"),
    ],
    ids=str,
)
def test_sizes_that_make_no_sense_are_refused(sizes, message):
    with pytest.raises(InputError, match=message):
        ff.BlockDiagonalFisher(sizes)


def test_a_layout_of_slices_is_sorted_by_position(rng):
    F = ff.BlockDiagonalFisher({"late": slice(3, 7), "early": slice(0, 3)})
    assert F.names == ("early", "late") and F.sizes.tolist() == [3, 4]
    G = rng.standard_normal((9, 7))
    F.update(G)
    np.testing.assert_allclose(F.block("late"), G[:, 3:].T @ G[:, 3:] / 9, rtol=1e-12)
    for key in ("middle", 2, -1, 1.5):
        with pytest.raises(InputError, match="there is no block"):
            F.block(key)
    assert "2 blocks of 3 to 4" in repr(F)


def test_merge_needs_the_same_blocks_and_names(rng):
    F = ff.BlockDiagonalFisher([2, 3])
    for other in ([3, 2], (1, 5), {"a": 2, "b": 3}):
        with pytest.raises(StateError, match="cannot merge: 2 blocks of 2 to 3 here"):
            F.merge(ff.BlockDiagonalFisher(other))


def test_names_survive_saving(tmp_path, rng):
    F = ff.BlockDiagonalFisher({"couche ä": 2, "b": 1}).update(rng.standard_normal((4, 3)))
    F.save(tmp_path / "a")
    again = ff.load(tmp_path / "a")
    assert again.names == F.names and np.array_equal(again.matrix(), F.matrix())


def test_what_does_not_fit_is_refused_before_anything_is_allocated():
    with pytest.raises(MemoryLimitError, match="1000000000 blocks of 128"):
        ff.BlockDiagonalFisher((10**9, 128))
    with pytest.raises(MemoryLimitError, match="2 ragged blocks"):
        ff.BlockDiagonalFisher([10**6, 10**7])
    F = ff.BlockDiagonalFisher((10**7, 1))
    with pytest.raises(MemoryLimitError, match="the matrix of F"):
        F.matrix()


def test_no_blocks_and_no_rows():
    F = ff.BlockDiagonalFisher([])
    assert F.p == 0 and F.update(np.zeros((3, 0))).n_samples == 3
    assert F.solve(np.zeros(0), damping=1.0).x.shape == (0,) and F.factor(1.0).logdet() == 0
    F = ff.BlockDiagonalFisher((2, 2)).update(np.zeros((0, 4)))
    assert F.n_samples == 0 and F.solve(np.ones(4), damping=0.25).x.tolist() == [4.0] * 4


def test_the_plan_counts_blocks_not_p_squared(rng):
    F = ff.BlockDiagonalFisher((1000, 10)).update(rng.standard_normal((3, 10_000)))
    plan = F.solve(damping=0.1).plan
    assert plan.peak_bytes < 10**7 and "block_cholesky" in str(plan) and "1000 x 10" in str(plan)
    assert plan.flops == 1000 * 10**3 // 3 + 2 * 1000 * 10**2


@pytest.mark.slow
def test_a_million_parameters_in_blocks_of_fifty(rng):
    F = ff.BlockDiagonalFisher((20_000, 50), dtype="float32")
    row = rng.standard_normal(10**6).astype(np.float32)
    for i in range(64):
        F.update(np.roll(row, 37 * i)[np.newaxis])
    result = F.solve(row, damping=1e-3)
    assert result.converged
    G = np.stack([np.roll(row, 37 * i)[-50:] for i in range(64)]).astype(np.float64)
    expected = np.linalg.solve(G.T @ G / 64 + 1e-3 * np.eye(50), row[-50:])
    np.testing.assert_allclose(result.x[-50:], expected, rtol=1e-3, atol=1e-3)


def test_law_26_15_blocks_of_any_scale_side_by_side(rng):
    """What one block holds, however large or small, changes no bit of another's solution."""
    G, b = rng.standard_normal((30, 12)), rng.standard_normal(12)
    scale = np.repeat(np.ldexp(1.0, [-498, 0, 498]), 4)
    F = ff.BlockDiagonalFisher((3, 4)).update(G * scale)
    plain = ff.BlockDiagonalFisher((3, 4)).update(G)
    lams = np.array([0.1, 0.2, 0.3])
    x = F.factor(lams * scale[::4] ** 2).solve(b * scale)
    assert np.array_equal(x * scale, plain.factor(lams).solve(b))
