"""Public products of scores against the oracle: values, shapes, dtypes, overflow."""

import math

import numpy as np
import pytest

import fastfisher as ff
from fastfisher import passes
from fastfisher.arrays import as_scores
from fastfisher.errors import InputError
from fastfisher.kernels.cpu import matvec
from fastfisher.kernels.cpu.splitting import KEPT_BYTES, SPLIT, THIN, stretch, written_once
from fastfisher.ops.products import mirror
from tests import matrices, oracle
from tests.kernels.cases import bits_of_kernels
from tests.scores import OF_SCORES
from tests.tolerances import assert_ratio, entrywise_ratio, gram_ratio, matvec_ratio, syrk_ratio

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
over_shapes = pytest.mark.parametrize(
    "shape",
    [(1, 1), (7, 3), (3, 7), (257, 65), (65, 257), (700, 20)],
    ids=lambda s: f"{s[0]}x{s[1]}",
)
weighting = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
# A weight and the final rounding add a few roundings to those of the sum.
SMALL_SUM = 8


def case(shape, dtype, weighted, rng):
    G = matrices.gaussian(shape, dtype, rng)
    return G, matrices.weights(shape[0], dtype) if weighted else None


@over_shapes
@over_dtypes
@weighting
def test_syrk_is_the_raw_weighted_sum_hermitian_to_the_bit(shape, dtype, weighted, rng):
    G, w = case(shape, dtype, weighted, rng)
    F = ff.ops.syrk(G, w)
    assert F.dtype == dtype and F.shape == (shape[1],) * 2
    assert np.array_equal(F, F.conj().T) and np.all(F.diagonal().real >= 0)
    terms = shape[0] + SMALL_SUM
    assert_ratio(syrk_ratio(F, oracle.syrk(G, w), oracle.syrk_bound(G, w), terms), "goal", "syrk")


@over_shapes
@over_dtypes
@weighting
def test_gram_is_the_raw_weighted_gram_hermitian_to_the_bit(shape, dtype, weighted, rng):
    G, w = case(shape, dtype, weighted, rng)
    K = ff.ops.gram(G, w)
    assert K.dtype == dtype and K.shape == (shape[0],) * 2
    assert np.array_equal(K, K.conj().T) and np.all(K.diagonal().real >= 0)
    terms = shape[1] + SMALL_SUM
    assert_ratio(gram_ratio(K, oracle.gram(G, w), oracle.gram_bound(G, w), terms), "goal", "gram")


@over_shapes
@over_dtypes
@weighting
@pytest.mark.parametrize("k", [None, 1, 3, 9], ids=lambda k: f"k={k}")
def test_products_with_vectors(shape, dtype, weighted, k, rng):
    (n, p), (G, w) = shape, case(shape, dtype, weighted, rng)
    v = matrices.gaussian((p,) if k is None else (p, k), dtype, rng)
    u = matrices.gaussian((n,) if k is None else (n, k), dtype, rng)
    absolute = np.abs
    for name, result, expected, bound, terms in [
        (
            "matvec",
            ff.ops.matvec(G, v),
            oracle.matvec(G, v),
            oracle.matvec(absolute(G), absolute(v)),
            p,
        ),
        (
            "rmatvec",
            ff.ops.rmatvec(G, u),
            oracle.rmatvec(G, u),
            oracle.rmatvec(absolute(G), absolute(u)),
            n,
        ),
        ("fvp", ff.ops.fvp(G, v, w), oracle.fvp(G, v, w), oracle.fvp_bound(G, v, w), n + p),
    ]:
        assert result.dtype == dtype and result.shape == expected.shape, name
        assert_ratio(matvec_ratio(result, expected, bound, terms + SMALL_SUM), "goal", name)


@over_shapes
@over_dtypes
@weighting
def test_diag_F11_is_the_sum_of_squares(shape, dtype, weighted, rng):
    G, w = case(shape, dtype, weighted, rng)
    d = ff.ops.diag(G, w)
    expected = oracle.diag(G, w)
    assert d.dtype == np.zeros(0, dtype).real.dtype and d.shape == (shape[1],)
    assert_ratio(matvec_ratio(d, expected, expected, shape[0] + SMALL_SUM), "goal", "diag")


