"""Operations by SciPy's BLAS and LAPACK."""

import numpy as np
from scipy.linalg import blas, lapack

from .cases import DAMPING
from .numpy_ops import add_to_diagonal

# With the row-major G read as column-major G.T, herk gives the conjugate of the wanted matrix in
# the lower triangle; its transpose is the wanted matrix in the upper one.


def routine(name, a):
    """The routine of BLAS or LAPACK for the dtype of a; herk of real scores is syrk."""
    prefix = {"f": "s", "d": "d", "F": "c", "D": "z"}[a.dtype.char]
    if name == "herk" and a.dtype.kind == "f":
        name = "syrk"
    return getattr(blas, prefix + name, None) or getattr(lapack, prefix + name)


def mirror(U, block=256):
    """Fill the lower triangle from the upper one, in place."""
    for i in range(0, len(U), block):
        edge = i + block
        tile = U[i:edge, i:edge]
        tile[...] = np.triu(tile) + np.triu(tile, 1).conj().T
        U[edge:, i:edge] = U[i:edge, edge:].conj().T
    return U


def fvp(G, v):
    """G'(G v)."""
    if v.ndim == 1:
        gemv = routine("gemv", G)
        return gemv(1.0, G.T, gemv(1.0, G.T, v, trans=1))
    gemm = routine("gemm", G)
    return gemm(1.0, G.T, gemm(1.0, G.T, v, trans_a=1))


def cholesky(A):
    """The lower factor of A + lambda I."""
    # The transpose of the symmetric A: column-major for LAPACK, and its lower factor is ours.
    A = add_to_diagonal(A.copy().T, DAMPING)
    U, _ = routine("potrf", A)(A, lower=0, overwrite_a=1, clean=1)
    return U.T


def cho_solve(L, b):
    """(L L')^-1 b."""
    x, _ = routine("potrs", L)(L.T, b, lower=0)
    return x


def trsm(L, b):
    """L^-1 b."""
    # Column-major L' is upper; b is copied to the column-major result.
    return routine("trsm", L)(1.0, L.T, b.reshape(len(b), -1), lower=0, trans_a=1).reshape(b.shape)


def solve(G, coef):
    """(F + lambda I)^-1 of the gradient with these coefficients, by the smaller Gram matrix."""
    n, p = G.shape
    small = routine("herk", G)(1.0, G.T, trans=0 if p <= n else 2, lower=1)
    add_to_diagonal(small, n * DAMPING)
    factor, _ = routine("potrf", G)(small, lower=1, overwrite_a=1, clean=0)
    potrs, gemv = routine("potrs", G), routine("gemv", G)
    if p <= n:
        return potrs(factor, gemv(1.0, G.T, coef.conj()), lower=1)[0].conj()
    return gemv(1.0, G.T, potrs(factor, coef.conj(), lower=1)[0]).conj()
