"""When kernels may run in parallel, and on how many threads.

Results never depend on it: work is cut by size, never by the number of threads.
"""

import contextlib
import os
import threading

import numba

from .parallel import launcher

__all__ = ["region", "set_num_threads", "thread_count", "threading_layer"]

_SAFE_LAYERS = ("omp", "tbb")  # concurrent parallel regions from several Python threads
_lock = threading.Lock()
_limit = None
_started_in = None  # process that first ran a parallel region


def _renew_lock():
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def set_num_threads(k):
    """Use at most `k` threads in every later kernel call of this process."""
    global _limit
    _limit = k


def max_threads():
    """The most threads this process can use, fixed when Numba is imported."""
    return numba.config.NUMBA_NUM_THREADS


def thread_count():
    """Threads the next kernel call will use."""
    return _limit if _limit is not None else numba.get_num_threads()


def threading_layer():
    """Name of Numba's threading layer, or None before the first parallel call."""
    try:
        return numba.threading_layer()
    except ValueError:
        return None


def _forked():
    """True in a child forked after OpenMP started, where a parallel region would kill it."""
    return _started_in not in (None, os.getpid()) and threading_layer() == "omp"


@contextlib.contextmanager
def region():
    """Yield the address of the launcher, or 0 where the call inside must not be parallel; hold
    the lock where layers need one."""
    global _started_in
    if numba.config.DISABLE_JIT or _forked():
        yield 0
        return
    launch = launcher()
    guard = contextlib.nullcontext() if threading_layer() in _SAFE_LAYERS else _lock
    with guard:
        before = numba.get_num_threads() if _limit is not None else None
        if before is not None:
            numba.set_num_threads(_limit)
        try:
            yield launch
            if _started_in is None:
                _started_in = os.getpid()
        finally:
            if before is not None:
                numba.set_num_threads(before)
