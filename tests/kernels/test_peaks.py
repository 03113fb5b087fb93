"""Peaks of columns and rows: NaN and Inf stay, the ends of the range too."""

import numpy as np
import pytest

from fastfisher.kernels.cpu import peaks

NONE = np.empty(0)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("by_rows", [True, False])
def test_peaks_keep_what_is_not_finite(bad, by_rows, rng):
    # Rows of a share by themselves, and in every place of those that are taken together.
    for n, p, row in (
        (5, 3, 3),
        (17, 1030, 15),
        *((1030, 17, k) for k in (64, 130, 131, 132, 133)),
    ):
        a = rng.standard_normal((n, p))
        a[row, p - 1] = bad
        y = np.zeros(p if by_rows else n)
        peaks.peaks(y, a, by_rows, NONE, NONE)
        where = p - 1 if by_rows else row
        assert not np.isfinite(y[where]) and np.isfinite(np.delete(y, where)).all()
        assert np.isnan(y[where]) == np.isnan(bad)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_peaks_are_those_of_each_row_in_every_place(dtype, rng):
    """Weighted and shifted; the largest of a column comes once, in a row of its own."""
    n, p = 523, 131
    a, m = (rng.uniform(-1, 1, shape).astype(dtype) for shape in ((n, p), p))
    a[rng.integers(0, n, p), np.arange(p)] = 90
    scale = rng.uniform(0.5, 2, n).astype(dtype)
    for s, shift in ((scale, m), (scale[:0], m), (scale, m[:0]), (scale[:0], m[:0])):
        y = np.zeros(p)
        peaks.peaks(y, a, True, s, shift)
        moved = a - shift if shift.size else a
        expected = np.abs(s[:, np.newaxis] * moved if s.size else moved).max(axis=0)
        np.testing.assert_array_equal(y, expected)
    for width in (1, 7, 64, p):
        for shift in (m[:width], m[:0]):
            y, part = np.zeros(n), np.ascontiguousarray(a[:, :width])
            peaks.peaks(y, part, False, scale[:0], shift)
            moved = part - shift if shift.size else part
            np.testing.assert_array_equal(y, np.abs(moved).max(axis=1))


def test_peaks_at_the_ends_of_the_range():
    a = np.array([[1e308, 5e-324, -0.0], [-1.7e308, -1e-310, 0.0]])
    y = np.zeros(3)
    peaks.peaks(y, a, True, NONE, NONE)
    np.testing.assert_array_equal(y, [1.7e308, 1e-310, 0.0])
