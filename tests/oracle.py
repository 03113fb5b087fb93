"""The oracle: what every result must agree with, in plain NumPy at double precision or better.

Nothing here imports the package under test. Inputs are widened to float64/complex128, or with
``precise=True`` to longdouble/clongdouble (64 significant bits on x86-64, no BLAS, so small sizes
only). ``'`` is the conjugate transpose; F = G' diag(w) G / sum(w). Formula ids: docs/math.md.
"""

import numpy as np


def wide(a, precise=False):
    """A copy in the widest (or the double) real or complex type."""
    a = np.asarray(a)
    if a.dtype.kind == "c":
        return a.astype(np.clongdouble if precise else np.complex128)
    return a.astype(np.longdouble if precise else np.float64)


def ct(a):
    """Conjugate transpose of a matrix, or of each matrix of a stack."""
    return a.conj().swapaxes(-1, -2)


def _weights(n, weights, precise=False):
    real = np.longdouble if precise else np.float64
    return np.ones(n, real) if weights is None else np.asarray(weights).astype(real)


# Raw operations ------------------------------------------------------------------------------


def syrk(G, weights=None, precise=False):
    """sum_n w_n conj(G_nk) G_nl, the raw sum, shape (p, p)."""
    G = wide(G, precise)
    w = _weights(len(G), weights, precise)
    return ct(G) @ (w[:, None] * G)


def syrk_bound(G, weights=None):
    """|G|' diag(w) |G|, what the error of a syrk is measured in."""
    return syrk(np.abs(wide(G)), weights)


def gram(G, weights=None, precise=False):
    """sqrt(w_i) G_i G_j' sqrt(w_j), shape (n, n)."""
    G = wide(G, precise)
    root = np.sqrt(_weights(len(G), weights, precise))
    return (root[:, None] * G) @ ct(root[:, None] * G)


def gram_bound(G, weights=None):
    return gram(np.abs(wide(G)), weights)


def matvec(G, v, precise=False):
    return wide(G, precise) @ wide(v, precise)


def rmatvec(G, u, precise=False):
    return ct(wide(G, precise)) @ wide(u, precise)


def fvp(G, v, weights=None, precise=False):
    """G' (w o (G v)), the raw sum; v is (p,) or (p, k)."""
    Gv = matvec(G, v, precise)
    w = _weights(len(Gv), weights, precise)
    return rmatvec(G, w.reshape(-1, *[1] * (Gv.ndim - 1)) * Gv, precise)


def fvp_bound(G, v, weights=None):
    return fvp(np.abs(wide(G)), np.abs(wide(v)), weights)


def diag(G, weights=None, precise=False):
    """sum_n w_n |G_nk|^2, shape (p,), real."""
    G = wide(G, precise)
    w = _weights(len(G), weights, precise)
    return (w[:, None] * (G.real**2 + G.imag**2)).sum(axis=0)


# The Fisher and its solves -------------------------------------------------------------------


def scaled_rows(G, weights=None, center=False, precise=False):
    """S with F = S'S: rows sqrt(w / sum w) (G - weighted mean row if centred). F5, F7, F8."""
    G = wide(G, precise)
    w = _weights(len(G), weights, precise)
    share = w / w.sum() if w.sum() > 0 else w
    rows = G - (share[:, None] * G).sum(axis=0) if center else G
    return np.sqrt(share)[:, None] * rows


def fisher(G, weights=None, center=False, precise=False):
    S = scaled_rows(G, weights, center, precise)
    return ct(S) @ S


def mean_gradient(G, weights=None, precise=False):
    """g = G'w / sum(w): for complex scores the conjugate of the mean row."""
    G = wide(G, precise)
    w = _weights(len(G), weights, precise)
    return ct(G) @ w.astype(G.dtype) / w.sum()


def coef_rhs(G, coef, weights=None, center=False, precise=False):
    """b = rows'(w o coef) / sum(w), the rows centred where asked; coef is (n,) or (n, k)."""
    S = scaled_rows(G, weights, center, precise)
    w = _weights(len(S), weights, precise)
    f = wide(coef, precise)
    root = np.sqrt(w / w.sum()).reshape(-1, *[1] * (f.ndim - 1))
    return ct(S) @ (root * f)


