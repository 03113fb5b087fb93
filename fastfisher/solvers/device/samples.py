"""Samples as they come to a device: bad rows, what weights ask for, the mean."""

import numpy as np

from ...devices import passes
from ...devices.door import none
from ...devices.slices import first_row
from ...errors import InputError
from ...kernels.cuda import compat, memory, sums, vectors
from ...kernels.cuda.vectors import BAD, LARGEST, TOTAL
from .report import Report

__all__ = ["examined", "mean_row", "not_finite", "without_bad_rows"]


def without_bad_rows(G, weights):
    """Scores and weights (1, n), or None, without the rows that are not finite, and how many these
    are. Waits."""
    bad, _ = passes.bad_rows(G)
    if not bad.any():
        return G, weights, 0
    n = G.shape[0]
    if weights is None:
        weights = compat.empty((1, n), np.float64)
        memory.fill(weights, 1.0)
    vectors.blank(weights.reshape(n), memory.to_device(bad))
    return G.without(bad), weights, int(bad.sum())


def examined(scores, weights):
    """The scores as these weights want them, roots of the weights (1, n) or None, the weights as a
    row, and their sum; waits for the verdict."""
    n, p = scores.shape
    report, bad = Report(0), compat.empty((1,), np.int64)
    roots, u, total = None, compat.empty((1, n), np.float64), float(n)
    memory.fill(bad, n)
    memory.fill(u, 1.0)
    if weights is not None:
        u = weights
        roots, used = compat.empty((n,), np.float64), memory.zeros((1,), np.int64)
        vectors.examine_weights(bad, used, u.reshape(n))
        vectors.weight_roots(roots, u.reshape(n))
        sums.totals(report.place(TOTAL), u)
    memory.copy(report.place(BAD), bad)
    probe = memory.zeros((p,), np.float64)
    scores = passes.weighable(scores, None if weights is None else weights.reshape(n))
    passes.add_diag(probe, scores)
    sums.largest(report.place(LARGEST), probe.reshape(1, p))
    host = report.read()
    if host[BAD] < n:
        raise InputError(
            f"weights[{int(host[BAD])}] is negative or not finite; expected finite, >= 0"
        )
    if weights is not None:
        total = float(host[TOTAL])
    if not np.isfinite([host[LARGEST], total]).all():
        row, largest = passes.bad_row(scores)
        if row is not None:
            raise not_finite(row)
        raise InputError(f"the sums overflow: the largest |G| is {largest:.3g}; scale G")
    return scores, roots, u, total


def mean_row(G, shares):
    """Weighted mean row, about the first row or, since that may have no weight, about a first sum:
    a constant column has its value as mean, without weights exactly."""
    n, p = G.shape
    G = G.weighed
    about, u = memory.zeros((1, p), np.float64), compat.empty((1, n), np.float64)
    if shares is None:
        one = compat.empty((1, 1), np.float64)
        memory.fill(one, 1.0)
        memory.fill(u, 1.0 / n)
        passes.load("rmatvec", 1, G.dtype)(
            about, first_row(G), passes.cast(one, G.dtype), none(G.dtype)
        )
    else:
        memory.copy(u, shares.reshape(1, n))
        passes.add_rmatvec(about, G, u)
    shift = passes.cast(about, G.dtype)
    about, y = passes.cast(shift, np.float64), memory.zeros((1, p), np.float64)
    passes.add_rmatvec(y, G, u, shift=shift.reshape(p))
    vectors.combine(y, about, y, -1.0, none(np.float64), none(np.float64, 2))
    return y.reshape(p)


def not_finite(row):
    """The error for a row of scores with NaN or Inf."""
    return InputError(
        f"G is not finite in row {row}; drop the row (weight 0 is not enough), or pass "
        "nan_policy='skip'"
    )
