"""Very many small Fishers: each against its own matrix, singular ones named, none touched."""

import copy
import pickle

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import fastfisher as ff
from fastfisher.errors import ConvergenceError, InputError, MemoryLimitError, StateError
from tests import matrices, oracle
from tests.tolerances import assert_ratio, entrywise_ratio, forward_ratio, unit_roundoff

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
over_orders = pytest.mark.parametrize("p", [1, 2, 5, 9, 32], ids=lambda p: f"p{p}")
centring = pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
N, S = 13, 70


def draws(p, dtype, rng, n=N, count=S):
    return matrices.gaussian((n * count, p), dtype, rng).reshape(n, count, p)


def explicit(a, w, center=False):
    return np.stack([oracle.fisher(G, v, center) for G, v in zip(a, w, strict=True)])


def check(F, a, w, center=False):
    bound = (a.shape[1] + 8) * unit_roundoff(F.dtype) * explicit(np.abs(oracle.wide(a)), w)
    assert_ratio(entrywise_ratio(F.matrix(), explicit(a, w, center), bound), 10, repr(F))


@over_dtypes
@over_orders
@centring
@pytest.mark.parametrize("weighted", ["", "own", "shared"])
def test_every_system_is_a_dense_fisher_of_its_scores(dtype, p, center, weighted, rng):
    a = draws(p, dtype, rng)
    w = {"": None, "own": rng.random((N, S)), "shared": rng.random(S)}[weighted]
    full = np.broadcast_to(np.ones(S) if w is None else w, (N, S))
    F = ff.BatchedFisher(N, p, dtype=dtype, center=center)
    for lo, hi in ((0, 30), (30, 31), (31, S)):
        here = None if w is None else np.ascontiguousarray(w[..., lo:hi])
        assert F.update(a[:, lo:hi], here) is F
    check(F, a, full, center)
    M = F.matrix()
    assert M.dtype == dtype and np.array_equal(M, oracle.ct(M))
    close = dict(
        rtol=1e-4 if matrices.is_single(dtype) else 1e-11,
        atol=1e-4 if matrices.is_single(dtype) else 1e-11,
    )
    np.testing.assert_allclose(
        F.mean,
        np.stack([v @ G / v.sum() for G, v in zip(oracle.wide(a), full, strict=True)]),
        **close,
    )
    np.testing.assert_allclose(F.diagonal(), np.einsum("nii->ni", M).real, **close)
    np.testing.assert_allclose(F.trace(), np.einsum("nii->n", M).real, **close)
    np.testing.assert_allclose(F.eigvalsh(), np.linalg.eigvalsh(oracle.wide(M)), **close)
    v = draws(p, dtype, rng, N, 3).swapaxes(1, 2)
    np.testing.assert_allclose(F @ v, M @ v, **close)
    np.testing.assert_allclose(F @ v[..., 0], (M @ v)[..., 0], **close)
    np.testing.assert_allclose(F.weights, full.sum(axis=1))
    assert F.n_samples == N * S and F.weight == pytest.approx(full.sum())


