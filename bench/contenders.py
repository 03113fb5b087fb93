"""Who runs what: per operation, the inputs and one function per contender.

A contender is called as ``CONTENDERS[op][name](*inputs(case))`` and returns a new result, so what a
user pays (allocation, copies, mirroring a triangle) is inside the time. Each gets row-major scores;
the vendors read them as the transposed column-major matrix, without a copy.
"""

import math
import zlib
from itertools import pairwise

import numpy as np
from scipy.linalg import blas, lapack

import fastfisher as ff
from fastfisher.arrays import contiguous
from fastfisher.planning import choose

from . import torch_ops
from .cases import DTYPES
from .mkl import mkl
from .torch_ops import ROUTINES as torch
from .workloads import WORKLOADS

DAMPING = 1e-3
PERIOD = 4_000_037
GEMM_FLOPS = 5e9


# Inputs --------------------------------------------------------------------------------------


def inputs(case):
    """The operands of a case: the same numbers for every contender and every run."""
    rng = np.random.default_rng(zlib.crc32(case.id.encode()))
    dtype = np.dtype(DTYPES[case.dtype])

    def normal(*shape):
        # Numbers repeat after PERIOD, a prime: rows of a large matrix still differ.
        count = min(math.prod(shape), PERIOD)
        real = np.dtype(np.float32) if dtype.itemsize <= 4 else dtype.type(0).real.dtype
        numbers = rng.standard_normal(count * (2 if dtype.kind == "c" else 1), real)
        numbers = numbers.view(dtype) if dtype.kind == "c" else numbers.astype(dtype, copy=False)
        filled = np.empty(shape, dtype)
        flat = filled.reshape(-1)
        for lo in range(0, flat.size, PERIOD):
            part = flat[lo : lo + PERIOD]
            part[:] = numbers[: len(part)]
        return filled

    if case.op in WORKLOADS:
        return WORKLOADS[case.op].inputs(normal, case.shape)
    match case.op, case.shape:
        case "syrk" | "gram" | "diag" | "convert", (n, p):
            return (normal(n, p),)
        case "fvp" | "matvec", (n, p, k):
            return normal(n, p), _columns(normal, case, p, k)
        case "rmatvec", (n, p, k):
            return normal(n, p), _columns(normal, case, n, k)
        case "cholesky", (n,):
            return (_positive_definite(normal(n, n)),)
        case "cho_solve" | "trsm", (n, k):
            L = np.linalg.cholesky(_positive_definite(normal(n, n)))
            return L, normal(n) if k == 1 else normal(n, k)
        case "solve", (n, p):
            G = normal(n, p)
            if case.spectrum == "exp":
                _give_exponential_spectrum(G, normal(p))
            return G, normal(n)
        case "batched_solve", (n, p):
            return _positive_definite(normal(n, p, p)), normal(n, p)
        case "metric_solve", (n, s, p):
            return normal(n, s, p), normal(n, p)
        case "block_syrk", (n, p, d):
            return normal(n, p), d
        case "block_cholesky", (n, d):
            return (_positive_definite(normal(n, d, d)),)
        case "layered_gram", (n, *widths):
            return ([(normal(n, d_in), normal(n, d_out)) for d_in, d_out in pairwise(widths)],)
    raise ValueError(f"no inputs for {case.id}")


def _columns(normal, case, size, k):
    vectors = normal(size) if k == 1 else normal(size, k)
    return vectors.astype(case.dtype_computed)


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


def numpy_explicit_gram(layers, limit=2e9):
    """The Gram matrix of layered scores that are formed first."""
    n, sizes = len(layers[0][0]), [A.shape[1] * E.shape[1] for A, E in layers]
    nbytes = n * sum(sizes) * layers[0][0].itemsize
    if nbytes > limit:
        raise MemoryError(f"the explicit scores would take {nbytes / 1e9:.0f} GB")
    G = np.empty((n, sum(sizes)), layers[0][0].dtype)
    columns = np.split(G, np.cumsum(sizes)[:-1], axis=1)
    for block, (A, E) in zip(columns, layers, strict=True):
        np.multiply(E[:, :, None], A[:, None, :], out=block.reshape(n, E.shape[1], A.shape[1]))
    return G @ G.T


