"""Blocks of a block-diagonal Fisher: their sums, Cholesky factors and solves."""

import numpy as np
import pytest
from hypothesis import given

import fastfisher as ff
from fastfisher.kernels.cpu import blocks as kernels
from fastfisher.kernels.cpu.lanes import width
from fastfisher.kernels.cpu.products import KC
from tests import matrices, oracle
from tests.kernels.cases import (
    entries,
    implementations,
    over_dtypes,
    real_dtype,
    rounded,
    sizes,
    sums_dtype,
    unchanged,
)
from tests.tolerances import assert_ratio, cholesky_ratio, solve_ratio, syrk_ratio

LANES = width("float32")
ORDERS = (1, 2, 3, 4, 7, 8, 9, 16, 17, 25, 33, 50)
COUNTS = (1, *matrices.edges(LANES, upto=LANES + 1), 131)


def scores_of(n, blocks, d, dtype):
    rng = matrices.generator("blocks", n, blocks, d, str(dtype))
    w = rng.uniform(0, 2, n).astype(real_dtype(dtype))
    return matrices.gaussian((n, blocks * d + 2), dtype, rng), w


def compare_syrk(entry, n, blocks, d, dtype, weighted):
    G, w = scores_of(n, blocks, d, dtype)
    scale = np.sqrt(w) if weighted else np.empty(0, w.dtype)
    c = np.zeros((blocks, d, d), sums_dtype(dtype))
    intact = unchanged(G, scale)
    entry.load()(c, G, 1, scale)
    intact()
    assert np.array_equal(c, c.conj().transpose(0, 2, 1))
    w = scale.astype(np.float64) ** 2 if weighted else None
    for b in range(blocks):
        part = G[:, 1 + b * d : 1 + (b + 1) * d]
        bound = oracle.syrk_bound(part, w)
        ratio = syrk_ratio(rounded(c[b], dtype), oracle.syrk(part, w), bound, 32)
        assert_ratio(ratio, "goal", f"{entry.name} {n} x {blocks} x {d} {dtype}: {b}")


@implementations("block_syrk")
@over_dtypes
@pytest.mark.parametrize("weighted", (False, True))
def test_block_syrk_at_every_edge(entry, dtype, weighted):
    for d in ORDERS:
        compare_syrk(entry, 11, 5, d, dtype, weighted)
    for n in (0, 1, 2, *matrices.edges(KC)):
        compare_syrk(entry, n, 3, 5, dtype, weighted)
    for blocks in COUNTS:
        compare_syrk(entry, 3, blocks, 4, dtype, weighted)


@implementations("block_syrk")
@over_dtypes
@given(n=sizes, blocks=sizes.map(lambda k: 1 + k % 5), d=sizes.map(lambda k: 1 + k % 9))
def test_block_syrk_at_any_size(entry, dtype, n, blocks, d):
    compare_syrk(entry, n, blocks, d, dtype, weighted=n % 2 == 0)


@implementations("block_syrk")
@over_dtypes
def test_block_syrk_adds(entry, dtype):
    G, _ = scores_of(2 * KC + 9, 4, 6, dtype)
    none = np.empty(0, real_dtype(dtype))
    once, twice = (np.zeros((4, 6, 6), sums_dtype(dtype)) for _ in range(2))
    entry.load()(once, G, 0, none)
    entry.load()(twice, np.ascontiguousarray(G[: 2 * KC]), 0, none)
    entry.load()(twice, np.ascontiguousarray(G[2 * KC :]), 0, none)
    if entry.module.startswith("cpu."):
        assert np.array_equal(once, twice), "samples are cut at multiples of KC: the same bits"
    assert np.allclose(once, twice, rtol=1e-5, atol=1e-4)


@over_dtypes
def test_a_block_that_is_not_finite_spoils_no_other(dtype):
    G, _ = scores_of(KC + 3, 70, 7, dtype)
    sums = ff.ops.block_syrk(G[:, 1:-1], 7)
    none, spoiled = np.empty(0, real_dtype(dtype)), np.zeros((70, 7, 7), sums_dtype(dtype))
    for bad in (0, 33, 69):
        H, c = G.copy(), spoiled.copy()
        H[5, 1 + bad * 7 : 8 + bad * 7] = np.nan
        kernels.block_syrk(c, H, 1, none)
        assert np.isnan(c[bad]).all()
        assert np.array_equal(np.delete(c, bad, 0).astype(dtype), np.delete(sums, bad, 0))