@over_dtypes
@over_orders
@pytest.mark.parametrize(
    "damping", [0.3, "own", ff.Relative(0.2), ff.Marquardt(0.3, shift=0.1)], ids=str
)
def test_solve_equals_the_dense_solve_of_each_system(dtype, p, damping, rng):
    a = draws(p, dtype, rng)
    F = ff.BatchedFisher(N, p, dtype=dtype).update(a)
    M = explicit(a, np.ones((N, S)))
    diagonal = np.einsum("nii->ni", M).real
    lams = np.linspace(0, 1, N)
    D = {
        "own": lambda: np.repeat(lams[:, None], p, 1),
        ff.Relative(0.2): lambda: np.repeat(0.2 * diagonal.mean(1, keepdims=True), p, 1),
        ff.Marquardt(0.3, shift=0.1): lambda: 0.3 * diagonal + 0.1,
        0.3: lambda: np.full((N, p), 0.3),
    }[damping]()
    A = M + D[:, :, None] * np.eye(p)
    damping = lams if damping == "own" else damping
    b = draws(p, dtype, rng, N, 2).swapaxes(1, 2)
    result = F.solve(b, damping=damping)
    assert result.converged and not result.info.any() and result.x.dtype == dtype
    one = F.solve(b[..., 0], damping=damping)
    mean = F.solve(damping=damping)
    factor = F.factor(damping)
    for i in range(N):
        cond = np.linalg.cond(A[i])
        exact = np.linalg.solve(A[i], oracle.wide(b[i]))
        assert_ratio(forward_ratio(result.x[i], exact, cond), 300, f"system {i}")
        assert_ratio(forward_ratio(one.x[i], exact[:, 0], cond), 300, f"system {i}")
        g = np.linalg.solve(A[i], oracle.mean_gradient(a[i]))
        assert_ratio(forward_ratio(mean.x[i], g, cond), 1000, f"mean of system {i}")
    assert result.damping == pytest.approx(
        {True: 0.3}.get(isinstance(damping, float | ff.Marquardt), D.max()), rel=1e-4
    )
    u = 3000 * unit_roundoff(dtype)
    inverse = np.linalg.inv(A)
    np.testing.assert_allclose(factor.solve(b), result.x, rtol=u, atol=u)
    np.testing.assert_allclose(factor.logdet(), np.linalg.slogdet(A)[1], rtol=u, atol=u)
    np.testing.assert_allclose(factor.inv_diagonal(), np.einsum("nii->ni", inverse).real, rtol=u)
    J = draws(p, dtype, rng, N, 3)
    quad = factor.inv_quad(J)
    assert np.array_equal(quad, oracle.ct(quad))
    np.testing.assert_allclose(quad, J @ inverse @ oracle.ct(J), rtol=u, atol=100 * u)
    assert "failed=0" in repr(factor)


@over_dtypes
def test_sample_Q3_has_the_covariance_of_the_inverse(dtype, rng):
    a = draws(3, dtype, rng, 2, 20)
    factor = ff.BatchedFisher(2, 3, dtype=dtype).update(a).factor(0.5)
    z = factor.sample(np.random.default_rng(0), 40_000)
    assert z.shape == (40_000, 2, 3) and z.dtype == dtype
    inverse = np.linalg.inv(explicit(a, np.ones((2, 20))) + 0.5 * np.eye(3))
    np.testing.assert_allclose(np.einsum("kni,knj->nij", z, z.conj()) / 40_000, inverse, atol=0.05)


