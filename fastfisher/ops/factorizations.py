"""Cholesky factors and what is solved with them."""

import math
from contextlib import nullcontext

import numpy as np

from .. import linalg
from ..arrays import (
    all_finite,
    as_array,
    as_real,
    as_rows,
    as_vectors,
    computing_dtype,
    contiguous,
    to_origin,
)
from ..errors import InputError, NotPositiveDefiniteError
from ..passes import sums_dtype
from ..planning import choose
from .placing import placed

__all__ = ["cho_solve", "cholesky"]

ROWS = 256  # of a matrix whose upper triangle is zeroed at a time
LARGE = 1e30  # a damping up to here takes no finite number of any dtype beyond its range
_ALOUD = nullcontext()


def _square_matrix(A, name):
    a = as_array(A, name, need="a square matrix (n, n)")
    dtype = computing_dtype(a.dtype, name)
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise InputError(f"{name} has shape {a.shape}; expected a square matrix (n, n)")
    return a, dtype


@placed
def cholesky(A, *, damping=0.0, overwrite=False):
    """Lower factor L of A + damping I = L L'; only the lower triangle of A is read.

    Parameters
    ----------
    A : array (n, n)
        Symmetric or Hermitian; float32, float64, complex64 or complex128.
    damping : float
        Added to the diagonal, >= 0.
    overwrite : bool
        Write L into the memory of A if A is a C-ordered, aligned, writable NumPy array.

    Returns
    -------
    array (n, n)
        L in the dtype of A; its upper triangle is zero.

    Raises
    ------
    InputError
        If A is not square, or its lower triangle is not finite.
    NotPositiveDefiniteError
        With ``.order`` (1-based order of the failing minor) and ``.suggested_damping``, the
        smallest absolute damping, up to rounding, with which the factorisation succeeds.

    Notes
    -----
    n^3 / 3 flops, 8 n^2 bytes.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.cholesky(np.array([[4.0, 0.0], [2.0, 2.0]]))
    array([[2., 0.],
           [1., 1.]])
    """
    a, dtype = _square_matrix(A, "A")
    damping = as_real(damping, "damping")
    in_place = (
        overwrite
        and a.dtype == dtype
        and a.flags.c_contiguous
        and a.flags.writeable
        and a.flags.aligned
    )
    n = len(a)
    L = a if in_place else np.zeros((n, n), dtype)
    # A pivot that is not finite fails.
    with np.errstate(over="ignore") if damping > LARGE else _ALOUD:
        order = factor(L, None if in_place else contiguous(a, dtype), damping)
    if order:
        raise _not_positive_definite(None if in_place else a, n, order, damping, dtype)
    if in_place:
        _clear_above(L)
    return to_origin(L, A)


def _clear_above(L):
    """Zeros above the diagonal, a few rows at a time."""
    for lo in range(0, len(L), ROWS):
        rows = L[lo : lo + ROWS]
        rows[:, lo + ROWS :] = 0
        corner = rows[:, lo : lo + ROWS]
        corner[~np.tri(len(corner), dtype=bool)] = 0


def factor(L, A=None, damping=0.0):
    """Lower factor of A (by default L) + damping I into the lower triangle of L; 0 or the failing
    1-based order."""
    return choose("cholesky", len(L), L.dtype).load()(L, A, damping)


def _not_positive_definite(A, n, order, damping, dtype):
    suggested = None
    if A is not None:
        lower = np.tril(np.array(A, dtype=sums_dtype(dtype)))
        bad = np.argwhere(~np.isfinite(lower))
        if bad.size:
            i, j = bad[0]
            return InputError(f"A[{i}, {j}] is {A[i, j]}; the lower triangle must be finite")
        suggested = _sufficient_damping(lower, dtype)
    advice = (
        f"damping={suggested:.3g} would make it so"
        if suggested is not None
        else "raise damping, or accumulate in float64"
    )
    return NotPositiveDefiniteError(
        f"pivot {order} of {n} is not positive at damping {damping:g}; {advice}",
        order=order,
        rcond=0.0,
        suggested_damping=suggested,
    )


def _sufficient_damping(lower, dtype):
    """A damping that makes the Hermitian matrix with this lower triangle safely definite."""
    full = lower + np.tril(lower, -1).conj().T
    norm = float(np.abs(full).sum(axis=1).max())
    if len(full) <= 1000:
        least = float(linalg.eigvalsh(full, subset_by_index=[0, 0])[0])
    else:  # Gershgorin
        centre = full.diagonal().real
        least = float((centre - (np.abs(full).sum(axis=1) - np.abs(centre))).min())
    margin = 10 * len(full) * float(np.finfo(dtype).eps) * max(norm, float(np.finfo(dtype).tiny))
    return round_up(max(-least, 0.0) + margin)


def round_up(x):
    """x rounded up to three digits, so that the printed figure suffices."""
    if not (x > 0 and math.isfinite(x)):
        return x
    unit = 10.0 ** (math.floor(math.log10(x)) - 2)
    return math.ceil(x / unit) * unit if unit > 0 else x


@placed
def cho_solve(L, b):
    """Solve L L' x = b with a lower Cholesky factor; only the lower triangle of L is read.

    Parameters
    ----------
    L : array (n, n)
        From `cholesky`; its diagonal is real and positive.
    b : array (n,) or (n, k)
        Right-hand sides.

    Returns
    -------
    array like b
        In the dtype of L (complex if b is); several right-hand sides in Fortran order.

    Raises
    ------
    InputError
        For bad operands, if a diagonal element of L is not positive, or if x overflows.

    Notes
    -----
    2 n^2 k flops; reads L twice.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.cho_solve(np.array([[2.0, 0.0], [1.0, 1.0]]), np.array([4.0, 4.0]))
    array([0., 2.])
    """
    a, dtype = _square_matrix(L, "L")
    n = len(a)
    _check_diagonal(a)
    rows, _, single = as_rows(b, n, dtype, "b", axis="n")
    wanted = rows.dtype
    L = contiguous(a, wanted)
    x = rows if rows.base is None else np.array(rows)  # a view is the caller's
    solve_factored(L, x)
    if not all_finite(x):
        as_vectors(b, n, dtype, "b", axis="n")  # what is not finite stays so: it may have come
        if not all_finite(np.tril(L)):
            raise InputError("L is not finite; check the lower triangle of L")
        raise InputError(
            f"x overflows {wanted}; divide b by a power of two, or pass float64 operands"
        )
    return to_origin(x[0] if single else x.T, b)


def _check_diagonal(L):
    """InputError unless every diagonal element is finite and positive."""
    diagonal = L.diagonal()
    if not diagonal.size or (
        diagonal.dtype.kind != "c"
        and 0 < np.minimum.reduce(diagonal)
        and math.isfinite(diagonal.dot(diagonal))  # or it is only large
    ):
        return
    bad = np.flatnonzero(~(np.isfinite(diagonal) & (diagonal.real > 0)))
    if bad.size:
        k = bad[0]
        raise InputError(f"L[{k}, {k}] is {diagonal[k]}; expected a positive diagonal")


def solve_factored(L, x):
    """x <- (L L')^-1 x for rows x (k, n), in place; L is lower, C-ordered, of x's dtype."""
    if not x.size:
        return
    lower = choose("solve_lower", len(L), L.dtype, sides=len(x))
    adjoint = choose("solve_lower_adjoint", len(L), L.dtype, sides=len(x))
    if lower.module == adjoint.module:
        lower.load("substitute")(L, x)  # both in one call
        return
    lower.load()(L, x)
    adjoint.load()(L, x)
