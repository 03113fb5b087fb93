"""Our own threads: they wait inside compiled code for the tasks of a parallel region.

Nobody waits for a thread that has not begun: who calls works from the first moment on, and a
thread that comes late, since its core is taken, finds the job closed. (A BLAS thread spins for
some 20 ms after a call, and OpenMP waits for its threads at the start of a region: that made a
kernel after a BLAS call ten times slower.) A thread that was woken late does not take tasks of a
job until its core lets it run promptly again.

A thread that sleeps is kept off the core of who wakes it: Linux likes to wake threads there, where
they would wait for milliseconds behind the very work that they are to share.

One block of words holds it all: the address of `_launch`, the gate, the job, a cell per thread.
"""

import threading

import numba
import numpy as np

from . import posix
from .atomics import add, give_way, load, pause, store, swap_if
from .jit import compiled, entry_address, kernel
from .memory import aligned
from .parallel import claim_tasks

__all__ = ["AVAILABLE", "Pool"]

AVAILABLE = posix.AVAILABLE and not numba.config.DISABLE_JIT

# Byte offsets; what is written at different times lies on different lines.
GATE, COUNTER, JOB, CELLS = 128, 256, 384, 512
TASK, ARGS, COUNT, LAST, CORE, POSTED, QUIT = (JOB + 8 * i for i in range(7))
CELL = 512  # asleep; the system's name for the thread; a mutex; a condition variable; its cores
NAME, MUTEX, CONDITION, OWN = 8, 128, 256, 384

# The gate: generation of the job, whether it is open, threads inside.
OPEN = 1 << 20
GENERATION = 21

SPIN = 100_000  # nanoseconds that a thread looks out for the next job before it sleeps
LOOKS = 32  # at the gate between two looks at the clock
LATE = 500_000  # nanoseconds after which a core counts as taken
NAP = 50_000
PATIENCE = 10  # naps that end late, after which a thread takes what it gets
WAIT = 2000  # looks at the gate before the core is offered to others

_init_mutex = posix.function("pthread_mutex_init", 2)
_init_condition = posix.function("pthread_cond_init", 2)
_lock = posix.function("pthread_mutex_lock", 1)
_unlock = posix.function("pthread_mutex_unlock", 1)
_sleep = posix.function("pthread_cond_wait", 2)
_wake = posix.function("pthread_cond_signal", 1)


@kernel
def _cell(pool, thread):
    return pool + CELLS + (thread - 1) * CELL


@kernel
def _rouse(pool, thread):
    cell = _cell(pool, thread)
    if load(cell):
        posix.keep_off(load(cell + NAME), load(pool + CORE), cell + OWN)
        _lock((cell + MUTEX,))
        _wake((cell + CONDITION,))
        _unlock((cell + MUTEX,))


def _launch(pool, task, args, count):
    """Run task(args, t, thread) for t < count on this thread, 0, and on those that come."""
    helpers = min(load(pool + LAST), count - 1)
    gate = ((load(pool + GATE) >> GENERATION) + 1 << GENERATION) + OPEN
    store(pool + TASK, task)
    store(pool + ARGS, args)
    store(pool + COUNT, count)
    store(pool + COUNTER, 0)
    store(pool + CORE, posix.core())
    store(pool + POSTED, posix.nanoseconds())
    store(pool + GATE, gate)
    for thread in range(1, helpers + 1):
        _rouse(pool, thread)
    claim_tasks(task, args, count, pool + COUNTER, 0)
    add(pool + GATE, -OPEN)
    looks = 0
    while load(pool + GATE) != gate - OPEN:
        pause()
        looks += 1
        if looks > WAIT:
            give_way()


@kernel
def _generation(pool):
    return load(pool + GATE) >> GENERATION


@kernel
def _await_job(pool, cell, seen):
    """Until there is a job after `seen`, or the end; true if this thread slept."""
    until = posix.nanoseconds() + SPIN
    while posix.nanoseconds() < until:
        for _ in range(LOOKS):
            if _generation(pool) != seen or load(pool + QUIT):
                return False
            pause()
    _lock((cell + MUTEX,))
    store(cell, 1)
    while _generation(pool) == seen and not load(pool + QUIT):
        _sleep((cell + CONDITION, cell + MUTEX))
    store(cell, 0)
    _unlock((cell + MUTEX,))
    return True


@kernel
def _is_open(gate, job):
    return gate >> GENERATION == job and gate & OPEN != 0


@kernel
def _settle(pool, cell, job):
    """After sleep: a core of its own, or at least one that is not taken."""
    here = posix.core()
    if here == load(pool + CORE):
        posix.step_aside(here, cell + OWN)
    late = posix.nanoseconds() - load(pool + POSTED) > LATE
    naps = 0
    while late and naps < PATIENCE and _is_open(load(pool + GATE), job):
        start = posix.nanoseconds()
        posix.nap(NAP)
        late = posix.nanoseconds() - start > LATE
        naps += 1


@kernel
def _enter(pool, job):
    gate = load(pool + GATE)
    while _is_open(gate, job):
        if swap_if(pool + GATE, gate, gate + 1):
            return True
        gate = load(pool + GATE)
    return False


def _serve(pool, thread, name):
    cell, job = _cell(pool, thread), 0
    store(cell + NAME, name)
    posix.allowed_cores(0, cell + OWN)  # once: later it may be kept off one
    while not load(pool + QUIT):
        slept = _await_job(pool, cell, job)
        job = _generation(pool)
        if slept:  # who woke it may do so late: then it is for the next time
            posix.settle_on(cell + OWN)
        if thread <= load(pool + LAST):
            if slept:
                _settle(pool, cell, job)
            if _enter(pool, job):
                task, args, count = load(pool + TASK), load(pool + ARGS), load(pool + COUNT)
                claim_tasks(task, args, count, pool + COUNTER, thread)
                add(pool + GATE, -1)


def _stop(pool, threads):
    store(pool + QUIT, 1)
    for thread in range(1, threads):
        _rouse(pool, thread)


def _prepare(pool, threads):
    for thread in range(1, threads):
        cell = _cell(pool, thread)
        _init_mutex((cell + MUTEX, 0))
        _init_condition((cell + CONDITION, 0))


class Pool:
    """So many threads, the caller's among them; for one parallel region at a time."""

    def __init__(self, threads):
        self.threads = threads
        self.free = threading.Lock()
        self._words = aligned((CELLS + CELL * threads,), np.uint8)
        self._words[:] = 0
        self.address = self._words.ctypes.data
        self._words[:8].view(np.int64)[0] = entry_address(_launch, 4)
        compiled(_prepare)(self.address, threads)
        serve = compiled(_serve)

        def work(thread):
            serve(self.address, thread, threading.get_native_id())

        self._own = [
            threading.Thread(target=work, args=(thread,), name=f"fastfisher-{thread}", daemon=True)
            for thread in range(1, threads)
        ]
        for thread in self._own:
            thread.start()

    def enter(self, threads):
        """So many threads take part from now on."""
        self._words[LAST : LAST + 8].view(np.int64)[0] = threads - 1

    def leave(self):
        """Nothing is left behind."""

    def stop(self):
        compiled(_stop)(self.address, self.threads)
        for thread in self._own:
            thread.join()
