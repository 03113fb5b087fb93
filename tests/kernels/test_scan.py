"""Scan: which rows are not finite, and the largest of the others."""

import numpy as np

from fastfisher.kernels.cpu.splitting import (
    BLOCK_ROWS,
)
from tests.kernels.cases import (
    implementations,
    operands,
    over_dtypes,
    unchanged,
)


@implementations("scan")
@over_dtypes
def test_scan_marks_rows_that_are_not_finite_and_finds_the_largest(entry, dtype):
    scan = entry.load()
    shapes = (0, 3), (3, 0), (1, 1), (BLOCK_ROWS - 1, 3), (BLOCK_ROWS + 1, 3), (700, 5)
    many = (BLOCK_ROWS + 1, 40), (3000, 3), (5, 70_000)  # of long rows several tasks
    for n, p in (*shapes, *many):
        G = operands(n, p, dtype).G
        bad = np.ones(n, bool)
        largest = max(np.abs(G.real).max(initial=0), np.abs(G.imag).max(initial=0))
        assert scan(bad, G) == largest and not bad.any()
        if not G.size:
            continue
        rows = [row for row in (0, n // 2, BLOCK_ROWS - 1, BLOCK_ROWS, n - 1) if row < n]
        G[rows, p // 2] = np.resize([np.nan, np.inf, -np.inf], len(rows))
        expected = np.zeros(n, bool)
        expected[rows] = True
        if dtype.kind == "c":
            G[n // 3, 0] = complex(0, np.nan)
            expected[n // 3] = True
        finite = G[~expected]
        intact = unchanged(G)
        largest = max(np.abs(finite.real).max(initial=0), np.abs(finite.imag).max(initial=0))
        assert scan(bad, G) >= largest and np.array_equal(bad, expected)
        intact()