def test_diag_F11_alternating_scores_do_not_cancel():
    assert ff.ops.diag(np.array([[1.0], [-1.0], [1.0], [-1.0]]))[0] == 4.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_complex_vectors_with_real_scores(dtype, rng):
    G = matrices.gaussian((20, 6), dtype, rng)
    wide = np.result_type(dtype, np.complex64)
    v, u = matrices.gaussian((6, 2), wide, rng), matrices.gaussian((20, 2), wide, rng)
    w = matrices.weights(20, dtype)
    for result, expected, bound in [
        (ff.ops.matvec(G, v), oracle.matvec(G, v), oracle.matvec(np.abs(G), np.abs(v))),
        (ff.ops.rmatvec(G, u), oracle.rmatvec(G, u), oracle.rmatvec(np.abs(G), np.abs(u))),
        (ff.ops.fvp(G, v, w), oracle.fvp(G, v, w), oracle.fvp_bound(G, v, w)),
    ]:
        assert result.dtype == wide
        assert_ratio(matvec_ratio(result, expected, bound, 40), "goal", "complex vector")


def test_real_vectors_with_complex_scores(rng):
    G = matrices.gaussian((20, 6), "complex64", rng)
    v = rng.standard_normal(6)
    assert ff.ops.matvec(G, v).dtype == np.complex64
    assert ff.ops.matvec(G, v) == pytest.approx(oracle.matvec(G, v), rel=1e-5)


@pytest.mark.parametrize("weighted", (False, True), ids=("plain", "weighted"))
@pytest.mark.parametrize("dtype", ("float32", "complex64"))
def test_single_sums_written_once_are_the_double_ones_rounded(dtype, weighted, rng, monkeypatch):
    """To the bit, without a matrix in double."""
    G, w = case((20, SPLIT + 20), dtype, weighted, rng)
    scores, double = as_scores(G), passes.sums_dtype(G.dtype)
    sums = np.zeros((G.shape[1],) * 2, double)
    passes.add_syrk(sums, scores, weights=w)
    expected = np.empty(sums.shape, dtype)
    mirror(sums, expected)
    with ff.options(reproducible=True), monkeypatch.context() as patched:
        patched.setattr("fastfisher.ops.products._zeros", None)
        assert np.array_equal(ff.ops.syrk(G, w), expected)
    out = np.full(sums.shape, np.nan, dtype)
    with ff.options(reproducible=True):
        assert np.array_equal(ff.ops.syrk(G, w, out=out), expected)
        monkeypatch.setattr(passes, "syrk_step", lambda G: 16)  # two slices: sums in double
        assert passes.round_syrk(scores, weights=w) is None
        F = ff.ops.syrk(G, w, out=out)
    ratio = syrk_ratio(F, oracle.syrk(G, w), oracle.syrk_bound(G, w), G.shape[0] + SMALL_SUM)
    assert_ratio(ratio, "goal", "two slices")


