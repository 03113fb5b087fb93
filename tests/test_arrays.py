"""The door: layouts, half precision, lists and subclasses, numbers that are not finite."""

import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.arrays import all_finite, as_scores
from fastfisher.errors import InputError
from tests import matrices
from tests.scores import OF_SCORES, digest, over_dtypes, over_functions

SHAPES = ((30, 12), (12, 30))
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")


# Layouts -----------------------------------------------------------------------------------------


@over_functions
@over_shapes
@over_dtypes
def test_law_26_13_every_layout_gives_the_bits_of_the_contiguous_array(function, shape, dtype, rng):
    G = matrices.gaussian(shape, dtype, rng)
    expected = function(G)
    for name, laid in matrices.layouts(G):
        before = digest(laid)
        result = function(laid)
        assert result.dtype == expected.dtype, name
        assert result.tobytes() == expected.tobytes(), name
        assert digest(laid) == before, name


@over_dtypes
def test_kernels_see_one_kind_of_memory(dtype, rng):
    """C order, aligned, native, writable: anything else would compile anew, or read wrongly."""
    G = matrices.gaussian((9, 7), dtype, rng)
    for name, laid in matrices.layouts(G):
        scores = as_scores(laid)
        assert scores.direct == (name in ("C", "read_only", "memmap")), name
        for part in (scores.rows(0, 9), scores.rows(2, 5), scores.columns(1, 4)):
            flags = part.flags
            assert flags.c_contiguous and flags.aligned and flags.writeable, name
            assert part.dtype == dtype and part.dtype.isnative, name
        assert np.shares_memory(scores.rows(0, 9), laid) == scores.direct, name


