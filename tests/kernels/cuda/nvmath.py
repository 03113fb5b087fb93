"""`nvmath.bindings` in NumPy, for the simulator: the same functions, on addresses of host memory.

Signatures are those of nvmath-python 1.0: cublas.pxd and cusolverDn.pxd.
"""

import ctypes
from enum import IntEnum
from types import SimpleNamespace

import numpy as np
import scipy.linalg

from fastfisher.kernels import reference

__all__ = ["cublas", "cusolverDn"]


class FillMode(IntEnum):
    LOWER, UPPER = 0, 1


class Operation(IntEnum):
    N, T = 0, 1


class SideMode(IntEnum):
    LEFT, RIGHT = 0, 1


class DiagType(IntEnum):
    NON_UNIT, UNIT = 0, 1


def _seen(pointer, rows, columns, ld, dtype):
    """The column-major matrix at an address."""
    assert ld >= max(rows, 1)
    size = (columns - 1) * ld + rows if rows * columns else 0
    raw = (ctypes.c_char * (size * dtype.itemsize)).from_address(pointer)
    item = dtype.itemsize
    return np.ndarray((rows, columns), dtype, raw, 0, (item, ld * item))


def _number(pointer, dtype):
    return _seen(pointer, 1, 1, 1, dtype)[0, 0]


def _triangle(order, uplo):
    return np.tri(order, dtype=bool) if uplo == FillMode.LOWER else np.tri(order, dtype=bool).T


def _into(out, alpha, product, beta, where=True):
    """out = alpha product + beta out; with beta 0 what was in out counts for nothing."""
    np.copyto(out, alpha * product + (beta * out if beta else 0), where=where)


def _functions(dtype):
    def syrk(handle, uplo, trans, n, k, alpha, a, lda, beta, c, ldc):
        shape = (n, k) if trans == Operation.N else (k, n)
        A, C = _seen(a, *shape, lda, dtype), _seen(c, n, n, ldc, dtype)
        product = A @ A.T if trans == Operation.N else A.T @ A
        _into(C, _number(alpha, dtype), product, _number(beta, dtype), _triangle(n, uplo))

    def gemm(handle, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        A = _seen(a, m, k, lda, dtype) if transa == Operation.N else _seen(a, k, m, lda, dtype).T
        B = _seen(b, k, n, ldb, dtype) if transb == Operation.N else _seen(b, n, k, ldb, dtype).T
        _into(_seen(c, m, n, ldc, dtype), _number(alpha, dtype), A @ B, _number(beta, dtype))

    def trsm(handle, side, uplo, trans, diag, m, n, alpha, a, lda, b, ldb):
        assert side == SideMode.LEFT and diag == DiagType.NON_UNIT
        A, B = _seen(a, m, m, lda, dtype), _seen(b, m, n, ldb, dtype)
        B[:] = _number(alpha, dtype) * scipy.linalg.solve_triangular(
            A, B, lower=uplo == FillMode.LOWER, trans=int(trans), check_finite=False
        )

    return {"syrk": syrk, "gemm": gemm, "trsm": trsm}


def _potrf(dtype):
    def potrf_buffer_size(handle, uplo, n, a, lda):
        return n

    def potrf(handle, uplo, n, a, lda, workspace, lwork, dev_info):
        assert uplo == FillMode.LOWER and workspace and lwork == n
        info = _seen(dev_info, 1, 1, 1, np.dtype(np.int32))
        info[0, 0] = reference.cholesky(_seen(a, n, n, lda, dtype))

    def syevd_buffer_size(handle, jobz, uplo, n, a, lda, w):
        return 2 * n

    def syevd(handle, jobz, uplo, n, a, lda, w, work, lwork, info):
        assert jobz == 1 and work and lwork == 2 * n
        A = _seen(a, n, n, lda, dtype)
        values, vectors = scipy.linalg.eigh(A, lower=uplo == FillMode.LOWER, check_finite=False)
        _seen(w, n, 1, n, dtype)[:, 0], A[:] = values, vectors
        _seen(info, 1, 1, 1, np.dtype(np.int32))[0, 0] = 0

    return {
        "potrf": potrf,
        "potrf_buffer_size": potrf_buffer_size,
        "syevd": syevd,
        "syevd_buffer_size": syevd_buffer_size,
    }


def _library(name, functions):
    """A module with handles, streams and functions for both dtypes."""
    streams = []
    module = SimpleNamespace(__name__=name, create=lambda: 7, streams=streams)
    module.set_stream = lambda handle, stream_id: streams.append((handle, stream_id))
    for letter, kind in (("s", np.float32), ("d", np.float64)):
        for key, function in functions(np.dtype(kind)).items():
            setattr(module, letter + key, function)
    return module


cublas, cusolverDn = _library("cublas", _functions), _library("cusolverDn", _potrf)
cublas.FillMode, cublas.Operation = FillMode, Operation
cublas.SideMode, cublas.DiagType = SideMode, DiagType
