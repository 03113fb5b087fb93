"""KFAC and EKFAC against explicit rows: C1-C5, P6, P7, and the laws of every Fisher."""

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
from tests.fisher.layers import ekfac, exact_blocks, factors, kfac, layer, mixed, part, widths
from tests.tolerances import assert_ratio, forward_ratio, unit_roundoff

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
over_tokens = pytest.mark.parametrize("tokens", ["expand", "reduce"])
over_forms = pytest.mark.parametrize("corrected", [False, True], ids=["kfac", "ekfac"])
LAM = 0.3


def close(result, expected, dtype="float64", slack=1.0):
    scale = np.max(np.abs(expected), initial=0.0) or 1.0
    tolerance = slack * 300 * unit_roundoff(dtype) * scale
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)


def fisher(layers, **settings):
    return ff.KroneckerFisher(widths(layers), **settings)


def reference(layers, w, tokens, corrected):
    return (ekfac if corrected else kfac)(layers, w, tokens)


def filled(n, dtype="float64", *, corrected=False, tokens="expand", weighted=True):
    layers, w = mixed(n, dtype), matrices.weights(n, dtype) + 0.1 if weighted else None
    F = fisher(layers, dtype=dtype, corrected=corrected, tokens=tokens).update(layers, w)
    return F, layers, w, reference(layers, w, tokens, corrected)


@over_dtypes
@over_tokens
@over_forms
@pytest.mark.parametrize("n", [1, 13, 60])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_C1_C2_C3_every_question_is_that_of_the_dense_matrix(
    weighted, n, corrected, tokens, dtype, rng
):
    F, layers, w, exact = filled(n, dtype, corrected=corrected, tokens=tokens, weighted=weighted)
    if n == 1 and corrected:  # bases of a null space are free: take those that were taken
        bases = [np.kron(b.outputs, b.inputs) for b in F._moments.bases]
        exact = ekfac(layers, w, tokens, bases=bases)
    p = len(exact)
    assert F.p == p and F.dtype == dtype
    close(F.matrix(), exact, dtype)
    assert np.array_equal(F.matrix(), F.matrix().conj().T)
    close(F.diagonal(), np.diag(exact).real, dtype)
    close(F.trace(), np.trace(exact).real, dtype)
    close(F.eigvalsh(), np.linalg.eigvalsh(exact), dtype)
    close(F.mean, oracle.mean_gradient(oracle.layer_scores(layers), w).conj(), dtype)
    v = matrices.gaussian((p, 3), dtype, rng)
    close(F @ v, exact @ v, dtype, slack=3)
    assert (F @ v).dtype == dtype and (F @ v[:, 0]).shape == (p,)
    real = np.empty(0, dtype).real.dtype
    assert F.diagonal().dtype == F.eigvalsh().dtype == real
    assert F.n_samples == n


@over_dtypes
@over_tokens
@over_forms
@pytest.mark.parametrize("damping", [LAM, ff.Relative(0.1), ff.LevenbergMarquardt(2.0)], ids=str)
def test_P7_exact_damping_solves_the_dense_system(damping, corrected, tokens, dtype, rng):
    F, layers, w, exact = filled(30, dtype, corrected=corrected, tokens=tokens)
    p = len(exact)
    lam = 0.1 * np.trace(exact).real / p if isinstance(damping, ff.Relative) else None
    lam = lam or getattr(damping, "lam", LAM)
    A = exact + lam * np.eye(p)
    b = matrices.gaussian((p, 2), dtype, rng)
    g = oracle.mean_gradient(oracle.layer_scores(layers), w)
    for sol, rhs in ((F.solve(b, damping=damping), b), (F.solve(damping=damping), g)):
        assert sol.converged and sol.rung == "eigenbasis" and sol.x.dtype == dtype
        assert sol.damping == pytest.approx(lam, rel=1e3 * unit_roundoff(dtype))
        expected = np.linalg.solve(A, oracle.wide(rhs))
        assert_ratio(forward_ratio(sol.x, expected, np.linalg.cond(A)), 100, f"{F!r}")
    inverse, factor = np.linalg.inv(A), F.factor(damping)
    close(factor.logdet(), np.linalg.slogdet(A)[1], dtype)
    close(factor.inv_diagonal(), np.diag(inverse).real, dtype)
    J = matrices.gaussian((5, p), dtype, rng)
    quad = factor.inv_quad(J)
    assert np.array_equal(quad, quad.conj().T)
    close(quad, J @ inverse @ J.conj().T, dtype)
    close(factor.solve(b), inverse @ b, dtype, slack=3)