def damped_solve(F, b, damping):
    """(F + damping I)^-1 b through the eigenvalues, so singular F is fine for damping > 0."""
    F, b = wide(F), wide(b)
    spectrum, V = np.linalg.eigh(F)
    c = ct(V) @ b
    scale = (np.maximum(spectrum, 0) + damping).reshape(-1, *[1] * (c.ndim - 1))
    return V @ (c / scale)


def dual_solve(G, b, damping, weights=None, center=False):
    """D2, Woodbury: x = (b - S'(SS' + damping I)^-1 S b) / damping."""
    S, b = scaled_rows(G, weights, center), wide(b)
    B = S @ ct(S) + damping * np.eye(len(S))
    return (b - ct(S) @ np.linalg.solve(B, S @ b)) / damping


def dual_coef(G, coef, damping, weights=None, center=False):
    """D3, push-through: x = S'(SS' + damping I)^-1 f for b = S'f, without cancellation."""
    S, f = scaled_rows(G, weights, center), wide(coef)
    w = _weights(len(S), weights)
    root = np.sqrt(w / w.sum()).reshape(-1, *[1] * (f.ndim - 1))
    return ct(S) @ np.linalg.solve(S @ ct(S) + damping * np.eye(len(S)), root * f)


# Factorisations ------------------------------------------------------------------------------


def hermitian(A, precise=False):
    """The matrix that the lower triangle and the real part of the diagonal describe."""
    A = wide(A, precise)
    strict = np.tril(A, -1)
    return strict + ct(strict) + np.diag(np.diagonal(A).real)


def damped(A, damping=0.0):
    """A + damping I from the lower triangle of A."""
    A = hermitian(A)
    return A + damping * np.eye(len(A))


def cholesky(A, damping=0.0):
    return np.linalg.cholesky(damped(A, damping))


def failing_pivot(A, damping=0.0):
    """LAPACK's info: 0, or the 1-based order of the first pivot that is not positive (or NaN)."""
    R = damped(A, damping)
    for j in range(len(R)):
        if not R[j, j].real > 0 or not np.isfinite(R[j, j].real):
            return j + 1
        column = R[j + 1 :, j] / R[j, j].real
        R[j + 1 :, j + 1 :] -= np.outer(column, R[j + 1 :, j].conj())
    return 0


def cho_solve(L, b):
    """(L L')^-1 b, from the lower triangle of L."""
    L, b = np.tril(wide(L)), wide(b)
    return np.linalg.solve(ct(L), np.linalg.solve(L, b))


def batched_solve(F, g, damping=0.0):
    """x_i = (F_i + damping_i I)^-1 g_i; NaN and the failing order where a system fails."""
    n = len(F)
    shift = np.broadcast_to(damping, (n,))
    x = np.full(g.shape, np.nan, wide(np.result_type(F, g).type(0)).dtype)
    info = np.array([failing_pivot(A, s) for A, s in zip(F, shift, strict=True)], np.int32)
    for i in np.flatnonzero(info == 0):
        x[i] = np.linalg.solve(damped(F[i], shift[i]), wide(g[i]))
    return x, info.reshape(n)


# Layered scores ------------------------------------------------------------------------------


def layer_scores(layers, precise=False):
    """Explicit rows: per layer sum_t kron(e_nt, a_nt), the layers side by side. L1, L2."""
    blocks = []
    for A, E in layers:
        A, E = wide(A, precise), wide(E, precise)
        tokens = "nto,nti->noi" if A.ndim == 3 else "no,ni->noi"
        blocks.append(np.einsum(tokens, E, A).reshape(len(A), A.shape[-1] * E.shape[-1]))
    return np.concatenate(blocks, axis=1)


def layered_gram(layers, precise=False):
    """K_ij = <row i, row j> of the explicit per-sample gradients, shape (n, n)."""
    J = layer_scores(layers, precise)
    return J @ ct(J)


def layered_gram_bound(layers):
    """The same sum with absolute values inside, tokens included."""
    return layered_gram([(np.abs(wide(A)), np.abs(wide(E))) for A, E in layers])
