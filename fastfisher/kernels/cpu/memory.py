"""Scratch that vectors can be loaded from at full speed."""

import contextlib
import math
import sys
import threading

import numpy as np

__all__ = ["aligned", "large_kept", "room"]

LINE = 64  # bytes of a cache line and of the widest vector
LARGEST = 8 << 20  # bytes of a buffer that is kept for the next call,
KEPT = 16 << 20  # and of all that a thread keeps
MOST = 512 << 20  # the same of larger ones, inside `large_kept`

_own = threading.local()


def aligned(shape, dtype):
    """An uninitialised array that starts on a cache line.

    Its memory is used again once nobody refers to the array: fresh pages cost a short kernel more
    than its work.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    raw, address = room(size)
    start = address - raw.ctypes.data
    return raw[start : start + size].view(dtype).reshape(shape)


def room(size):
    """Memory, and the address in it of a cache line where so many bytes begin."""
    raw = _buffer(size + LINE)
    start = raw.ctypes.data
    return raw, start + -start % LINE


@contextlib.contextmanager
def large_kept():
    """Inside the block this thread uses large buffers again, too."""
    if getattr(_own, "large", None) is not None:  # a block around this one
        yield
        return
    _own.large = []
    try:
        yield
    finally:
        _own.large = None


def _buffer(size):
    small = size <= LARGEST
    kept = _own.__dict__.setdefault("kept", []) if small else getattr(_own, "large", None)
    if kept is None:
        return np.empty(size, np.uint8)
    free = _free(kept)
    best = min((i for i in free if kept[i].size >= size), key=lambda i: kept[i].size, default=None)
    if best is not None:
        kept.append(kept.pop(best))
        return kept[-1]
    if not small:  # those are in nobody's way any more
        kept[:] = [kept[i] for i in range(len(kept)) if i not in free]
    fresh = np.empty(size, np.uint8)
    kept.append(fresh)
    while sum(buffer.size for buffer in kept) > (KEPT if small else MOST):
        kept.pop(0)
    return fresh


def _free(kept):
    """Places of the buffers that nobody uses."""
    # Every view of a buffer refers to it: two references are the list's and the call's.
    return [i for i in range(len(kept)) if sys.getrefcount(kept[i]) == 2]
