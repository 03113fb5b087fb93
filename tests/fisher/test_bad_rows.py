"""Rows that are not finite, or whose squares overflow or vanish, on every kind of Fisher."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError
from tests import matrices, oracle
from tests.fisher.kinds import KINDS, SQUARES, P, centring, over_kinds, state
from tests.fisher.structure import structured


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


# Squares that vanish -----------------------------------------------------------------------------


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
