"""Fisher objects as accumulators: chunks, merging, decay, weights, rows that are not finite."""

import copy
import itertools
import pickle

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError, StateError
from tests import matrices, oracle
from tests.fisher.rows import LayeredRows
from tests.fisher.structure import halves, structured
from tests.tolerances import assert_ratio, entrywise_ratio, gamma, unit_roundoff

P = 7
KINDS = {
    "dense": lambda **k: ff.DenseFisher(P, **k),
    "diagonal": lambda **k: ff.DiagonalFisher(P, **k),
    "block": lambda **k: ff.BlockDiagonalFisher(halves(P), **k),
    "gram": lambda **k: ff.GramFisher(**k),
    "layered": lambda **k: LayeredRows(**k),
    "window": lambda **k: ff.WindowFisher(400, P, **k),
}
over_kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
centring = pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])


def exact(F, G, w=None):
    return structured(F, oracle.fisher(G, w, F.center))


def check(F, G, w=None, *, dtype="float64", slack=10):
    """F agrees with one batch of all rows, entrywise in the bound of a sum of n terms."""
    bound = oracle.fisher(np.abs(oracle.wide(G)), w)
    terms = len(G) + 8
    ratio = entrywise_ratio(F.matrix(), exact(F, G, w), terms * unit_roundoff(dtype) * bound)
    assert_ratio(ratio, slack, f"{F!r}")
    weight = len(G) if w is None else np.sum(w, dtype=np.float64)
    assert F.n_samples == len(G) and F.weight == pytest.approx(weight, rel=1e-12)
    mean_bound = oracle.wide(np.abs(G)).mean(axis=0) * 10 + 1e-30
    mean = oracle.mean_gradient(G, w).conj()
    assert entrywise_ratio(F.mean, mean, terms * unit_roundoff(dtype) * mean_bound) <= 10


def state(F):
    """Everything a Fisher knows, as bytes."""
    mean = F.mean.tobytes()  # whatever waits is in
    arrays = {name: a.tobytes() for name, a in F._arrays().items()}
    return arrays, F.n_samples, F.n_skipped, F.weight, F.decayed, mean


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


# Rows that are not finite ------------------------------------------------------------------------


@over_kinds
@centring
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(0, 0), (5, 6), (19, 3)], ids=str)
def test_nan_raise_names_the_row_and_leaves_the_state_to_the_bit(make, center, value, where, rng):
    F = make(center=center).update(rng.standard_normal((8, P)))
    before = state(F)
    G = rng.standard_normal((20, P))
    G[where] = value
    for decay in (1.0, 0.5):
        with pytest.raises(InputError, match=rf"row {where[0]} \(1 such rows"):
            F.update(G, decay=decay)
        assert state(F) == before


def test_nan_raise_names_a_row_of_a_later_slice_and_adds_nothing(rng):
    F = ff.DenseFisher(400)
    G = np.zeros((60_000, 400), np.float32)
    G[55_555, 3] = np.nan
    with pytest.raises(InputError, match="row 55555"):
        F.update(G)
    assert F.n_samples == 0 and not F.matrix().any()


