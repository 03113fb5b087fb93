"""Gram over the long axis: c += (G - m) diag(d) (G - m)', columns lo..hi, sums in double."""

import functools

import numpy as np
import pytest
from hypothesis import given

import fastfisher as ff
from fastfisher.kernels.cpu.splitting import KC, SHARE_ROWS, SPLIT, SPLIT_PAIRS, THIN, stretch
from fastfisher.kernels.cpu.syrk import mirror
from tests import matrices, oracle
from tests.kernels.cases import (
    implementations,
    lower_of,
    operands,
    ours,
    over_dtypes,
    over_variants,
    real_dtype,
    rounded,
    sizes,
    started,
    sums_dtype,
    unchanged,
    with_variants,
)
from tests.tolerances import assert_ratio, gram_ratio, unit_roundoff

over_implementations = implementations("gram")

EMPTY_AND_SMALL = [(0, 0), (0, 3), (3, 0), (1, 1), (9, 1), (3, 2), (1, 5), (50, 10), (10, 50)]
WIDTHS = [(n, 37) for block in (4, 8, 12, 24, 48, 96) for n in matrices.edges(block)]
ENDS = (SPLIT, SPLIT + 1, SPLIT_PAIRS, SPLIT_PAIRS + 1)
ORDERS = [(n, 37) for n in (*matrices.edges(THIN), *ENDS)]
BLOCKS = [(5, p) for p in (3, 4, 15, 16, 17, *matrices.edges(KC), *matrices.edges(SHARE_ROWS))]
SHARES = [(THIN + 6, p) for p in (4 * SHARE_ROWS - 1, 4 * SHARE_ROWS + 3)]
PACKED = [(SPLIT + 1, p) for p in matrices.edges(stretch(SPLIT + 1, 8))]
PACKED += [(SPLIT_PAIRS + 1, p) for p in matrices.edges(stretch(SPLIT_PAIRS + 1, 8, 2))]
SHAPES = EMPTY_AND_SMALL + WIDTHS + ORDERS + BLOCKS + SHARES + PACKED


@functools.lru_cache(maxsize=len(SHAPES))
def exact(n, p, dtype, variant, lo, hi):
    """Operands, their sum and its bound: one after the other, every implementation meets them."""
    case = operands(n, p, dtype, variant, per="column")
    root = np.ones(p) if case.weights is None else np.sqrt(case.weights.astype(float))
    rows = (case.shifted * root)[:, lo:hi]
    total = np.tril(oracle.gram(rows, precise=n * n * p < 300_000))
    return case, total, np.tril(oracle.gram_bound(rows))


def compare(entry, n, p, dtype, variant, lo=0, hi=None):
    """Run one case against the oracle: within 10 p u, and 32 u where we cut the sums ourselves."""
    hi = p if hi is None else hi
    case, total, bound = exact(n, p, dtype, variant, lo, hi)
    c, start = started(n, dtype)
    intact = unchanged(case.G, case.weights_or_none, case.shift_or_none)
    entry.load()(c, case.G, lo, hi, case.weights_or_none, case.shift_or_none)
    intact()
    expected, bound = start + total, np.abs(start) + bound
    K, what = rounded(lower_of(c), dtype), f"{entry.name} {n} x {p} {dtype} {variant}"
    assert_ratio(gram_ratio(K, expected, bound, hi - lo + 1), "goal", what)
    if entry == ours("gram"):
        assert_ratio(gram_ratio(K, expected, bound, 1), "summation", what)


@over_implementations
def test_gram_by_hand(entry):
    c = np.zeros((2, 2), complex)
    G = np.array([[9, 1 + 1j, 2.0], [9, 1j, 1 - 1j]])
    entry.load()(c, G, 1, 3, np.array([5.0, 1.0, 4.0]), np.array([7, 1.0, 0j]))
    # columns 1..3 less the shift: rows (i, 2) and (-1 + i, 1 - i), weights 1 and 4
    assert c[0, 0] == 17 and c[1, 1] == 10
    assert c[1, 0] == (-1 + 1j) * -1j + 4 * (1 - 1j) * 2


@over_implementations
@over_dtypes
def test_27_1_gram_error_at_every_block_edge(entry, dtype):
    for n, p, variant in with_variants(SHAPES, dtype):
        compare(entry, n, p, dtype, variant)


@over_implementations
@over_dtypes
@over_variants
def test_gram_sums_only_the_columns_it_is_given(entry, dtype, variant):
    for lo, hi in ((0, 0), (0, 7), (3, 11), (11, 40), (40, 40)):
        compare(entry, 9, 40, dtype, variant, lo, hi)


