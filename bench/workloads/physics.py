"""Stochastic reconfiguration, differential equations, forecasts of detections."""

import numpy as np

import fastfisher as ff

from ..cases import OPS, Op
from .workload import Workload, eye, scores_and

# W4, W5: stochastic reconfiguration with more parameters than samples --------------------------


def _w4_peer(O, e, lam=1e-3):
    n = len(O)
    O = (O - O.mean(0)) / np.sqrt(n)
    T = O @ O.conj().T
    return O.conj().T @ np.linalg.solve(T + lam * eye(n, T.dtype), (e - e.mean()) / np.sqrt(n))


def _w4_ours(O, e, lam=1e-3):
    return ff.solve(O, coef=e, center=True, damping=lam).x


def _w5_peer(O, r, lam=1e-3):
    n = len(O)
    w, V = np.linalg.eigh(O @ O.T / n + lam * eye(n, O.dtype))
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


# W21: a dual step as published, which solves with all columns of the scores ----------------------


def _w21_inputs(normal, shape):
    """A gradient beside the scores, which need not be a combination of them."""
    return normal(*shape), normal(shape[1])


def _w21_peer(O, v, lam=1.0):
    """Algorithm 1 of Chen, Xie and Wang 2023."""
    from scipy.linalg import cholesky, solve_triangular

    S = O / np.sqrt(len(O))
    L = cholesky(S @ S.T + lam * eye(len(S), S.dtype), lower=True)
    Q = solve_triangular(L, S, lower=True)
    return (v - Q.T @ (Q @ v)) / lam


def _w21_ours(O, v, lam=1.0):
    return ff.solve(O, v, damping=lam).x


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
    X = ff.ops.block_solve(L, np.tile(eye(p, F.dtype), n).T).reshape(n, p, p)
    variances, information = np.einsum("nii->ni", X).copy(), np.einsum("nii->ni", F)
    for t in np.flatnonzero(info):
        variances[t] = np.linalg.inv(F[t]).diagonal()
    return np.sqrt(np.abs(variances * information))


WORKLOADS = {
    "w4": Workload(
        "stochastic reconfiguration, centred, n < p (minSR)",
        OPS["solve"],
        scores_and(lambda n, p: (n,)),
        _w4_ours,
        _w4_peer,
    ),
    "w5": Workload(
        "the same by eigendecomposition (SPRING)",
        OPS["solve"],
        scores_and(lambda n, p: (n,)),
        _w5_ours,
        _w5_peer,
    ),
    "w6": Workload(
        "stochastic reconfiguration, p < n, diagonal x 1.02",
        OPS["solve"],
        scores_and(lambda n, p: (p,)),
        _w6_ours,
        _w6_peer,
    ),
    "w7": Workload(
        "least squares on averaged outer products (energy natural gradient)",
        OPS["solve"],
        scores_and(lambda n, p: (p,)),
        lambda J, g: ff.solve(J, g, damping=0.0).x,
        _w7_peer,
        truth=lambda J, g: np.linalg.solve(J.T @ J / len(J), g),
    ),
    "w21": Workload(
        "dual step through the Cholesky factor of all scores (arXiv:2310.17556)",
        OPS["solve"],
        _w21_inputs,
        _w21_ours,
        _w21_peer,
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
}
