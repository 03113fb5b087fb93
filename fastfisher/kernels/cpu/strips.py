"""A'(w o (A v)) where rows are too long to pass one thread's cache twice.

Columns are cut into a strip per thread. In a round, strip by strip, a group of rows is multiplied
by the vector while the group before it, whose factors are known by then, is added to the sums: its
part of the strip is still in a cache: that of the core that read it, or the last one.
"""

import numpy as np

from . import threads
from .atomics import swap_if
from .elimination import LINE, publish, run_blocks, wait_for
from .jit import kernel
from .memory import aligned
from .parallel import for_each
from .row_passes import GROUP
from .rows import AHEAD, combine, dots, dots_and_combine
from .simd import address
from .splitting import BLOCK_ROWS, CHUNK_BYTES
from .sums import PAD, add_pair, block_sums, settled
from .threads import driver

__all__ = ["fvp"]


@kernel
def _own_strip(counters, round_, thread, strips):
    """A strip that is left in this round: the thread's own, unless another one has taken it."""
    s = thread % strips
    while not swap_if(address(counters, s * LINE), round_, round_ + 1):
        s = (s + 1) % strips
    return s


@kernel
def _factors(out, chunks, rows, weights, i, pairs):
    """out[r] = factor of row i + r, its chunk sums added in order, times its weight."""
    pairs[:] = 0
    for q in range(chunks.shape[0]):
        for r in range(rows):
            add_pair(pairs, r, np.float64(chunks[q, r]))
    for r in range(rows):
        out[r] = settled(pairs, r)
        if weights.size > 0:
            out[r] *= weights[i + r]


@kernel
def _both(chunks, y, x, i, v, s, j0, j1, chunk):
    """Chunk sums of the group of rows at i; s times the group before it is added to y."""
    rows = chunks.shape[1]
    for j in range(j0, j1, chunk):
        to, at = address(chunks, j // chunk * rows), j * x.bytes
        dots_and_combine(to, y + at, x, i, j, v + at, s, min(chunk, j1 - j), rows)


@kernel
def _dots(chunks, x, i, rows, v, j0, j1, chunk):
    some = GROUP if rows == GROUP else 1
    for j in range(j0, j1, chunk):
        at, count = v + j * x.bytes, min(chunk, j1 - j)
        for r in range(0, rows, some):
            to = address(chunks, j // chunk * chunks.shape[1] + r)
            dots(to, x, i + r, j, at, count, some, np.int64(0))


@kernel
def _combine(y, x, i, rows, s, j0, j1):
    at, some = y + j0 * x.bytes, GROUP if rows == GROUP else 1
    for r in range(0, rows, some):
        combine(at, x, i + r, j0, s + r * x.bytes, j1 - j0, some, np.int64(0))


@kernel
def _task(t, thread, parts, x, first, last, v, weights, strip, chunks, factors, pairs, counters):
    """Task: a strip of a round."""
    chunk, group = CHUNK_BYTES // x.bytes, chunks.shape[2]
    strips = (x.width + strip - 1) // strip
    round_ = t // strips
    for s in range(strips):
        wait_for(counters, strips + s, round_)
    s = _own_strip(counters, round_, thread, strips)
    j0, j1 = s * strip, min((s + 1) * strip, x.width)
    i = first + round_ * group
    rows, before = min(group, last - i), min(i - first, min(group, last - i + group))
    own, vector, zero = factors[thread], address(v, np.int64(0)), np.int64(0)
    at, here = address(own, zero), chunks[round_ % 2]
    y = address(parts, (i - 1 - first) // BLOCK_ROWS * parts.shape[2])
    if before > 0:
        _factors(own, chunks[1 - round_ % 2], before, weights, i - group, pairs[thread])
    if before == group and rows == group:
        _both(here, y, x, i, vector, at, j0, j1, chunk)
    else:
        _combine(y, x, i - group, before, at, j0, j1)
        _dots(here, x, i, rows, vector, j0, j1, chunk)
    publish(counters, strips + s, round_ + 1)


@driver
def _rounds(launch, count, parts, x, first, last, v, weights, strip, chunks, factors, pairs, words):
    args = (parts, x, first, last, v, weights, strip, chunks, factors, pairs, words)
    for_each(launch, _task, count, args)


def fvp(x, v, weights, strips, rows):
    # x  IN Rows;  v  IN (1, width);  weights  IN (n,) or (0,);  strips  IN, at most
    # rows  IN at a time, a GROUP or one
    """Sums over rows of x[i] weights[i] (x[i] v), (1, width) in double."""
    group, workers = GROUP if rows > 1 else 1, threads.max_threads()
    x, chunk = x._replace(ahead=AHEAD // x.stored), CHUNK_BYTES // x.bytes
    count = -(-x.width // chunk)
    strip = -(-count // strips) * chunk
    strips = -(-x.width // strip)
    chunks = aligned((2, count, group), v.dtype)
    factors, pairs = aligned((workers, PAD), v.dtype), np.empty((workers, group, 2))

    def add(parts, first):
        parts[:] = 0
        last = min(first + len(parts) * BLOCK_ROWS, x.n)
        tasks = (-(-(last - first) // group) + 1) * strips
        words = np.zeros(2 * strips * LINE, np.int64)
        args = (parts, x, first, last, v, weights, strip, chunks, factors, pairs, words)
        run_blocks(_rounds, True, tasks, *args)

    return block_sums(x, 1, v.dtype, add)