@over_kinds
@centring
def test_nan_skip_counts_and_equals_removal(make, center, rng):
    G = rng.standard_normal((40, P))
    w = rng.random(40) + 0.5
    bad = [3, 4, 39]
    spoiled = G.copy()
    spoiled[bad, [0, 2, 6]] = np.nan, np.inf, -np.inf
    F = make(center=center).update(spoiled, w, nan_policy="skip").update(spoiled, nan_policy="skip")
    clean = make(center=center)
    clean.update(np.delete(G, bad, axis=0), np.delete(w, bad)).update(np.delete(G, bad, axis=0))
    np.testing.assert_allclose(F.matrix(), clean.matrix(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(F.mean, clean.mean, rtol=1e-12, atol=1e-13)
    assert (F.n_samples, F.n_skipped, F.weight) == (74, 6, pytest.approx(clean.weight))
    assert "n_skipped=6" in repr(F)
    merged = make(center=center).merge(F)
    assert merged.n_skipped == 6
    x = F.solve(damping=0.5).x
    np.testing.assert_allclose(x, clean.solve(damping=0.5).x, rtol=1e-10)


@over_kinds
def test_nan_skip_of_every_row_changes_only_the_count(make, rng):
    F = make().update(rng.standard_normal((8, P)))
    matrix = F.matrix().copy()
    F.update(np.full((5, P), np.nan), nan_policy="skip")
    np.testing.assert_array_equal(F.matrix(), matrix)
    assert (F.n_samples, F.n_skipped, F.weight) == (8, 5, 8.0)


@over_kinds
def test_nan_propagate_is_on_request_and_visible(make, rng):
    F = make()
    G = rng.standard_normal((8, P))
    G[2, 1] = np.nan
    F.update(G, nan_policy="propagate")
    if isinstance(F, ff.GramFisher):
        with pytest.raises(InputError, match="row 2, column 1"):
            F.diagonal()
    else:
        assert np.isnan(F.diagonal()[1]) and np.isfinite(np.delete(F.diagonal(), 1)).all()
    with pytest.raises((ff.errors.NotPositiveDefiniteError, InputError)):
        F.solve(np.ones(P), damping=1.0)


@over_kinds
def test_law_26_15_squares_that_overflow_are_refused_before_anything_is_added(make, rng):
    F = make().update(rng.standard_normal((8, P)))
    before = state(F)
    with pytest.raises(InputError, match="squares overflow float64; nothing was added"):
        F.update(np.full((3, P), 1e160), decay=0.5)
    assert state(F) == before
    with pytest.raises(InputError, match="squares overflow float32"):
        make(dtype="float32").update(np.full((3, P), 1e25, np.float32))


@over_kinds
def test_update_checks_everything_before_it_changes_anything(make, rng):
    F = make().update(rng.standard_normal((8, P)))
    before = state(F)
    G = rng.standard_normal((4, P))
    for bad in (
        dict(G=G, weights=np.ones(3)),
        dict(G=G, weights=[1, 1, 1, -1]),
        dict(G=G, decay=0.0),
        dict(G=G, decay=np.nan),
        dict(G=G[:, :3]),
        dict(G=G * 1j),
        dict(G=G.astype(int)),
        dict(G=G, nan_policy="omit"),
    ):
        with pytest.raises(InputError):
            F.update(**bad)
        assert state(F) == before, bad


# Objects -----------------------------------------------------------------------------------------


@over_kinds
@over_dtypes
def test_pickle_copy_and_deepcopy_are_independent_and_equal(make, dtype, rng):
    G = matrices.gaussian((20, P), dtype, rng)
    F = make(dtype=dtype, center=True, kind="empirical").update(G, np.arange(20.0))
    for how in (lambda F: pickle.loads(pickle.dumps(F)), copy.deepcopy, copy.copy):
        again = how(F)
        assert type(again) is type(F) and repr(again) == repr(F)
        before = state(F)
        assert state(again) == before
        again.update(G)
        assert state(F) == before, "a copy shares memory with the original"


def test_copy_of_a_fresh_gram_fisher_shares_nothing(rng):
    F = ff.GramFisher()
    copy.copy(F).update(rng.standard_normal((4, P)))
    assert F.n_samples == 0 and F.p is None


@over_kinds
def test_repr_says_what_is_inside(make, rng):
    F = make(center=True, kind="mc").update(rng.standard_normal((5, P)), np.full(5, 0.5))
    facts = "p=7, dtype=float64, n_samples=5, weight=2.5, center=True, kind='mc'"
    assert repr(F).startswith(f"{type(F).__name__}({facts}")
    assert "p=" in repr(make())


@over_kinds
def test_an_empty_fisher_answers(make):
    F = make()
    if isinstance(F, ff.GramFisher):
        assert F.n_samples == 0 and "n_samples=0" in repr(F)
        F.update(np.zeros((0, P)))
    assert not F.matrix().any() and not F.diagonal().any() and F.trace() == 0
    assert not (F @ np.ones(P)).any()
    np.testing.assert_allclose(F.solve(np.ones(P), damping=0.5).x, 2.0)
    assert not F.solve(damping=0.5).x.any()


def test_gram_fisher_without_a_single_update_refuses_politely():
    F = ff.GramFisher()
    for call in (
        lambda: F.solve(damping=1.0),
        lambda: F @ np.ones(3),
        lambda: F.matrix(),
        lambda: F.factor(1.0),
        lambda: F.diagonal(),
        lambda: F.eigvalsh(),
        lambda: F.mean,
    ):
        try:
            call()
        except ff.errors.FisherError as error:
            assert str(error)


def test_gram_fisher_takes_the_dtype_of_its_first_batch(rng):
    F = ff.GramFisher().update(rng.standard_normal((3, 4)).astype(np.float32))
    assert F.dtype == np.float32 and F.matrix().dtype == np.float32
    with pytest.raises(InputError, match="complex"):
        F.update(np.ones((1, 4), complex))
    failed = ff.GramFisher()
    with pytest.raises(InputError):
        failed.update(np.full((2, 3), np.nan, np.float32))
    with pytest.raises(InputError):
        failed.update(np.ones((2, 3), np.float32), decay=7)
    assert failed.p is None
    assert failed.update(np.ones((2, 5), complex)).dtype == np.complex128


def test_27_1_float32_accumulation_does_not_grow_with_the_number_of_batches(rng):
    G = rng.standard_normal((1000, P)).astype(np.float32)
    F = ff.DenseFisher(P, dtype="float32")
    for _ in range(200):
        F.update(G)
    bound = oracle.fisher(np.abs(G))
    assert entrywise_ratio(F.matrix(), oracle.fisher(G), gamma(300, "float32") * bound) <= 1


SQUARES = [kind for kind in KINDS if kind not in ("gram", "window", "layered")]


@pytest.mark.parametrize("make", [KINDS[kind] for kind in SQUARES], ids=SQUARES)
def test_law_26_15_squares_that_vanish_are_refused_where_nothing_larger_is_held(make, rng):
    """Scores below 1e-154 used to give F = 0 without a word."""
    G = rng.standard_normal((30, P))
    F = make()
    with pytest.raises(InputError, match="squares vanish; nothing was added"):
        F.update(G * 1e-160, decay=0.5)
    with pytest.raises(InputError, match="squares vanish"):
        F.update(G * 1e-100, np.full(30, 1e-120))
    assert (F.n_samples, F.weight, F.decayed) == (0, 0.0, False)
    F.update(0 * G)
    with pytest.raises(InputError, match="squares vanish"):
        F.update(G * 1e-160)
    # Beside scores of another size they are nothing: fitted samples stop no training.
    F = make().update(G).update(G * 1e-160)
    np.testing.assert_allclose(F.matrix(), make().update(G).matrix() / 2, rtol=1e-14)
    small = make().update(G * 2.0**-470)
    np.testing.assert_allclose(small.matrix() * 2.0**940, make().update(G).matrix(), rtol=1e-13)


@pytest.mark.parametrize("make", [KINDS[kind] for kind in SQUARES], ids=SQUARES)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize(
    ("scale", "w"), [(1e-22, 1), (1e-30, 1), (1, 1e-80), (1, 1e80), (1e-9, 1e-30)]
)
def test_single_precision_sums_what_only_double_can_square(make, dtype, scale, w, rng):
    """Squares in single precision used to vanish below 1e-22, and weights below 1e-76."""
    G = (matrices.gaussian((40, P), dtype, rng) * np.float32(scale)).astype(dtype)
    F = make(dtype=dtype).update(G, np.full(40, w))
    expected = structured(F, oracle.fisher(oracle.wide(G) / scale))
    diagonal = F._real_diagonal() / scale**2
    np.testing.assert_allclose(diagonal, np.diag(expected).real, rtol=1e-5)
    if scale > 1e-20:  # x, of the size of scale^-2, is in single precision too
        A = expected + 0.1 * np.trace(expected).real / P * np.eye(P)
        x = oracle.wide(F.solve(np.ones(P), damping=ff.Relative(0.1)).x) * scale**2
        np.testing.assert_allclose(x, np.linalg.solve(A, np.ones(P)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: ff.DenseFisher(3), lambda: ff.BlockDiagonalFisher([3])])
def test_undamped_columns_whose_squares_vanish_are_named(make, rng):
    G = rng.standard_normal((20, 3)) * [1, 1e-158, 1]
    F = make().update(G)
    with pytest.raises(ff.errors.NotPositiveDefiniteError) as caught:
        F.solve(np.ones(3), damping=0.0)
    assert caught.value.order == 2
    assert F.solve(np.ones(3), damping=1e-3).converged
