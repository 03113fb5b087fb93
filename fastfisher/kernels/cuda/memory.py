"""Device memory: what is allocated, copied between host and device, and waited for.

Nothing else in the package moves data over the bus or waits for the device.
"""

import contextlib
import math

import numpy as np

from . import compat
from .compat import cuda

__all__ = [
    "as_stream",
    "copy",
    "copy_in",
    "copy_out",
    "device",
    "device_of",
    "event",
    "fill",
    "free_bytes",
    "gather",
    "new_stream",
    "pinned",
    "synchronize",
    "to_device",
    "to_host",
    "view",
    "view_dlpack",
    "wait_for",
    "zeros",
]


@cuda.jit
def _fill(out, value):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = value


def fill(out, value):
    # out  OUT, C order
    """out[...] = value."""
    size = math.prod(out.shape)
    if size:
        threads = min(size, 256)
        compat.launch(_fill, -(-size // threads), threads, out.reshape(size), value)


@cuda.jit
def _copy(out, source):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = source[i]


def copy(out, source):
    # out  OUT, C order;  source  IN READ-ONLY of the same shape, in C order or a vector
    """out[...] = source, cast to its dtype."""
    size = math.prod(out.shape)
    if size:
        threads = min(size, 256)
        flat = out.reshape(size), source if len(source.shape) == 1 else source.reshape(size)
        compat.launch(_copy, -(-size // threads), threads, *flat)


@cuda.jit
def _gather(out, source):
    e = cuda.grid(1)
    if e < out.size:
        r, c = e // out.shape[1], e % out.shape[1]
        out[r, c] = source[r, c]


def gather(out, source):
    # out  OUT (n, p) C order;  source  IN READ-ONLY (n, p), at any strides
    """out[...] = source."""
    if out.size:
        threads = min(out.size, 256)
        compat.launch(_gather, -(-out.size // threads), threads, out, source)


def zeros(shape, dtype):
    """A device array of zeros, made there."""
    out = compat.empty(shape, dtype)
    fill(out, out.dtype.type(0))
    return out


def to_device(host):
    """A device copy of a contiguous host array; waits, as the caller may drop that."""
    out = compat.empty(host.shape, host.dtype)
    if host.size:
        copy_in(out, host)
        synchronize()
    return out


def copy_in(out, host):
    """Copy a host array into a device array, on the current stream."""
    cuda.to_device(host, stream=compat.current_stream(), to=out)


def copy_out(host, device):
    """Copy a device array into a host array, on the current stream; not waited for if pinned."""
    device.copy_to_host(host, stream=compat.current_stream())


def to_host(device):
    """A host copy of a device array; waits for everything before it on the current stream."""
    host = np.empty(tuple(device.shape), device.dtype)
    if host.size:
        copy_out(host, device)
    synchronize()
    return host


def synchronize():
    """Wait for the current stream."""
    stream = compat.current_stream()
    if stream == 0:
        cuda.default_stream().synchronize()
    else:
        stream.synchronize()


def pinned(shape, dtype):
    """A host array that the device copies from without the host's help."""
    return cuda.pinned_array(shape, dtype)


def new_stream():
    """A stream of our own, for copies beside kernels."""
    return compat.new_stream()


def event():
    """An event that costs no time stamps."""
    return cuda.event() if compat.SIMULATED else cuda.event(timing=False)


def wait_for(pointer):
    """The current stream waits on the device for what was queued on another one so far."""
    if compat.SIMULATED:
        return
    other, mark = as_stream(pointer), event()
    mark.record(other)
    mark.wait(compat.current_stream())


def as_stream(stream):
    """One of the provider's streams, from a pointer, or from an object of torch, CuPy or another
    library that carries one; 0 is the default stream."""
    if hasattr(stream, "auto_synchronize"):
        return stream
    if hasattr(stream, "__cuda_stream__"):
        pointer = stream.__cuda_stream__()[1]
    else:
        names = ("cuda_stream", "ptr", "handle")
        pointer = next((getattr(stream, n) for n in names if hasattr(stream, n)), stream)
    if int(pointer) == 0 or compat.SIMULATED:
        return 0
    return cuda.external_stream(int(pointer))


def view(x):
    """A device array over the memory of an object with __cuda_array_interface__, which is kept."""
    if hasattr(x, "__cuda_ndarray__"):
        return x
    return compat.array_of(x.__cuda_array_interface__, x)


def view_dlpack(x, stream):
    """A device array over the memory of a DLPack object, which orders itself before `stream`."""
    from cuda.core.utils import StridedMemoryView

    pointer = int(getattr(stream, "handle", 0) or 0)
    seen = StridedMemoryView.from_dlpack(x, stream_ptr=pointer or 1)
    size = seen.dtype.itemsize
    strides = None if seen.strides is None else tuple(s * size for s in seen.strides)
    interface = {
        "version": 3,
        "shape": tuple(seen.shape),
        "strides": strides,
        "typestr": seen.dtype.str,
        "data": (int(seen.ptr), False),
    }
    return compat.array_of(interface, seen)


def device_of(x):
    """Number of the device that a device array of the provider lies on."""
    if compat.SIMULATED:
        return 0
    return int(x.gpu_data.context.device.id)


def device(number):
    """Context: work on the device of this number; None is the current one."""
    return contextlib.nullcontext() if number is None else cuda.gpus[number]


def free_bytes():
    """Bytes of device memory that are free, or will be where they are asked for."""
    if compat.SIMULATED:
        return 1 << 30
    context = cuda.current_context()
    if pending := getattr(context.memory_manager, "deallocations", None):
        pending.clear()  # what the provider has put off freeing: a fifth of the memory, at most
    return int(context.get_memory_info().free) + compat.kept_bytes()
