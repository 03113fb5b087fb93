"""Scratch that vectors can be loaded from at full speed."""

import contextlib
import math
import sys
import threading

import numpy as np

__all__ = ["aligned", "forget", "kept_bytes", "large_kept", "room"]

LINE = 64  # bytes of a cache line and of the widest vector
# Bytes of a buffer that the main thread keeps for the next call, and of all that it keeps: where a
# hypervisor has taken free pages back meanwhile, fresh ones take a call as long as its products.
LARGEST = 96 << 20
KEPT = 160 << 20
SMALL = 8 << 20  # the same of other threads, of which there may be many;
KEPT_SMALL = 16 << 20
MOST = 512 << 20  # and of larger ones than are kept anyway, inside `large_kept`
SPARE = 4  # a buffer larger than SMALL, and than so many times a request, waits for another one
UNUSED = 2  # references to a buffer: its pair's and that of who asks; every view has one more

_own = threading.local()


def aligned(shape, dtype, *, again=True):
    """An uninitialised array that starts on a cache line.

    Its memory is used again, if it may be, once nobody refers to the array: fresh pages cost a
    short kernel more than its work.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize + LINE
    raw, start = _buffer(size) if again else _fresh(size)
    return np.ndarray(shape, dtype, raw, -start % LINE)


def room(size):
    """Memory, and the address in it of a cache line where so many bytes begin."""
    raw, start = _buffer(size + LINE)
    return raw, start + -start % LINE


@contextlib.contextmanager
def large_kept():
    """Inside the block this thread uses buffers again that are too large to be kept after it."""
    if getattr(_own, "large", None) is not None:  # a block around this one
        yield
        return
    _own.large = []
    try:
        yield
    finally:
        _own.large = None


def kept_bytes():
    """What this thread keeps for the next call."""
    return sum(pair[0].size for pair in getattr(_own, "kept", ()))


def forget(least=0):
    """Let go of kept buffers of so many bytes: memory is wanted for something else."""
    kept = getattr(_own, "kept", [])
    kept[:] = [pair for pair in kept if pair[0].size < least]


def _buffer(size):
    """Memory and its address, which it takes long to ask for."""
    own = _own.__dict__
    main = own.get("main")
    if main is None:
        main = own["main"] = threading.get_ident() == threading.main_thread().ident
    small = size <= (LARGEST if main else SMALL)
    kept = own.setdefault("kept", []) if small else own.get("large")
    if kept is None:
        return _fresh(size)
    best, least = None, max(SMALL, SPARE * size) + 1 if small else sys.maxsize
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
    most = MOST if not small else KEPT if main else KEPT_SMALL
    while sum(pair[0].size for pair in kept) > most:
        kept.pop(0)
    return fresh


def _fresh(size):
    try:
        raw = np.empty(size, np.uint8)
    except MemoryError:  # what is kept may be what is missing
        forget()
        raw = np.empty(size, np.uint8)
    return raw, raw.ctypes.data
