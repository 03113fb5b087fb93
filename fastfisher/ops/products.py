"""Products of scores: raw weighted sums, and products with vectors."""

import numpy as np

from ..arrays import as_scores, as_vectors, as_weights, output, to_origin
from ..errors import InputError
from ..kernels.slicing import slice_units
from ..passes import (
    add_gram,
    add_peaks,
    add_sliced_syrk,
    add_syrk,
    check_finite,
    fresh_sums,
    products,
    round_syrk,
    sums_dtype,
    weighable,
)
from ..planning import choose, normwise_pays
from .placing import placed

__all__ = ["diag", "fvp", "gram", "matvec", "rmatvec", "syrk"]


def _finish(G, sums, out, what):
    """Double sums with both triangles in the caller's dtype, in `out` if given, checked."""
    if out is None:
        out = sums if sums.dtype == G.dtype else np.empty(sums.shape, G.dtype)
    mirror(sums, out)
    check_finite(G, out.diagonal(), what)
    return out


def mirror(sums, out=None):
    """Both triangles, from the lower one of double sums, in `out` or in place."""
    choose("mirror", len(sums), sums.dtype).load()(sums, out)


def _checked(out, G, order, weights):
    return None if out is None else output(out, (order, order), G.dtype, [G.data, weights])


def _zeros(G, order, out):
    """Zeros in double, in `out` where that can hold them."""
    if out is None or out.dtype != sums_dtype(G.dtype):
        return np.zeros((order, order), sums_dtype(G.dtype))
    out[:] = 0
    return out


def check_precision(precision):
    if precision not in ("entrywise", "normwise"):
        raise InputError(f"precision is {precision!r}; expected 'entrywise' or 'normwise'")


# By bytes of a score: the range of the largest of a column, whose squares have room; and slices,
# of which the products are taken whose numbers add up to fewer; one less
NORMWISE_RANGE = {8: (1e-140, 1e140), 4: (1e-17, 1e17)}
NORMWISE_SLICES = {8: 8, 4: 4}
NORMWISE_LONG = 1024  # from so many samples on: what double would round is more by then


def _add_normwise(sums, G, weights):
    """G'WG from integer products; False, and nothing is done, where the range does not allow it."""
    if weighable(G, weights) is not G:
        return False
    peaks = np.zeros(G.shape[1])
    add_peaks(peaks, G, by_rows=True, weights=weights)
    check_finite(G, peaks, "G'WG")
    known, size = peaks[peaks > 0], G.dtype.itemsize
    least, most = NORMWISE_RANGE[size]
    if known.size and not (least < known.min() and known.max() < most):
        return False
    units = slice_units(peaks, G.dtype)
    slices = NORMWISE_SLICES[size] - (G.shape[0] >= NORMWISE_LONG)
    add_sliced_syrk(sums, G, units, slices, slices, weights=weights)
    sums /= units
    sums /= units[:, np.newaxis]
    return True


@placed
def syrk(G, weights=None, *, out=None, precision="entrywise"):
    """Raw weighted sum of outer products, G' diag(w) G.

    Parameters
    ----------
    G : array (n, p)
        Scores; float32, float64, complex64, complex128, or float16/bfloat16 storage.
    weights : array (n,), optional
        Real, finite, >= 0.
    out : numpy.ndarray (p, p), optional
        C-ordered array of the result's dtype to write into.
    precision : {"entrywise", "normwise"}
        The error allowed for: each entry within rounding of |G|'diag(w)|G|, or of the product of
        the largest weighted scores of its two columns, times n. "normwise" lets the table take
        integer products (real scores), whose bits are the same in any order, where they are
        faster; elsewhere it changes nothing.

    Returns
    -------
    array (p, p)
        Both triangles, symmetric (Hermitian) to the bit, in the dtype of G.

    Raises
    ------
    InputError
        For bad operands, for a row of G that is not finite, or if the sum overflows.

    Notes
    -----
    n p (p + 1) flops; reads G once. Sums are kept in double over blocks of at most 256 samples:
    for float32 the error does not grow with n. docs/math.md F8, X2, section 27.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.syrk(np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([[10., 14.],
           [14., 20.]])
    """
    G = as_scores(G)
    w = as_weights(weights, G.shape[0])
    check_precision(precision)
    out = _checked(out, G, G.shape[1], weights)
    sliced = precision == "normwise" and normwise_pays(G.shape[1], G.dtype)
    sums = None if sliced else round_syrk(G, out, weights=w)
    if sums is None:
        sums = _zeros(G, G.shape[1], out)
        if not (sliced and _add_normwise(sums, G, w)):
            add_syrk(sums, G, weights=w)
    return to_origin(_finish(G, sums, out, "G'WG"), G.origin)


@placed
def gram(G, weights=None, *, out=None):
    """Raw weighted Gram matrix of the samples, W^1/2 G G' W^1/2.

    Parameters
    ----------
    G : array (n, p)
        Scores, as in `syrk`.
    weights : array (n,), optional
        Real, finite, >= 0.
    out : numpy.ndarray (n, n), optional
        C-ordered array of the result's dtype to write into.

    Returns
    -------
    array (n, n)
        Both triangles, symmetric (Hermitian) to the bit, in the dtype of G.

    Raises
    ------
    InputError
        For bad operands, for a row of G that is not finite, or if the sum overflows.

    Notes
    -----
    n (n + 1) p flops; reads G once. docs/math.md section 9.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.gram(np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([[ 5., 11.],
           [11., 25.]])
    """
    G = as_scores(G)
    w = as_weights(weights, G.shape[0])
    out = _checked(out, G, G.shape[0], weights)
    sums = _zeros(G, G.shape[0], out)
    with np.errstate(over="ignore", invalid="ignore"):  # seen to below
        add_gram(sums, G)
    if w is not None and _out_of_range(G, sums.diagonal().real, w):
        sums[:] = 0
        _add_weighted_gram(sums, G, np.sqrt(w)[:, np.newaxis])
    else:
        scale_rows_and_columns(sums, w)
    return to_origin(_finish(G, sums, out, "GG'"), G.origin)


