"""Products with vectors (rows (k, p) and (k, n) inside): G v, G'u, G'(w o (G v)); diag."""

import numpy as np
import pytest
from hypothesis import given

import fastfisher as ff
from fastfisher.kernels import vendor
from fastfisher.kernels.cpu import matvec as module
from fastfisher.kernels.cpu import several
from fastfisher.kernels.cpu import sums as block_sums
from fastfisher.kernels.cpu.matvec import SHORT
from fastfisher.kernels.cpu.row_passes import GROUP, MANY
from fastfisher.kernels.cpu.row_tiles import COLUMNS, MOST, TILE_ROWS, WIDTHS
from fastfisher.kernels.cpu.splitting import (
    BLOCK_ROWS,
    CHUNK_BYTES,
    FUSED_BYTES,
    LANE_BYTES,
    padded,
)
from fastfisher.kernels.cpu.sums import STRIPE
from tests import matrices, oracle
from tests.kernels.cases import (
    bits_of_kernels,
    implementations_of,
    operands,
    ours,
    over_dtypes,
    sizes,
    sums_dtype,
    with_variants,
)
from tests.kernels.vectors import COMPARE, compare_fvp, over_products, vectors
from tests.tolerances import assert_ratio, matvec_ratio, unit_roundoff

EMPTY_AND_SMALL = [(0, 0), (0, 3), (3, 0), (1, 1), (1, 9), (5, 3), (50, 10), (10, 50)]
LANES = [p for itemsize in (4, 8, 16) for p in matrices.edges(LANE_BYTES // itemsize)]
CHUNKS = [p for itemsize in (4, 8) for p in matrices.edges(CHUNK_BYTES // itemsize)]
ALONG = [(3, p) for p in (*LANES, *CHUNKS, STRIPE - 1, STRIPE + 1)]
DOWN = [
    (n, 7)
    for n in (
        *matrices.edges(GROUP),
        *matrices.edges(MANY),
        *matrices.edges(BLOCK_ROWS),
        *matrices.edges(vendor.BLOCK),
    )
]
ENDS = [SHORT // itemsize + more for itemsize in (2, 4, 8) for more in (-1, 0)]
FOURS = [(n, p) for n in (4, 5, 7) for p in (*ENDS, CHUNK_BYTES // 4 + 1, STRIPE + 1)]
SHAPES = EMPTY_AND_SMALL + ALONG + DOWN + FOURS
VECTORS = (0, 1, 5)


def counts(op):
    return (1,) if op == "diag" else VECTORS


@over_products
@over_dtypes
def test_27_1_product_error_at_every_block_edge(op, entry, dtype):
    for n, p, variant in with_variants(SHAPES, dtype):
        for k in counts(op):
            COMPARE[op](entry, n, p, k, dtype, variant)


@over_products
@over_dtypes
@given(n=sizes, p=sizes)
def test_27_1_product_error_at_any_size(op, entry, dtype, n, p):
    for k in counts(op):
        COMPARE[op](entry, n, p, k, dtype, "weighted and shifted")


@implementations_of("matvec", "rmatvec", "fvp")
def test_the_stride_of_a_single_row_means_nothing(op, entry):
    stride = 1 << 35  # in 32 bits, of numbers: 0
    row = np.lib.stride_tricks.as_strided(np.arange(40.0), (1, 40), (stride, 8))
    more = () if op != "fvp" else (np.empty(0),)
    side = {"matvec": (40, 1), "rmatvec": (1, 40), "fvp": (40, 40)}[op]
    y, v = np.zeros((3, side[1])), np.ones((3, side[0]))
    entry.load()(y, row, v, *more, np.empty(0))
    along = row[0] * 40 * 39 / 2
    expected = {"matvec": [780.0], "rmatvec": row[0], "fvp": along}[op]
    assert np.array_equal(y, np.tile(expected, (3, 1)))


@implementations_of("matvec", "rmatvec", "fvp")
def test_no_vectors_are_no_work_however_wide_the_rows(op, entry):
    COMPARE[op](entry, 2, 600_000, 0, np.dtype("float64"), "weighted")


@pytest.mark.parametrize("more", (0, 1))
@over_dtypes
def test_fvp_is_right_on_both_sides_of_the_fused_limit(dtype, more):
    p = FUSED_BYTES // (4 * dtype.itemsize) + more
    compare_fvp(ours("fvp"), 9, p, 2, dtype, "weighted and shifted")


@bits_of_kernels
@over_dtypes
@pytest.mark.parametrize("k", (1, 2, MOST + 1))
def test_fvp_of_long_rows_has_the_bits_of_one_pass(dtype, k, monkeypatch):
    n, p = BLOCK_ROWS + 3, STRIPE + 70
    G, w, shift = operands(n, p, dtype).G, matrices.weights(n, dtype), vectors(1, p, dtype)[0]
    v, y = vectors(k, p, dtype), np.zeros((2, k, p), sums_dtype(dtype))
    module.fvp(y[0], G, v, w, shift)
    for room in (module, several):
        monkeypatch.setattr(room, "one_pass", lambda *size: False)
    monkeypatch.setattr(module, "strip_rows", lambda *size: 0)
    module.fvp(y[1], G, v, w, shift)
    assert np.array_equal(y[0], y[1])


TILES = [(n, 21) for k in WIDTHS for n in matrices.edges(TILE_ROWS[k])]
TILES += [(9, p) for p in (*matrices.edges(COLUMNS), *CHUNKS, *matrices.edges(several.STRIPE))]
TILES += [(several.LONG + 1, 1100), (BLOCK_ROWS + 7, 40), (5, 40_000)]


@bits_of_kernels
@pytest.mark.parametrize("shifted", (False, True), ids=("plain", "shifted"))
@over_dtypes
def test_every_vector_of_a_tile_has_the_bits_that_it_has_alone(dtype, shifted):
    for n, p in TILES:
        G, w = operands(n, p, dtype).G, matrices.weights(n, dtype)
        shift = vectors(1, p, dtype)[0] if shifted else np.empty(0, dtype)
        for k in (2, 3, MOST, MOST + 1, 2 * MOST + 5) if p < 2000 else (MOST + 3,):
            v, u = vectors(k, p, dtype), vectors(k, n, dtype)
            for op, x, more in ("matvec", v, ()), ("rmatvec", u, ()), ("fvp", v, (w,)):
                run, size = getattr(module, op), n if op == "matvec" else p
                y = np.zeros((2, k, size), sums_dtype(dtype))
                run(y[0], G, x, *more, shift)
                for c in range(k):
                    run(y[1, c : c + 1], G, x[c : c + 1], *more, shift)
                assert np.array_equal(y[0], y[1]), (op, n, p, k)


def test_tiles_take_a_few_more_vectors_than_there_are():
    assert [padded(k) for k in (0, 1, 2, 3, 5, 9, 11)] == [0, 2, 2, 4, 8, 10, 12]
    for k in range(3 * MOST):
        there = padded(k, MOST)
        assert k <= there <= padded(k) and (there % MOST or MOST) in WIDTHS


@pytest.mark.parametrize("op", COMPARE)
@over_dtypes
def test_block_sums_kept_a_few_at_a_time_are_the_same(op, dtype, monkeypatch):
    monkeypatch.setattr(block_sums, "PARTIAL_BYTES", 1)
    COMPARE[op](
        ours(op), block_sums.PARTIAL_BLOCKS * BLOCK_ROWS + 1, 9, 2, dtype, "weighted and shifted"
    )


@pytest.mark.parametrize("op", ("rmatvec", "diag", "fvp"))
@pytest.mark.parametrize("k", (1, 5))
def test_27_1_float32_sums_over_samples_do_not_grow_with_the_rows(op, k):
    n, p = 500_000, 3
    G = np.abs(matrices.gaussian((n, p), "float32", matrices.generator("long products")))
    ones = {"rmatvec": n, "fvp": p}
    if op == "diag":
        y, exact = ff.ops.diag(G), oracle.diag(G)
    else:
        v = np.ones((ones[op], k), "float32")
        y, exact = getattr(ff.ops, op)(G, v), getattr(oracle, op)(G, v)
    assert_ratio(matvec_ratio(y, exact, exact, 1), "goal", f"{op}, k = {k}")


def test_27_1_float32_sums_over_parameters_do_not_grow():
    G = np.abs(matrices.gaussian((3, 500_000), "float32", matrices.generator("wide products")))
    for k in (1, 5):
        v = np.ones((500_000, k), "float32")
        exact = oracle.matvec(G, v)
        assert_ratio(matvec_ratio(ff.ops.matvec(G, v), exact, exact, 1), "goal", f"k = {k}")


@pytest.mark.parametrize("op", [op for op in COMPARE if hasattr(ff.ops, op)])
def test_27_1_float64_block_sums_are_compensated(op):
    n = 1_000_000
    column = np.abs(matrices.gaussian((n, 1), "float64", matrices.generator("compensated")))
    G, v = (column.T, np.ones(n)) if op == "matvec" else (column, np.ones(1))
    operand = {"matvec": (v,), "fvp": (v,), "diag": ()}.get(op, (np.ones(n),))
    power = 1 if op.endswith("matvec") else 2
    exact = np.sum(column.astype(np.longdouble) ** power, axis=0)
    y = getattr(ff.ops, op)(np.ascontiguousarray(G), *operand)
    assert_ratio(matvec_ratio(y, exact, exact, 1), "compensated", op)


@over_dtypes
@pytest.mark.parametrize("k", (1, 5))
def test_fine_sums_of_equal_terms_round_little(dtype, k):
    n, u, errors = 2000, np.ones((k, 2000), dtype), []
    G = np.full((n, 3), 0.1, dtype)
    exact = n * np.longdouble(G[0, 0].real)
    for op in (module.rmatvec, module.fine_rmatvec):
        y = np.zeros((k, 3), sums_dtype(dtype))
        op(y, G, u, np.empty(0, dtype))
        errors.append(float(np.abs(y / exact - 1).max()) / unit_roundoff(dtype))
    assert errors[1] < 4 and errors[0] > 10, errors  # sums of 16 terms, and of 256
