"""Slices of scores as kernels want them: device arrays in C order, from wherever the scores lie.

Scores of the host pass through two buffers: while kernels read one, the host fills the other and
the bus empties it. Nothing is waited for but a buffer that is still in use.
"""

import functools

import numpy as np

from ..kernels.cuda import SLICE_BYTES, compat, copies, memory
from .door import none

__all__ = ["column_slices", "first_row", "row_slices", "wide_row_slices"]

SHARE = 8  # a buffer takes at most this share of the memory that is free


def row_slices(G):
    """Yield (lo, hi, rows lo..hi of the scores on the device)."""
    for lo, hi, rows in _slices(G, 0):
        if G.dtype.itemsize == 8 and rows.dtype != G.dtype:
            yield from _widened(G, lo, hi, rows)
        else:
            yield lo, hi, rows


def wide_row_slices(G):
    """The same in what the scores are computed in, for what reads no halves."""
    for lo, hi, rows in row_slices(G):
        if rows.dtype == G.dtype:
            yield lo, hi, rows
        else:
            yield from _widened(G, lo, hi, rows)


def _widened(G, lo, hi, rows):
    """Rows lo..hi in the dtype of the scores, some at a time."""
    p = G.shape[1]
    step = min(max(SLICE_BYTES // (p * G.dtype.itemsize), 1), hi - lo)
    buffer = compat.empty((step, p), G.dtype)
    for first in range(lo, hi, step):
        last = min(first + step, hi)
        copies.changed(buffer[: last - first], rows[first - lo : last - lo], 1.0, none(bool))
        yield first, last, buffer[: last - first]


def column_slices(G):
    """Yield (lo, hi, columns lo..hi of the scores on the device)."""
    yield from _slices(G, 1)


def first_row(G):
    """The first row (1, p) of the scores on the device."""
    row = _first_row(G)
    if G.dtype.itemsize == 8 and row.dtype != G.dtype:
        ((_, _, row),) = _widened(G, 0, 1, row)
    return row


def _first_row(G):
    if G.direct:
        return G.data[:1]
    if G.streamed:
        return memory.to_device(_taken(G, 0)(0, 1).view(_bits(G.stored)))
    row = compat.empty((1, G.shape[1]), G.stored)
    _copied(row, G, G.data[:1], 0)
    return row


def _bits(stored):
    """The dtype in which kernels get what is stored."""
    return stored if stored.name != "bfloat16" else np.dtype(np.uint16)


def _slices(G, axis):
    n, p = G.shape
    if n == 0 or p == 0:
        return
    if G.direct:
        yield 0, G.shape[axis], G.data
        return
    length, across = (n, p) if axis == 0 else (p, n)
    room = min(SLICE_BYTES, memory.free_bytes() // SHARE)
    step = max(min(room // (across * G.stored.itemsize), length), 1)
    bounds = [(lo, min(lo + step, length)) for lo in range(0, length, step)]
    yield from (_over_the_bus if G.streamed else _gathered)(G, axis, step, bounds)


def _taken(G, axis):
    """A function that gives slices of host scores in the dtype that `G.stored` says."""
    take = G.data.rows if axis == 0 else G.data.columns
    return functools.partial(take, halves=G.stored == G.data.stored)


def _copied(out, G, part, first):
    """A slice of scores on the device, whose first row is number `first`, as it is to be read."""
    if G.changed:
        copies.changed(out, part, G.factor, none(bool) if G.skipped is None else G.skipped, first)
    else:
        memory.gather(out, part)


def _shape(axis, count, across):
    return (count, across) if axis == 0 else (across, count)


def _gathered(G, axis, step, bounds):
    """Copies, on the device, of scores at other strides, or changed."""
    across = G.shape[1 - axis]
    buffer = compat.empty((step * across,), G.stored)
    for lo, hi in bounds:
        out = buffer[: (hi - lo) * across].reshape(_shape(axis, hi - lo, across))
        if axis == 0:
            _copied(out, G, G.data[lo:hi], lo)
        else:
            _copied(out, G, G.data[:, lo:hi], 0)
        yield lo, hi, out


def _over_the_bus(G, axis, step, bounds):
    across, buffers = G.shape[1 - axis], range(min(2, len(bounds)))
    bits, take = _bits(G.stored), _taken(G, axis)
    hosts = [memory.pinned((step * across,), bits) for _ in buffers]
    devices = [compat.empty((step * across,), bits) for _ in buffers]
    copying, computing = memory.new_stream(), compat.current_stream()
    copied, used = ([memory.event() for _ in buffers] for _ in range(2))
    for event in used:
        event.record(computing)
    try:
        for i, (lo, hi) in enumerate(bounds):
            turn, size = i % 2, (hi - lo) * across
            shape, host = _shape(axis, hi - lo, across), hosts[turn][:size]
            if i > 1:
                copied[turn].synchronize()
            np.copyto(host.reshape(shape), take(lo, hi).view(bits))
            with compat.on_stream(copying):
                used[turn].wait(copying)
                memory.copy_in(devices[turn][:size], host)
                copied[turn].record(copying)
            copied[turn].wait(computing)
            yield lo, hi, devices[turn][:size].reshape(shape)
            used[turn].record(computing)
    finally:  # also where the slices are given up: the host buffers are about to go
        for event in copied:
            event.synchronize()
