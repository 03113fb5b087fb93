"""The ops on many small systems for operands on a CUDA device; see `device`."""

import numpy as np

from ..arrays import WIDEST, as_real, far
from ..devices import passes
from ..devices.door import as_matrix, as_rows, as_scores, device_view, none, result, working_with
from ..errors import InputError
from ..kernels.cuda import compat, memory, ranges, squares, sums
from .device import DOUBLE, answer, columns, roots_of, weights_of

__all__ = [
    "batched_metric_solve",
    "batched_solve",
    "batched_syrk",
    "block_cholesky",
    "block_solve",
    "block_syrk",
]


def _damping(damping, n, dtype):
    """Damping (n,) of a number, or of as many."""
    if np.isscalar(damping):
        d = compat.empty((n,), dtype)
        memory.fill(d, dtype.type(as_real(damping, "damping")))
        return d
    d = passes.cast(as_matrix(damping, "damping", ("n",)), dtype)
    if d.size != n:
        raise InputError(f"damping has {d.size} values; expected ({n},)")
    return d


def batched_solve(F, g, *, damping=0.0):
    """Solve (F_i + damping_i I) x_i = g_i with a status per system."""
    with working_with(F, g, None if np.isscalar(damping) else damping):
        f, v = as_matrix(F, "F", ("n", "p", "p")), as_matrix(g, "g", ("n", "p"))
        n, p = v.shape
        if tuple(f.shape) != (n, p, p) or f.dtype != v.dtype:
            raise InputError(
                f"F is {f.dtype} {tuple(f.shape)}, g {v.dtype} {tuple(v.shape)}; expected (n, p, p)"
                " and (n, p) of one dtype"
            )
        dtype = np.dtype(v.dtype)
        d = _damping(damping, n, dtype)
        (x, x_view), (info, info_view) = _answers(F, n, p, dtype)
        passes.load("batched_solve", p, dtype)(x_view, info_view, f, v, d)
        return x, info


def _answers(origin, n, p, dtype):
    return result(origin, (n, p), dtype), result(origin, (n,), np.int32)


def _systems(scores, weights):
    """Scores (n, S, p), and weights (n, S), (S,) or (0,) in double."""
    a = as_matrix(scores, "scores", ("n", "S", "p"))
    n, count, _ = a.shape
    if weights is None:
        return a, none(DOUBLE)
    shape = tuple(device_view(weights, "weights")[0].shape)
    if shape not in ((n, count), (count,)):
        raise InputError(f"weights has shape {shape}; expected {(n, count)} or ({count},)")
    return a, passes.cast(as_matrix(weights, "weights", ("n", "S")[-len(shape) :]), DOUBLE)


def _tame(w):
    """Weights of which only the ratios within a system count, brought near 1 where they are not."""
    if not w.size:
        return w
    rows = w if w.ndim == 2 else w.reshape(1, w.size)
    sizes, near = compat.empty((rows.shape[0],), DOUBLE), compat.empty(tuple(rows.shape), DOUBLE)
    sums.largest(sizes, rows)
    ranges.near(near, rows, sizes)
    return near.reshape(w.shape)


def batched_metric_solve(scores, g, weights=None, *, damping=0.0):
    """Solve (M_i + damping_i I) x_i = g_i, M_i = sum_s w_is a_is a_is' / sum_s w_is."""
    with working_with(scores, g, weights, None if np.isscalar(damping) else damping):
        a, w = _systems(scores, weights)
        n, count, p = a.shape
        dtype, v = np.dtype(a.dtype), as_matrix(g, "g", ("n", "p"))
        if tuple(v.shape) != (n, p) or v.dtype != dtype or not count:
            raise InputError(
                f"scores is {dtype} {tuple(a.shape)}, g {v.dtype} {tuple(v.shape)}; expected "
                "(n, S, p) with S >= 1 and (n, p) of one dtype"
            )
        d = _damping(damping, n, dtype)
        (x, x_view), (info, info_view) = (
            result(scores, (n, p), dtype),
            result(scores, (n,), np.int32),
        )
        w = passes.cast(_tame(w), dtype)
        passes.load("batched_metric_solve", p, dtype)(x_view, info_view, a, w, v, d)
        return x, info


def batched_syrk(scores, weights=None):
    """A_i' diag(w_i) A_i for all systems."""
    with working_with(scores, weights):
        a, w = _systems(scores, weights)
        n, _, p = a.shape
        made, dtype = memory.zeros((n, p, p), DOUBLE), np.dtype(a.dtype)
        roots = roots_of(w.reshape(w.size)).reshape(w.shape)
        if w.size and dtype != DOUBLE and far(memory.to_host(roots), WIDEST).any():
            a = passes.cast(a, DOUBLE)
        passes.load("batched_syrk", p, a.dtype)(made, a, passes.cast(roots, np.dtype(a.dtype)))
        return answer(scores, made, dtype)


def block_syrk(G, block, weights=None):
    """Diagonal blocks of G' diag(w) G."""
    with working_with(G, weights):
        G = as_scores(G)
        n, p = G.shape
        d = as_real(block, "block", least=1)
        if d != int(d) or p % int(d):
            raise InputError(
                f"block is {block}; expected an integer that divides the {p} columns of G"
            )
        made = memory.zeros((p // int(d), int(d), int(d)), DOUBLE)
        w = weights_of(weights, n)
        passes.add_block_syrk(made, passes.weighable(G, w), scale=roots_of(w))
        return answer(G.origin, made, G.dtype)


def _blocks(A, name):
    a = as_matrix(A, name, ("B", "d", "d"))
    if a.shape[1] != a.shape[2]:
        raise InputError(f"{name} has shape {tuple(a.shape)}; expected (B, d, d)")
    return a


def block_cholesky(A, *, damping=0.0):
    """Lower factors of A_b + damping_b I with a status per block."""
    with working_with(A, None if np.isscalar(damping) else damping):
        a = _blocks(A, "A")
        dtype, shape = np.dtype(a.dtype), tuple(a.shape)
        (made, L), (info, status) = result(A, shape, dtype), result(A, shape[:1], np.int32)
        squares.lower_of_blocks(L, a, _damping(damping, shape[0], dtype))
        passes.load("block_cholesky", shape[1], dtype)(L, status)
        return made, info


def block_solve(L, b):
    """Solve L_b L_b' x_b = b_b for all blocks."""
    with working_with(L, b):
        a = _blocks(L, "L")
        blocks, d, _ = a.shape
        rows, single = as_rows(b, blocks * d, "b", dtype=np.dtype(a.dtype), axis="B d")
        passes.load("block_solve", d, a.dtype)(a, rows)
        return columns(b, rows, single, np.dtype(a.dtype))
