"""Cholesky in place and the triangular solves: L L' = A, L x = b, L' x = b."""

import functools

import numpy as np
import pytest
from hypothesis import given

import fastfisher as ff
from fastfisher.kernels import vendor
from fastfisher.kernels.cpu import cholesky as blocked
from fastfisher.kernels.cpu import few, triangular
from fastfisher.kernels.cpu.simd import lanes, tile_width
from fastfisher.kernels.cpu.splitting import FACTOR_SIDES, FACTOR_WHOLE, factor_bytes
from fastfisher.planning import Entry
from tests import matrices, oracle, squares
from tests.kernels.cases import (
    bits_of_kernels,
    implementations,
    implementations_of,
    ours,
    over_dtypes,
    sizes,
    unchanged,
)
from tests.tolerances import (
    assert_ratio,
    cholesky_ratio,
    forward_ratio,
    solve_ratio,
    unit_roundoff,
)

NB = 64  # where matrices that fail do so: inside a block, past some panels
WIDTH = tile_width("float64")
ORDERS = sorted({0, 1, 2, 3, 5, 10, 50, 95, 97, 200, *matrices.edges(NB)})
ORDERS = sorted({*ORDERS, *matrices.edges(lanes("float32")), *matrices.edges(WIDTH)})
UNTOUCHED = 1024.0  # above the diagonal: read, it spoils the factor; written to, it changes
over_cholesky = implementations("cholesky")


@functools.cache
def _definite(n, dtype):
    A = oracle.syrk(matrices.scores(n + 4, n, dtype, cond=100)) if n else np.zeros((0, 0))
    return oracle.hermitian(A).astype(dtype)


def definite(n, dtype):
    """A well conditioned Hermitian matrix; its diagonal is real."""
    return _definite(n, np.dtype(dtype)).copy()


def with_garbage(A):
    """The lower triangle of A with NaN above it, which nothing may read."""
    a = np.tril(A)
    a[np.triu_indices(len(a), 1)] = np.nan
    return a


def factored(entry, A):
    """(info, L) of one implementation; L with zeros above."""
    above = np.triu_indices(len(A), 1)
    a = np.tril(A)
    a[above] = UNTOUCHED
    info = entry.load()(a)
    assert isinstance(info, int), f"info is {type(info).__name__}"
    assert np.all(a[above] == UNTOUCHED), "the upper triangle was written"
    return info, np.tril(a)


@over_cholesky
def test_cholesky_by_hand(entry):
    A = np.array([[4.0, 0, 0], [2, 5, 0], [2j, 1j, 6]])
    info, L = factored(entry, A)
    assert info == 0
    assert np.allclose(L, [[2, 0, 0], [1, 2, 0], [1j, 0, np.sqrt(5)]], rtol=1e-15, atol=1e-15)


@over_cholesky
@over_dtypes
def test_27_2_cholesky_ratio_at_every_block_edge(entry, dtype):
    for n in ORDERS:
        A = definite(n, dtype)
        info, L = factored(entry, A)
        assert info == 0, n
        assert not L.diagonal().imag.any() and np.all(L.diagonal().real > 0), n
        assert_ratio(cholesky_ratio(A, L), "goal", f"{entry.name} order {n} {dtype}")


@over_cholesky
@over_dtypes
@given(n=sizes)
def test_27_2_cholesky_ratio_at_any_order(entry, dtype, n):
    A = definite(n, dtype)
    info, L = factored(entry, A)
    assert info == 0
    assert_ratio(cholesky_ratio(A, L), "goal", f"{entry.name} order {n} {dtype}")


