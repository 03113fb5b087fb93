"""When kernels may run in parallel, and on how many threads.

Results never depend on it: work is cut by size, never by the number of threads.
"""

import atexit
import functools
import os
import threading

import numba
import numpy as np

from .jit import compiled
from .parallel import NumbaThreads
from .pool import AVAILABLE, Pool

__all__ = [
    "driver",
    "max_threads",
    "run",
    "set_num_threads",
    "start",
    "thread_count",
    "threading_layer",
]

# Array elements up to which waking other threads costs more than they save.
SMALL = 1 << 15

_limit = None
_team = None  # the threads of this process, from the first parallel region on
_starting = threading.Lock()
_serial = numba.config.DISABLE_JIT


def set_num_threads(k):
    """Use at most `k` threads in every later kernel call of this process."""
    global _limit
    _limit = k


def max_threads():
    """The most threads this process can use, fixed when Numba is imported."""
    return numba.config.NUMBA_NUM_THREADS


def thread_count():
    """Threads the next kernel call will use."""
    if _limit is not None:
        return _limit
    return numba.get_num_threads() if _numba_layer() else max_threads()


def _numba_layer():
    try:
        return numba.threading_layer()
    except ValueError:
        return None


def threading_layer():
    """Whose threads run the kernels: "own", or Numba's layer; None before the first region."""
    if _team is None:
        return None
    return "own" if isinstance(_team, Pool) else _numba_layer()


def start():
    """The threads of this process, started if they were not."""
    global _team
    with _starting:
        if _team is None:
            own = AVAILABLE and os.environ.get("FASTFISHER_THREADS") != "numba"
            _team = (Pool if own else NumbaThreads)(max_threads())
    return _team


def _stop():
    if isinstance(_team, Pool):
        _team.stop()


def _after_fork():
    """No thread came along; a child of Numba's OpenMP would be killed by its first region."""
    global _team, _starting, _serial
    _serial = _serial or (threading_layer() == "omp")
    _team, _starting = None, threading.Lock()


atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run(compiled, args):
    """Call a compiled driver with what `for_each` is to launch, or 0 where it must not be parallel:
    with one thread, or while another thread of Python uses them all."""
    threads = thread_count()
    team = None if _serial or threads == 1 else _team or start()
    if team is None or not team.free.acquire(blocking=False):
        compiled(0, *args)
        return
    try:
        team.enter(threads)
        compiled(team.address, *args)
    finally:
        team.leave()
        team.free.release()


@functools.cache
def _size_of(kind):
    """What tells the size of such an argument: of an array, of a record that knows how many
    `elements` it stands for, or (None) nothing."""
    if issubclass(kind, np.ndarray):
        return "size"
    return "elements" if hasattr(kind, "elements") else None


def _is_small(args):
    """True if the arrays, and the records that count their `elements`, are small together."""
    left = SMALL
    for arg in args:
        size = _size_of(type(arg))
        if size:
            left -= getattr(arg, size)
    return left >= 0


class Driver:
    """An entry called from Python whose tasks run on several threads where threads may run."""

    def __init__(self, func):
        functools.update_wrapper(self, func)
        self._func = func

    @functools.cached_property
    def compiled(self):
        return compiled(self._func, no_cfunc_wrapper=True)

    def __call__(self, *args):
        if _is_small(args):
            self.compiled(0, *args)
        else:
            run(self.compiled, args)


def driver(func):
    """An entry whose first argument is `launch`, to be handed to `for_each`."""
    return Driver(func)
