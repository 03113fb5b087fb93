"""Many small systems on the device: one per thread, per warp or per thread block, by their order.

Beyond what shared memory holds, systems are factored one after the other by the blocked Cholesky.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from . import compat, memory
from .cholesky import cholesky
from .compat import cuda
from .elimination import elimination, fetch_lower, substitution
from .triangular import solve_lower, solve_lower_adjoint

__all__ = ["TILE", "Tile", "batched_solve"]

STAGED_BYTES = 40 << 10  # of systems in shared memory
SQUARE_BYTES = 40 << 10  # of one system in shared memory


class Tile(NamedTuple):
    """Orders and threads of the three ways; the bits of a result do not depend on them."""

    tiny: int = 10  # order up to which a thread keeps a triangle in registers
    threads: int = 128  # systems per thread block then, at most
    lanes: int = 32  # order up to which a warp takes a system, a lane per row
    warps: int = 4  # systems per thread block then


TILE = Tile(3, 4, 6, 1) if compat.SIMULATED else Tile()


def _solution(p):
    """Source of a solve in scalars, loops unrolled: s[t], v[t] hold the system and its right side.

    A local array with computed indices would live in memory, not in registers.
    """
    lower = [(i, j) for i in range(p) for j in range(i + 1)]
    lines = ["bad = 0"]
    lines += [f"a{i}_{j} = s[at + {i * p + j}]" for i, j in lower]
    lines += [f"y{i} = v[to + {i}]" for i in range(p)]
    for j in range(p):
        products = "".join(f" - a{j}_{k} * a{j}_{k}" for k in range(j))
        lines += [
            f"pivot = a{j}_{j} + shift{products}",
            "if not (pivot > zero and pivot < infinity):",
            f"    bad = {j + 1} if bad == 0 else bad",
            "    pivot = one",
            f"r{j} = one / math.sqrt(pivot)",
        ]
        for i in range(j + 1, p):
            products = "".join(f" - a{i}_{k} * a{j}_{k}" for k in range(j))
            lines.append(f"a{i}_{j} = (a{i}_{j}{products}) * r{j}")
    for i in range(p):
        products = "".join(f" - a{i}_{k} * y{k}" for k in range(i))
        lines.append(f"y{i} = (y{i}{products}) * r{i}")
    for i in reversed(range(p)):
        products = "".join(f" - a{k}_{i} * y{k}" for k in range(i + 1, p))
        lines.append(f"y{i} = (y{i}{products}) * r{i}")
    finite = " and ".join(f"abs(y{i}) < infinity" for i in range(p))
    lines += ["if bad == 0 and not (" + finite + "):", "    bad = -1"]
    lines += [f"v[to + {i}] = y{i} if bad == 0 else nan" for i in range(p)]
    lines += ["return bad"]
    body = "\n    ".join(lines)
    return f"def solution(s, at, v, to, shift, zero, one, infinity, nan):\n    {body}\n"


@functools.cache
def _per_thread(dtype, p, threads):
    """Systems of one order p: staged through shared memory, solved in registers, unrolled."""
    scalar, q, one = getattr(compat.types, dtype.name), p * p, dtype.type(1)
    pitch, wide = q | 1, p | 1  # odd: neighbouring threads read from different banks
    staged, rights = threads * pitch, threads * wide
    zero, nan, infinity = dtype.type(0), dtype.type(math.nan), dtype.type(math.inf)
    size, stage = dtype.itemsize, compat.cp_async(dtype.itemsize)
    commit, wait = compat.cp_async_commit, compat.cp_async_wait(0)
    space = {"math": math}
    exec(_solution(p), space)
    solution = compat.device(space["solution"])

    @compat.kernel(threads)
    def solve(x, info, f, g, damping):
        s = cuda.shared.array(staged, scalar)
        v = cuda.shared.array(rights, scalar)
        t, first = cuda.threadIdx.x, cuda.blockIdx.x * threads
        count = min(threads, info.size - first)
        for e in range(t, count * q, threads):
            stage(s, e // q * pitch + e % q, f, first * q + e, size)
        for e in range(t, count * p, threads):
            stage(v, e // p * wide + e % p, g, first * p + e, size)
        commit()
        wait()
        cuda.syncthreads()
        if t < count:
            shift = damping[first + t]
            info[first + t] = solution(s, t * pitch, v, t * wide, shift, zero, one, infinity, nan)
        cuda.syncthreads()
        for e in range(t, count * p, threads):
            x[first * p + e] = v[e // p * wide + e % p]

    return solve


@functools.cache
def _per_row(dtype, lanes, systems, alone):
    """Systems of any order up to `lanes`, a lane per row; `alone`: by a warp each."""
    scalar, pitch = getattr(compat.types, dtype.name), lanes + 1
    zero, nan, infinity = dtype.type(0), dtype.type(math.nan), dtype.type(math.inf)
    fetch, barrier = fetch_lower(lanes), compat.barrier(alone)
    factor, substituted = elimination(dtype, alone), substitution(alone)

    @compat.kernel(lanes * systems)
    def solve(x, info, f, g, damping):
        s = cuda.shared.array((systems, lanes, pitch), scalar)
        v = cuda.shared.array((systems, lanes), scalar)
        i, w = cuda.threadIdx.x, cuda.threadIdx.y
        p, t = g.shape[1], cuda.blockIdx.x * systems + w
        active, value = t < info.size, zero
        if active:
            fetch(s, w, i, f[t], p)
        if active and i < p:
            s[w, i, i] += damping[t]  # the lane itself has fetched it
            value = g[t, i]
        barrier()
        bad, mine = factor(s, w, i, p, active)
        value = substituted(s, v, w, i, p, active, value, mine)
        if active:
            for j in range(p):
                if bad == 0 and not abs(v[w, j]) < infinity:
                    bad = -1
            if i < p:
                x[t, i] = value if bad == 0 else nan
            if i == 0:
                info[t] = bad

    return solve


@cuda.jit
def _damped(a, f, damping, t):
    e = cuda.grid(1)
    if e < a.size:
        i, j = e // a.shape[1], e % a.shape[1]
        a[i, j] = f[t, i, j] + damping[t] if i == j else f[t, i, j]


@cuda.jit
def _close(x, info, order, t):
    if cuda.grid(1) == 0:
        bad = order[0]
        for i in range(x.shape[1]):
            if bad == 0 and not abs(x[t, i]) < math.inf:
                bad = -1
        info[t] = bad
        if bad != 0:
            for i in range(x.shape[1]):
                x[t, i] = math.nan


def _one_by_one(x, info, f, g, damping):
    n, p = g.shape
    a = compat.empty((p, p), np.dtype(f.dtype))
    memory.copy(x, g)
    for t in range(n):
        threads = min(p * p, 256)
        compat.launch(_damped, -(-p * p // threads), threads, a, f, damping, t)
        order = cholesky(a)
        solve_lower(a, x[t : t + 1])
        solve_lower_adjoint(a, x[t : t + 1])
        compat.launch(_close, 1, 1, x, info, order, t)


def batched_solve(x, info, f, g, damping, *, tile=TILE):
    # x        OUT (n, p);  info  OUT (n,) int32
    # f        IN READ-ONLY (n, p, p) C order, lower triangles;  g  IN READ-ONLY (n, p)
    # damping  IN (n,) real
    """x[t] = (f[t] + damping[t] I)^-1 g[t]; info[t] = 0, the failing order, or -1: not finite."""
    n, p = g.shape
    dtype = np.dtype(f.dtype)
    if n * p == 0:
        memory.fill(info, np.int32(0))
        return
    most = math.isqrt(SQUARE_BYTES // dtype.itemsize) // 32 * 32
    if p <= tile.tiny:
        fitting = STAGED_BYTES // (((p * p) | 1) + (p | 1)) // dtype.itemsize // 32 * 32
        threads = max(min(tile.threads, fitting), 32) if tile.threads >= 32 else tile.threads
        solve = _per_thread(dtype, p, threads)
        flat = x.reshape(n * p), info, f.reshape(n * p * p), g.reshape(n * p), damping
        compat.launch(solve, -(-n // threads), threads, *flat)
    elif p <= tile.lanes:
        solve = _per_row(dtype, tile.lanes, tile.warps, True)
        threads = tile.lanes, tile.warps
        compat.launch(solve, -(-n // tile.warps), threads, x, info, f, g, damping)
    elif p <= most:
        lanes = -(-p // 32) * 32
        solve = _per_row(dtype, lanes, 1, False)
        compat.launch(solve, n, (lanes, 1), x, info, f, g, damping)
    else:
        _one_by_one(x, info, f, g, damping)
