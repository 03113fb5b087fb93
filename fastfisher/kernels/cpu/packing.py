"""Copies into packed panels: weights and centring are applied on the way.

Panel q of `out` (panels, k, width) holds columns q*width.. of the operand; what lies outside the
operand is zero, as are the rows up to a multiple of 4.
"""

from .jit import kernel

__all__ = ["pack_columns", "pack_rows"]


@kernel
def _zero(panel, k0, k1, j0):
    for k in range(k0, k1):
        for j in range(j0, panel.shape[1]):
            panel[k, j] = 0


@kernel
def pack_rows(out, q, a, k0, kb, scale, shift):
    # out    OUT (panels, >= kb rounded up to 4, width)
    # a      IN READ-ONLY (n, p) C order; rows k0..k0+kb are summed over, columns are panel columns
    # scale  IN (n,) row factors, or (0,) for ones;  shift IN (p,) subtracted first, or (0,)
    """out[q, k, j] = scale[k0+k] (a[k0+k, q*width+j] - shift[q*width+j])."""
    panel = out[q]
    j0 = q * panel.shape[1]
    nj = min(panel.shape[1], a.shape[1] - j0)
    for k in range(kb):
        if shift.size > 0:
            for j in range(nj):
                panel[k, j] = a[k0 + k, j0 + j] - shift[j0 + j]
        else:
            for j in range(nj):
                panel[k, j] = a[k0 + k, j0 + j]
        if scale.size > 0:
            factor = scale[k0 + k]
            for j in range(nj):
                panel[k, j] *= factor
    _zero(panel, 0, kb, nj)
    _zero(panel, kb, (kb + 3) // 4 * 4, 0)


@kernel
def pack_columns(out, q, a, k0, kb, weight, shift):
    # out     OUT (panels, >= kb rounded up to 4, width)
    # a       IN READ-ONLY (n, p) C order; columns k0..k0+kb are summed over, rows are panel columns
    # weight  IN (p,) column factors, or (0,) for ones;  shift IN (p,) subtracted first, or (0,)
    """out[q, k, i] = weight[k0+k] (a[q*width+i, k0+k] - shift[k0+k])."""
    panel = out[q]
    i0 = q * panel.shape[1]
    ni = min(panel.shape[1], a.shape[0] - i0)
    for k in range(0, kb, 16):  # 16 columns of a: whole cache lines are used up before the next row
        for i in range(ni):
            for r in range(k, min(k + 16, kb)):
                panel[r, i] = a[i0 + i, k0 + r]
    for k in range(kb):
        if shift.size > 0:
            for i in range(ni):
                panel[k, i] -= shift[k0 + k]
        if weight.size > 0:
            for i in range(ni):
                panel[k, i] *= weight[k0 + k]
    _zero(panel, 0, kb, ni)
    _zero(panel, kb, (kb + 3) // 4 * 4, 0)
