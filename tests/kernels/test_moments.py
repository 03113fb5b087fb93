"""Second moments of a layer's scores: c_oi += sum_n |sum_t e_nto a_nti|^2 (EKFAC)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastfisher as ff
from fastfisher.kernels.cpu import moments
from fastfisher.kernels.cpu.products import KC
from fastfisher.kernels.cpu.simd import tile_rows, tile_width
from tests import matrices
from tests.kernels.cases import implementations, ours, over_dtypes, real_dtype, unchanged
from tests.tolerances import assert_ratio, entrywise_ratio, unit_roundoff

over_implementations = implementations("layered_diag")
EDGES = sorted({*matrices.edges(tile_rows()), *matrices.edges(tile_width("float64"))})


def layer(n, tokens, d_in, d_out, dtype):
    rng = matrices.generator("moments", n, tokens, d_in, d_out, str(dtype))
    A = matrices.gaussian((n, tokens, d_in), dtype, rng)
    return A, matrices.gaussian((n, tokens, d_out), dtype, rng)


def compare(entry, n, tokens, d_in, d_out, dtype):
    A, E = layer(n, tokens, d_in, d_out, dtype)
    a, e = A.reshape(n * tokens, d_in), E.reshape(n * tokens, d_out)
    start = np.abs(matrices.gaussian((d_out, d_in), "float64", matrices.generator("start")))
    c, intact = start.copy(), unchanged(a, e)
    entry.load()(c, a, e, tokens)
    intact()
    wide = np.clongdouble if np.dtype(dtype).kind == "c" else np.longdouble
    # not einsum: NumPy's corrupts the heap for long double complex
    scores = np.matmul(E.astype(wide).transpose(0, 2, 1), A.astype(wide))
    sizes = np.einsum("nto,nti->noi", np.abs(E), np.abs(A))
    expected = start + np.sum(np.abs(scores) ** 2, axis=0)
    bound = start + np.sum(sizes.astype(float) ** 2, axis=0)
    got = c.astype(real_dtype(dtype))
    terms = (2 * tokens + 16) * unit_roundoff(dtype)
    ratio = entrywise_ratio(got, expected.astype(float), terms * bound)
    assert_ratio(ratio, "goal", f"{entry.name} {n, tokens, d_in, d_out} {dtype}")


@over_implementations
def test_moments_by_hand(entry):
    c = np.ones((1, 2))
    a, e = np.array([[1.0, 2], [3, 4], [1, 1], [0, 1]]), np.array([[1.0], [2], [-1], [1]])
    entry.load()(c, a, e, 2)
    # sample 0: 1 (1, 2) + 2 (3, 4) = (7, 10); sample 1: -(1, 1) + (0, 1) = (-1, 0)
    assert c.tolist() == [[1 + 49 + 1, 1 + 100 + 0]]


@over_implementations
@over_dtypes
def test_moments_at_every_tile_edge(entry, dtype):
    for d in EDGES:
        compare(entry, 5, 3, d, 9, dtype)
        compare(entry, 5, 1, 9, d, dtype)
    for n in matrices.edges(KC):
        compare(entry, n, 1, 3, 2, dtype)
    for shape in ((0, 2, 3, 4), (3, 1, 0, 2), (3, 2, 2, 0), (1, 1, 1, 1), (40, 17, 6, 5)):
        compare(entry, *shape, dtype)


@over_implementations
@over_dtypes
@given(n=st.integers(0, 12), tokens=st.integers(1, 6), d=st.integers(1, 60))
def test_moments_at_any_size(entry, dtype, n, tokens, d):
    compare(entry, n, tokens, d, 61 - d, dtype)


@over_dtypes
@pytest.mark.parametrize("tokens", (1, 3))
def test_moments_packed_a_few_samples_at_a_time(dtype, tokens, monkeypatch):
    monkeypatch.setattr(moments, "PACKED_BYTES", 1)
    compare(ours("layered_diag"), 700, tokens, 5, 3, dtype)


def test_layered_diag_is_the_diagonal_of_the_explicit_fisher():
    A, E = layer(30, 4, 6, 5, "float64")
    G = np.einsum("nto,nti->noi", E, A).reshape(30, -1)
    np.testing.assert_allclose(ff.ops.layered_diag(A, E).ravel(), ff.ops.diag(G), rtol=1e-13)


def test_ekfac_moments_in_the_eigenbases_are_those_of_the_rotated_scores():
    A, E = layer(30, 1, 6, 5, "float64")
    A, E = A[:, 0], E[:, 0]
    Qa, Qe = np.linalg.eigh(A.T @ A)[1], np.linalg.eigh(E.T @ E)[1]
    G = np.einsum("no,ni->noi", E, A)
    rotated = np.einsum("ox,noi,iy->nxy", Qe, G, Qa)
    np.testing.assert_allclose(
        ff.ops.layered_diag(A @ Qa, E @ Qe), np.sum(rotated**2, axis=0), rtol=1e-11
    )


def test_layered_diag_refusals_name_the_operand():
    A, E = layer(4, 2, 3, 2, "float32")
    with pytest.raises(ff.errors.InputError, match="same samples"):
        ff.ops.layered_diag(A, E[:3])
    E[2, 1, 0] = np.nan
    with pytest.raises(ff.errors.InputError, match="E is not finite in sample 2"):
        ff.ops.layered_diag(A, E)
    with pytest.raises(ff.errors.InputError, match="overflow"):
        ff.ops.layered_diag(A * np.float32(1e20), np.ones_like(E) * np.float32(1e10))
