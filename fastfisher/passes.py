"""Passes over the scores: kernels called slice by slice, sums kept in double.

A slice is a fixed number of rows (or columns), chosen by sizes alone, so results do not depend on
layout, origin or threads.
"""

import functools
import math
from dataclasses import replace

import numpy as np

from .arrays import LARGE, WIDEST, Scores, all_finite, far, whole_blocks
from .errors import InputError
from .kernels.cpu.memory import SMALL
from .kernels.cpu.splitting import BLOCK_ROWS, SLICE_BYTES, sliced_terms, written_once
from .kernels.slicing import KINDS
from .planning import choose
from .slices import lone_step, read_step, row_step, slice_flops, slices

__all__ = [
    "add_block_syrk",
    "add_diag",
    "add_fvp",
    "add_gram",
    "add_peaks",
    "add_rmatvec",
    "add_sliced_gram",
    "add_sliced_syrk",
    "add_syrk",
    "bad_rows",
    "check_finite",
    "fresh_sums",
    "mean_row",
    "products",
    "round_syrk",
    "sums_dtype",
    "syrk_step",
    "weighable",
    "weighed",
]

_DOUBLE, _COMPLEX = np.dtype(np.float64), np.dtype(np.complex128)
WIDE = 1 << 16  # sums which it is worth not to add to zeros
VENDOR_SLICE = 4096  # rows a vendor call gets at least: below, its own blocking suffers


def sums_dtype(dtype):
    """Dtype in which sums over `dtype` are kept."""
    return _COMPLEX if dtype.kind == "c" else _DOUBLE


@functools.cache
def _none(dtype):
    return np.empty(0, dtype)


def _real(values, dtype):
    """Per-sample or per-parameter reals in the precision of the scores; (0,) for None."""
    none = _none(dtype).real
    return none if values is None else np.ascontiguousarray(values, dtype=none.dtype)


def _shift(row, dtype):
    return _none(dtype) if row is None else np.ascontiguousarray(row, dtype=dtype)


def weighable(G, weights):
    """Scores that kernels read beside these weights (or None): in double where single precision
    would lose weights that count. Layers stay what they are: their samples are scaled."""
    if weights is None or not len(weights) or not isinstance(G, Scores) or G.weighed:
        return G
    if _none(G.dtype).real.itemsize == 8:
        return G
    wide = weights.max() >= WIDEST
    if not wide and G.stored != np.float16:  # which is not so large
        wide = far(weights, WIDEST).any() and bad_rows(G)[1] > LARGE
    return replace(G, dtype=sums_dtype(G.dtype)) if wide else G


def weighed(G, weights):
    """Scores that passes need not look at again for such weights; in their own dtype, always."""
    if _none(G.dtype).real.itemsize == 8:  # mixed precision may ask again, in single
        return G
    return replace(G, weighed=True) if weighable(G, weights) is G else G


def _weighed(G, weights, shift):
    """Scores that can be weighed, and their shift: rounded to the scores' own dtype first."""
    shift, G = _shift(shift, G.dtype), weighable(G, weights)
    return G, _shift(shift, G.dtype)


def _part(values, lo, hi):
    return values[lo:hi] if values.size else values


def _kernel(op, size, G):
    """The kernel for scores G, and whether it reads half precision: those of vendors do not."""
    entry = choose(op, size, G.dtype)
    return entry.load(), not entry.vendor


def syrk_step(G):
    """Rows per kernel call of `add_syrk`."""
    p = G.shape[1]
    vendor = choose("syrk", p, G.dtype).vendor
    return row_step(G, p * p, least=VENDOR_SLICE if vendor else 256)


def add_syrk(c, G, *, weights=None, shift=None):
    """Lower triangle of c += (G - shift)' diag(weights) (G - shift); c is double."""
    n, p = G.shape
    G, shift = _weighed(G, weights, shift)
    kernel, halves = _kernel("syrk", p, G)
    scale = _real(None if weights is None else np.sqrt(weights), G.dtype)
    for lo, hi in slices(n, syrk_step(G), "syrk"):
        kernel(c, G.rows(lo, hi, halves=halves), _part(scale, lo, hi), shift)


