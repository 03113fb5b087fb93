"""Plans of solves by many matrices at once: blocks of a Fisher, batches of small ones."""

from dataclasses import replace

import numpy as np

from .choices import decide
from .profiles import current_rates
from .records import Plan, Problem, Stage

__all__ = ["plan_batched", "plan_blocks"]


def _stage(op, orders, flops, moved, dtype):
    """One op over stacks of `orders` (count, d); its kernel is that of the largest."""
    d = max((d for _, d in orders), default=0)
    choice, rates = decide(op, d, dtype), current_rates()
    seconds = rates.seconds(op, choice.entry.name, dtype, d, flops, moved)
    text = f"{sum(count for count, _ in orders)} x {d}"
    facts = choice.entry.reproducible, seconds, choice.source, choice.measured
    return Stage(op, choice.entry.name, text, int(flops), int(moved), 0, *facts)


def _solve(n, orders, rhs, dtype, because):
    """The problem, its stages, and the bytes of all matrices."""
    q = Problem(n=n, p=sum(c * d for c, d in orders), rhs=rhs, dtype=dtype, method="primal")
    sums = "complex128" if np.dtype(dtype).kind == "c" else "float64"
    words = sum(c * d**2 for c, d in orders)
    cubes = sum(c * d**3 for c, d in orders)
    square = words * q.sum_bytes
    stages = (
        _stage("block_cholesky", orders, q.multiply_add * cubes / 6, 2 * square, sums),
        _stage("block_solve", orders, q.multiply_add * words * rhs, square, sums),
    )
    return Plan(q, "primal", stages, 0, because), square


def plan_blocks(n, orders, rhs, dtype, piece_bytes, *, spectral=False):
    """Plan of a solve by diagonal blocks, `orders` their (count, d); sums are at hand."""
    because = "F is at hand as diagonal blocks, factored some at a time"
    plan, square = _solve(n, orders, rhs, dtype, because)
    q = plan.problem
    vector = rhs * q.p * q.sum_bytes
    largest = max((d * d * q.sum_bytes for _, d in orders), default=0)
    piece = min(max(piece_bytes, largest), square)
    # Right-hand sides, x and the diagonal beside a piece and its factor; or the residual's terms.
    peak = max(3 * vector + 2 * piece, 5 * vector)
    if not spectral:
        return replace(plan, peak_bytes=int(peak))
    because = "F is at hand as diagonal blocks; their eigenvectors are kept"
    factored, solved = plan.stages
    # LAPACK: 9 d^3 flops for eigenvectors where a Cholesky factor takes d^3 / 3.
    flops, seconds = 27 * factored.flops, 27 * factored.seconds
    eigen = {"op": "eigh", "kernel": "numpy.eigh", "flops": flops, "seconds": seconds}
    stages = (replace(factored, **eigen, reproducible=False, measured=""), solved)
    return replace(plan, stages=stages, peak_bytes=int(peak + square), because=because)


def plan_batched(n_samples, n, p, rhs, dtype, piece_bytes):
    """Plan of a solve of n small systems of order p; sums are at hand."""
    because = "F is at hand as small matrices, factored some at a time"
    plan, square = _solve(n_samples, [(n, p)], rhs, dtype, because)
    vector = rhs * n * p * plan.problem.sum_bytes
    piece = min(piece_bytes, square)
    # Right-hand sides and x; four numbers a system; a piece, its factor, six vectors beside them.
    peak = 2 * vector + 32 * n + 2 * piece + 6 * piece * rhs / max(p, 1)
    return replace(plan, peak_bytes=int(peak))
