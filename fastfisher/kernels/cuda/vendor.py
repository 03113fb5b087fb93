"""cuBLAS and cuSOLVER through CuPy as entries of the table: names, arguments, effects of this room.

Not part of what the extra `cuda` installs. Calls go on the stream in force.
"""

import contextlib
import functools

import numpy as np

from . import compat, squares

__all__ = [
    "cholesky",
    "eigh",
    "gram",
    "matvec",
    "rmatvec",
    "solve_lower",
    "solve_lower_adjoint",
    "syrk",
]

BLOCK = 4096  # terms summed in the dtype of the scores before they are added in double


@functools.cache
def _cupy():
    import cupy

    return cupy


@contextlib.contextmanager
def _arrays(*arrays):
    """CuPy views of device arrays, inside a block that works on the stream in force."""
    cupy = _cupy()
    pointer = getattr(compat.current_stream(), "handle", 0) or 0
    pointer = int(getattr(pointer, "value", pointer) or 0)
    with cupy.cuda.ExternalStream(pointer) if pointer else contextlib.nullcontext():
        yield [cupy.asarray(x) for x in arrays]


def _add_lower(c, product):
    c += _cupy().tril(product)


def _blocks(length):
    return [slice(lo, min(lo + BLOCK, length)) for lo in range(0, length, BLOCK)]


def _shifted(a, shift):
    return a - shift if shift.size else a


def syrk(c, a, scale, shift):
    with _arrays(c, a, scale, shift) as (c, a, scale, shift):
        for rows in _blocks(len(a)):
            part = _shifted(a[rows], shift)
            part = part * scale[rows, None] if scale.size else part
            _add_lower(c, part.T @ part)


def gram(c, a, lo, hi, weight, shift):
    with _arrays(c, a[:, lo:hi], weight[lo:hi], shift[lo:hi]) as (c, a, weight, shift):
        root = _cupy().sqrt(weight)
        for columns in _blocks(a.shape[1]):
            part = _shifted(a[:, columns], shift[columns])
            part = part * root[columns] if weight.size else part
            _add_lower(c, part @ part.T)


def matvec(y, a, v, shift):
    with _arrays(y, a, v, shift) as (y, a, v, shift):
        y[...] = 0
        for columns in _blocks(a.shape[1]):
            y += v[:, columns] @ _shifted(a[:, columns], shift[columns]).T


def rmatvec(y, a, u, shift):
    with _arrays(y, a, u, shift) as (y, a, u, shift):
        for rows in _blocks(len(a)):
            y += u[:, rows] @ _shifted(a[rows], shift)


def _potrf(full):
    """Factor a symmetric matrix in its C-ordered upper triangle; the status on the device.

    To cuSOLVER that is LOWER, which it is faster at.
    """
    from cupy_backends.cuda.libs import cublas, cusolver

    cupy = _cupy()
    handle, n = cupy.cuda.device.get_cusolver_handle(), len(full)
    kind = "d" if full.dtype == np.float64 else "s"
    where = handle, cublas.CUBLAS_FILL_MODE_LOWER, n, full.data.ptr, n
    room = getattr(cusolver, f"{kind}potrf_bufferSize")(*where)
    work, info = cupy.empty(room, full.dtype), cupy.empty(1, np.int32)
    getattr(cusolver, f"{kind}potrf")(*where, work.data.ptr, room, info.data.ptr)
    return info


def cholesky(l, a=None, damping=0.0):
    if a is not None or damping != 0:
        squares.take_lower(l, l if a is None else a, l.dtype.type(damping))
    info = compat.empty((1,), np.int32)
    with _arrays(l, info) as (matrix, status):
        cupy = _cupy()
        full = cupy.tril(matrix)
        full += cupy.tril(matrix, -1).T
        status[...] = _potrf(full)
        cupy.copyto(matrix, full.T, where=cupy.tri(len(matrix), dtype=bool))
    return info


def eigh(e, a):
    # e  OUT (n,) double;  a  INOUT (n, n) double, its lower triangle; eigenvectors out, in rows
    """Eigenvalues of a, ascending; info (1,) on the device is 0 where they were found."""
    info = compat.empty((1,), np.int32)
    with _arrays(e, a, info) as (values, matrix, status):
        found, columns = _cupy().linalg.eigh(matrix, "L")
        values[...], matrix[...], status[...] = found, columns.T, 0
    return info


def _solve(l, x, trans):
    from cupyx.scipy.linalg import solve_triangular

    with _arrays(l, x) as (l, x):
        x[...] = solve_triangular(l, x.T, lower=True, trans=trans, check_finite=False).T


def solve_lower(l, x, start=0):
    if x.size:
        _solve(l, x, 0)


def solve_lower_adjoint(l, x):
    if x.size:
        _solve(l, x, 1)
