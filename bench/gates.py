"""The accuracy gate, the same for everybody: a contender that misses it has no time.

Errors are in units of u, the unit roundoff of the case's dtype, relative to what theory measures
them in: |G|'|G| for sums, ||A|| ||x|| + ||b|| for solves. References are formed in a wider type
where the size allows, and a whole matrix is checked by its product with a random vector of signs,
so that checking costs one order less than computing.
"""

import numpy as np

from . import workloads
from .cases import DAMPING

# The largest error that passes, in u, by the axes of the case's shape.
GATES = {
    "syrk": lambda n, p: n,  # the bound of a plain sum of n terms
    "gram": lambda n, p: p,
    "fvp": lambda n, p, k: n + p,
    "matvec": lambda n, p, k: p,
    "rmatvec": lambda n, p, k: n,
    "diag": lambda n, p: n,
    "convert": lambda n, p: 1,
    "trsm": lambda n, k: 30,
    "cholesky": lambda n: 30 * n,  # LAPACK's threshold
    "cho_solve": lambda n, k: 30,
    "solve": lambda n, p: 30,
    "batched_solve": lambda n, p: 30,  # for the worst system
    "metric_solve": lambda n, s, p: 30 + s,  # its matrix is a sum of s terms
    "block_syrk": lambda n, p, d: n,
    "block_cholesky": lambda n, d: 30 * d,  # of the worst block
    "layered_gram": lambda n, *widths: 2 * sum(widths),
}


def gate(case):
    """The largest error that passes for this case, in u."""
    if case.op in workloads.WORKLOADS:
        return workloads.WORKLOADS[case.op].gate
    return float(GATES[case.op](*case.shape))


_LARGE = 2_000_000  # elements; above it long double costs more than the benchmark
_CHUNK = 1 << 18  # elements: a block stays in cache between the steps of a check


def error(case, operands, result):
    """How far the result is from the truth, in u."""
    if not np.all(np.isfinite(result)):
        return float("inf")
    if case.op in workloads.WORKLOADS:
        return float(workloads.error(case, operands, result))
    dtype = case.dtype_computed
    u = float(np.finfo(dtype).eps) / 2
    ratio = _CHECKS[case.op](_Wide(case, dtype), case.shape, operands, result)
    return float(ratio / u)


