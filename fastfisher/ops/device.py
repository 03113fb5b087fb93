"""The public ops for operands on a CUDA device: same names and arguments, answered in kind.

Values are not examined, as that would wait for the device: NaN and Inf show up in the result. Only
weights beside single precision are looked at, for those that need double. The docstrings of the
twins in this room hold for the rest.
"""

from dataclasses import replace

import numpy as np

from ..arrays import HALVES, as_real, computing_dtype
from ..devices import lies_on_device, passes
from ..devices.door import (
    as_matrix,
    as_rows,
    as_scores,
    as_weights,
    device_view,
    none,
    result,
    working_with,
)
from ..devices.slices import column_slices
from ..errors import InputError, NotPositiveDefiniteError
from ..kernels.cuda import BLOCK_BYTES, compat, copies, memory, squares, vectors
from .groups import members
from .products import check_precision

__all__ = [
    "cho_solve",
    "cholesky",
    "diag",
    "fvp",
    "gram",
    "group_sums",
    "layered_diag",
    "layered_gram",
    "matvec",
    "rmatvec",
    "syrk",
]

DOUBLE = np.dtype(np.float64)


def weights_of(weights, n):
    """Weights (n,) in double, or None."""
    return None if weights is None else as_weights(weights, n).reshape(n)


def roots_of(w):
    if w is None:
        return None
    roots = compat.empty((w.size,), DOUBLE)
    vectors.weight_roots(roots, w)
    return roots


def answer(origin, values, dtype):
    """Double values in the kind of `origin` and this dtype."""
    made, view = result(origin, values.shape, dtype)
    memory.copy(view, values)
    return made


def _output(out, shape, dtype, inputs):
    """The device view of a caller's `out=`, checked as `arrays.output` does."""
    view = device_view(out, "out")[0]
    if tuple(view.shape) != shape or view.dtype != dtype:
        raise InputError(f"out is {view.dtype} {tuple(view.shape)}; expected {dtype} {shape}")
    if not view.is_c_contiguous():
        raise InputError("out must be C-ordered")
    if any(compat.overlaps(view, device_view(x, "an input")[0]) for x in inputs if x is not None):
        raise InputError("out shares memory with an input; pass an array of its own")
    return view


def _square(order, G, weights, out):
    """The answer (order, order), its device view, and zeros in double: the view where it can be."""
    shape, dtype = (order, order), G.dtype
    if out is None:
        made, view = result(G.origin, shape, dtype)
    else:
        made, view = out, _output(out, shape, dtype, (G.origin, weights))
    if dtype != DOUBLE:
        return made, view, memory.zeros(shape, DOUBLE)
    memory.fill(view, 0.0)
    return made, view, view


def _complete(view, sums):
    """Both triangles of the answer from the lower one of the sums."""
    passes.mirror(sums, None if view is sums else view)


def syrk(G, weights=None, *, out=None, precision="entrywise"):
    """G' diag(w) G, entrywise whatever is allowed."""
    check_precision(precision)
    with working_with(G, weights, out):
        G = as_scores(G)
        n, p = G.shape
        w = weights_of(weights, n)
        made, view, sums = _square(p, G, weights, out)
        passes.add_syrk(sums, passes.weighable(G, w), scale=roots_of(w))
        _complete(view, sums)
        return made


def gram(G, weights=None, *, out=None):
    """W^1/2 G G' W^1/2."""
    with working_with(G, weights, out):
        G = as_scores(G)
        n, _ = G.shape
        w = weights_of(weights, n)
        made, view, sums = _square(n, G, weights, out)
        if w is None:
            passes.add_gram(sums, G)
        else:
            _add_weighted_gram(sums, G, w)
        _complete(view, sums)
        return made


