"""Half precision, in which scores may be stored; they are computed in float32."""

import numpy as np

__all__ = ["HALVES", "widened"]

HALVES = ("float16", "bfloat16")


def widened(bits, name):
    """Integers of 16 bits, read as numbers of the format of that name: float32, exactly."""
    if name == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
