"""A small Fisher of every kind that takes rows, and what it must hold afterwards."""

import numpy as np
import pytest

import fastfisher as ff
from tests import matrices, oracle
from tests.fisher.rows import LayeredRows
from tests.fisher.structure import halves, structured
from tests.tolerances import assert_ratio, entrywise_ratio, unit_roundoff

P = 7
KINDS = {
    "dense": lambda **k: ff.DenseFisher(P, **k),
    "diagonal": lambda **k: ff.DiagonalFisher(P, **k),
    "block": lambda **k: ff.BlockDiagonalFisher(halves(P), **k),
    "gram": lambda **k: ff.GramFisher(**k),
    "layered": lambda **k: LayeredRows(**k),
    "window": lambda **k: ff.WindowFisher(400, P, **k),
}
SQUARES = [kind for kind in KINDS if kind not in ("gram", "window", "layered")]
over_kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
centring = pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])


def exact(F, G, w=None):
    return structured(F, oracle.fisher(G, w, F.center))


def check(F, G, w=None, *, dtype="float64", slack=10):
    """F agrees with one batch of all rows, entrywise in the bound of a sum of n terms."""
    bound = oracle.fisher(np.abs(oracle.wide(G)), w)
    terms = len(G) + 8
    ratio = entrywise_ratio(F.matrix(), exact(F, G, w), terms * unit_roundoff(dtype) * bound)
    assert_ratio(ratio, slack, f"{F!r}")
    weight = len(G) if w is None else np.sum(w, dtype=np.float64)
    assert F.n_samples == len(G) and F.weight == pytest.approx(weight, rel=1e-12)
    mean_bound = oracle.wide(np.abs(G)).mean(axis=0) * 10 + 1e-30
    mean = oracle.mean_gradient(G, w).conj()
    assert entrywise_ratio(F.mean, mean, terms * unit_roundoff(dtype) * mean_bound) <= 10


def state(F):
    """Everything a Fisher knows, as bytes."""
    mean = F.mean.tobytes()  # whatever waits is in
    arrays = {name: a.tobytes() for name, a in F._arrays().items()}
    return arrays, F.n_samples, F.n_skipped, F.weight, F.decayed, mean