def round_syrk(G, out=None, *, weights=None):
    """What `add_syrk` would add to zeros, rounded: in `out` or a new array, of which the lower
    triangle counts. None, and nothing is done, where it takes sums in double beside it."""
    n, p = G.shape
    if _none(G.dtype).real.itemsize != 4:
        return None
    kernel, halves = _kernel("syrk", p, G)
    rounded = getattr(kernel, "rounded", None)
    once = n <= syrk_step(G) and written_once(p, n, G.dtype.itemsize // 4, 4)
    if not (rounded and once and weighable(G, weights) is G):
        return None
    out = np.empty((p, p), G.dtype) if out is None else out
    scale = _real(None if weights is None else np.sqrt(weights), G.dtype)
    for lo, hi in slices(n, n, "syrk"):
        rounded(out, G.rows(lo, hi, halves=halves), scale, _none(G.dtype))
    return out


def add_block_syrk(c, G, first=0, *, weights=None, shift=None):
    """c[b] += (G_b - shift_b)' diag(weights) (G_b - shift_b), both triangles, for consecutive
    blocks of columns from `first`; c (B, d, d) is double."""
    n, (blocks, d, _) = G.shape[0], c.shape
    G, shift = _weighed(G, weights, shift)
    kernel = choose("block_syrk", d, G.dtype).load()
    scale = _real(None if weights is None else np.sqrt(weights), G.dtype)
    direct = G.direct and G.stored == G.dtype and not shift.size
    step = slice_flops(_DOUBLE) // max(n * d * d, 1)
    if not direct:
        step = min(step, G.slice_columns // d)
    whole = G.rows(0, n) if direct else None
    for lo, hi in slices(blocks, max(int(step), 1), "block_syrk"):
        here = slice(first + lo * d, first + hi * d)
        if direct:
            kernel(c[lo:hi], whole, here.start, scale)
        else:
            panel = G.columns(here.start, here.stop)
            kernel(c[lo:hi], panel - shift[here] if shift.size else panel, 0, scale)


def add_gram(c, G, *, shift=None, column_weights=None):
    """Lower triangle of c += (G - shift) diag(column_weights) (G - shift)'; c is double."""
    n, p = G.shape
    kernel, halves = _kernel("gram", n, G)
    shift, weight = _shift(shift, G.dtype), _real(column_weights, G.dtype)
    step = min(whole_blocks(slice_flops(G.dtype) // max(n * n, 1), 256), G.slice_columns)
    if G.direct and (halves or G.stored == G.dtype):
        rows = G.rows(0, n, halves=halves)
        plain = not (shift.size or weight.size)
        for lo, hi in slices(p, step if halves or not plain else p, "gram"):
            kernel(c, rows, lo, hi, weight, shift)
    else:
        for lo, hi in slices(p, step, "gram"):
            # A panel without a name is gone before the next one is there; so in all loops here.
            more = _part(weight, lo, hi), _part(shift, lo, hi)
            kernel(c, G.columns(lo, hi, halves=halves), 0, hi - lo, *more)


def add_peaks(y, G, *, by_rows, weights=None, shift=None):
    """y = max(y, |w_k^1/2 (G - shift)_kj|) over rows k (p,), or columns j (n,); keeps NaN."""
    n, p = G.shape
    kernel = choose("peaks", p, G.dtype).load()
    scale = _real(None if weights is None else np.sqrt(weights), G.dtype)
    shift = _shift(shift, G.dtype)
    for lo, hi in slices(n, row_step(G, 2 * p), "peaks"):
        found = y if by_rows else y[lo:hi]
        kernel(found, G.rows(lo, hi), by_rows, _part(scale, lo, hi), shift)


def _sliced(op, order, count, kind, dtype):
    """The kernel, and terms of a call."""
    from .kernels.cpu.units import unit  # which tries its gates

    slices = KINDS[kind]
    kernel = choose(f"{slices.op}_{op}", order, dtype).load()
    tiled = unit(kind) == "amx"
    return kernel, sliced_terms(order, count, tiled=tiled, per_word=slices.terms)


def _within(length, step, op, part):
    """`slices` over a part (lo, hi) of range(length), or all of it."""
    start, stop = part or (0, length)
    for lo, hi in slices(stop - start, step, op):
        yield start + lo, start + hi


def add_sliced_syrk(
    c, G, units, count, levels, *, kind="bytes", weights=None, shift=None, part=None
):
    """Lower triangle of c += U (G - shift)' diag(weights) (G - shift) U from `count` slices, over
    all rows or a part (lo, hi)."""
    n, p = G.shape
    kernel, step = _sliced("syrk", p, count, kind, G.dtype)
    scale = _real(None if weights is None else np.sqrt(weights), G.dtype)
    units, shift = _real(units, G.dtype), _shift(shift, G.dtype)
    whole = G.direct and G.stored == G.dtype
    if count > 1 or not whole:  # one slice of what lies ready can be longer
        step = min(step, G.slice_rows)
    for lo, hi in _within(n, step, "sliced_syrk", part):
        kernel(c, G.rows(lo, hi), units, count, levels, _part(scale, lo, hi), shift)


def add_sliced_gram(c, G, units, count, levels, *, kind="bytes", shift=None, part=None):
    """Lower triangle of c += U (G - shift) (G - shift)' U from `count` slices, over all columns or
    a part (lo, hi)."""
    n, p = G.shape
    kernel, step = _sliced("gram", n, count, kind, G.dtype)
    units, shift = _real(units, G.dtype), _shift(shift, G.dtype)
    whole = G.direct and G.stored == G.dtype
    rows = G.rows(0, n) if whole else None
    if count > 1 or not whole:
        step = min(step, G.slice_columns)
    for lo, hi in _within(p, step, "sliced_gram", part):
        if whole:
            kernel(c, rows, lo, hi, units, count, levels, shift)
        else:
            here = _part(shift, lo, hi)
            kernel(c, G.columns(lo, hi), 0, hi - lo, units, count, levels, here)


def products(G, v, *, shift=None):
    """(G - shift) v for rows v (k, p): (k, n) in double."""
    n, p = G.shape
    kernel, halves = _kernel("matvec", len(v), G)
    y = np.empty((len(v), n), sums_dtype(G.dtype))
    shift = _shift(shift, G.dtype)
    step = (lone_step if _lies_ready(G, halves) else row_step)(G, p * len(v))
    for lo, hi in slices(n, step, "matvec"):
        part = y if hi - lo == n else np.empty((len(v), hi - lo), y.dtype)
        kernel(part, G.rows(lo, hi, halves=halves), v, shift)
        if part is not y:
            y[:, lo:hi] = part
    return y


def add_rmatvec(y, G, u, *, shift=None, finely=False):
    """y (k, p) += (G - shift)' u for rows u (k, n); y is double. `finely`: right where terms are
    alike, too, of which long sums would round one way."""
    n, p = G.shape
    kernel, halves = _kernel("fine_rmatvec" if finely else "rmatvec", len(u), G)
    shift = _shift(shift, G.dtype)
    for lo, hi in slices(n, read_step(G, p * len(u)), "rmatvec"):
        part = np.ascontiguousarray(u[:, lo:hi], dtype=G.dtype)
        for here, panel in _panels(G, lo, hi, halves):
            kernel(y[:, here], panel, part, _part(shift, here.start, here.stop))


def _panels(G, lo, hi, halves):
    """(which columns, their scores) of rows lo..hi: all, or fewer at a time if they are copied."""
    p = G.shape[1]
    if hi - lo <= G.slice_rows or _lies_ready(G, halves):
        yield slice(0, p), G.rows(lo, hi, halves=halves)
        return
    step = whole_blocks(SLICE_BYTES // ((hi - lo) * G.dtype.itemsize), 256)
    for j in range(0, p, step):
        here = slice(j, min(j + step, p))
        yield here, G.columns(j, here.stop, rows=(lo, hi), halves=halves)


def fresh_sums(op, G, *vectors, weights=None):
    """What `add_rmatvec`, `add_fvp` or `add_diag` would add to zeros, in double, or in the dtype
    of G where long rows make up one block: its sums then are the answer as they are."""
    n, p = G.shape
    shape = (*(len(v) for v in vectors), p)
    if p >= WIDE and 0 < n <= BLOCK_ROWS:
        kernel, halves = _kernel(op, shape[0], G)
        made, ready = getattr(kernel, "sums", None), _lies_ready(G, halves) and G.dtype.kind != "c"
        ready = ready and n <= read_step(G, 2 * math.prod(shape)) and math.prod(shape)
        if made and ready and weighable(G, weights) is G:
            more = () if op == "rmatvec" else (_real(weights, G.dtype),)
            for lo, hi in slices(n, n, op):
                y = made(G.rows(lo, hi, halves=halves), *vectors, *more, _none(G.dtype))
            return y if y.nbytes > SMALL else y.copy()  # scratch is for the next call
    y = np.zeros(shape, sums_dtype(G.dtype) if vectors else np.float64)
    more = {} if op == "rmatvec" else {"weights": weights}
    _ADD[op](y, G, *vectors, **more)
    return y


def _lies_ready(G, halves):
    """True if a kernel reads G without a copy."""
    return G.direct and (halves or G.stored == G.dtype)


def add_fvp(y, G, v, *, weights=None, shift=None, finely=False):
    """y (k, p) += (G - shift)' (weights o ((G - shift) v)) for rows v (k, p); y is double.

    `finely` as in `add_rmatvec`: in two passes, or in double where scores are single.
    """
    n, p = G.shape
    G, shift = _weighed(G, weights, shift)
    v = np.ascontiguousarray(v, dtype=G.dtype)
    if finely and G.dtype != sums_dtype(G.dtype):
        _add_wide_fvp(y, G, v, weights, shift)
        return
    kernel, halves = _kernel("fvp", len(v), G)
    step, ready = read_step(G, 2 * p * len(v)), _lies_ready(G, halves)
    copied_twice = step > G.slice_rows and not ready  # then not all of a slice at once
    if finely or copied_twice:
        t = products(G, v, shift=shift).astype(G.dtype, copy=False)
        if weights is not None:
            t *= _real(weights, G.dtype)
        add_rmatvec(y, G, t, shift=shift, finely=finely)
        return
    weights = _real(weights, G.dtype)
    for lo, hi in slices(n, step, "fvp"):
        kernel(y, G.rows(lo, hi, halves=halves), v, _part(weights, lo, hi), shift)


def _add_wide_fvp(y, G, v, weights, shift):
    """`add_fvp` in double where scores are not: of that nothing more is asked."""
    wide, step = sums_dtype(G.dtype), min(G.slice_rows, BLOCK_ROWS)  # a block sum, no more of them
    kernel = choose("wide_fvp", len(v), G.dtype).load()
    v, weights, shift = v.astype(wide), _real(weights, wide), shift.astype(wide)
    for lo, hi in slices(G.shape[0], step, "fvp"):
        kernel(y, G.rows(lo, hi, halves=True), v, _part(weights, lo, hi), shift)


def add_diag(y, G, *, weights=None, shift=None):
    """y (p,) += sum_n weights_n |G_n - shift|^2; y is float64."""
    n, p = G.shape
    G, shift = _weighed(G, weights, shift)
    kernel, halves = _kernel("diag", p, G)
    weights = _real(weights, G.dtype)
    for lo, hi in slices(n, read_step(G, 2 * p), "diag"):
        own = _part(weights, lo, hi)
        for here, panel in _panels(G, lo, hi, halves):
            kernel(y[here], panel, own, _part(shift, here.start, here.stop))


_ADD = {"rmatvec": add_rmatvec, "fvp": add_fvp, "diag": add_diag}


def mean_row(G, weights, total):
    """Weighted mean of the rows, (p,) in double; computed about one that counts, so that a constant
    column has exactly its value as mean."""
    n, p = G.shape
    dtype = sums_dtype(G.dtype)
    if n == 0 or total == 0:
        return np.zeros(p, dtype)
    G = weighable(G, weights)
    heaviest = 0 if weights is None else int(weights.argmax())
    about = G.rows(heaviest, heaviest + 1)[0]
    y = np.zeros((1, p), dtype)
    u = np.ones((1, n)) if weights is None else weights[np.newaxis]
    with np.errstate(over="ignore", invalid="ignore"):  # who asked looks at what came out
        add_rmatvec(y, G, u, shift=about)
        return about + y[0].conj() / total


def bad_rows(G):
    """Mask (n,) of the rows with NaN or Inf, and the largest finite magnitude."""
    n, p = G.shape
    kernel, halves = _kernel("scan", p, G)
    bad, largest = np.zeros(n, bool), 0.0
    for lo, hi in slices(n, row_step(G, 2 * p), "scan"):
        largest = max(largest, kernel(bad[lo:hi], G.rows(lo, hi, halves=halves)))
    return bad, largest


def check_finite(G, result, what, name="G"):
    """InputError if `result`, computed from G, is not finite: names the row, or the overflow."""
    if all_finite(result):
        return
    bad, largest = bad_rows(G)
    if bad.any():
        row = int(np.argmax(bad))
        values = np.asarray(G.rows(row, row + 1)[0])
        column = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(
            f"{name} holds {values[column]} in row {row}, column {column}; drop the row (weight 0 "
            "is not enough) or, in solve and update, pass nan_policy='skip'"
        )
    raise InputError(
        f"{what} overflows {G.dtype}: the largest |{name}| is {largest:.3g}; multiply {name} by a "
        f"power of two such as 2.0**{-int(np.ceil(np.log2(max(largest, 1.0))))} first"
    )
