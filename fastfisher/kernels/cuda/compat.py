"""Everything that depends on who provides CUDA for Python: numba-cuda, or its simulator.

All other files of this room take these names from here, and import neither numba nor llvmlite:

`cuda`, `types`      the provider's module (`cuda.jit`, `cuda.shared.array`, ...) and its types;
                     every file that calls it in a kernel holds it as a global called `cuda`
`SIMULATED`          kernels run in the simulator
`ALIGNED`            alignment of shared arrays that `load_vector` and `cp_async` work on
`kernel(threads)`    decorator of a kernel that is launched with at most so many threads per block
`device`             decorator of a function that kernels call
`launch`             run a kernel on the current stream; nothing else launches
`on_stream`          choose that stream: ``with on_stream(stream): syrk(c, a, scale, shift)``.
                     It is a context variable, so kernels have the arguments of their twins.
`capability`         (major, minor) of the current device; `device_number`, its number
`array_of`           a device array over memory of others; `address`, where it begins
`new_stream`         a stream that waits for no other, the default one neither
`overlaps`           whether two device arrays may share memory
`empty`              a device array, uninitialised, for work on the stream in force: from the pool
                     that `allocating` names, or our own; `kept_bytes`, what that one holds
`mma(m, n, k)`       c += a b on a warp's fragments in local arrays: c (m, n), a (m, k), b (k, n);
                     of doubles, of TF32 numbers, or of words of four bytes
`to_tf32`            float32 rounded to the 11 bits that tensor cores read
`load_vector(count)` elements that lie 16 bytes aligned, at once
`cp_async(bytes)`    copy 4, 8 or 16 bytes from global to shared memory behind the kernel's back;
`cp_async_commit`, `cp_async_wait(pending)`
`barrier(alone)`     of the lanes of a warp that is alone on its work, or of a thread block
`clear`, `move`, `spread`, `add_lower`   loops over registers, written out
`opaque`             an integer that the compiler can draw no conclusions from
`from_float16`, `from_bfloat16`   float32 of 16 stored bits
"""

import contextlib
import contextvars
import math

import numpy as np

from . import require
from .pool import Pool

require()

from numba import cuda  # noqa: E402 - after the clear error

try:
    from numba.cuda import types
except ImportError:
    from numba import types

SIMULATED = "simulator" in cuda.jit.__module__

if SIMULATED:
    from .simulated import (
        add_lower,
        address,
        array_of,
        clear,
        cp_async,
        cp_async_commit,
        cp_async_wait,
        from_bfloat16,
        from_float16,
        load_vector,
        mma,
        move,
        new_stream,
        opaque,
        overlaps,
        spoil,
        spread,
        syncwarp,
        to_tf32,
    )
else:
    from .ptx import (
        add_lower,
        address,
        array_of,
        clear,
        cp_async,
        cp_async_commit,
        cp_async_wait,
        from_bfloat16,
        from_float16,
        load_vector,
        mma,
        move,
        new_stream,
        opaque,
        overlaps,
        spoil,
        spread,
        syncwarp,
        to_tf32,
    )

__all__ = [
    "ALIGNED",
    "SIMULATED",
    "add_lower",
    "address",
    "allocating",
    "array_of",
    "barrier",
    "capability",
    "clear",
    "cp_async",
    "cp_async_commit",
    "cp_async_wait",
    "cuda",
    "current_stream",
    "device",
    "device_number",
    "empty",
    "from_bfloat16",
    "from_float16",
    "kept_bytes",
    "kernel",
    "launch",
    "load_vector",
    "mma",
    "move",
    "new_stream",
    "on_stream",
    "opaque",
    "overlaps",
    "spread",
    "to_tf32",
    "types",
]

# cuda.shared.array(size, dtype, ALIGNED) may be read and copied to 16 bytes at a time.
ALIGNED = None if SIMULATED else 16

device = cuda.jit(device=True) if SIMULATED else cuda.jit(device=True, forceinline=True)


@device
def _syncthreads():
    cuda.syncthreads()


def barrier(alone):
    """The barrier of a warp's lanes where it is `alone` on its work, else of a thread block's."""
    return syncwarp if alone else _syncthreads


def kernel(threads, blocks=1):
    """Decorator: registers are shared out for `threads` per block, `blocks` per multiprocessor."""
    return cuda.jit if SIMULATED else cuda.jit(launch_bounds=(threads, blocks))


_stream = contextvars.ContextVar("fastfisher_stream", default=0)
_allocator = contextvars.ContextVar("fastfisher_allocator", default=None)


@contextlib.contextmanager
def on_stream(stream):
    """Kernels inside the block run on `stream`: one of the provider's, or 0, the default one."""
    token = _stream.set(stream)
    try:
        yield
    finally:
        _stream.reset(token)


def current_stream():
    return _stream.get()


def launch(kernel, blocks, threads, *args):
    """Run a kernel on the current stream."""
    kernel[blocks, threads, _stream.get()](*args)


@contextlib.contextmanager
def allocating(allocator):
    """`empty` inside the block is ``allocator(shape, dtype)``; None for our own pool."""
    token = _allocator.set(allocator)
    try:
        yield
    finally:
        _allocator.reset(token)


_pool = Pool(lambda size: cuda.device_array(size, np.uint8))


def _pooled(shape, dtype):
    shape, dtype = tuple(np.atleast_1d(shape).tolist()), np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return cuda.device_array(shape, dtype)
    lease = _pool.take((device_number(), int(getattr(_stream.get(), "handle", 0))), size)
    spoil(lease.block)
    interface = {
        "version": 3,
        "shape": shape,
        "strides": None,
        "typestr": dtype.str,
        "data": (address(lease.block), False),
    }
    return array_of(interface, lease)


def kept_bytes():
    """Bytes that our own pool keeps, and gives back where the driver has no more."""
    return _pool.kept


def empty(shape, dtype):
    """An uninitialised device array, which is worked on in the order of the stream in force."""
    try:
        return (_allocator.get() or _pooled)(shape, dtype)
    except Exception as error:
        size = math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
        error.add_note(f"an array of {size / 1e6:.3g} MB was asked for")
        raise


def capability():
    """(major, minor) compute capability of the current device; the simulator is as good as any."""
    return (9, 0) if SIMULATED else tuple(cuda.get_current_device().compute_capability)


def device_number():
    """Number of the current device."""
    return 0 if SIMULATED else int(cuda.get_current_device().id)
