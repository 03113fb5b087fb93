"""Weights far from 1 on a CUDA device, in the simulator, beside exact answers."""

import numpy as np

import fastfisher as ff
from tests import matrices, oracle
from tests.solvers.device_arrays import TALL, WIDE, slices_of, there
from tests.tolerances import entrywise_ratio, forward_ratio, solve_ratio, unit_roundoff

__all__ = ["ROUTES", "SCALES", "far"]

SCALES = (1e-60, 1e-36, 1e36, 1e60)
ROUTES = ("primal", "dual", "cg", "mixed", "centred")


def far():
    """{(what, dtype, scale): ratio} of ops and solves."""
    found = {}
    for dtype in ("float32", "float16", "float64"):
        for scale in SCALES:
            found |= {f"{op}-{dtype}-{scale:g}": r for op, r in _ops(dtype, scale).items()}
    for shape in (TALL, WIDE):
        found |= {f"{name}-{shape[0]}": r for name, r in _solves(shape).items()}
    return found


def _ops(dtype, scale):
    """Ratios of raw sums near 1, of small scores with large weights and the other way round."""
    rng = matrices.generator("far on a device", dtype, scale)
    least, most = (1e-4, 1e4) if dtype == "float16" else (1e-28, 1e28)
    size = float(np.clip(scale**-0.5, least, most))
    G = (rng.standard_normal(TALL) * size).astype(dtype)
    w, v = rng.uniform(0.5, 2, 5) * size**-2.0, rng.standard_normal(3).astype(dtype)
    single = unit_roundoff("float32" if dtype == "float16" else dtype)
    root = np.sqrt(w)[:, np.newaxis] * oracle.wide(G)
    a, on = there(G), there(w)
    made = {
        "syrk": (ff.ops.syrk(a, on), oracle.syrk(G, w), oracle.syrk_bound(G, w)),
        "gram": (ff.ops.gram(a, on), oracle.gram(root), oracle.gram_bound(root)),
        "diag": (ff.ops.diag(a, on), oracle.diag(G, w), oracle.diag(G, w)),
        "fvp": (ff.ops.fvp(a, there(v), on), oracle.fvp(G, v, w), oracle.fvp_bound(G, v, w)),
    }
    blocks = ff.ops.block_syrk(a, 1, on)
    made["block"] = blocks, oracle.diag(G, w).reshape(3, 1, 1), oracle.diag(G, w).reshape(3, 1, 1)
    systems = ff.ops.batched_syrk(there(G[np.newaxis]), on)
    made["batched"] = systems, oracle.syrk(G, w)[np.newaxis], oracle.syrk_bound(G, w)[np.newaxis]
    found = {
        op: entrywise_ratio(x.copy_to_host(), exact, (5 + 3) * single * bound)
        for op, (x, exact, bound) in made.items()
    }
    A, g = oracle.fisher(G / G.dtype.type(size), w) + 0.1 * np.eye(3), rng.standard_normal(3)
    scores, g = (x.astype(dtype) for x in (G[np.newaxis] / G.dtype.type(size), g[np.newaxis]))
    x, info = ff.ops.batched_metric_solve(there(scores), there(g), on, damping=0.1)
    assert not info.copy_to_host().any()
    found["metric"] = solve_ratio(A, x.copy_to_host()[0], g[0])
    return found


def _solves(shape):
    """The largest row has so small a weight that it does as much as the others together."""
    n, p = shape
    rng, found = matrices.generator("one far weight", n), {}
    G, w = rng.standard_normal(shape).astype(np.float32), rng.uniform(0.5, 2, n)
    G[1], w[1] = (G[1] * 1e24).astype(np.float32), 1e-48
    v = rng.standard_normal(p).astype(np.float32)
    for name in ROUTES:
        method, center = ("primal", True) if name == "centred" else (name, False)
        A = oracle.damped(oracle.fisher(G, w, center), 0.1)
        settings = dict(damping=0.1, method=method, center=center)
        made = ff.solve(there(G), there(v), weights=there(w), **settings)
        x, cond = made.x.copy_to_host(), np.linalg.cond(A)
        exact = np.linalg.solve(A, v.astype(float))
        error = forward_ratio(x, exact, cond)
        found[name] = max(error, solve_ratio(A, x, v)) if made.converged else np.inf
    for policy in ("raise", "skip"):  # read in slices, of which one row is left out
        H, here = (G, w) if policy == "raise" else (np.vstack([G, G[:1] * np.nan]), np.append(w, 1))
        with slices_of(4 * p * 4):
            settings = dict(damping=0.1, method="primal", device="cuda", nan_policy=policy)
            made = ff.solve(H, v, weights=here, **settings)
        A = oracle.damped(oracle.fisher(G, w), 0.1)
        found[policy] = solve_ratio(A, np.asarray(made.x), v) if made.converged else np.inf
    F = ff.DeviceFisher(p, dtype="float32").update(there(G[2:]), there(1e60 * w[2:]))
    made, exact = F.matrix().copy_to_host(), oracle.fisher(G[2:], w[2:])
    size = unit_roundoff(np.float32) * np.abs(exact).max()
    found["held"] = float(np.abs(made - exact).max() / size)
    return found