# Systems that fail -------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [2, 5, 9])
@pytest.mark.parametrize("n", [400, 40_000])
def test_one_in_a_hundred_singular_the_others_are_untouched_and_those_are_named(p, n, rng):
    a = rng.standard_normal((n, 2 * p, p))
    singular = np.sort(rng.choice(n, n // 100, replace=False))
    a[singular, 1:] = a[singular, :1]  # rank 1
    a[singular[0]] = 0
    b = rng.standard_normal((n, p))
    F = ff.BatchedFisher(n, p).update(a)
    result = F.solve(b, damping=0.0)
    assert np.array_equal(np.flatnonzero(result.info), singular)
    assert np.array_equal(result.failed, singular) and (result.info[singular] > 0).all()
    assert np.isnan(result.x[singular]).all()
    x, info = result
    assert x is result.x and info is result.info
    good = np.setdiff1d(np.arange(n), singular)
    alone = ff.BatchedFisher(len(good), p).update(a[good]).solve(b[good], damping=0.0)
    assert alone.converged and np.array_equal(alone.x, x[good])
    assert result.residual == alone.residual and result.backward_error < 1e-14
    assert not result.converged and result.status == "not_positive_definite"
    said = f"{n // 100} of {n} systems failed: {singular[0]}, {singular[1]}"
    assert said in repr(result)
    with pytest.raises(ConvergenceError, match=said) as caught:
        result.require_convergence()
    assert caught.value.solution is result
    mended = np.zeros(n)
    mended[singular] = 0.1
    assert F.solve(b, damping=mended).require_convergence().converged
    factor = F.factor(0.0)
    assert np.array_equal(factor.info, result.info)
    for answer in (factor.logdet(), factor.inv_diagonal().sum(1), factor.solve(b).sum(1)):
        assert np.array_equal(np.flatnonzero(np.isnan(answer)), singular)


@pytest.mark.parametrize("p", [2, 5, 9])
@pytest.mark.parametrize("count", [3, 30, 300])
def test_rank_deficient_systems_are_found_however_many_scores_were_summed(p, count, rng):
    """Rounding of the sums leaves positive pivots; a generic system beside them passes."""
    n = 60_000 // (count * p)
    for rank in {1, p - 1}:
        a = rng.standard_normal((n, count, rank)) @ rng.standard_normal((n, rank, p))
        a[::7] = rng.standard_normal(a[::7].shape)
        info = ff.BatchedFisher(n, p).update(a).solve(damping=0.0).info
        assert count < 2 * p or not info[::7].any()
        assert (np.delete(info, np.s_[::7]) > 0).all()


def test_what_is_not_finite_spoils_its_own_system_only(rng):
    a, b = rng.standard_normal((6, 9, 3)), rng.standard_normal((6, 3))
    a[2, 4, 1] = np.nan
    b[4, 0] = np.inf
    F = ff.BatchedFisher(6, 3, center=True).update(a, nan_policy="propagate")
    result = F.solve(b, damping=0.1)
    assert result.info.tolist() == [0, 0, -1, 0, -1, 0] and result.status == "not_finite"
    assert np.isnan(result.x[[2, 4]]).all() and np.isfinite(result.x[[0, 1, 3, 5]]).all()
    assert np.isfinite(np.delete(F.eigvalsh(), 2, 0)).all() and np.isnan(F.eigvalsh()[2]).all()
    assert F.factor(0.1).info.tolist() == [0, 0, -1, 0, 0, 0]


@centring
def test_nan_policies_name_the_score_and_skip_it(center, rng):
    a, w = rng.standard_normal((5, 8, 3)), rng.random((5, 8)) + 0.5
    spoiled = a.copy()
    spoiled[3, 6, 2] = np.nan
    spoiled[4, 0, 0] = np.inf
    F = ff.BatchedFisher(5, 3, center=center).update(a, w)
    before = pickle.dumps(F)
    for decay in (1.0, 0.5):
        with pytest.raises(InputError, match=r"system 3, score 6 \(2 such scores"):
            F.update(spoiled, w, decay=decay)
    assert pickle.dumps(F) == before
    F.update(spoiled, w, nan_policy="skip")
    v = w.copy()
    v[3, 6] = v[4, 0] = 0
    check(F, np.concatenate([a, a], axis=1), np.concatenate([w, v], axis=1), center)
    assert (F.n_samples, F.n_skipped) == (78, 2)


# Accumulation ------------------------------------------------------------------------------------


@hypothesis.given(data=st.data(), center=st.booleans())
def test_U1_U3_any_sequence_of_updates_merges_and_decays(data, center):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000), "seed"))
    F, rows, ages = ff.BatchedFisher(4, 3, center=center), np.zeros((4, 0, 3)), np.zeros((4, 0))
    for _ in range(data.draw(st.integers(1, 5), "updates")):
        count = data.draw(st.integers(0, 4), "S")
        a, w = rng.standard_normal((4, count, 3)) + 1, rng.random((4, count)) + 0.1
        decay = 1.0
        match data.draw(st.sampled_from(["update", "single", "merge", "decay"]), "how"):
            case "update":
                F.update(a, w)
            case "single":
                a, w = rng.standard_normal((4, 1, 3)), rng.random((4, 1))
                F.update(a[:, 0], w[:, 0])
            case "merge" if not F.decayed:
                F.merge(ff.BatchedFisher(4, 3, center=center).update(a, w))
            case _:
                decay = 0.5
                F.update(a, w, decay=decay)
        rows, ages = np.concatenate([rows, a], 1), np.concatenate([ages * decay, w], 1)
    assert F.n_samples == rows.shape[0] * rows.shape[1]
    np.testing.assert_allclose(F.weights, ages.sum(axis=1), rtol=1e-12)
    if rows.shape[1]:
        np.testing.assert_allclose(F.matrix(), explicit(rows, ages, center), atol=1e-12)


