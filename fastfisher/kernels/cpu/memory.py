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
UNUSED = 2  # references to a buffer: its pair's and that of who asks; every view has one more

_own = threading.local()


def aligned(shape, dtype):
    """An uninitialised array that starts on a cache line.

    Its memory is used again once nobody refers to the array: fresh pages cost a short kernel more
    than its work.
    """
    dtype = np.dtype(dtype)
    raw, start = _buffer(math.prod(shape) * dtype.itemsize + LINE)
    return np.ndarray(shape, dtype, raw, -start % LINE)


def room(size):
    """Memory, and the address in it of a cache line where so many bytes begin."""
    raw, start = _buffer(size + LINE)
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
    """Memory and its address, which it takes long to ask for."""
    small = size <= LARGEST
    kept = _own.__dict__.setdefault("kept", []) if small else getattr(_own, "large", None)
    if kept is None:
        return _fresh(size)
    best, least = None, sys.maxsize
    for place, pair in enumerate(kept):
        found = pair[0].size
        if size <= found < least and sys.getrefcount(pair[0]) == UNUSED:
            best, least = place, found
    if best is not None:
        kept.append(kept.pop(best))
        return kept[-1]
    if not small:  # those are in nobody's way any more
        kept[:] = [pair for pair in kept if sys.getrefcount(pair[0]) != UNUSED]
    fresh = _fresh(size)
    kept.append(fresh)
    while sum(pair[0].size for pair in kept) > (KEPT if small else MOST):
        kept.pop(0)
    return fresh


def _fresh(size):
    raw = np.empty(size, np.uint8)
    return raw, raw.ctypes.data