@over_dtypes
@over_forms
def test_S3_Q3_the_root_squared_is_the_inverse_and_colours_samples(corrected, dtype, rng):
    F, _, _, exact = filled(20, dtype, corrected=corrected)
    p = len(exact)
    factor, inverse = F.factor(LAM), np.linalg.inv(exact + LAM * np.eye(p))
    root = factor.inv_root(np.eye(p))
    close(root, root.conj().T, dtype)
    close(oracle.wide(root) @ root, inverse, dtype)
    b = matrices.gaussian((p,), dtype, rng)
    close(factor.inv_root(factor.inv_root(b)), inverse @ b, dtype, slack=3)

    class Identity(np.random.Generator):
        def standard_normal(self, shape):
            drawn.append(shape)
            return np.eye(*shape) * (np.sqrt(2) if F.dtype.kind == "c" else 1) * (len(drawn) == 1)

    drawn = []
    M = oracle.wide(factor.sample(Identity(np.random.PCG64()), p))
    close(M.T @ M.conj(), inverse, dtype)


@given(data=st.data())
def test_C4_ekfac_is_never_farther_from_F_and_has_its_trace(data):
    n = data.draw(st.integers(1, 12), "n")
    shape = st.tuples(st.sampled_from([None, 1, 3]), st.integers(1, 5), st.integers(1, 5))
    layers = [layer(n, *s) for s in data.draw(st.lists(shape, min_size=1, max_size=3))]
    tokens = data.draw(st.sampled_from(["expand", "reduce"]))
    w = np.asarray(data.draw(st.lists(st.floats(0.1, 9), min_size=n, max_size=n)))
    exact = exact_blocks(layers, w)
    plain = fisher(layers, tokens=tokens).update(layers, w)
    better = fisher(layers, tokens=tokens, corrected=True).update(layers, w)
    size = np.linalg.norm(exact)
    gaps = [np.linalg.norm(exact - F.matrix()) for F in (better, plain)]
    assert gaps[0] <= gaps[1] + 1e-12 * size
    assert better.trace() == pytest.approx(np.trace(exact), rel=1e-12)
    close(better.matrix(), ekfac(layers, w, tokens) if n > 5 else better.matrix())
    close(plain.matrix(), kfac(layers, w, tokens))
    spectrum = better.eigvalsh()
    assert np.all(spectrum >= 0) and np.all(np.diff(spectrum) >= 0)


def test_C4_negative_controls_traces_and_tokens_differ():
    layers = mixed(20)
    exact = np.trace(exact_blocks(layers))
    made = {
        (t, c): fisher(layers, tokens=t, corrected=c).update(layers)
        for t in ("expand", "reduce")
        for c in (False, True)
    }
    assert abs(made["expand", False].trace() - exact) > 1e-2 * exact
    assert not np.allclose(made["expand", False].matrix(), made["reduce", False].matrix())
    assert not np.allclose(made["expand", True].matrix(), made["reduce", True].matrix())
    for tokens in ("expand", "reduce"):
        assert made[tokens, True].trace() == pytest.approx(exact, rel=1e-12)


