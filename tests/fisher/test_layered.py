"""The layered Fisher against explicit scores: L1-L4, the laws of the dual, memory of a real net."""

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastfisher as ff
from fastfisher.errors import InputError, NotPositiveDefiniteError, StateError
from tests import matrices, oracle
from tests.fisher.layers import layer, mixed, part, widths
from tests.tolerances import assert_ratio, entrywise_ratio, forward_ratio, unit_roundoff

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
centring = pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
LAM = 0.3


def close(result, expected, dtype, slack=1.0):
    scale = np.max(np.abs(expected), initial=0.0) or 1.0
    tolerance = slack * 300 * unit_roundoff(dtype) * scale
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)


def filled(n, dtype, center=False, weighted=True):
    layers, w = mixed(n, dtype), matrices.weights(n, dtype) if weighted else None
    F = ff.LayeredFisher(center=center).update(layers, w)
    return F, layers, w, oracle.fisher(oracle.layer_scores(layers), w, center)


@over_dtypes
@centring
@pytest.mark.parametrize("n", [1, 2, 13, 40])
def test_L1_L2_every_question_is_that_of_explicit_scores(n, center, dtype, rng):
    F, layers, w, exact = filled(n, dtype, center)
    p = len(exact)
    G = oracle.layer_scores(layers)
    bound = oracle.fisher(np.abs(G), w) * (1 + 3 * center)
    u = (n + 40) * unit_roundoff(dtype)
    assert F.p == p and F.dtype == dtype and F.widths == tuple(widths(layers))
    assert entrywise_ratio(F.matrix(), exact, u * bound) <= 10
    assert np.array_equal(F.matrix(), F.matrix().conj().T)
    assert entrywise_ratio(F.diagonal(), np.diag(exact).real, u * np.diag(bound)) <= 10
    close(F.trace(), np.trace(exact).real, dtype)
    close(F.mean, oracle.mean_gradient(G, w).conj(), dtype)
    v = matrices.gaussian((p, 3), dtype, rng)
    size = np.linalg.norm(bound) * np.linalg.norm(v)
    assert np.abs(F @ v - exact @ v).max() <= 10 * u * size
    assert (F @ v[:, 0]).shape == (p,) and (F @ v).dtype == dtype
    S = oracle.scaled_rows(G, w, center)
    close(F.gram(), S @ oracle.ct(S) if not center or n > 1 else 0, dtype, slack=8)
    assert np.array_equal(F.gram(), F.gram().conj().T)
    spectrum = F.eigvalsh()
    assert spectrum.shape == (n,) and np.all(np.diff(spectrum) >= 0)
    k = min(n, p)
    full = np.linalg.eigvalsh(exact)[-k:]
    assert np.abs(spectrum[-k:] - full).max() <= 300 * unit_roundoff(dtype) * np.trace(bound)


@over_dtypes
@centring
@pytest.mark.parametrize("damping", [LAM, ff.Relative(0.3), ff.Marquardt(0.3, shift=0.1)], ids=str)
@pytest.mark.parametrize("n", [1, 12, 90])
def test_D1_D6_solves_agree_with_the_dense_ones(n, damping, center, dtype, rng):
    F, layers, w, exact = filled(n, dtype, center)
    p, G = len(exact), oracle.layer_scores(layers)
    D = {
        ff.Relative: lambda: 0.3 * np.trace(exact).real / p * np.ones(p),
        ff.Marquardt: lambda: 0.3 * np.diag(exact).real + 0.1,
    }.get(type(damping), lambda: LAM * np.ones(p))()
    A = exact + np.diag(D)
    if center and n == 1 and isinstance(damping, ff.Relative):
        pytest.skip("F is zero, so is the damping")
    # Centring subtracts: what it amplifies is the size of raw scores against centred ones.
    cond = np.linalg.norm(oracle.fisher(np.abs(G), w) + np.diag(D), 2) * np.linalg.norm(
        np.linalg.inv(A), 2
    )
    b, c = matrices.gaussian((p, 2), dtype, rng), matrices.gaussian((n, 2), dtype, rng)
    cases = {
        "b": (F.solve(b, damping=damping), oracle.wide(b)),
        "coef": (F.solve(coef=c, damping=damping), oracle.coef_rhs(G, c, w, center)),
        "mean": (F.solve(damping=damping), oracle.mean_gradient(G, w)),
    }
    for name, (sol, rhs) in cases.items():
        assert sol.converged and sol.method == "dual" and sol.x.dtype == dtype
        if not np.any(np.abs(rhs) > 0):
            continue
        expected = np.linalg.solve(A, rhs)
        limit = 100 if name != "coef" or not center or n > 1 else np.inf
        assert_ratio(forward_ratio(sol.x, expected, cond), limit, f"{name} {n} {damping}")
    lam = damping.c if isinstance(damping, ff.Marquardt) else D[0]
    assert cases["b"][0].damping == pytest.approx(lam, rel=1e3 * unit_roundoff(dtype))


