"""Scratch that vectors can be loaded from at full speed."""

import math

import numpy as np

__all__ = ["aligned"]

LINE = 64  # bytes of a cache line and of the widest vector


def aligned(shape, dtype):
    """An uninitialised array that starts on a cache line."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size].view(dtype).reshape(shape)
