"""Products with vectors: identities, layouts, and what is not finite."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher import arrays, passes
from tests import matrices, oracle
from tests.kernels.cases import (
    operands,
    over_dtypes,
    real_dtype,
    sums_dtype,
    unchanged,
)
from tests.kernels.vectors import magnitudes, over_products, vectors
from tests.tolerances import assert_ratio, matvec_ratio

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
    monkeypatch.setattr(passes, "WIDE", 1)  # sums of one block are the answer, or are added
    G, w = operands(40, 600, dtype).G, matrices.weights(40, dtype)
    v, u = vectors(1, 600, dtype)[0], vectors(1, 40, dtype)[0]

    def products(G):
        centred = np.zeros((2, 1, 600), sums_dtype(dtype))
        passes.add_rmatvec(centred[0], arrays.as_scores(G), u[np.newaxis], shift=v)
        passes.add_fvp(centred[1], arrays.as_scores(G), v[np.newaxis], weights=w, shift=v)
        answers = ff.ops.fvp(G, v, w), ff.ops.rmatvec(G, u), ff.ops.matvec(G, v)
        return *answers, ff.ops.diag(G), ff.ops.diag(G, w), centred

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
    own, op = wide if op == "wide_fvp" else dtype, op.rpartition("_")[2]
    none, no_shift = np.empty(0, real_dtype(own)), np.empty(0, own)
    v, u = np.ones((1, 20), own), np.ones((1, 300), own)
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
