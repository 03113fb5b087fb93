"""Races that the simulator hides: who touches which element between which barriers.

`watching()` replaces arrays, barriers and asynchronous copies of the simulator by ones that keep
book. Two threads that touch an element, one of them writing, must have a barrier of their block
between them; threads of two blocks must not at all. What a copy has not brought yet, and shared
memory that nobody has written, must not be read. All threads of a block pass the same barriers.

To be run in a process of its own, as simulated.py, and entered before kernels are made: they keep
the functions that they were made with.
"""

import contextlib
import sys
import threading
from pathlib import Path
from unittest import mock

import numpy as np

__all__ = ["Ledger", "watching"]

HELPERS = ("simulated.py", "compat.py", "racing.py")  # whose callers are named


class Ledger:
    """What was done to each element, and what is wrong with it.

    `problems` are sentences; `barriers` are places in the code, and `needed` those of them without
    which two accesses that were seen would be a race.
    """

    def __init__(self):
        self.problems, self.barriers, self.needed = {}, set(), set()
        self.everywhere, self.shared = {}, {}
        self.lock = threading.Lock()

    def say(self, sentence):
        self.problems[sentence] = self.problems.get(sentence, 0) + 1

    # Launches, blocks, barriers.

    def launch(self):
        self.everywhere.clear()

    def block(self):
        self.shared.clear()
        self.passed, self.left, self.under_way = [], set(), set()

    def barrier(self, thread, place):
        with self.lock:
            self.barriers.add(place)
            if thread.epoch == len(self.passed):
                self.passed.append(place)
            elif self.passed[thread.epoch] != place:
                self.say(f"a block waits at {self.passed[thread.epoch]} and at {place}")
            thread.epoch += 1

    def leave(self, thread):
        with self.lock:
            self.left.add(thread.epoch)
            if thread.copies or thread.groups:
                self.say("a thread ends before its copies have")

    def close(self):
        if len(self.left) > 1:
            self.say(f"threads of a block pass {sorted(self.left)} barriers")

    # Accesses.

    def touch(self, shared, address, writes):
        thread, place = threading.current_thread(), _place()
        with self.lock:
            seen = (self.shared if shared else self.everywhere).setdefault(address, [None, {}])
            last, readers = seen
            me = thread.block, thread.thread_id, thread.epoch, place
            if last is not None:
                self._ordered(last, me, "written")
            elif shared and not writes:
                self.say(f"read before it was written: {place}")
            if writes:
                for reader in readers.values():
                    self._ordered(reader, me, "read")
                seen[0], seen[1] = me, {}
            else:
                readers[me[:2]] = me

    def _ordered(self, earlier, later, done):
        if earlier[:2] == later[:2]:
            return
        if earlier[0] != later[0]:
            self.say(f"{done} at {earlier[3]}, and by another block at {later[3]}")
            return
        between = set(self.passed[earlier[2] : later[2]])
        if not between:
            self.say(f"{done} at {earlier[3]}, and by another thread at {later[3]}")
        elif len(between) == 1:
            self.needed |= between


_kernels = {}  # code of functions: the file if it is one of kernels


def _place():
    """File and line of the kernel that does what is being done."""
    frame = sys._getframe(2)
    while True:
        code = frame.f_code
        if code not in _kernels:
            path = Path(code.co_filename)
            helps = path.name in HELPERS or "numba" in path.parts
            _kernels[code] = None if helps else path.name
        if _kernels[code]:
            return f"{_kernels[code]}:{frame.f_lineno}"
        frame = frame.f_back


def _inside_tensor_core():
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "multiply" and frame.f_code.co_filename.endswith("simulated.py"):
            return True
        frame = frame.f_back
    return False


