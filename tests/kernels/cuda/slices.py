"""Sums of products of bytes in the simulator, to the last bit: X2. In a process of its own, as
simulated.py."""

from unittest import mock

import numpy as np

from fastfisher.kernels import reference
from fastfisher.kernels.slicing import slice_units
from tests import matrices

__all__ = ["CHECKS", "run"]


def _there(x):
    from numba import cuda

    return cuda.to_device(x) if isinstance(x, np.ndarray) else x


def _run(kernel, out, *args):
    """What a kernel leaves in `out`."""
    there = _there(out.copy())
    kernel(there, *map(_there, args))
    return there.copy_to_host()


def _bytes(n, p):
    a = matrices.generator("bytes on a device", n, p).integers(-127, 128, (n, p)).astype(float)
    a[0], a[-1] = 127, -127
    return a


def _scores(n, p, dtype):
    """Scores, roots of weights, a shift, and units of columns and of rows, as computed."""
    rng, dtype = matrices.generator("slices on a device", n, p, dtype), np.dtype(dtype)
    a, m = rng.standard_normal((n, p)).astype(dtype), rng.standard_normal(p).astype(dtype)
    w = rng.uniform(0.1, 2, n).astype(dtype)
    columns = slice_units(np.abs(w[:, None] * (a - m)).max(axis=0), dtype).astype(dtype)
    rows = slice_units(np.abs(a - m).max(axis=1), dtype).astype(dtype)
    return a, w, m, columns, rows


def _both(a, w, m, columns, rows, slices, levels, stored=None):
    """(syrk, gram) of ours and of the reference, which works in the dtype of the scores."""
    from fastfisher.kernels.cuda import sliced

    n, p = a.shape
    lo, hi = p // 3, p - p // 4
    there = a if stored is None else stored
    starts = np.full((p, p), 2.0**20), np.full((n, n), 2.0**20)
    mine = (
        _run(sliced.sliced_syrk, starts[0], there, columns, slices, levels, w, m),
        _run(sliced.sliced_gram, starts[1], there, lo, hi, rows, slices, levels, m),
    )
    theirs = starts[0].copy(), starts[1].copy()
    reference.sliced_syrk(theirs[0], a, columns, slices, levels, w, m)
    reference.sliced_gram(theirs[1], a, lo, hi, rows, slices, levels, m)
    return mine, theirs


def _wrong(mine, theirs):
    """How many matrices differ by more than the order of their sums in double lets them."""
    pairs = zip(mine, theirs, strict=True)
    return float(sum(not np.allclose(x, y, rtol=0, atol=2.0**-30) for x, y in pairs))


def sums_of_bytes_are_exact():
    """Integers up to 127 either way: several tiles and steps; the lower triangle alone."""
    from fastfisher.kernels.cuda import sliced

    a, none, wrong = _bytes(37, 18), np.empty(0), 0
    for rows in (True, False):
        x = a if rows else a.T.copy()
        ones, start = np.ones(18), np.full((18, 18), 0.5)
        if rows:
            mine = _run(sliced.sliced_syrk, start, x, ones, 1, 1, none, none)
        else:
            mine = _run(sliced.sliced_gram, start, x, 0, 37, ones, 1, 1, none)
        wrong += not np.array_equal(mine - start, np.tril(a.T @ a))
    return float(wrong)


def slices_are_those_of_the_reference():
    """Weights and shift before rounding, in the dtype of the scores; products left out by level."""
    wrong = 0.0
    for dtype, slices, levels in (("float64", 3, 3), ("float32", 2, 3), ("float32", 3, 9)):
        wrong += _wrong(*_both(*_scores(7, 5, dtype), slices, levels))
    return wrong


def a_level_that_is_missing_is_seen():
    """The control: products of the second slices are 2^-14 of the first."""
    made = _scores(7, 5, "float64")
    (mine, _), (theirs, _) = (_both(*made, 2, levels)[0] for levels in (2, 3))
    return float(0 < np.abs(mine - theirs).max() < 1)


def stretches_add_up():
    """Sums that are cut where 32 bits end, a tail of two terms included."""
    from fastfisher.kernels.cuda import tilings

    made = _scores(10, 9, "float64")
    with mock.patch.object(tilings, "stretch_terms", lambda most: 4):
        return _wrong(*_both(*made, 2, 3))


def one_slice_has_the_same_bits_however_it_is_cut():
    from fastfisher.kernels.cuda import tilings

    made = _scores(10, 9, "float64")
    whole, _ = _both(*made, 1, 1)
    with mock.patch.object(tilings, "stretch_terms", lambda most: 4):
        parts, _ = _both(*made, 1, 1)
    return float(sum(x.tobytes() != y.tobytes() for x, y in zip(whole, parts, strict=True)))


def half_precision_has_the_bits_of_float32():
    a, w, m, columns, rows = _scores(6, 5, "float32")
    halves = a.astype(np.float16)
    bits = (a.view(np.uint32) >> 16).astype(np.uint16)
    wrong = 0.0
    for stored, same in ((halves, halves.astype("f4")), (bits, bits.astype("u4") << 16)):
        wrong += _wrong(*_both(same.view("f4"), w, m, columns / 2, rows / 2, 2, 3, stored))
    return wrong


def peaks_keep_what_is_not_finite():
    from fastfisher.kernels.cuda import peaks

    none, wrong = np.empty(0), 0
    for bad in (np.nan, np.inf, -np.inf):
        for n, p in ((5, 3), (3, 9)):
            a = matrices.generator("peaks").standard_normal((n, p))
            a[n - 2, p - 1] = bad
            for by_rows in (True, False):
                y = _run(peaks.peaks, np.zeros(p if by_rows else n), a, by_rows, none, none)
                expected = np.abs(a).max(axis=0 if by_rows else 1)
                wrong += not np.array_equal(y, expected, equal_nan=True)
    return float(wrong)


# Each with what it must return: how many results were wrong, or 1 for a control.
CHECKS = {
    check.__name__: (check, expected)
    for check, expected in (
        (sums_of_bytes_are_exact, 0),
        (slices_are_those_of_the_reference, 0),
        (a_level_that_is_missing_is_seen, 1),
        (stretches_add_up, 0),
        (one_slice_has_the_same_bits_however_it_is_cut, 0),
        (half_precision_has_the_bits_of_float32, 0),
        (peaks_keep_what_is_not_finite, 0),
    )
}


def run():
    """{name: what a check returned, or raised}."""
    found = {}
    for name, (check, _) in CHECKS.items():
        try:
            found[name] = check()
        except Exception as problem:
            found[name] = repr(problem)
    return found
