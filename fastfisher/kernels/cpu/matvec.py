"""Products with few vectors, which are rows: A v, A'u and the fused A'(w o (A v)).

Sums over samples are cut into blocks of BLOCK rows, sums along a row into chunks. Block and chunk
sums are added in double, in order, each with its rounding error kept (two-sum).
"""

import numpy as np

from .jit import driver, kernel
from .parallel import for_each

__all__ = ["BLOCK", "block_sums", "fvp", "matvec", "rmatvec"]

BLOCK = 256  # samples per partial sum; part of the numerical contract
CHUNK = 1024  # terms per partial sum along a row; likewise
LANES = 16  # independent sums of a dot product: it vectorises without reordering
STRIPE = 4096  # columns per task of rmatvec
FUSED = 32768  # up to this p the rows of a group are still in L2 when they are read again
PARTIAL_BYTES = 16 << 20  # block sums kept at a time,
PARTIAL_BLOCKS = 4  # or this many where one is larger than that


@kernel
def _chunk(row, v, c, j0, j1, shift, lanes):
    """Partial dot product over j0..j1: LANES sums, added as a tree."""
    whole = j0 + (j1 - j0) // LANES * LANES
    lanes[:] = 0
    if shift.size > 0:
        for j in range(j0, whole, LANES):
            for s in range(LANES):
                lanes[s] += (row[j + s] - shift[j + s]) * v[c, j + s]
        for j in range(whole, j1):
            lanes[j - whole] += (row[j] - shift[j]) * v[c, j]
    else:
        for j in range(j0, whole, LANES):
            for s in range(LANES):
                lanes[s] += row[j + s] * v[c, j + s]
        for j in range(whole, j1):
            lanes[j - whole] += row[j] * v[c, j]
    half = LANES // 2
    while half > 0:
        for s in range(half):
            lanes[s] += lanes[s + half]
        half //= 2
    return lanes[0]


@kernel
def _dot(y, c, i, row, v, shift, lanes):
    """y[c, i] += sum_j (row_j - shift_j) v[c, j]; chunk sums are added with compensation."""
    p = row.shape[0]
    if p < 2 * LANES:
        lanes[0] = 0
        for j in range(p):
            m = shift[j] if shift.size > 0 else lanes.dtype.type(0)
            lanes[0] += (row[j] - m) * v[c, j]
        y[c, i] += lanes[0]
        return
    total, carry = y[c, i], y.dtype.type(0)
    for j0 in range(0, p, CHUNK):
        term = y.dtype.type(_chunk(row, v, c, j0, min(j0 + CHUNK, p), shift, lanes))
        new = total + term
        kept = new - total
        carry += (total - (new - kept)) + (term - kept)
        total = new
    y[c, i] = total + carry


@kernel
def _add_rows(acc, c, a, i0, i1, j0, j1, u, shift):
    """acc[c, j] += sum_i conj(a[i, j] - shift[j]) u[c, i] over rows i0..i1, four at a time."""
    whole = i0 + (i1 - i0) // 4 * 4
    for i in range(i0, whole, 4):
        u0, u1, u2, u3 = u[c, i], u[c, i + 1], u[c, i + 2], u[c, i + 3]
        if shift.size > 0:
            for j in range(j0, j1):
                m = shift[j]
                acc[c, j] = (
                    acc[c, j]
                    + (a[i, j] - m).conjugate() * u0
                    + (a[i + 1, j] - m).conjugate() * u1
                    + (a[i + 2, j] - m).conjugate() * u2
                    + (a[i + 3, j] - m).conjugate() * u3
                )
        else:
            for j in range(j0, j1):
                acc[c, j] = (
                    acc[c, j]
                    + a[i, j].conjugate() * u0
                    + a[i + 1, j].conjugate() * u1
                    + a[i + 2, j].conjugate() * u2
                    + a[i + 3, j].conjugate() * u3
                )
    for i in range(whole, i1):
        ui = u[c, i]
        for j in range(j0, j1):
            m = shift[j] if shift.size > 0 else acc.dtype.type(0)
            acc[c, j] += (a[i, j] - m).conjugate() * ui


@kernel
def _matvec_task(task, y, a, v, shift):
    i0 = task * BLOCK
    lanes = np.empty(LANES, a.dtype)
    for i in range(i0, min(i0 + BLOCK, a.shape[0])):
        for c in range(v.shape[0]):
            _dot(y, c, i, a[i], v, shift, lanes)


