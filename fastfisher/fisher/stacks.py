"""Stacks (B, d, d) of Hermitian matrices in double: products, Cholesky, substitution, spectra.

Orders up to SMALL go through kernels that work across matrices; larger ones one by one.
"""

import numpy as np

from ..ops.factorizations import factor, solve_factored
from ..planning import choose
from ..solvers.certificate import row_norms
from ..solvers.factored import SINGULAR

__all__ = [
    "SMALL",
    "apply",
    "factor_stack",
    "inverse_diagonal",
    "norms",
    "pieces",
    "solve_lower",
    "solve_lower_adjoint",
    "solve_stack",
    "spectra",
]

SMALL = 128  # orders up to here fit the cache a vector of matrices at a time
PIECE_BYTES = 32 << 20  # of a copy of some matrices
POWER_STEPS = 2
WHOLE = 64  # matrices per task of the kernels


def pieces(count, d, itemsize):
    """(lo, hi) over a stack, so that so many matrices make a small copy."""
    step = PIECE_BYTES // max(d * d * itemsize, 1)
    step = max(step // WHOLE * WHOLE, 1)
    for lo in range(0, count, step):
        yield lo, min(lo + step, count)


def apply(A, v):
    """A_b v_b for v (B, d, k)."""
    return np.matmul(A, v)


def factor_stack(A, added):
    """Lower factors of A_b + D_b in place; `added` broadcasts to the diagonals (B, d).

    Returns info (B,), 0 or the failing order; failed matrices are NaN. With D_b = 0 a pivot that is
    rounding noise beside its diagonal element fails too.
    """
    blocks, d, _ = A.shape
    diagonal = np.einsum("bii->bi", A)
    diagonal += added
    damped = diagonal.real.copy()
    info = np.zeros(blocks, np.int32)
    if not A.size:
        return info
    if d <= SMALL:
        choose("block_cholesky", d, A.dtype).load()(A, info)
    else:
        for b in range(blocks):
            info[b] = factor(A[b])
    free = ~np.broadcast_to(np.asarray(added) != 0, damped.shape).any(axis=1) & (info == 0)
    if free.any():
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = diagonal.real**2 / damped
        noise = shares < SINGULAR * d * np.finfo(np.float64).eps
        noise[~free] = False
        found = noise.any(axis=1)
        info[found] = np.argmax(noise[found], axis=1) + 1
    A[info > 0] = np.nan
    return info


def solve_stack(L, x):
    """x_b <- (L_b L_b')^-1 x_b in place, for rows x (k, B d), C-ordered."""
    blocks, d, _ = L.shape
    if d <= SMALL:
        choose("block_solve", d, L.dtype).load()(L, x)
        return x
    for b in range(blocks):
        part = np.array(x[:, b * d : (b + 1) * d])
        solve_factored(L[b], part)
        x[:, b * d : (b + 1) * d] = part
    return x


def solve_lower(L, x):
    """x_b <- L_b^-1 x_b in place, for x (B, d, k)."""
    for j in range(L.shape[1]):
        x[:, j] -= np.einsum("bi,bik->bk", L[:, j, :j], x[:, :j])
        x[:, j] /= L[:, j, j, np.newaxis]
    return x


def solve_lower_adjoint(L, x):
    """x_b <- L_b'^-1 x_b in place, for x (B, d, k)."""
    for j in reversed(range(L.shape[1])):
        x[:, j] /= L[:, j, j, np.newaxis]
        x[:, :j] -= L[:, j, :j, np.newaxis].conj() * x[:, j, np.newaxis]
    return x


def inverse_diagonal(L):
    """Diagonals of (L_b L_b')^-1, (B, d): column sums of squares of L^-1 (docs/math.md Q2)."""
    blocks, d, _ = L.shape
    out = np.empty((blocks, d))
    step = max(PIECE_BYTES // (8 * L.itemsize * d * d), 1)
    for lo in range(0, blocks, step):
        part = L[lo : lo + step]
        unit = np.zeros(part.shape, L.dtype)
        np.einsum("bii->bi", unit)[...] = 1
        out[lo : lo + step] = np.einsum("bij,bij->bj", solve_lower(part, unit), unit.conj()).real
    return out


def norms(A):
    """2-norms (B,) of positive semidefinite matrices, from below, by a few power steps."""
    blocks, d, _ = A.shape
    if not A.size:
        return np.zeros(blocks)
    diagonal = np.einsum("bii->bi", A).real
    x = np.zeros((blocks, d), A.dtype)
    x[np.arange(blocks), np.argmax(diagonal, axis=1)] = 1
    norm = diagonal.max(axis=1)
    for _ in range(POWER_STEPS):
        y = apply(A, x[..., np.newaxis])[..., 0]
        size = row_norms(y)
        norm = np.fmax(norm, size)
        x = y / np.where(size > 0, size, 1.0)[:, np.newaxis]
    return norm


def spectra(A):
    """Ascending eigenvalues (B, d); NaN for matrices that are not finite."""
    bad = ~np.isfinite(A).all(axis=(1, 2))
    values = np.linalg.eigvalsh(np.where(bad[:, np.newaxis, np.newaxis], 0, A) if bad.any() else A)
    values[bad] = np.nan
    return values
