"""Who runs what: per operation, one function per contender.

A contender is called as ``CONTENDERS[op][name](*inputs(case))`` and returns a new result, so what a
user pays (allocation, copies, mirroring a triangle) is inside the time. Each gets row-major scores;
the vendors read them as the transposed column-major matrix, without a copy.
"""

import numpy as np

import fastfisher as ff
from fastfisher.arrays import contiguous
from fastfisher.planning import SIDED, choose

from . import numpy_ops, scipy_ops, torch_ops
from .cases import DAMPING
from .mkl import mkl
from .numpy_ops import add_to_diagonal
from .scipy_ops import mirror, routine
from .torch_ops import ROUTINES as torch
from .workloads import WORKLOADS

GEMM_FLOPS = 5e9


# MKL -----------------------------------------------------------------------------------------


def _mkl_cholesky(A):
    return np.tril(mkl.potrf(add_to_diagonal(A.copy(), DAMPING)))


def _mkl_cho_solve(L, b):
    return mkl.potrs(L, b.copy(order="F"))


def _mkl_solve(G, coef):
    n, p = G.shape
    L = mkl.potrf(add_to_diagonal(mkl.herk_lower(G, adjoint=p <= n), n * DAMPING))
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
    choose("solve_lower", len(L), L.dtype, sides=len(x)).load()(L, x, 0)
    return x.T.reshape(b.shape)


# The table -----------------------------------------------------------------------------------

CONTENDERS = {
    "syrk": {
        "fastfisher": lambda G: ff.ops.syrk(G),
        "numpy": lambda G: G.conj().T @ G,
        "scipy": lambda G: mirror(routine("herk", G)(1.0, G.T, lower=1).T),
        "scipy-gemm": lambda G: routine("gemm", G)(1.0, G.T, G.T, trans_b=2).T,
        "mkl": lambda G: mirror(mkl.herk_lower(G, adjoint=True).T).T,
        "torch": torch["syrk"],
    },
    "gram": {
        "fastfisher": lambda G: ff.ops.gram(G),
        "numpy": lambda G: G @ G.conj().T,
        "scipy": lambda G: mirror(routine("herk", G)(1.0, G.T, trans=2, lower=1).T),
        "scipy-gemm": lambda G: routine("gemm", G)(1.0, G.T, G.T, trans_a=2).T,
        "mkl": lambda G: mirror(mkl.herk_lower(G, adjoint=False).T).T,
        "torch": torch["gram"],
    },
    "fvp": {
        "fastfisher": lambda G, v: ff.ops.fvp(G, v),
        "numpy": lambda G, v: G.T @ (G @ v),
        "scipy": scipy_ops.fvp,
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
        "scipy": scipy_ops.trsm,
        "torch": torch["trsm"],
    },
    "cholesky": {
        "fastfisher": lambda A: ff.ops.cholesky(A, damping=DAMPING),
        "numpy": lambda A: np.linalg.cholesky(A + DAMPING * np.eye(len(A), dtype=A.dtype)),
        "scipy": scipy_ops.cholesky,
        "mkl": _mkl_cholesky,
        "torch": lambda A: torch["cholesky"](A, DAMPING),
    },
    "cho_solve": {
        "fastfisher": lambda L, b: ff.ops.cho_solve(L, b),
        "scipy": scipy_ops.cho_solve,
        "mkl": _mkl_cho_solve,
        "torch": torch["cho_solve"],
    },
    "solve": {
        "fastfisher": lambda G, coef: ff.solve(G, coef=coef, damping=DAMPING).x,
        "numpy": numpy_ops.solve,
        "scipy": scipy_ops.solve,
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
        "numpy": numpy_ops.metric_solve,
        "torch": lambda a, g: torch["metric_solve"](a, g, DAMPING),
    },
    "block_syrk": {
        "fastfisher": lambda G, d: ff.ops.block_syrk(G, d),
        "numpy": numpy_ops.block_syrk,
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
        "numpy-explicit": numpy_ops.explicit_gram,
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
    sides = case.shape[1] if op in SIDED else 1
    return choose(op, case.shape[axis], dtype, sides=sides).name
