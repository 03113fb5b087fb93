"""Fisher objects as accumulators: chunks, merging, decay, weights."""

import itertools

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError, StateError
from tests import matrices, oracle
from tests.fisher.kinds import P, centring, check, exact, over_dtypes, over_kinds, state
from tests.fisher.structure import structured
from tests.tolerances import entrywise_ratio, gamma, unit_roundoff


@over_kinds
@centring
@over_dtypes
@pytest.mark.parametrize("cuts", [(), (1,), (13, 14, 50), (0, 0, 99, 100)], ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_accumulate_U1_chunks_equal_one_batch(make, center, dtype, cuts, weighted, rng):
    G = matrices.gaussian((100, P), dtype, rng)
    w = matrices.weights(100, dtype) if weighted else None
    F = make(dtype=dtype, center=center)
    for lo, hi in itertools.pairwise((0, *cuts, 100)):
        assert F.update(G[lo:hi], None if w is None else w[lo:hi]) is F
    check(F, G, w, dtype=dtype)
    assert np.array_equal(F.matrix(), F.matrix().conj().T)


@over_kinds
@centring
@over_dtypes
def test_merge_U1_is_associative_commutative_and_has_a_unit(make, center, dtype, rng):
    G = matrices.gaussian((90, P), dtype, rng)
    w = matrices.weights(90, dtype)
    parts = [(G[lo:hi], w[lo:hi]) for lo, hi in ((0, 20), (20, 21), (21, 90))]
    fresh = lambda: [make(dtype=dtype, center=center).update(*part) for part in parts]  # noqa: E731
    a, b, c = fresh()
    assert a.merge(b) is a
    left = a.merge(c)
    a, b, c = fresh()
    right = a.merge(b.merge(c))
    check(left, G, w, dtype=dtype)
    check(right, G, w, dtype=dtype)
    a, b, c = fresh()
    backwards = c.merge(b).merge(a)
    check(
        backwards,
        np.vstack([G[21:], G[20:21], G[:20]]),
        np.concatenate([w[21:], w[20:21], w[:20]]),
        dtype=dtype,
    )
    before = state(left)
    left.merge(make(dtype=dtype, center=center))
    assert state(left)[1:5] == before[1:5]
    check(left, G, w, dtype=dtype)
    empty = make(dtype=dtype, center=center).merge(right)
    check(empty, G, w, dtype=dtype)
    with_other = fresh()
    untouched = state(with_other[1])
    with_other[0].merge(with_other[1]).update(G)
    assert state(with_other[1]) == untouched


@over_kinds
@pytest.mark.parametrize("how", ["chunks", "merge"])
def test_accumulate_U2_centred_sums_survive_a_large_mean(make, how, rng):
    """Mean 1e8, spread 1: raw moments would lose every digit of the covariance."""
    G = 1e8 + rng.standard_normal((300, P))
    expected = np.cov((G - 1e8).T, bias=True)
    F = make(center=True)
    if how == "chunks":
        for lo in range(0, 300, 47):
            F.update(G[lo : lo + 47])
    else:
        for lo in range(0, 300, 60):
            F.merge(make(center=True).update(G[lo : lo + 60]))
    expected = structured(F, expected)
    np.testing.assert_allclose(F.matrix(), expected, atol=1e-6)
    raw = ff.DenseFisher(P).update(G)
    assert abs(raw.matrix()[0, 0] - raw.mean[0] ** 2 - expected[0, 0]) > 1e-2  # the control


@over_kinds
def test_accumulate_U2_F7_a_constant_column_has_no_variance(make, rng):
    G = rng.standard_normal((40, P))
    G[:, 3] = 1e8 + 1 / 3
    F = make(center=True).update(G[:15]).update(G[15:])
    F.merge(make(center=True).update(G))
    assert abs(F.diagonal()[3]) <= (80 * unit_roundoff("float64") * 1e8) ** 2
    assert not np.isnan(F.matrix()).any()


@over_kinds
@centring
@pytest.mark.parametrize("sizes", [(20, 20, 20), (20, 5, 60)], ids=str)
def test_decay_U3_weighs_batches_by_size(make, center, sizes, rng):
    beta = 0.75
    batches = [rng.standard_normal((n, P)) + 1 for n in sizes]
    F = make(center=center)
    for G in batches:
        F.update(G, decay=beta)
    age = [beta ** (len(sizes) - 1 - i) for i in range(len(sizes))]
    w = np.concatenate([np.full(n, a) for n, a in zip(sizes, age, strict=True)])
    G = np.vstack(batches)
    np.testing.assert_allclose(F.matrix(), exact(F, G, w), rtol=1e-11, atol=1e-12)
    assert F.weight == pytest.approx(w.sum()) and F.n_samples == sum(sizes)
    if len(set(sizes)) == 1 and not center:
        ema = sum(a * exact(F, G_b) for a, G_b in zip(age, batches, strict=True)) / sum(age)
        np.testing.assert_allclose(F.matrix(), ema, rtol=1e-12, atol=1e-12)


@over_kinds
def test_decay_U3_refuses_to_merge_afterwards(make, rng):
    G = rng.standard_normal((5, P))
    decayed, plain = make().update(G, decay=0.5), make().update(G)
    for a, b in ((decayed, plain), (plain, decayed)):
        before = state(a), state(b)
        with pytest.raises(StateError, match="decayed sums do not commute"):
            a.merge(b)
        assert (state(a), state(b)) == before
    assert make().update(G, decay=1.0).merge(plain).n_samples == 10


@over_kinds
def test_merge_refuses_what_does_not_fit_and_changes_nothing(make, rng):
    F = make().update(rng.standard_normal((5, P)))
    others = {
        "center is False here and True there": make(center=True),
        "dtype is": make(dtype="complex128"),
        "kind is None here and 'mc' there": make(kind="mc"),
        "with itself": F,
        "cannot merge": ff.DenseFisher(P) if not isinstance(F, ff.DenseFisher) else ff.GramFisher(),
    }
    if isinstance(F, ff.WindowFisher):
        others["p is 7 here and 3 there"] = ff.WindowFisher(400, 3)
    elif isinstance(F, ff.GramFisher):
        others["p is 7 here and 3 there"] = type(F)().update(np.ones((2, 3)))
    else:
        others["p is 7 here and 3 there"] = type(F)(
            [1, 2] if isinstance(F, ff.BlockDiagonalFisher) else 3
        )
    before = state(F)
    for message, other in others.items():
        if other is not F:
            try:
                other.update(rng.standard_normal((5, P)))
            except InputError:
                pass
        with pytest.raises(StateError, match=message):
            F.merge(other)
        assert state(F) == before


@over_kinds
@centring
def test_accumulate_F8_weights_are_repetition_and_zero_is_absence(make, center, rng):
    G = rng.standard_normal((30, P))
    counts = rng.integers(0, 4, 30)
    weighted = make(center=center).update(G, counts)
    repeated = make(center=center).update(np.repeat(G, counts, axis=0))
    np.testing.assert_allclose(weighted.matrix(), repeated.matrix(), rtol=1e-12, atol=1e-13)
    assert weighted.weight == repeated.weight == counts.sum()
    assert (weighted.n_samples, repeated.n_samples) == (30, counts.sum())
    unit = make(center=center).update(G, np.ones(30))
    assert unit.matrix().tobytes() == make(center=center).update(G).matrix().tobytes()


# Many batches ------------------------------------------------------------------------------------


def test_27_1_float32_accumulation_does_not_grow_with_the_number_of_batches(rng):
    G = rng.standard_normal((1000, P)).astype(np.float32)
    F = ff.DenseFisher(P, dtype="float32")
    for _ in range(200):
        F.update(G)
    bound = oracle.fisher(np.abs(G))
    assert entrywise_ratio(F.matrix(), oracle.fisher(G), gamma(300, "float32") * bound) <= 1