@driver
def _matvec(launch, y, a, v, shift):
    for_each(
        launch,
        _matvec_task,
        (a.shape[0] + BLOCK - 1) // BLOCK,
        (
            y,
            a,
            v,
            shift,
        ),
    )


@kernel
def _rmatvec_task(task, parts, a, i0, u, shift):
    stripes = (a.shape[1] + STRIPE - 1) // STRIPE
    b, s = task // stripes, task % stripes
    k0 = i0 + b * BLOCK
    k1, j1 = min(k0 + BLOCK, a.shape[0]), min((s + 1) * STRIPE, a.shape[1])
    for c in range(u.shape[0]):
        _add_rows(parts[b], c, a, k0, k1, s * STRIPE, j1, u, shift)


@driver
def _rmatvec(launch, parts, a, i0, u, shift):
    stripes = (a.shape[1] + STRIPE - 1) // STRIPE
    for_each(
        launch,
        _rmatvec_task,
        parts.shape[0] * stripes,
        (
            parts,
            a,
            i0,
            u,
            shift,
        ),
    )


@kernel
def _fvp_task(task, parts, t, a, i0, v, weights, shift):
    b = task
    lanes = np.empty(LANES, a.dtype)
    for k in range(i0 + b * BLOCK, min(i0 + (b + 1) * BLOCK, a.shape[0]), 4):
        k1 = min(k + 4, a.shape[0])
        for c in range(v.shape[0]):
            for i in range(k, k1):
                _dot(t, c, i, a[i], v, shift, lanes)
                if weights.size > 0:
                    t[c, i] *= weights[i]
            _add_rows(parts[b], c, a, k, k1, 0, a.shape[1], t, shift)


@driver
def _fvp(launch, parts, t, a, i0, v, weights, shift):
    for_each(
        launch,
        _fvp_task,
        parts.shape[0],
        (
            parts,
            t,
            a,
            i0,
            v,
            weights,
            shift,
        ),
    )


def block_sums(y, n, dtype, call):
    """y += block sums with compensation; call(parts, i0) adds some of them to zeroed parts."""
    blocks = -(-n // BLOCK)
    at_once = min(blocks, max(PARTIAL_BLOCKS, PARTIAL_BYTES // (y.size * dtype.itemsize)))
    parts = np.empty((at_once, *y.shape), dtype)
    carry = np.zeros_like(y)
    for b in range(0, blocks, at_once):
        used = parts[: min(at_once, blocks - b)]
        used[:] = 0
        call(used, b * BLOCK)
        with np.errstate(invalid="ignore", over="ignore"):
            for part in used:
                new = y + part
                kept = new - y
                carry += (y - (new - kept)) + (part - kept)
                y[:] = new
    # Inf - Inf is NaN: a sum that overflowed stays what it is.
    y += np.where(np.isfinite(y), carry, 0)


def matvec(y, a, v, shift):
    # y      OUT (k, n) double or double complex
    # a      IN READ-ONLY (n, p) C order;  v  IN (k, p) a's dtype;  shift  IN (p,) or (0,)
    """y[c] = (a - shift) v[c]."""
    y[:] = 0
    if a.size:
        _matvec(y, a, v, shift)


def rmatvec(y, a, u, shift):
    # y      INOUT (k, p) double or double complex
    # a      IN READ-ONLY (n, p) C order;  u  IN (k, n) a's dtype;  shift  IN (p,) or (0,)
    """y[c] += (a - shift)' u[c]."""
    if a.size and u.size:
        block_sums(y, a.shape[0], a.dtype, lambda parts, i0: _rmatvec(parts, a, i0, u, shift))


def fvp(y, a, v, weights, shift):
    # y        INOUT (k, p) double or double complex
    # a        IN READ-ONLY (n, p) C order;  v  IN (k, p) a's dtype
    # weights  IN (n,) or (0,) real;  shift  IN (p,) or (0,)
    """y[c] += (a - shift)' (weights o ((a - shift) v[c])); one pass over a while p <= FUSED."""
    if not (a.size and v.size):
        return
    if a.shape[1] <= FUSED:
        t = np.zeros((v.shape[0], a.shape[0]), a.dtype)
        block_sums(
            y, a.shape[0], a.dtype, lambda parts, i0: _fvp(parts, t, a, i0, v, weights, shift)
        )
        return
    t = np.empty((v.shape[0], a.shape[0]), y.dtype)
    matvec(t, a, v, shift)
    if weights.size:
        t *= weights
    rmatvec(y, a, t.astype(a.dtype, copy=False), shift)
