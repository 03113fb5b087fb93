"""After `warmup` nothing is left to compile, whatever the sizes."""

import gc

import numba
import numpy as np
import pytest

import fastfisher as ff
from fastfisher import ops
from fastfisher.kernels.cpu import jit
from tests.kernels.processes import in_a_process


def compiled_code():
    """What there is by now of compiled functions: (name, argument types).

    Of what is called by address only the result is kept.
    """
    found = {(r.fndesc.modname + "." + r.fndesc.qualname, str(r.signature)) for r in jit.KEPT}
    for thing in gc.get_objects():
        if type(thing) is numba.core.registry.CPUDispatcher:
            name = f"{thing.py_func.__module__}.{thing.py_func.__qualname__}"
            found |= {(name, str(types)) for types in thing.overloads}
    return found


def every_regime(dtype):
    """Calls for every way that the sizes of operands may take."""
    rng = np.random.default_rng(5)

    def scores(*shape):
        return rng.standard_normal(shape).astype(dtype)

    G = scores(1000, 800)
    square, long, systems = G[:, :500].copy(), scores(12, 70_000), scores(50, 5, 40)
    for kept in (G, square, G[:, :200].copy(), G[:, :40].copy()):
        ops.syrk(kept, np.ones(len(kept)))
        ops.gram(kept[:600])
    for k in (1, 5, 40):
        for a in (G, G[:, :30].copy(), long):
            v, u = scores(a.shape[1], k), scores(len(a), k)
            ops.fvp(a, v), ops.matvec(a, v), ops.rmatvec(a, u)
        for method in ("primal", "dual", "cg", "mixed") if k < 40 else ():
            how = {"damping": 100.0, "method": method}
            ff.solve(G, G[:k].T.copy(), **how, weights=np.ones(1000), center=True)
            ff.solve(G[:780], coef=np.ones((780, k), dtype), **how)
            ff.solve(np.ones((300, 800), dtype), G[:k].T.copy(), **how)  # samples that are alike
        L = ops.cholesky(ops.syrk(square), damping=1.0)
        ops.cho_solve(L, scores(500, k))
    ff.solve_path(G, G[0], dampings=[1000.0, 100.0, 10.0])
    ff.solve(G[:50, :10].copy(), G[0, :10], damping=1.0), ff.solve(G[:8], G[0], damping=1.0)
    for p in (2, 3, 5, 9, 10, 20, 32, 40):
        F, g = np.tile(np.eye(p, dtype=dtype), (100, 1, 1)), np.ones((100, p), dtype)
        ops.batched_solve(F, g, damping=1.0)
        ops.batched_metric_solve(systems[:, :, :p].copy(), g[:50, :p], damping=1.0)
        ops.block_solve(
            ops.block_cholesky(ops.block_syrk(G[:, : 7 * p], p), damping=1.0)[0], G[0, : 7 * p]
        )
    ops.layered_gram([(G[:300], G[:300]), (G[:300, :9].copy(), G[:300, :7].copy())])
    ops.layered_diag(G, G[:, :50].copy())


def compiled_afterwards(*dtypes):
    ff.warmup(dtypes=dtypes)
    before = compiled_code()
    for reproducible in (False, True):
        with ff.options(reproducible=reproducible):
            for dtype in dtypes:
                every_regime(dtype)
    return sorted(compiled_code() - before)


@pytest.mark.slow
@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
@pytest.mark.parametrize("dtypes", (["float32", "float64"], ["float64"], ["complex128"]))
def test_nothing_is_left_to_compile_after_warmup(dtypes):
    assert in_a_process(compiled_afterwards, *dtypes) == []
