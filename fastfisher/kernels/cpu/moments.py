"""Second moments of a layer's scores, sum_n |sum_t e_nt a_nt'|^2: the scores never exist.

In the eigenbases of the Kronecker factors this is what EKFAC corrects with.
"""

import numpy as np

from . import threads
from .jit import kernel
from .memory import aligned
from .packing import operand, pack
from .parallel import for_each
from .products import KC, panels_of
from .simd import address, call_entry
from .threads import driver

__all__ = ["layered_diag"]

PACKED_BYTES = 4 << 20  # of both factors between two barriers
BLOCK = 4  # panels of a on a side of a task


@kernel
def _pack_samples(t, thread, packed, x, start, first, count, tokens, even, panels):
    """Task: panel t of a factor; every sample has an even number of packed rows."""
    rows = even * x.parts * panels.ld
    if tokens == 1:
        pack(packed, start, x, first, count, t, t + 1, panels)
        return
    for s in range(count):
        pack(packed, start + s * rows, x, (first + s) * tokens, tokens, t, t + 1, panels)


@kernel
def _square_add(total, tile):
    for s in range(total.size):
        total[s] += tile[s] * tile[s]


@kernel
def _sample(total, tile, e, a, steps, parts, panels):
    """total += |sum over the packed rows of one sample of e a'|^2 on one tile."""
    ld, across, zero = panels.ld, panels.columns, np.int64(0)
    shape, at = np.int64(3), address(tile, zero)
    tile[:] = 0
    if parts == 1:
        call_entry(panels.add, (shape, at, across, e, a, ld, steps, a))
        _square_add(total, tile)
        return
    below = ld * panels.bytes
    call_entry(panels.add, (shape, at, across, e, a, 2 * ld, steps, a))
    call_entry(panels.subtract, (shape, at, across, e + below, a + below, 2 * ld, steps, a + below))
    _square_add(total, tile)
    tile[:] = 0
    call_entry(panels.add, (shape, at, across, e, a + below, 2 * ld, steps, a + below))
    call_entry(panels.add, (shape, at, across, e + below, a, 2 * ld, steps, a))
    _square_add(total, tile)


@kernel
def _tile_sum(total, tile, packed, e, a, samples, even, tokens, parts, panels):
    """Sums of one tile over the packed samples, in order."""
    total[:] = 0
    if tokens == 1:
        for k in range(0, even, KC):
            steps, zero = min(KC, even - k), np.int64(0)
            left, right = address(packed, e + k * panels.ld), address(packed, a + k * panels.ld)
            at = address(total, zero)
            shape = (np.int64(3), at, panels.columns)
            call_entry(panels.add, (*shape, left, right, panels.ld, steps, right))
        return
    for s in range(samples):
        row = s * even * parts * panels.ld
        left, right = address(packed, e + row), address(packed, a + row)
        _sample(total, tile, left, right, even, parts, panels)


@kernel
def _moments(t, thread, c, packed, starts, samples, even, tokens, parts, panels, scratch):
    """Task: one panel of outputs times a few panels of inputs."""
    outputs, inputs = c.shape
    blocks = (inputs + BLOCK * panels.width - 1) // (BLOCK * panels.width)
    q, first = t // blocks, t % blocks * BLOCK * panels.width
    own = scratch[thread]
    for j in range(first, min(first + BLOCK * panels.width, inputs), panels.columns):
        a = starts[1] + j // panels.width * panels.stride
        for i in range(q * panels.width, min((q + 1) * panels.width, outputs), panels.rows):
            e = starts[0] + q * panels.stride + i % panels.width
            _tile_sum(own[0], own[1], packed, e, a, samples, even, tokens, parts, panels)
            for r in range(min(panels.rows, outputs - i)):
                for s in range(min(panels.columns, inputs - j)):
                    c[i + r, j + s] += own[0, r * panels.columns + s]


@driver
def _pack(launch, packed, x, start, first, count, tokens, even, panels):
    panel_count = (x.p + panels.width - 1) // panels.width
    args = (packed, x, start, first, count, tokens, even, panels)
    for_each(launch, _pack_samples, panel_count, args)


@driver
def _add_moments(launch, c, packed, starts, samples, even, tokens, parts, panels, scratch):
    rows = (c.shape[0] + panels.width - 1) // panels.width
    blocks = (c.shape[1] + BLOCK * panels.width - 1) // (BLOCK * panels.width)
    args = (c, packed, starts, samples, even, tokens, parts, panels, scratch)
    for_each(launch, _moments, rows * blocks, args)


def _squares(a):
    return np.square(a) if a.dtype.kind != "c" else np.square(a.real) + np.square(a.imag)


def layered_diag(c, a, e, tokens):
    # c       INOUT (d_out, d_in) double
    # a, e    IN READ-ONLY (n tokens, d_in), (n tokens, d_out) C order, one dtype
    # tokens  rows of a and e per sample
    """c += sum over samples of |sum over tokens t of e_t a_t'|^2, element by element."""
    if not (c.size and a.size):
        return
    if tokens == 1:
        a, e = _squares(a), _squares(e)
    factors = operand(e, True), operand(a, True)
    parts, dtype = factors[0].parts, factors[0].dtype
    n, even = len(a) // tokens, tokens + tokens % 2
    width = panels_of(dtype, 1).width
    columns = sum(-(-x.p // width) * width for x in factors)
    if tokens == 1:
        at_once = min(n, max(KC, PACKED_BYTES // (columns * dtype.itemsize) // KC * KC))
        depth = at_once + at_once % 2
    else:
        at_once = min(n, max(1, PACKED_BYTES // (columns * even * parts * dtype.itemsize)))
        depth = at_once * even * parts
    panels = panels_of(dtype, depth, subtract=parts == 2)
    lengths = [-(-x.p // width) * panels.stride for x in factors]
    packed = aligned((sum(lengths),), dtype)
    starts = (0, lengths[0])
    scratch = aligned((threads.max_threads(), 2, panels.rows * panels.columns), np.float64)
    for first in range(0, n, at_once):
        count = min(at_once, n - first)
        rows = count + count % 2 if tokens == 1 else even
        for x, start in zip(factors, starts, strict=True):
            _pack(packed, x, start, first, count, tokens, even, panels)
        _add_moments(c, packed, starts, count, rows, tokens, parts, panels, scratch)
