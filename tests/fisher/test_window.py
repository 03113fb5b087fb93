"""The window Fisher: B3, replaced scores, storage in half precision, ages, centring, state."""

import copy

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import fastfisher as ff
from fastfisher.errors import InputError, MemoryLimitError, NotPositiveDefiniteError, StateError
from tests import matrices, oracle
from tests.tolerances import assert_ratio, forward_ratio, gram_ratio, unit_roundoff

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
centring = pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])


def gram_of(G, w, center):
    S = oracle.scaled_rows(G, w, center)
    return S @ oracle.ct(S)


@over_dtypes
@centring
@pytest.mark.parametrize("batch", [1, 3, 7, 11, 40], ids=lambda n: f"by{n}")
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_B3_after_replacements_the_window_equals_a_fresh_one(dtype, center, batch, read, rng):
    m, p, n = 11, 60, 47
    G, w = matrices.gaussian((n, p), dtype, rng), matrices.weights(n, dtype)
    F = ff.WindowFisher(m, p, dtype=dtype, center=center)
    for lo in range(0, n, batch):
        F.update(G[lo : lo + batch], w[lo : lo + batch])
        if read:
            F.gram()
    last, weights = G[-m:], w[-m:]
    fresh = ff.GramFisher(dtype=dtype, center=center).update(last, weights)
    K, exact = F.gram(), gram_of(last, weights, center)
    assert np.array_equal(K, K.conj().T)
    assert_ratio(gram_ratio(K, exact, gram_of(np.abs(last), weights, False), p), 10, "Gram")
    np.testing.assert_allclose(F.matrix(), oracle.fisher(last, weights, center), atol=1e-5)
    b = matrices.gaussian((p,), dtype, rng)
    F_last, lam = oracle.fisher(last, weights, center), 0.5
    expected = np.linalg.solve(F_last + lam * np.eye(p), oracle.wide(b))
    result = F.solve(b, damping=lam)
    cond = np.linalg.cond(F_last + lam * np.eye(p))
    assert result.converged and result.method == "dual"
    assert_ratio(forward_ratio(result.x, expected, cond), 300, "solve")
    same = fresh.solve(b, damping=lam)
    assert result.cancellation == pytest.approx(same.cancellation, rel=0.1)
    assert (F.n_samples, F.n_seen) == (m, n)
    assert F.weight == pytest.approx(weights.sum(dtype=np.float64))


@hypothesis.given(data=st.data(), center=st.booleans())
def test_B3_any_sequence_of_updates_reads_and_decays(data, center):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000), "seed"))
    m, p = data.draw(st.integers(1, 9), "m"), 20
    F = ff.WindowFisher(m, p, center=center)
    rows, weights = np.zeros((0, p)), np.zeros(0)
    for _ in range(data.draw(st.integers(1, 8), "updates")):
        n = data.draw(st.integers(0, 12), "n")
        decay = data.draw(st.sampled_from([1.0, 0.5]), "decay")
        G, w = rng.standard_normal((n, p)), rng.random(n) + 0.1
        F.update(G, w, decay=decay)
        rows = np.vstack([rows, G])[-m:]
        weights = np.concatenate([weights * decay, w])[-m:]
        if data.draw(st.booleans(), "read") and len(rows):
            np.testing.assert_allclose(F.gram(), gram_of(rows, weights, center), atol=1e-12)
        if data.draw(st.booleans(), "copy"):
            F = F.__copy__()
    assert F.n_samples == len(rows) and F.weight == pytest.approx(weights.sum())
    if len(rows):
        np.testing.assert_allclose(F.gram(), gram_of(rows, weights, center), atol=1e-12)
        np.testing.assert_allclose(F.diagonal(), np.diag(oracle.fisher(rows, weights, center)))


def test_only_rows_of_new_scores_are_computed(rng, monkeypatch):
    import fastfisher.fisher.window as module

    F = ff.WindowFisher(20, 50).update(rng.standard_normal((20, 50)))
    F.gram()
    monkeypatch.setattr(module, "add_gram", None)
    seen = []
    real = module.products
    monkeypatch.setattr(module, "products", lambda *a, **k: seen.append(len(a[1])) or real(*a, **k))
    F.update(rng.standard_normal((2, 50)))
    F.update(rng.standard_normal((1, 50)))
    result = F.solve(damping=0.1)
    assert seen == [3] and "3 of 20 rows" in str(result.plan)
    F.solve(damping=1.0)
    F.factor(0.5)
    assert seen == [3]