class _Wide:
    """Products with a tall or wide matrix in higher precision, a block of rows at a time."""

    def __init__(self, case, dtype):
        double = np.finfo(dtype).bits == 64
        exact = double and case.input_bytes <= _LARGE * dtype.itemsize
        self.real = np.dtype(np.longdouble if exact else np.float64)
        self.dtype = np.result_type(self.real, 1j) if dtype.kind == "c" else self.real

    def __call__(self, a):
        return np.asarray(a).astype(self.dtype if np.iscomplexobj(a) else self.real, copy=False)

    def signs(self, n):
        return np.random.default_rng(n).choice([-1.0, 1.0], n).astype(self.real)

    def _blocks(self, G, absolute):
        step = max(1, _CHUNK // max(G.shape[1], 1))
        for start in range(0, len(G), step):
            rows = self(G[start : start + step])
            yield slice(start, start + step), np.abs(rows) if absolute else rows

    def times(self, G, v, absolute=False):
        """G v, or |G| v."""
        return np.concatenate([rows @ v for _, rows in self._blocks(G, absolute)])

    def adjoint_times(self, G, u, absolute=False):
        """G'u, or |G|'u."""
        return sum(rows.conj().T @ u[where] for where, rows in self._blocks(G, absolute))


def _syrk(wide, shape, operands, F):
    (G,), (_, p) = operands, shape
    v, ones = wide.signs(p), np.ones(p, wide.real)
    exact = wide.adjoint_times(G, wide.times(G, v))
    bound = wide.adjoint_times(G, wide.times(G, ones, absolute=True), absolute=True)
    return np.max(np.abs(wide(F) @ v - exact) / bound)


def _gram(wide, shape, operands, K):
    (G,), (n, _) = operands, shape
    v, ones = wide.signs(n), np.ones(n, wide.real)
    exact = wide.times(G, wide.adjoint_times(G, v))
    bound = wide.times(G, wide.adjoint_times(G, ones, absolute=True), absolute=True)
    return np.max(np.abs(wide(K) @ v - exact) / bound)


def _fvp(wide, shape, operands, y):
    G, v = operands
    exact = wide.adjoint_times(G, wide.times(G, wide(v)))
    size = wide.times(G, np.abs(wide(v)), absolute=True)
    bound = wide.adjoint_times(G, size, absolute=True)
    return np.max(np.abs(wide(y) - exact) / bound)


def _matvec(wide, shape, operands, y):
    G, v = operands
    bound = wide.times(G, np.abs(wide(v)), absolute=True)
    return np.max(np.abs(wide(y) - wide.times(G, wide(v))) / bound)


def _rmatvec(wide, shape, operands, y):
    G, u = operands
    bound = wide.adjoint_times(G, np.abs(wide(u)), absolute=True)
    return np.max(np.abs(wide(y) - wide.adjoint_times(G, wide(u))) / bound)


def _diag(wide, shape, operands, d):
    (G,), (n, p) = operands, shape
    step = max(1, _CHUNK // p)
    exact = sum(np.sum(wide(G[lo : lo + step]) ** 2, axis=0) for lo in range(0, n, step))
    return np.max(np.abs(wide(d) - exact) / exact)


def _convert(wide, shape, operands, a):
    exact = wide(operands[0])
    return np.max(np.abs(wide(a) - exact) / np.abs(exact))


def _trsm(wide, shape, operands, x):
    L, b = operands
    residual = wide(b) - wide(np.tril(L)) @ wide(x)
    return _backward(residual, np.linalg.norm(L, 2), x, b)


def _cholesky(wide, shape, operands, L):
    (A,), (n,) = operands, shape
    if np.any(np.triu(L, 1)):
        return np.inf
    v, L = wide.signs(n), wide(L)
    missing = wide(A) @ v + wide.real.type(DAMPING) * v - L @ (L.conj().T @ v)
    return _norm(missing) / _norm(A)


def _cho_solve(wide, shape, operands, x):
    (L, b), L_wide = operands, wide(operands[0])
    product = L_wide @ (L_wide.conj().T @ wide(x))
    return _backward(wide(b) - product, np.linalg.norm(L, 2) ** 2, x, b)


def _solve(wide, shape, operands, x):
    (G, coef), (n, _) = operands, shape
    b = wide.adjoint_times(G, wide(coef)) / n
    product = wide.adjoint_times(G, wide.times(G, wide(x))) / n + wide.real.type(DAMPING) * wide(x)
    # A few power steps bound ||F|| from below, which only makes the gate stricter.
    v = np.asarray(b, np.result_type(G.dtype, np.float64))
    for _ in range(3):
        v = v / _norm(v)
        v = (np.conj(G @ v) @ G).conj() / n
    return _backward(b - product, _norm(v) + DAMPING, x, b)


def _backward(residual, norm_A, x, b):
    columns = (np.asarray(a).reshape(len(a), -1).T for a in (residual, x, b))
    return max(
        _norm(r) / (norm_A * _norm(x_k) + _norm(b_k)) for r, x_k, b_k in zip(*columns, strict=True)
    )


def _batched_solve(wide, shape, operands, x):
    F, g = operands
    return _backward_batched(wide, F, g, x)


def _backward_batched(wide, F, g, x):
    residual = _norms(wide(g) - np.einsum("nij,nj->ni", wide(F), wide(x)))
    norm_F = _norms(F.reshape(len(F), -1))
    return np.max(residual / (norm_F * _norms(x) + _norms(g)))


def _metric_solve(wide, shape, operands, x):
    scores, g = operands
    a = wide(scores)
    M = a.swapaxes(1, 2) @ a / a.shape[1]
    np.einsum("nii->ni", M)[...] += DAMPING
    return _backward_batched(wide, M, g, x)


def _block_syrk(wide, shape, operands, F):
    (G, _), (n, p, d) = operands, shape
    v = wide.signs(p).reshape(-1, d)
    exact, bound = np.zeros(v.shape, wide.dtype), np.zeros(v.shape, wide.real)
    step = max(1, _CHUNK // p)
    for lo in range(0, n, step):
        blocks = wide(G[lo : lo + step]).reshape(-1, *v.shape)
        exact += np.einsum("nbi,nb->bi", blocks, np.einsum("nbi,bi->nb", blocks, v))
        sizes = np.abs(blocks)
        bound += np.einsum("nbi,nb->bi", sizes, sizes.sum(axis=2))
    return np.max(np.abs(np.einsum("bij,bj->bi", wide(F), v) - exact) / bound)


def _block_cholesky(wide, shape, operands, L):
    (A,), (_, d) = operands, shape
    if np.any(np.triu(L, 1)):
        return np.inf
    v, L = wide.signs(d), wide(L)
    product = np.einsum("bij,bj->bi", L, np.einsum("bji,j->bi", L, v))
    missing = wide(A) @ v + DAMPING * v - product
    return np.max(_norms(missing) / _norms(A.reshape(len(A), -1)))


def _layered_gram(wide, shape, operands, K):
    (layers,), (n, *_) = operands, shape
    rows = np.unique(np.linspace(0, n - 1, 4, dtype=int))
    exact = bound = 0
    for A, E in layers:
        A, E = wide(A), wide(E)
        exact = exact + (A[rows] @ A.T) * (E[rows] @ E.T)
        bound = bound + (np.abs(A[rows]) @ np.abs(A).T) * (np.abs(E[rows]) @ np.abs(E).T)
    return np.max(np.abs(wide(K)[rows] - exact) / bound)


def _norm(a):
    return float(np.linalg.norm(np.asarray(a, np.result_type(a, np.float64))))


def _norms(rows):
    return np.sqrt(np.sum(np.abs(rows.astype(np.result_type(rows, np.float64))) ** 2, axis=1))


_CHECKS = {
    "syrk": _syrk,
    "gram": _gram,
    "fvp": _fvp,
    "matvec": _matvec,
    "rmatvec": _rmatvec,
    "diag": _diag,
    "convert": _convert,
    "trsm": _trsm,
    "cholesky": _cholesky,
    "cho_solve": _cho_solve,
    "solve": _solve,
    "batched_solve": _batched_solve,
    "metric_solve": _metric_solve,
    "block_syrk": _block_syrk,
    "block_cholesky": _block_cholesky,
    "layered_gram": _layered_gram,
}
