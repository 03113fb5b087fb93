"""The instructions of `ptx` for the simulator, which has none of a warp, for `compat` alone.

Lanes exchange through shared memory between two barriers, so all threads of a block must arrive.
"""

import functools
import random
import sys
import threading

import numpy as np
from numba import cuda
from numba.cuda.simulator import kernel, kernelapi
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

__all__ = [
    "add_lower",
    "address",
    "array_of",
    "clear",
    "cp_async",
    "cp_async_commit",
    "cp_async_wait",
    "from_bfloat16",
    "from_float16",
    "load_vector",
    "mma",
    "move",
    "new_stream",
    "opaque",
    "overlaps",
    "spoil",
    "syncwarp",
    "to_tf32",
]


_allocating = threading.Lock()


def _once(self, shape, dtype, alignment=None):
    """cuda.shared.array of the simulator, told apart by where it is asked for, as there. The
    simulator's own may give two threads that ask at the same time an array each."""
    if isinstance(dtype, kernelapi.types.Type):
        dtype = kernelapi.numpy_support.as_dtype(dtype)
    frame = sys._getframe(1)
    caller = frame.f_code.co_filename, frame.f_lineno
    with _allocating:
        if caller not in self._allocations:
            self._allocations[caller] = np.empty(shape, dtype)
            self._allocations[caller].view(np.uint8)[...] = 0xFF  # NaN
        return self._allocations[caller]


kernelapi.FakeCUDAShared.array = _once


# The simulator's own threads of a block all run at once and poll each other. Here they take turns,
# each up to its next barrier, in orders drawn from one seed: who reads what another is yet to write
# finds it missing in one of them.
_orders = random.Random(0)


def _in_turns(self, grid_point, *args):
    """BlockManager.run: all threads of a block, from the first to the last."""
    threads = [
        kernel.BlockThread(lambda: self._f(*args), self, grid_point, point, self._debug)
        for point in np.ndindex(*self._block_dim)
    ]
    self.all, self.waiting, self.arrived, self.failed = threads, [], threads[:], None
    for thread in threads:
        thread.turn = threading.Lock()
        thread.turn.acquire()
        thread.start()
    _next(self)
    for thread in threads:
        thread.join()
    if self.failed is not None:
        error, trace = self.failed
        raise error.with_traceback(trace)


def _next(block):
    """The turn of one that has not been at the barrier; of any, once all that still run have."""
    if not block.waiting:
        block.waiting, block.arrived = block.arrived, []
        _orders.shuffle(block.waiting)
    if block.waiting:
        block.waiting.pop().turn.release()


def _run(self, *, _run=kernel.BlockThread.run):
    """BlockThread.run; one that fails ends the others at their barriers."""
    self.turn.acquire()
    _run(self)
    if self.exception and self._manager.failed is None:
        self._manager.failed = self.exception
        for thread in self._manager.all:
            thread.abort = True
    _next(self._manager)


def _syncthreads(self):
    """BlockThread.syncthreads."""
    if not self.abort:
        self._manager.arrived.append(self)
        _next(self._manager)
        self.turn.acquire()
    if self.abort:
        raise RuntimeError("another thread of the block has failed")


kernel.BlockManager.run = _in_turns
kernel.BlockThread.run, kernel.BlockThread.syncthreads = _run, _syncthreads


def _cut(dtype, x):
    """Tensor cores cut sums of float32 off, not round them: this is the most that can be lost."""
    y = dtype.type(x)
    if dtype.kind == "i":
        return y
    return np.nextafter(y, dtype.type(0)) if abs(y) > abs(x) else y


def _terms(x):
    """What a row of fragments stands for: numbers, or of words the four bytes of each."""
    return x.view(np.int8).astype(np.int64) if x.dtype == np.int32 else x


