"""A CUDA driver that is not there, for the real device arrays, streams and events of numba-cuda.

Device memory is memory of the host, copies copy and fills fill; other kernels are compiled for the
types that they are launched with, and not run. What each stream does with which bytes, and what
waits for what, is kept: two streams that touch the same bytes must be ordered by an event, or by
the host.
"""

import contextlib
import ctypes
from types import SimpleNamespace

import numpy as np

__all__ = ["Driver", "TooLong", "seen", "stand_in"]

BAD = 8  # place in a report of the first bad weight
HOT = "add_tiles", "add_products", "add_moments"  # compiled by test_compiled.py for these types
MOST = 12  # waits of the host


class TooLong(Exception):
    """The host has waited often enough."""


def _joined(a, b):
    return {key: max(a.get(key, 0), b.get(key, 0)) for key in a.keys() | b.keys()}


def seen(x):
    """The memory of a device array, as NumPy sees it."""
    if not x.size:
        return np.empty(x.shape, x.dtype)
    reach = sum((n - 1) * s for n, s in zip(x.shape, x.strides, strict=True)) + x.dtype.itemsize
    raw = (ctypes.c_char * reach).from_address(x.device_ctypes_pointer.value)
    return np.ndarray(x.shape, x.dtype, raw, 0, x.strides)


def _fill(out, value):
    seen(out)[...] = value


def _copy(out, source):
    seen(out)[...] = seen(source)


def _scan_rows(bad, largest, a, p):
    seen(bad)[...] = False


def _roots(u, shares, w, report, bad, used):
    seen(report)[BAD] = seen(bad)[0]


def _resolve(added, report, d, lam, share, ratio):
    seen(added)[...] = lam


# Kernels that are run, in so far as others would stop where they were not.
RUN = {
    "_fill": _fill,
    "_copy": _copy,
    "scan_rows": _scan_rows,
    "_roots": _roots,
    "_resolve": _resolve,
}


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
        """These bytes were freed, after the host has waited for everything."""
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
        self.freed, self.waits, self.streams, self.events = 0, 0, {}, {}
        self.compiles = True
        self.room, self._queued, self.look = 8 << 30, [], lambda name, arrays: None

    def cuMemAlloc(self, size):
        if size > self.room:
            from numba.cuda.cudadrv.driver import CudaAPIError

            code = self._binding.CUresult.CUDA_ERROR_OUT_OF_MEMORY
            raise CudaAPIError(code, f"Call to cuMemAlloc results in {code.name}")
        memory = np.zeros(size + 256, np.uint8)
        address = -(-memory.ctypes.data // 256) * 256  # as of a device
        self.memory[address] = memory
        return self._binding.CUdeviceptr(address)

    def cuMemFree(self, pointer):
        self.wait()
        memory = self.memory.pop(int(pointer))
        self.order.forget(int(pointer), int(pointer) + memory.size)
        self.freed += 1

    def cuMemGetInfo(self):
        used = sum(memory.size for memory in self.memory.values())
        return self.room - used, self.room

    def cuMemHostAlloc(self, size, flags):
        memory = np.zeros(size, np.uint8)
        self.memory[memory.ctypes.data] = memory
        return memory.ctypes.data

    def cuMemFreeHost(self, pointer):
        self.cuMemFree(pointer)

    # What is queued is done as late as it may be: where the host waits for it.

    def _queue(self, stream, ranges, what, done):
        self.order.act(stream, ranges, what)
        self._queued.append((stream, self.order.known[stream][stream], done))

    def _copy(self, to, source, size, stream, what):
        to, source = int(to), int(source)
        ranges = (to, to + size), (source, source + size)
        self._queue(int(stream), ranges, what, lambda: ctypes.memmove(to, source, size))

    def wait(self, moment=None):
        """The host waits for a moment, or for everything."""
        self.order.wait(moment)
        queued, self._queued = self._queued, []  # what is done may free, and so come here again
        left = []
        for stream, count, done in queued:
            if self.order.host.get(stream, 0) >= count:
                done()
            else:
                left.append((stream, count, done))
        self._queued = left + self._queued

    def cuMemcpyHtoD(self, to, source, size):
        self._copy(to, source, size, 0, "a copy to the device")
        self.wait(self.order.known[0])

    def cuMemcpyHtoDAsync(self, to, source, size, stream):
        self._copy(to, source, size, stream, "a copy to the device")

    def cuMemcpyDtoH(self, to, source, size):
        self._copy(to, source, size, 0, "a copy to the host")
        self.wait(self.order.known[0])

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
        self.wait(self.order.known.get(int(stream), {}))

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
        self.wait(self.events[int(event)])

    def launched(self, kernel, stream, args):
        """A kernel was queued."""
        arrays, ranges = [x for x in args if hasattr(x, "__cuda_ndarray__")], []
        for x in arrays:
            if x.size:
                first = x.device_ctypes_pointer.value
                reach = sum((n - 1) * s for n, s in zip(x.shape, x.strides, strict=True))
                ranges.append((first, first + reach + x.dtype.itemsize))
        name = kernel.py_func.__name__

        def done():
            self.look(name, arrays)
            if name in RUN:
                RUN[name](*args)

        self._queue(int(stream), ranges, name, done)


def stand_in(capability=(9, 0)):
    """Put the driver in its place, for good: in a process of its own. Returns it."""
    from numba.cuda.cudadrv import devices, driver

    from fastfisher.kernels import cuda
    from fastfisher.kernels.cuda import compat
    from tests.kernels.cuda.compiling import _library

    made = driver.driver = Driver(driver.binding)
    driver._logger = driver.make_logger()
    context = driver.Context(
        SimpleNamespace(id=0, compute_capability=capability), driver.binding.CUcontext(1)
    )
    context.prepare_for_use()

    def launch(kernel, blocks, threads, *args):
        stream = compat.current_stream()
        if made.compiles and kernel.py_func.__name__ not in HOT:
            _library(kernel, tuple(kernel.typeof_pyval(x) for x in args))
        made.launched(kernel, getattr(stream, "handle", 0), args)

    devices._runtime.get_or_create_context = lambda number=None: context
    devices._runtime.ensure_context = contextlib.nullcontext
    devices._DeviceList.__getitem__ = lambda self, number: contextlib.nullcontext()
    compat.launch, cuda.obstacle = launch, lambda: None
    return made
