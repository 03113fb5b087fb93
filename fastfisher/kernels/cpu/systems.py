"""Scratch for a group of small systems, one per lane, and the steps that work on it."""

import functools
from typing import NamedTuple

import numpy as np
from numba import types

from . import threads
from .jit import entry_address, kernel
from .lane_kernel import FACTOR, LOAD, SETTLE, STORE, SUBSTITUTE, lane_kernel
from .lanes import EDGE, width
from .memory import aligned
from .simd import address, call_entry, lanes

__all__ = ["Group", "clamped", "group_of", "load", "scratch", "solve_and_store", "store"]

_double, _single = lane_kernel(types.float64), lane_kernel(types.float32)


def lanes_double(operation, a, b, c, d, e, f, g):
    _double(operation, a, b, c, d, e, f, g)


def lanes_single(operation, a, b, c, d, e, f, g):
    _single(operation, a, b, c, d, e, f, g)


@functools.cache
def _lane_address(func):
    return entry_address(func, 8)


class Group(NamedTuple):
    """Scratch of a group: matrices come first, other offsets are in elements."""

    p: int
    order: int  # p padded to whole tiles
    ld: int  # vectors from row to row
    lanes: int
    right: int  # a right-hand side, ld vectors
    roots: int  # reciprocals of the diagonal of L
    bad: int  # a vector: 0 or the failing order
    shift: int  # a vector: damping
    extra: int
    size: int
    code: int  # address of the lane kernel


def group_of(p, dtype, *, extra=0):
    """The scratch for groups of order p, with `extra` elements at its end."""
    n, vector = width(dtype), lanes(dtype)
    order = -(-p // EDGE) * EDGE
    ld, whole = order, -(-order // vector) * vector
    ends = [order * ld * n]
    for vectors in (whole, order, 1, 1):
        ends.append(ends[-1] + vectors * n)
    double = np.dtype(dtype).itemsize == 8
    code = _lane_address(lanes_double if double else lanes_single)
    return Group(p, order, ld, n, *ends, ends[-1] + extra, code)


def scratch(group, dtype):
    """Such scratch for every thread, and a status per lane."""
    count = threads.max_threads()
    stride = -(-group.size // 32) * 32
    return aligned((count, stride), dtype), aligned((count, 32), np.int32)


@kernel
def clamped(work, at, source, first, lanes):
    """A number per system, to lanes; past the end the last one is repeated."""
    for s in range(lanes):
        work[at + s] = source[min(first + s, source.size - 1)]


@kernel
def load(work, to, source, start, stride, rows, columns, count, group):
    """Rows of `count` consecutive systems to lanes; of square ones lower triangles."""
    a, b = address(work, to), address(source, start)
    call_entry(group.code, (LOAD, a, group.ld, b, stride, rows, columns, count))


@kernel
def store(to, start, stride, rows, columns, count, work, at, group):
    """And back."""
    a, b = address(to, start), address(work, at)
    call_entry(group.code, (STORE, a, stride, b, group.ld, rows, columns, count))


@kernel
def solve_and_store(x, info, first, work, status, group, ahead):
    """Factor the matrices, damped by `shift`, solve, and store what came of it.

    Meanwhile matrices like them are fetched from the address `ahead`.
    """
    p, code, zero, one = group.p, group.code, np.int64(0), np.int64(1)
    a, y, bad = address(work, zero), address(work, group.right), address(work, group.bad)
    roots, shift = address(work, group.roots), address(work, group.shift)
    call_entry(code, (FACTOR, a, group.ld, p, ahead, roots, bad, shift))
    call_entry(code, (SUBSTITUTE, y, a, group.ld, p, ahead, roots, zero))
    call_entry(code, (SETTLE, y, p, bad, address(status, zero), zero, zero, zero))
    count = min(group.lanes, info.size - first)
    store(x, first * p, p, one, p, count, work, group.right, group)
    for s in range(count):
        info[first + s] = status[s]
