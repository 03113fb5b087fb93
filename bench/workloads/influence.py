"""Which training samples a prediction rests on: TRAK, EKFAC, DataInf."""

import numpy as np

import fastfisher as ff

from ..cases import Op
from .workload import Workload, eye, scores_and

# W1: attribution scores (TRAK) ---------------------------------------------------------------


def _w1_peer(G, T, lam=1.0):
    p = G.shape[1]
    return (G @ np.linalg.inv(G.T @ G + lam * eye(p, G.dtype))) @ T.T


def _w1_ours(G, T, lam=1.0):
    n = len(G)
    return ff.ops.matvec(G, ff.solve(G, T.T, damping=lam / n).x) / n


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


# W16: influence by the closed form of DataInf --------------------------------------------------


def _w16(product, adjoint, norms):
    def influence(G, Q, lam=1.0):
        n, K = len(G), product(G, Q.T)
        K /= (lam + norms(G))[:, None]
        return (Q - adjoint(G, K).T / n) / lam

    return influence


def _square_norms(G):
    return np.einsum("np,np->n", G, G)


WORKLOADS = {
    "w1": Workload(
        "attribution scores: G (G'G + lambda I)^-1 T' (TRAK)",
        Op(
            "n x p x targets",
            lambda n, p, t: n * p * (p + 1) + p**3 / 3 + 2 * p * p * t + 2 * n * p * t,
            lambda n, p, t: n * p + t * p,
            lambda n, p, t: n * t,
        ),
        scores_and(lambda n, p, t: (t, p)),
        _w1_ours,
        _w1_peer,
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
    "w16": Workload(
        "influence by the closed form of DataInf",
        Op(
            "n x p x targets",
            lambda n, p, t: 4 * n * p * t,
            lambda n, p, t: n * p + t * p,
            lambda n, p, t: t * p,
        ),
        scores_and(lambda n, p, t: (t, p)),
        _w16(ff.ops.matvec, ff.ops.rmatvec, _square_norms),
        _w16(lambda G, v: G @ v, lambda G, u: G.T @ u, _square_norms),
    ),
}