@pytest.mark.parametrize("name", ["gram", "solve_dual", "syrk", "solve_primal", "fvp"])
@pytest.mark.parametrize("shape", [(2000, 2000), (60000, 60)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_law_26_13_layouts_share_their_bits_over_many_slices(name, shape, rng):
    if name in ("gram", "solve_dual") and shape[0] > 10000:
        pytest.skip("the Gram matrix would take 29 GB")
    G = matrices.gaussian(shape, "float64", rng)
    assert OF_SCORES[name](np.asfortranarray(G)).tobytes() == OF_SCORES[name](G).tobytes()


@over_dtypes
@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_law_26_13_zero_strides(axis, dtype, rng):
    line = matrices.gaussian((1, 7) if axis == 0 else (5, 1), dtype, rng)
    broadcast = np.broadcast_to(line, (5, 7))
    for name, function in OF_SCORES.items():
        assert function(broadcast).tobytes() == function(broadcast.copy()).tobytes(), name


@pytest.mark.parametrize("shape", [(9, 6), (70, 80), (300, 2), (3, 1100), (0, 3)], ids=str)
@pytest.mark.parametrize("stored", ["float16", ">f2", "bfloat16"])
@over_functions
def test_half_precision_is_storage_computed_and_answered_in_float32(function, stored, shape, rng):
    if stored == "bfloat16":
        stored = pytest.importorskip("ml_dtypes").bfloat16
    G = rng.standard_normal(shape).astype(stored)
    frozen = G.copy()
    frozen.flags.writeable = False
    for laid in (G, frozen, np.asfortranarray(G), G[::-1, ::2]):
        expected = function(np.ascontiguousarray(laid).astype(np.float32))
        result = function(laid)
        assert result.dtype == expected.dtype
        assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_with_many_vectors_bad_rows_and_extreme_scores(name, rng):
    """Vendors, skipped rows and rescaled scores need float32, and get it slice by slice."""
    stored = np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    G = (2.0 ** (14 if name == "float16" else 100) * rng.standard_normal((80, 20))).astype(stored)
    G = np.clip(G.astype(np.float32), -6e4, 6e4).astype(stored) if name == "float16" else G
    wide, V, b = G.astype(np.float32), rng.standard_normal((20, 40)), rng.standard_normal(20)
    assert ff.ops.matvec(G, V).tobytes() == ff.ops.matvec(wide, V).tobytes()
    for settings in (dict(), dict(center=True), dict(nan_policy="skip")):
        if "nan_policy" in settings:
            G[3, 4] = wide[3, 4] = np.nan
        for method in ("primal", "dual", "cg"):
            half, whole = (
                ff.solve(scores, b, damping=ff.Relative(0.1), method=method, **settings)
                for scores in (G, wide)
            )
            assert half.x.tobytes() == whole.x.tobytes(), (method, settings)
            assert half.plan.problem.halves and not whole.plan.problem.halves
    with pytest.raises(InputError, match="G holds nan in row 3, column 4"):
        ff.ops.syrk(G)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_handed_to_kernels_where_it_lies(name, rng):
    stored = np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    for laid_as, laid in matrices.layouts(rng.standard_normal((9, 7)).astype(stored)):
        scores = as_scores(laid)
        assert scores.direct == (laid_as in ("C", "read_only", "memmap")), laid_as
        for part in (scores.rows(0, 9, halves=True), scores.columns(1, 4, halves=True)):
            flags = part.flags
            assert flags.c_contiguous and flags.aligned and flags.writeable, laid_as
            assert part.dtype == stored and part.dtype.isnative, laid_as
        assert np.shares_memory(scores.rows(0, 9, halves=True), laid) == scores.direct, laid_as


def test_half_precision_right_hand_sides_weights_and_matrices(rng):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    G = rng.standard_normal((9, 6))
    b = rng.standard_normal(6).astype(bfloat16)
    w = (0.5 + rng.random(9)).astype(bfloat16)
    result = ff.solve(G, b, weights=w, damping=0.1).x
    wide = ff.solve(G, b.astype(np.float64), weights=w.astype(np.float64), damping=0.1).x
    assert result.tobytes() == wide.tobytes()
    A = (np.eye(3) * 4).astype(np.float16)
    assert ff.ops.cholesky(A).dtype == np.float32
    np.testing.assert_array_equal(ff.ops.cholesky(A), np.eye(3, dtype=np.float32) * 2)


def test_subclasses_and_nested_lists_are_arrays(rng):
    G = rng.standard_normal((4, 3))
    expected = ff.natural_gradient(G, damping=0.1)
    assert ff.natural_gradient(G.tolist(), damping=0.1).tobytes() == expected.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        subclass = np.matrix(G)
    result = ff.natural_gradient(subclass, damping=0.1)
    assert type(result) is np.ndarray and result.tobytes() == expected.tobytes()


# Numbers that are not finite ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ("float16", "float32", "float64", "complex64", "complex128", ">f8")
)
def test_all_finite_sees_every_element(dtype):
    for shape in ((0,), (1,), (3, 5), (70, 70)):
        x = np.full(shape, np.finfo(np.dtype(dtype)).max, dtype)
        views = (x, x.T, x[::2], x[..., ::-1])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert all(all_finite(view) for view in views)
        for bad in (np.nan, np.inf, -np.inf):
            for k in (0, x.size // 2, x.size - 1) if x.size else ():
                y = np.ones(shape, dtype)
                y.flat[k] = bad
                assert not all_finite(y), (shape, bad, k)
                assert not all_finite(np.asfortranarray(y))
        if x.size and x.dtype.kind == "c":
            x.flat[-1] = complex(0, np.nan)
            assert not all_finite(x)


@pytest.mark.parametrize("order", ["C", "F"])
def test_scores_that_are_scaled_and_narrowed_take_no_copy_in_their_own_dtype(order, rng):
    a = np.asarray(rng.standard_normal((1000, 600)), order=order)
    G = replace(as_scores(a), dtype=np.dtype(np.float32), scale=0.25)
    tracemalloc.start()
    try:
        rows = G.rows(0, 1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows.dtype == np.float32 and rows.flags.c_contiguous
    assert np.array_equal(rows, (0.25 * a).astype(np.float32)) and peak < 1.3 * rows.nbytes
