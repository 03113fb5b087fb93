"""Very many small systems at once: solves with a status each, sums and Monte-Carlo metrics."""

import numpy as np

from ..arrays import (
    WIDEST,
    as_array,
    as_damping_vector,
    as_weights,
    computing_dtype,
    contiguous,
    far,
    to_origin,
)
from ..errors import InputError
from ..passes import sums_dtype
from ..planning import choose
from ..slices import SLICE_FLOPS, slices
from .placing import placed

__all__ = [
    "add_batched_syrk",
    "batched_metric_solve",
    "batched_solve",
    "batched_syrk",
    "parts",
    "real_dtype",
]

PART_BYTES = 64 << 20  # of operands per kernel call
TAME = 2.0**60  # weights whose largest of a system is below, and above 1 / it, stay as they are
GROUP = 512  # parts are multiples of it, so that kernels see whole groups of systems


def real_dtype(dtype):
    """That of the real and imaginary parts."""
    return np.empty(0, dtype).real.dtype


def parts(count, item_bytes, item_flops, op):
    """Slices of range(count) that bound the length of a kernel call."""
    step = min(PART_BYTES // max(item_bytes, 1), SLICE_FLOPS // max(item_flops, 1))
    step = max(int(step) // GROUP * GROUP, GROUP)
    for lo, hi in slices(count, step, op):
        yield slice(lo, hi)


@placed
def batched_solve(F, g, *, damping=0.0):
    """Solve many small damped systems, (F_i + damping_i I) x_i = g_i, with a status per system.

    Parameters
    ----------
    F : array (n, p, p)
        Symmetric or Hermitian matrices; lower triangles are read.
    g : array (n, p)
        Right-hand sides.
    damping : float or array (n,)
        Absolute damping, >= 0.

    Returns
    -------
    x : array (n, p)
        Solutions; NaN in the rows of systems that failed.
    info : array (n,) of int32
        0: solved; j > 0: minor j is not positive definite; -1: the system is not finite.

    Raises
    ------
    InputError
        For operands of the wrong kind or shape. A bad system is no error: see ``info``.

    Notes
    -----
    p^3/3 + 2 p^2 flops and (p^2 + 2 p) words per system; Cholesky across systems.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> x, info = ff.ops.batched_solve(np.array([[[2.0]], [[-1.0]]]), np.array([[4.0], [1.0]]))
    >>> x[:, 0], info
    (array([ 2., nan]), array([0, 1], dtype=int32))
    """
    f = as_array(F, "F", need="shape (n, p, p)")
    v = as_array(g, "g", need="shape (n, p)")
    dtype = computing_dtype(f.dtype, "F")
    if computing_dtype(v.dtype, "g").kind == "c":
        dtype = np.result_type(dtype, np.complex64)
    if f.ndim != 3 or f.shape[1] != f.shape[2]:
        raise InputError(f"F has shape {f.shape}; expected (n, p, p)")
    if v.shape != f.shape[:2]:
        raise InputError(f"g has shape {v.shape}; expected {f.shape[:2]} to match F {f.shape}")
    d = as_damping_vector(damping, len(f), spread=False).astype(real_dtype(dtype), copy=False)
    n, p, _ = f.shape
    x, info = np.empty(v.shape, dtype), (np.empty if p else np.zeros)(n, np.int32)
    kernel = choose("batched_solve", p, dtype).load()
    for part in parts(n if p else 0, p * (p + 2) * dtype.itemsize, p**3, "batched_solve"):
        own = d[part] if len(d) == n else d
        kernel(x[part], info[part], contiguous(f[part], dtype), contiguous(v[part], dtype), own)
    return to_origin(x, F), to_origin(info, F)


@placed
def batched_metric_solve(scores, g, weights=None, *, damping=0.0):
    """Solve (M_i + damping_i I) x_i = g_i with M_i = sum_s w_is a_is a_is' / sum_s w_is.

    The metric of each system is a weighted mean of outer products of its own S scores, as in
    Monte-Carlo estimates of a Fisher matrix; neither the products nor the metrics are stored.

    Parameters
    ----------
    scores : array (n, S, p)
        Scores a_is; float32, float64, complex64, complex128, or float16/bfloat16 storage.
    g : array (n, p)
        Right-hand sides.
    weights : array (n, S) or (S,), optional
        Real, finite, >= 0; (S,) is shared by all systems.
    damping : float or array (n,)
        Absolute damping, >= 0.

    Returns
    -------
    x : array (n, p)
        Solutions; NaN in the rows of systems that failed.
    info : array (n,) of int32
        0: solved; j > 0: minor j is not positive definite, or holds what is not finite, as all of
        it does where weights sum to zero; -1: the system is not finite.

    Raises
    ------
    InputError
        For operands of the wrong kind or shape. A bad system is no error: see ``info``.

    Notes
    -----
    S p (p + 1) + p^3/3 flops and (S p + 2 p) words per system. For complex scores M_i is
    A_i' diag(w_i) A_i / sum(w_i) with rows a_is, as in `syrk`. Duan et al., "NGBoost" (2020),
    section 3.2, needs it for metrics without a closed form.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> scores = np.array([[[1.0, 0.0], [0.0, 2.0]]])
    >>> ff.ops.batched_metric_solve(scores, np.array([[1.0, 4.0]]))[0]
    array([[2., 2.]])
    """
    a = as_array(scores, "scores", need="shape (n, S, p)")
    v = as_array(g, "g", need="shape (n, p)")
    dtype = computing_dtype(a.dtype, "scores")
    if computing_dtype(v.dtype, "g").kind == "c":
        dtype = np.result_type(dtype, np.complex64)
    if a.ndim != 3 or a.shape[1] == 0:
        raise InputError(f"scores has shape {a.shape}; expected (n, S, p) with S >= 1")
    n, count, p = a.shape
    if v.shape != (n, p):
        raise InputError(f"g has shape {v.shape}; expected {(n, p)} to match scores {a.shape}")
    w = _tame(_sample_weights(weights, n, count)).astype(real_dtype(dtype), copy=False)
    d = as_damping_vector(damping, n).astype(real_dtype(dtype), copy=False)
    x, info = np.empty((n, p), dtype), np.zeros(n, np.int32)
    kernel = choose("batched_metric_solve", p, dtype).load()
    flops = count * p * p + p**3
    for part in parts(n if p else 0, count * p * dtype.itemsize, flops, "batched_metric_solve"):
        own = w[part] if w.ndim == 2 else w
        b = contiguous(v[part], dtype)
        kernel(x[part], info[part], contiguous(a[part], dtype), own, b, d[part])
    return to_origin(x, scores), to_origin(info, scores)


def _sample_weights(weights, n, count):
    """Weights (n, S) or (S,) in double; (0,) for None."""
    if weights is None:
        return np.empty(0)
    a = as_array(weights, "weights", need=f"shape {(n, count)} or ({count},)")
    if a.shape not in ((n, count), (count,)):
        raise InputError(f"weights has shape {a.shape}; expected {(n, count)} or ({count},)")
    return as_weights(a.reshape(-1), a.size).reshape(a.shape)


def _tame(weights):
    """Weights of which only the ratios within a system count, brought near 1 where they are not."""
    largest = weights.max(axis=-1, keepdims=True, initial=0.0)
    wild = far(largest, TAME)
    if not wild.any():
        return weights
    return np.ldexp(weights, np.where(wild, -2 * (np.frexp(largest)[1] // 2), 0))


@placed
def batched_syrk(scores, weights=None):
    """Raw weighted sums of outer products of very many systems, A_i' diag(w_i) A_i.

    Parameters
    ----------
    scores : array (n, S, p)
        S scores of each system, the rows of A_i; float32, float64, complex64, complex128, or
        float16/bfloat16 storage.
    weights : array (n, S) or (S,), optional
        Real, finite, >= 0; (S,) is shared by all systems.

    Returns
    -------
    array (n, p, p)
        Each symmetric (Hermitian) to the bit, in the dtype of the scores.

    Raises
    ------
    InputError
        For bad operands, or naming the first system whose sums are not finite.

    Notes
    -----
    n S p (p + 1) flops; reads the scores once. Sums are kept in double over blocks of at most 256
    scores. docs/math.md F8.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.batched_syrk(np.array([[[1.0], [2.0]], [[3.0], [4.0]]])).ravel()
    array([ 5., 25.])
    """
    a = as_array(scores, "scores", need="shape (n, S, p)")
    dtype = computing_dtype(a.dtype, "scores")
    if a.ndim != 3:
        raise InputError(f"scores has shape {a.shape}; expected (n, S, p)")
    n, count, p = a.shape
    w = _sample_weights(weights, n, count)
    out = np.zeros((n, p, p), dtype)
    sums = out if dtype == sums_dtype(dtype) else np.zeros(out.shape, sums_dtype(dtype))
    add_batched_syrk(sums, a, np.sqrt(w), dtype)
    if sums is not out:
        with np.errstate(over="ignore"):
            out[:] = sums
    bad = np.flatnonzero(~np.isfinite(np.einsum("tii->ti", out)).all(axis=1))
    if bad.size:
        raise InputError(
            f"scores of system {bad[0]} are not finite, or their sum overflows {dtype}"
        )
    return to_origin(out, scores)


def add_batched_syrk(c, a, scale, dtype):
    """c[t] += a_t' diag(scale_t^2) a_t, both triangles, for scores a (n, S, p) of any layout.

    c (n, p, p) is double; scale (n, S), (S,) or (0,); a and scale are cast to `dtype`.
    """
    n, count, p = a.shape
    if real_dtype(dtype) == np.float32 and far(scale, WIDEST).any():
        dtype = sums_dtype(dtype)
    kernel = choose("batched_syrk", p, dtype).load()
    scale = np.ascontiguousarray(scale, real_dtype(dtype))
    each = p * (count * dtype.itemsize + p * c.itemsize)
    for part in parts(n if count * p else 0, each, count * p * p, "batched_syrk"):
        own = scale[part] if scale.ndim == 2 else scale
        kernel(c[part], contiguous(a[part], dtype), own)
