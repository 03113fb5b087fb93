"""Weighted, shifted syrk: c += (G - m)' diag(w) (G - m), lower triangle, sums in double."""

import functools

import numba
import numpy as np
import pytest
from hypothesis import given

import fastfisher as ff
from fastfisher.kernels.cpu import rank_k, splitting
from fastfisher.kernels.cpu.splitting import (
    KC,
    SHARE_ROWS,
    SPLIT,
    SPLIT_PAIRS,
    THIN,
    stretch,
)
from fastfisher.kernels.cpu.syrk import MIRROR, mirror
from fastfisher.kernels.cpu.threads import Driver
from tests import matrices, oracle
from tests.kernels.cases import (
    implementations,
    lower_of,
    operands,
    ours,
    over_dtypes,
    real_dtype,
    rounded,
    sizes,
    started,
    sums_dtype,
    unchanged,
    with_variants,
)
from tests.tolerances import assert_ratio, syrk_ratio, unit_roundoff

over_implementations = implementations("syrk")

EMPTY_AND_SMALL = [(0, 0), (0, 3), (3, 0), (1, 1), (1, 9), (2, 3), (5, 1), (50, 10), (10, 50)]
WIDTHS = [(37, p) for block in (4, 8, 12, 24, 48, 96) for p in matrices.edges(block)]
ENDS = (SPLIT, SPLIT + 1, SPLIT_PAIRS, SPLIT_PAIRS + 1)
ORDERS = [(37, p) for p in (*matrices.edges(MIRROR), *matrices.edges(THIN), *ENDS)]
BLOCKS = [(n, 5) for n in (3, 4, *matrices.edges(KC), 1023, 1025, *matrices.edges(SHARE_ROWS))]
SHARES = [(n, THIN + 6) for n in (4 * SHARE_ROWS - 1, 4 * SHARE_ROWS + 3)]
PACKED = [(n, SPLIT + 1) for n in matrices.edges(stretch(SPLIT + 1, 8))]
PACKED += [(n, SPLIT_PAIRS + 1) for n in matrices.edges(stretch(SPLIT_PAIRS + 1, 8, 2))]
SHAPES = EMPTY_AND_SMALL + WIDTHS + ORDERS + BLOCKS + SHARES + PACKED


@functools.lru_cache(maxsize=len(SHAPES))
def exact(n, p, dtype, variant):
    """Operands, their sum and its bound: one after the other, every implementation meets them."""
    case = operands(n, p, dtype, variant)
    total = np.tril(oracle.syrk(case.shifted, case.weights, n * p * p < 300_000))
    return case, total, np.tril(oracle.syrk_bound(case.shifted, case.weights))


def compare(entry, n, p, dtype, variant):
    """Run one case against the oracle: within 10 n u, and 32 u where we cut the sums ourselves."""
    case, total, bound = exact(n, p, dtype, variant)
    c, start = started(p, dtype)
    intact = unchanged(case.G, case.scale_or_none, case.shift_or_none)
    entry.load()(c, case.G, case.scale_or_none, case.shift_or_none)
    intact()
    expected, bound = start + total, np.abs(start) + bound
    F, what = rounded(lower_of(c), dtype), f"{entry.name} {n} x {p} {dtype} {variant}"
    assert_ratio(syrk_ratio(F, expected, bound, n + 1), "goal", what)
    if entry == ours("syrk"):
        assert_ratio(syrk_ratio(F, expected, bound, 1), "summation", what)


@over_implementations
def test_syrk_by_hand(entry):
    c = np.zeros((2, 2), complex)
    G = np.array([[1 + 1j, 2.0], [1j, 1 - 1j]])
    entry.load()(c, G, np.array([1.0, 2.0]), np.array([1.0, 0j]))
    # rows less the shift: (i, 2) with weight 1 and (-1 + i, 1 - i) with weight 4
    assert c[0, 0] == 9 and c[1, 1] == 12 and c[1, 0] == 4 * (1 + 1j) * (-1 + 1j) + 2j


@over_implementations
@over_dtypes
def test_27_1_syrk_error_at_every_block_edge(entry, dtype):
    for n, p, variant in with_variants(SHAPES, dtype):
        compare(entry, n, p, dtype, variant)


@over_implementations
@over_dtypes
@given(n=sizes, p=sizes)
def test_27_1_syrk_error_at_any_size(entry, dtype, n, p):
    compare(entry, n, p, dtype, "weighted and shifted")


@pytest.mark.parametrize("reproducible", (True, False), ids=("ours", "fastest"))
@pytest.mark.parametrize("family", (matrices.cauchy, matrices.mixed_columns, matrices.ones))
@over_dtypes
def test_27_1_syrk_error_on_hard_data(family, dtype, reproducible):
    G = family(700, 6, dtype).G
    with ff.options(reproducible=reproducible):
        F = ff.ops.syrk(G)
    ratio = syrk_ratio(F, oracle.syrk(G, precise=True), oracle.syrk_bound(G), 1)
    assert_ratio(ratio, "summation", family.__name__)