def test_C1_C2_exact_for_one_sample_and_for_averaged_outputs(rng):
    """One sample; and a linear layer whose output is averaged over tokens, under reduce."""
    one = [layer(1, None, 4, 3)]
    np.testing.assert_allclose(
        fisher(one).update(one).matrix(), exact_blocks(one), rtol=1e-12, atol=1e-14
    )
    A, d = rng.standard_normal((1, 6, 4)), rng.standard_normal(3)
    averaged = [(A, np.broadcast_to(d / 6, (1, 6, 3)))]
    exact = exact_blocks(averaged)
    reduced = fisher(averaged, tokens="reduce").update(averaged).matrix()
    np.testing.assert_allclose(reduced, exact, rtol=1e-12, atol=1e-14)
    assert not np.allclose(fisher(averaged).update(averaged).matrix(), exact)


def test_C5_logdet_and_trace_by_the_factors():
    F, layers, w, _ = filled(40)
    logdet = trace = 0.0
    for E, A in factors(layers, w):
        logdet += len(A) * np.linalg.slogdet(E)[1] + len(E) * np.linalg.slogdet(A)[1]
        trace += np.trace(E) * np.trace(A)
    assert F.factor(0).logdet() == pytest.approx(logdet, rel=1e-11)
    assert F.trace() == pytest.approx(trace, rel=1e-12)


# Damping -----------------------------------------------------------------------------------------


@over_dtypes
@over_tokens
def test_P6_the_split_is_that_of_the_factors_and_its_excess_is_semidefinite(tokens, dtype, rng):
    F, layers, w, exact = filled(25, dtype, tokens=tokens)
    lam, first, blocks = 0.2, 0, []
    for E, A in factors(layers, w, tokens):
        pi = np.sqrt(np.trace(A).real / len(A) / (np.trace(E).real / len(E)))
        split = [E + np.sqrt(lam) / pi * np.eye(len(E)), A + pi * np.sqrt(lam) * np.eye(len(A))]
        blocks.append(np.kron(*split))
        last = first + len(blocks[-1])
        excess = blocks[-1] - exact[first:last, first:last] - lam * np.eye(last - first)
        assert np.linalg.eigvalsh(excess)[0] >= -1e-12 * np.linalg.norm(excess)
        for c in (0.7, 1.4):  # this pi has the smallest trace of all
            other = np.kron(
                E + np.sqrt(lam) / (c * pi) * np.eye(len(E)),
                A + c * pi * np.sqrt(lam) * np.eye(len(A)),
            )
            assert np.trace(other).real >= np.trace(blocks[-1]).real
        first = last
    from scipy.linalg import block_diag

    damped = block_diag(*blocks)
    b = matrices.gaussian((F.p, 2), dtype, rng)
    sol = F.solve(b, damping=ff.FactoredTikhonov(lam))
    assert sol.converged and sol.damping == lam
    close(sol.x, np.linalg.solve(damped, oracle.wide(b)), dtype, slack=10)
    residual = np.linalg.norm(b - damped @ sol.x, axis=0) / np.linalg.norm(b, axis=0)
    assert sol.residual <= residual.max() + 100 * unit_roundoff(dtype)
    factor = F.factor(ff.FactoredTikhonov(lam))
    close(factor.logdet(), np.linalg.slogdet(damped)[1], dtype)
    close(factor.inv_diagonal(), np.diag(np.linalg.inv(damped)).real, dtype)
    exact_step = F.solve(b, damping=lam).x
    assert np.all(np.linalg.norm(sol.x, axis=0) <= np.linalg.norm(exact_step, axis=0) * (1 + 1e-5))


def test_P6_a_layer_without_gradients_is_damped_all_the_same():
    layers = mixed(9)
    layers[1] = (layers[1][0], np.zeros_like(layers[1][1]))
    F = fisher(layers).update(layers)
    sol = F.solve(np.ones(F.p), damping=ff.FactoredTikhonov(0.04))
    assert sol.converged and np.isfinite(sol.x).all()
    # pi = 1: kron(0.2 I, A + 0.2 I)
    E, A = factors(layers)[1]
    block = np.kron(E + 0.2 * np.eye(5), A + 0.2 * np.eye(6))
    close(sol.x[12:42], np.linalg.solve(block, np.ones(30)))


