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
    add_lower_ahead,
    panels_of,
    triangle_corner,
)
from .simd import address
from .splitting import step_rows
from .threads import driver

__all__ = ["layered_gram"]

ROWS = 96  # rows of a and e in a group of samples, unless one sample has more


@kernel
def _blocks(x, panels):
    """Block sums over the packed rows of a factor, and the terms of each."""
    rows = panels.stride // panels.ld
    return ((x.p + x.p % 2) * x.parts + rows - 1) // rows, rows // x.parts


@kernel
def _pack_group(t, thread, packed, x, start, rows, panels):
    """Task: group t of `rows` rows, block by block."""
    lo, hi, width = t * rows, min((t + 1) * rows, x.n), x.p * x.parts
    a = x.a + lo * width * x.bytes
    part = Operand(a, hi - lo, x.p, x.parts, x.by_rows, x.scale, x.shift, x.bytes, x.code)
    zero, count = np.int64(0), (rows + panels.width - 1) // panels.width
    here = (hi - lo + panels.width - 1) // panels.width
    blocks, block = _blocks(x, panels)
    for b in range(blocks):
        to, k = start + (t * blocks + b) * count * panels.stride, b * block
        pack(packed, to, part, k, min(block, x.p - k), zero, here, panels)


@kernel
def _products(sums, packed, x, start, rows, gi, gj, full, panels):
    """Products of the rows of group gi with those of gj, in double."""
    (blocks, block), zero, one = _blocks(x, panels), np.int64(0), np.int64(1)
    add, ld, w = panels.add, panels.ld, panels.width
    count = (rows + w - 1) // w
    size, step = count * w, count * panels.stride
    here, across = min(rows, x.n - gi * rows), min(rows, x.n - gj * rows)
    re, im = Place(zero, size, one, one + full), Place(size * size, size, one, one + full)
    every, middle = (zero, here), min((across // w + 1) // 2 * w, across)
    first, second = (zero, middle), (middle, across)
    sums[:] = 0
    for b in range(blocks):
        l0, r0 = start + (gi * blocks + b) * step, start + (gj * blocks + b) * step
        terms = min(block, x.p - b * block)
        terms += terms % 2
        if x.parts == 2:
            both = (zero, across)
            add_complex(sums, re, im, here, every, both, packed, l0, r0, terms, True, panels, sums)
            continue
        left, right = address(packed, l0), address(packed, r0)
        after = step * panels.bytes if b + 1 < blocks else zero
        above, beside = (left + after, left + 2 * after), (right + after, right + 2 * after)
        add_lower_ahead(
            sums, re, here, every, first, add, left, right, ld, terms, panels, sums, above
        )
        add_lower_ahead(
            sums, re, here, every, second, add, left, right, ld, terms, panels, sums, beside
        )


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
def _pair(t, thread, c, order, packed, a, e, starts, group, tokens, layouts, scratch, tasks):
    """Task: two groups of samples; it owns their block of c."""
    gi, gj = triangle_corner(tasks - 1 - t)
    rows, own = group * tokens, scratch[thread]
    inputs, outputs = own[0], own[1]
    full = 1 if tokens > 1 or gi != gj else 0
    _products(inputs, packed, a, starts[0], rows, gi, gj, full, layouts[0])
    _products(outputs, packed, e, starts[1], rows, gi, gj, full, layouts[1])
    width = layouts[0].width
    size = (rows + width - 1) // width * width
    here, across = min(rows, a.n - gi * rows), min(rows, a.n - gj * rows)
    i0, j0 = gi * group, gj * group
    _multiply(c, order, i0, j0, here, across, tokens, a.parts, inputs, outputs, size)


@driver
def _pack(launch, packed, x, start, rows, panels):
    for_each(launch, _pack_group, (x.n + rows - 1) // rows, (packed, x, start, rows, panels))


@driver
def _pairs(launch, c, order, packed, a, e, starts, group, tokens, layouts, scratch):
    groups = (order + group - 1) // group
    tasks = groups * (groups + 1) // 2
    args = (c, order, packed, a, e, starts, group, tokens, layouts, scratch, tasks)
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
    dtype = factors[0].dtype
    step = step_rows(dtype.itemsize)
    panels = panels_of(dtype, step, subtract=factors[0].parts == 2)
    count = -(-rows // panels.width)
    layouts, lengths = [], []
    for x in factors:
        depth = (x.p + x.p % 2) * x.parts
        layouts.append(panels._replace(stride=min(step, depth) * panels.ld))
        lengths.append(groups * count * -(-depth // step) * layouts[-1].stride)
    packed = aligned((sum(lengths),), dtype)
    starts = (0, lengths[0])
    for x, start, layout in zip(factors, starts, layouts, strict=True):
        _pack(packed, x, start, rows, layout)
    size = count * panels.width
    scratch = aligned((threads.max_threads(), 2, factors[0].parts * size * size), np.float64)
    sums = c.view(np.float64).reshape(-1)
    _pairs(sums, len(c), packed, *factors, starts, group, tokens, tuple(layouts), scratch)
