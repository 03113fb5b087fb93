"""Whole jobs from the literature: the expression its own code uses beside ours.

Sizes are reduced so that the expression's temporaries fit and a run takes seconds. Results must
agree with the same expression, or a stabler one for the same numbers, in double precision.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

import fastfisher as ff

from .cases import AUTOENCODER, OPS, Case, Op


@dataclass(frozen=True)
class Workload:
    """One job: what it is, its cost, its numbers, the two ways, and what is right."""

    title: str
    cost: Op
    inputs: Callable  # (normal, shape) -> operands
    ours: Callable
    peer: Callable
    truth: Callable | None = None  # on operands in double; the peer's expression by default
    gate: float = 1e5  # u, norm-wise: these answers are ill-conditioned by their inverses


def _eye(p, dtype):
    return np.eye(p, dtype=dtype)


def _scores_and(*sizes):
    """Scores (n, p), and arrays of other shapes made from the case's shape."""

    def make(normal, shape):
        return normal(*shape[:2]), *(normal(*size(*shape)) for size in sizes)

    return make


# W1: attribution scores (TRAK) ---------------------------------------------------------------


def _w1_peer(G, T, lam=1.0):
    p = G.shape[1]
    return (G @ np.linalg.inv(G.T @ G + lam * _eye(p, G.dtype))) @ T.T


def _w1_ours(G, T, lam=1.0):
    n = len(G)
    return ff.ops.matvec(G, ff.solve(G, T.T, damping=lam / n).x) / n


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


# W3: many tiny systems, some of them singular (natural gradient boosting) ----------------------


