"""Who runs what: per operation, the inputs and one function per contender.

A contender is called as ``CONTENDERS[op][name](*inputs(case))`` and returns a new result, so what a
user pays (allocation, copies, mirroring a triangle) is inside the time. Each gets row-major scores;
the vendors read them as the transposed column-major matrix, without a copy.
"""

import zlib
from itertools import pairwise

import numpy as np
from scipy.linalg import blas, lapack

import fastfisher as ff
from fastfisher.planning import choose

from .cases import DTYPES
from .mkl import mkl

DAMPING = 1e-3


# Inputs --------------------------------------------------------------------------------------


def inputs(case):
    """The operands of a case: the same numbers for every contender and every run."""
    rng = np.random.default_rng(zlib.crc32(case.id.encode()))
    dtype = np.dtype(DTYPES[case.dtype])

    def normal(*shape):
        if dtype.kind == "f":
            return rng.standard_normal(shape, dtype)
        parts = rng.standard_normal((*shape, 2), dtype.type(0).real.dtype)
        return parts.view(dtype)[..., 0]

    match case.op, case.shape:
        case "syrk" | "gram", (n, p):
            return (normal(n, p),)
        case "fvp", (n, p, k):
            return normal(n, p), normal(p) if k == 1 else normal(p, k)
        case "cholesky", (n,):
            return (_positive_definite(normal(n, n)),)
        case "cho_solve", (n, k):
            L = np.linalg.cholesky(_positive_definite(normal(n, n)))
            return L, normal(n) if k == 1 else normal(n, k)
        case "solve", (n, p):
            G = normal(n, p)
            if case.spectrum == "exp":
                _give_exponential_spectrum(G, normal(p))
            return G, normal(n)
        case "batched_solve", (n, p):
            return _positive_definite(normal(n, p, p)), normal(n, p)
        case "layered_gram", (n, *widths):
            return ([(normal(n, d_in), normal(n, d_out)) for d_in, d_out in pairwise(widths)],)
    raise ValueError(f"no inputs for {case.id}")


def _positive_definite(B):
    p = B.shape[-1]
    A = B @ B.conj().swapaxes(-1, -2)
    A /= p
    np.einsum("...ii->...i", A)[...] += 1
    return A


def _give_exponential_spectrum(G, direction):
    # Scaled columns, then one reflection: a diagonal Fisher would flatter Jacobi and CG.
    G *= np.logspace(0, -3, G.shape[1], dtype=G.real.dtype)
    direction /= np.linalg.norm(direction)
    G -= np.outer(2 * (G @ direction.conj()), direction)


def _add_to_diagonal(A, value):
    np.einsum("ii->i", A)[...] += value
    return A


# NumPy ---------------------------------------------------------------------------------------


def _numpy_solve(G, coef):
    n, p = G.shape
    small = G.conj().T @ G if p <= n else G @ G.conj().T
    _add_to_diagonal(small, n * DAMPING)
    if p <= n:
        return np.linalg.solve(small, (coef.conj() @ G).conj())
    return (np.linalg.solve(small, coef).conj() @ G).conj()


def _numpy_explicit_gram(layers, limit=4e9):
    n, sizes = len(layers[0][0]), [A.shape[1] * E.shape[1] for A, E in layers]
    nbytes = n * sum(sizes) * layers[0][0].itemsize
    if nbytes > limit:
        raise MemoryError(f"the explicit scores would take {nbytes / 1e9:.0f} GB")
    G = np.empty((n, sum(sizes)), layers[0][0].dtype)
    columns = np.split(G, np.cumsum(sizes)[:-1], axis=1)
    for block, (A, E) in zip(columns, layers, strict=True):
        np.multiply(E[:, :, None], A[:, None, :], out=block.reshape(n, E.shape[1], A.shape[1]))
    return G @ G.T


# SciPy's BLAS and LAPACK ---------------------------------------------------------------------
# With the row-major G read as column-major G.T, herk gives the conjugate of the wanted matrix in
# the lower triangle; its transpose is the wanted matrix in the upper one.


def _blas(name, a):
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


def _scipy_fvp(G, v):
    if v.ndim == 1:
        gemv = _blas("gemv", G)
        return gemv(1.0, G.T, gemv(1.0, G.T, v, trans=1))
    gemm = _blas("gemm", G)
    return gemm(1.0, G.T, gemm(1.0, G.T, v, trans_a=1))


def _scipy_cholesky(A):
    # The transpose of the symmetric A: column-major for LAPACK, and its lower factor is ours.
    A = _add_to_diagonal(A.copy().T, DAMPING)
    U, _ = _blas("potrf", A)(A, lower=0, overwrite_a=1, clean=1)
    return U.T


def _scipy_cho_solve(L, b):
    x, _ = _blas("potrs", L)(L.T, b, lower=0)
    return x


def _scipy_solve(G, coef):
    n, p = G.shape
    small = _blas("herk", G)(1.0, G.T, trans=0 if p <= n else 2, lower=1)
    _add_to_diagonal(small, n * DAMPING)
    factor, _ = _blas("potrf", G)(small, lower=1, overwrite_a=1, clean=0)
    potrs, gemv = _blas("potrs", G), _blas("gemv", G)
    if p <= n:
        return potrs(factor, gemv(1.0, G.T, coef.conj()), lower=1)[0].conj()
    return gemv(1.0, G.T, potrs(factor, coef.conj(), lower=1)[0]).conj()