def test_U2_F7_centred_sums_survive_a_large_mean(rng):
    a = 1e8 + rng.standard_normal((3, 60, 4))
    a[:, :, 2] = 1e8 + 1 / 3
    F = ff.BatchedFisher(3, 4, center=True)
    for lo in range(0, 60, 7):
        F.update(a[:, lo : lo + 7])
    np.testing.assert_allclose(F.matrix(), explicit(a - 1e8, np.ones((3, 60)), True), atol=1e-6)
    assert np.all(F.diagonal()[:, 2] <= (80 * unit_roundoff("float64") * 1e8) ** 2)


def test_it_answers_what_the_op_without_matrices_answers(rng):
    a, b, w = rng.standard_normal((50, 20, 5)), rng.standard_normal((50, 5)), rng.random(20)
    x, info = ff.ops.batched_metric_solve(a, b, w, damping=0.2)
    F = ff.BatchedFisher(50, 5).update(a, w)
    np.testing.assert_allclose(F.solve(b, damping=0.2).x, x, rtol=1e-10)
    assert not info.any()


def test_complex_right_hand_sides_and_half_precision_scores(rng):
    a = rng.standard_normal((4, 9, 3))
    F = ff.BatchedFisher(4, 3).update(a)
    b = rng.standard_normal((4, 3)) + 1j * rng.standard_normal((4, 3))
    expected = np.linalg.solve(F.matrix() + 0.1 * np.eye(3), b[..., None])[..., 0]
    np.testing.assert_allclose(F.solve(b, damping=0.1).x, expected, rtol=1e-11)
    half = a.astype(np.float16)
    single = ff.BatchedFisher(4, 3, dtype="float32").update(half.astype("f4"))
    assert np.array_equal(
        ff.BatchedFisher(4, 3, dtype="float32").update(half).matrix(), single.matrix()
    )


# Objects -----------------------------------------------------------------------------------------


@over_dtypes
@centring
def test_save_load_copy_and_pickle_to_the_bit(dtype, center, tmp_path, rng):
    F = ff.BatchedFisher(4, 3, dtype=dtype, center=center, kind="mc")
    F.update(draws(3, dtype, rng, 4, 6), rng.random((4, 6))).update(
        draws(3, dtype, rng, 4, 2), decay=0.5
    )
    F.save(tmp_path / "a")
    more = draws(3, dtype, rng, 4, 2)
    expected = copy.deepcopy(F).update(more).matrix().tobytes()
    for again in (ff.load(tmp_path / "a"), pickle.loads(pickle.dumps(F)), copy.copy(F)):
        assert repr(again) == repr(F) and np.array_equal(again.weights, F.weights)
        assert again.decayed and again.kind == "mc"
        assert again.update(more).matrix().tobytes() == expected
    assert F.n_samples == 32