def _w3_inputs(normal, shape):
    n, p = shape
    B = normal(n, p, p)
    M = B @ B.swapaxes(1, 2) / p + _eye(p, B.dtype)
    M[:: n // 100] = 0  # one in a hundred
    return M, normal(n, p)


def _w3_peer(M, g):
    try:
        return np.linalg.solve(M, g[..., None])[..., 0]
    except np.linalg.LinAlgError:
        return np.array([np.linalg.pinv(m) @ v for m, v in zip(M, g, strict=True)])


def _w3_ours(M, g):
    x, info = ff.ops.batched_solve(M, g)
    for i in np.flatnonzero(info):
        x[i] = np.linalg.pinv(M[i]) @ g[i]
    return x


# W4, W5: stochastic reconfiguration with more parameters than samples --------------------------


def _w4_peer(O, e, lam=1e-3):
    n = len(O)
    O = (O - O.mean(0)) / np.sqrt(n)
    T = O @ O.conj().T
    return O.conj().T @ np.linalg.solve(T + lam * _eye(n, T.dtype), (e - e.mean()) / np.sqrt(n))


def _w4_ours(O, e, lam=1e-3):
    return ff.solve(O, coef=e, center=True, damping=lam).x


def _w5_peer(O, r, lam=1e-3):
    n = len(O)
    w, V = np.linalg.eigh(O @ O.T / n + lam * _eye(n, O.dtype))
    return O.T @ (V @ np.diag(1 / w) @ V.T @ r) / n


def _w5_ours(O, r, lam=1e-3):
    return ff.solve(O, coef=r, damping=lam).x


# W6: classical stochastic reconfiguration ------------------------------------------------------


def _w6_peer(O, b):
    from scipy.linalg import cho_factor, cho_solve

    m = O.mean(0)
    S = O.conj().T @ O / len(O) - np.outer(m.conj(), m)
    S[np.diag_indices(len(S))] *= 1.02
    return cho_solve(cho_factor(S), b)


def _w6_ours(O, b):
    return ff.solve(O, b, center=True, damping=ff.Marquardt(0.02)).x


# W7: least squares on outer products (energy natural gradient for PDEs) ------------------------


def _w7_peer(J, g):
    F = (J[:, :, None] * J[:, None, :]).mean(0)
    return np.linalg.lstsq(F, g, rcond=None)[0]


# W9: a layer's Kronecker factors, corrected in their eigenbases (influence functions, EKFAC) -----

W9_CHUNK = 64  # samples whose gradients exist at once in the peers' expression


def _w9_peer(A, E, V, lam=0.1):
    n = len(A)
    U, W = np.linalg.eigh(E.T @ E / n)[1], np.linalg.eigh(A.T @ A / n)[1]
    S = np.zeros_like(V)
    for lo in range(0, n, W9_CHUNK):
        gradients = np.einsum("no,ni->noi", E[lo : lo + W9_CHUNK], A[lo : lo + W9_CHUNK])
        S += ((U.T @ gradients @ W) ** 2).sum(0)
    return U @ ((U.T @ V @ W) / (S / n + lam)) @ W.T


def _w9_ours(A, E, V, lam=0.1):
    F = ff.KroneckerFisher([(A.shape[1], E.shape[1])], corrected=True, dtype=A.dtype)
    return F.update([(A, E)]).solve(V.ravel(), damping=lam).x.reshape(V.shape)


def _w9_truth(A, E, V, lam=0.1):
    n = len(A)
    U, W = np.linalg.eigh(E.T @ E / n)[1], np.linalg.eigh(A.T @ A / n)[1]
    S = ((E @ U) ** 2).T @ ((A @ W) ** 2) / n
    return U @ ((U.T @ V @ W) / (S + lam)) @ W.T


# W10: inverse Cholesky factor of a damped Gram matrix (GPTQ) -----------------------------------


def _damped(H):
    H[np.diag_indices(len(H))] += 0.01 * H.diagonal().mean()
    return H


def _w10_peer(X):
    return np.linalg.cholesky(np.linalg.inv(_damped(X.T @ X)))


def _w10_ours(X):
    L = ff.ops.cholesky(_damped(ff.ops.syrk(X)), overwrite=True)
    return ff.ops.cholesky(ff.ops.cho_solve(L, _eye(len(L), L.dtype)), overwrite=True)


# W11: the evidence along a path of dampings (Laplace) ------------------------------------------

DAMPINGS = np.logspace(-4, 1, 20)


def _w11_peer(G):
    F, one = G.T @ G / len(G), _eye(G.shape[1], G.dtype)
    return np.array([np.linalg.slogdet(F + lam * one)[1] for lam in DAMPINGS])


def _w11_ours(G):
    F = ff.DenseFisher(G.shape[1], dtype=G.dtype).update(G)
    return np.array([F.factor(damping=lam).logdet() for lam in DAMPINGS])


# W12: a window of gradients, one replaced per step (M-FAC) -------------------------------------

STEPS = 4


def _w12_peer(G, new, v, lam=1e-2):
    m, one = len(G), _eye(len(G), G.dtype)
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


# W14: covariance of a maximum likelihood estimate (outer products of scores) -------------------


def _w14_ours(S):
    F = ff.DenseFisher(S.shape[1], dtype=S.dtype).update(S)
    return F.factor(damping=0.0).inv_quad(_eye(S.shape[1], S.dtype)) / F.weight


# W15: what forecasts of gravitational-wave detections ask for: uncertainties of every event ------


def _w15_inputs(normal, shape):
    """Condition 1e10 and far more by the units alone; one in a hundred is indefinite."""
    n, p = shape
    rows, units = normal(n, 2 * p, p), np.exp(4 * normal(n, p))
    F = rows.swapaxes(1, 2) @ rows * units[:, :, None] * units[:, None, :]
    F[::100, -1, -1] *= 0.02
    return (F,)


def _w15_peer(F):
    """Event by event, scaled to a unit diagonal and inverted by singular values."""
    sizes = np.empty(F.shape[:2], F.dtype)
    for t, f in enumerate(F):
        scale = 1 / np.sqrt(f.diagonal())
        U, s, V = np.linalg.svd(f * scale * scale[:, None])
        sizes[t] = np.sqrt(np.abs(((V.T / s) @ U.T).diagonal()))
    return sizes


def _w15_ours(F):
    n, p = F.shape[:2]
    L, info = ff.ops.block_cholesky(F)
    X = ff.ops.block_solve(L, np.tile(_eye(p, F.dtype), n).T).reshape(n, p, p)
    variances, information = np.einsum("nii->ni", X).copy(), np.einsum("nii->ni", F)
    for t in np.flatnonzero(info):
        variances[t] = np.linalg.inv(F[t]).diagonal()
    return np.sqrt(np.abs(variances * information))


# W16: influence by the closed form of DataInf --------------------------------------------------


def _w16(product, adjoint, norms):
    def influence(G, Q, lam=1.0):
        n, K = len(G), product(G, Q.T)
        K /= (lam + norms(G))[:, None]
        return (Q - adjoint(G, K).T / n) / lam

    return influence


def _square_norms(G):
    return np.einsum("np,np->n", G, G)


# W17: the dual step of a multilayer perceptron -------------------------------------------------


def _w17_inputs(normal, shape):
    n, *widths = shape
    layers = [(normal(n, d_in), normal(n, d_out)) for d_in, d_out in pairwise(widths)]
    return layers, normal(n)


def _parameters(net):
    return sum(d_in * d_out for d_in, d_out in pairwise(net))


def _w17_peer(layers, f):
    from .contenders import numpy_explicit_gram

    K = numpy_explicit_gram(layers)
    K[np.diag_indices(len(K))] += len(K)
    return _w17_step(layers, np.linalg.solve(K, f))


def _w17_step(layers, y):
    return np.concatenate([((E * y[:, None]).T @ A).ravel() for A, E in layers])


def _w17_truth(layers, f):
    K = sum((A @ A.T) * (E @ E.T) for A, E in layers)
    return _w17_step(layers, np.linalg.solve(K + len(K) * np.eye(len(K)), f))


def _w17_ours(layers, f):
    return ff.LayeredFisher().update(layers).solve(coef=f, damping=1.0).x


# W18: the step along a path of 200 dampings ---------------------------------------------------

PATH = np.logspace(-6, 1, 200)


def _w18_peer(G, g):
    from scipy.linalg import cho_factor, cho_solve

    F, norms = G.T @ G / len(G), np.empty(len(PATH), G.dtype)
    for i, lam in enumerate(PATH.astype(G.dtype)):
        A = F + lam * _eye(len(g), G.dtype)
        norms[i] = np.linalg.norm(cho_solve(cho_factor(A, overwrite_a=True), g))
    return norms


def _w18_ours(G, g):
    return ff.DenseFisher(len(g), dtype=G.dtype).update(G).path(g, PATH).norms


# W19: gradients that come one at a time --------------------------------------------------------


def _w19_peer(G, g, lam=1e-2):
    F = np.zeros((len(g), len(g)), G.dtype)
    for row in G:
        F += np.outer(row, row)
    return np.linalg.solve(F / len(G) + lam * _eye(len(g), G.dtype), g)


def _w19_ours(G, g):
    F = ff.DenseFisher(len(g), dtype=G.dtype)
    for row in G:
        F.update(row[np.newaxis])
    return F.solve(g, damping=1e-2).x


# W20: several right-hand sides by conjugate gradients --------------------------------------------


def _w20_inputs(normal, shape):
    n, p, k = shape
    return normal(n, p) * (1.0 + np.arange(p, dtype=np.float32)) ** -1, normal(p, k)


def _w20_peer(G, B, lam=1e-5):
    from scipy.sparse.linalg import LinearOperator, cg

    n, p = G.shape
    A = LinearOperator((p, p), lambda v: G.T @ (G @ v) / n + lam * v, dtype=G.dtype)
    return np.stack([cg(A, b, rtol=1e-10)[0] for b in B.T], axis=1)


def _w20_ours(G, B):
    return ff.solve(G, B, damping=1e-5, method="cg", preconditioner=None).x


def _w20_truth(G, B, lam=1e-5):
    return np.linalg.solve(G.T @ G / len(G) + lam * _eye(G.shape[1], G.dtype), B)


WORKLOADS = {
    "w1": Workload(
        "attribution scores: G (G'G + lambda I)^-1 T' (TRAK)",
        Op(
            "n x p x targets",
            lambda n, p, t: n * p * (p + 1) + p**3 / 3 + 2 * p * p * t + 2 * n * p * t,
            lambda n, p, t: n * p + t * p,
            lambda n, p, t: n * t,
        ),
        _scores_and(lambda n, p, t: (t, p)),
        _w1_ours,
        _w1_peer,
    ),
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
    "w3": Workload(
        "tiny systems, one in a hundred singular (NGBoost)",
        OPS["batched_solve"],
        _w3_inputs,
        _w3_ours,
        _w3_peer,
        truth=lambda M, g: np.array([np.linalg.pinv(m) @ v for m, v in zip(M, g, strict=True)]),
    ),
    "w4": Workload(
        "stochastic reconfiguration, centred, n < p (minSR)",
        OPS["solve"],
        _scores_and(lambda n, p: (n,)),
        _w4_ours,
        _w4_peer,
    ),
    "w5": Workload(
        "the same by eigendecomposition (SPRING)",
        OPS["solve"],
        _scores_and(lambda n, p: (n,)),
        _w5_ours,
        _w5_peer,
    ),
    "w6": Workload(
        "stochastic reconfiguration, p < n, diagonal x 1.02",
        OPS["solve"],
        _scores_and(lambda n, p: (p,)),
        _w6_ours,
        _w6_peer,
    ),
    "w7": Workload(
        "least squares on averaged outer products (energy natural gradient)",
        OPS["solve"],
        _scores_and(lambda n, p: (p,)),
        lambda J, g: ff.solve(J, g, damping=0.0).x,
        _w7_peer,
        truth=lambda J, g: np.linalg.solve(J.T @ J / len(J), g),
    ),
    "w8": Workload(
        "mean square gradient (EWC)",
        OPS["diag"],
        _scores_and(),
        lambda G: ff.ops.diag(G) / G.dtype.type(len(G)),
        lambda G: (G**2).mean(0),
    ),
    "w9": Workload(
        "EKFAC of a layer: factors, eigenbases, second moments, one step",
        Op(
            "n x d_in x d_out",
            lambda n, i, o: 3 * n * (i * i + o * o) + 2 * n * i * o + 9 * (i**3 + o**3),
            lambda n, i, o: n * (i + o) + i * o,
            lambda n, i, o: i * o,
        ),
        lambda normal, shape: (
            normal(*shape[:2]),
            normal(shape[0], shape[2]),
            normal(shape[2], shape[1]),
        ),
        _w9_ours,
        _w9_peer,
        truth=_w9_truth,
    ),
    "w10": Workload(
        "Cholesky factor of an inverse damped Gram matrix (GPTQ)",
        Op(
            "n x p",
            lambda n, p: n * p * (p + 1) + 4 * p**3 / 3,
            lambda n, p: n * p,
            lambda n, p: p * p,
        ),
        _scores_and(),
        _w10_ours,
        _w10_peer,
    ),
    "w11": Workload(
        "log-determinant for 20 dampings (Laplace)",
        Op(
            "n x p",
            lambda n, p: n * p * (p + 1) + len(DAMPINGS) * p**3 / 3,
            lambda n, p: n * p,
            lambda n, p: len(DAMPINGS),
        ),
        _scores_and(),
        _w11_ours,
        _w11_peer,
    ),
    "w12": Workload(
        "a window of gradients, four of them replaced one by one (M-FAC)",
        Op(
            "m x p",
            lambda m, p: m * p * (m + 1) + STEPS * (6 * m * p + m**3 / 3),
            lambda m, p: (1 + 3 * STEPS) * m * p,
            lambda m, p: m * p,
        ),
        _scores_and(lambda m, p: (STEPS, p), lambda m, p: (p,)),
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
        _scores_and(lambda n, p: (p,)),
        _w13_ours,
        _w13_peer,
    ),
    "w14": Workload(
        "covariance from outer products of scores: (S'S)^-1",
        OPS["syrk"],
        _scores_and(),
        _w14_ours,
        lambda S: np.linalg.inv(S.T @ S),
    ),
    "w15": Workload(
        "uncertainties of many ill-conditioned events, one in a hundred indefinite (GW forecasts)",
        Op(
            "events x p",
            lambda n, p: n * (p**3 / 3 + 2 * p**3),
            lambda n, p: n * p * p,
            lambda n, p: n * p,
        ),
        _w15_inputs,
        _w15_ours,
        _w15_peer,
    ),
    "w16": Workload(
        "influence by the closed form of DataInf",
        Op(
            "n x p x targets",
            lambda n, p, t: 4 * n * p * t,
            lambda n, p, t: n * p + t * p,
            lambda n, p, t: t * p,
        ),
        _scores_and(lambda n, p, t: (t, p)),
        _w16(ff.ops.matvec, ff.ops.rmatvec, _square_norms),
        _w16(lambda G, v: G @ v, lambda G, u: G.T @ u, _square_norms),
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
    "w18": Workload(
        "length of the step for 200 dampings",
        Op(
            "n x p",
            lambda n, p: n * p * (p + 1) + len(PATH) * p**3 / 3,
            lambda n, p: n * p,
            lambda n, p: len(PATH),
        ),
        _scores_and(lambda n, p: (p,)),
        _w18_ours,
        _w18_peer,
        gate=1e9,  # dampings down to 1e-6
    ),
    "w19": Workload(
        "gradients one at a time, then a step",
        OPS["solve"],
        _scores_and(lambda n, p: (p,)),
        _w19_ours,
        _w19_peer,
    ),
    "w20": Workload(
        "several right-hand sides by conjugate gradients",
        Op(
            "n x p x k",
            lambda n, p, k: 4 * n * p * k,
            lambda n, p, k: n * p + p * k,
            lambda n, p, k: p * k,
        ),
        _w20_inputs,
        _w20_ours,
        _w20_peer,
        truth=_w20_truth,
        gate=1e11,  # a residual of 1e-10 and a condition number of 1e5
    ),
}

for _name, _workload in WORKLOADS.items():
    OPS[_name] = _workload.cost

FULL = [
    Case("w1", "s", (20_000, 1024, 200)),
    Case("w2", "s", (128, 400_000, 50)),
    Case("w3", "d", (20_000, 5)),
    Case("w4", "z", (512, 20_000)),
    Case("w4", "s", (1024, 50_000)),
    Case("w5", "s", (512, 100_000)),
    Case("w6", "z", (4000, 1000)),
    Case("w7", "d", (900, 129)),
    Case("w7", "d", (1500, 300)),
    Case("w8", "s", (2048, 100_000)),
    Case("w9", "s", (4000, 256, 256)),
    Case("w9", "d", (2000, 192, 384)),
    Case("w10", "s", (16_384, 1024)),
    Case("w11", "d", (4000, 1000)),
    Case("w12", "s", (512, 100_000)),
    Case("w13", "s", (4000, 5700)),
    Case("w14", "d", (1_000_000, 20)),
    Case("w14", "d", (200_000, 100)),
    Case("w15", "d", (20_000, 11)),
    Case("w15", "d", (20_000, 15)),
    Case("w16", "s", (1000, 100_000, 20)),
    Case("w17", "d", (256, *AUTOENCODER)),
    Case("w17", "s", (512, *AUTOENCODER)),
    Case("w18", "d", (4000, 1000)),
    Case("w19", "d", (2000, 1000)),
    Case("w20", "d", (10_000, 1000, 8)),
]

QUICK = [
    Case("w1", "s", (500, 64, 8)),
    Case("w2", "s", (16, 2000, 10)),
    Case("w3", "d", (500, 5)),
    Case("w4", "z", (64, 500)),
    Case("w5", "s", (64, 500)),
    Case("w6", "z", (400, 50)),
    Case("w7", "d", (200, 29)),
    Case("w8", "s", (64, 2000)),
    Case("w9", "d", (200, 24, 32)),
    Case("w10", "s", (1000, 64)),
    Case("w11", "d", (400, 50)),
    Case("w12", "s", (32, 2000)),
    Case("w13", "s", (400, 100)),
    Case("w14", "d", (2000, 10)),
    Case("w15", "d", (300, 5)),
    Case("w16", "s", (100, 1000, 4)),
    Case("w17", "d", (64, 32, 16, 32)),
    Case("w18", "d", (200, 30)),
    Case("w19", "d", (100, 30)),
    Case("w20", "d", (400, 60, 4)),
]


def error(case, operands, result):
    """Norm-wise distance from the truth in double, in u."""
    workload = WORKLOADS[case.op]
    truth = (workload.truth or workload.peer)(*map(_in_double, operands))
    distance = np.linalg.norm(np.ravel(result - truth)) / np.linalg.norm(np.ravel(truth))
    return distance / (np.finfo(case.dtype_computed).eps / 2)


def _in_double(operand):
    if isinstance(operand, list):
        return [tuple(map(_in_double, pair)) for pair in operand]
    if isinstance(operand, int):  # a size
        return operand
    return operand.astype(np.complex128 if operand.dtype.kind == "c" else np.float64)
