"""syrk with precision="normwise": integer slices, bounded per pair of columns; X2, section 27."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError
from fastfisher.ops import products
from tests import matrices, oracle
from tests.tolerances import unit_roundoff


@pytest.fixture
def sliced(monkeypatch):
    """Integer products at every size, as in matrix registers."""
    monkeypatch.setattr(products, "normwise_pays", lambda p, dtype: dtype.kind == "f")


def normwise_ratio(F, G, w=None):
    """max |F - F*| / (n u m_i m_j), m the largest weighted scores of the columns."""
    roots = 1 if w is None else np.sqrt(w)[:, np.newaxis]
    m = np.abs(roots * G).max(axis=0)
    error = np.abs(F - oracle.syrk(G, w, precise=True))
    return float((error / (len(G) * unit_roundoff(G.dtype) * np.outer(m, m))).max())


@pytest.mark.parametrize("name", ["gaussian", "graded", "cauchy", "heavy row", "exponential"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_X2_normwise_syrk_is_as_near_as_double(sliced, name, weighted, rng):
    n, p = 200, 30
    G = rng.standard_normal((n, p))
    if name == "graded":
        G *= 2.0 ** -np.round(np.linspace(0, 300, p))
    elif name == "cauchy":
        G = rng.standard_cauchy((n, p))
    elif name == "heavy row":
        G[7] *= 1e9
    elif name == "exponential":
        G = matrices.scores(n, p, cond=1e12)
    w = rng.uniform(0.1, 2, n) if weighted else None
    F = ff.ops.syrk(G, w, precision="normwise")
    assert normwise_ratio(F, G, w) <= 1, name
    assert np.array_equal(F, F.T)
    coarse = F * (1 + 1e-12)
    assert normwise_ratio(coarse, G, w) > 1  # the ratio can tell


@pytest.mark.parametrize("repeated", [False, True])
def test_X2_long_normwise_sums_are_no_worse_than_products_in_double(sliced, repeated, rng):
    """From 1024 samples on a slice less is taken; rounding of equal rows adds up in either."""
    G = rng.standard_normal((1 if repeated else products.NORMWISE_LONG, 30))
    G = np.tile(G, (products.NORMWISE_LONG, 1)) if repeated else G
    double = normwise_ratio(G.T @ G, G)
    assert normwise_ratio(ff.ops.syrk(G, precision="normwise"), G) <= max(1, 2 * double)


@pytest.mark.parametrize("n", [20, 200, 3000])
def test_X2_normwise_sums_of_single_precision_are_as_near_as_they_are_told_apart(sliced, n, rng):
    G = (rng.standard_t(3, (n, 30)) * 2.0 ** rng.integers(-40, 40, 30)).astype(np.float32)
    w = rng.uniform(0.1, 2, n).astype(np.float32)
    for weights in (None, w):
        F = ff.ops.syrk(G, weights, precision="normwise")
        assert F.dtype == np.float32 and normwise_ratio(F, G, weights) <= 2
        assert normwise_ratio(F * np.float32(1 + 1e-3), G, weights) > 2  # the ratio can tell


def test_normwise_is_not_entrywise(sliced, rng):
    """What it does not promise: an entry far below the largest scores of its columns."""
    G = np.zeros((3, 2))
    G[0], G[1], G[2] = (1.0, 0.0), (0.0, 1.0), (1e-20, 1e-20)
    exact = ff.ops.syrk(G)
    loose = ff.ops.syrk(G, precision="normwise")
    assert exact[0, 1] == pytest.approx(1e-40) and loose[0, 1] == 0
    assert normwise_ratio(loose, G) <= 1


@pytest.mark.parametrize("scale", [1e-200, 1e160, 5e-324])
def test_normwise_leaves_the_ends_of_the_range_alone(sliced, scale, rng):
    """There the ordinary kernel answers, or refuses, as ever."""
    G = rng.standard_normal((20, 5))
    G[:, 0] *= scale
    if scale > 1:
        with pytest.raises(InputError, match="overflows"):
            ff.ops.syrk(G, precision="normwise")
        return
    np.testing.assert_array_equal(ff.ops.syrk(G, precision="normwise"), ff.ops.syrk(G))


def test_normwise_checks_its_input(sliced, rng):
    G = rng.standard_normal((20, 5))
    with pytest.raises(InputError, match="'entrywise' or 'normwise'"):
        ff.ops.syrk(G, precision="loose")
    G[3, 1] = np.nan
    with pytest.raises(InputError, match="row 3, column 1"):
        ff.ops.syrk(G, precision="normwise")


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (513, 49)], ids=str)
def test_normwise_at_every_size(sliced, shape, rng):
    G = rng.standard_normal(shape)
    F = ff.ops.syrk(G, precision="normwise")
    np.testing.assert_allclose(F, G.T @ G, rtol=0, atol=1e-13 * max(len(G), 1))
    G = G.astype(np.float32)
    single = ff.ops.syrk(G, precision="normwise")
    assert single.dtype == np.float32
    assert not G.size or normwise_ratio(single, G) <= 2
