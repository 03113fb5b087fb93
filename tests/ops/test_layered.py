"""Layered Gram matrices against explicit per-sample scores."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError
from tests import matrices, oracle
from tests.tolerances import assert_ratio, gram_ratio

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)


def layer(n, t, d_in, d_out, dtype, rng):
    middle = () if t is None else (t,)
    return (
        matrices.gaussian((n, *middle, d_in), dtype, rng),
        matrices.gaussian((n, *middle, d_out), dtype, rng),
    )


def terms(layers):
    return sum(
        A.shape[-1] * E.shape[-1] * (A.shape[1] if A.ndim == 3 else 1) ** 2 for A, E in layers
    )


def check(layers, dtype):
    K = ff.ops.layered_gram(layers)
    n = len(layers[0][0])
    assert K.dtype == dtype and K.shape == (n, n)
    assert np.array_equal(K, K.conj().T)
    bound = oracle.layered_gram_bound(layers)
    assert_ratio(gram_ratio(K, oracle.layered_gram(layers), bound, 8 + terms(layers)), "goal", "K")
    return K


@over_dtypes
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 130])
def test_layered_gram_L1_one_token(n, dtype, rng):
    check([layer(n, None, 11, 7, dtype, rng), layer(n, None, 7, 3, dtype, rng)], dtype)


# t^2 (d_in + d_out) against d_in d_out decides between token pairs and explicit panels.
BRANCHES = {"token_pairs": (3, 40, 30), "explicit_scores": (9, 5, 4), "odd": (5, 1, 1)}


@over_dtypes
@pytest.mark.parametrize("sizes", BRANCHES.values(), ids=BRANCHES.keys())
@pytest.mark.parametrize("n", [1, 20, 67])
def test_layered_gram_L2_tokens_in_both_branches(n, sizes, dtype, rng):
    t, d_in, d_out = sizes
    K = check([layer(n, t, d_in, d_out, dtype, rng)], dtype)
    A, E = layer(n, t, d_in, d_out, dtype, rng)
    same_token = sum(oracle.layered_gram([(A[:, i], E[:, i])]) for i in range(t))
    assert not np.allclose(ff.ops.layered_gram([(A, E)]), same_token, rtol=1e-3)
    assert K.any()


def test_layered_gram_L2_branches_agree_where_they_meet(rng):
    A, E = layer(10, 4, 12, 10, "float64", rng)
    pairs = ff.ops.layered_gram([(A[:, :2], E[:, :2])])  # 4 * 22 < 120
    padded = [np.concatenate([x[:, :2], np.zeros_like(x)], axis=1) for x in (A, E)]  # 36 * 22 > 120
    np.testing.assert_allclose(ff.ops.layered_gram([padded]), pairs, rtol=1e-12, atol=1e-12)


def test_layered_gram_L4_bias_and_a_layer_of_zeros(rng):
    A, E = layer(12, None, 5, 4, "float64", rng)
    with_bias = np.hstack([A, np.ones((12, 1))])
    layers = [(with_bias, E), (np.zeros((12, 3)), np.ones((12, 2)))]
    K = check(layers, "float64")
    np.testing.assert_allclose(K - ff.ops.layered_gram([(A, E)]), E @ E.T, rtol=1e-10, atol=1e-12)


def test_layered_gram_takes_mixed_layers_and_dtypes(rng):
    single, double = layer(6, 3, 4, 2, "float32", rng), layer(6, None, 3, 2, "complex128", rng)
    K = ff.ops.layered_gram([single, double])
    assert K.dtype == np.complex128
    np.testing.assert_allclose(K, oracle.layered_gram([single, double]), rtol=1e-5)
    same = ff.ops.layered_gram(iter([single, double]))
    assert same.tobytes() == K.tobytes()


def test_layered_gram_no_tokens_no_features():
    assert not ff.ops.layered_gram([(np.zeros((3, 0, 2)), np.zeros((3, 0, 4)))]).any()
    assert not ff.ops.layered_gram([(np.zeros((3, 0)), np.zeros((3, 4)))]).any()
    assert ff.ops.layered_gram([(np.zeros((0, 2)), np.zeros((0, 4)))]).shape == (0, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("tokens", [None, 3, 9])
def test_law_26_16_layered_gram_names_layer_and_sample(value, tokens, rng):
    good, bad = layer(6, None, 3, 2, "float64", rng), layer(6, tokens, 4, 3, "float64", rng)
    bad[1][4, ..., 1] = value
    with pytest.raises(InputError, match=r"layer 1 is not finite, or overflows, in sample 4"):
        ff.ops.layered_gram([good, bad])


def test_law_26_16_a_zero_input_does_not_hide_a_nan_gradient():
    A, E = np.zeros((2, 3)), np.array([[1.0], [np.nan]])
    with pytest.raises(InputError, match="layer 0 is not finite"):
        ff.ops.layered_gram([(A, E)])


def test_law_26_15_layered_gram_overflow_in_single_precision():
    A = np.full((3, 2), 1e15, np.float32)
    with pytest.raises(InputError, match="overflows"):
        ff.ops.layered_gram([(A, A)])


@pytest.mark.parametrize(("sizes", "pairs"), [((3, 40, 30), True), ((9, 5, 4), False)], ids=str)
def test_layered_gram_L2_takes_the_cheaper_branch(sizes, pairs, rng, monkeypatch):
    from fastfisher.kernels.cpu import layered

    called, kernel = [], layered.layered_gram
    monkeypatch.setattr(layered, "layered_gram", lambda *a: called.append(True) or kernel(*a))
    with ff.options(reproducible=True):
        check([layer(6, *sizes, "float64", rng)], "float64")
    assert bool(called) == pairs
