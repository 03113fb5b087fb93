"""Layered Gram: c_ij += sum over tokens t, t' of <a_it, a_jt'> <e_it, e_jt'>, lower triangle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastfisher as ff
from fastfisher.kernels.cpu.layered import ROWS
from fastfisher.kernels.cpu.products import KC
from tests import matrices, oracle
from tests.kernels.cases import (
    implementations,
    lower_of,
    over_dtypes,
    rounded,
    started,
    unchanged,
)
from tests.tolerances import assert_ratio, entrywise_ratio, unit_roundoff

over_implementations = implementations("layered_gram")

# (n, tokens, d_in, d_out)
EMPTY_AND_SMALL = [(0, 1, 3, 2), (3, 1, 0, 2), (3, 2, 2, 0), (1, 1, 1, 1), (4, 3, 5, 2)]
SAMPLES = [(n, 1, 5, 3) for n in matrices.edges(ROWS)]
TOKENS = [(5, t, 3, 2) for t in (7, ROWS // 2, ROWS // 2 + 1, ROWS - 1, ROWS, ROWS + 1)]
GROUPS = [(23, 7, 3, 2), (9, 2 * ROWS + 3, 2, 2)]
TERMS = [(4, 2, d, 3) for d in matrices.edges(KC)] + [(4, 2, 3, KC + 1)]
SHAPES = EMPTY_AND_SMALL + SAMPLES + TOKENS + GROUPS + TERMS


def layer(n, tokens, d_in, d_out, dtype):
    rng = matrices.generator("layer", n, tokens, d_in, d_out, str(dtype))
    A = matrices.gaussian((n, tokens, d_in), dtype, rng)
    return A, matrices.gaussian((n, tokens, d_out), dtype, rng)


def error_ratio(K, expected, bound, n, tokens, d_in, d_out):
    terms = d_in + d_out + tokens * tokens + 2
    return entrywise_ratio(K, expected, terms * unit_roundoff(K.dtype) * bound)


def compare(entry, shape, dtype):
    n, tokens, d_in, d_out = shape
    A, E = layer(*shape, dtype)
    c, start = started(n, dtype)
    a, e = A.reshape(n * tokens, d_in), E.reshape(n * tokens, d_out)
    intact = unchanged(a, e)
    entry.load()(c, a, e, tokens)
    intact()
    expected = start + np.tril(oracle.layered_gram([(A, E)]))
    bound = np.abs(start) + np.tril(oracle.layered_gram_bound([(A, E)]))
    K = rounded(lower_of(c), dtype)
    assert_ratio(error_ratio(K, expected, bound, *shape), "goal", f"{entry.name} {shape} {dtype}")


@over_implementations
def test_layered_gram_L1_by_hand(entry):
    c = np.zeros((2, 2), complex)
    entry.load()(c, np.array([[1.0, 1j], [2, 0]]), np.array([[3.0 + 0j], [1j]]), 1)
    # <(1, i), (1, i)> = 2, <(2, 0), (1, i)> = 2; <3, 3> = 9, <i, 3> = 3i
    assert c[0, 0] == 18 and c[1, 1] == 4 and c[1, 0] == 6j


@over_implementations
def test_layered_gram_L2_by_hand(entry):
    c = np.zeros((1, 1))
    entry.load()(c, np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[3.0], [4.0]]), 2)
    assert c[0, 0] == 3**2 + 10**2  # the score is 3 (1, 2) + 4 (0, 1)


@over_implementations
@over_dtypes
def test_L1_L2_layered_gram_error_at_every_block_edge(entry, dtype):
    for shape in SHAPES:
        compare(entry, shape, dtype)


small = st.integers(0, 9)


@over_implementations
@over_dtypes
@given(n=small, tokens=small.map(lambda t: t + 1), d_in=small, d_out=small)
def test_L1_L2_layered_gram_error_at_any_size(entry, dtype, n, tokens, d_in, d_out):
    compare(entry, (n, tokens, d_in, d_out), dtype)


@over_implementations
@over_dtypes
@pytest.mark.parametrize("which", ("inputs", "output gradients"))
def test_law_26_16_what_is_not_finite_reaches_its_sample(entry, dtype, which):
    A, E = layer(ROWS + 6, 2, 3, 4, dtype)
    (A if which == "inputs" else E)[ROWS + 2, 1, 2] = np.nan
    c = np.zeros((ROWS + 6, ROWS + 6), np.result_type(dtype, np.float64))
    with np.errstate(invalid="ignore"):
        entry.load()(c, A.reshape(-1, 3), E.reshape(-1, 4), 2)
    touched = np.zeros_like(c, bool)
    touched[ROWS + 2, : ROWS + 3] = touched[ROWS + 2 :, ROWS + 2] = True
    assert np.array_equal(np.isnan(np.tril(c)), touched)


# Public op -----------------------------------------------------------------------------------

MODELS = {
    "one layer": [(1, 5, 3)],
    "three layers": [(1, 5, 3), (1, 3, 4), (1, 4, 1)],
    "tokens": [(3, 5, 3), (1, 3, 4)],
    "many tokens, so that rows are formed": [(9, 2, 3)],
    "odd tokens": [(7, 11, 5), (5, 9, 13)],
}


def model(name, n, dtype):
    layers = []
    for tokens, d_in, d_out in MODELS[name]:
        A, E = layer(n, tokens, d_in, d_out, dtype)
        layers.append((A[:, 0], E[:, 0]) if tokens == 1 else (A, E))
    return layers


@over_dtypes
@pytest.mark.parametrize("n", (0, 1, 9, ROWS + 1))
@pytest.mark.parametrize("name", MODELS)
def test_layered_gram_L4_equals_the_gram_of_explicit_rows(name, n, dtype):
    layers = model(name, n, dtype)
    K = ff.ops.layered_gram(layers)
    assert K.dtype == dtype and np.array_equal(K, K.conj().T)
    bound = oracle.layered_gram_bound(layers)
    ratio = entrywise_ratio(K, oracle.layered_gram(layers), 120 * unit_roundoff(dtype) * bound)
    assert_ratio(ratio, "goal", name)
    explicit = ff.ops.gram(oracle.layer_scores(layers).astype(dtype))
    assert_ratio(entrywise_ratio(K, explicit, 120 * unit_roundoff(dtype) * bound), "goal", name)


@over_dtypes
def test_bias_L1_is_a_column_of_ones(dtype):
    ((A, E),) = model("one layer", 9, dtype)
    with_bias = np.concatenate([A, np.ones((9, 1), dtype)], axis=1)
    expected = (oracle.gram(A) + 1) * oracle.gram(E)
    bound = (oracle.gram_bound(A) + 1) * oracle.gram_bound(E)
    K = ff.ops.layered_gram([(with_bias, E)])
    assert_ratio(entrywise_ratio(K, expected, 10 * unit_roundoff(dtype) * bound), "goal", "bias")


def test_a_layer_of_zeros_adds_nothing_L4():
    layers = model("one layer", 9, "float64")
    zeros = (np.zeros((9, 4)), np.zeros((9, 2)))
    assert np.array_equal(ff.ops.layered_gram([*layers, zeros]), ff.ops.layered_gram(layers))


def test_only_the_same_token_pairs_would_be_wrong_L2():
    layers = model("tokens", 6, "float64")[:1]
    ((A, E),) = layers
    same = np.einsum("itk,jtk,ito,jto->ij", A, A, E, E)
    assert np.abs(ff.ops.layered_gram(layers) - same).max() > 1


@over_dtypes
def test_law_26_13_layered_gram_in_every_layout(dtype):
    ((A, E),) = model("one layer", 9, dtype)
    expected = ff.ops.layered_gram([(A, E)])
    for (name, a), (_, e) in zip(matrices.layouts(A), matrices.layouts(E), strict=True):
        intact = unchanged(a, e)
        assert np.array_equal(ff.ops.layered_gram([(a, e)]), expected), name
        intact()


def test_layers_of_two_precisions_are_summed_in_the_wider_one():
    one, two = model("one layer", 5, "float32"), model("one layer", 5, "complex128")
    assert ff.ops.layered_gram([*one, *two]).dtype == np.complex128


@pytest.mark.parametrize(
    "layers, message",
    [
        ([], "layers is empty"),
        ([(np.ones((3, 2)),)], r"layers\[0\] is no pair"),
        ([(np.ones((3, 2)), np.ones((4, 2)))], r"layers\[0\] has A \(3, 2\) and E \(4, 2\)"),
        ([(np.ones((3, 5, 2)), np.ones((3, 4, 2)))], "same samples"),
        ([(np.ones(3), np.ones((3, 2)))], r"layers\[0\]\.A has shape \(3,\)"),
        ([(np.ones((3, 2)),) * 2, (np.ones((4, 2)),) * 2], "expected the same n in all"),
        ([(np.ones((3, 2), int), np.ones((3, 2)))], r"layers\[0\]\.A has dtype int64"),
        ([(np.full((3, 2), np.nan), np.ones((3, 2)))], "layer 0 is not finite"),
    ],
)
def test_bad_layers_are_refused(layers, message):
    with pytest.raises(ff.errors.InputError, match=message):
        ff.ops.layered_gram(layers)
