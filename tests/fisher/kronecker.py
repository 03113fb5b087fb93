"""Kronecker Fishers of mixed layers, and the dense matrices they stand for."""

import numpy as np
import pytest

import fastfisher as ff
from tests import matrices
from tests.fisher.layers import ekfac, kfac, mixed, widths
from tests.tolerances import unit_roundoff

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
over_tokens = pytest.mark.parametrize("tokens", ["expand", "reduce"])
over_forms = pytest.mark.parametrize("corrected", [False, True], ids=["kfac", "ekfac"])
LAM = 0.3


def close(result, expected, dtype="float64", slack=1.0):
    scale = np.max(np.abs(expected), initial=0.0) or 1.0
    tolerance = slack * 300 * unit_roundoff(dtype) * scale
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)


def fisher(layers, **settings):
    return ff.KroneckerFisher(widths(layers), **settings)


def reference(layers, w, tokens, corrected):
    return (ekfac if corrected else kfac)(layers, w, tokens)


def filled(n, dtype="float64", *, corrected=False, tokens="expand", weighted=True):
    layers, w = mixed(n, dtype), matrices.weights(n, dtype) + 0.1 if weighted else None
    F = fisher(layers, dtype=dtype, corrected=corrected, tokens=tokens).update(layers, w)
    return F, layers, w, reference(layers, w, tokens, corrected)
