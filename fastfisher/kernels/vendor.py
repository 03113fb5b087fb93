"""SciPy's BLAS and LAPACK as entries of the table: same names, arguments and effects as cpu/.

A C-ordered lower triangle is a Fortran-ordered upper one, so every call below works in place.
Bits depend on the number of BLAS threads.
"""

import ctypes
import functools
import math

import numpy as np
from numba.extending import get_cython_function_address

from .. import linalg

# Terms summed in the dtype of the scores before they are added in double: errors stop growing.
BLOCK = 4096
FVP_BYTES = 4 << 20  # of scores between the two products of fvp
# From this order on a factor is read once for each of so many right-hand sides, by one thread: for
# several at once OpenBLAS copies it and wakes threads, which have to wait for milliseconds where
# ours, or those of another BLAS (NumPy's), are still awake.
LEAST, FEW = 200, 8
ALONE = 80  # order up to which calls cost more than the copy

__all__ = [
    "cholesky",
    "fvp",
    "gram",
    "inverse_diagonal",
    "matvec",
    "rmatvec",
    "solve_lower",
    "solve_lower_adjoint",
    "substitute",
    "syrk",
]


PREFIX = {"f": "s", "d": "d", "F": "c", "D": "z"}


def _routine(library, name, dtype):
    return getattr(library, PREFIX[dtype.char] + name)


def _rank_k(c, a, trans):
    """Lower triangle of C-ordered c += product of the Fortran-ordered `a` with its adjoint."""
    complex_ = a.dtype.kind == "c"
    update = _routine(linalg.blas, "herk" if complex_ else "syrk", a.dtype)
    trans = (2 if complex_ else 1) if trans else 0
    if a.dtype == c.dtype:
        update(1.0, a, beta=1.0, c=c.T, trans=trans, lower=0, overwrite_c=1)
        return
    part = np.empty(c.shape, a.dtype)
    summed = a.shape[0] if trans else a.shape[1]
    for lo in range(0, summed, BLOCK):
        block = a[lo : lo + BLOCK] if trans else a[:, lo : lo + BLOCK]
        part[:] = 0
        update(1.0, block, beta=0.0, c=part.T, trans=trans, lower=0, overwrite_c=1)
        c += part


def syrk(c, a, scale, shift):
    if not a.size:
        return
    if shift.size:
        a = a - shift
    if scale.size:
        a = np.multiply(a, scale[:, np.newaxis], out=a if shift.size else None)
    _rank_k(c, a.T, trans=False)


def gram(c, a, lo, hi, weight, shift):
    if not a.size:
        return
    if shift.size or weight.size or (lo, hi) != (0, a.shape[1]):
        a = np.array(a[:, lo:hi], order="C")
        if shift.size:
            a -= shift[lo:hi]
        if weight.size:
            a *= np.sqrt(weight[lo:hi])
    _rank_k(c, a.T, trans=True)


@functools.cache
def _gemm(dtype):
    """gemm of the BLAS that also factors and solves, for parts of arrays as they lie; SciPy's own
    wrapper would copy them. Threads of NumPy's, which wait awake for more work, would cost the
    other ones milliseconds."""
    name = PREFIX[dtype.char] + "gemm"
    place = get_cython_function_address("scipy.linalg.cython_blas", name)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)(place)


def _whole(size):
    """A size for Fortran; whether it reads 32 bits or 64, on a little-endian machine."""
    return ctypes.byref(ctypes.c_int64(size))


def _rows(x):
    """Where rows lie, each in one piece, and how far apart: for BLAS, columns."""
    apart = x.strides[0] // x.itemsize if len(x) > 1 else max(x.shape[1], 1)  # of one: anything
    return x.ctypes.data, _whole(apart)


def _add_product(c, x, a, transposed):
    """c += x a, or x a', all of one dtype, their rows in one piece each."""
    if not (x.size and a.size):
        return
    one = np.ones(1, c.dtype)
    order = map(_whole, (c.shape[1], len(c), x.shape[1]))
    turned, factor = b"T" if transposed else b"N", one.ctypes.data
    _gemm(c.dtype)(turned, b"N", *order, factor, *_rows(a), *_rows(x), factor, *_rows(c))