class _Watched:
    """An array inside a kernel."""

    def __init__(self, ary, ledger, shared):
        self.__dict__.update(_ary=ary, _ledger=ledger, _shared=shared)

    def __getattr__(self, name):
        return getattr(self._ary, name)

    def __len__(self):
        return len(self._ary)

    def _address(self, index):
        index = index if isinstance(index, tuple) else (index,)
        address = self._ary.__array_interface__["data"][0]
        for i, length, step in zip(index, self._ary.shape, self._ary.strides, strict=True):
            if not 0 <= i < length:
                self._ledger.say(f"index {i} of {length}: {_place()}")
            address += int(i) * step
        return address

    def _touch(self, index, writes):
        address = self._address(index)
        if self._shared and address in self._ledger.under_way:
            self._ledger.say(f"touched before its copy has arrived: {_place()}")
        self._ledger.touch(self._shared, address, writes)

    def __getitem__(self, index):
        value = self._ary[index]
        if isinstance(value, np.ndarray):
            return _Watched(value, self._ledger, self._shared)
        self._touch(index, False)
        return value

    def __setitem__(self, index, value):
        self._touch(index, True)
        self._ary[index] = value

    def begin(self, index):
        """A copy is on its way here: nobody may touch this until it arrives."""
        self[index] = np.nan if self._ary.dtype.kind == "f" else 0x7FFF
        self._ledger.under_way.add(self._address(index))

    def arrive(self, index, value):
        self._ledger.under_way.discard(self._address(index))
        self[index] = value


def _copies(ledger):
    """cp_async, commit and wait that bring numbers when they are waited for, and not before."""
    from fastfisher.kernels.cuda import simulated

    def cp_async(size):
        def copy(to, i, source, j, valid):
            item, thread = to.dtype.itemsize, threading.current_thread()
            simulated._aligned(to, i, size)
            simulated._aligned(source, j, size)
            for u in range(size // item):
                value = source[j + u] if u * item < valid else 0
                to.begin(i + u)
                thread.copies.append((to, i + u, value))

        return copy

    def commit():
        thread = threading.current_thread()
        thread.groups.append(thread.copies)
        thread.copies = []

    def cp_async_wait(pending):
        def wait():
            groups = threading.current_thread().groups
            while len(groups) > pending:
                for to, index, value in groups.pop(0):
                    to.arrive(index, value)

        return wait

    return {
        "cp_async": cp_async,
        "cp_async_commit": commit,
        "cp_async_wait": cp_async_wait,
    }


@contextlib.contextmanager
def watching():
    """The simulator keeps book inside the block; yields the ledger."""
    from numba.cuda.simulator import kernel, kernelapi

    from fastfisher.kernels.cuda import compat

    ledger, thread, manager = Ledger(), kernel.BlockThread, kernel.BlockManager
    start, wait, run_block, launch = thread.run, thread.syncthreads, manager.run, compat.launch
    atomic = kernelapi.FakeCUDAAtomic

    def run(self):
        self.epoch, self.copies, self.groups = 0, [], []
        self.block = tuple(self.blockIdx)
        start(self)
        if self.exception is None:
            ledger.leave(self)

    def syncthreads(self):
        if not _inside_tensor_core():
            ledger.barrier(self, _place())
        wait(self)

    def blockwise(self, *args):
        ledger.block()
        run_block(self, *args)
        ledger.close()

    def launched(*args):
        ledger.launch()
        launch(*args)

    def array(self, shape, dtype, alignment=None):
        code, line = sys._getframe(1).f_code, sys._getframe(1).f_lineno
        with ledger.lock:
            if (code, line) not in self._allocations:
                made = np.empty(shape, getattr(np, str(dtype), dtype))
                of_instruction = code.co_filename.endswith("simulated.py")
                made = made if of_instruction else _Watched(made, ledger, True)
                self._allocations[code, line] = made
            return self._allocations[code, line]

    def unwatched(function):
        def on_memory(self, array, *args):
            return function(self, array._ary if isinstance(array, _Watched) else array, *args)

        return on_memory

    with contextlib.ExitStack() as stack:
        for place, name, mine in (
            (thread, "run", run),
            (thread, "syncthreads", syncthreads),
            (manager, "run", blockwise),
            (compat, "launch", launched),
            (kernelapi.FakeCUDAShared, "array", array),
            (atomic, "add", unwatched(atomic.add)),
            (atomic, "min", unwatched(atomic.min)),
            (
                kernel,
                "FakeWithinKernelCUDAArray",
                lambda item: _Watched(item._ary, ledger, False),
            ),
            *((compat, name, mine) for name, mine in _copies(ledger).items()),
        ):
            stack.enter_context(mock.patch.object(place, name, mine))
        yield ledger