def _numpy_metric_solve(scores, g):
    # As NGBoost forms it, but without storing the products of single samples.
    M = np.einsum("nsp,nsq->npq", scores, scores, optimize=True) / scores.shape[1]
    np.einsum("nii->ni", M)[...] += DAMPING
    return np.linalg.solve(M, g[..., None])[..., 0]


def _numpy_block_syrk(G, d):
    blocks = G.reshape(len(G), -1, d).transpose(1, 0, 2)
    return blocks.swapaxes(1, 2) @ blocks


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


def _scipy_trsm(L, b):
    # Column-major L' is upper; b is copied to the column-major result.
    return _blas("trsm", L)(1.0, L.T, b.reshape(len(b), -1), lower=0, trans_a=1).reshape(b.shape)


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


# Ours where there is no public function --------------------------------------------------------


def _our_trsm(L, b):
    x = np.array(b.reshape(len(b), -1).T, order="C")
    choose("solve_lower", len(L), L.dtype).load()(L, x, 0)
    return x.T.reshape(b.shape)


# The table -----------------------------------------------------------------------------------

CONTENDERS = {
    "syrk": {
        "fastfisher": lambda G: ff.ops.syrk(G),
        "numpy": lambda G: G.conj().T @ G,
        "scipy": lambda G: mirror(_blas("herk", G)(1.0, G.T, lower=1).T),
        "scipy-gemm": lambda G: _blas("gemm", G)(1.0, G.T, G.T, trans_b=2).T,
        "mkl": lambda G: mirror(mkl.herk_lower(G, adjoint=True).T).T,
        "torch": torch["syrk"],
    },
    "gram": {
        "fastfisher": lambda G: ff.ops.gram(G),
        "numpy": lambda G: G @ G.conj().T,
        "scipy": lambda G: mirror(_blas("herk", G)(1.0, G.T, trans=2, lower=1).T),
        "scipy-gemm": lambda G: _blas("gemm", G)(1.0, G.T, G.T, trans_a=2).T,
        "mkl": lambda G: mirror(mkl.herk_lower(G, adjoint=False).T).T,
        "torch": torch["gram"],
    },
    "fvp": {
        "fastfisher": lambda G, v: ff.ops.fvp(G, v),
        "numpy": lambda G, v: G.T @ (G @ v),
        "scipy": _scipy_fvp,
        "mkl": lambda G, v: mkl.product(G, mkl.product(G, v, adjoint=False), adjoint=True),
        "torch": torch["fvp"],
    },
    "matvec": {
        "fastfisher": lambda G, v: ff.ops.matvec(G, v),
        "numpy": lambda G, v: G @ v,
        "mkl": lambda G, v: mkl.product(G, v, adjoint=False),
        "torch": torch["matvec"],
    },
    "rmatvec": {
        "fastfisher": lambda G, u: ff.ops.rmatvec(G, u),
        "numpy": lambda G, u: G.T @ u,
        "mkl": lambda G, u: mkl.product(G, u, adjoint=True),
        "torch": torch["rmatvec"],
    },
    "diag": {
        "fastfisher": lambda G: ff.ops.diag(G),
        "numpy": lambda G: np.einsum("np,np->p", G, G),
        "numpy-squares": lambda G: (G * G).sum(axis=0),
        "torch": torch["diag"],
    },
    "convert": {
        "fastfisher": lambda a: contiguous(a, np.dtype(np.float32)),
        "numpy": lambda a: a.astype(np.float32),
        "torch": torch["convert"],
    },
    "trsm": {
        "fastfisher": _our_trsm,
        "scipy": _scipy_trsm,
        "torch": torch["trsm"],
    },
    "cholesky": {
        "fastfisher": lambda A: ff.ops.cholesky(A, damping=DAMPING),
        "numpy": lambda A: np.linalg.cholesky(A + DAMPING * np.eye(len(A), dtype=A.dtype)),
        "scipy": _scipy_cholesky,
        "mkl": _mkl_cholesky,
        "torch": lambda A: torch["cholesky"](A, DAMPING),
    },
    "cho_solve": {
        "fastfisher": lambda L, b: ff.ops.cho_solve(L, b),
        "scipy": _scipy_cho_solve,
        "mkl": _mkl_cho_solve,
        "torch": torch["cho_solve"],
    },
    "solve": {
        "fastfisher": lambda G, coef: ff.solve(G, coef=coef, damping=DAMPING).x,
        "numpy": _numpy_solve,
        "scipy": _scipy_solve,
        "mkl": _mkl_solve,
        "torch": lambda G, coef: torch["solve"](G, coef, DAMPING),
    },
    "batched_solve": {
        "fastfisher": lambda F, g: ff.ops.batched_solve(F, g)[0],
        "numpy": lambda F, g: np.linalg.solve(F, g[..., None])[..., 0],
        "torch": torch["batched_solve"],
    },
    "metric_solve": {
        "fastfisher": lambda a, g: ff.ops.batched_metric_solve(a, g, damping=DAMPING)[0],
        "numpy": _numpy_metric_solve,
        "torch": lambda a, g: torch["metric_solve"](a, g, DAMPING),
    },
    "block_syrk": {
        "fastfisher": lambda G, d: ff.ops.block_syrk(G, d),
        "numpy": _numpy_block_syrk,
        "torch": torch["block_syrk"],
    },
    "block_cholesky": {
        "fastfisher": lambda A: ff.ops.block_cholesky(A, damping=DAMPING)[0],
        "numpy": lambda A: np.linalg.cholesky(A + DAMPING * np.eye(A.shape[1], dtype=A.dtype)),
        "torch": lambda A: torch["block_cholesky"](A, DAMPING),
    },
    "layered_gram": {
        "fastfisher": lambda layers: ff.ops.layered_gram(layers),
        "numpy": lambda layers: sum((A @ A.T) * (E @ E.T) for A, E in layers),
        "numpy-explicit": numpy_explicit_gram,
        "mkl": _mkl_layered_gram,
        "torch": torch["layered_gram"],
    },
}