@pytest.mark.parametrize("dtype", ("float32", "float64", "complex64"))
@centring
def test_the_pass_for_new_scores_also_serves_the_right_hand_sides(center, dtype, rng, monkeypatch):
    import fastfisher.fisher.window as window
    import fastfisher.solvers.system as system

    def draw(*shape):
        x = rng.standard_normal(shape)
        return (x + 1j * rng.standard_normal(shape) if dtype[0] == "c" else x).astype(dtype)

    seen, real = [], system.products
    for module in (window, system):
        monkeypatch.setattr(
            module, "products", lambda *a, **t: seen.append(len(a[1])) or real(*a, **t)
        )
    F = ff.WindowFisher(30, 70, dtype=dtype, center=center).update(draw(40, 70))
    F.gram()
    for k in (1, 3, window.CHUNK + 1):
        F.update(draw(2, 70), decay=0.9)
        apart, b = copy.deepcopy(F), draw(70, k)
        apart.gram()  # the new rows by themselves
        expected = apart.solve(b, damping=0.1)
        seen.clear()
        found = F.solve(b, damping=0.1)
        assert np.array_equal(found.x, expected.x) and found.residual == expected.residual
        together = k <= window.CHUNK and not center
        assert seen == ([2 + k] if together else [2, k])


@centring
def test_coefficients_follow_the_age_of_the_scores(center, rng):
    G, c = rng.standard_normal((13, 30)), rng.standard_normal((5, 2))
    F = ff.WindowFisher(5, 30, center=center)
    for g in G:
        F.update(g[np.newaxis])
    expected = ff.solve(G[-5:], coef=c, center=center, damping=1e-3)
    np.testing.assert_allclose(F.solve(coef=c, damping=1e-3).x, expected.x, atol=1e-11)
    one = F.solve(coef=c[:, 0], damping=1e-3).x
    np.testing.assert_allclose(one, expected.x[:, 0], atol=1e-11)
    np.testing.assert_allclose(F.gram(), gram_of(G[-5:], None, center), atol=1e-12)
    with pytest.raises(InputError, match=r"coef has shape \(4,\)"):
        F.solve(coef=np.ones(4), damping=1.0)


