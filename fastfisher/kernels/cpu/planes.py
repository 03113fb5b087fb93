"""Complex sums from three real products, conj(x) y = (a - ib)'(c + id): a'c, b'd, (a - b)'(c + d).

The real part is the sum of the first two, the imaginary part the third less the first plus the
second. Their errors are bounded by |x|'|y| as those of four products are, not by |a|'|d|. Half of
a - b is packed, so that no product is out of range where the result is not.
"""

from .jit import kernel
from .moves import spread_at
from .packing import pack
from .products import with_layout
from .simd import address
from .splitting import AT_ONCE

__all__ = ["add_parts", "pack_planes"]


@kernel
def pack_planes(out, base, apart, work, x, k0, kb, first, last, panels, like):
    # out    OUT flat; panels of PACKED planes from `base` on, `apart` elements from one to the next
    # work   scratch for AT_ONCE panels of twice as many rows
    # others as in `pack`; like is a number of the elements' type
    """Pack panels first..last."""
    size = 2 * panels.stride
    pairs = with_layout(panels, size, panels.ld, panels.width)
    for q in range(first, last, AT_ONCE):
        end = min(q + AT_ONCE, last)
        pack(work, -q * size, x, k0, kb, q, end, pairs)
        for panel in range(q, end):
            source = address(work, (panel - q) * size)
            to = address(out, base + panel * panels.stride)
            spread_at(to, apart, source, kb + kb % 2, panels.width, like)


@kernel
def add_parts(c, to, own, at, plane, count, diagonal, sign):
    # c    INOUT flat, (re, im) pairs from `to` on;  own  IN sums of products, `plane` apart
    # sign  -1 for the conjugate
    """Add `count` sums to a row of c; number `diagonal` of them is real."""
    for r in range(count):
        first, second, third = own[at + r], own[at + plane + r], own[at + 2 * plane + r]
        c[to + 2 * r] += first + second
        if r != diagonal:
            c[to + 2 * r + 1] += sign * 2 * (third - (first - second) / 2)