SCALED = 64  # rows of a Gram matrix weighted at a time
# By bytes of a real: sums of squares below have lost digits to underflow
FAINT = {4: 2.0**-110, 8: 2.0**-970}


def _out_of_range(G, squares, weights):
    """True if weights could make up for squares of rows that leave the range."""
    least = FAINT[np.empty(0, G.dtype).real.itemsize]
    with np.errstate(over="ignore", invalid="ignore"):
        large = np.isinf(squares) | np.isinf(squares * weights)
        small = (squares < least) & (weights > 1)
    if large.any() or (small & (squares > 0)).any():
        return True
    return any(G.rows(row, row + 1).any() for row in np.flatnonzero(small))  # or they are zero


def _add_weighted_gram(sums, G, root):
    """The Gram matrix of rows that are weighted, in double, before they are multiplied."""
    p = G.shape[1]
    step = max(G.slice_columns // 2, 1)
    for lo in range(0, p, step):
        panel = G.columns(lo, min(lo + step, p)).astype(sums.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            panel *= root
        add_gram(sums, as_scores(panel))


def scale_rows_and_columns(sums, weights):
    """sums[i, j] *= sqrt(weights_i) sqrt(weights_j), in place: by the product of both, a few rows
    at a time, since one of them alone may leave the range."""
    if weights is None:
        return
    root = np.sqrt(weights)
    for lo in range(0, len(sums), SCALED):
        hi = lo + SCALED
        sums[lo:hi, :hi] *= root[lo:hi, np.newaxis] * root[:hi]


def _apply(function, G, rows):
    """function(real-compatible rows) for rows that may be complex while G is real."""
    if rows.dtype.kind == "c" and G.dtype.kind != "c":
        both = function(np.concatenate([rows.real, rows.imag]))
        k = len(rows)
        return both[:k] + 1j * both[k:]
    return function(rows)


def _from_rows(G, rows, single, dtype, what):
    y = rows
    if rows.dtype != dtype:
        with np.errstate(over="ignore"):
            y = rows.astype(dtype)
    check_finite(G, y, what)
    return to_origin(y[0] if single else np.ascontiguousarray(y.T), G.origin)


@placed
def fvp(G, v, weights=None):
    """Raw Fisher-vector product G'(w o (G v)), in one pass over G.

    Parameters
    ----------
    G : array (n, p)
        Scores, as in `syrk`.
    v : array (p,) or (p, k)
        Vectors; complex ones are fine with real G.
    weights : array (n,), optional
        Real, finite, >= 0.

    Returns
    -------
    array (p,) or (p, k)

    Raises
    ------
    InputError
        For bad operands, for a row of G that is not finite, or if the product overflows.

    Notes
    -----
    4 n p k flops; reads G once while rows, or a thread's share of them, fit a cache, else twice.
    docs/math.md I3.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.fvp(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 0.0]))
    array([10., 14.])
    """
    G = as_scores(G)
    rows, single = as_vectors(v, G.shape[1], G.dtype, "v")
    w = as_weights(weights, G.shape[0])

    y = _apply(lambda v: fresh_sums("fvp", G, v, weights=w), G, rows)
    return _from_rows(G, y, single, rows.dtype, "G'(w o Gv)")


@placed
def matvec(G, v):
    """G v for v (p,) or (p, k).

    Raises
    ------
    InputError
        For bad operands, for a row of G that is not finite, or if the product overflows.

    Notes
    -----
    2 n p k flops; reads G once. Block sums along a row are added in double.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.matvec(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 1.0]))
    array([3., 7.])
    """
    G = as_scores(G)
    rows, single = as_vectors(v, G.shape[1], G.dtype, "v")
    y = _apply(lambda v: products(G, v), G, rows)
    return _from_rows(G, y, single, rows.dtype, "Gv")


@placed
def rmatvec(G, u):
    """G'u for u (n,) or (n, k); ' is the conjugate transpose.

    Raises
    ------
    InputError
        For bad operands, for a row of G that is not finite, or if the product overflows.

    Notes
    -----
    2 n p k flops; reads G once. Sums over 256 samples are added in double.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.rmatvec(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 1.0]))
    array([4., 6.])
    """
    G = as_scores(G)
    rows, single = as_vectors(u, G.shape[0], G.dtype, "u", axis="n")

    y = _apply(lambda u: fresh_sums("rmatvec", G, u), G, rows)
    return _from_rows(G, y, single, rows.dtype, "G'u")


@placed
def diag(G, weights=None):
    """Diagonal of G' diag(w) G: the sum of w_n |G_n|^2, (p,) and real.

    Raises
    ------
    InputError
        For bad operands, for a row of G that is not finite, or if the sum overflows.

    Notes
    -----
    3 n p flops; reads G once. The square is inside the sum: docs/math.md F11.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.diag(np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([10., 20.])
    """
    G = as_scores(G)
    w = as_weights(weights, G.shape[0])
    y = fresh_sums("diag", G, weights=w)
    with np.errstate(over="ignore"):
        y = y.astype(np.empty(0, G.dtype).real.dtype, copy=False)
    check_finite(G, y, "diag")
    return to_origin(y, G.origin)