def systems(n, count, p, dtype):
    rng = matrices.generator("systems", n, count, p, str(dtype))
    return matrices.gaussian((n, count, p), dtype, rng), rng.uniform(0, 2, (n, count))


@implementations("batched_syrk")
@over_dtypes
def test_batched_syrk_F8_at_every_edge(entry, dtype):
    shapes = [(5, 11, p) for p in ORDERS] + [(3, n, 5) for n in (0, 1, 2, *matrices.edges(KC))]
    for n, count, p in shapes + [(b, 3, 4) for b in COUNTS]:
        a, w = systems(n, count, p, dtype)
        for scale in (np.empty(0), np.sqrt(w), np.sqrt(w[0])):
            scale = scale.astype(real_dtype(dtype))
            c, intact = np.zeros((n, p, p), sums_dtype(dtype)), unchanged(a, scale)
            entry.load()(c, a, scale)
            intact()
            assert np.array_equal(c, oracle.ct(c))
            for t in range(n):
                own = (scale[t] if scale.ndim == 2 else scale).astype(np.float64) ** 2
                own = own if scale.size else None
                ratio = syrk_ratio(
                    rounded(c[t], dtype), oracle.syrk(a[t], own), oracle.syrk_bound(a[t], own), 32
                )
                assert_ratio(ratio, "goal", f"{entry.name} {n} x {count} x {p} {dtype}: {t}")


@over_dtypes
def test_systems_have_the_bits_they_would_have_alone(dtype):
    a, w = systems(70, KC + 5, 7, dtype)
    together = ff.ops.batched_syrk(a, w)
    for t in (0, 1, 34, 69):
        assert np.array_equal(together[t], ff.ops.batched_syrk(a[t : t + 1], w[t : t + 1])[0])
        assert np.array_equal(together[t], ff.ops.block_syrk(a[t], 7, w[t])[0])
    for name, stored in matrices.layouts(a.reshape(-1, 7)):
        again = ff.ops.batched_syrk(stored.reshape(a.shape), w)
        assert np.array_equal(again, together), name


def test_batched_syrk_names_the_system_that_is_not_finite():
    a, _ = systems(5, 4, 3, "float64")
    a[3, 1, 2] = np.nan
    with pytest.raises(ff.errors.InputError, match="system 3"):
        ff.ops.batched_syrk(a)
    with pytest.raises(ff.errors.InputError, match=r"expected \(n, S, p\)"):
        ff.ops.batched_syrk(a[0])


def definite(blocks, d, dtype):
    """Blocks with NaN above the diagonal."""
    rng = matrices.generator("definite", blocks, d, str(dtype))
    rows = matrices.gaussian((blocks, d + 3, d), dtype, rng)
    A = oracle.ct(rows) @ rows
    A[:, *np.triu_indices(d, 1)] = np.nan
    return A.astype(dtype)


SHAPES = [(5, d) for d in ORDERS] + [(b, 4) for b in COUNTS] + [(3, 65)]


@implementations("block_cholesky")
@over_dtypes
def test_27_2_block_cholesky_at_every_edge(entry, dtype):
    for blocks, d in SHAPES:
        A = definite(blocks, d, dtype)
        L, info = A.copy(), np.full(blocks, 7, np.int32)
        entry.load()(L, info)
        assert not info.any()
        upper = np.triu_indices(d, 1)
        assert np.isnan(L[:, *upper]).all(), "the upper triangle was written"
        for b in range(blocks):
            ratio = cholesky_ratio(oracle.damped(A[b]), np.tril(np.nan_to_num(L[b])))
            assert_ratio(ratio, "goal", f"{entry.name} {blocks} x {d} {dtype}: {b}")


@implementations("block_cholesky")
@over_dtypes
def test_a_failed_block_leaves_its_neighbours_as_they_are(entry, dtype):
    A = definite(2 * LANES + 3, 5, dtype)
    expected, info = A.copy(), np.empty(len(A), np.int32)
    entry.load()(expected, info)
    for bad in (0, 5, LANES - 1, LANES, 2 * LANES + 2):
        for order, value in ((1, 0.0), (3, -1000.0), (5, np.nan), (4, np.inf)):
            L = A.copy()
            L[bad, order - 1, order - 1] = value
            entry.load()(L, info)
            assert np.flatnonzero(info).tolist() == [bad] and info[bad] == order
            assert np.isnan(L[bad]).all()
            others = (np.nan_to_num(np.delete(x, bad, 0)) for x in (L, expected))
            assert np.array_equal(*others)


