"""The generators keep their word: what a family claims is what its matrix is."""

import math
import zlib

import numpy as np
import pytest

from tests import matrices, oracle, squares
from tests.tolerances import LIMITS, assert_ratio, cholesky_ratio, unit_roundoff

ALL = [problem for dtype in matrices.DTYPES for problem in matrices.catalogue(33, 9, dtype)]
SQUARES = [square for dtype in matrices.DTYPES for square in squares.catalogue(10, dtype)]


@pytest.mark.parametrize("kind", matrices.SPECTRA)
@pytest.mark.parametrize("k", (1, 2, 3, 10))
def test_spectra_run_from_one_down_to_the_reciprocal_condition_number(kind, k):
    lam = matrices.eigenvalues(kind, k, 1e4)
    assert lam.shape == (k,) and np.all(np.diff(lam) <= 0)
    if k > 1 and kind not in ("flat", "power"):
        assert lam[0] == 1 and lam[-1] == pytest.approx(1e-4)
    assert np.array_equal(matrices.eigenvalues(f"{kind}_reversed", k, 1e4), lam[::-1])


@pytest.mark.parametrize("dtype", matrices.DTYPES)
@pytest.mark.parametrize("shape", ((40, 7), (7, 40), (9, 9), (1, 5), (5, 1)))
def test_scores_have_the_eigenvalues_asked_for(shape, dtype):
    G = matrices.scores(*shape, dtype, spectrum="halves", cond=100)
    lam = np.linalg.eigvalsh(oracle.syrk(G) / shape[0])[::-1]
    expected = np.zeros(shape[1])
    expected[: min(shape)] = matrices.eigenvalues("halves", min(shape), 100)
    assert np.allclose(lam, expected, rtol=0, atol=30 * max(shape) * unit_roundoff(dtype))


@pytest.mark.parametrize("shape", ((0, 0), (0, 4), (4, 0)))
def test_empty_scores_are_empty(shape):
    assert matrices.scores(*shape, "complex64").shape == shape


def test_fixed_seeds_give_the_same_matrix_twice_and_another_for_another_seed():
    one, two = matrices.scores(5, 3, seed=1), matrices.scores(5, 3, seed=1)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, matrices.scores(5, 3, seed=2))


@pytest.mark.parametrize("problem", ALL, ids=str)
def test_every_family_is_finite_and_of_its_dtype(problem):
    assert problem.G.dtype in matrices.DTYPES and np.all(np.isfinite(problem.G))
    w = problem.weights
    assert w is None or (w.dtype == problem.G.real.dtype and len(w) == len(problem.G))


@pytest.mark.parametrize("problem", [q for q in ALL if q.order is not None], ids=str)
def test_claimed_failing_order_is_where_the_textbook_factorisation_stops(problem):
    assert oracle.failing_pivot(oracle.syrk(problem.G, problem.weights)) == problem.order


@pytest.mark.parametrize("dtype", matrices.DTYPES)
def test_modifiers_scale_to_the_edge_of_the_range_and_beyond(dtype):
    with np.errstate(all="ignore"):
        F = {
            name: np.abs(np.diagonal(G.conj().T @ G))
            for name in ("small", "large", "ufl", "ofl")
            for G in [matrices.named(f"geo_{name}", 20, 5, dtype).G]
        }
    limits = np.finfo(dtype)
    assert np.all(F["small"] >= limits.smallest_normal) and np.all(F["small"] < 1e-30)
    assert np.all(np.isfinite(F["large"])) and np.all(F["large"] > 1e30)
    assert np.any(F["ufl"] < limits.smallest_normal)
    assert np.any(~np.isfinite(F["ofl"]))


def test_unknown_modifier_is_refused():
    with pytest.raises(ValueError, match="unknown modifier 'tiny'"):
        matrices.named("geo_tiny", 5, 3)


def test_a_false_claim_is_noticed():
    honest = matrices.named("geo", 20, 5)
    with pytest.raises(AssertionError, match="rank 5"):
        matrices.claimed(matrices.replace(honest, rank=4))
    with pytest.raises(AssertionError, match="cond"):
        matrices.claimed(matrices.replace(honest, cond=1e5))


def test_duplicated_rows_and_integer_weights_describe_one_fisher():
    repeated, counted = matrices.duplicated(20, 6)
    n, bound = len(repeated.G), oracle.syrk_bound(repeated.G)
    error = np.abs(oracle.syrk(repeated.G) - oracle.syrk(counted.G, counted.weights))
    assert np.all(error <= n * unit_roundoff("f8") * bound)
    assert n == counted.weights.sum() > 20


