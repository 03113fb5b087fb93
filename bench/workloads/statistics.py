"""Estimates and their uncertainty: boosting, evidence, covariances, paths of dampings."""

import numpy as np

import fastfisher as ff

from ..cases import OPS, Op
from .workload import Workload, eye, scores_and

# W3: many tiny systems, some of them singular (natural gradient boosting) ----------------------


def _w3_inputs(normal, shape):
    n, p = shape
    B = normal(n, p, p)
    M = B @ B.swapaxes(1, 2) / p + eye(p, B.dtype)
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


# W11: the evidence along a path of dampings (Laplace) ------------------------------------------


DAMPINGS = np.logspace(-4, 1, 20)


def _w11_peer(G):
    F, one = G.T @ G / len(G), eye(G.shape[1], G.dtype)
    return np.array([np.linalg.slogdet(F + lam * one)[1] for lam in DAMPINGS])


def _w11_ours(G):
    F = ff.DenseFisher(G.shape[1], dtype=G.dtype).update(G)
    return np.array([F.factor(damping=lam).logdet() for lam in DAMPINGS])


# W14: covariance of a maximum likelihood estimate (outer products of scores) -------------------


def _w14_ours(S):
    F = ff.DenseFisher(S.shape[1], dtype=S.dtype).update(S)
    return F.factor(damping=0.0).inv_quad(eye(S.shape[1], S.dtype)) / F.weight


# W18: the step along a path of 200 dampings ---------------------------------------------------


PATH = np.logspace(-6, 1, 200)


def _w18_peer(G, g):
    from scipy.linalg import cho_factor, cho_solve

    F, norms = G.T @ G / len(G), np.empty(len(PATH), G.dtype)
    for i, lam in enumerate(PATH.astype(G.dtype)):
        A = F + lam * eye(len(g), G.dtype)
        norms[i] = np.linalg.norm(cho_solve(cho_factor(A, overwrite_a=True), g))
    return norms


def _w18_ours(G, g):
    return ff.DenseFisher(len(g), dtype=G.dtype).update(G).path(g, PATH).norms


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
    return np.linalg.solve(G.T @ G / len(G) + lam * eye(G.shape[1], G.dtype), B)


WORKLOADS = {
    "w3": Workload(
        "tiny systems, one in a hundred singular (NGBoost)",
        OPS["batched_solve"],
        _w3_inputs,
        _w3_ours,
        _w3_peer,
        truth=lambda M, g: np.array([np.linalg.pinv(m) @ v for m, v in zip(M, g, strict=True)]),
    ),
    "w11": Workload(
        "log-determinant for 20 dampings (Laplace)",
        Op(
            "n x p",
            lambda n, p: n * p * (p + 1) + len(DAMPINGS) * p**3 / 3,
            lambda n, p: n * p,
            lambda n, p: len(DAMPINGS),
        ),
        scores_and(),
        _w11_ours,
        _w11_peer,
    ),
    "w14": Workload(
        "covariance from outer products of scores: (S'S)^-1",
        OPS["syrk"],
        scores_and(),
        _w14_ours,
        lambda S: np.linalg.inv(S.T @ S),
    ),
    "w18": Workload(
        "length of the step for 200 dampings",
        Op(
            "n x p",
            lambda n, p: n * p * (p + 1) + len(PATH) * p**3 / 3,
            lambda n, p: n * p,
            lambda n, p: len(PATH),
        ),
        scores_and(lambda n, p: (p,)),
        _w18_ours,
        _w18_peer,
        gate=1e9,  # dampings down to 1e-6
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