@implementations("block_solve")
@over_dtypes
@pytest.mark.parametrize("k", (1, 3))
def test_27_3_block_solve_at_every_edge(entry, dtype, k):
    for blocks, d in SHAPES:
        A = np.array([oracle.damped(a) for a in definite(blocks, d, dtype)])
        L = np.linalg.cholesky(A).astype(dtype)
        L[:, *np.triu_indices(d, 1)] = np.nan
        rng = matrices.generator("rights", blocks, d, k, str(dtype))
        b = matrices.gaussian((k, blocks * d), dtype, rng)
        x, intact = b.copy(), unchanged(L)
        entry.load()(L, x)
        intact()
        for i in range(blocks):
            part = slice(i * d, (i + 1) * d)
            ratio = solve_ratio(A[i], x[:, part].T, b[:, part].T)
            assert_ratio(ratio, "goal", f"{entry.name} {blocks} x {d} {dtype}: {i}")


def test_every_op_has_an_implementation_of_ours():
    for op in ("block_syrk", "block_cholesky", "block_solve"):
        assert any(entry.module == "cpu.blocks" for entry in entries(op))


# Public ops ----------------------------------------------------------------------------------


@over_dtypes
def test_blocks_from_scores_to_solution(dtype):
    n, blocks, d = 90, 13, 6
    G, w = scores_of(n, blocks, d, dtype)
    G = np.ascontiguousarray(G[:, : blocks * d])
    F = ff.ops.block_syrk(G, d, w)
    assert F.dtype == dtype and F.shape == (blocks, d, d)
    assert np.array_equal(F, F.conj().transpose(0, 2, 1))
    damping = np.linspace(0.1, 1, blocks)
    L, info = ff.ops.block_cholesky(F, damping=damping)
    assert not info.any() and not L[:, *np.triu_indices(d, 1)].any()
    for b in (G[0], np.ascontiguousarray(G[:3].T)):
        x = ff.ops.block_solve(L, b)
        assert x.shape == b.shape and x.dtype == dtype
        for i in range(blocks):
            part = slice(i * d, (i + 1) * d)
            A = oracle.damped(F[i], damping[i])
            right, found = (np.reshape(y[part], (d, -1)) for y in (b, x))
            assert_ratio(solve_ratio(A, found, right), "lapack", f"block {i}")


@over_dtypes
def test_block_syrk_is_the_diagonal_of_syrk(dtype):
    G, w = scores_of(70, 5, 4, dtype)
    G = np.ascontiguousarray(G[:, :20])
    whole, parts = ff.ops.syrk(G, w), ff.ops.block_syrk(G, 4, w)
    for b in range(5):
        block = whole[4 * b : 4 * b + 4, 4 * b : 4 * b + 4]
        assert np.allclose(parts[b], block, rtol=1e-5, atol=1e-5)


def test_block_syrk_in_other_layouts_and_storage():
    G, _ = scores_of(300, 7, 3, "float32")
    G = np.ascontiguousarray(G[:, :21])
    expected = ff.ops.block_syrk(G, 3)
    for stored in (np.asfortranarray(G), G.astype(">f4"), np.repeat(G, 2, 1)[:, ::2]):
        assert np.array_equal(ff.ops.block_syrk(stored, 3), expected)
    half = G.astype(np.float16)
    assert np.array_equal(ff.ops.block_syrk(half, 3), ff.ops.block_syrk(half.astype("f4"), 3))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ff.ops.block_syrk(np.ones((3, 4)), 3), r"block is 3; expected an integer that"),
        (lambda: ff.ops.block_syrk(np.ones((3, 4)), 0), r"block is 0"),
        (lambda: ff.ops.block_syrk(np.ones((3, 4)), 1.5), r"block is 1\.5"),
        (lambda: ff.ops.block_syrk(np.ones((3, 4)), 2, np.ones(2)), r"weights has shape \(2,\)"),
        (lambda: ff.ops.block_syrk(np.full((3, 4), np.nan), 2), r"G holds nan in row 0"),
        (lambda: ff.ops.block_cholesky(np.ones((3, 2))), r"A has shape \(3, 2\); expected \(B"),
        (lambda: ff.ops.block_cholesky(np.ones((3, 2, 2)), damping=[1.0]), r"damping has shape"),
        (lambda: ff.ops.block_solve(np.ones((3, 2, 2)), np.ones(5)), r"b has shape \(5,\)"),
    ],
)
def test_operands_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ff.errors.InputError, match=message):
        call()
