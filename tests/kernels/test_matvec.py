"""Products with vectors (rows (k, p) and (k, n) inside): G v, G'u, G'(w o (G v)); diag; scan."""

import numpy as np
import pytest
from hypothesis import given

import fastfisher as ff
from fastfisher import arrays, passes
from fastfisher.kernels import vendor
from fastfisher.kernels.cpu import matvec as module
from fastfisher.kernels.cpu import several
from fastfisher.kernels.cpu import sums as block_sums
from fastfisher.kernels.cpu.row_tiles import COLUMNS, MOST, TILE_ROWS, WIDTHS
from fastfisher.kernels.cpu.rows import GROUP, MANY
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
    implementations,
    implementations_of,
    operands,
    ours,
    over_dtypes,
    real_dtype,
    rounded,
    sizes,
    sums_dtype,
    unchanged,
    with_variants,
)
from tests.tolerances import assert_ratio, matvec_ratio

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
SHAPES = EMPTY_AND_SMALL + ALONG + DOWN
VECTORS = (0, 1, 5)


def vectors(k, size, dtype):
    return matrices.gaussian((k, size), dtype, matrices.generator("vectors", k, size, str(dtype)))


def magnitudes(a):
    return np.abs(a).astype(np.float64)


def judge(entry, y, expected, bound, terms, what):
    """Within 10 u per term, and 32 u in all where we cut the sums ourselves."""
    assert_ratio(matvec_ratio(y, expected, bound, terms), "goal", f"{entry.name} {what}")
    if entry.module.startswith("cpu."):
        assert_ratio(matvec_ratio(y, expected, bound, 1), "summation", f"{entry.name} {what}")


def compare_matvec(entry, n, p, k, dtype, variant):
    case, v = operands(n, p, dtype, variant), vectors(k, p, dtype)
    y = np.full((k, n), np.nan, sums_dtype(dtype))
    intact = unchanged(case.G, v, case.shift_or_none)
    entry.load()(y, case.G, v, case.shift_or_none)
    intact()
    expected = v.astype(y.dtype) @ case.shifted.T
    bound = magnitudes(v) @ magnitudes(case.shifted).T
    what = f"{n} x {p}, k = {k}, {dtype} {variant}"
    judge(entry, rounded(y, dtype), expected, bound, p + 1, what)


def compare_rmatvec(entry, n, p, k, dtype, variant):
    case, u = operands(n, p, dtype, variant), vectors(k, n, dtype)
    start = vectors(k, p, sums_dtype(dtype))
    y = start.copy()
    intact = unchanged(case.G, u, case.shift_or_none)
    entry.load()(y, case.G, u, case.shift_or_none)
    intact()
    expected = start + u.astype(y.dtype) @ case.shifted.conj()
    bound = magnitudes(start) + magnitudes(u) @ magnitudes(case.shifted)
    what = f"{n} x {p}, k = {k}, {dtype} {variant}"
    judge(entry, rounded(y, dtype), expected, bound, n + 1, what)


def compare_fvp(entry, n, p, k, dtype, variant):
    case, v = operands(n, p, dtype, variant), vectors(k, p, dtype)
    start = vectors(k, p, sums_dtype(dtype))
    y = start.copy()
    intact = unchanged(case.G, v, case.weights_or_none, case.shift_or_none)
    entry.load()(y, case.G, v, case.weights_or_none, case.shift_or_none)
    intact()
    expected = start + oracle.fvp(case.shifted, v.T, case.weights).T
    bound = magnitudes(start) + oracle.fvp_bound(case.shifted, v.T, case.weights).T
    what = f"{n} x {p}, k = {k}, {dtype} {variant}"
    judge(entry, rounded(y, dtype), expected, bound, n + p + 1, what)


def compare_diag(entry, n, p, k, dtype, variant):
    case = operands(n, p, dtype, variant)
    start = magnitudes(vectors(1, p, dtype)[0])
    y = start.copy()
    intact = unchanged(case.G, case.weights_or_none, case.shift_or_none)
    entry.load()(y, case.G, case.weights_or_none, case.shift_or_none)
    intact()
    expected = start + oracle.diag(case.shifted, case.weights, precise=True)
    y = y.astype(real_dtype(dtype))
    judge(entry, y, expected, expected, n + 1, f"{n} x {p} {dtype} {variant}")


