"""What each formulation costs: stages with flops, bytes, workspace. docs/math.md, table of D8."""

import numpy as np

from .records import Stage
from .table import choose

__all__ = ["ROUTES", "direct_stages", "route", "vector_bytes"]


def _stage(problem, op, size, text, flops, moved, workspace=0, dtype=None):
    entry = choose(op, size, dtype or problem.dtype, device=problem.device)
    return Stage(op, entry.name, text, int(flops), int(moved), int(workspace), entry.reproducible)


def _sums_dtype(problem):
    return "complex128" if np.dtype(problem.dtype).kind == "c" else "float64"


def _slice_bytes(q):
    """Converted, weighted or centred copy of one slice of scores."""
    return min(q.n * q.p * q.itemsize, 64 << 20)


def _product_workspace(q, op, order, summed):
    """Bytes that syrk (order p, summed n) or gram (order n, summed p) needs besides its result."""
    entry = choose(op, order, q.dtype, device=q.device)
    copies = 0 if q.direct else _slice_bytes(q)
    if entry.vendor:
        copied = (q.weighted and op == "syrk") or q.centered
        part = order * order * q.itemsize if q.itemsize < q.sum_bytes else 0
        return copies + part + (_slice_bytes(q) if copied else 0)
    if order > 128:
        return copies + order * 256 * max(1, min(4, 4096 // order)) * q.itemsize
    in_slice = min(summed, max((64 << 20) // max(order * q.itemsize, 1), 4096))
    return copies + -(-in_slice // 4096) * order * (order * q.sum_bytes + 512 * q.itemsize)


def _fvp_workspace(q):
    copies = 0 if q.direct else _slice_bytes(q)
    block = q.rhs * q.p * q.itemsize
    blocks = min(-(-q.n // 256), max(4, (16 << 20) // max(block, 1)))
    return copies + blocks * block + q.rhs * q.n * (q.itemsize + q.sum_bytes)


def vector_bytes(q, per_parameter, per_sample):
    """Bytes of so many double vectors per right-hand side."""
    return q.sum_bytes * q.rhs * (per_parameter * q.p + per_sample * q.n)


def _fvp_stage(q, name="fvp"):
    moved = q.n * q.p * q.itemsize
    return _stage(
        q,
        name,
        q.rhs,
        f"{q.n} x {q.p}",
        2 * q.multiply_add * q.n * q.p * q.rhs,
        moved,
        _fvp_workspace(q),
    )


def direct_stages(q, op, order, summed):
    """Product (syrk or gram), Cholesky and the two triangular solves."""
    sums = _sums_dtype(q)
    ma = q.multiply_add
    text = f"{order} x {order}"
    square = order * order * q.sum_bytes
    return [
        _stage(
            q,
            op,
            order,
            f"{q.n} x {q.p}",
            ma * summed * order * (order + 1) / 2,
            q.n * q.p * q.itemsize + square,
            _product_workspace(q, op, order, summed),
        ),
        _stage(q, "cholesky", order, text, ma * order**3 / 6, square, 0, sums),
        _stage(q, "solve_lower", order, text, ma * order**2 * q.rhs / 2, square / 2, 0, sums),
        _stage(
            q, "solve_lower_adjoint", order, text, ma * order**2 * q.rhs / 2, square / 2, 0, sums
        ),
    ]


def _primal(q):
    stages = [*direct_stages(q, "syrk", q.p, q.n), _fvp_stage(q)]
    return stages, q.p * q.p * q.sum_bytes + vector_bytes(q, 6, 1)


def _dual(q):
    product, *factor = direct_stages(q, "gram", q.n, q.p)
    one = q.multiply_add * q.n * q.p * q.rhs
    text, moved = f"{q.n} x {q.p}", q.n * q.p * q.itemsize
    stages = [
        product,
        _stage(q, "matvec", q.rhs, text, one, moved),
        *factor,
        _stage(q, "rmatvec", q.rhs, text, one, moved, _fvp_workspace(q)),
        _fvp_stage(q),
    ]
    return stages, q.n * q.n * q.sum_bytes + vector_bytes(q, 6, 3)


def _cg(q):
    stages = [_fvp_stage(q)]
    return stages, vector_bytes(q, 9, 1)


ROUTES = {"primal": _primal, "dual": _dual, "cg": _cg}


def route(q, method):
    """Stages of a method, and its peak bytes."""
    stages, resident = ROUTES[method](q)
    return stages, int(resident + max(stage.workspace for stage in stages))