def test_sums_are_written_once_if_blocks_are_kept_or_nothing_is_added_later():
    rows = stretch(SPLIT + 1, 4)
    assert written_once(SPLIT + 1, rows, 1, 4) and written_once(SPLIT + 1, rows + 1, 1, 4)
    large = math.isqrt(KEPT_BYTES // 4) + 1
    rows = stretch(large, 4)
    assert written_once(large, rows, 1, 4) and not written_once(large, rows + 1, 1, 4)
    assert not written_once(THIN, rows, 1, 4) and not written_once(large, 0, 1, 4)


def test_float32_sums_do_not_stall(rng):
    G = np.ones((1 << 21, 3), np.float32)
    w = np.full(len(G), 9.0)
    assert np.all(ff.ops.syrk(G, w) == np.float32(9 * len(G)))
    assert np.all(ff.ops.diag(G, w) == np.float32(9 * len(G)))
    assert np.all(ff.ops.rmatvec(G, np.full(len(G), 9.0, np.float32)) == np.float32(9 * len(G)))
    assert np.all(ff.ops.fvp(G, np.ones(3, np.float32), w) == np.float32(27 * len(G)))


# Trouble -----------------------------------------------------------------------------------------

CALLS = {name: OF_SCORES[name] for name in ("syrk", "gram", "fvp", "matvec", "rmatvec", "diag")}
over_calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


@over_calls
@over_dtypes
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_law_26_16_a_bad_row_is_named(call, dtype, value, rng):
    G = matrices.gaussian((300, 5), dtype, rng)
    G[271, 3] = value
    with pytest.raises(InputError, match=r"G holds .* in row 271, column 3"):
        call(G)


@pytest.mark.parametrize("name", ["syrk", "gram", "fvp", "diag"])
@over_dtypes
def test_law_26_15_overflow_is_named_with_the_power_of_two_to_use(name, dtype, rng):
    huge = np.finfo(dtype).max / 8
    G = matrices.gaussian((10, 4), dtype, rng)
    G = (G / np.abs(G).max() * huge).astype(dtype)
    with pytest.raises(
        InputError, match=r"overflows .*multiply G by a power of two such as 2\.0\*\*-"
    ) as caught:
        CALLS[name](G)
    power = float(str(caught.value).rsplit("2.0**", 1)[1].split()[0])
    assert np.isfinite(CALLS[name](G * np.asarray(2.0**power, G.real.dtype))).all()


def test_overflow_of_weights_is_named(rng):
    with pytest.raises(InputError, match="overflows float32"):
        ff.ops.syrk(np.ones((4, 2), np.float32), np.full(4, 1e38))


@over_dtypes
def test_law_26_15_underflow_is_not_silent_for_the_solver_scale(dtype, rng):
    """Raw sums of tiny scores are tiny sums: correctly rounded, possibly zero, never NaN."""
    G = matrices.named("geo_ufl", 12, 4, dtype).G
    F = ff.ops.syrk(G)
    assert np.isfinite(F).all()
    exact = oracle.syrk(G, precise=True)
    subnormal = np.finfo(dtype).smallest_subnormal
    assert entrywise_ratio(F.astype(np.clongdouble), exact, np.longdouble(subnormal) * 100) <= 1


@bits_of_kernels
def test_zero_rows_appended_law_26_12(rng):
    G = rng.standard_normal((100, 7))
    more = np.vstack([G, np.zeros((33, 7))])
    with ff.options(reproducible=True):
        assert ff.ops.syrk(more).tobytes() == ff.ops.syrk(G).tobytes()
        assert ff.ops.diag(more).tobytes() == ff.ops.diag(G).tobytes()
        v = rng.standard_normal(7)
        assert ff.ops.fvp(more, v).tobytes() == ff.ops.fvp(G, v).tobytes()


@pytest.mark.parametrize("n", (1, 5, 256, 257))
@pytest.mark.parametrize("dtype", ("float16", "float32", "float64"))
def test_sums_of_one_block_are_the_answer_to_the_bit_and_stay_so(n, dtype, rng, monkeypatch):
    G, w = matrices.gaussian((n, 1003), np.float64, rng).astype(dtype), matrices.weights(n, "d")
    v, u = matrices.gaussian((1003, 2), np.float64, rng), matrices.gaussian((n, 3), "d", rng)
    calls = (
        lambda f: ff.ops.fvp(G, f * v[:, 0], w),
        lambda f: ff.ops.fvp(G, f * v),
        lambda f: ff.ops.rmatvec(G, f * u[:, 0]),
        lambda f: ff.ops.rmatvec(G, f * u),
        lambda f: ff.ops.rmatvec(G, f * u[:, 0] * (1 + 1j)),
        lambda f: ff.ops.rmatvec(G, f * u[:, :0]),
        lambda f: ff.ops.fvp(G, f * v[:, :0]),
        lambda f: ff.ops.fvp(G, f * v[:, :0] * 1j),
        lambda f: ff.ops.diag(G, f * w),
        lambda f: ff.ops.diag(G) * f,
    )
    for call in calls:
        monkeypatch.setattr(passes, "WIDE", 1 << 40)
        expected = call(1)
        monkeypatch.setattr(passes, "WIDE", 1)
        found = call(1)
        call(2)  # uses scratch again, but not the answer
        assert found.dtype == expected.dtype and np.array_equal(found, expected)
        assert found.flags.c_contiguous and found.flags.writeable


@pytest.mark.parametrize("rows", (4, 1, 0), ids="strips of {} rows".format)
def test_sums_of_one_block_of_long_rows(rows, rng, monkeypatch):
    monkeypatch.setattr(passes, "WIDE", 1)
    monkeypatch.setattr(matvec, "one_pass", lambda *_: False)
    monkeypatch.setattr(matvec, "strip_rows", lambda *_: rows)
    G, v = rng.standard_normal((9, 5000)), rng.standard_normal(5000)
    found, again = ff.ops.fvp(G, v), ff.ops.fvp(G, 2 * v)
    bound = oracle.fvp_bound(G, v)
    assert_ratio(matvec_ratio(found, oracle.fvp(G, v), bound, 5009), "goal", f"{rows} rows")
    assert np.array_equal(again, 2 * found)


def test_sums_of_one_block_report_progress_and_what_is_not_finite(monkeypatch):
    monkeypatch.setattr(passes, "WIDE", 1)
    G, seen = np.ones((5, 70), np.float32), []
    with ff.options(progress=lambda *step: seen.append(step)):
        ff.ops.rmatvec(G, G[:, 0])
        ff.ops.diag(G)
    assert seen == [("rmatvec", 5, 5), ("diag", 5, 5)]
    with pytest.raises(InputError, match="overflows"):
        ff.ops.fvp(1e30 * G, 1e10 * G[0])
    G[3, 8] = np.nan
    for call in (lambda: ff.ops.fvp(G, np.ones(70)), lambda: ff.ops.diag(G)):
        with pytest.raises(InputError, match="row 3, column 8"):
            call()
