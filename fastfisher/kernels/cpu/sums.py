"""Sums over samples: block sums in the precision of the vectors, added in double, in order.

Each addition keeps its rounding error (two-sum), so nothing is lost however many there are.
"""

import numpy as np

from .jit import kernel
from .memory import SMALL, aligned
from .parallel import for_each
from .row_tiles import COLUMNS
from .splitting import BLOCK_ROWS, LANE_BYTES
from .threads import driver

__all__ = [
    "PAD",
    "STRIPE",
    "add_kept",
    "add_pair",
    "block_sums",
    "settle",
    "settled",
    "stripes",
]

STRIPE = 4096  # columns per task of a sum over samples, and per round of one along a row
PARTIAL_BYTES = 16 << 20  # block sums kept at a time,
PARTIAL_BLOCKS = 4  # or this many where one is larger than that
PAD = LANE_BYTES // 4  # rows of block sums hold whole units of a pass over rows


@kernel
def add_pair(pairs, at, term):
    """pairs[at] = (sum, its rounding error) += term."""
    total = pairs[at, 0]
    new = total + term
    kept = new - total
    pairs[at, 1] += (total - (new - kept)) + (term - kept)
    pairs[at, 0] = new


@kernel
def add_kept(sums, carry, terms, count):
    """sums += terms in double, rounding errors to carry."""
    for q in range(count):
        total, term = sums[q], np.float64(terms[q])
        new = total + term
        kept = new - total
        carry[q] += (total - (new - kept)) + (term - kept)
        sums[q] = new


@kernel
def settle(sums, carry, count):
    """sums += carry; an overflow stays what it is."""
    for q in range(count):
        total = sums[q] + carry[q]
        sums[q] = total if np.isfinite(total) else sums[q]


@kernel
def settled(pairs, at):
    """The sum with its rounding error; an overflow stays what it is."""
    total = pairs[at, 0] + pairs[at, 1]
    return total if np.isfinite(total) else pairs[at, 0]


@kernel
def stripes(width):
    """Stripes of columns."""
    return (width + STRIPE - 1) // STRIPE


@kernel
def _sum_task(t, thread, y, carry, parts):
    """Task: a stripe of columns of a row; block sums are added in order."""
    count = stripes(y.shape[1])
    c, lo = t // count, t % count * STRIPE
    hi = min(lo + STRIPE, y.shape[1])
    for b in range(parts.shape[0]):
        add_kept(y[c, lo:hi], carry[c, lo:hi], parts[b, c, lo:hi], hi - lo)


@driver
def _sum(launch, y, carry, parts):
    for_each(launch, _sum_task, y.shape[0] * stripes(y.shape[1]), (y, carry, parts))


def block_sums(x, k, dtype, call, block=BLOCK_ROWS):
    """(k, width): sums over all samples, in double; call(parts, first) makes some block sums."""
    blocks = -(-x.n // block)
    width = -(-x.width // PAD) * PAD + (COLUMNS if k > 1 else 0)
    at_once = min(blocks, max(PARTIAL_BLOCKS, PARTIAL_BYTES // (k * width * dtype.itemsize)))
    lone = blocks == 1  # perhaps the answer (`passes.fresh_sums`), which is not to hold scratch
    again = not lone or k * width * dtype.itemsize <= SMALL
    parts = aligned((at_once, k, width), dtype, again=again)
    if lone:
        call(parts, 0)
        return parts[0, :, : x.width]
    y, carry = np.zeros((2, k, x.width))
    for b in range(0, blocks, at_once):
        used = parts[: min(at_once, blocks - b)]
        call(used, b * block)
        _sum(y, carry, used)
    # Inf - Inf is NaN: a sum that overflowed stays what it is.
    return np.add(y, carry, out=y, where=np.isfinite(y))
