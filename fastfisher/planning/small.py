"""What a small solve costs that is one compiled call, without stages."""

from .. import machine
from ..kernels.cpu.splitting import formed_apart, rank_k_bytes
from .choices import decide
from .profiles import current_rates
from .records import Stage

__all__ = ["one_call"]

SHORT_ROW = 50  # flops in whose time the product of a row is summed up and stored: measured, and
LONG_VECTORS = 10  # passes of a dual over right-hand sides, likewise


def one_call(q, side):
    """The stage of a solve in one compiled call, on one core and in double but for large sums."""
    (n, p), primal, op = q.reals, side == "primal", f"{side}_small"
    order, summed = (p, "syrk") if primal else (n, "gram")
    single = q.itemsize == 4 * q.parts
    real = "float32" if single else "float64"
    choice, rates = decide(op, order, real, device=q.device), current_rates()
    scores, square = n * p, order * order
    apart = formed_apart(scores, order)
    narrow = apart and not (q.weighted or q.centered)  # read, and summed, as they are
    dtype, size = (real, 4) if narrow and single else ("float64", 8)
    products = 4 if primal else 8  # of the solution and its residual
    forming = scores * (order + 1)
    others = order * square / 3 + (products * scores + 2 * square) * q.rhs
    rows = products * SHORT_ROW * n * q.rhs
    passes = (0 if apart else 2) + products / 2 * q.rhs  # packed, summed, and read for the others
    long = 8 * LONG_VECTORS * p * q.rhs if side == "dual" else 0
    seconds = rates.call + rates.around(0, long, 0)
    seconds += (others + rows) / rates.core_speed() + passes * size * scores / rates.bandwidth
    if apart:  # which of complex scores takes half the products
        own = order // q.parts
        dtype = dtype if q.parts == 1 else "complex64" if dtype == "float32" else "complex128"
        seconds += rates.seconds(summed, f"numba.{summed}", dtype, own, forming / q.parts, 0)
    else:
        seconds += forming / rates.core_speed()
    vectors = 4 * p if side == "dual" else 0
    scratch = 24 * square + 8 * vectors
    if single and not narrow:
        scratch += 8 * scores
    copied = q.halves or not q.direct
    # Of complex scores these are half as much as they are as real ones.
    copies = 1 + copied / 2 if q.parts == 2 else copied
    if copies:
        scratch += (4 if single else 8) * copies * scores
        seconds += scores / rates.conversion
    if apart:
        cores, cache = machine.cpu_count(), machine.cache_sizes()["L2"]
        terms = scores // (order * q.parts)
        scratch += rank_k_bytes(own, terms, q.parts, size, cores, cache)
        scratch += 6 * (q.parts - 1) * square  # complex sums, and their imaginary parts
    told = (choice.entry.reproducible, seconds, choice.source, choice.measured)
    # Of complex problems the half, which is what they need: sides are compared by that.
    text, flops, moved = f"{q.n} x {q.p}", forming + others, q.n * q.p * q.stored_bytes
    return Stage(op, choice.entry.name, text, int(flops / q.parts), int(moved), int(scratch), *told)
