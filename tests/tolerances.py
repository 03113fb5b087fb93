"""Every tolerance of the suite, as ratios in units of the unit roundoff u.

A ratio divides an error by the bound that the theory gives for it (docs/math.md, "Error bounds"),
so one small table of limits serves every size, dtype and scale. u is 2^-53 or 2^-24, half of
``numpy.finfo(dtype).eps``; a complex dtype has the u of its real part.
"""

import math

import numpy as np

LIMITS = {
    "lapack": 30.0,  # what LAPACK's own test programs accept
    "goal": 10.0,  # what this project holds on every family it can
    "summation": 32.0,  # |F - F*| in u |G|'|G|, whatever the number of rows
    "compensated": 3.0,  # sums whose blocks are added with a correction, at any length
    "gate": 9.0,  # backward error of any accepted solve in double: 1e-15
    "residual": 9000.0,  # 1e-12 in double, where the condition number allows it
    "forward": 300.0,  # |x - x*| in cond u |x*|
    "bytes": 10.0,  # sums of bytes and of halves thereof in u of the largest: nothing is lost
    "identity": 100.0,  # two formulas for one quantity on a problem with condition number <= 1e4
}


def unit_roundoff(dtype):
    """u of a real or complex floating dtype; longdouble as the platform has it."""
    return float(np.finfo(np.dtype(dtype)).eps) / 2


def gamma(k, dtype):
    """g_k = k u / (1 - k u), the constant of an inner product of length k."""
    ku = k * unit_roundoff(dtype)
    if ku >= 1:
        raise ValueError(f"g_k needs k u < 1, got k = {k} for {np.dtype(dtype)}")
    return ku / (1 - ku)


def _wide(a):
    a = np.asarray(a)
    if a.dtype in (np.longdouble, np.clongdouble):
        return a
    return a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)


def _norm1(A):
    return float(np.linalg.norm(_wide(A), 1)) if np.asarray(A).size else 0.0


def _norms(x):
    """Euclidean norms of columns, scaled by the largest entries so that 1e200 does not overflow."""
    size = np.abs(x)
    largest = np.max(size, axis=0, initial=0.0)
    known = (largest != 0) & np.isfinite(largest)
    scaled = size[:, known] / largest[known]
    norms = largest.copy()
    norms[known] *= np.sqrt(np.sum(scaled**2, axis=0))
    return norms.tolist()


def _columns(x, y):
    """Two arrays (p,) or (p, k) as matrices of columns."""
    if x.shape != y.shape:
        raise AssertionError(f"shape {x.shape}, expected {y.shape}")
    return (_wide(a).reshape(a.shape[0], -1 if a.size else math.prod(a.shape[1:])) for a in (x, y))


def _quotient(error, bound):
    """error / bound where 0/0 is 0 and anything else over 0, or not finite, is infinite."""
    if not math.isfinite(error):
        return math.inf
    if bound == 0:
        return 0.0 if error == 0 else math.inf
    return error / bound


def entrywise_ratio(X, X_exact, bound):
    """max |X - X*| / bound; where the bound is zero the entries must be equal; NaN is infinite."""
    X, X_exact, bound = _wide(X), _wide(X_exact), np.asarray(bound)
    if X.shape != X_exact.shape:
        raise AssertionError(f"shape {X.shape}, expected {X_exact.shape}")
    if X.size == 0:
        return 0.0
    error, bound = np.broadcast_arrays(np.abs(X - X_exact), bound)
    free = bound > 0
    if not np.all(np.isfinite(error)) or np.any(error[~free] != 0):
        return math.inf
    return float(np.max(error[free] / bound[free], initial=0.0))


def syrk_ratio(F, F_exact, absG2, n):
    """max |F - F*| / (n u |G|'|G|), with u from the dtype of F; absG2 is |G|' diag(w) |G|."""
    return entrywise_ratio(F, F_exact, max(n, 1) * unit_roundoff(F.dtype) * np.asarray(absG2))


def gram_ratio(K, K_exact, absK, p):
    """max |K - K*| / (p u |G||G|'), the sum runs over the p parameters."""
    return entrywise_ratio(K, K_exact, max(p, 1) * unit_roundoff(K.dtype) * np.asarray(absK))


def matvec_ratio(y, y_exact, bound, terms):
    """max |y - y*| / (terms u bound), bound = |G||v| with as many terms as were summed."""
    return entrywise_ratio(y, y_exact, max(terms, 1) * unit_roundoff(y.dtype) * np.asarray(bound))


def cholesky_ratio(A, L):
    """||L L' - A||_1 / (p ||A||_1 u): LAPACK's xPOT01."""
    p = L.shape[-1]
    if p == 0:
        return 0.0
    L_wide = _wide(L)
    error = _norm1(L_wide @ L_wide.conj().T - _wide(A))
    return _quotient(error, p * _norm1(A) * unit_roundoff(L.dtype))


def solve_ratio(A, x, b):
    """Backward error ||b - A x|| / (p (||A|| ||x|| + ||b||) u), worst right-hand side."""
    p, u, norm_A = A.shape[-1], unit_roundoff(x.dtype), _norm1(A)
    x, b = _columns(x, b)
    norms = zip(_norms(b - _wide(A) @ x), _norms(x), _norms(b), strict=True)
    return max(
        (_quotient(r_k, p * (norm_A * x_k + b_k) * u) for r_k, x_k, b_k in norms), default=0.0
    )


def forward_ratio(x, x_true, cond):
    """||x - x*|| / (cond ||x*|| u), worst right-hand side."""
    u = unit_roundoff(x.dtype)
    x, t = _columns(x, x_true)
    norms = zip(_norms(x - t), _norms(t), strict=True)
    return max((_quotient(e_k, cond * t_k * u) for e_k, t_k in norms), default=0.0)


def assert_ratio(value, limit, what):
    """Fail with the ratio, the limit and what was measured; a NaN ratio fails."""
    limit = LIMITS.get(limit, limit)
    assert value <= limit, f"{what}: ratio {value:.3g} is above the limit {limit:g} (units of u)"
