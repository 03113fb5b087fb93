"""Peaks of columns and rows: NaN and Inf stay, the ends of the range too."""

import numpy as np
import pytest

from fastfisher.kernels.cpu import peaks

NONE = np.empty(0)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("by_rows", [True, False])
def test_peaks_keep_what_is_not_finite(bad, by_rows, rng):
    for n, p in ((5, 3), (1030, 17), (17, 1030)):
        a = rng.standard_normal((n, p))
        a[n - 2, p - 1] = bad
        y = np.zeros(p if by_rows else n)
        peaks.peaks(y, a, by_rows, NONE, NONE)
        where = p - 1 if by_rows else n - 2
        assert not np.isfinite(y[where]) and np.isfinite(np.delete(y, where)).all()
        assert np.isnan(y[where]) == np.isnan(bad)


def test_peaks_at_the_ends_of_the_range():
    a = np.array([[1e308, 5e-324, -0.0], [-1.7e308, -1e-310, 0.0]])
    y = np.zeros(3)
    peaks.peaks(y, a, True, NONE, NONE)
    np.testing.assert_array_equal(y, [1.7e308, 1e-310, 0.0])
