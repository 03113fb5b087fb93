"""The few MKL routines that the contenders need, through ctypes on libmkl_rt.

It comes with ``pip install mkl``; MKLROOT names another installation.

Row-major arrays in and out. LAPACK is called column-major on the same memory, which is the
transposed matrix, because LAPACKE's own row-major mode copies.
"""

import ctypes
import functools
import os
import site
import sys
from pathlib import Path

import numpy as np

ROW_MAJOR, COLUMN_MAJOR = 101, 102
NO_TRANS, TRANS, CONJ_TRANS = 111, 112, 113
LOWER = 122
UPLO = ctypes.c_char(b"U")  # row-major lower


def _find_library():
    prefixes = [os.environ.get("MKLROOT"), sys.prefix, sys.base_prefix, site.getuserbase()]
    for prefix in filter(None, prefixes):
        found = sorted(Path(prefix, "lib").glob("libmkl_rt.so*"))
        if found:
            return found[-1]
    return None


def _scalar(dtype, value):
    """A real factor as the ABI wants it: by value if real, by address if complex."""
    if dtype.kind == "c":
        return np.array([value], dtype).ctypes.data_as(ctypes.c_void_p)
    return (ctypes.c_double if dtype.char == "d" else ctypes.c_float)(value)


def _address(a):
    return ctypes.c_void_p(a.ctypes.data)


class Mkl:
    """libmkl_rt, loaded on first use."""

    @property
    def available(self):
        """Whether the library was found."""
        return _find_library() is not None

    @functools.cached_property
    def _library(self):
        return ctypes.CDLL(str(_find_library()))

    @property
    def version(self):
        """MKL's own version line."""
        text = ctypes.create_string_buffer(200)
        self._library.mkl_get_version_string(text, len(text))
        return text.value.decode().strip()

    @property
    def threads(self):
        """Threads it will use."""
        return self._library.MKL_Get_Max_Threads()

    def _call(self, library, name, a, *arguments):
        prefix = {"f": "s", "d": "d", "F": "c", "D": "z"}[a.dtype.char]
        return getattr(self._library, f"{library}_{prefix}{name}")(*arguments)

    def herk_lower(self, G, *, adjoint):
        """G'G (adjoint) or G G', lower triangle, the upper one zero."""
        n, p = G.shape
        order, depth = (p, n) if adjoint else (n, p)
        C = np.zeros((order, order), G.dtype)
        real = G.real.dtype
        is_complex = G.dtype.kind == "c"
        trans = (CONJ_TRANS if is_complex else TRANS) if adjoint else NO_TRANS
        self._call(
            "cblas", "herk" if is_complex else "syrk", G, ROW_MAJOR, LOWER, trans, order, depth,
            _scalar(real, 1.0), _address(G), p, _scalar(real, 0.0), _address(C), order,
        )  # fmt: skip
        return C

    def product(self, G, v, *, adjoint):
        """G v or G'v; v is a vector or a row-major matrix."""
        n, p = G.shape
        k = 1 if v.ndim == 1 else v.shape[1]
        trans = (CONJ_TRANS if G.dtype.kind == "c" else TRANS) if adjoint else NO_TRANS
        rows, depth = (p, n) if adjoint else (n, p)
        y = np.empty((rows, *v.shape[1:]), G.dtype)
        one, zero = _scalar(G.dtype, 1.0), _scalar(G.dtype, 0.0)
        if v.ndim == 1:
            self._call(
                "cblas", "gemv", G, ROW_MAJOR, trans, n, p,
                one, _address(G), p, _address(v), 1, zero, _address(y), 1,
            )  # fmt: skip
        else:
            self._call(
                "cblas", "gemm", G, ROW_MAJOR, trans, NO_TRANS, rows, k, depth,
                one, _address(G), p, _address(v), k, zero, _address(y), k,
            )  # fmt: skip
        return y

    def potrf(self, A):
        """Factor the row-major lower triangle of A in place; the upper one is left as it is."""
        n = len(A)
        info = self._call("LAPACKE", "potrf", A, COLUMN_MAJOR, UPLO, n, _address(A), n)
        if info:
            raise np.linalg.LinAlgError(f"pivot {info} is not positive")
        return A

    def potrs(self, L, b):
        """Solve L L' x = b in place of a column-major b."""
        n, k = len(L), 1 if b.ndim == 1 else b.shape[1]
        # Column-major LAPACK sees the conjugate of the matrix.
        b = np.conjugate(b, out=b)
        self._call("LAPACKE", "potrs", L, COLUMN_MAJOR, UPLO, n, k, _address(L), n, _address(b), n)
        return np.conjugate(b, out=b)


mkl = Mkl()
