"""Many small damped systems at once: Cholesky across systems, a status per system."""

from typing import NamedTuple

import numpy as np

from ...machine import cache_sizes
from . import across, threads
from .jit import kernel
from .memory import aligned
from .parallel import for_each
from .simd import address, call_entry, lanes
from .systems import clamped, group_of, load, scratch, solve_and_store
from .threads import driver
from .tiny import LARGEST, stream_at, tiny_address

__all__ = ["batched_solve"]

TASK = 512  # systems per task, a multiple of the lanes,
TASK_BYTES = 256 << 10  # or so many bytes of them: most of what is fetched ahead is the task's own
PART = 128  # systems solved before their solutions are sent to memory


class Tiny(NamedTuple):
    """How systems of few unknowns are solved."""

    p: int
    lanes: int
    code: int  # address of the kernel
    streamed: int  # 1: solutions do not pass through the caches


@kernel
def _tiny_task(t, thread, x, info, f, g, damping, each, work, statuses, task, tiny):
    """Task: systems of few unknowns; those that are no whole group pass through scratch."""
    p, width, solve, streamed = tiny
    first, last, q, zero = t * task, min((t + 1) * task, info.size), p * p, np.int64(0)
    w, status = work[thread], statuses[thread]
    whole = last - (last - first) % width
    for start in range(first, whole, PART):
        count = min(PART, whole - start)
        to, flags = address(x, start * p), address(info, start)
        matrices, right = address(f, start * q), address(g, start * p)
        shift = address(damping, start * each)
        if streamed:
            results, codes = address(w, zero), address(status, zero)
            call_entry(solve, (p, results, codes, matrices, right, shift, count // width))
            stream_at(to, results, count * p * x.itemsize)
            stream_at(flags, codes, count * info.itemsize)
        else:
            call_entry(solve, (p, to, flags, matrices, right, shift, count // width))
    if whole < last:
        rights, shifts, solutions = width * q, width * (q + p), width * (q + p + 1)
        for s in range(width):
            system = min(whole + s, last - 1)
            for i in range(q):
                w[s * q + i] = f[system * q + i]
            for i in range(p):
                w[rights + s * p + i] = g[system * p + i]
        clamped(w, shifts, damping, whole * each, width)
        result, flags, matrices = address(w, solutions), address(status, zero), address(w, zero)
        right, shift = address(w, rights), address(w, shifts)
        call_entry(solve, (p, result, flags, matrices, right, shift, np.int64(1)))
        for s in range(last - whole):
            info[whole + s] = status[s]
            for i in range(p):
                x[(whole + s) * p + i] = w[solutions + s * p + i]


@kernel
def _task(t, thread, x, info, f, g, damping, work, statuses, group):
    """Task: systems of any order."""
    n, p, lanes, zero, one = info.size, group.p, group.lanes, np.int64(0), np.int64(1)
    w, status = work[thread], statuses[thread]
    for first in range(t * TASK, min((t + 1) * TASK, n), lanes):
        count = min(lanes, n - first)
        load(w, zero, f, first * p * p, p * p, p, p, count, group)
        load(w, group.right, g, first * p, p, one, p, count, group)
        clamped(w, group.shift, damping, first, lanes)
        ahead = address(f, (first + 2 * lanes) * p * p)
        solve_and_store(x, info, first, w, status, group, ahead)


@driver
def _solve_tiny(launch, x, info, f, g, damping, each, work, statuses, task, tiny):
    args = (x, info, f, g, damping, each, work, statuses, task, tiny)
    for_each(launch, _tiny_task, (info.size + task - 1) // task, args)


@driver
def _solve(launch, x, info, f, g, damping, work, statuses, group):
    args = (x, info, f, g, damping, work, statuses, group)
    for_each(launch, _task, (info.size + TASK - 1) // TASK, args)


def batched_solve(x, info, f, g, damping):
    # x        OUT (n, p);  info  OUT (n,) int32
    # f        IN READ-ONLY (n, p, p) C order, lower triangles;  g  IN READ-ONLY (n, p)
    # damping  IN (n,) or (1,), real
    """x[t] = (f[t] + damping[t] I)^-1 g[t]; info[t] = 0, the failing order, or -1: not finite."""
    if g.size == 0:
        info[:] = 0
        return
    if across.needed(f.dtype):
        across.solve(x, info, f, g, np.broadcast_to(damping, len(f)).copy())
        return
    p, flat = g.shape[1], (x.reshape(-1), info, f.reshape(-1), g.reshape(-1))
    if p > LARGEST:
        group = group_of(p, f.dtype)
        _solve(*flat, damping, *scratch(group, f.dtype), group)
        return
    each, n, threads_ = 1, lanes(f.dtype), threads.max_threads()
    if len(damping) < len(f):
        each, damping = 0, np.full(PART, damping[0])
    size = max(n * (p * p + 2 * p + 1), PART * p)
    work, statuses = aligned((threads_, size), f.dtype), aligned((threads_, PART), np.int32)
    task = max(TASK_BYTES // (p * p * f.itemsize) // TASK, 1) * TASK
    streamed = f.nbytes + g.nbytes + x.nbytes > cache_sizes()["L3"]
    tiny = Tiny(p, n, tiny_address(f.dtype.itemsize == 8), int(streamed))
    _solve_tiny(*flat, damping, each, work, statuses, task, tiny)
