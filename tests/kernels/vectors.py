"""Products with vectors, each compared with its exact one and the bound of its sums."""

import numpy as np

from tests import matrices, oracle
from tests.kernels.cases import (
    implementations_of,
    operands,
    real_dtype,
    rounded,
    sums_dtype,
    unchanged,
)
from tests.tolerances import assert_ratio, matvec_ratio


def vectors(k, size, dtype):
    return matrices.gaussian((k, size), dtype, matrices.generator("vectors", k, size, str(dtype)))


def magnitudes(a):
    return np.abs(a).astype(np.float64)


def judge(entry, y, expected, bound, terms, what):
    """Within 10 u per term, and 32 u in all where we cut the sums ourselves."""
    assert_ratio(matvec_ratio(y, expected, bound, terms), "goal", f"{entry.name} {what}")
    if entry.module.startswith("cpu."):
        assert_ratio(matvec_ratio(y, expected, bound, 1), "summation", f"{entry.name} {what}")


def compare_matvec(entry, n, p, k, dtype, variant):
    case, v = operands(n, p, dtype, variant), vectors(k, p, dtype)
    y = np.full((k, n), np.nan, sums_dtype(dtype))
    intact = unchanged(case.G, v, case.shift_or_none)
    entry.load()(y, case.G, v, case.shift_or_none)
    intact()
    expected = v.astype(y.dtype) @ case.shifted.T
    bound = magnitudes(v) @ magnitudes(case.shifted).T
    what = f"{n} x {p}, k = {k}, {dtype} {variant}"
    judge(entry, rounded(y, dtype), expected, bound, p + 1, what)


def compare_rmatvec(entry, n, p, k, dtype, variant):
    case, u = operands(n, p, dtype, variant), vectors(k, n, dtype)
    start = vectors(k, p, sums_dtype(dtype))
    y = start.copy()
    intact = unchanged(case.G, u, case.shift_or_none)
    entry.load()(y, case.G, u, case.shift_or_none)
    intact()
    expected = start + u.astype(y.dtype) @ case.shifted.conj()
    bound = magnitudes(start) + magnitudes(u) @ magnitudes(case.shifted)
    what = f"{n} x {p}, k = {k}, {dtype} {variant}"
    judge(entry, rounded(y, dtype), expected, bound, n + 1, what)


def compare_fvp(entry, n, p, k, dtype, variant):
    case, v = operands(n, p, dtype, variant), vectors(k, p, dtype)
    start = vectors(k, p, sums_dtype(dtype))
    y = start.copy()
    intact = unchanged(case.G, v, case.weights_or_none, case.shift_or_none)
    entry.load()(y, case.G, v, case.weights_or_none, case.shift_or_none)
    intact()
    expected = start + oracle.fvp(case.shifted, v.T, case.weights).T
    bound = magnitudes(start) + oracle.fvp_bound(case.shifted, v.T, case.weights).T
    what = f"{n} x {p}, k = {k}, {dtype} {variant}"
    judge(entry, rounded(y, dtype), expected, bound, n + p + 1, what)


def compare_wide_fvp(entry, n, p, k, dtype, variant):
    """In units of double, whatever the scores are in."""
    wide = sums_dtype(dtype)
    case, v, start = operands(n, p, dtype, variant), vectors(k, p, wide), vectors(k, p, wide)
    y, weights, shift = start.copy(), case.weights_or_none.astype(float), case.shift_or_none
    intact = unchanged(case.G, v)
    entry.load()(y, case.G, v, weights, shift.astype(wide))
    intact()
    expected = start + oracle.fvp(case.shifted, v.T, weights if weights.size else None).T
    bound = magnitudes(start) + oracle.fvp_bound(case.shifted, v.T, case.weights).T
    judge(entry, y, expected, bound, n + p + 1, f"{n} x {p}, k = {k}, {dtype} {variant}")


def compare_diag(entry, n, p, k, dtype, variant):
    case = operands(n, p, dtype, variant)
    start = magnitudes(vectors(1, p, dtype)[0])
    y = start.copy()
    intact = unchanged(case.G, case.weights_or_none, case.shift_or_none)
    entry.load()(y, case.G, case.weights_or_none, case.shift_or_none)
    intact()
    expected = start + oracle.diag(case.shifted, case.weights, precise=True)
    y = y.astype(real_dtype(dtype))
    judge(entry, y, expected, expected, n + 1, f"{n} x {p} {dtype} {variant}")


COMPARE = {
    "matvec": compare_matvec,
    "rmatvec": compare_rmatvec,
    "fine_rmatvec": compare_rmatvec,
    "fvp": compare_fvp,
    "wide_fvp": compare_wide_fvp,
    "diag": compare_diag,
}
over_products = implementations_of(*COMPARE)
