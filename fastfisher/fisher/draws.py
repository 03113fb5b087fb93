"""Scores (n, S, p) of many systems at the door: shapes, weights, rows that are not finite."""

import numpy as np

from ..arrays import Scores, as_array, computing_dtype, contiguous
from ..errors import InputError
from ..passes import bad_rows
from ..slices import slices

__all__ = ["checked_scores", "checked_weights", "parts_of", "scan"]

PART_BYTES = 8 << 20  # of scores in double: their products find them in cache


def parts_of(a, op):
    """Slices over the systems of scores (n, S, p)."""
    n, count, p = a.shape
    for lo, hi in slices(n, max(PART_BYTES // max(8 * p * (count + p), 1), 1), op):
        yield slice(lo, hi)


def checked_scores(G, n, p, dtype):
    """Scores (n, S, p) from those or (n, p), and the dtype they are computed in."""
    a = as_array(G, "G", need=f"scores of shape ({n}, S, {p})")
    computed = computing_dtype(a.dtype, "G")
    if a.ndim == 2:
        a = a[:, np.newaxis]
    if a.ndim != 3 or (a.shape[0], a.shape[2]) != (n, p):
        raise InputError(f"G has shape {np.shape(G)}; expected ({n}, S, {p}) or ({n}, {p})")
    if computed.kind == "c" and dtype.kind != "c":
        raise InputError(
            f"G is {computed} but this Fisher is {dtype}; make it with dtype='complex128'"
        )
    return a, computed


def checked_weights(weights, shape, *, single):
    """Weights that broadcast to `shape` (n, S), or None; of single scores they are (n,)."""
    if weights is None:
        return None
    w = as_array(weights, "weights", need=f"real numbers of shape {shape}")
    if w.dtype.kind not in "fiub":
        raise InputError(f"weights has dtype {w.dtype}; expected real numbers")
    if single and w.shape == shape[:1]:
        w = w[:, np.newaxis]
    elif w.shape not in (shape, shape[1:]) or single:
        expected = shape[:1] if single else f"{shape} or {shape[1:]}"
        raise InputError(f"weights has shape {w.shape}; expected {expected}")
    w = w.astype(np.float64)
    bad = np.argwhere(~(np.isfinite(w) & (w >= 0)))
    if bad.size:
        at = tuple(bad[0].tolist())
        raise InputError(f"weights{list(at)} is {w[at]}; weights must be finite and not negative")
    return w


def scan(a, dtype):
    """Mask (n, S) of the scores with NaN or Inf, and the largest finite magnitude."""
    bad, largest = np.zeros(a.shape[:2], bool), 0.0
    for part in parts_of(a, "scan"):
        rows = contiguous(a[part], dtype)
        flat = rows.reshape(rows.shape[0] * rows.shape[1], rows.shape[2])
        mask, top = bad_rows(Scores(flat, dtype))
        bad[part] = mask.reshape(rows.shape[:2])
        largest = max(largest, top)
    return bad, largest