@functools.cache
def mma(m, n, k):
    @cuda.jit(device=True)
    def multiply(c, i, a, j, b, l):
        warps, kind = -(-cuda.blockDim.x // 32), np.dtype(np.float64)
        if c.dtype == np.int32:
            kind = c.dtype
        left = cuda.shared.array((warps, m, k), kind)
        right = cuda.shared.array((warps, n, k), kind)
        warp, lane = cuda.threadIdx.x // 32, cuda.threadIdx.x % 32
        g, t = lane // 4, lane % 4
        for u in range(m * k // 32):
            left[warp, g + u % (m // 8) * 8, t + u // (m // 8) * 4] = a[j + u]
        for u in range(k * n // 32):
            right[warp, g, t + u * 4] = b[l + u]
        cuda.syncthreads()
        for u in range(m * n // 32):
            product = _terms(left[warp, g + u // 2 * 8]) @ _terms(right[warp, 2 * t + u % 2])
            c[i + u] = _cut(c.dtype, np.float64(c[i + u]) + product)
        cuda.syncthreads()

    return multiply


def _aligned(x, i, size):
    """Memory is read and copied `size` bytes at a time only where a multiple of that begins."""
    assert (x.ctypes.data + int(i) * x.dtype.itemsize) % size == 0, f"element {i} is not aligned"


@functools.cache
def load_vector(count):
    @cuda.jit(device=True)
    def load(to, i, source, j):
        _aligned(source, j, count * source.dtype.itemsize)
        for u in range(count):
            to[i + u] = source[j + u]

    return load


@functools.cache
def clear(count):
    @cuda.jit(device=True)
    def zeros(x):
        x[:count] = 0

    return zeros


@functools.cache
def move(count, to_step, step, how):
    @cuda.jit(device=True)
    def moved(to, i, x, j):
        for u in range(count):
            value, place = x[j + u * step], i + u * to_step
            if how == "+=":
                to[place] += value
            elif how == "*=":
                to[place] *= value
            else:
                to[place] = value

    return moved


@functools.cache
def add_lower(places):
    @cuda.jit(device=True)
    def add(c, at, ldc, order, i, j, sign, sums):
        for (r, s), value in zip(places, sums, strict=True):
            if i + r < order and j + s <= i + r:
                c[at + (i + r) * ldc + j + s] += c.dtype.type(sign * value)

    return add


@functools.cache
def spread(places, ld):
    @cuda.jit(device=True)
    def spread_out(to, at, x):
        for (r, s), value in zip(places, x, strict=True):
            to[at + r * ld + s] = value

    return spread_out


@functools.cache
def cp_async(size):
    @cuda.jit(device=True)
    def copy(to, i, source, j, valid):
        _aligned(to, i, size)
        _aligned(source, j, size)
        for u in range(size // to.dtype.itemsize):
            to[i + u] = source[j + u] if u * to.dtype.itemsize < valid else 0

    return copy


@cuda.jit(device=True)
def cp_async_commit():
    pass


@functools.cache
def cp_async_wait(pending):
    return cp_async_commit


@cuda.jit(device=True)
def syncwarp():
    cuda.syncthreads()


def to_tf32(x):
    """Nearest, ties away from zero; what is not finite stays."""
    x = np.float32(x)
    if not np.isfinite(x):
        return x
    return ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def opaque(x):
    return x


def from_float16(bits):
    return np.float32(np.uint16(bits).view(np.float16))


def from_bfloat16(bits):
    return (np.uint32(bits) << np.uint32(16)).view(np.float32)


class _Memory:
    """NumPy's view of a __cuda_array_interface__: in the simulator it is host memory."""

    def __init__(self, interface, owner):
        self.__array_interface__ = {**interface, "version": 3}
        self.owner = owner


def array_of(interface, owner):
    """The device array that a __cuda_array_interface__ describes; it keeps `owner`."""
    return FakeCUDAArray(np.asarray(_Memory(interface, owner)))


def address(x):
    """Where a device array begins; 0 if it is empty."""
    return x._ary.ctypes.data if x.size else 0


def spoil(x):
    """Nobody may rely on what is in memory that is handed out: NaN."""
    x._ary.reshape(-1).view(np.uint8)[...] = 0xFF


def _spoilt(*args, _make=cuda.device_array, **settings):
    made = _make(*args, **settings)
    spoil(made)
    return made


cuda.device_array = _spoilt


def new_stream():
    return cuda.stream()


def overlaps(a, b):
    """True if device arrays may share memory: the bounds of both do."""
    return np.may_share_memory(a._ary, b._ary)
