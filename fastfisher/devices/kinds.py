"""What the libraries that own device arrays call things: their streams, pools and new arrays.

CuPy and torch arrays are answered in kind; anything else as arrays of numba, which every library
with __cuda_array_interface__ reads in place.
"""

import contextlib
import sys

import numpy as np

from ..kernels.cuda import compat, memory

__all__ = [
    "current_stream",
    "device_number",
    "new_array",
    "ordered_by",
    "package",
    "pool",
    "producer_stream",
]


def package(x):
    """Top-level package of the class of an array."""
    return type(x).__module__.partition(".")[0]


def current_stream(x):
    """The stream on which the owner of x works now."""
    if package(x) == "torch":
        return memory.as_stream(sys.modules["torch"].cuda.current_stream(x.device))
    if package(x) == "cupy":
        return memory.as_stream(sys.modules["cupy"].cuda.get_current_stream())
    if hasattr(type(x), "__cuda_ndarray__"):
        return memory.as_stream(x.stream)
    return memory.as_stream(producer_stream(x) or 0)


def ordered_by(x, stream):
    """Context: the library of x, too, allocates and frees in the order of this stream.

    Memory that it frees is free for the work of its own current stream at once.
    """
    pointer = int(getattr(stream, "handle", 0))
    if package(x) == "torch":
        streams, device = sys.modules["torch"].cuda, x.device
        made = streams.ExternalStream(pointer, device=device) if pointer else None
        return streams.stream(made or streams.default_stream(device))
    if package(x) == "cupy":
        streams = sys.modules["cupy"].cuda
        return streams.ExternalStream(pointer) if pointer else streams.Stream.null
    return contextlib.nullcontext()


def producer_stream(x):
    """Pointer to the stream that x names as its producer's, or None."""
    if package(x) == "torch":  # names none, and refuses to be asked where a gradient is wanted
        return None
    if hasattr(type(x), "__cuda_ndarray__") or not hasattr(type(x), "__cuda_array_interface__"):
        return None
    return x.__cuda_array_interface__.get("stream")


def device_number(x):
    """Number of the device x lies on; None where only its address is known."""
    if hasattr(type(x), "__cuda_ndarray__"):
        return memory.device_of(x)
    if hasattr(type(x), "__dlpack_device__"):
        return int(x.__dlpack_device__()[1])
    return None


def new_array(x, shape, dtype):
    """(array of the kind of x on its device, the same as a device array); uninitialised."""
    dtype = np.dtype(dtype)
    if package(x) == "torch":
        torch = sys.modules["torch"]
        made = torch.empty(tuple(shape), dtype=getattr(torch, dtype.name), device=x.device)
    elif package(x) == "cupy":
        made = sys.modules["cupy"].empty(tuple(shape), dtype)
    else:
        made = compat.cuda.device_array(tuple(shape), dtype)
    return made, memory.view(made)


def pool(x):
    """An allocator of device arrays from the memory pool of the library of x; None: the driver."""
    if package(x) not in ("torch", "cupy"):
        return None
    return lambda shape, dtype: new_array(x, np.atleast_1d(shape).tolist(), dtype)[1]