def test_constant_column_has_no_variance_once_the_mean_is_subtracted_first():
    G = matrices.constant_column(1000, 3).G
    assert oracle.fisher(G, center=True)[-1, -1] <= (1000 * 2**-53 * 1e8) ** 2
    raw = oracle.fisher(G)[-1, -1] - abs(oracle.mean_gradient(G)[-1]) ** 2
    assert oracle.fisher(G, center=True)[0, 0] == pytest.approx(G[:, 0].var())
    assert raw <= 1000 * 2**-53 * 1e16


def test_mean_over_std_loses_its_covariance_in_raw_moments():
    G = matrices.mean_over_std(1000, 2).G
    centred = oracle.fisher(G, center=True)
    mean = oracle.mean_gradient(G)
    assert np.allclose(np.diagonal(centred), G.var(axis=0), rtol=1e-10)
    assert np.max(np.abs(oracle.fisher(G) - np.outer(mean, mean) - centred)) > 0.1


@pytest.mark.parametrize("square", SQUARES, ids=str)
def test_square_families_are_hermitian_and_stop_where_they_say(square):
    assert np.array_equal(square.F, square.F.conj().T)
    if square.order is not None:
        assert oracle.failing_pivot(square.F) == square.order


@pytest.mark.parametrize("square", [s for s in SQUARES if s.logdet is not None], ids=str)
def test_known_determinants(square):
    if square.order == 0:
        factor = oracle.cholesky(square.F)
        bound = 30 * len(square.F) * square.cond * unit_roundoff(square.F.dtype)
        logdet = 2 * np.log(np.diagonal(factor).real).sum()
        assert abs(logdet - square.logdet) <= bound
        assert_ratio(cholesky_ratio(square.F, factor), LIMITS["lapack"], square.name)


@pytest.mark.parametrize("square", [s for s in SQUARES if s.inverse is not None], ids=str)
def test_known_inverses(square):
    if square.order == 0 and square.F.dtype == np.float64:
        residual = np.abs(square.F @ square.inverse - np.eye(len(square.F)))
        assert residual.max() <= 30 * len(square.F) * square.cond * 2**-53


@pytest.mark.parametrize("family", squares.CLASSICS)
@pytest.mark.parametrize("p", (1, 2, 3))
def test_classics_exist_at_the_smallest_sizes(family, p):
    square = family(p)
    assert square.F.shape == (p, p) and square.cond >= 1 - 1e-12


def test_weights_are_positive_with_zeros_among_them():
    w = matrices.weights(50, "complex64")
    assert w.dtype == np.float32 and np.count_nonzero(w == 0) == 7 and w.min() == 0
    assert np.all(matrices.weights(2) > 0)


@pytest.mark.parametrize("dtype", matrices.DTYPES)
@pytest.mark.parametrize("G", ("random", "equal rows", "equal columns", "no rows", "no columns"))
def test_layouts_keep_values_and_differ_in_storage(G, dtype):
    values = {
        "random": matrices.scores(6, 4, dtype),
        "equal rows": np.ones((5, 1), dtype) * np.arange(3).astype(dtype),
        "equal columns": np.arange(5).astype(dtype)[:, None] * np.ones((1, 3), dtype),
        "no rows": np.zeros((0, 3), dtype),
        "no columns": np.zeros((3, 0), dtype),
    }[G]
    seen = {}
    for name, a in matrices.layouts(values):
        seen[name] = a
        assert np.array_equal(a, values) and a.dtype.newbyteorder("=") == dtype, name
    if values.size:
        assert not seen["unaligned"].flags.aligned and not seen["read_only"].flags.writeable
        assert seen["big_endian"].dtype.byteorder == ">" and isinstance(seen["memmap"], np.memmap)
        assert seen["negative"].strides[0] < 0 and seen["strided"].strides[1] == 3 * values.itemsize
    assert ("broadcast_rows" in seen) == (G in ("equal rows", "no columns"))
    assert ("broadcast_columns" in seen) == (G in ("equal columns", "no rows"))


def test_edges_surround_the_block():
    assert matrices.edges(8) == [7, 8, 9, 15, 16, 17]
    assert matrices.edges(8, upto=9) == [7, 8, 9]


def test_rng_fixture_depends_on_the_test_id_only(rng, request):
    same = np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))
    assert rng.random() == same.random()


def test_generator_streams_differ_by_key():
    assert matrices.generator("a").random() != matrices.generator("b").random()
    assert math.isfinite(matrices.generator("a").random())