@pytest.mark.parametrize("reproducible", (True, False), ids=("ours", "fastest"))
@pytest.mark.parametrize("p", (1, 3, 130))
def test_27_1_float32_syrk_error_does_not_grow_with_the_rows(p, reproducible):
    n = 2_000_000 // p
    G = np.abs(matrices.gaussian((n, p), "float32", matrices.generator("long", p)))
    with ff.options(reproducible=reproducible):
        F = ff.ops.syrk(G)
    exact = oracle.syrk(G)
    assert_ratio(syrk_ratio(F, exact, exact, 1), "goal", f"{n} x {p}")


@pytest.mark.parametrize("reproducible", (True, False), ids=("ours", "fastest"))
def test_counting_ones_in_float32_passes_two_to_the_24(reproducible):
    n = 2**24 + 2
    with ff.options(reproducible=reproducible):
        F = ff.ops.syrk(np.broadcast_to(np.float32(1), (n, 1)))
    assert F.dtype == np.float32 and F[0, 0] == n


# Laws ----------------------------------------------------------------------------------------


@over_dtypes
@pytest.mark.parametrize("p", (0, 1, 5, MIRROR, MIRROR + 1, 2 * MIRROR + 3))
def test_both_triangles_in_the_precision_of_the_scores(dtype, p):
    c = np.tril(matrices.gaussian((p, p), sums_dtype(dtype), matrices.generator("mirror", p)))
    garbage = np.where(np.tri(p, dtype=bool), c, np.nan)
    whole, out = garbage.copy(), np.full((p, p), np.nan, dtype)
    mirror(garbage, out)
    mirror(whole)
    assert np.array_equal(
        whole, np.tril(c, -1) + np.tril(c, -1).conj().T + np.diag(c.diagonal().real)
    )
    assert np.array_equal(out, whole.astype(dtype))


def run(entry, G, weights=None):
    """Full G'WG of one implementation, in double."""
    c = np.zeros((G.shape[1], G.shape[1]), sums_dtype(G.dtype))
    none = np.empty(0, real_dtype(G.dtype))
    scale = none if weights is None else np.sqrt(weights).astype(none.dtype)
    entry.load()(c, np.ascontiguousarray(G), scale, np.empty(0, G.dtype))
    mirror(c)
    return c


@over_implementations
@over_dtypes
def test_law_26_4_powers_of_two_and_signs_are_exact(entry, dtype):
    G = operands(70, 13, dtype).G
    F = run(entry, G)
    assert np.array_equal(run(entry, -G), F)
    assert np.array_equal(run(entry, G * G.real.dtype.type(2.0**20)), F * 2.0**40)


@over_implementations
@over_dtypes
def test_law_26_5_columns_scaled_by_powers_of_two_are_exact(entry, dtype):
    G = operands(70, 13, dtype).G
    d = 2.0 ** np.arange(-6, 7)
    assert np.array_equal(run(entry, (G * d).astype(dtype)), d[:, None] * run(entry, G) * d)


@over_implementations
@over_dtypes
def test_laws_26_1_and_26_3_rows_permuted_split_repeated_removed(entry, dtype, rng):
    G = operands(60, 9, dtype).G
    counts = rng.integers(0, 4, 60)
    F, n = run(entry, G, counts), counts.sum()
    repeated = np.repeat(G, counts, axis=0)
    variants = {
        "repeated": run(entry, repeated),
        "permuted": run(entry, rng.permutation(repeated)),
        "split": run(entry, repeated[:17]) + run(entry, repeated[17:]),
    }
    bound = 2 * n * unit_roundoff(dtype) * oracle.syrk_bound(repeated)
    for name, other in variants.items():
        assert np.all(np.abs(other - F) <= bound), name


@over_dtypes
def test_blocks_added_after_every_stretch_are_the_sum_too(dtype, monkeypatch):
    """As for orders whose blocks would take too much memory beside C."""
    n, p = 2 * stretch(SPLIT + 7, np.dtype(dtype).itemsize) + 5, SPLIT + 7
    G = operands(n, p, dtype).G
    kept = run(ours("syrk"), G)
    monkeypatch.setattr(splitting, "KEPT_BYTES", 0)
    F = run(ours("syrk"), G)
    if unit_roundoff(dtype) < 1e-10:  # sums of single ones are exact either way
        assert not np.array_equal(F, kept), "stretches are sums of their own"
    F, bound = rounded(F, dtype), oracle.syrk_bound(G)
    assert_ratio(syrk_ratio(F, oracle.syrk(G), bound, 1), "summation", dtype)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("p", (20, SPLIT_PAIRS + 7))