def test_equal_to_the_explicit_dual_on_a_net_to_1e_10(rng):
    n, net = 60, (30, 17, 9, 17, 30)
    layers = [
        (np.hstack([rng.standard_normal((n, a)), np.ones((n, 1))]), rng.standard_normal((n, b)))
        for a, b in pairwise(net)
    ]
    G = oracle.layer_scores(layers)
    assert G.shape[1] > 20 * n
    for lam in (1e-2, 1.0):
        F = ff.LayeredFisher().update(layers)
        for sol, expected in [
            (F.solve(damping=lam), oracle.dual_coef(G, np.ones(n), lam)),
            (F.solve(G[0], damping=lam), oracle.dual_solve(G, G[0], lam)),
            (F.solve(coef=G[:, 3], damping=lam), oracle.dual_coef(G, G[:, 3], lam)),
        ]:
            size = np.linalg.norm(expected)
            assert np.linalg.norm(sol.x - expected) <= 1e-10 * size, (lam, sol)


@over_dtypes
@pytest.mark.parametrize("center", [False, True])
def test_Q2_Q3_the_factor_answers_what_the_dense_inverse_answers(center, dtype, rng):
    F, _, _, exact = filled(14, dtype, center)
    p = len(exact)
    A = exact + LAM * np.eye(p)
    inverse, factor = np.linalg.inv(A), F.factor(LAM)
    close(factor.logdet(), np.linalg.slogdet(A)[1], dtype)
    close(factor.inv_diagonal(), np.diag(inverse).real, dtype)
    J = matrices.gaussian((5, p), dtype, rng)
    close(factor.inv_quad(J), J @ inverse @ J.conj().T, dtype)
    b = matrices.gaussian((p, 3), dtype, rng)
    close(factor.solve(b), inverse @ b, dtype, slack=3)
    assert factor.sample(rng, 7).shape == (7, p)
    with pytest.raises(InputError, match=r"LayeredFisher\.factor needs scalar damping"):
        F.factor(ff.Marquardt(0.1, shift=0.1))


@given(data=st.data())
def test_L3_adjoint_products_and_batches_agree_for_any_layers(data):
    n = data.draw(st.integers(1, 9), "n")
    shapes = data.draw(
        st.lists(
            st.tuples(st.sampled_from([None, 1, 2, 7]), st.integers(1, 6), st.integers(1, 6)),
            min_size=1,
            max_size=3,
        )
    )
    layers = [layer(n, *shape) for shape in shapes]
    w = matrices.weights(n) + 0.1
    cut = data.draw(st.integers(0, n))
    G = oracle.layer_scores(layers)
    F = ff.LayeredFisher().update(part(layers, 0, cut), w[:cut])
    F.update(part(layers, cut, n), w[cut:])
    exact = oracle.fisher(G, w)
    u, v = np.linspace(-1, 1, F.p), np.cos(np.arange(F.p))
    close(F @ v, exact @ v, "float64", slack=10 * F.p)
    assert u @ (F @ v) == pytest.approx(v @ (F @ u), abs=1e-12 * np.abs(exact).sum())
    b = G[-1]
    expected = np.linalg.solve(exact + LAM * np.eye(F.p), b)
    close(F.solve(b, damping=LAM).x, expected, "float64", slack=100)


