"""Kernels of CUDA in the simulator, by the cases of tests/kernels/every_op.py in tiny sizes.

To be run in a process of its own, with NUMBA_ENABLE_CUDASIM=1 set before numba is imported.
"""

import functools
import sys
import types
from unittest import mock

import numpy as np
import scipy.linalg

from fastfisher.kernels import reference
from fastfisher.planning import Entry
from tests import matrices
from tests.kernels import every_op
from tests.tolerances import unit_roundoff

__all__ = ["OPS", "SIMULATOR", "VENDOR_OPS", "examine", "examine_nvmath", "examine_vendor"]

SIMULATOR = {"NUMBA_ENABLE_CUDASIM": "1"}
FACTORS = ("cholesky", "solve_lower", "solve_lower_adjoint", "inverse_diagonal", "batched_solve")
PRODUCTS = ("syrk", "gram", "mirror", "matvec", "rmatvec", "fvp", "diag", "scan")
BLOCKS = ("block_syrk", "block_cholesky", "block_solve", "batched_syrk", "batched_metric_solve")
SLICED = ("peaks", "sliced_syrk", "sliced_gram", "narrow")
OPS = (*FACTORS, *BLOCKS, *PRODUCTS, *SLICED, "layered_gram", "layered_diag")
VENDOR_OPS = (
    "syrk",
    "gram",
    "matvec",
    "rmatvec",
    "cholesky",
    "solve_lower",
    "solve_lower_adjoint",
)

# A thread of the simulator takes a tenth of a millisecond: past a tile and a panel, no further.
TINY = {
    "SHAPES": ((0, 3), (1, 1), (3, 2), (9, 20), (20, 9)),
    "ROWS": ((0, 3), (1, 1), (5, 6), (3, 9)),
    "SLICED_SHAPES": ((0, 3), (1, 1), (5, 9), (35, 3)),
    "ORDERS": (1, 2, 6, 11),
    "SMALL_ORDERS": (1, 3, 4, 6, 7),
    "VARIANTS": ((False, False), (True, True)),
}
LARGEST = {  # sizes beyond are left out
    "cholesky": 11,
    "syrk": 20,
    "gram": 20,
    "mirror": 11,
    "fvp": 9,
    "peaks": 9,
    "sliced_syrk": 35,
    "sliced_gram": 35,
    "narrow": 11,
    "block_syrk": 12,
    "batched_syrk": 5,
    "batched_metric_solve": 3,
    "block_cholesky": 7,
    "block_solve": 14,
}
LARGEST |= dict.fromkeys(("matvec", "rmatvec", "diag", "scan", "layered_gram", "layered_diag"), 9)
BATCH = 4


class _OnDevice:
    """An entry of the table whose arguments come from the host, and what it writes goes back."""

    def __init__(self, entry):
        self._entry = entry

    def load(self):
        from numba import cuda

        kernel = self._entry.load()

        def run(*args):
            there = [cuda.to_device(x) if isinstance(x, np.ndarray) else x for x in args]
            status = kernel(*there)
            for x, y in zip(args, there, strict=True):
                if isinstance(x, np.ndarray):
                    y.copy_to_host(x)
            return None if status is None else status.copy_to_host()[0].item()

        return run


def _smaller(op, cases, d):
    """Cases whose arrays are small; of batches the first systems."""
    most = LARGEST.get(op, 6)
    for args, written in cases(d):
        if len(args) == 5 and np.ndim(args[2]) == 3:
            args = tuple(x[:BATCH].copy() for x in args)
        elif op == "batched_syrk":
            c, a, scale = args
            scale = scale[:2, :5] if scale.ndim == 2 else scale[:5]
            args = c[:2, :3, :3].copy(), a[:2, :5, :3].copy(), scale.copy()
            if a.shape[1:] == (9, 17):  # by now the same as another
                continue
        elif op == "batched_metric_solve":
            x, info, a, w, g, damping = (part[:2].copy() for part in args)
            w = args[3][:2, :3] if w.ndim == 2 else args[3][:3]
            args = x, info, a[:, :3].copy(), w.copy(), g, damping
            if len(g) == 1 and a.shape[2] > 1:
                continue
        elif op == "block_syrk":
            c, a, start, scale = args
            d = min(c.shape[1], 5)
            args = c[:2, :d, :d].copy(), a[:9, : start + 2 * d].copy(), start, scale[:9].copy()
        elif op == "block_cholesky":
            args = tuple(x[:BATCH].copy() for x in args)
        elif op == "block_solve":
            l, x = args
            args = l[:2].copy(), x[:, : 2 * l.shape[1]].copy()
        if all(max(x.shape, default=0) <= most for x in args if isinstance(x, np.ndarray)):
            yield args, written


