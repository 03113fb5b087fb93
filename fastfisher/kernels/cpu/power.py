"""The largest eigenvalue of a positive semidefinite matrix, from below, by a few power steps."""

import math

import numba
import numpy as np

from ..reference import POWER_STEPS
from .jit import kernel
from .matvec import matvec
from .threads import driver

__all__ = ["power_steps", "range_safe_norm", "spectral_norm"]

ONE_CALL = 512  # order up to which the calls of products would cost more than their threads save
FEW = 200  # likewise where products are complex, whose calls are not in one
MIDDLE = 2.0**400  # squares between its inverse and itself neither overflow nor lose digits


@kernel
def range_safe_norm(x):
    """2-norm of real numbers, powers of two on them to the bit; NaN or Inf if one of them is."""
    total = 0.0
    for value in x:
        total += value * value
    if 1 / MIDDLE < total < MIDDLE:
        return np.sqrt(total)
    largest = 0.0
    for value in x:
        largest = max(largest, abs(value))
    if not (largest > 0 and np.isfinite(largest)):
        return total
    unit, total = math.ldexp(1.0, math.frexp(largest)[1] - 1), 0.0
    for value in x:
        total += (value / unit) ** 2
    return unit * np.sqrt(total)


@kernel
def power_steps(a, x, y):
    """Largest eigenvalue of a real `a`, both triangles given; x and y are scratch."""
    n, first = len(a), 0
    for i in range(n):
        if a[i, i] > a[first, first]:
            first = i
    largest = a[first, first]
    x[:] = 0
    x[first] = 1
    for _ in range(POWER_STEPS):
        y[:] = 0
        for i in range(n):
            value = x[i]
            for j in range(n):
                y[j] += value * a[i, j]
        size = range_safe_norm(y)
        if not size > largest:
            break
        largest = size
        for i in range(n):
            x[i] = y[i] / size
    return largest


@driver
def _in_one_call(launch, out, a, x, y):
    out[0] = power_steps(a, x, y)


def _by_products(a):
    x, y, none = np.zeros((1, len(a)), a.dtype), np.empty((1, len(a)), a.dtype), a[:0, 0].copy()
    diagonal = a.diagonal().real
    x[0, int(np.argmax(diagonal))] = 1
    largest = float(diagonal.max())
    for _ in range(POWER_STEPS):
        if len(a) > FEW:
            matvec(y, a, x, none)
        else:
            np.einsum("ij,kj->ki", a, x, out=y)
        unit = math.ldexp(1.0, math.frexp(float(np.abs(y).max()))[1] - 1)
        size = float(np.linalg.norm(y / unit)) * unit
        if not size > largest:
            break
        largest, x = size, y / size
    return largest


def spectral_norm(a):
    # a  IN READ-ONLY (n, n) double or double complex, positive semidefinite, both triangles; n > 0
    """The norm of a, from below: what a few power steps from its largest column reach."""
    if a.dtype.kind == "c" or len(a) > ONE_CALL or numba.config.DISABLE_JIT:
        return _by_products(a)
    out = np.empty(1)
    _in_one_call(out, a, *np.empty((2, len(a))))
    return float(out[0])