def test_damping_that_makes_no_sense_is_refused(rng):
    F, layers, _, _ = filled(9)
    with pytest.raises(InputError, match="needs scalar damping"):
        F.solve(np.ones(F.p), damping=ff.Marquardt(0.1))
    with pytest.raises(InputError, match="EKFAC has no factors"):
        F.correct(layers).solve(np.ones(F.p), damping=ff.FactoredTikhonov(0.1))
    G = rng.standard_normal((9, 4))
    for other in (ff.DenseFisher(4), ff.DiagonalFisher(4), ff.GramFisher()):
        with pytest.raises(InputError, match="FactoredTikhonov damps the factors"):
            other.update(G).solve(np.ones(4), damping=ff.FactoredTikhonov(0.1))
    for method in ("primal", "dual", "cg"):
        with pytest.raises(InputError, match="FactoredTikhonov damps the factors"):
            ff.solve(G, np.ones(4), damping=ff.FactoredTikhonov(0.1), method=method)


@over_forms
def test_P9_a_singular_fisher_names_an_eigenvalue_and_a_damping_that_does(corrected):
    layers = mixed(2)
    F = fisher(layers, corrected=corrected).update(layers)
    with pytest.raises(NotPositiveDefiniteError, match="layer 0") as caught:
        F.solve(np.ones(F.p), damping=0)
    assert 1 <= caught.value.order <= 12
    sol = F.solve(np.ones(F.p), damping=caught.value.suggested_damping)
    assert sol.converged and sol.damping == caught.value.suggested_damping
    empty = fisher(layers, corrected=corrected)
    with pytest.raises(NotPositiveDefiniteError):
        empty.factor(0)
    np.testing.assert_allclose(empty.solve(np.ones(F.p), damping=0.5).x, 2.0)
    assert not empty.matrix().any() and not empty.eigvalsh().any()


def test_large_factors_stay_within_the_backward_error_of_a_direct_solve(rng):
    layers = [layer(300, None, 251, 180, rng=rng)]
    F = fisher(layers).update(layers)
    for damping in (1e-8, 1e-2, ff.FactoredTikhonov(1e-2)):
        sol = F.solve(rng.standard_normal(F.p), damping=damping)
        assert sol.converged and sol.backward_error < 30 * unit_roundoff("float64"), sol


def test_a_loss_of_orthogonality_is_mended_by_the_residual(monkeypatch, rng):
    F, *_, exact = filled(20)
    from fastfisher.fisher.eigenbasis import KroneckerFactor

    solve = KroneckerFactor._solve
    monkeypatch.setattr(KroneckerFactor, "_solve", lambda self, b: solve(self, b) * (1 + 1e-9))
    b = rng.standard_normal(F.p)
    sol = F.solve(b, damping=LAM)
    assert sol.converged and sol.rung == "eigenbasis+refinement"
    close(sol.x, np.linalg.solve(exact + LAM * np.eye(F.p), b))
    monkeypatch.setattr(KroneckerFactor, "_solve", lambda self, b: -solve(self, b))
    assert F.solve(b, damping=LAM).status == "inaccurate"


# Accumulation ------------------------------------------------------------------------------------


@over_tokens
def test_U1_U3_F8_chunks_merge_decay_and_weights(tokens, rng):
    layers, w = mixed(20), rng.random(20) + 0.1
    exact = kfac(layers, w, tokens)
    make = lambda: fisher(layers, tokens=tokens)  # noqa: E731
    cuts = list(pairwise((0, 3, 4, 20)))
    chunked = make()
    for lo, hi in cuts:
        chunked.update(part(layers, lo, hi), w[lo:hi])
    parts = [make().update(part(layers, *cut), w[slice(*cut)]) for cut in cuts]
    left = copy.deepcopy(parts[0]).merge(parts[1]).merge(parts[2])
    right = copy.deepcopy(parts[0]).merge(copy.deepcopy(parts[1]).merge(parts[2]))
    for F in (chunked, left, right, make().merge(left), left.merge(make())):
        close(F.matrix(), exact)
        assert F.n_samples == 20 and F.weight == pytest.approx(w.sum())
    counts = rng.integers(0, 3, 20)
    repeated = [tuple(np.repeat(x, counts, axis=0) for x in pair) for pair in layers]
    close(make().update(layers, counts).matrix(), kfac(repeated, None, tokens))
    decayed = make().update(part(layers, 0, 8)).update(part(layers, 8, 20), decay=0.5)
    close(decayed.matrix(), kfac(layers, np.repeat([0.5, 1.0], [8, 12]), tokens))
    with pytest.raises(StateError, match="decayed"):
        decayed.merge(chunked)