def _add(y, x, a, transposed):
    """The same for a y that may be of another precision."""
    if y.dtype == a.dtype:
        _add_product(y, x, a, transposed)
        return
    part = np.zeros(y.shape, a.dtype)
    _add_product(part, x, a, transposed)
    y += part


def matvec(y, a, v, shift):
    y[:] = 0
    for lo in range(0, a.shape[1], BLOCK):
        part = a[:, lo : lo + BLOCK]
        part = part - shift[lo : lo + BLOCK] if shift.size else part
        _add(y, v[:, lo : lo + BLOCK], part, True)


def rmatvec(y, a, u, shift):
    for lo in range(0, a.shape[0], BLOCK):
        part = a[lo : lo + BLOCK] - shift if shift.size else a[lo : lo + BLOCK]
        weights = u[:, lo : lo + BLOCK]
        if a.dtype.kind == "c":
            seen = np.zeros(y.shape, a.dtype)
            _add_product(seen, weights.conj(), part, False)
            y += seen.conj()
        else:
            _add(y, weights, part, False)


def fvp(y, a, v, weights, shift):
    if not (a.size and len(v)):
        return
    # A block is still in cache when it is read again; more vectors want taller blocks.
    rows = FVP_BYTES // (a.shape[1] * a.itemsize)
    rows = min(max(rows, 16 * len(v)), BLOCK)
    for lo in range(0, a.shape[0], rows):
        part = a[lo : lo + rows] - shift if shift.size else a[lo : lo + rows]
        # Sums along a row are rounded anyway; only those of several blocks are kept in double.
        t = np.empty((len(v), len(part)), y.dtype if part.shape[1] > BLOCK else a.dtype)
        matvec(t, part, v, shift[:0])
        if weights.size:
            t *= weights[lo : lo + rows]
        rmatvec(y, part, t.astype(a.dtype, copy=False), shift[:0])


def cholesky(l, a=None, damping=0.0):
    if not l.size:
        return 0
    if a is not None:
        l[:] = a
    diagonal = l.reshape(-1)[:: len(l) + 1]
    if damping:
        diagonal += damping
    # A copy's upper triangle is cleaned by LAPACK, which costs less than not copying it.
    _, info = _routine(linalg.lapack, "potrf", l.dtype)(
        l.T, lower=0, overwrite_a=1, clean=int(a is not None)
    )
    pivots = diagonal.real
    if info == 0 and not math.isfinite(pivots.dot(pivots)):
        # OpenBLAS lets a NaN pivot pass with info = 0; finite ones may be large.
        bad = np.flatnonzero(~np.isfinite(pivots))
        info = bad[0] + 1 if bad.size else 0
    return int(info)


def _one_by_one(l, x):
    return len(x) == 1 or (len(l) >= LEAST and len(x) <= FEW)


def _triangular(l, x, trans):
    if _one_by_one(l, x):
        trsv = _routine(linalg.blas, "trsv", l.dtype)
        for row in x:
            trsv(l.T, row, lower=0, trans=trans, overwrite_x=1)
        return
    trsm = _routine(linalg.blas, "trsm", l.dtype)
    # rows of x are right-hand sides: x L^-T as a Fortran-ordered x' with L' upper on the left
    trsm(1.0, l.T, x.T, side=0, lower=0, trans_a=trans, overwrite_b=1)


def solve_lower(l, x, start=0):
    if x.size:
        _triangular(l, x, 1)


def solve_lower_adjoint(l, x):
    if not x.size:
        return
    if l.dtype.kind == "c":
        np.conj(x, out=x)
        _triangular(l, x, 0)
        np.conj(x, out=x)
    else:
        _triangular(l, x, 0)


def substitute(l, x):
    if not x.size:
        return
    if len(l) > ALONE and _one_by_one(l, x):
        solve_lower(l, x)
        solve_lower_adjoint(l, x)
        return
    if l.dtype.kind == "c":
        np.conj(x, out=x)
    _routine(linalg.lapack, "potrs", l.dtype)(l.T, x.T, lower=0, overwrite_b=1)
    if l.dtype.kind == "c":
        np.conj(x, out=x)


def inverse_diagonal(y, l):
    if not l.size:
        return
    inverse, _ = _routine(linalg.lapack, "trtri", l.dtype)(l.T, lower=0)  # of L', upper
    y[:] = np.square(np.abs(np.triu(inverse)), dtype=np.float64).sum(axis=1)
