"""Blocked right-looking Cholesky, row-major lower, in place: A = L L'."""

import numpy as np

from .jit import driver, kernel
from .parallel import for_each
from .tile import panel_width, rank_update, triangle_corner

__all__ = ["cholesky"]

NB = 64  # order of the diagonal blocks; a multiple of 4


@kernel
def _factor_block(a, k0, nb):
    """Factor the diagonal block a[k0:k0+nb, k0:k0+nb]; info is the 1-based failing order or 0."""
    for j in range(k0, k0 + nb):
        pivot = a[j, j].real
        for k in range(k0, j):
            pivot -= (a[j, k] * a[j, k].conjugate()).real
        if not (pivot > 0 and np.isfinite(pivot)):
            return j + 1
        root = np.sqrt(pivot)
        a[j, j] = root
        for i in range(j + 1, k0 + nb):
            x = a[i, j]
            for k in range(k0, j):
                x -= a[i, k] * a[j, k].conjugate()
            a[i, j] = x / root
    return 0


@kernel
def _solve_panel_rows(a, k0, nb, i0, i1):
    """a[i, k0:k0+nb] <- a[i, k0:k0+nb] L11^-' for the rows i0..i1."""
    for i in range(i0, i1):
        for j in range(k0, k0 + nb):
            x = a[i, j]
            for k in range(k0, j):
                x -= a[i, k] * a[j, k].conjugate()
            a[i, j] = x / a[j, j].real


@kernel
def _panel_task(task, a, k0, nb, packed):
    """Solve the panel below the diagonal block and pack its conjugate for the trailing update."""
    n, width, first = a.shape[0], packed.shape[2], k0 + nb
    q = task
    i0 = first + q * width
    i1 = min(i0 + width, n)
    _solve_panel_rows(a, k0, nb, i0, i1)
    for k in range(nb):
        for i in range(i0, i1):
            packed[q, k, i - i0] = a[i, k0 + k].conjugate()
        for i in range(i1, i0 + width):
            packed[q, k, i - i0] = 0


@driver
def _panel(launch, a, k0, nb, packed):
    n, width, first = a.shape[0], packed.shape[2], k0 + nb
    for_each(
        launch,
        _panel_task,
        packed.shape[0],
        (
            a,
            k0,
            nb,
            packed,
        ),
    )


@kernel
def _trailing_tile(a, first, i, j, left, right, nb):
    width = left.shape[1]
    tile = np.zeros((width, width), a.dtype)
    for r in range(0, width, 32):
        rank_update(tile, r, left, 0, nb, min(32, width - r), right, width)
    i0, j0 = first + i * width, first + j * width
    for r in range(i0, min(i0 + width, a.shape[0])):
        for c in range(j0, min(j0 + width, r + 1)):
            a[r, c] -= tile[r - i0, c - j0]


@kernel
def _trailing_task(task, a, first, packed, nb):
    """A22 <- A22 - A21 A21', lower triangle."""
    tiles = packed.shape[0] * (packed.shape[0] + 1) // 2
    i, j = triangle_corner(tiles - 1 - task)
    _trailing_tile(a, first, i, j, packed[i], packed[j], nb)


@driver
def _trailing(launch, a, first, packed, nb):
    tiles = packed.shape[0] * (packed.shape[0] + 1) // 2
    for_each(
        launch,
        _trailing_task,
        tiles,
        (
            a,
            first,
            packed,
            nb,
        ),
    )


def cholesky(a):
    # a  INOUT (n, n) C order, float or complex; lower triangle, upper not read or written
    """Overwrite the lower triangle of a by L with L L' = a; info = 0 or the failing 1-based order.

    After a failure the rows and columns from the failing one on hold unfinished work.
    """
    n = a.shape[0]
    width = panel_width(a.dtype, n)
    for k0 in range(0, n, NB):
        nb = min(NB, n - k0)
        info = _factor_block(a, k0, nb)
        if info:
            return int(info)
        panels = -(-(n - k0 - nb) // width)
        if panels:
            packed = np.empty((panels, nb, width), a.dtype)
            _panel(a, k0, nb, packed)
            _trailing(a, k0 + nb, packed, nb)
    return 0
