"""PyTorch on the CPU as a contender: NumPy arrays in and out, sharing their memory."""

import importlib.util

import numpy as np

available = importlib.util.find_spec("torch") is not None


def _from(*arrays):
    import torch

    tensors = [torch.from_numpy(a) for a in arrays]
    return tensors[0] if len(tensors) == 1 else tensors


def version():
    """Its version and threads, in this process."""
    import torch

    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def _syrk(G):
    T = _from(G)
    return (T.mH @ T).numpy()


def _gram(G):
    T = _from(G)
    return (T @ T.mH).numpy()


def _matvec(G, v):
    T, v = _from(G, v)
    return (T @ v).numpy()


def _rmatvec(G, u):
    T, u = _from(G, u)
    return (T.mT @ u).numpy()


def _fvp(G, v):
    T, v = _from(G, v)
    return (T.mT @ (T @ v)).numpy()


def _diag(G):
    return _from(G).square().sum(0).numpy()


def _convert(a):
    return _from(a).float().numpy()


def _cholesky(A, damping):
    import torch

    T = _from(A).clone()
    T.diagonal().add_(damping)
    return torch.linalg.cholesky(T).numpy()


def _trsm(L, b):
    import torch

    T, b = _from(L, b)
    x = torch.linalg.solve_triangular(T, b.reshape(len(b), -1), upper=False)
    return x.reshape(b.shape).numpy()


def _cho_solve(L, b):
    import torch

    T, b = _from(L, b)
    return torch.cholesky_solve(b.reshape(len(b), -1), T).reshape(b.shape).numpy()


def _solve(G, coef, damping):
    import torch

    T, coef = _from(G, coef)
    n, p = T.shape
    small = T.mH @ T if p <= n else T @ T.mH
    small.diagonal().add_(n * damping)
    L = torch.linalg.cholesky(small)
    if p <= n:
        return torch.cholesky_solve((T.mH @ coef)[:, None], L)[:, 0].numpy()
    return np.asarray(T.mH @ torch.cholesky_solve(coef[:, None], L)[:, 0])


def _batched_solve(F, g):
    import torch

    F, g = _from(F, g)
    return torch.linalg.solve(F, g[..., None])[..., 0].numpy()


def _metric_solve(scores, g, damping):
    import torch

    a, g = _from(scores, g)
    M = a.mT @ a / a.shape[1]
    M.diagonal(dim1=1, dim2=2).add_(damping)
    return torch.cholesky_solve(g[..., None], torch.linalg.cholesky(M))[..., 0].numpy()


def _block_syrk(G, d):
    blocks = _from(G).reshape(len(G), -1, d).transpose(0, 1)
    return (blocks.mT @ blocks).numpy()


def _block_cholesky(A, damping):
    import torch

    T = _from(A).clone()
    T.diagonal(dim1=1, dim2=2).add_(damping)
    return torch.linalg.cholesky(T).numpy()


def _layered_gram(layers):
    total = 0
    for A, E in layers:
        A, E = _from(A, E)
        total = total + (A @ A.mT) * (E @ E.mT)
    return total.numpy()


ROUTINES = {
    "syrk": _syrk,
    "gram": _gram,
    "matvec": _matvec,
    "rmatvec": _rmatvec,
    "fvp": _fvp,
    "diag": _diag,
    "convert": _convert,
    "cholesky": _cholesky,
    "trsm": _trsm,
    "cho_solve": _cho_solve,
    "solve": _solve,
    "batched_solve": _batched_solve,
    "metric_solve": _metric_solve,
    "block_syrk": _block_syrk,
    "block_cholesky": _block_cholesky,
    "layered_gram": _layered_gram,
}