@over_implementations
@over_dtypes
@given(n=sizes, p=sizes)
def test_27_1_gram_error_at_any_size(entry, dtype, n, p):
    compare(entry, n, p, dtype, "weighted and shifted")


@pytest.mark.parametrize("reproducible", (True, False), ids=("ours", "fastest"))
def test_27_1_float32_gram_error_does_not_grow_with_the_parameters(reproducible):
    G = np.abs(matrices.gaussian((3, 700_000), "float32", matrices.generator("wide")))
    with ff.options(reproducible=reproducible):
        K = ff.ops.gram(G)
    exact = oracle.gram(G)
    assert_ratio(gram_ratio(K, exact, exact, 1), "goal", "3 x 700000")


# Laws ----------------------------------------------------------------------------------------


def run(entry, G):
    """Full G G' of one implementation, in double."""
    c = np.zeros((len(G), len(G)), sums_dtype(G.dtype))
    none = np.empty(0, real_dtype(G.dtype))
    entry.load()(c, np.ascontiguousarray(G), 0, G.shape[1], none, np.empty(0, G.dtype))
    mirror(c)
    return c


@over_implementations
@over_dtypes
def test_law_26_4_powers_of_two_per_row_are_exact(entry, dtype):
    G = operands(13, 70, dtype).G
    d = 2.0 ** np.arange(-6, 7)[:, None]
    K = run(entry, G)
    assert np.array_equal(run(entry, -G), K)
    assert np.array_equal(run(entry, (G * d).astype(dtype)), d * K * d.T)


@over_implementations
@over_dtypes
def test_gram_of_the_adjoint_is_the_syrk(entry, dtype):
    G = operands(13, 70, dtype).G
    K = run(entry, np.ascontiguousarray(G.conj().T))
    ratio = gram_ratio(rounded(K, dtype), oracle.syrk(G), oracle.syrk_bound(G), 13)
    assert_ratio(ratio, "goal", "gram of the adjoint")


@over_dtypes
@pytest.mark.parametrize("n", (5, SPLIT + 1))
def test_law_26_12_columns_of_zeros_at_the_end_change_no_bit(dtype, n):
    G = operands(n, 300, dtype).G
    wider = np.concatenate([G, np.zeros((n, KC + 3), dtype)], axis=1)
    assert np.array_equal(run(ours("gram"), wider), run(ours("gram"), G))


@pytest.mark.parametrize("reproducible", (True, False), ids=("ours", "fastest"))
@over_dtypes
@given(n=sizes, p=sizes)
def test_law_26_9_gram_is_hermitian_to_the_bit_and_weighted_by_samples(dtype, n, p, reproducible):
    G, w = operands(n, p, dtype).G, matrices.weights(n, dtype)
    with ff.options(reproducible=reproducible):
        K = ff.ops.gram(G, w)
    assert K.dtype == dtype and np.array_equal(K, K.conj().T)
    assert np.all(K.diagonal().real >= 0) and not np.any(K.diagonal().imag)
    ratio = gram_ratio(K, oracle.gram(G, w), oracle.gram_bound(G, w), p)
    assert_ratio(ratio, "goal", f"{n} x {p}")
    if n:
        least = np.linalg.eigvalsh(K)[0]
        assert least >= -(p + 30 * n) * unit_roundoff(dtype) * np.trace(K).real


# Storage and trouble -------------------------------------------------------------------------


@pytest.mark.parametrize("reproducible", (True, False), ids=("ours", "fastest"))
@over_dtypes
def test_law_26_13_gram_has_the_same_bits_in_every_layout(dtype, reproducible):
    for G in (operands(11, 40, dtype).G, np.ones((5, 3), dtype), np.zeros((3, 0), dtype)):
        with ff.options(reproducible=reproducible):
            expected = ff.ops.gram(G)
            for name, stored in matrices.layouts(G):
                intact = unchanged(stored)
                assert np.array_equal(ff.ops.gram(stored), expected), name
                intact()


@over_implementations
@over_dtypes
@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_law_26_16_what_is_not_finite_reaches_its_row_and_column(entry, dtype, bad):
    G = operands(20, 300, dtype).G
    G[7, 257] = bad
    with np.errstate(invalid="ignore"):
        K = run(entry, G)
    touched = np.zeros((20, 20), bool)
    touched[7], touched[:, 7] = True, True
    assert np.array_equal(~np.isfinite(K), touched)


def test_gram_names_the_row_that_is_not_finite():
    G = operands(20, 300, "complex64").G
    G[7, 257] = np.nan
    with pytest.raises(ff.errors.InputError, match=r"G holds .*nan.* in row 7, column 257"):
        ff.ops.gram(G)
