"""Small batches wait for each other; nothing that can be read depends on it but the last bits."""

import copy
import pickle

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.fisher.staging import FEWEST
from tests.fisher.layers import mixed, part, widths

P = 40


class Rows:
    """Fishers of scores."""

    least = FEWEST  # samples that are added together

    def __init__(self, make):
        self.make = make

    def batch(self, n, rng):
        return rng.standard_normal((n, P)) + 1

    def cut(self, batch, lo, hi):
        return batch[lo:hi]


class Layers(Rows):
    """Fishers of layers: dense, a sequence, patches; each of five tokens counts."""

    least = FEWEST // 5

    def batch(self, n, rng):
        return mixed(n, rng=rng)

    def cut(self, batch, lo, hi):
        return part(batch, lo, hi)


def kronecker(**settings):
    return lambda: ff.KroneckerFisher(widths(mixed(1)), **settings)


CASES = {
    "dense": Rows(lambda: ff.DenseFisher(P)),
    "dense-centred": Rows(lambda: ff.DenseFisher(P, center=True)),
    "block": Rows(lambda: ff.BlockDiagonalFisher([7, 20, 13], center=True)),
    "kfac": Layers(kronecker()),
    "ekfac": Layers(kronecker(corrected=True)),
}
over_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def counted(monkeypatch, F):
    """The number of samples of every addition to the sums."""
    sizes, absorb = [], type(F)._absorb

    def spy(self, batch, *rest):
        sizes.append(batch.shape[0])
        absorb(self, batch, *rest)

    monkeypatch.setattr(type(F), "_absorb", spy)
    return sizes


def close(F, D):
    np.testing.assert_allclose(F.matrix(), D.matrix(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(F.mean, D.mean, rtol=1e-11, atol=1e-13)
    assert F.n_samples == D.n_samples and F.weight == pytest.approx(D.weight, rel=1e-14)


@over_cases
def test_U1_single_samples_enter_the_sums_together(case, monkeypatch, rng):
    batch, w = case.batch(3 * FEWEST, rng), rng.uniform(0.5, 2, 3 * FEWEST)
    F, whole = (
        case.make(),
        case.make()
        .update(case.cut(batch, 0, 2), w[:2])
        .update(case.cut(batch, 2, 3 * FEWEST), w[2:]),
    )
    F.update(case.cut(batch, 0, 2), w[:2])  # fixes EKFAC's bases
    sizes = counted(monkeypatch, F)
    for i in range(2, 3 * FEWEST):
        F.update(case.cut(batch, i, i + 1), w[i : i + 1])
    assert len(sizes) <= 3 * FEWEST / case.least and all(n == case.least for n in sizes[1:-1])
    close(F, whole)
    assert sum(sizes) >= 3 * FEWEST - 2  # reading let in what waited


@over_cases
def test_U3_decay_reaches_what_waits_and_what_does_not(case, rng):
    batch, D = case.batch(82, rng), case.make()
    F, ages = case.make().update(case.cut(batch, 0, 12)), np.ones(12)
    for i in range(12, 82, 2):
        decay = 0.8 if i % 6 == 0 else 1.0
        F.update(case.cut(batch, i, i + 2), decay=decay)
        ages = np.concatenate([ages * decay, np.ones(2)])
    # The first batch fixes the bases of EKFAC.
    D.update(case.cut(batch, 0, 12), ages[:12]).update(case.cut(batch, 12, 82), ages[12:])
    close(F, D)


@over_cases
@pytest.mark.parametrize("how", ["save", "pickle", "copy"])
def test_a_state_with_samples_that_wait_goes_on_with_the_same_bits(case, how, tmp_path, rng):
    """Resume points change nothing: what waits is kept as it is, with as much room."""
    batch = case.batch(90, rng)
    F = case.make()
    for i in range(40):
        F.update(case.cut(batch, i, i + 1), decay=0.9 if i == 30 else 1.0)
    F.update(case.cut(batch, 40, 41))
    waiting = len(F._staging)
    if how == "save":
        F.save(tmp_path / "state")
        again = ff.load(tmp_path / "state")
    else:
        again = pickle.loads(pickle.dumps(F)) if how == "pickle" else copy.deepcopy(F)
    assert len(F._staging) == len(again._staging) == waiting > 0
    for G in (F, again):
        for i in range(41, 90):
            G.update(case.cut(batch, i, i + 1))
    assert F.matrix().tobytes() == again.matrix().tobytes()
    assert F.mean.tobytes() == again.mean.tobytes()


@over_cases
def test_U1_merging_takes_in_what_waits_on_both_sides(case, rng):
    if case is CASES["ekfac"]:
        pytest.skip("moments in different bases do not merge")
    batch = case.batch(50, rng)
    a, b = case.make(), case.make()
    for i in range(50):
        (a if i < 30 else b).update(case.cut(batch, i, i + 1))
    close(
        a.merge(b).update(case.cut(batch, 0, 1)),
        case.make().update(batch).update(case.cut(batch, 0, 1)),
    )


@over_cases
def test_a_state_whose_waiting_samples_do_not_fit_is_refused(case, tmp_path, rng):
    from tests.fisher.test_state import rewrite

    F = case.make().update(case.batch(20, rng)).update(case.batch(2, rng))
    assert len(F._staging) >= 2
    path = tmp_path / "state"
    for name in ("staged0", "staged_weights"):
        F.save(path)
        rewrite(path, arrays=lambda arrays, name=name: arrays.update({name: arrays[name][:1]}))
        with pytest.raises(ff.errors.StateError, match="lacks or spoils"):
            ff.load(path)
