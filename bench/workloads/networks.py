"""Training, pruning and quantising neural networks: oBERT, EWC, GPTQ, M-FAC, TRPO, layers."""

from itertools import pairwise

import numpy as np

import fastfisher as ff

from ..cases import OPS, Op
from ..numpy_ops import explicit_gram
from .workload import Workload, eye, scores_and

# W2: block-diagonal second-order pruning (oBERT) ------------------------------------------------


def _w2_inputs(normal, shape):
    n, p, d = shape
    return normal(n, p), normal(p), d


def _w2_peer(G, x, d, lam=1e-2):
    """The inverse itself, updated gradient by gradient."""
    n, p = G.shape
    inverse = np.zeros((p // d, d, d), G.dtype)
    inverse[:, np.arange(d), np.arange(d)] = 1 / lam
    for g in G.reshape(n, -1, d):
        v = np.einsum("bij,bj->bi", inverse, g)
        weight = n + np.einsum("bi,bi->b", g, v)
        inverse -= v[:, :, None] * (v / weight[:, None])[:, None]
    return np.einsum("bij,bj->bi", inverse, x.reshape(-1, d)).ravel()


def _w2_ours(G, x, d, lam=1e-2):
    F = ff.BlockDiagonalFisher((G.shape[1] // d, d), dtype=G.dtype)
    for g in G:
        F.update(g[np.newaxis])
    return F.solve(x, damping=lam).x


# W10: inverse Cholesky factor of a damped Gram matrix (GPTQ) -----------------------------------


def _damped(H):
    H[np.diag_indices(len(H))] += 0.01 * H.diagonal().mean()
    return H


def _w10_peer(X):
    return np.linalg.cholesky(np.linalg.inv(_damped(X.T @ X)))


def _w10_ours(X):
    L = ff.ops.cholesky(_damped(ff.ops.syrk(X)), overwrite=True)
    return ff.ops.cholesky(ff.ops.cho_solve(L, eye(len(L), L.dtype)), overwrite=True)


# W12: a window of gradients, one replaced per step (M-FAC) -------------------------------------


STEPS = 4


def _w12_peer(G, new, v, lam=1e-2):
    m, one = len(G), eye(len(G), G.dtype)
    G = G.copy()
    K = G @ G.T
    for i, g in enumerate(new):
        G[i] = g
        K[i] = K[:, i] = G @ g
        x = (v - G.T @ np.linalg.solve(K + m * lam * one, G @ v)) / lam
    return x


def _w12_ours(G, new, v, lam=1e-2):
    F = ff.WindowFisher(*G.shape, dtype=G.dtype).update(G)
    for g in new:
        x = F.update(g[np.newaxis]).solve(v, damping=lam).x
    return x


# W13: ten steps of conjugate gradients (TRPO) --------------------------------------------------


def _w13_peer(G, g, lam=0.1, steps=10):
    n, x, r = len(G), np.zeros_like(g), g.copy()
    d, rr = r.copy(), r @ r
    for _ in range(steps):
        q = G.T @ (G @ d) / n + lam * d
        alpha = rr / (d @ q)
        x, r = x + alpha * d, r - alpha * q
        rr, before = r @ r, rr
        d = r + rr / before * d
    return x


def _w13_ours(G, g):
    settings = {"method": "cg", "maxiter": 10, "rtol": 0.0, "preconditioner": None}
    return ff.solve(G, g, damping=0.1, **settings).x


# W17: the dual step of a multilayer perceptron -------------------------------------------------


def _w17_inputs(normal, shape):
    n, *widths = shape
    layers = [(normal(n, d_in), normal(n, d_out)) for d_in, d_out in pairwise(widths)]
    return layers, normal(n)


def _parameters(net):
    return sum(d_in * d_out for d_in, d_out in pairwise(net))


def _w17_peer(layers, f):
    K = explicit_gram(layers)
    K[np.diag_indices(len(K))] += len(K)
    return _w17_step(layers, np.linalg.solve(K, f))


def _w17_step(layers, y):
    return np.concatenate([((E * y[:, None]).T @ A).ravel() for A, E in layers])


def _w17_truth(layers, f):
    K = sum((A @ A.T) * (E @ E.T) for A, E in layers)
    return _w17_step(layers, np.linalg.solve(K + len(K) * np.eye(len(K)), f))


def _w17_ours(layers, f):
    return ff.LayeredFisher().update(layers).solve(coef=f, damping=1.0).x


# W19: gradients that come one at a time --------------------------------------------------------


def _w19_peer(G, g, lam=1e-2):
    F = np.zeros((len(g), len(g)), G.dtype)
    for row in G:
        F += np.outer(row, row)
    return np.linalg.solve(F / len(G) + lam * eye(len(g), G.dtype), g)


def _w19_ours(G, g):
    F = ff.DenseFisher(len(g), dtype=G.dtype)
    for row in G:
        F.update(row[np.newaxis])
    return F.solve(g, damping=1e-2).x


WORKLOADS = {
    "w2": Workload(
        "block-diagonal inverse, gradient by gradient (oBERT)",
        Op(
            "n x p x d",
            lambda n, p, d: n * p * (d + 1) + p * d * d / 3 + 2 * p * d,
            lambda n, p, d: n * p,
            lambda n, p, d: p * d,
        ),
        _w2_inputs,
        _w2_ours,
        _w2_peer,
    ),
    "w8": Workload(
        "mean square gradient (EWC)",
        OPS["diag"],
        scores_and(),
        lambda G: ff.ops.diag(G) / G.dtype.type(len(G)),
        lambda G: (G**2).mean(0),
    ),
    "w10": Workload(
        "Cholesky factor of an inverse damped Gram matrix (GPTQ)",
        Op(
            "n x p",
            lambda n, p: n * p * (p + 1) + 4 * p**3 / 3,
            lambda n, p: n * p,
            lambda n, p: p * p,
        ),
        scores_and(),
        _w10_ours,
        _w10_peer,
    ),
    "w12": Workload(
        "a window of gradients, four of them replaced one by one (M-FAC)",
        Op(
            "m x p",
            lambda m, p: m * p * (m + 1) + STEPS * (6 * m * p + m**3 / 3),
            lambda m, p: (1 + 3 * STEPS) * m * p,
            lambda m, p: m * p,
        ),
        scores_and(lambda m, p: (STEPS, p), lambda m, p: (p,)),
        _w12_ours,
        _w12_peer,
    ),
    "w13": Workload(
        "ten conjugate gradient steps (TRPO)",
        Op(
            "n x p",
            lambda n, p: 40 * n * p,
            lambda n, p: 10 * n * p,
            lambda n, p: p,
        ),
        scores_and(lambda n, p: (p,)),
        _w13_ours,
        _w13_peer,
    ),
    "w17": Workload(
        "dual step of a multilayer perceptron from its layers",
        Op(
            "n x widths of the layers",
            lambda n, *w: OPS["layered_gram"].flops(n, *w) + n**3 / 3 + 2 * n * _parameters(w),
            OPS["layered_gram"].reads,
            lambda n, *w: _parameters(w),
        ),
        _w17_inputs,
        _w17_ours,
        _w17_peer,
        truth=_w17_truth,
    ),
    "w19": Workload(
        "gradients one at a time, then a step",
        OPS["solve"],
        scores_and(lambda n, p: (p,)),
        _w19_ours,
        _w19_peer,
    ),
}