COMPARE = {
    "matvec": compare_matvec,
    "rmatvec": compare_rmatvec,
    "fvp": compare_fvp,
    "diag": compare_diag,
}
over_products = implementations_of(*COMPARE)


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
def test_no_vectors_are_no_work_however_wide_the_rows(op, entry):
    COMPARE[op](entry, 2, 600_000, 0, np.dtype("float64"), "weighted")


@pytest.mark.parametrize("more", (0, 1))
@over_dtypes
def test_fvp_is_right_on_both_sides_of_the_fused_limit(dtype, more):
    p = FUSED_BYTES // (4 * dtype.itemsize) + more
    compare_fvp(ours("fvp"), 9, p, 2, dtype, "weighted and shifted")


@over_dtypes
@pytest.mark.parametrize("k", (1, 2, MOST + 1))
@pytest.mark.parametrize("kept", (1, 12, BLOCK_ROWS), ids="{} rows in cache".format)
def test_fvp_of_long_rows_has_the_bits_of_one_pass(dtype, k, kept, monkeypatch):
    n, p = BLOCK_ROWS + 3, STRIPE + 70
    G, w, shift = operands(n, p, dtype).G, matrices.weights(n, dtype), vectors(1, p, dtype)[0]
    v, y = vectors(k, p, dtype), np.zeros((2, k, p), sums_dtype(dtype))
    module.fvp(y[0], G, v, w, shift)
    for room in (module, several):
        monkeypatch.setattr(room, "one_pass", lambda *size: False)
    monkeypatch.setattr(module, "strip_fits", lambda *size: False)
    monkeypatch.setattr(block_sums, "CACHED_BYTES", kept * p * np.dtype(dtype).itemsize)
    module.fvp(y[1], G, v, w, shift)
    assert np.array_equal(y[0], y[1])


TILES = [(n, 21) for k in WIDTHS for n in matrices.edges(TILE_ROWS[k])]
TILES += [(9, p) for p in (*matrices.edges(COLUMNS), *CHUNKS, *matrices.edges(several.STRIPE))]
TILES += [(several.LONG + 1, 1100), (BLOCK_ROWS + 7, 40), (5, 40_000)]


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


@pytest.mark.parametrize("op", COMPARE)
def test_27_1_float64_block_sums_are_compensated(op):
    n = 1_000_000
    column = np.abs(matrices.gaussian((n, 1), "float64", matrices.generator("compensated")))
    G, v = (column.T, np.ones(n)) if op == "matvec" else (column, np.ones(1))
    operand = {"matvec": (v,), "fvp": (v,), "rmatvec": (np.ones(n),), "diag": ()}[op]
    power = 1 if op.endswith("matvec") else 2
    exact = np.sum(column.astype(np.longdouble) ** power, axis=0)
    y = getattr(ff.ops, op)(np.ascontiguousarray(G), *operand)
    assert_ratio(matvec_ratio(y, exact, exact, 1), "compensated", op)


# Laws ----------------------------------------------------------------------------------------


@over_dtypes
@pytest.mark.parametrize("reproducible", (True, False), ids=("ours", "fastest"))
@pytest.mark.parametrize("k", (None, 1, 3, 6))
def test_ops_agree_with_the_oracle_and_keep_the_shape_of_the_vectors(dtype, reproducible, k):
    G, w = operands(40, 13, dtype).G, matrices.weights(40, dtype)
    v, u = vectors(k or 1, 13, dtype).T, vectors(k or 1, 40, dtype).T
    v, u = (v[:, 0], u[:, 0]) if k is None else (v, u)
    with ff.options(reproducible=reproducible):
        results = {
            "matvec": (ff.ops.matvec(G, v), oracle.matvec(G, v), oracle.matvec(abs(G), abs(v))),
            "rmatvec": (ff.ops.rmatvec(G, u), oracle.rmatvec(G, u), oracle.rmatvec(abs(G), abs(u))),
            "fvp": (ff.ops.fvp(G, v, w), oracle.fvp(G, v, w), oracle.fvp_bound(G, v, w)),
        }
    for name, (y, expected, bound) in results.items():
        assert y.dtype == dtype, name
        assert_ratio(matvec_ratio(y, expected, bound, 60), "goal", name)