def test_what_does_not_fit_together_is_refused_and_changes_nothing(rng):
    F = ff.BatchedFisher(4, 3).update(rng.standard_normal((4, 2, 3)))
    before = pickle.dumps(F)
    a = rng.standard_normal((4, 5, 3))
    for call, message in [
        (lambda: F.update(a[:3]), r"G has shape \(3, 5, 3\); expected \(4, S, 3\) or \(4, 3\)"),
        (lambda: F.update(a[..., :2]), "G has shape"),
        (lambda: F.update(a[0, 0]), "G has shape"),
        (lambda: F.update(a * 1j), "make it with dtype='complex128'"),
        (lambda: F.update(a.astype(int)), "astype"),
        (lambda: F.update(a, np.ones(4)), r"weights has shape \(4,\); expected \(4, 5\) or \(5,\)"),
        (lambda: F.update(a[:, 0], np.ones(3)), r"weights has shape \(3,\); expected \(4,\)"),
        (lambda: F.update(a, -np.ones(5)), r"weights\[0\] is -1.0"),
        (lambda: F.update(a, np.full((4, 5), np.nan)), r"weights\[0, 0\] is nan"),
        (lambda: F.update(a, decay=0), "decay is 0"),
        (lambda: F.update(a, nan_policy="omit"), "nan_policy is 'omit'"),
        (lambda: F.update(a * 1e200), "squares overflow"),
        (lambda: F.solve(np.ones(3), damping=1.0), r"b has shape \(3,\)"),
        (lambda: F.solve(damping=None), "damping is None"),
        (lambda: F.solve(damping=[1.0]), r"damping has shape \(1,\)"),
        (lambda: F.solve(coef=np.ones(2), damping=1.0), "does not keep the scores"),
        (lambda: F @ np.ones(3), "v has shape"),
        (lambda: F.factor(1.0).inv_quad(np.ones((4, 3))), "J has shape"),
        (lambda: ff.BatchedFisher(-1, 3), "n is -1"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    for other in (ff.BatchedFisher(5, 3), ff.BatchedFisher(4, 2), ff.DenseFisher(3), F):
        with pytest.raises(StateError, match="cannot merge"):
            F.merge(other)
    assert pickle.dumps(F) == before
    with pytest.raises(MemoryLimitError, match=r"BatchedFisher\(1000000000, 32\)"):
        ff.BatchedFisher(10**9, 32)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)], ids=str)
def test_no_systems_and_no_parameters(shape):
    n, p = shape
    F = ff.BatchedFisher(n, p).update(np.zeros((n, 2, p)))
    result = F.solve(np.zeros((n, p)), damping=1.0)
    assert result.converged and result.x.shape == (n, p) and result.info.shape == (n,)
    assert F.factor(1.0).logdet().shape == (n,) and F.eigvalsh().shape == (n, p)


def test_systems_without_scores_are_zero(rng):
    F = ff.BatchedFisher(3, 2)
    assert not F.matrix().any() and not F.trace().any()
    np.testing.assert_allclose(F.solve(np.ones((3, 2)), damping=0.25).x, 4.0)
    F.update(np.ones((3, 0, 2)))
    assert F.n_samples == 0
    F.update(np.ones((3, 1, 2)), [1.0, 0.0, 2.0][:1] * 1)
    assert F.weights.tolist() == [1.0] * 3
    F = ff.BatchedFisher(3, 2).update(np.ones((3, 2)), [1.0, 0.0, 2.0])
    assert F.weights.tolist() == [1, 0, 2] and not F.matrix()[1].any()
    assert F.solve(damping=0.0).failed.tolist() == [0, 1, 2]


@pytest.mark.parametrize("p", [1, 4, 9])
def test_law_26_15_systems_of_any_scale_side_by_side(p, rng):
    """Scores times 2^k: x times 2^-k for relative damping, to the bit, from 1e-150 to 1e150."""
    a = np.broadcast_to(rng.standard_normal((1, 3 * p, p)), (5, 3 * p, p))
    powers = np.array([0, -498, -240, 240, 498])
    scale = np.ldexp(1.0, powers)
    F = ff.BatchedFisher(5, p).update(a * scale[:, None, None])
    b = np.broadcast_to(rng.standard_normal(p), (5, p)) * scale[:, None]
    result = F.solve(b, damping=ff.Relative(0.1))
    assert result.converged and result.residual < 1e-12
    for i in range(1, 5):
        assert np.array_equal(result.x[i] * scale[i], result.x[0])
    factor = F.factor(ff.Relative(0.1))
    shift = 2 * p * np.log(2) * powers
    np.testing.assert_allclose(factor.logdet() - shift, factor.logdet()[0], rtol=1e-10)
