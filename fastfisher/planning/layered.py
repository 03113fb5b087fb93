"""Plans of solves with layered scores: the dual by factors, and the eigenbases of KFAC."""

from dataclasses import replace

from ..errors import MemoryLimitError
from ..kernels.cpu.splitting import SLICE_BYTES
from .costs import direct_stages, stage_of, vector_bytes
from .plans import memory_room
from .profiles import current_rates
from .rates import DEFAULT_RATE
from .records import Plan, Problem, Stage, format_bytes

__all__ = ["plan_kronecker", "plan_layered"]


def _layered_route(q, layers):
    """Stages and resident bytes of a dual solve by layers (t, d_in, d_out); see `_dual`."""
    ma, words = q.multiply_add, sum(t * (d_in + d_out) for t, d_in, d_out in layers)
    _, *factor = direct_stages(q, "gram", q.n, 0)
    square, read = q.n * q.n * q.sum_bytes, q.n * words * q.itemsize
    pairs = sum(
        # The kernel takes token pairs, or explicit scores where there are too many of them.
        min(t * t * (d_in + d_out), d_in * d_out) if t > 1 else d_in + d_out
        for t, d_in, d_out in layers
    )
    slices = [min(q.n * t * (d_in + d_out) * 8, SLICE_BYTES) for t, d_in, d_out in layers]
    explicit = [i * o for t, i, o in layers if t > 1 and t * t * (i + o) >= i * o]
    explicit = min(q.n * max(explicit, default=0) * q.itemsize, SLICE_BYTES)
    packed = q.n * max((t * (i + o) for t, i, o in layers), default=0) * q.itemsize
    outputs = max((d_out for *_, d_out in layers), default=1)
    largest = max((i * o for _, i, o in layers), default=0) * q.sum_bytes
    one = ma * q.n * sum(t * d_in * d_out for t, d_in, d_out in layers) * q.rhs
    text = f"{len(layers)} layers"
    gram = stage_of(
        q,
        "layered_gram",
        q.n * max((t for t, *_ in layers), default=1),
        text,
        ma * pairs * q.n * (q.n + 1) / 2,
        read + square,
        max(packed, 2 * explicit),
    )
    matvec = stage_of(q, "matvec", outputs, text, one, read, 3 * max(slices, default=0))
    rmatvec = stage_of(q, "rmatvec", outputs, text, one, read, 3 * max(slices, default=0) + largest)
    stages = [gram, matvec, *factor, rmatvec, replace(matvec, op="residual: matvec")]
    stages.append(replace(rmatvec, op="residual: rmatvec"))
    mean = q.sum_bytes * q.p if q.centered else 0
    return stages, square + vector_bytes(q, 6, 3) + mean


def _eigen_route(q, layers):
    """Stages and resident bytes of a solve in the eigenbases of Kronecker factors."""
    rates, bandwidth = current_rates(), current_rates().bandwidth
    orders = [d for _, d_in, d_out in layers for d in (d_in, d_out)]
    squares = sum(d * d for d in orders) * q.sum_bytes
    rotations = 4 * q.multiply_add * sum((i + o) * i * o for _, i, o in layers) * q.rhs
    stages = []
    for op, kernel, flops, moved in (
        ("eigenbases", "scipy.eigh", 9 * q.multiply_add / 2 * sum(d**3 for d in orders), squares),
        ("rotations", "numpy.matmul", rotations, 4 * q.p * q.rhs * q.sum_bytes),
    ):
        seconds = max(flops / DEFAULT_RATE, moved / bandwidth) + rates.overhead
        stages.append(
            Stage(op, kernel, f"{len(layers)} layers", int(flops), int(moved), 0, False, seconds)
        )
    largest = max(orders) ** 2 * q.sum_bytes
    return stages, 2 * squares + q.p * q.sum_bytes + vector_bytes(q, 6, 0) + 4 * largest


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
    stages, resident = _layered_route(q, layers)
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
    stages, resident = _eigen_route(q, layers)
    return _made(q, stages, resident, "F is a Kronecker product per layer: its eigenvectors are")