@pytest.mark.parametrize("op", ("matvec", "rmatvec", "fvp"))
def test_complex_vectors_with_real_scores_give_complex_products(op):
    G, v = operands(40, 13, "float32").G, vectors(2, 13, "complex64").T
    v = vectors(2, 40, "complex64").T if op == "rmatvec" else v
    y = getattr(ff.ops, op)(G, v)
    expected = getattr(oracle, op)(G, v)
    assert y.dtype == np.complex64
    assert_ratio(matvec_ratio(y, expected, getattr(oracle, op)(abs(G), abs(v)), 60), "goal", op)


@over_dtypes
def test_adjoint_identity_L3(dtype):
    G, u, v = operands(40, 13, dtype).G, vectors(1, 40, dtype)[0], vectors(1, 13, dtype)[0]
    left, right = np.vdot(u, ff.ops.matvec(G, v)), np.vdot(ff.ops.rmatvec(G, u), v)
    bound = magnitudes(u) @ magnitudes(G) @ magnitudes(v)
    assert abs(left - right) <= 60 * np.finfo(dtype).eps * bound


@over_dtypes
def test_columns_of_several_vectors_are_single_products_to_the_bit(dtype):
    G, v = operands(300, 40, dtype).G, vectors(3, 40, dtype).T
    many = ff.ops.fvp(G, v)
    assert all(np.array_equal(many[:, j], ff.ops.fvp(G, v[:, j])) for j in range(3))


@over_dtypes
def test_law_26_4_products_scale_exactly_with_powers_of_two(dtype):
    G, v = operands(300, 40, dtype).G, vectors(1, 40, dtype)[0]
    two = G.real.dtype.type(2.0**10)
    assert np.array_equal(ff.ops.fvp(G * two, v), ff.ops.fvp(G, v) * two * two)
    assert np.array_equal(ff.ops.diag(G * two), ff.ops.diag(G) * two * two)


def test_diagonal_F11_squares_inside_the_sum():
    G = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    assert ff.ops.diag(G).tolist() == [4] and ff.ops.rmatvec(G, np.ones(4)).tolist() == [0]
    assert ff.ops.diag(G * (1 + 1j)).tolist() == [8]
    assert ff.ops.diag(G.astype("complex64")).dtype == np.float32


# Storage and trouble -------------------------------------------------------------------------


@over_dtypes
def test_law_26_13_products_have_the_same_bits_in_every_layout(dtype):
    for G in (operands(40, 11, dtype).G, np.ones((5, 3), dtype), np.zeros((0, 3), dtype)):
        n, p = G.shape
        v, u = vectors(1, p, dtype)[0], vectors(1, n, dtype)[0]
        calls = (
            lambda G, v=v: ff.ops.matvec(G, v),
            lambda G, u=u: ff.ops.rmatvec(G, u),
            lambda G, v=v: ff.ops.fvp(G, v),
            ff.ops.diag,
        )
        for call in calls:
            expected = call(G)
            for name, stored in matrices.layouts(G):
                intact = unchanged(stored)
                assert np.array_equal(call(stored), expected), name
                intact()


