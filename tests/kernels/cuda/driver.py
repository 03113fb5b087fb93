"""A CUDA driver that is not there, for the real device arrays, streams and events of numba-cuda.

Device memory is memory of the host, copies copy, kernels are compiled for the types that they are
launched with and not run. What each stream does with which bytes, and what waits for what, is kept:
two streams that touch the same bytes must be ordered by an event, or by the host.
"""

import contextlib
import ctypes
from types import SimpleNamespace
from unittest import mock

import numpy as np

__all__ = ["Driver", "TooLong", "standing_in"]

MOST = 12  # waits of the host


class TooLong(Exception):
    """The host has waited often enough."""


def _joined(a, b):
    return {key: max(a.get(key, 0), b.get(key, 0)) for key in a.keys() | b.keys()}


class Order:
    """What has happened before what: how much of each stream each of them, and the host, knows.

    A moment is {stream: how many of its operations are done}.
    """

    def __init__(self):
        self.known, self.host, self.done, self.problems = {}, {}, {}, set()

    def act(self, stream, ranges, what):
        """An operation of a stream on ranges of bytes."""
        known = _joined(self.known.get(stream, {}), self.host)
        known[stream] = known.get(stream, 0) + 1
        self.known[stream] = known
        for first, last in ranges:
            self._alone(stream, known, first, last, what)
            self.done[stream, first, last] = known[stream], what

    def _alone(self, stream, known, first, last, what):
        for (other, start, stop), (count, did) in self.done.items():
            if other != stream and first < stop and start < last and known.get(other, 0) < count:
                self.problems.add(f"{what} does not wait for {did}")

    def touch(self, first, last, what):
        """The host touches bytes now."""
        self._alone(None, self.host, first, last, what)

    def forget(self, first, last):
        """These bytes were freed; the driver waits for the device then."""
        self.wait()
        for seen in [x for x in self.done if first < x[2] and x[1] < last]:
            del self.done[seen]

    def wait(self, moment=None):
        """The host waits for a moment, or for everything."""
        for known in self.known.values() if moment is None else (moment,):
            self.host = _joined(self.host, known)


class Driver:
    """The functions of libcuda that numba-cuda calls."""

    def __init__(self, binding):
        self._binding, self.order, self.memory = binding, Order(), {}
        self.freed, self.streams, self.events, self.copied = 0, {}, {}, []
        self.free, self.waits = 8 << 30, 0

    def cuMemAlloc(self, size):
        memory = np.zeros(size + 256, np.uint8)
        address = -(-memory.ctypes.data // 256) * 256  # as of a device
        self.memory[address] = memory
        return self._binding.CUdeviceptr(address)

    def cuMemFree(self, pointer):
        memory = self.memory.pop(int(pointer))
        self.order.forget(int(pointer), int(pointer) + memory.size)
        self.freed += 1

    def cuMemGetInfo(self):
        return self.free, self.free

    def cuMemHostAlloc(self, size, flags):
        memory = np.zeros(size, np.uint8)
        self.memory[memory.ctypes.data] = memory
        return memory.ctypes.data

    def cuMemFreeHost(self, pointer):
        self.cuMemFree(pointer)

    def _copy(self, to, source, size, stream, what):
        ranges = (int(to), int(to) + size), (int(source), int(source) + size)
        self.order.act(int(stream), ranges, what)
        ctypes.memmove(int(to), int(source), size)
        self.copied.append(what)

    def cuMemcpyHtoD(self, to, source, size):
        self._copy(to, source, size, 0, "a copy to the device")
        self.order.wait(self.order.known[0])

    def cuMemcpyHtoDAsync(self, to, source, size, stream):
        self._copy(to, source, size, stream, "a copy to the device")

    def cuMemcpyDtoH(self, to, source, size):
        self._copy(to, source, size, 0, "a copy to the host")
        self.order.wait(self.order.known[0])

    def cuMemcpyDtoHAsync(self, to, source, size, stream):
        self._copy(to, source, size, stream, "a copy to the host")

    def cuStreamCreate(self, flags):
        handle = self._binding.CUstream(0x1000 + len(self.streams))
        self.streams[int(handle)] = flags
        return handle

    def cuStreamDestroy(self, stream):
        pass

    def cuStreamSynchronize(self, stream):
        self.waits += 1
        if self.waits > MOST:  # nothing is computed: conjugate gradients never end
            raise TooLong
        self.order.wait(self.order.known.get(int(stream), {}))

    def cuEventCreate(self, flags):
        self.events[len(self.events) + 1] = {}
        return self._binding.CUevent(len(self.events))

    def cuEventDestroy(self, event):
        pass

    def cuEventRecord(self, event, stream):
        known = self.order.known.get(int(stream), {})
        self.events[int(event)] = _joined(known, self.order.host)

    def cuStreamWaitEvent(self, stream, event, flags):
        known = self.order.known.get(int(stream), {})
        self.order.known[int(stream)] = _joined(known, self.events[int(event)])

    def cuEventSynchronize(self, event):
        self.order.wait(self.events[int(event)])

    def launched(self, kernel, stream, arrays):
        """A kernel was queued that touches these arrays."""
        ranges = []
        for x in arrays:
            if x.size:
                first = x.device_ctypes_pointer.value
                reach = sum((n - 1) * s for n, s in zip(x.shape, x.strides, strict=True))
                ranges.append((first, first + reach + x.dtype.itemsize))
        self.order.act(int(stream), ranges, kernel.py_func.__name__)


@contextlib.contextmanager
def standing_in(capability=(9, 0), compiles=True):
    """The driver is there inside the block; yields it."""
    from numba.cuda.cudadrv import devices, driver

    from fastfisher.devices import door
    from fastfisher.kernels import cuda
    from fastfisher.kernels.cuda import compat
    from tests.kernels.cuda.compiling import _library

    made = Driver(driver.binding)
    device = SimpleNamespace(id=0, compute_capability=capability)

    def launch(kernel, blocks, threads, *args):
        stream = compat.current_stream()
        if compiles:
            _library(kernel, tuple(kernel.typeof_pyval(x) for x in args))
        arrays = [x for x in args if hasattr(x, "__cuda_ndarray__")]
        made.launched(kernel, stream if stream == 0 else stream.handle, arrays)

    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(mock.patch.object(driver, "driver", made))
        enter(mock.patch.object(driver, "_logger", driver.make_logger(), create=True))
        context = driver.Context(device, driver.binding.CUcontext(1))
        context.prepare_for_use()
        for place, name, mine in (
            (devices._runtime, "get_or_create_context", lambda number=None: context),
            (devices._runtime, "ensure_context", contextlib.nullcontext),
            (devices._DeviceList, "__getitem__", lambda self, i: contextlib.nullcontext()),
            (compat, "launch", launch),
            (cuda, "obstacle", lambda: None),
        ):
            enter(mock.patch.object(place, name, mine))
        stack.callback(door.none.cache_clear)
        door.none.cache_clear()
        yield made
