"""Stacks (B, d, d) of Hermitian matrices in double: products, Cholesky, substitution, spectra.

Orders up to SMALL go through kernels that work across matrices; larger ones one by one.
"""

import math

import numpy as np

from ..errors import InputError
from ..ops.factorizations import factor, solve_factored
from ..planning import choose
from ..solvers.certificate import row_norms
from ..solvers.factored import VANISHED
from ..solvers.ladder import HELD, current_ladder, escalation

__all__ = [
    "SMALL",
    "apply",
    "climb",
    "eigen",
    "factor_stack",
    "finite",
    "inverse_diagonal",
    "least",
    "lengths",
    "norms",
    "pieces",
    "smallest_pivots",
    "solve_lower",
    "solve_lower_adjoint",
    "solve_stack",
    "spectra",
    "through",
]

SMALL = 128  # orders up to here fit the cache a vector of matrices at a time
PIECE_BYTES = 32 << 20  # of a copy of some matrices
LEAST, MOST = 1e-280, 1e280  # squares in between are exact enough
STEPS = 3
NOISE = 16  # eps: sums of thousands of products of a singular matrix stay below NOISE + 2 d
WHOLE = 64  # matrices per task of the kernels


def pieces(count, d, itemsize):
    """(lo, hi) over a stack, so that so many matrices make a small copy."""
    step = PIECE_BYTES // max(d * d * itemsize, 1)
    step = step // WHOLE * WHOLE or max(step, 1)
    for lo in range(0, count, step):
        yield lo, min(lo + step, count)


def apply(A, v):
    """A_b v_b for v (B, d, k)."""
    return np.matmul(A, v)


def through(operation, columns, d, rows, out):
    """Put what `operation` makes of x (B, d, k), some columns of rows (k, p), into out (k, p)."""
    k = len(rows)
    x = operation(rows[:, columns].reshape(k, -1, d).transpose(1, 2, 0))
    out[:, columns] = x.transpose(2, 0, 1).reshape(k, -1)


def factor_stack(A, added):
    """Lower factors of A_b + D_b in place; `added` broadcasts to the diagonals (B, d).

    Returns info (B,), 0 or the failing order; failed matrices are NaN. With D_b = 0 a matrix fails,
    at its weakest pivot, whose smallest eigenvalue is noise once the diagonal is scaled to ones, or
    where an element of its diagonal has lost digits to underflow.
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
    if not np.all(added):
        free = np.flatnonzero((np.zeros((blocks, 1)) + added == 0).all(axis=1) & (info == 0))
        L = A if len(free) == blocks else A[free]
        pivots = np.einsum("bii->bi", L).real ** 2 / damped[free]
        weakest = np.argmin(pivots, axis=1)
        noise = least(L, damped[free], weakest) < (NOISE + 2 * d) * np.finfo(np.float64).eps
        info[free[noise]] = weakest[noise] + 1
        lowest = damped[free].argmin(axis=1)
        vanished = damped[free, lowest] < VANISHED
        info[free[vanished]] = lowest[vanished] + 1
    A[info > 0] = np.nan
    return info


def climb(L, info, added, again):
    """Once more, with more damping, those that failed (info > 0), as the ladder in force allows.

    L and info in place, ``again(indices)`` copies F_b; returns what was added to each (B,).
    """
    ladder, extra = current_ladder(), np.zeros(len(L))
    d = L.shape[1]
    added = np.broadcast_to(added, (len(L), d))
    for j in range(1, (ladder.escalations if ladder else 0) + 1):
        failed = np.flatnonzero(info > 0)
        if not failed.size:
            break
        A = again(failed)
        size = (np.einsum("bii->bi", A).real + added[failed]).max(axis=1)
        more = escalation(j, d, size)
        here = factor_stack(A, added[failed] + more[:, np.newaxis])
        held = smallest_pivots(A) >= HELD * more
        good = (here == 0) & (held | (j == ladder.escalations))
        L[failed[good]], info[failed[good]], extra[failed[good]] = A[good], 0, more[good]
    return extra


def smallest_pivots(L):
    """The smallest squared diagonal element of each factor."""
    return np.einsum("bii->bi", L).real.min(axis=1, initial=np.inf) ** 2


def least(L, diagonal, start):
    """Smallest eigenvalues of L L' scaled by `diagonal` from both sides, from above: a few steps of
    inverse iteration from unit vectors `start`."""
    blocks, d, _ = L.shape
    roots = np.sqrt(diagonal)
    y = np.zeros((blocks, d), L.dtype)
    y[np.arange(blocks), start] = 1
    size = np.ones(blocks)
    for _ in range(STEPS):
        x = (roots * (y / size[:, np.newaxis])).reshape(1, -1)
        y = roots * solve_stack(L, x).reshape(blocks, d)
        size = lengths(y)
    return 1 / size


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


def finite(v):
    """Mask (B,) of the items of v (B, ...) without NaN and Inf."""
    # Sums along short axes are many times faster than `all` is.
    rows = _flat(v)
    mask = np.isfinite(np.einsum("bi->b", rows))
    doubtful = np.flatnonzero(~mask)
    mask[doubtful] = np.isfinite(rows[doubtful]).all(axis=1)
    return mask


def lengths(rows):
    """2-norms of many short rows, without overflow."""
    squares = _squares(rows)
    wild = np.flatnonzero(~((squares > LEAST) & (squares < MOST)))
    out = np.sqrt(squares)
    out[wild] = row_norms(rows[wild])
    return out


def norms(A):
    """2-norms (B,) of positive semidefinite matrices from below: |A|_F^2 / trace(A)."""
    trace = np.einsum("bii->b", A).real
    safe = np.where(trace > 0, trace, 1.0)
    squares = _squares(_flat(A))
    with np.errstate(invalid="ignore"):  # matrices that are not finite have no norm
        out = squares / safe
        wild = np.flatnonzero(~((squares > LEAST) & (squares < MOST)))
        scaled = A[wild] / safe[wild, np.newaxis, np.newaxis]
        out[wild] = _squares(_flat(scaled)) * safe[wild]
    return out


def _flat(v):
    return v.reshape(len(v), math.prod(v.shape[1:]))


def _squares(rows):
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if rows.dtype.kind == "c":
            return np.einsum("bi,bi->b", rows, rows.conj()).real
        return np.einsum("bi,bi->b", rows, rows)


def spectra(A):
    """Ascending eigenvalues (B, d); NaN for matrices that are not finite."""
    bad = ~finite(A)
    values = np.linalg.eigvalsh(np.where(bad[:, np.newaxis, np.newaxis], 0, A) if bad.any() else A)
    values[bad] = np.nan
    return values


def eigen(A):
    """Ascending eigenvalues (B, d), those that are rounding as 0, and eigenvectors (B, d, d)."""
    if not finite(A).all():
        raise InputError("F is not finite; the sums hold NaN or overflowed")
    values, vectors = np.linalg.eigh(A)
    noise = NOISE * values.shape[1] * np.finfo(np.float64).eps * values[:, -1:]
    values[values <= noise] = 0
    return values, vectors
