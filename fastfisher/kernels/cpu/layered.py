"""Gram matrix of one layer's scores from its inputs and output gradients; scores never exist."""

import numpy as np

from . import threads
from .jit import kernel
from .memory import aligned
from .packing import Operand, operand, pack
from .parallel import for_each
from .products import (
    Place,
    add_complex,
    add_lower,
    panels_of,
    triangle_corner,
    with_layout,
)
from .splitting import STEP
from .threads import driver

__all__ = ["layered_gram"]

ROWS = 96  # rows of a and e in a group of samples, unless one sample has more


@kernel
def _layout(x, panels):
    """Panels that hold all packed rows of a factor."""
    depth = (x.p + x.p % 2) * x.parts
    return with_layout(panels, depth * panels.ld, panels.ld, panels.width)


@kernel
def _pack_group(t, thread, packed, x, start, rows, panels):
    """Task: group t of `rows` rows, one panel of the factor after the other."""
    lo, hi, width = t * rows, min((t + 1) * rows, x.n), x.p * x.parts
    a = x.a + lo * width * x.bytes
    part = Operand(a, hi - lo, x.p, x.parts, x.by_rows, x.scale, x.shift, x.bytes, x.code)
    layout, zero = _layout(x, panels), np.int64(0)
    count = (rows + panels.width - 1) // panels.width
    here = (hi - lo + panels.width - 1) // panels.width
    pack(packed, start + t * count * layout.stride, part, zero, x.p, zero, here, layout)


@kernel
def _products(sums, packed, x, start, rows, gi, gj, full, panels):
    """Products of the rows of group gi with those of gj, in double."""
    layout, zero, one = _layout(x, panels), np.int64(0), np.int64(1)
    size = (rows + panels.width - 1) // panels.width * panels.width
    l0 = start + gi * (size // panels.width) * layout.stride
    r0 = start + gj * (size // panels.width) * layout.stride
    here, across = min(rows, x.n - gi * rows), min(rows, x.n - gj * rows)
    re, im = Place(zero, size, one, one + full), Place(size * size, size, one, one + full)
    sums[:] = 0
    block, ld = STEP // x.parts, panels.ld
    for k in range(0, x.p, block):
        terms, at = min(block, x.p - k), k * x.parts * ld
        terms += terms % 2
        m, n = (zero, here), (zero, across)
        a, b = l0 + at, r0 + at
        if x.parts == 1:
            add_lower(
                sums, re, here, m, n, layout.add, packed, a, packed, b, ld, terms, layout, sums
            )
        else:
            add_complex(sums, re, im, here, m, n, packed, a, b, terms, True, layout, sums)


@kernel
def _multiply(c, order, i0, j0, rows, columns, tokens, parts, inputs, outputs, size):
    """Add the products of the two factors' elements to c[i, j], j <= i, token pairs in order."""
    for r in range(rows):
        i, at = i0 + r // tokens, r * size
        if tokens == 1 and parts == 1:
            row = i * order + j0
            for s in range(min(columns, i - j0 + 1)):
                c[row + s] += inputs[at + s] * outputs[at + s]
            continue
        for s in range(min(columns, (i - j0 + 1) * tokens)):
            to = (i * order + j0 + s // tokens) * parts
            x, y = inputs[at + s], outputs[at + s]
            if parts == 1:
                c[to] += x * y
            else:
                u, v = inputs[size * size + at + s], outputs[size * size + at + s]
                c[to] += x * y - u * v
                c[to + 1] += x * v + u * y


@kernel
def _pair(t, thread, c, order, packed, a, e, starts, group, tokens, panels, scratch, tasks):
    """Task: two groups of samples; it owns their block of c."""
    gi, gj = triangle_corner(tasks - 1 - t)
    rows, own = group * tokens, scratch[thread]
    inputs, outputs = own[0], own[1]
    full = 1 if tokens > 1 or gi != gj else 0
    _products(inputs, packed, a, starts[0], rows, gi, gj, full, panels)
    _products(outputs, packed, e, starts[1], rows, gi, gj, full, panels)
    size = (rows + panels.width - 1) // panels.width * panels.width
    here, across = min(rows, a.n - gi * rows), min(rows, a.n - gj * rows)
    i0, j0 = gi * group, gj * group
    _multiply(c, order, i0, j0, here, across, tokens, a.parts, inputs, outputs, size)


@driver
def _pack(launch, packed, x, start, rows, panels):
    for_each(launch, _pack_group, (x.n + rows - 1) // rows, (packed, x, start, rows, panels))


@driver
def _pairs(launch, c, order, packed, a, e, starts, group, tokens, panels, scratch):
    groups = (order + group - 1) // group
    tasks = groups * (groups + 1) // 2
    args = (c, order, packed, a, e, starts, group, tokens, panels, scratch, tasks)
    for_each(launch, _pair, tasks, args)


def layered_gram(c, a, e, tokens):
    # c       INOUT (n, n) double or double complex; lower triangle, upper not read or written
    # a, e    IN READ-ONLY (n tokens, d_in), (n tokens, d_out) C order, one dtype
    # tokens  rows of a and e per sample
    """Lower triangle of c[i, j] += sum over tokens t, t' of (a_it a_jt'') (e_it e_jt'')."""
    if not (c.size and a.size and e.size):
        return
    factors = operand(a, False), operand(e, False)
    group = max(1, ROWS // tokens)
    rows, groups = group * tokens, -(-len(c) // group)
    panels = panels_of(factors[0].dtype, 1, subtract=factors[0].parts == 2)
    size = -(-rows // panels.width) * panels.width
    depths = [(x.p + x.p % 2) * x.parts for x in factors]
    lengths = [groups * size * depth for depth in depths]
    packed = aligned((sum(lengths),), factors[0].dtype)
    starts = (0, lengths[0])
    for x, start in zip(factors, starts, strict=True):
        _pack(packed, x, start, rows, panels)
    scratch = aligned((threads.max_threads(), 2, factors[0].parts * size * size), np.float64)
    sums = c.view(np.float64).reshape(-1)
    _pairs(sums, len(c), packed, *factors, starts, group, tokens, panels, scratch)