def test_expand_takes_batches_of_different_lengths():
    short, long = layer(4, 2, 3, 2), layer(6, 5, 3, 2)
    F = fisher([short]).update([short]).update([long])
    (E1, A1), (E2, A2) = factors([short])[0], factors([long])[0]
    close(F.matrix(), np.kron(0.4 * E1 + 0.6 * E2, 0.4 * A1 + 0.6 * A2))


@over_tokens
@over_forms
def test_no_tokens_and_no_weight_add_nothing(tokens, corrected):
    A, E = np.ones((3, 0, 2)), np.ones((3, 0, 3))
    for pair, w in (((A, E), None), ((np.ones((3, 2)), np.ones((3, 3))), np.zeros(3))):
        F = ff.KroneckerFisher([(2, 3)], tokens=tokens, corrected=corrected).update([pair], w)
        assert not F.matrix().any() and F.n_samples == 3
        np.testing.assert_allclose(F.solve(np.ones(6), damping=0.5).x, 2.0)


def test_C3_further_updates_are_corrected_in_the_bases_fixed_so_far():
    layers = mixed(30)
    w = np.linspace(0.5, 2, 30)
    first = part(layers, 0, 12), w[:12]
    F = fisher(layers, corrected=True).update(*first).update(part(layers, 12, 30), w[12:])
    close(F.matrix(), ekfac(layers, w, basis=first))
    assert F.trace() == pytest.approx(np.trace(exact_blocks(layers, w)), rel=1e-12)
    decayed = fisher(layers, corrected=True).update(*first)
    decayed.update(part(layers, 12, 30), w[12:], decay=0.5)
    aged = w * np.repeat([0.5, 1.0], [12, 18])
    close(decayed.matrix(), ekfac(layers, aged, basis=first))


@pytest.mark.parametrize("corrected", [False, True], ids=["kfac first", "ekfac first"])
def test_C3_two_passes_first_the_bases_then_the_moments(corrected):
    layers, w = mixed(30), np.linspace(0.5, 2, 30)
    F = fisher(layers, corrected=corrected)
    batches = [(part(layers, lo, hi), w[lo:hi]) for lo, hi in ((0, 11), (11, 12), (12, 30))]
    for batch in batches:
        F.update(*batch)
    for batch in batches:
        assert F.correct(*batch) is F
    close(F.matrix(), ekfac(layers, w))
    assert F.corrected and F.n_samples == 30
    one = fisher(layers, corrected=True).update(layers, w)
    close(one.matrix(), F.matrix())


def test_merging_second_moments_needs_the_same_bases():
    layers = mixed(30)
    halves = part(layers, 0, 15), part(layers, 15, 30)
    a, b = (fisher(layers, corrected=True).update(half) for half in halves)
    before = a.matrix().tobytes(), a.n_samples
    with pytest.raises(StateError, match="different eigenbases"):
        a.merge(b)
    assert (a.matrix().tobytes(), a.n_samples) == before
    unit = fisher(layers, corrected=True).merge(a)
    assert unit.matrix().tobytes() == before[0]
    unit.update(halves[1])
    assert a.matrix().tobytes() == before[0], "a merged Fisher shares memory with its source"
    twin = copy.deepcopy(a)
    close(a.merge(twin).matrix(), twin.matrix())
    with pytest.raises(StateError, match="corrected is True here and False there"):
        a.merge(fisher(layers).update(layers))
    with pytest.raises(StateError, match="tokens is"):
        fisher(layers).merge(fisher(layers, tokens="reduce").update(layers))
    with pytest.raises(StateError, match="widths is"):
        fisher(layers).merge(fisher(layers[:1]).update(layers[:1]))


