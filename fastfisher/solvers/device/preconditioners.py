"""Approximate inverses of F + D on a device, as functions on rows (k, p) that queue kernels only.

They are set up once per solve, which waits for the device; `solvers.preconditioners` says what
they are.
"""

import itertools
from collections import defaultdict
from dataclasses import replace

import numpy as np

from ...devices import passes
from ...devices.door import as_rows, none
from ...devices.passes import load
from ...errors import InputError
from ...kernels.cuda import compat, memory, squares, vectors
from ...scalars import said
from ..preconditioners import CHUNK, NOISE, BlockJacobi, Nystrom
from ..ranges import unit_roundoff
from .spectral import Seen

__all__ = ["built"]


def built(preconditioner, system, added, diagonal, new=None):
    """The function for an object, or for a callable on arrays that ``new(shape, dtype)`` makes."""
    if callable(preconditioner) and new is not None:
        return _callable(preconditioner, new)
    for kind, make in ((Nystrom, _nystrom), (BlockJacobi, _block_jacobi)):
        if isinstance(preconditioner, kind):
            return make(preconditioner, system, added, diagonal)
    raise InputError(
        f"preconditioner is {said(preconditioner)}; on a device expected 'auto', 'jacobi', None, "
        "ff.Nystrom(rank), ff.BlockJacobi(sizes) or, for arrays of the device, a callable"
    )


def _callable(apply, new):
    def precondition(rows):
        k, p = rows.shape
        made, view = new((p, k), np.float64)
        vectors.emit(view, rows, none(np.float64))
        back, _ = as_rows(apply(made), p, "what the preconditioner returned")
        if back.shape[0] != k:
            raise InputError(
                f"preconditioner returned {back.shape[0]} columns; expected shape {(p, k)}"
            )
        return back

    return precondition


def _nystrom(preconditioner, system, added, diagonal):
    """P^-1 in the units of D: I + U'diag(gains) U, with U (l, p) from a sketch of F.

    The sketch is copied to the host, where its small matrices are decomposed, and U back.
    """
    p, roots = system.p, np.sqrt(memory.to_host(added))
    if not roots.min() > 0:
        raise InputError(
            "the Nystrom preconditioner needs damping > 0 for every parameter; pass "
            "preconditioner='jacobi' or raise damping"
        )
    rank, seen = min(preconditioner.rank, p), Seen.of(system)
    rng = np.random.default_rng(preconditioner.seed)
    basis = np.ascontiguousarray(np.linalg.qr(rng.standard_normal((p, rank)))[0].T)
    sketch = np.empty_like(basis)
    for lo in range(0, rank, CHUNK):
        sketch[lo : lo + CHUNK] = seen.apply_fisher(basis[lo : lo + CHUNK] / roots) / roots
    core = basis @ sketch.T
    inner, turn = np.linalg.eigh((core + core.T) / 2)
    noise = NOISE * rank * unit_roundoff(system.dtype) * max(inner[-1:], default=0.0)
    kept = inner > noise
    _, sizes, U = np.linalg.svd((turn[:, kept] / np.sqrt(inner[kept])).T @ sketch, False)
    e = sizes**2
    least = float(e[-1]) if 0 < len(e) == rank else 0.0  # else it has seen all of F
    down, gains = memory.to_device(1 / roots), memory.to_device((least + 1) / (e + 1) - 1)
    U = memory.to_device(np.ascontiguousarray(U))

    def precondition(rows):
        out = compat.empty(tuple(rows.shape), np.float64)
        vectors.times(out, rows, down)
        if U.size:
            k = rows.shape[0]
            along = compat.empty((k, U.shape[0]), np.float64)
            load("matvec", k)(along, U, out, none(np.float64))
            vectors.times(along, along, gains)
            load("rmatvec", k)(out, U, along, none(np.float64))
        vectors.times(out, out, down)
        return out

    return precondition


def _columns(G, lo, hi):
    """Scores of some parameters."""
    if G.streamed:
        return replace(G, data=replace(G.data, data=G.data.data[:, lo:hi]))
    return replace(G, data=G.data[:, lo:hi])


def _block_jacobi(preconditioner, system, added, diagonal):
    """Blocks of one order are factored and solved with together."""
    by_order = defaultdict(list)
    for lo, hi in itertools.pairwise(preconditioner.edges(system.p)):
        by_order[hi - lo].append(lo)
    groups = [_blocks(system, d, starts, added, diagonal) for d, starts in by_order.items()]

    def precondition(rows):
        out = compat.empty(tuple(rows.shape), np.float64)
        for solve in groups:
            solve(out, rows)
        return out

    return precondition


def _blocks(system, d, starts, added, diagonal):
    """A function that solves with the blocks of order d that begin at `starts`."""
    where, count = memory.to_device(np.array(starts, np.int64)), len(starts)
    L, info = memory.zeros((count, d, d), np.float64), compat.empty((count,), np.int32)
    for b, lo in enumerate(starts):
        shift = None if system.mean is None else system.mean[lo : lo + d]
        part = _columns(system.G, lo, lo + d)
        passes.add_syrk(L[b], part, scale=system.roots, shift=shift)
    by = 1.0 if system.roots is not None else system.inverse_total
    squares.damp_blocks(L, by, where, diagonal, added)
    load("block_cholesky", d)(L, info)
    squares.mend_blocks(L, info, where, diagonal, added)

    def solve(out, rows):
        part = compat.empty((rows.shape[0], count * d), np.float64)
        vectors.take_blocks(part, rows, where, d)
        load("block_solve", d)(L, part)
        vectors.put_blocks(out, part, where, d)

    return solve