for _name, _workload in WORKLOADS.items():
    CONTENDERS[_name] = {"fastfisher": _workload.ours, "numpy": _workload.peer}


def _without_vendors(function):
    def call(*operands):
        with ff.options(reproducible=True):
            return function(*operands)

    return call


# What our own kernels do where the table prefers a vendor's: the ground for changing the table.
for _table in CONTENDERS.values():
    _table["fastfisher-numba"] = _without_vendors(_table["fastfisher"])


def contender(case, name):
    """What a contender calls; the vendors read half precision by converting it first."""
    function = CONTENDERS[case.op][name]
    if case.dtype != "h" or case.op == "convert" or name.startswith("fastfisher"):
        return function
    return lambda G, *rest: function(G.astype(case.dtype_computed), *rest)


def entrants(case, names):
    """Those of `names` that take part: both triangles are hopeless where arithmetic decides."""
    gemm = case.flops <= GEMM_FLOPS
    here = [name for name in names if name.partition("@")[0] in CONTENDERS[case.op]]
    return [name for name in here if gemm or not name.startswith("scipy-gemm")]


def names():
    """Every contender that can run here, ours first."""
    every = dict.fromkeys(name for table in CONTENDERS.values() for name in table)
    here = {"mkl": mkl.available, "torch": torch_ops.available}
    return [name for name in every if here.get(name, True)]


# The op whose entry of the table decides, and the axis of the shape that is its size.
DECIDING = {
    "syrk": ("syrk", 1),
    "gram": ("gram", 0),
    "fvp": ("fvp", 2),
    "matvec": ("matvec", 2),
    "rmatvec": ("rmatvec", 2),
    "diag": ("diag", 1),
    "cholesky": ("cholesky", 0),
    "trsm": ("solve_lower", 0),
    "cho_solve": ("solve_lower", 0),
    "batched_solve": ("batched_solve", 1),
    "metric_solve": ("batched_metric_solve", 2),
    "block_syrk": ("block_syrk", 2),
    "block_cholesky": ("block_cholesky", 1),
    "layered_gram": ("layered_gram", 0),
}


def chosen_kernel(case):
    """What our table of choices takes for this case."""
    dtype = case.dtype_computed.name
    if case.op == "solve":
        plan = ff.plan(*case.shape, dtype=dtype)
        kernels = dict.fromkeys(stage.kernel for stage in plan.stages)
        return f"{plan.method}: {', '.join(kernels)}"
    if case.op in WORKLOADS:
        return WORKLOADS[case.op].title
    if case.op == "convert":
        return "numpy"
    op, axis = DECIDING[case.op]
    return choose(op, case.shape[axis], dtype).name