def test_complex_sums_are_right_where_one_part_is_small(dtype, p, rng):
    """By three products or four: errors are those of the numbers, and what is real stays real."""
    parts = rng.standard_normal((2, 600, p))
    for re, im in ((1, 1e-9), (1e-9, 1), (1, 0), (0, 1), (1, 1)):
        G = (re * parts[0] + 1j * im * parts[1]).astype(dtype)
        for name, scores in (("syrk", G), ("gram", np.ascontiguousarray(G.T))):
            F = getattr(ff.ops, name)(scores)
            exact, bound = oracle.syrk(G), oracle.syrk_bound(G)
            exact = exact if name == "syrk" else exact.conj()
            assert_ratio(syrk_ratio(F, exact, bound, 1), "summation", f"{name} {re} {im}")
            assert not F.diagonal().imag.any() and (re * im or not F.imag.any())


@over_dtypes
@pytest.mark.parametrize("p", (5, SPLIT + 1))
def test_law_26_12_rows_of_zeros_at_the_end_change_no_bit(dtype, p):
    G = operands(300, p, dtype).G
    longer = np.concatenate([G, np.zeros((KC + 3, p), dtype)])
    assert np.array_equal(run(ours("syrk"), longer), run(ours("syrk"), G))


@pytest.mark.parametrize("reproducible", (True, False), ids=("ours", "fastest"))
@over_dtypes
@given(n=sizes, p=sizes)
def test_law_26_9_syrk_is_hermitian_to_the_bit_and_semidefinite(dtype, n, p, reproducible):
    G, w = operands(n, p, dtype).G, matrices.weights(n, dtype)
    with ff.options(reproducible=reproducible):
        F = ff.ops.syrk(G, w)
    assert F.dtype == dtype and F.shape == (p, p)
    assert np.array_equal(F, F.conj().T)
    assert np.all(F.diagonal().real >= 0) and not np.any(F.diagonal().imag)
    if p:
        trace = np.trace(F).real
        assert np.linalg.eigvalsh(F)[0] >= -(n + 30 * p) * unit_roundoff(dtype) * trace


def test_unit_weights_are_no_weights_to_the_bit_F8():
    G = operands(300, 20, "float32").G
    assert np.array_equal(ff.ops.syrk(G, np.ones(300)), ff.ops.syrk(G))


# Storage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reproducible", (True, False), ids=("ours", "fastest"))
@over_dtypes
def test_law_26_13_syrk_has_the_same_bits_in_every_layout(dtype, reproducible):
    for G in (operands(40, 11, dtype).G, np.ones((5, 3), dtype), np.zeros((0, 3), dtype)):
        with ff.options(reproducible=reproducible):
            expected = ff.ops.syrk(G)
            for name, stored in matrices.layouts(G):
                intact = unchanged(stored)
                assert np.array_equal(ff.ops.syrk(stored), expected), name
                intact()


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_kernels_see_one_layout_only_so_that_no_layout_compiles_anew():
    with ff.options(reproducible=True):
        for _, stored in matrices.layouts(operands(300, 5, "float32").G):
            ff.ops.syrk(stored)
    drivers = [d.compiled for d in vars(rank_k).values() if isinstance(d, Driver)]
    arrays = {t for d in drivers for args in d.signatures for t in args if hasattr(t, "layout")}
    assert arrays and all(t.layout == "C" and t.mutable for t in arrays)


def test_syrk_writes_into_out():
    G = operands(20, 4, "float32").G
    out = np.full((4, 4), np.nan, "float32")
    assert ff.ops.syrk(G, out=out) is out
    assert np.array_equal(out, ff.ops.syrk(G))
    with pytest.raises(ff.errors.InputError, match="out is float64"):
        ff.ops.syrk(G, out=np.empty((4, 4)))
    square = operands(4, 4, "float32").G
    with pytest.raises(ff.errors.InputError, match="shares memory"):
        ff.ops.syrk(square, out=square)


# Trouble -------------------------------------------------------------------------------------


@over_implementations
@over_dtypes
@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_law_26_16_what_is_not_finite_reaches_its_row_and_column(entry, dtype, bad):
    G = operands(300, 20, dtype).G
    G[257, 7] = bad
    with np.errstate(invalid="ignore"):
        F = run(entry, G)
    touched = np.zeros((20, 20), bool)
    touched[7], touched[:, 7] = True, True
    assert np.array_equal(~np.isfinite(F), touched)


def test_syrk_names_the_row_that_is_not_finite():
    G = operands(300, 20, "float64").G
    G[257, 7] = np.nan
    with pytest.raises(ff.errors.InputError, match="G holds nan in row 257, column 7"):
        ff.ops.syrk(G)


@over_dtypes
@pytest.mark.parametrize("name", ("geo_small", "geo_large", "geo_small_zerocol3", "geo_graded"))
def test_law_26_15_scores_near_the_ends_of_the_range(name, dtype):
    G = matrices.named(name, 20, 5, dtype).G
    exact, bound = oracle.syrk(G, precise=True), oracle.syrk_bound(G)
    assert_ratio(syrk_ratio(ff.ops.syrk(G), exact, bound, 20), "goal", name)


@over_dtypes
def test_law_26_15_overflow_is_named(dtype):
    G = matrices.named("geo_ofl", 20, 5, dtype).G
    with pytest.raises(ff.errors.InputError, match="overflows"):
        ff.ops.syrk(G)
