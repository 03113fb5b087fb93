"""Plans of solves by many matrices at once: blocks of a Fisher, batches of small ones."""

import numpy as np

from .profiles import current_rates
from .records import Plan, Problem, Stage
from .table import decide

__all__ = ["plan_blocks"]


def _stage(op, orders, flops, moved, dtype):
    """One op over stacks of `orders` (count, d); its kernel is that of the largest."""
    d = max((d for _, d in orders), default=0)
    choice, rates = decide(op, d, dtype), current_rates()
    seconds = rates.seconds(op, choice.entry.name, dtype, d, flops, moved)
    text = f"{sum(count for count, _ in orders)} x {d}"
    facts = choice.entry.reproducible, seconds, choice.source, choice.measured
    return Stage(op, choice.entry.name, text, int(flops), int(moved), 0, *facts)


def plan_blocks(n, orders, rhs, dtype, piece_bytes, what="diagonal blocks"):
    """Plan of a solve by diagonal blocks, `orders` their (count, d); sums are at hand."""
    q = Problem(n=n, p=sum(c * d for c, d in orders), rhs=rhs, dtype=dtype, method="primal")
    sums = "complex128" if np.dtype(dtype).kind == "c" else "float64"
    words = sum(c * d**2 for c, d in orders)
    cubes = sum(c * d**3 for c, d in orders)
    square = words * q.sum_bytes
    stages = (
        _stage("block_cholesky", orders, q.multiply_add * cubes / 6, 2 * square, sums),
        _stage("block_solve", orders, q.multiply_add * words * rhs, square, sums),
    )
    # Right-hand sides, x, residual and product, each beside a copy; a piece and its products.
    vectors = 6 * rhs * q.p * q.sum_bytes + 4 * 8 * q.p
    largest = max((d * d * q.sum_bytes for _, d in orders), default=0)
    piece = min(max(piece_bytes, largest), square)
    because = f"F is at hand as {what}, factored some at a time"
    return Plan(q, "primal", stages, int(vectors + 2 * piece), because)
