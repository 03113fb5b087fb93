"""What a small solve costs that is one compiled call, without stages."""

from .choices import decide
from .profiles import current_rates
from .records import Stage

__all__ = ["one_call"]

SHORT_ROW = 50  # flops in whose time the product of a row is summed up and stored: measured, and
LONG_VECTORS = 10  # passes of a dual over right-hand sides, likewise


def one_call(q, side):
    """The stage of a solve in one compiled call, on one core and in double."""
    order, op = q.p if side == "primal" else q.n, f"{side}_small"
    choice, rates = decide(op, order, q.dtype, device=q.device), current_rates()
    scores, square = q.n * q.p, order * order
    products = 4 if side == "primal" else 8  # of the solution and its residual
    flops = scores * (order + 1) + order * square / 3 + (products * scores + 2 * square) * q.rhs
    passes = (2 + products / 2 * q.rhs) * 8 * scores  # packed, summed, and read again for those
    rows = products * SHORT_ROW * q.n * q.rhs
    long = 8 * LONG_VECTORS * q.p * q.rhs if side == "dual" else 0
    seconds = rates.call + (flops + rows) / rates.core_speed() + passes / rates.bandwidth
    seconds += rates.around(0, long, 0)
    vectors = 4 * q.p if side == "dual" else 0
    scratch = scores * (8 if q.dtype != "float64" else 0) + 16 * square + 8 * vectors
    own = (choice.entry.reproducible, seconds, choice.source, choice.measured)
    size = f"{q.n} x {q.p}"
    moved = scores * q.stored_bytes
    return Stage(op, choice.entry.name, size, int(flops), int(moved), int(scratch), *own)