def _add_weighted_gram(sums, G, w):
    """The Gram matrix of weighted rows: weighted first, in double, where weights are far from 1 or
    scores in double, whose squares may leave the range."""
    roots = roots_of(w)
    if G.dtype.itemsize < 8 and not passes.weighable(G, w).wide:
        passes.add_gram(sums, G)
        squares.scale_square(sums, roots)
        return
    kernel = passes.load("gram", G.shape[0])
    step = max(BLOCK_BYTES // (8 * max(G.shape[0], 1)), 1)
    for lo in range(0, G.shape[1], step):
        for _, _, part in column_slices(replace(G, data=G.data[:, lo : lo + step])):
            rows = compat.empty(tuple(part.shape), DOUBLE)
            copies.rows_of(rows, part, 0, none(DOUBLE), roots, 0, 1.0)
            kernel(sums, rows, 0, part.shape[1], none(DOUBLE), none(DOUBLE))


def columns(origin, rows, single, dtype):
    """Rows (k, m) answered as (m,) or (m, k)."""
    k, m = rows.shape
    made, view = result(origin, (m,) if single else (m, k), dtype)
    vectors.emit(view.reshape(m, k), rows, none(DOUBLE))
    return made


def fvp(G, v, weights=None):
    """G'(w o (G v))."""
    with working_with(G, v, weights):
        G = as_scores(G)
        n, p = G.shape
        rows, single = as_rows(v, p, "v")
        y, w = memory.zeros(tuple(rows.shape), DOUBLE), weights_of(weights, n)
        passes.add_fvp(y, passes.weighable(G, w), rows, weights=w)
        return columns(G.origin, y, single, G.dtype)


def matvec(G, v):
    """G v."""
    with working_with(G, v):
        G = as_scores(G)
        rows, single = as_rows(v, G.shape[1], "v")
        return columns(G.origin, passes.products(G, rows), single, G.dtype)


def rmatvec(G, u):
    """G'u."""
    with working_with(G, u):
        G = as_scores(G)
        n, p = G.shape
        rows, single = as_rows(u, n, "u", axis="n")
        y = memory.zeros((rows.shape[0], p), DOUBLE)
        passes.add_rmatvec(y, G, rows)
        return columns(G.origin, y, single, G.dtype)


def diag(G, weights=None):
    """sum_n w_n G_n^2."""
    with working_with(G, weights):
        G = as_scores(G)
        n, p = G.shape
        y, w = memory.zeros((p,), DOUBLE), weights_of(weights, n)
        passes.add_diag(y, passes.weighable(G, w), weights=w)
        return answer(G.origin, y, G.dtype)


def group_sums(G, groups):
    """Sums of the rows of each group; `groups` may lie on the host, where they are sorted."""
    with working_with(G, groups if lies_on_device(groups) else None):
        G = as_scores(G)
        if lies_on_device(groups):
            there = device_view(groups, "groups")[0]
            packed = compat.empty(tuple(there.shape), there.dtype)
            memory.copy(packed, there)  # they may be every second element
            groups = memory.to_host(packed)
        ids, member = members(groups, G.shape[0])
        order = memory.to_device(np.argsort(member, kind="stable"))
        starts = memory.to_device(np.searchsorted(np.sort(member), np.arange(len(ids) + 1)))
        made, view = result(G.origin, (len(ids), G.shape[1]), G.dtype)
        copies.group_sums(view, G.data, order, starts)
        return made


def _square_matrix(A, name):
    a = as_matrix(A, name, ("n", "n"))
    if a.shape[0] != a.shape[1]:
        raise InputError(f"{name} has shape {tuple(a.shape)}; expected a square matrix (n, n)")
    return a


def cholesky(A, *, damping=0.0, overwrite=False):
    """L of A + damping I = L L'; waits for the status."""
    damping = as_real(damping, "damping")
    with working_with(A):
        a = _square_matrix(A, "A")
        n, dtype = a.shape[0], np.dtype(a.dtype)
        made, L, matrix = A, a, None
        if not (overwrite and _may_be_overwritten(A, dtype)):
            (made, L), matrix = result(A, (n, n), dtype), a
            memory.fill(L, 0.0)
        order = int(memory.to_host(passes.load("cholesky", n, dtype)(L, matrix, damping))[0])
        if order:
            raise NotPositiveDefiniteError(
                f"pivot {order} of {n} is not positive (or not finite) at damping {damping:g}; "
                "raise damping",
                order=order,
                rcond=0.0,
            )
        if matrix is None:
            squares.clear_above(L)
        return made


def _may_be_overwritten(A, dtype):
    """True if kernels work on the memory of A itself, and its owner lets them."""
    view = device_view(A, "A")[0]
    seen = getattr(A, "__cuda_array_interface__", None)  # of numba in the simulator: none
    locked = seen is not None and seen["data"][1]
    return view.dtype == dtype and view.is_c_contiguous() and not locked


def cho_solve(L, b):
    """Solve L L' x = b."""
    with working_with(L, b):
        a = _square_matrix(L, "L")
        n, dtype = a.shape[0], np.dtype(a.dtype)
        rows, single = as_rows(b, n, "b", dtype=dtype, axis="n")
        for op in ("solve_lower", "solve_lower_adjoint"):
            passes.load(op, n, dtype)(a, rows)
        return columns(b, rows, single, dtype)


def _layer(i, A, E):
    """Device views of a layer, (n tokens, d) each, its tokens and the dtype it is computed in."""
    (a, stored), (e, _) = device_view(A, f"A of layer {i}"), device_view(E, f"E of layer {i}")
    if a.ndim not in (2, 3) or tuple(a.shape[:-1]) != tuple(e.shape[:-1]):
        raise InputError(
            f"layer {i} has shapes {tuple(a.shape)} and {tuple(e.shape)}; expected "
            "(n, d) and (n, d'), or (n, tokens, d) and (n, tokens, d')"
        )
    if a.dtype != e.dtype or not (a.is_c_contiguous() and e.is_c_contiguous()):
        raise InputError(f"A and E of layer {i} must be C-ordered and of one dtype")
    dtype = DOUBLE if stored == "float64" else np.dtype(np.float32)
    if stored not in HALVES:
        computing_dtype(a.dtype, f"A of layer {i}")
    tokens = 1 if a.ndim == 2 else a.shape[1]
    rows = a.shape[0] * tokens
    return *(x.reshape(rows, x.shape[x.ndim - 1]) for x in (a, e)), tokens, dtype


def layered_gram(layers):
    """sum_l (A_l A_l') o (E_l E_l')."""
    first = layers[0][0]
    with working_with(*(x for layer in layers for x in layer)):
        n = first.shape[0]
        sums = memory.zeros((n, n), DOUBLE)
        for i, (A, E) in enumerate(layers):
            a, e, tokens, dtype = _layer(i, A, E)
            if a.shape[0] != n * tokens:
                raise InputError(f"layer {i} has {len(A)} samples but layer 0 has {n}")
            passes.load("layered_gram", n * tokens, dtype)(sums, a, e, tokens)
        made, view = result(first, (n, n), dtype)
        passes.mirror(sums, view)
        return made


def layered_diag(A, E):
    """sum_n |sum_t e_nt a_nt'|^2."""
    with working_with(A, E):
        a, e, tokens, dtype = _layer(0, A, E)
        sums = memory.zeros((e.shape[1], a.shape[1]), DOUBLE)
        passes.load("layered_diag", tokens, dtype)(sums, a, e, tokens)
        return answer(A, sums, dtype)
