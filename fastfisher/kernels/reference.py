"""Every op in a few lines of NumPy: the oracle of the kernels and the fallback of the table.

Same names, arguments and effects as the kernels in cpu/; README.md is the contract.
"""

import numpy as np

__all__ = [
    "batched_solve",
    "cholesky",
    "diag",
    "fvp",
    "gram",
    "layered_gram",
    "matvec",
    "mirror",
    "rmatvec",
    "scan",
    "solve_lower",
    "solve_lower_adjoint",
    "syrk",
]


def _shifted(a, shift, dtype):
    a = a.astype(dtype)
    return a - shift if shift.size else a


def _add_lower(c, product):
    lower = np.tril_indices(len(c))
    c[lower] += product[lower]


def syrk(c, a, scale, shift):
    a = _shifted(a, shift, c.dtype)
    if scale.size:
        a = a * scale[:, np.newaxis]
    _add_lower(c, a.conj().T @ a)


def gram(c, a, lo, hi, weight, shift):
    a = _shifted(a, shift, c.dtype)[:, lo:hi]
    scaled = a * weight[lo:hi] if weight.size else a
    _add_lower(c, scaled @ a.conj().T)


def mirror(c):
    lower = np.tril(c, -1)
    c[:] = lower + lower.conj().T + np.diag(c.diagonal().real)


def matvec(y, a, v, shift):
    y[:] = v.astype(y.dtype) @ _shifted(a, shift, y.dtype).T


def rmatvec(y, a, u, shift):
    y += u.astype(y.dtype) @ _shifted(a, shift, y.dtype).conj()


def fvp(y, a, v, weights, shift):
    t = np.empty((len(v), len(a)), y.dtype)
    matvec(t, a, v, shift)
    rmatvec(y, a, t * weights if weights.size else t, shift)


def diag(y, a, weights, shift):
    squares = np.abs(_shifted(a, shift, np.result_type(a.dtype, y.dtype))) ** 2
    y += weights @ squares if weights.size else squares.sum(axis=0)


def scan(bad, a):
    finite = np.isfinite(a)
    bad[:] = ~finite.all(axis=1)
    return float(np.abs(np.where(finite, a, 0).view(a.real.dtype)).max(initial=0.0))


def cholesky(a):
    for j in range(len(a)):
        pivot = a[j, j].real - np.sum(np.abs(a[j, :j]) ** 2)
        if not (pivot > 0 and np.isfinite(pivot)):
            return j + 1
        a[j, j] = np.sqrt(pivot)
        a[j + 1 :, j] = (a[j + 1 :, j] - a[j + 1 :, :j] @ a[j, :j].conj()) / a[j, j].real
    return 0


def solve_lower(l, x, start=0):
    for i in range(start, len(l)):
        x[:, i] = (x[:, i] - x[:, start:i] @ l[i, start:i]) / l[i, i].real


def solve_lower_adjoint(l, x):
    for i in reversed(range(len(l))):
        x[:, i] = (x[:, i] - x[:, i + 1 :] @ l[i + 1 :, i].conj()) / l[i, i].real


def batched_solve(x, info, f, g, damping):
    for t in range(len(g)):
        a = f[t].copy()
        a[np.diag_indices(len(a))] += damping[t]
        info[t] = cholesky(a)
        if info[t] == 0:
            x[t] = g[t]
            solve_lower(a, x[t : t + 1])
            solve_lower_adjoint(a, x[t : t + 1])
            if not np.isfinite(x[t]).all():
                info[t] = -1
        if info[t]:
            x[t] = np.nan


def layered_gram(c, a, e, tokens):
    n = len(c)
    inputs = a.astype(c.dtype) @ a.conj().T.astype(c.dtype)
    outputs = e.astype(c.dtype) @ e.conj().T.astype(c.dtype)
    pairs = (inputs * outputs).reshape(n, tokens, n, tokens)
    _add_lower(c, pairs.sum(axis=(1, 3)))
