"""Scores summed over groups before the outer product (docs/math.md F10)."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError
from tests import matrices, oracle

DTYPES = ["float32", "float64", "complex64", "complex128"]


def membership(groups):
    return (np.unique(groups)[:, np.newaxis] == groups).astype(float)


@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
@pytest.mark.parametrize(("n", "p", "m"), [(0, 3, 1), (1, 1, 1), (7, 0, 3), (301, 40, 9)])
def test_F10_sums_are_those_of_the_membership_matrix(n, p, m, dtype, rng):
    G = matrices.gaussian((n, p), "float32" if dtype == "float16" else dtype, rng).astype(dtype)
    groups = rng.integers(-3, m - 3, n)
    S = ff.ops.group_sums(G, groups)
    wide = np.complex128 if S.dtype.kind == "c" else np.float64
    expected = membership(groups) @ G.astype(wide)
    assert S.dtype == (np.float32 if dtype == "float16" else G.dtype) and S.shape == expected.shape
    np.testing.assert_allclose(S, expected, atol=2e-6 * n if S.itemsize <= 8 else 1e-14 * n)


def test_F10_integers_are_labels_of_any_kind_and_layout(rng):
    G = rng.standard_normal((6, 3))
    groups = np.array([5, -1, 5, 2, 2, 5])
    S = ff.ops.group_sums(np.asfortranarray(G), groups.astype(np.int8))
    np.testing.assert_allclose(S, [G[1], G[3] + G[4], G[0] + G[2] + G[5]])
    assert S.tobytes() == ff.ops.group_sums(G, groups.tolist()).tobytes()


@pytest.mark.parametrize("method", ["primal", "dual", "cg"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_F10_solve_takes_groups_as_samples(dtype, method, rng):
    G = matrices.gaussian((40, 8), dtype, rng)
    groups, w = np.arange(40) % 10, rng.uniform(0.5, 2, 10)
    S = membership(groups) @ G
    b, coef = matrices.gaussian((8,), dtype, rng), matrices.gaussian((10,), dtype, rng)
    settings = dict(damping=0.3, weights=w, method=method, center=True)
    for side in (dict(b=b), dict(coef=coef)):
        x = ff.solve(G, **side, groups=groups, **settings).x
        np.testing.assert_allclose(x, ff.solve(S, **side, **settings).x, rtol=1e-8, atol=1e-10)
    x = ff.natural_gradient(G, groups=groups, **settings)
    np.testing.assert_allclose(x, ff.natural_gradient(S, **settings), rtol=1e-8, atol=1e-10)
    plain = ff.solve(G, b, damping=0.3, center=True, method=method).x  # negative control
    assert np.linalg.norm(plain - ff.solve(G, b, groups=groups, **settings).x) > 0.01


def test_F10_one_row_per_group_is_no_grouping(rng):
    G, b = rng.standard_normal((30, 7)), rng.standard_normal(7)
    w = rng.uniform(0, 2, 30)
    alone = ff.solve(G, b, damping=0.1, weights=w, groups=np.arange(30))
    assert alone.x.tobytes() == ff.solve(G, b, damping=0.1, weights=w).x.tobytes()
    F = ff.DenseFisher(7).update(G, w, groups=np.arange(30))
    assert F.matrix().tobytes() == ff.DenseFisher(7).update(G, w).matrix().tobytes()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ff.DenseFisher(6),
        lambda: ff.DiagonalFisher(6),
        lambda: ff.BlockDiagonalFisher([2, 4]),
        lambda: ff.GramFisher(),
        lambda: ff.WindowFisher(20, 6),
    ],
)
def test_F10_fishers_add_groups_of_a_batch(make, rng):
    G, groups = rng.standard_normal((24, 6)), rng.permutation(24) // 4
    S, w = membership(groups) @ G, rng.uniform(0.5, 2, 6)
    F = make().update(G, w, groups=groups).update(G[:3], groups=[0, 0, 1])
    expected = make().update(S, w).update(np.stack([G[0] + G[1], G[2]]))
    assert F.n_samples == 8 and F.weight == expected.weight
    np.testing.assert_allclose(F.matrix(), expected.matrix(), rtol=1e-13, atol=1e-14)


def test_F10_gram_matrix_is_that_of_the_members(rng):
    G, groups = rng.standard_normal((12, 30)), np.repeat(np.arange(4), 3)
    M = membership(groups)
    K = ff.GramFisher().update(G, groups=groups).gram()
    np.testing.assert_allclose(K, M @ G @ G.T @ M.T / 4, rtol=1e-12)
    outer = np.array([(G[groups == c] @ G[groups == c].T).sum() for c in range(4)]) / 4
    np.testing.assert_allclose(np.diag(K), outer, rtol=1e-12)


def test_a_row_that_is_not_finite_spoils_its_group_and_no_other(rng):
    G, groups = rng.standard_normal((20, 5)), np.arange(20) % 5
    G[13, 2] = np.nan
    with pytest.raises(InputError, match="nan in row 13, column 2"):
        ff.ops.group_sums(G, groups)
    with pytest.raises(InputError, match="row 13"):
        ff.solve(G, np.ones(5), damping=0.1, groups=groups)
    F = ff.DenseFisher(5)
    with pytest.raises(InputError, match="row 13"):
        F.update(G, groups=groups)
    assert F.n_samples == 0
    others = np.delete(membership(groups) @ np.nan_to_num(G), 3, axis=0)
    F.update(G, groups=groups, nan_policy="skip")
    np.testing.assert_allclose(F.matrix(), oracle.fisher(others), rtol=1e-12)
    assert (F.n_samples, F.n_skipped) == (4, 1)
    settings = dict(damping=0.1, groups=groups, method="primal")
    x = ff.solve(G, np.ones(5), nan_policy="skip", **settings).x
    np.testing.assert_allclose(x, F.solve(np.ones(5), damping=0.1).x, rtol=1e-10)
    spoiled = ff.solve(G, np.ones(5), nan_policy="propagate", **settings)
    assert spoiled.status == "not_finite" and np.isnan(spoiled.x).all()


def test_sums_that_overflow_are_refused_under_every_policy():
    G = np.full((4, 2), 3e38, np.float32)
    for policy in ("raise", "skip", "propagate"):
        with pytest.raises(InputError, match="sums of 2 groups overflows float32"):
            ff.solve(G, np.ones(2), damping=1.0, groups=[0, 0, 1, 1], nan_policy=policy)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([0, 1], r"int64 of shape \(2,\).*3 rows"),
        ([0.0, 1.0, 2.0], "float64"),
        ([True, False, True], "bool"),
        ("abc", "groups is str"),
        ([[0], [1], [2]], r"\(3, 1\)"),
    ],
)
def test_groups_are_one_integer_per_row(groups, message):
    G = np.ones((3, 2))
    for call in (
        lambda: ff.ops.group_sums(G, groups),
        lambda: ff.solve(G, np.ones(2), damping=1.0, groups=groups),
        lambda: ff.DenseFisher(2).update(G, groups=groups),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_weights_and_coefficients_are_those_of_groups():
    G, groups = np.ones((4, 2)), [1, 1, 0, 0]
    for call in (
        lambda w: ff.solve(G, np.ones(2), damping=1.0, groups=groups, weights=w),
        lambda w: ff.DenseFisher(2).update(G, w, groups=groups),
    ):
        with pytest.raises(InputError, match="one weight for each of the 2 groups"):
            call(np.ones(4))
    with pytest.raises(InputError, match=r"coef has shape \(4,\); expected \(2,\)"):
        ff.solve(G, coef=np.ones(4), damping=1.0, groups=groups)


def test_Z2_the_metric_comes_from_one_batch_and_the_gradient_from_another(rng):
    metric, batch = rng.standard_normal((9, 14)), rng.standard_normal((30, 14))
    A = oracle.fisher(metric) + 0.2 * np.eye(14)
    expected = np.linalg.solve(A, batch.mean(axis=0))
    x = ff.natural_gradient(metric, batch.mean(axis=0), damping=0.2)
    np.testing.assert_allclose(x, expected, rtol=1e-11)
    for F in (ff.DenseFisher(14), ff.GramFisher(), ff.WindowFisher(9, 14)):
        solution = F.update(metric).solve(batch.mean(axis=0), damping=0.2)
        np.testing.assert_allclose(solution.x, expected, rtol=1e-11)
    with pytest.raises(InputError, match=r"coef has shape \(30,\); expected \(9,\)"):
        ff.GramFisher().update(metric).solve(coef=np.ones(30), damping=0.2)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_Z2_layers_of_two_batches(dtype, rng):
    def layers(n):
        return [
            (matrices.gaussian((n, i), dtype, rng), matrices.gaussian((n, o), dtype, rng))
            for i, o in ((4, 3), (3, 2))
        ]

    def rows(pairs):
        return np.concatenate(
            [np.einsum("no,ni->noi", e, a).reshape(len(a), -1) for a, e in pairs], axis=1
        )

    metric, batch = layers(8), layers(11)
    F = ff.LayeredFisher(dtype=dtype).update(metric)
    gradient = ff.LayeredFisher(dtype=dtype).update(batch).mean.conj()
    np.testing.assert_allclose(gradient, rows(batch).mean(axis=0).conj(), rtol=1e-12)
    x = F.solve(gradient, damping=0.3).x
    A = oracle.fisher(rows(metric)) + 0.3 * np.eye(18)
    np.testing.assert_allclose(x, np.linalg.solve(A, gradient), rtol=1e-10)
