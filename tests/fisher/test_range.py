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


ANSWERS = {
    "matrix": lambda F: F.matrix(),
    "diagonal": lambda F: F.diagonal(),
    "eigvalsh": lambda F: F.eigvalsh(),
    "block": lambda F: F.block(0),
    "gram": lambda F: F.gram(),
}
WIDE = {
    **KINDS,
    "ekfac": lambda: ff.KroneckerFisher([(3, 2)], dtype="float32", corrected=True),
    "layered": lambda: ff.LayeredFisher(dtype="float32"),
    "window": lambda: ff.WindowFisher(40, 6, dtype="float32"),
    "batched": lambda: ff.BatchedFisher(2, 6, dtype="float32"),
}
ASKED = [
    (kind, name)
    for kind in WIDE
    for name in ANSWERS
    if (name != "block" or kind == "block")
    and (name != "gram" or kind in ("gram", "layered", "window"))
]


def of_doubles(kind, size, rng):
    """A Fisher of float32 from float64 scores of some size."""
    if kind in ("kronecker", "ekfac", "layered"):
        A, E = (np.sqrt(size) * rng.standard_normal((30, k)) for k in (3, 2))
        return WIDE[kind]().update([(A, E)])
    shape = (2, 30, 6) if kind == "batched" else (30, 6)
    return WIDE[kind]().update(size * rng.standard_normal(shape))


@pytest.mark.parametrize(("kind", "name"), ASKED)
def test_law_26_15_F_above_the_range_of_its_answers_is_an_error(kind, name, rng):
    F = of_doubles(kind, 1e25, rng)
    where = " in system 0" if kind == "batched" else ""
    with pytest.raises(InputError, match=f"overflows float32{where}; divide by a power of two"):
        ANSWERS[name](F)
    # below it, it is rounded
    assert not ANSWERS[name](of_doubles(kind, 1e-30, rng)).any()


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e25])
def test_law_26_15_the_trace_is_that_of_the_sums(kind, size, rng):
    F, G = of_doubles(kind, size, rng), of_doubles(kind, 1.0, np.random.default_rng(1))
    if kind == "batched":  # an array of its dtype
        if size < 1:
            assert not F.trace().any()
        elif size > 1:
            with pytest.raises(InputError, match="trace of F overflows float32 in system 0"):
                F.trace()
        return
    assert isinstance(F.trace(), float)
    assert 0.1 < F.trace() / size**2 / G.trace() < 10


def test_law_26_15_a_trace_and_a_product_above_double_are_errors():
    F = ff.DiagonalFisher(1000).update(np.full((1, 1000), 5e152))
    with pytest.raises(InputError, match="the trace of F overflows float64"):
        F.trace()
    dense = ff.DenseFisher(2).update(np.full((1, 2), 1e100))
    with pytest.raises(InputError, match="F v overflows float64"):
        dense @ np.full(2, 1e200)


@pytest.mark.parametrize("kind", ["dense", "diagonal", "block"])
def test_what_was_propagated_is_no_overflow(kind):
    G = np.ones((3, 6), np.float32)
    G[1, 4] = np.nan
    F = KINDS[kind]().update(G, nan_policy="propagate")
    assert np.isnan(F.diagonal()[4]) and np.isfinite(F.diagonal()[:4]).all()
    assert np.isnan(F.trace()) and np.isnan(F.matrix()[4, 4])
    assert np.isnan((F @ np.ones(6, np.float32))[4])


def test_a_system_that_was_spoiled_is_no_overflow():
    G = np.ones((2, 3, 4), np.float32)
    G[1, 0, 0] = np.nan
    F = ff.BatchedFisher(2, 4, dtype="float32").update(G, nan_policy="propagate")
    v = np.ones((2, 4), np.float32)
    for answer in (F.matrix(), F.diagonal(), F.trace(), F.eigvalsh(), F @ v):
        assert np.isfinite(answer[0]).all() and np.isnan(answer[1]).any()
    v[0, 0] = np.nan
    assert np.isnan((F @ v)[0]).any()


def test_law_26_15_the_system_whose_product_overflows_is_named():
    F = ff.BatchedFisher(3, 2, dtype="float32")
    F.update(np.array([1.0, 1e15, 1.0])[:, None, None] * np.ones((3, 4, 2)))
    with pytest.raises(InputError, match="F v overflows float32 in system 1"):
        F @ np.full((3, 2), 1e10, np.float32)


def test_sums_that_their_weight_carries_out_of_the_range_are_refused():
    with pytest.raises(InputError, match="sums / weight overflows float64"):
        ff.DenseFisher.from_sums(np.eye(2) * 1e300, 1e-10)


KEEPERS = {
    "gram": lambda dtype: ff.GramFisher(dtype=dtype),
    "window": lambda dtype: ff.WindowFisher(9, 4, dtype=dtype),
    "layered": lambda dtype: ff.LayeredFisher(dtype=dtype),
}


@pytest.mark.parametrize("kind", KEEPERS)
@pytest.mark.parametrize(
    ("size", "message"),
    [(1e60, r"values up to 1e\+60, beyond the 3.4e\+38 of float32"), (1e-60, "below the 1.4e-45")],
)
def test_scores_are_not_kept_in_a_dtype_that_cannot_hold_them(kind, size, message):
    F = KEEPERS[kind]("float32")

    def batch(size):
        parts = [np.full((2, k), np.sqrt(size)) for k in (2, 2)]
        return [tuple(parts)] if kind == "layered" else np.full((2, 4), size)

    with pytest.raises(InputError, match=f"{message}.*nothing was added"):
        F.update(batch(size))
    assert (F.n_samples, F.weight) == (0, 0.0)
    F.update(batch(1.0))
    if size < 1:  # what vanishes beside what there is is rounded
        assert F.update(batch(size)).n_samples == 4


def test_a_right_hand_side_beyond_the_dtype_of_F_is_named():
    F = ff.DenseFisher(2, dtype="float32").update(np.eye(2, dtype=np.float32))
    for call in (lambda b: F.solve(b, damping=1.0), lambda b: F @ b, F.factor(1.0).solve):
        with pytest.raises(InputError, match="overflows float32 at index 1; divide it by a power"):
            call(np.array([1.0, 1e60]))
        with pytest.raises(InputError, match="vanishes in float32; multiply it by a power of two"):
            call(np.array([1e-60, 0.0]))
        with pytest.raises(InputError, match="is not finite at index 0"):
            call(np.array([np.inf, 1e60]))
    assert not F.solve(np.zeros(2), damping=1.0).x.any()


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