def test_U2_centred_windows_survive_a_mean_that_moves_far_away(rng):
    """The origin of the kept Gram matrix follows the mean, or every digit would be lost."""
    F = ff.WindowFisher(8, 40, center=True)
    for mean in (0.0, 1e3, 1e8, -1e8):
        for step in range(12):
            F.update(rng.standard_normal((2, 40)) + mean)
            K = F.gram()
            if step >= 3:  # none is left of the mean before
                rows = F._rows[F._slots()] - mean
                np.testing.assert_allclose(K, gram_of(rows, None, True), atol=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_storage_only(dtype, rng):
    F = ff.WindowFisher(6, 50, dtype=dtype)
    G = rng.standard_normal((9, 50)).astype(np.float32)
    F.update(G)
    stored = F._rows.dtype
    assert stored.itemsize == 2 and F.dtype == np.float32 and f"stored as {dtype}" in repr(F)
    rounded = G[-6:].astype(stored).astype(np.float32)
    exact = ff.GramFisher().update(rounded)
    np.testing.assert_allclose(F.gram(), exact.gram(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(F.diagonal(), exact.diagonal())
    b = rng.standard_normal(50).astype(np.float32)
    np.testing.assert_allclose(
        F.solve(b, damping=0.1).x, exact.solve(b, damping=0.1).x, rtol=1e-4, atol=1e-4
    )


def test_values_that_the_storage_cannot_hold_are_refused(rng):
    F = ff.WindowFisher(3, 4, dtype="float16").update(np.ones((1, 4), np.float32))
    G = np.full((2, 4), 7e4, np.float32)
    with pytest.raises(InputError, match=r"up to 7e\+04, beyond the 6.55e\+04 of float16"):
        F.update(G, decay=0.5)
    assert F.n_seen == 1 and F.weight == 1
    F.update(G / 2)
    assert F.n_seen == 3


def test_skipped_rows_take_no_place(rng):
    G = rng.standard_normal((9, 12))
    G[[2, 8], 3] = np.nan
    F = ff.WindowFisher(4, 12).update(G, nan_policy="skip")
    assert (F.n_samples, F.n_seen, F.n_skipped) == (4, 7, 2)
    np.testing.assert_allclose(F.gram(), gram_of(G[[4, 5, 6, 7]], None, False), atol=1e-12)


def test_a_row_that_is_not_finite_leaves_no_trace_once_it_is_replaced(rng):
    G = rng.standard_normal((4, 12))
    G[0, 0] = np.nan
    F = ff.WindowFisher(3, 12).update(G[:2], nan_policy="propagate")
    with pytest.raises(InputError, match="row 0"):
        F.solve(np.ones(12), damping=1.0)
    F.update(G[2:])
    np.testing.assert_allclose(F.gram(), gram_of(G[1:], None, False), atol=1e-12)


def test_merge_moves_scores_that_fit(rng):
    G = rng.standard_normal((9, 8))
    a, b = ff.WindowFisher(7, 8).update(G[:3]), ff.WindowFisher(4, 8).update(G[3:9], [1] * 5 + [0])
    assert a.merge(b) is a
    assert (a.n_samples, a.n_seen, a.weight) == (7, 9, 6.0)
    w = np.array([1, 1, 1, 1, 1, 1, 0.0])
    np.testing.assert_allclose(a.gram(), gram_of(G[[0, 1, 2, 5, 6, 7, 8]], w, False), atol=1e-12)
    with pytest.raises(StateError, match="7 scores here and 4 there do not fit a window of 7"):
        a.merge(b)
    half = ff.WindowFisher(4, 8, dtype="float16").update(G[:1].astype("f4"))
    with pytest.raises(StateError, match="scores are float32 here, float16 there"):
        ff.WindowFisher(4, 8, dtype="float32").merge(half)


@pytest.mark.parametrize("dtype", ["float64", "complex64", "float16", "bfloat16"])
@centring
def test_a_rotated_window_resumes_to_the_bit(dtype, center, tmp_path, rng):
    F = ff.WindowFisher(5, 9, dtype=dtype, center=center)
    G = matrices.gaussian((20, 9), "complex64" if dtype == "complex64" else "float32", rng)
    F.update(G[:7])
    F.gram()
    F.update(G[7:8], decay=0.5)
    F.save(tmp_path / "a")
    again = ff.load(tmp_path / "a")
    assert repr(again) == repr(F) and again.n_seen == 8
    for part in (G[:0], G[8:10]):
        for each in (F, again):
            each.update(part)
        assert again.gram().tobytes() == F.gram().tobytes()
        assert again.matrix().tobytes() == F.matrix().tobytes()


def test_what_makes_no_sense_is_refused():
    for call, message in [
        (lambda: ff.WindowFisher(0, 3), "m is 0"),
        (lambda: ff.WindowFisher(2.5, 3), "m is 2.5"),
        (lambda: ff.WindowFisher(2, 3, dtype="int8"), "dtype is 'int8'"),
        (lambda: ff.WindowFisher(2, 3).update(np.ones((1, 4))), "G has 4 columns"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(MemoryLimitError, match=r"WindowFisher\(1000000, 1000000000\)"):
        ff.WindowFisher(10**6, 10**9)
    F = ff.WindowFisher(2, 5).update(np.ones((1, 5)))
    with pytest.raises(NotPositiveDefiniteError):
        F.solve(np.arange(5.0), damping=0)


def test_the_work_of_a_step_is_linear_in_the_parameters(rng):
    F = ff.WindowFisher(64, 2000, dtype="float32").update(
        rng.standard_normal((64, 2000)).astype(np.float32)
    )
    F.solve(damping=0.1)
    F.update(rng.standard_normal((1, 2000)).astype(np.float32))
    plan = F.solve(damping=0.1).plan
    assert plan.flops < 64**3 + 20 * 64 * 2000
    assert unit_roundoff(F.dtype) < F.solve(np.ones(2000), damping=0.1).cancellation < 1


def test_path_by_coefficients_follows_the_age_of_the_scores(rng):
    F, c = ff.WindowFisher(5, 12), rng.standard_normal(5)
    G = rng.standard_normal((8, 12))
    for row in G:  # three scores were replaced: slots are no longer in order
        F.update(row[np.newaxis])
    for lam, x in zip((0.1, 2.0), F.path(None, [0.1, 2.0], coef=c).x().T, strict=True):
        np.testing.assert_allclose(x, oracle.dual_coef(G[3:], c, lam), rtol=1e-10, atol=1e-13)