def test_U1_U3_chunks_merge_and_decay(rng):
    layers, w = mixed(20), rng.random(20) + 0.1
    whole = ff.LayeredFisher().update(layers, w)
    cuts = list(pairwise((0, 3, 4, 20)))
    parts = [ff.LayeredFisher().update(part(layers, *cut), w[slice(*cut)]) for cut in cuts]
    a, b, c = parts
    left = copy.deepcopy(a).merge(b).merge(c)
    right = copy.deepcopy(a).merge(copy.deepcopy(b).merge(c))
    unit = ff.LayeredFisher().merge(whole)
    for F in (left, right, unit):
        np.testing.assert_allclose(F.matrix(), whole.matrix(), rtol=1e-12, atol=1e-13)
        assert F.n_samples == 20 and F.weight == pytest.approx(w.sum())
        assert F.sizes == whole.sizes
    decayed = ff.LayeredFisher().update(part(layers, 0, 8)).update(part(layers, 8, 20), decay=0.5)
    age = np.repeat([0.5, 1.0], [8, 12])
    exact = oracle.fisher(oracle.layer_scores(layers), age)
    np.testing.assert_allclose(decayed.matrix(), exact, rtol=1e-12, atol=1e-13)
    with pytest.raises(StateError, match="decayed"):
        decayed.merge(whole)
    other = ff.LayeredFisher().update([layer(3, None, F.p, 1)])
    with pytest.raises(StateError, match="sizes is"):
        whole.merge(other)


@over_dtypes
def test_state_round_trip_copy_and_pickle_are_equal_and_independent(dtype, tmp_path):
    layers = mixed(6, dtype)
    F = ff.LayeredFisher(center=True, kind="mc").update(layers, np.arange(6.0))
    F.save(tmp_path / "state")
    saved = F.solve(damping=LAM).x.tobytes()
    copies = ff.load(tmp_path / "state"), copy.copy(F), pickle.loads(pickle.dumps(F))
    for again in copies:
        assert repr(again) == repr(F) and again.sizes == F.sizes
        assert again.matrix().tobytes() == F.matrix().tobytes()
        again.update(layers)
        assert F.solve(damping=LAM).x.tobytes() == saved
    assert len({again.matrix().tobytes() for again in copies}) == 1
    empty = ff.LayeredFisher()
    empty.save(tmp_path / "empty")
    assert ff.load(tmp_path / "empty").update(layers).sizes == F.sizes


@pytest.mark.parametrize("where", [(0, 2, 0), (1, 5, 1)], ids=str)
def test_26_16_a_sample_that_is_not_finite_is_named_or_left_out(where):
    layers, w = mixed(8), np.linspace(1, 2, 8)
    index, sample, side = where
    spoiled = [tuple(x.copy() for x in pair) for pair in layers]
    spoiled[index][side][sample, ..., 0] = np.nan
    F = ff.LayeredFisher()
    with pytest.raises(InputError, match=f"layers holds .* not finite in row {sample} "):
        F.update(spoiled, w)
    assert F.n_samples == 0 and F.p is None and F.sizes is None
    F.update(spoiled, w, nan_policy="skip")
    keep = np.arange(8) != sample
    clean = ff.LayeredFisher().update([(A[keep], E[keep]) for A, E in layers], w[keep])
    np.testing.assert_allclose(F.matrix(), clean.matrix(), rtol=1e-12, atol=1e-13)
    assert (F.n_samples, F.n_skipped) == (7, 1)
    np.testing.assert_allclose(F.solve(damping=LAM).x, clean.solve(damping=LAM).x, rtol=1e-10)
    seen = ff.LayeredFisher().update(spoiled, nan_policy="propagate")
    with pytest.raises(InputError, match=f"row {sample}, column"):
        seen.solve(damping=LAM)


def test_bad_layers_are_refused_and_change_nothing():
    layers = mixed(5)
    F = ff.LayeredFisher().update(layers)
    before = F.matrix().tobytes()
    (A, E), *rest = layers
    for bad, message in [
        ([], "layers is empty"),
        (7, "layers is int; expected pairs"),
        ([A, E], "layers.0. is no pair"),
        (rest, "2 layers came but this Fisher has 3"),
        ([(A[:, 1:], E), *rest], r"layers\[0\] has \(d_in, d_out\) = \(3, 3\); this .* \(4, 3\)"),
        ([(A[:4], E), *rest], "expected the same samples"),
        ([(A[:4], E[:4]), *rest], r"layers have \[4, 5\] samples"),
        ([(A, E), (rest[0][0][:, :1], rest[0][1][:, :1]), rest[1]], "1 tokens a sample; .* has 2"),
        ([(A.astype(int), E), *rest], "dtype int"),
        ([(A * 1j, E), *rest], "layers is complex128 but this Fisher is float64"),
        ([(A * 1e160, E), *rest], "layers holds values up to .* squares overflow"),
    ]:
        with pytest.raises(InputError, match=message):
            F.update(bad)
    with pytest.raises(InputError, match="weights has shape"):
        F.update(layers, np.ones(4))
    with pytest.raises(InputError, match="both b and coef"):
        F.solve(np.ones(F.p), coef=np.ones(5), damping=1.0)
    assert F.matrix().tobytes() == before and F.n_samples == 5