def many_blocks(monkeypatch):
    """Blocks of two panels, so that small matrices are many tasks."""

    def order(n, width, parts):
        return min(2 * width, -(-n // width) * width)

    monkeypatch.setattr(blocked, "factor_side", order)
    monkeypatch.setattr(triangular, "block_order", order)
    monkeypatch.setattr(triangular, "PARALLEL", 0)


@over_dtypes
def test_27_2_cholesky_ratio_at_the_edges_of_several_blocks(monkeypatch, dtype):
    many_blocks(monkeypatch)
    width = tile_width(np.zeros(0, dtype).real.dtype)
    for n in (*matrices.edges(2 * width), *matrices.edges(3 * width), 5 * width + 3, 8 * width):
        A = definite(n, dtype)
        info, L = factored(ours("cholesky"), A)
        assert info == 0, n
        assert_ratio(cholesky_ratio(A, L), "goal", f"order {n} {dtype}")


@pytest.mark.parametrize("order", (FACTOR_WHOLE, blocked.DEPTH + 2 * 96))
def test_27_2_cholesky_ratio_where_the_blocks_change(order):
    for n in matrices.edges(order):
        A = definite(n, "float64")
        info, L = factored(ours("cholesky"), A)
        assert info == 0, n
        assert_ratio(cholesky_ratio(A, L), "goal", f"order {n}")


@over_dtypes
def test_failing_order_is_exact_in_every_one_of_several_blocks(monkeypatch, dtype):
    many_blocks(monkeypatch)
    n = 5 * tile_width(np.zeros(0, dtype).real.dtype) + 3
    for j in (0, n // 3, n // 2, n - 1):
        A = definite(n, dtype)
        A[j, j] = -1
        info, L = factored(ours("cholesky"), A)
        assert info == j + 1
        expected = factored(ours("cholesky"), A[:j, :j])[1]
        assert np.array_equal(L[:j, :j], expected), f"columns before pivot {j}"


@over_cholesky
@over_dtypes
@pytest.mark.parametrize("damping", (0.0, 0.25))
def test_factor_of_another_matrix_is_that_of_its_damped_copy(entry, dtype, damping):
    for n in (0, 1, 7, WIDTH + 1, 2 * NB + 3, FACTOR_WHOLE + 9):
        A, L, copy = with_garbage(definite(n, dtype)), np.zeros((n, n), dtype), definite(n, dtype)
        intact = unchanged(A)
        assert entry.load()(L, A, damping) == 0, n
        intact()
        copy[np.diag_indices(n)] += damping
        assert entry.load()(copy) == 0, n
        assert np.array_equal(L, np.tril(copy)), n
        if n:
            A[n // 2, n // 2] = -1
            assert entry.load()(np.zeros_like(L), A, damping) == n // 2 + 1


SQUARES = [s for d in matrices.DTYPES for p in (10, NB + 6) for s in squares.catalogue(p, d)]


@over_cholesky
@pytest.mark.parametrize("square", SQUARES, ids=str)
def test_27_2_cholesky_of_the_families(entry, square):
    info, L = factored(entry, square.F)
    if square.order is not None:
        assert info == square.order
    if info == 0:
        assert_ratio(cholesky_ratio(square.F, L), "lapack", str(square))


@over_cholesky
@over_dtypes
@pytest.mark.parametrize("n", (1, 7, NB, NB + 1, 2 * NB + 3))
def test_failing_order_is_exact_wherever_the_minor_fails(entry, dtype, n):
    L = np.linalg.cholesky(definite(n, dtype).astype(np.result_type(dtype, float)))
    for j in sorted({0, 1, n // 2, n - 2, n - 1, NB - 1, NB, NB + 1} & set(range(n))):
        signs = np.ones(n)
        signs[j] = -1
        A = ((L * signs) @ L.conj().T).astype(dtype)
        zeroed = definite(n, dtype)
        zeroed[j], zeroed[:, j] = 0, 0
        for name, matrix in (("indefinite", A), ("zero row and column", zeroed)):
            assert factored(entry, matrix)[0] == j + 1, f"{name}, pivot {j}"


@over_cholesky
@over_dtypes
@pytest.mark.parametrize("bad", (np.nan, np.inf))
@pytest.mark.parametrize("n", (5, NB + 9, 2 * NB + 3))
def test_law_26_16_what_is_not_finite_fails_the_pivot_of_its_row(entry, dtype, bad, n):
    for i, j in ((0, 0), (3, 0), (4, 4), (n - 1, 0), (n - 1, n - 2), (n - 1, n - 1)):
        A = definite(n, dtype)
        A[i, j] = bad
        with np.errstate(invalid="ignore"):
            assert factored(entry, A)[0] == i + 1, f"{bad} at ({i}, {j})"


@over_cholesky
def test_imaginary_parts_on_the_diagonal_do_not_count(entry):
    A = definite(NB + 5, "complex128")
    tilted = A + 1j * np.eye(len(A))
    assert np.array_equal(factored(entry, tilted)[1], factored(entry, A)[1])


@over_cholesky
@over_dtypes
def test_law_26_4_cholesky_scales_exactly_with_powers_of_four(entry, dtype):
    A = definite(NB + 5, dtype)
    four = A.real.dtype.type(4.0**10)
    assert np.array_equal(factored(entry, A * four)[1], factored(entry, A)[1] * 2.0**10)


class Taken(Exception):
    """Raised in place of taking memory."""


@over_dtypes
def test_panels_take_no_more_memory_than_the_planner_reckons_with(monkeypatch, dtype):
    def take(panels, again, scratch):
        raise Taken(panels + again)

    monkeypatch.setattr(blocked, "workspace", take)
    parts = 2 if np.dtype(dtype).kind == "c" else 1
    edges = [FACTOR_WHOLE // parts, *(limit // parts for limit, _ in FACTOR_SIDES[:-1])]
    orders = [n for edge in edges for n in matrices.edges(edge)]
    for n in (1, 7, 49, 100, *orders, 1000, 1009, 2000, 2017, 5000, 5041, 12_000):
        matrix = np.broadcast_to(np.zeros((), dtype), (n, n))  # no memory: it is not read
        with pytest.raises(Taken) as taken:
            blocked.cholesky(matrix)
        planned = factor_bytes(n, parts, np.dtype(dtype).itemsize // parts)
        assert planned >= taken.value.args[0], n


# Triangular solves ---------------------------------------------------------------------------

RIGHT_HAND_SIDES = (0, 1, 2, *matrices.edges(lanes("float64")), *matrices.edges(WIDTH))
LAPACK = Entry("scipy.substitute", "vendor", "substitute", reproducible=False)
SOLVES = sorted({0, 1, 2, 3, 5, 50, *matrices.edges(WIDTH), *matrices.edges(triangular.SIDE)})


@functools.cache
def _factor(n, dtype):
    return with_garbage(oracle.cholesky(definite(n, dtype)).astype(dtype))


def factor_and_rows(n, k, dtype):
    """A lower factor with NaN above, and k right-hand sides as rows."""
    rng = matrices.generator("solve", n, k, str(dtype))
    return _factor(n, dtype).copy(), matrices.gaussian((k, n), dtype, rng)


def compare_solve(entry, op, n, k, dtype):
    L, b = factor_and_rows(n, k, dtype)
    x, intact = b.copy(), unchanged(L)
    entry.load()(L, x)
    intact()
    A = np.tril(L) if op == "solve_lower" else np.tril(L).conj().T
    assert_ratio(solve_ratio(A, x.T, b.T), "goal", f"{entry.name} order {n}, k = {k}, {dtype}")


@implementations_of("solve_lower", "solve_lower_adjoint")
@over_dtypes
def test_27_3_triangular_solves_at_every_block_edge(op, entry, dtype):
    for n in SOLVES:
        for k in RIGHT_HAND_SIDES:
            compare_solve(entry, op, n, k, dtype)


@implementations_of("solve_lower", "solve_lower_adjoint")
@over_dtypes
def test_27_3_triangular_solves_in_several_blocks_and_groups(monkeypatch, op, entry, dtype):
    many_blocks(monkeypatch)
    real = np.zeros(0, dtype).real.dtype
    width, vector = tile_width(real), lanes(real)
    for k in (
        *matrices.edges(2 * vector),
        *matrices.edges(4 * vector),
        *matrices.edges(7 * vector),
    ):
        compare_solve(entry, op, 5 * width + 3, k, dtype)
    for k in matrices.edges(2 * triangular.GROUP * width):
        compare_solve(entry, op, 2 * width + 3, k, dtype)
    compare_solve(entry, op, 8 * width, 3, dtype)


both_sweeps = pytest.mark.parametrize("entry", (ours("substitute"), LAPACK), ids=("ours", "vendor"))


def compare_substitution(entry, n, k, dtype):
    L, b = factor_and_rows(n, k, dtype)
    x, intact = b.copy(), unchanged(L)
    entry.load()(L, x)
    intact()
    A = np.tril(L) @ np.tril(L).conj().T
    assert_ratio(solve_ratio(A, x.T, b.T), "goal", f"{entry.name} order {n}, k = {k}, {dtype}")


@both_sweeps
@over_dtypes
@pytest.mark.parametrize("k", (0, 1, 2, 3, vendor.FEW, vendor.FEW + 1, 17))
def test_27_3_both_substitutions_in_one_call(entry, dtype, k):
    for n in (*range(65), *matrices.edges(vendor.ALONE), *matrices.edges(vendor.LEAST), 451):
        compare_substitution(entry, n, k, dtype)


@both_sweeps
@over_dtypes
def test_27_3_both_substitutions_in_parallel(monkeypatch, entry, dtype):
    monkeypatch.setattr(few, "PARALLEL", 0)
    for n in (1, few.CORNER + 1, *matrices.edges(few.SIDE), 9 * few.SIDE + 13):
        compare_substitution(entry, n, few.MOST, dtype)
    many_blocks(monkeypatch)
    width = tile_width(np.zeros(0, dtype).real.dtype)
    for k in (few.MOST + 1, *matrices.edges(width), 100):
        compare_substitution(entry, 5 * width + 3, k, dtype)


@bits_of_kernels
@over_dtypes
def test_a_right_hand_side_has_the_bits_that_it_has_among_others(dtype):
    """However many there are, save for `few.MOST` real ones, and however they are laid out."""
    n, k = 203, 2 * triangular.GROUP * WIDTH
    L, b = factor_and_rows(n, k, dtype)
    together = b.copy()
    ours("substitute").load()(L, together)
    for count in (few.MOST + 1, 8, 20, 50, 100):
        x = b[:count].copy()
        ours("substitute").load()(L, x)
        assert np.array_equal(x, together[:count]), count
        apart = b[:count].copy()
        ours("solve_lower").load()(L, apart)
        ours("solve_lower_adjoint").load()(L, apart)
        assert np.array_equal(apart, x), count


@pytest.mark.parametrize("threads", (1, 2, 5, 64))
def test_panels_hold_every_right_hand_side_in_equal_shares(threads):
    for k in range(1, 700):
        vectors, panels, group = triangular.panels_of(k, 8, threads)
        assert 1 <= vectors <= triangular.VECTORS and 1 <= group <= triangular.GROUP
        assert (panels - 1) * vectors * 8 < k <= panels * vectors * 8


@implementations("inverse_diagonal")
@over_dtypes
def test_Q2_inverse_diagonal_is_the_sums_of_squares_of_columns(monkeypatch, entry, dtype):
    monkeypatch.setattr(triangular, "UNITS", 40)
    for n in (*SOLVES, 200):
        L, _ = factor_and_rows(n, 1, dtype)
        intact = unchanged(L)
        y = np.full(n, np.nan)
        entry.load()(y, L)
        intact()
        lower = np.tril(L).astype(np.result_type(L, np.float64))
        exact = np.square(np.abs(np.linalg.inv(lower))).sum(axis=0)
        condition = np.linalg.cond(lower) if n else 1
        assert (np.abs(y - exact) <= 10 * n * condition * unit_roundoff(dtype) * exact).all(), n


@over_dtypes
def test_solve_lower_may_start_in_any_block(monkeypatch, dtype):
    many_blocks(monkeypatch)
    n = 5 * tile_width(np.zeros(0, dtype).real.dtype) + 3
    L, b = factor_and_rows(n, 3, dtype)
    for start in (1, n // 2, n - 1, n):
        b[:, :start] = 0
        x = b.copy()
        ours("solve_lower").load()(L, x, start)
        assert not x[:, :start].any()
        assert_ratio(solve_ratio(np.tril(L), x.T, b.T), "goal", f"from {start}")


@implementations("solve_lower")
@over_dtypes
@given(n=sizes, start=sizes)
def test_solve_lower_may_start_where_the_right_hand_side_does(entry, dtype, n, start):
    L, b = factor_and_rows(n, 3, dtype)
    b[:, :start] = 0
    x = b.copy()
    entry.load()(L, x, min(start, n))
    assert not x[:, :start].any()
    assert_ratio(solve_ratio(np.tril(L), x.T, b.T), "goal", f"order {n} from {start}")


# Public ops ----------------------------------------------------------------------------------

either = pytest.mark.parametrize("reproducible", (True, False), ids=("ours", "fastest"))


@either
@over_dtypes
@given(n=sizes)
def test_cholesky_and_cho_solve_agree_with_numpy(dtype, reproducible, n):
    A, rng = definite(n, dtype), matrices.generator("b", n)
    b = matrices.gaussian((n, 3), dtype, rng)
    with ff.options(reproducible=reproducible):
        L = ff.ops.cholesky(A, damping=0.25)
        x, first = ff.ops.cho_solve(L, b), ff.ops.cho_solve(L, b[:, 0])
    damped = oracle.damped(A, 0.25)
    assert L.dtype == x.dtype == dtype and not np.triu(L, 1).any()
    assert x.shape == (n, 3) and first.shape == (n,)
    assert_ratio(cholesky_ratio(damped, L), "goal", f"factor {n}")
    assert_ratio(solve_ratio(damped, x, b), "goal", f"solve {n}")
    assert_ratio(solve_ratio(damped, first, b[:, 0]), "goal", f"one right-hand side {n}")
    assert_ratio(forward_ratio(x, np.linalg.solve(damped, b), 100 * n), "goal", f"forward {n}")


@either
@over_dtypes
@pytest.mark.parametrize("k", (1, 2, vendor.FEW, vendor.FEW + 1))
def test_cho_solve_where_the_vendor_goes_another_way(dtype, reproducible, k):
    for n in (*matrices.edges(vendor.ALONE), *matrices.edges(vendor.LEAST)):
        L, b = factor_and_rows(n, k, dtype)
        with ff.options(reproducible=reproducible):
            x = ff.ops.cho_solve(L, b.T)
        A = np.tril(L) @ np.tril(L).conj().T
        assert x.dtype == dtype and x.shape == (n, k)
        assert_ratio(solve_ratio(A, x, b.T), "goal", f"order {n}")


@either
@over_dtypes
@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
@pytest.mark.parametrize("n", (1, 5, 64, 201))
def test_cho_solve_names_what_is_not_finite_after_the_solve(dtype, reproducible, bad, n):
    L, b = factor_and_rows(n, 3, dtype)
    for i in {0, n // 2, n - 1}:
        for sides in (b[:1].T.copy(), b.T.copy(), b[0].copy()):
            sides[i] = bad
            with ff.options(reproducible=reproducible):
                with pytest.raises(ff.errors.InputError, match=f"b is not finite at index {i}"):
                    ff.ops.cho_solve(L, sides)


@either
@pytest.mark.parametrize("family", (squares.kms, squares.pei, squares.minij, squares.lehmer))
def test_known_inverses_come_out_column_by_column(family, reproducible):
    square = family(40)
    with ff.options(reproducible=reproducible):
        X = ff.ops.cho_solve(ff.ops.cholesky(square.F), np.eye(40))
    assert_ratio(forward_ratio(X, square.inverse, 40 * square.cond), "lapack", square.name)


def test_cholesky_reads_only_the_lower_triangle_and_changes_nothing():
    A = with_garbage(definite(20, "float64"))
    intact = unchanged(A)
    L = ff.ops.cholesky(A)
    intact()
    assert_ratio(cholesky_ratio(oracle.hermitian(A), L), "goal", "lower only")
    assert ff.ops.cho_solve(with_garbage(L), np.ones(20)).shape == (20,)


def test_cholesky_overwrites_only_where_it_was_allowed_to():
    A = definite(20, "float64")
    expected, held = ff.ops.cholesky(A), A.copy()
    assert ff.ops.cholesky(held, overwrite=True) is held
    assert np.array_equal(held, expected)
    frozen = A.copy()
    frozen.flags.writeable = False
    assert np.array_equal(ff.ops.cholesky(frozen, overwrite=True), expected)
    assert np.array_equal(frozen, A)


@over_dtypes
def test_law_26_13_cholesky_and_cho_solve_in_every_layout(dtype):
    A = definite(20, dtype)
    L = ff.ops.cholesky(A)
    x = ff.ops.cho_solve(L, A)
    for name, stored in matrices.layouts(A):
        intact = unchanged(stored)
        assert np.array_equal(ff.ops.cholesky(stored), L), name
        assert np.array_equal(ff.ops.cho_solve(L, stored), x), name
        intact()
    for name, stored in matrices.layouts(L):
        assert np.array_equal(ff.ops.cho_solve(stored, A), x), name


@either
@over_dtypes
@pytest.mark.parametrize("kind", (3, 4, 5))
def test_failed_factorisation_names_the_pivot_and_a_damping_that_does(dtype, kind, reproducible):
    square = squares.lapack(kind, 70, dtype)
    with ff.options(reproducible=reproducible):
        with pytest.raises(ff.errors.NotPositiveDefiniteError, match=r"pivot \d+ of 70") as caught:
            ff.ops.cholesky(square.F)
        assert caught.value.order == square.order
        suggested = caught.value.suggested_damping
        assert 0 < suggested <= 1e5 * unit_roundoff(dtype)
        ff.ops.cholesky(square.F, damping=suggested)


def test_cholesky_refuses_what_is_not_finite_and_names_it():
    A = definite(5, "float64")
    A[3, 1] = np.nan
    with pytest.raises(ff.errors.InputError, match=r"A\[3, 1\] is nan"):
        ff.ops.cholesky(A)
    with pytest.raises(ff.errors.InputError, match=r"b is not finite at index 2"):
        ff.ops.cho_solve(np.eye(3), np.array([0, 0, np.inf]))
    with pytest.raises(ff.errors.InputError, match=r"L\[1, 1\] is 0.0"):
        ff.ops.cho_solve(np.diag([1.0, 0.0]), np.ones(2))
