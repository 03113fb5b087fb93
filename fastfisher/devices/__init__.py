"""Arrays on CUDA devices: the door, slices over the bus, passes over scores that lie there.

Importing this room, and asking where an array lies, loads nothing of CUDA.
"""

import numpy as np

from ..errors import InputError, MissingDependencyError
from ..kernels import cuda

__all__ = ["lies_on_device", "require_device"]

_HOST = (np.ndarray, np.generic, list, tuple, dict, str, int, float, complex, type(None))
_CUDA = (2, 13)  # DLPack: device memory, managed memory of CUDA


def lies_on_device(x):
    """True if x is an array in the memory of a CUDA device."""
    if isinstance(x, _HOST):
        return False
    kind = type(x)
    if hasattr(kind, "__cuda_ndarray__"):  # of numba
        return True
    if hasattr(kind, "__dlpack_device__"):
        try:
            return int(x.__dlpack_device__()[0]) in _CUDA
        except Exception:  # the door of the host says what is wrong with it
            return False
    return hasattr(kind, "__cuda_array_interface__")


def require_device():
    """InputError, or MissingDependencyError, saying why nothing can be computed on a device."""
    obstacle = cuda.obstacle()
    if obstacle is not None:
        missing = MissingDependencyError if "numba-cuda" in obstacle else InputError
        raise missing(
            f"no CUDA device: {obstacle}; host arrays are computed without one "
            "(torch: .cpu(), cupy: .get())"
        )