def _potrf(full):
    """What cuSOLVER does to the C-ordered upper triangle."""
    lower = np.tril(full.T)
    info = reference.cholesky(lower)
    full[:] = np.triu(lower.T) + np.tril(full, -1)
    return np.array([info], np.int32)


def examine_vendor(ops, dtypes):
    """The same for the entries through CuPy, with NumPy and SciPy in its place."""
    from fastfisher.kernels.cuda import vendor

    library = types.ModuleType("cupy")
    library.__dict__.update({name: getattr(np, name) for name in dir(np) if name[0] != "_"})
    library.asarray = lambda x: x._ary
    linalg = types.SimpleNamespace(solve_triangular=scipy.linalg.solve_triangular)
    with (
        mock.patch.object(vendor, "_cupy", lambda: library),
        mock.patch.object(vendor, "_potrf", _potrf),
        mock.patch.dict(
            sys.modules, {"cupyx": linalg, "cupyx.scipy": linalg, "cupyx.scipy.linalg": linalg}
        ),
    ):
        entries = {op: Entry(f"cupy.{op}", "cuda.vendor", op) for op in ops}
        found = _examined(ops, dtypes, {op: _OnDevice(entry) for op, entry in entries.items()})
        return found | {"eigh": _eigen_error("cupy")}


def examine_nvmath(ops, dtypes):
    """The same for the entries through nvmath-python."""
    from fastfisher.kernels.cuda import vendor_nvmath
    from tests.kernels.cuda import nvmath

    with (
        mock.patch.object(vendor_nvmath, "_bindings", lambda: (nvmath.cublas, nvmath.cusolverDn)),
        mock.patch.object(vendor_nvmath, "BLOCK", 4),
    ):
        entries = {op: Entry(f"nvmath.{op}", "cuda.vendor_nvmath", op) for op in ops}
        found = _examined(ops, dtypes, {op: _OnDevice(entry) for op, entry in entries.items()})
        found["eigh"] = _eigen_error("nvmath")
    assert set(nvmath.cublas.streams) == {(7, 0)}
    return found


def _eigen_error(vendor):
    """Of V diag(e) V', in u |A|, by the path that cutoffs take; and whether LAPACK is left."""
    from fastfisher.planning import device
    from fastfisher.solvers.device.spectral import eigen

    A = np.cov(matrices.generator("eigen").standard_normal((5, 20)))
    with mock.patch.object(device, "_installed", lambda: [vendor]):
        entry = device.eigen_entry()
        e, rows = eigen(np.where(np.tri(5, dtype=bool), A, np.nan))
    assert entry.name == f"{vendor}.eigh" and np.all(np.diff(e) > 0)
    error = np.abs(rows.T * e @ rows - A).max() / np.abs(A).max() / unit_roundoff(np.float64)
    return {"digest": "", "case": "eigh", "error": float(error)}


def examine(ops, dtypes, *, tiny=True, which=0):
    """As `every_op.examine`, for the entries of the table for CUDA; a device takes all cases."""
    from fastfisher.planning.device import CUDA_TABLE

    entries = {band.op: _OnDevice(band.entries[which]) for band in CUDA_TABLE if band.op in ops}
    return _examined(ops, dtypes, entries, tiny)


def _examined(ops, dtypes, entries, tiny=True):
    cases = {"_" + op: functools.partial(_smaller, op, getattr(every_op, "_" + op)) for op in ops}
    with (
        mock.patch.dict(every_op.__dict__, {**TINY, **cases} if tiny else {}),
        mock.patch.dict(every_op.ENTRIES, entries),
        np.errstate(all="ignore"),
    ):
        return every_op.examine(ops, dtypes)
