"""KFAC and EKFAC as accumulators: chunks, merging, decay, bases fixed early, state, refusals."""

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError, StateError
from tests.fisher.kronecker import (
    LAM,
    close,
    filled,
    fisher,
    over_dtypes,
    over_forms,
    over_tokens,
    reference,
)
from tests.fisher.layers import ekfac, exact_blocks, factors, kfac, layer, mixed, part


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
