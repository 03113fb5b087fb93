"""Answers without a status where they leave their dtype: an error above it, rounding below."""

import functools
import warnings

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError

KINDS = {
    "dense": lambda: ff.DenseFisher(6, dtype="float32"),
    "diagonal": lambda: ff.DiagonalFisher(6, dtype="float32"),
    "block": lambda: ff.BlockDiagonalFisher([2, 4], dtype="float32"),
    "gram": lambda: ff.GramFisher(dtype="float32"),
    "kronecker": lambda: ff.KroneckerFisher([(3, 2)], dtype="float32"),
}
BIG = np.full(6, 1e30, np.float32)


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def filled(kind, scale, rng):
    parts = [(scale * rng.standard_normal((40, k))).astype(np.float32) for k in (6, 3, 2)]
    return KINDS[kind]().update([tuple(parts[1:])] if kind == "kronecker" else parts[0])


@pytest.mark.parametrize("kind", KINDS)
def test_law_26_15_an_answer_above_the_range_is_an_error(kind, rng):
    F = filled(kind, 0.0, rng)
    factor, weak = F.factor(1e-30), F.factor(1e-80)
    for call in (
        lambda: factor.solve(BIG),
        lambda: factor.whiten(BIG),
        lambda: factor.inv_quad(BIG[np.newaxis]),
        lambda: weak.inv_diagonal(),
        lambda: weak.sample(np.random.default_rng(0), 2),
        lambda: filled(kind, 1e7, rng) @ BIG,
    ):
        with pytest.raises(InputError, match=r"overflows float32.*float64"):
            call()
    # negative control: below it digits are lost in silence, as in any cast
    x = F.factor(1e20).solve(1 / BIG)
    assert x.dtype == np.float32 and not x.any()
    assert np.isclose(factor.effective_dimension(), 0, atol=1e-6)


def test_law_26_15_a_step_of_a_path_above_the_range_is_an_error(rng):
    path = filled("dense", 0.0, rng).path(BIG, [1e-30, 1.0])
    assert np.array_equal(path.x(1), BIG)
    with pytest.raises(InputError, match="x overflows float32"):
        path.x(0)


def test_law_26_15_the_system_whose_answer_overflows_is_named(rng):
    F = ff.BatchedFisher(3, 4, dtype="float32")
    G = rng.standard_normal((3, 20, 4)).astype(np.float32)
    G[1] *= np.float32(1e-18)
    factor = F.update(G).factor(1e-37)
    b = np.full((3, 4), 1e10, np.float32)
    with pytest.raises(InputError, match=r"overflows float32 in system 1"):
        factor.solve(b)
    with pytest.raises(InputError, match=r"J \(F \+ D\)\^-1 J' overflows float32 in system 1"):
        factor.inv_quad(b[:, np.newaxis])
    assert np.isfinite(factor.solve(b / np.float32(1e10))).all()


def test_law_26_15_substitution_that_overflows_is_an_error():
    L = np.eye(3, dtype=np.float32) * np.float32(1e-20)
    with pytest.raises(InputError, match="x overflows float32; divide b by a power of two"):
        ff.ops.cho_solve(L, np.ones(3, np.float32))
    with pytest.raises(InputError, match="x overflows float64"):
        ff.ops.cho_solve(np.eye(3) * 1e-200, np.ones(3))
    assert ff.ops.cho_solve(L, np.full(3, 1e-10, np.float32)) == pytest.approx(1e30)


def test_a_matrix_whose_damping_overflows_it_has_no_factor():
    with pytest.raises(ff.errors.NotPositiveDefiniteError, match="pivot 1 of 3"):
        ff.ops.cholesky(np.eye(3, dtype=np.float32) * np.float32(3e38), damping=1e38)


CENTRED = {
    "dense": functools.partial(ff.DenseFisher, 6),
    "diagonal": functools.partial(ff.DiagonalFisher, 6),
    "gram": ff.GramFisher,
    "blocks": functools.partial(ff.BlockDiagonalFisher, (2, 3)),
    "ragged blocks": functools.partial(ff.BlockDiagonalFisher, [2, 1, 2, 1]),
    "a block": functools.partial(ff.BlockDiagonalFisher, (1, 6)),
}


@pytest.mark.parametrize("kind", CENTRED)
def test_U2_sums_are_centred_by_the_mean_and_not_its_rounding(kind, rng):
    F = CENTRED[kind](dtype="float32", center=True)
    G = (rng.standard_normal((40, 6)) + 1e6 * rng.standard_normal(6)).astype(np.float32)
    w = rng.uniform(0.5, 2, 40)
    F.update(G[:25], w[:25]).update(G[25:], w[25:])
    around = G - np.average(G.astype(float), 0, w)
    exact = (around.T * w) @ around / w.sum()
    np.testing.assert_allclose(F.diagonal(), exact.diagonal(), rtol=1e-6)
    if kind.endswith(("block", "blocks")):
        first = F.block(0)
        bound = 1e-6 * np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))
        here = slice(len(first))
        assert (np.abs(first - exact[here, here]) <= bound[here, here]).all()