def test_correct_before_any_update_or_without_samples_is_refused():
    layers = mixed(6)
    F = fisher(layers, corrected=True)
    with pytest.raises(StateError, match="call update first"):
        F.correct(layers)
    F.update(layers)
    bad = [(A.copy(), E) for A, E in layers]
    bad[0][0][2] = np.inf
    before = F.matrix().tobytes()
    with pytest.raises(InputError, match="row 2 "):
        F.correct(bad)
    assert F.matrix().tobytes() == before
    F.update(layers).correct(part(layers, 0, 0))
    with pytest.raises(StateError, match=r"no second moments yet; call correct\(layers\)"):
        F.solve(damping=1.0)


@over_dtypes
@over_forms
def test_state_round_trip_copy_and_pickle_are_equal_and_independent(corrected, dtype, tmp_path):
    F, layers, _, _ = filled(9, dtype, corrected=corrected, tokens="reduce")
    F.save(tmp_path / "state")
    before = F.matrix().tobytes(), F.solve(damping=LAM).x.tobytes()
    copies = ff.load(tmp_path / "state"), copy.copy(F), pickle.loads(pickle.dumps(F))
    for again in copies:
        assert repr(again) == repr(F)
        assert (again.matrix().tobytes(), again.solve(damping=LAM).x.tobytes()) == before
        again.update(layers)
        assert F.matrix().tobytes() == before[0]
    assert len({again.matrix().tobytes() for again in copies}) == 1
    fisher(layers, corrected=corrected).save(tmp_path / "empty")
    empty = ff.load(tmp_path / "empty")
    assert empty.corrected == corrected and empty.n_samples == 0
    ours, fresh = empty.update(mixed(9)), fisher(layers, corrected=corrected).update(mixed(9))
    assert ours.matrix().tobytes() == fresh.matrix().tobytes()


# Refusals ----------------------------------------------------------------------------------------


@over_forms
@pytest.mark.parametrize("where", [(0, 2, 0), (2, 5, 1)], ids=str)
def test_26_16_a_sample_that_is_not_finite_is_named_or_left_out(where, corrected):
    layers, w = mixed(14), np.linspace(1, 2, 14)
    index, sample, side = where
    spoiled = [tuple(x.copy() for x in pair) for pair in layers]
    spoiled[index][side][sample, ..., 0] = np.inf
    F = fisher(layers, corrected=corrected)
    with pytest.raises(InputError, match=f"layers holds .* not finite in row {sample} "):
        F.update(spoiled, w)
    assert F.n_samples == 0 and not F.matrix().any()
    F.update(spoiled, w, nan_policy="skip")
    keep = np.arange(14) != sample
    clean = [(A[keep], E[keep]) for A, E in layers]
    close(F.matrix(), reference(clean, w[keep], "expand", corrected))
    assert (F.n_samples, F.n_skipped) == (13, 1)
    seen = fisher(layers).update(spoiled, nan_policy="propagate")
    with pytest.raises(InputError, match=f"the factor . of layer {index} is not finite"):
        seen.solve(np.ones(F.p), damping=1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "expected at least one pair"),
        (7, "expected pairs"),
        ([(3, 2), (4,)], "expected at least one pair"),
        ([(3, 0)], "expected d_in and d_out >= 1"),
        ([(3, -1)], "d_out is -1"),
        ([(2.5, 1)], "d_in is 2.5"),
    ],
    ids=str,
)
def test_widths_that_make_no_sense_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        ff.KroneckerFisher(given)


