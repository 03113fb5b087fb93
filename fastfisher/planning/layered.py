"""Plans of solves with layered scores: the dual by factors, and the eigenbases of KFAC."""

from ..errors import MemoryLimitError
from .costs import eigen_route, layered_route
from .plans import memory_room
from .records import Plan, Problem, format_bytes

__all__ = ["plan_kronecker", "plan_layered"]


def _made(q, stages, resident, because):
    peak = int(resident + max((stage.workspace for stage in stages), default=0))
    made = Plan(q, q.method, tuple(stages), peak, because)
    room = memory_room()
    if peak > room:
        raise MemoryLimitError(
            f"this plan needs {format_bytes(peak)} but only {format_bytes(room)} may be used; "
            f"use fewer samples\n{made}",
            plan=made,
        )
    return made


def plan_layered(n, layers, rhs, dtype, *, weighted, centered, spectral=False):
    """Dual plan for n samples of layers (t, d_in, d_out), refused if it does not fit."""
    p = sum(d_in * d_out for _, d_in, d_out in layers)
    facts = {"weighted": weighted, "centered": centered, "spectral": spectral}
    q = Problem(n=n, p=p, rhs=rhs, dtype=dtype, method="dual", **facts)
    stages, resident = layered_route(q, layers)
    factors = n * sum(t * (d_in + d_out) for t, d_in, d_out in layers) * q.itemsize
    because = (
        f"the scores are layered: {format_bytes(factors)} of factors instead of "
        f"{format_bytes(n * p * q.itemsize)} of scores"
    )
    return _made(q, stages, resident, because)


def plan_kronecker(n, layers, rhs, dtype):
    """Plan of a solve in the eigenbases of the factors, refused if it does not fit."""
    p = sum(d_in * d_out for _, d_in, d_out in layers)
    q = Problem(n=n, p=p, rhs=rhs, dtype=dtype, method="primal")
    stages, resident = eigen_route(q, layers)
    return _made(q, stages, resident, "F is a Kronecker product per layer: its eigenvectors are")
