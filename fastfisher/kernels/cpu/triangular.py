"""Triangular solves with a row-major lower factor. Right-hand sides are rows: x is (k, n)."""

import numpy as np

from .jit import driver, kernel
from .parallel import for_each

__all__ = ["solve_lower", "solve_lower_adjoint"]

GROUP = 8  # right-hand sides per task
ROWS = 64  # rows of L kept in cache while the task's right-hand sides pass over them
LANES = 16  # independent sums of a dot product: it vectorises without reordering


@kernel
def _forward(l, x, c0, c1, start):
    n = l.shape[0]
    lanes = np.empty(LANES, x.dtype)
    for i0 in range(start, n, ROWS):
        for c in range(c0, c1):
            for i in range(i0, min(i0 + ROWS, n)):
                whole = start + (i - start) // LANES * LANES
                lanes[:] = 0
                for j in range(start, whole, LANES):
                    for s in range(LANES):
                        lanes[s] += l[i, j + s] * x[c, j + s]
                total = x[c, i]
                for s in range(LANES):
                    total -= lanes[s]
                for j in range(whole, i):
                    total -= l[i, j] * x[c, j]
                x[c, i] = total / l[i, i].real


@kernel
def _backward(l, x, c0, c1):
    n = l.shape[0]
    for i1 in range(n, 0, -ROWS):
        for c in range(c0, c1):
            for i in range(i1 - 1, max(i1 - ROWS, 0) - 1, -1):
                value = x[c, i] / l[i, i].real
                x[c, i] = value
                for j in range(i):
                    x[c, j] -= l[i, j].conjugate() * value


@kernel
def _solve_task(task, l, x, start, adjoint):
    c0 = task * GROUP
    c1 = min(c0 + GROUP, x.shape[0])
    if adjoint:
        _backward(l, x, c0, c1)
    else:
        _forward(l, x, c0, c1, start)


@driver
def _solve(launch, l, x, start, adjoint):
    for_each(
        launch,
        _solve_task,
        (x.shape[0] + GROUP - 1) // GROUP,
        (
            l,
            x,
            start,
            adjoint,
        ),
    )


def solve_lower(l, x, start=0):
    # l  IN READ-ONLY (n, n) C order, lower triangle with a real diagonal
    # x  INOUT (k, n) l's dtype; entries before `start` are zero and stay so
    """x[c] <- L^-1 x[c]."""
    if x.size:
        _solve(l, x, start, False)


def solve_lower_adjoint(l, x):
    # l  IN READ-ONLY (n, n) C order, lower triangle with a real diagonal
    # x  INOUT (k, n) l's dtype
    """x[c] <- L^-' x[c]."""
    if x.size:
        _solve(l, x, 0, True)