def test_bad_layers_and_settings_are_refused_and_change_nothing():
    layers = mixed(5)
    F = fisher(layers).update(layers)
    before = F.matrix().tobytes()
    (A, E), *rest = layers
    for bad, message in [
        ([], "layers is empty"),
        (rest, "2 layers came but this Fisher has 3"),
        ([(A[:, 1:], E), *rest], r"layers\[0\] has \(d_in, d_out\) = \(3, 3\); this .* \(4, 3\)"),
        ([(A[:4], E), *rest], "expected the same samples"),
        ([(A * 1j, E), *rest], "layers is complex128 but this Fisher is float64"),
        ([(A * 1e160, E), *rest], "squares overflow"),
        ([(A * 1e-160, E), *rest], r"layers\[0\]\.A holds values up to .* whose squares vanish"),
    ]:
        with pytest.raises(InputError, match=message):
            F.update(bad)
    with pytest.raises(InputError, match="does not keep the scores"):
        F.solve(coef=np.ones(5), damping=1.0)
    assert F.matrix().tobytes() == before and F.n_samples == 5
    with pytest.raises(InputError, match="use LayeredFisher"):
        fisher(layers, center=True)
    with pytest.raises(InputError, match="tokens is 'sum'"):
        fisher(layers, tokens="sum")
    with pytest.raises(ff.errors.MemoryLimitError, match="factors of 1 layers"):
        ff.KroneckerFisher([(10**7, 10**7)])


@pytest.mark.parametrize("k", [-300, 300])
@over_forms
def test_26_15_powers_of_two_scale_every_answer(k, corrected):
    layers = mixed(20)
    scaled = [(A * 2.0 ** (k // 2), E * 2.0 ** (k - k // 2)) for A, E in layers]
    a, b = (fisher(layers, corrected=corrected).update(x) for x in (layers, scaled))
    x, y = (F.solve(damping=ff.Relative(0.1)) for F in (a, b))
    assert y.converged
    np.testing.assert_allclose(y.x * 2.0**k, x.x, rtol=1e-10)


def test_the_plan_names_the_eigenbases():
    F, *_ = filled(9)
    plan = F.solve(damping=1.0).plan
    assert [stage.op for stage in plan.stages] == ["eigenbases", "rotations"]
    assert "Kronecker product per layer" in str(plan)


@over_dtypes
@over_forms
@pytest.mark.parametrize("damping", [LAM, ff.FactoredTikhonov(LAM)], ids=["exact", "split"])
def test_Q4_Q5_more_questions_to_a_factor(corrected, damping, dtype):
    if corrected and isinstance(damping, ff.FactoredTikhonov):
        pytest.skip("EKFAC has no factors to split damping over")
    F, *_ = filled(30, dtype, corrected=corrected)
    factor, p = F.factor(damping), F.p
    inverse = factor.solve(np.eye(p, dtype=dtype))
    W = factor.whiten(np.eye(p, dtype=dtype))
    close(oracle.ct(W) @ W, inverse, dtype, slack=10)
    dimension = np.trace(F.matrix() @ inverse).real
    u = 1e4 * unit_roundoff(dtype)
    assert factor.effective_dimension() == pytest.approx(dimension, rel=u)
    assert factor.rcond() == pytest.approx(1 / np.linalg.cond(inverse), rel=100 * u)


@over_dtypes
@over_forms
def test_path_Q1_equals_a_solve_for_every_damping(corrected, dtype, rng):
    F, *_ = filled(30, dtype, corrected=corrected)
    b, lams = matrices.gaussian((F.p,), dtype, rng), np.geomspace(1e-2, 10, 5)
    path = F.path(b, lams)
    for i, lam in enumerate(lams):
        factor = F.factor(lam)
        close(path.x(i), factor.solve(b), dtype)
        assert path.logdet[i] == pytest.approx(factor.logdet(), rel=1e-6)
        assert path.effective_dimension[i] == pytest.approx(factor.effective_dimension(), rel=1e-6)
    assert path.residuals.max() <= 1e3 * unit_roundoff("float64") * (1 + F.eigvalsh()[-1] / lams[0])