@over_dtypes
def test_law_26_13_long_rows_have_the_same_bits_in_every_layout(dtype, monkeypatch):
    for place in (arrays, passes):
        monkeypatch.setattr(place, "SLICE_BYTES", 1 << 12)
    G, w = operands(40, 600, dtype).G, matrices.weights(40, dtype)
    v, u = vectors(1, 600, dtype)[0], vectors(1, 40, dtype)[0]

    def products(G):
        centred = np.zeros((2, 1, 600), sums_dtype(dtype))
        passes.add_rmatvec(centred[0], arrays.as_scores(G), u[np.newaxis], shift=v)
        passes.add_fvp(centred[1], arrays.as_scores(G), v[np.newaxis], weights=w, shift=v)
        return ff.ops.fvp(G, v, w), ff.ops.rmatvec(G, u), ff.ops.matvec(G, v), centred

    expected = products(G)
    for name, stored in matrices.layouts(G):
        for y, right in zip(products(stored), expected, strict=True):
            assert np.array_equal(y, right), name
    exact, bound = oracle.fvp(G, v, w), oracle.fvp_bound(G, v, w)
    assert_ratio(matvec_ratio(expected[0], exact, bound, 640), "goal", "fvp")


@over_dtypes
def test_law_26_13_vectors_may_lie_in_memory_in_any_way(dtype):
    G, V = operands(40, 11, dtype).G, vectors(4, 11, dtype).T
    expected = ff.ops.fvp(G, np.ascontiguousarray(V))
    for name, stored in matrices.layouts(V):
        assert np.array_equal(ff.ops.fvp(G, stored), expected), name


@over_products
@over_dtypes
def test_law_26_16_what_is_not_finite_stays_so(op, entry, dtype):
    G = operands(300, 20, dtype).G
    G[257, 7] = np.nan
    wide = sums_dtype(dtype)
    none, no_shift = np.empty(0, real_dtype(dtype)), np.empty(0, dtype)
    v, u = np.ones((1, 20), dtype), np.ones((1, 300), dtype)
    y = {
        "matvec": np.zeros((1, 300), wide),
        "rmatvec": np.zeros((1, 20), wide),
        "fvp": np.zeros((1, 20), wide),
        "diag": np.zeros(20),
    }[op]
    rest = {
        "matvec": (v, no_shift),
        "rmatvec": (u, no_shift),
        "fvp": (v, none, no_shift),
        "diag": (none, no_shift),
    }[op]
    with np.errstate(invalid="ignore"):
        entry.load()(y, G, *rest)
    expected = {
        "matvec": np.arange(300) == 257,
        "rmatvec": np.arange(20) == 7,
        "fvp": np.ones(20, bool),
        "diag": np.arange(20) == 7,
    }[op]
    assert np.array_equal(np.isnan(y).reshape(-1), expected)


@pytest.mark.parametrize("call", ("matvec", "rmatvec", "fvp", "diag"))
def test_products_name_the_row_that_is_not_finite(call):
    G = operands(300, 20, "float64").G
    G[257, 7] = -np.inf
    vector = {"matvec": (np.ones(20),), "rmatvec": (np.ones(300),), "fvp": (np.ones(20),)}
    with pytest.raises(ff.errors.InputError, match="G holds -inf in row 257, column 7"):
        getattr(ff.ops, call)(G, *vector.get(call, ()))


# Scan ----------------------------------------------------------------------------------------


@implementations("scan")
@over_dtypes
def test_scan_marks_rows_that_are_not_finite_and_finds_the_largest(entry, dtype):
    scan = entry.load()
    for n, p in ((0, 3), (3, 0), (1, 1), (BLOCK_ROWS - 1, 3), (BLOCK_ROWS + 1, 3), (700, 5)):
        G = operands(n, p, dtype).G
        bad = np.ones(n, bool)
        largest = max(np.abs(G.real).max(initial=0), np.abs(G.imag).max(initial=0))
        assert scan(bad, G) == largest and not bad.any()
        if not G.size:
            continue
        rows = [row for row in (0, n // 2, BLOCK_ROWS - 1, BLOCK_ROWS, n - 1) if row < n]
        G[rows, p // 2] = np.resize([np.nan, np.inf, -np.inf], len(rows))
        expected = np.zeros(n, bool)
        expected[rows] = True
        if dtype.kind == "c":
            G[n // 3, 0] = complex(0, np.nan)
            expected[n // 3] = True
        finite = G[~expected]
        intact = unchanged(G)
        largest = max(np.abs(finite.real).max(initial=0), np.abs(finite.imag).max(initial=0))
        assert scan(bad, G) >= largest and np.array_equal(bad, expected)
        intact()