@centring
def test_lambda_zero_gives_the_minimum_norm_solution_for_coefficients(center, rng):
    F, layers, w, _ = filled(9, "float64", center)
    G, c = oracle.layer_scores(layers), rng.standard_normal(9)
    S = oracle.scaled_rows(G, w, center)
    expected = np.linalg.pinv(S) @ (np.sqrt(w / w.sum()) * (c - center * (w @ c) / w.sum()))
    np.testing.assert_allclose(F.solve(coef=c, damping=0).x, expected, rtol=1e-8, atol=1e-10)
    with pytest.raises(NotPositiveDefiniteError, match="rank at most"):
        F.solve(np.ones(F.p), damping=0)


@pytest.mark.parametrize("k", [-480, -300, 300, 480])
@pytest.mark.parametrize("side", [0, 1], ids=["A", "E"])
def test_26_15_powers_of_two_on_a_factor_scale_every_answer(k, side):
    """Also where the squares of one factor alone leave the range."""
    layers = mixed(7)
    scaled = [tuple(x * 2.0 ** (k * (s == side)) for s, x in enumerate(pair)) for pair in layers]
    a, b = (ff.LayeredFisher().update(x).solve(damping=ff.Relative(0.1)) for x in (layers, scaled))
    assert b.converged
    np.testing.assert_allclose(b.x * 2.0**k, a.x, rtol=1e-11)


def test_26_15_opposite_powers_on_both_factors_change_nothing():
    layers = mixed(7)
    unbalanced = [(A * 2.0**700, E * 2.0**-700) for A, E in layers]
    a, b = (ff.LayeredFisher().update(x) for x in (layers, unbalanced))
    np.testing.assert_allclose(b.matrix(), a.matrix(), rtol=1e-13)
    np.testing.assert_allclose(b.solve(damping=LAM).x, a.solve(damping=LAM).x, rtol=1e-12)


def test_half_precision_storage_and_reproducible_kernels():
    layers = [tuple(x.astype(np.float16) for x in pair) for pair in mixed(9)]
    F = ff.LayeredFisher().update(layers)
    assert F.dtype == np.float32
    exact = oracle.fisher(oracle.layer_scores(layers))
    close(F.matrix(), exact, "float32")
    with ff.options(reproducible=True):
        sol = F.solve(damping=LAM)
    assert sol.plan.reproducible
    close(sol.x, F.solve(damping=LAM).x, "float32")


def test_a_small_solve_forms_no_scores_either(monkeypatch, rng):
    from fastfisher.ops.layers import Layers

    def refuse(*_, **__):
        raise AssertionError("explicit scores")

    F, *_, exact = filled(13, "float64")
    for name in ("rows", "columns"):
        monkeypatch.setattr(Layers, name, refuse)
    assert F.solve(rng.standard_normal(len(exact)), damping=LAM).converged


def test_the_plan_names_the_layered_route():
    F = ff.LayeredFisher().update(mixed(9))
    plan = F.solve(damping=1.0).plan
    assert plan.method == "dual" and plan.stages[0].op == "layered_gram"
    assert "the scores are layered" in str(plan) and plan.peak_bytes > 0
    assert plan.problem.p == F.p


def test_without_a_batch_questions_are_refused_politely():
    F = ff.LayeredFisher()
    for ask in (lambda: F.solve(np.ones(3), damping=1.0), lambda: F @ np.ones(3)):
        with pytest.raises(InputError):
            ask()
    empty = ff.LayeredFisher().update([(np.zeros((0, 3)), np.zeros((0, 2)))])
    assert empty.p == 6 and not empty.matrix().any()
    np.testing.assert_allclose(empty.solve(np.ones(6), damping=0.5).x, 2.0)


def test_a_fisher_that_saw_nothing_has_no_parameters():
    F = ff.LayeredFisher()
    result = F.solve(damping=0.1)
    assert result.converged and result.x.shape == (0,)
    assert F.matrix().shape == (0, 0) and F.diagonal().shape == (0,)
