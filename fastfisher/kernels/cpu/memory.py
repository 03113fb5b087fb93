"""Scratch that vectors can be loaded from at full speed."""

import math
import sys
import threading
import weakref

import numpy as np

__all__ = ["aligned", "keep_large", "room"]

LINE = 64  # bytes of a cache line and of the widest vector
LARGEST = 8 << 20  # bytes of a buffer that is kept for the next call,
KEPT = 16 << 20  # and of all that a thread keeps

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


class Large(list):
    """Buffers beyond LARGEST, for the next call of a thread."""


def keep_large():
    """Until the caller forgets what this returns, this thread uses large buffers again, too."""
    large = Large()
    _own.large = weakref.ref(large)
    return large


def _buffer(size):
    small = size <= LARGEST
    if small:
        kept = _own.__dict__.setdefault("kept", [])
    else:
        kept = _own.large() if hasattr(_own, "large") else None
        if kept is None:
            return np.empty(size, np.uint8)
    best = _smallest_free(kept, size)
    if best is not None:
        kept.append(kept.pop(best))
        return kept[-1]
    fresh = np.empty(size, np.uint8)
    kept.append(fresh)
    while small and sum(buffer.size for buffer in kept) > KEPT:
        kept.pop(0)
    return fresh


def _smallest_free(kept, size):
    """Where the smallest buffer lies that is free and has room, or None."""
    best = None
    for i in range(len(kept)):
        # Every view of a buffer refers to it: two references are the list's and the call's.
        if kept[i].size >= size and sys.getrefcount(kept[i]) == 2:
            if best is None or kept[i].size < kept[best].size:
                best = i
    return best