# MKL -----------------------------------------------------------------------------------------


def _mkl_cholesky(A):
    return np.tril(mkl.potrf(_add_to_diagonal(A.copy(), DAMPING)))


def _mkl_cho_solve(L, b):
    return mkl.potrs(L, b.copy(order="F"))


def _mkl_solve(G, coef):
    n, p = G.shape
    L = mkl.potrf(_add_to_diagonal(mkl.herk_lower(G, adjoint=p <= n), n * DAMPING))
    if p <= n:
        return mkl.potrs(L, mkl.product(G, coef, adjoint=True))
    return mkl.product(G, mkl.potrs(L, coef.copy()), adjoint=True)


def _mkl_layered_gram(layers):
    total = sum(
        mkl.herk_lower(A, adjoint=False) * mkl.herk_lower(E, adjoint=False) for A, E in layers
    )
    return mirror(total.T)


# The table -----------------------------------------------------------------------------------

CONTENDERS = {
    "syrk": {
        "fastfisher": lambda G: ff.ops.syrk(G),
        "numpy": lambda G: G.conj().T @ G,
        "scipy": lambda G: mirror(_blas("herk", G)(1.0, G.T, lower=1).T),
        "scipy-gemm": lambda G: _blas("gemm", G)(1.0, G.T, G.T, trans_b=2).T,
        "mkl": lambda G: mirror(mkl.herk_lower(G, adjoint=True).T).T,
    },
    "gram": {
        "fastfisher": lambda G: ff.ops.gram(G),
        "numpy": lambda G: G @ G.conj().T,
        "scipy": lambda G: mirror(_blas("herk", G)(1.0, G.T, trans=2, lower=1).T),
        "scipy-gemm": lambda G: _blas("gemm", G)(1.0, G.T, G.T, trans_a=2).T,
        "mkl": lambda G: mirror(mkl.herk_lower(G, adjoint=False).T).T,
    },
    "fvp": {
        "fastfisher": lambda G, v: ff.ops.fvp(G, v),
        "numpy": lambda G, v: G.T @ (G @ v),
        "scipy": _scipy_fvp,
        "mkl": lambda G, v: mkl.product(G, mkl.product(G, v, adjoint=False), adjoint=True),
    },
    "cholesky": {
        "fastfisher": lambda A: ff.ops.cholesky(A, damping=DAMPING),
        "numpy": lambda A: np.linalg.cholesky(A + DAMPING * np.eye(len(A), dtype=A.dtype)),
        "scipy": _scipy_cholesky,
        "mkl": _mkl_cholesky,
    },
    "cho_solve": {
        "fastfisher": lambda L, b: ff.ops.cho_solve(L, b),
        "scipy": _scipy_cho_solve,
        "mkl": _mkl_cho_solve,
    },
    "solve": {
        "fastfisher": lambda G, coef: ff.solve(G, coef=coef, damping=DAMPING).x,
        "numpy": _numpy_solve,
        "scipy": _scipy_solve,
        "mkl": _mkl_solve,
    },
    "batched_solve": {
        "fastfisher": lambda F, g: ff.ops.batched_solve(F, g)[0],
        "numpy": lambda F, g: np.linalg.solve(F, g[..., None])[..., 0],
    },
    "layered_gram": {
        "fastfisher": lambda layers: ff.ops.layered_gram(layers),
        "numpy": lambda layers: sum((A @ A.T) * (E @ E.T) for A, E in layers),
        "numpy-explicit": _numpy_explicit_gram,
        "mkl": _mkl_layered_gram,
    },
}


def _without_vendors(function):
    def call(*operands):
        with ff.options(reproducible=True):
            return function(*operands)

    return call


# What our own kernels do where the table prefers a vendor's: the ground for changing the table.
for _table in CONTENDERS.values():
    _table["fastfisher-numba"] = _without_vendors(_table["fastfisher"])


def names():
    """Every contender that can run here, ours first."""
    every = dict.fromkeys(name for table in CONTENDERS.values() for name in table)
    return [name for name in every if not name.startswith("mkl") or mkl.available]


def chosen_kernel(case):
    """What our table of choices takes for this case."""
    dtype = np.dtype(DTYPES[case.dtype]).name
    if case.op == "solve":
        plan = ff.plan(*case.shape, dtype=dtype)
        kernels = dict.fromkeys(stage.kernel for stage in plan.stages)
        return f"{plan.method}: {', '.join(kernels)}"
    op, axis = {
        "syrk": ("syrk", 1),
        "gram": ("gram", 0),
        "fvp": ("fvp", 2),
        "cholesky": ("cholesky", 0),
        "cho_solve": ("solve_lower", 0),
        "batched_solve": ("batched_solve", 1),
        "layered_gram": ("layered_gram", 0),
    }[case.op]
    return choose(op, case.shape[axis], dtype).name
