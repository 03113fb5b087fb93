"""Fishers as Python objects: copies, pickles, repr, before the first update."""

import copy
import pickle

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError
from tests import matrices
from tests.fisher.kinds import (
    P,
    over_dtypes,
    over_kinds,
    state,
)


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
