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


TILE = Tile()


@functools.cache
def _per_thread(dtype, p, threads):
    """Systems of one order p: staged through shared memory, solved in registers, unrolled."""
    scalar, q, one = getattr(compat.types, dtype.name), p * p, dtype.type(1)
    pitch, wide, size = q | 1, p | 1, p * (p + 1) // 2
    zero, nan, infinity = dtype.type(0), dtype.type(math.nan), math.inf

    @cuda.jit
    def solve(x, info, f, g, damping):
        s = cuda.shared.array((threads, pitch), scalar)
        v = cuda.shared.array((threads, wide), scalar)
        a = cuda.local.array((size,), scalar)
        y = cuda.local.array((p,), scalar)
        t, first = cuda.threadIdx.x, cuda.blockIdx.x * threads
        count = min(threads, info.size - first)
        for e in range(t, count * q, threads):
            s[e // q, e % q] = f[first * q + e]
        for e in range(t, count * p, threads):
            v[e // p, e % p] = g[first * p + e]
        cuda.syncthreads()
        if t < count:
            bad, shift = 0, damping[first + t]
            for i in range(p):
                y[i] = v[t, i]
                for j in range(i + 1):
                    a[i * (i + 1) // 2 + j] = s[t, i * p + j]
            for j in range(p):
                pivot = a[j * (j + 1) // 2 + j] + shift
                for k in range(j):
                    pivot -= a[j * (j + 1) // 2 + k] * a[j * (j + 1) // 2 + k]
                if not (pivot > zero and pivot < infinity):
                    if bad == 0:
                        bad = j + 1
                    pivot = one
                root = one / math.sqrt(pivot)
                a[j * (j + 1) // 2 + j] = root
                for i in range(j + 1, p):
                    total = a[i * (i + 1) // 2 + j]
                    for k in range(j):
                        total -= a[i * (i + 1) // 2 + k] * a[j * (j + 1) // 2 + k]
                    a[i * (i + 1) // 2 + j] = total * root
            for i in range(p):
                for k in range(i):
                    y[i] -= a[i * (i + 1) // 2 + k] * y[k]
                y[i] *= a[i * (i + 1) // 2 + i]
            for r in range(p):
                i = p - 1 - r
                for k in range(i + 1, p):
                    y[i] -= a[k * (k + 1) // 2 + i] * y[k]
                y[i] *= a[i * (i + 1) // 2 + i]
            for i in range(p):
                if bad == 0 and not abs(y[i]) < infinity:
                    bad = -1
            for i in range(p):
                v[t, i] = y[i] if bad == 0 else nan
            info[first + t] = bad
        cuda.syncthreads()
        for e in range(t, count * p, threads):
            x[first * p + e] = v[e // p, e % p]

    return solve


@functools.cache
def _per_row(dtype, lanes, systems, alone):
    """Systems of any order up to `lanes`, a lane per row; `alone`: a warp needs no block barrier."""
    scalar, one, pitch = getattr(compat.types, dtype.name), dtype.type(1), lanes + 1
    zero, nan, infinity = dtype.type(0), dtype.type(math.nan), math.inf
    syncwarp = compat.syncwarp

    @cuda.jit
    def solve(x, info, f, g, damping):
        s = cuda.shared.array((systems, lanes, pitch), scalar)
        v = cuda.shared.array((systems, lanes), scalar)
        i, w = cuda.threadIdx.x, cuda.threadIdx.y
        p, t = g.shape[1], cuda.blockIdx.x * systems + w
        active = t < info.size
        bad, mine, value = 0, one, zero
        if active:
            for r in range(p):
                for c in range(i, r + 1, lanes):
                    s[w, r, c] = f[t, r, c] + (damping[t] if c == r else zero)
            if i < p:
                value = g[t, i]
        if alone:
            syncwarp()
        else:
            cuda.syncthreads()
        for j in range(p):
            if active and j <= i < p:
                total = s[w, i, j]
                for k in range(j):
                    total -= s[w, i, k] * s[w, j, k]
                s[w, i, j] = total
            if alone:
            syncwarp()
        else:
            cuda.syncthreads()
            pivot = s[w, j, j] if active else one
            if not (pivot > zero and pivot < infinity):
                if bad == 0:
                    bad = j + 1
                pivot = one
            root = one / math.sqrt(pivot)
            if i == j:
                mine = root
            elif active and j < i < p:
                s[w, i, j] *= root
            if alone:
            syncwarp()
        else:
            cuda.syncthreads()
        for j in range(p):
            if i == j:
                value *= mine
                v[w, j] = value
            if alone:
            syncwarp()
        else:
            cuda.syncthreads()
            if active and j < i < p:
                value -= s[w, i, j] * v[w, j]
        for r in range(p):
            j = p - 1 - r
            if i == j:
                value *= mine
                v[w, j] = value
            if alone:
            syncwarp()
        else:
            cuda.syncthreads()
            if active and i < j:
                value -= s[w, j, i] * v[w, j]
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
