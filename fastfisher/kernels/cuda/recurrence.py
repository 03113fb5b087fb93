"""The recurrences of conjugate gradients on the device, for rows (k, m) in double.

Step lengths, tests and verdicts of each row live in its state, so that iterations can be queued
without the host; rows that are done rest. Sums are added in the order of fixed shares.
"""

import functools
import math

import numpy as np

from . import compat
from .compat import cuda
from .sums import THREADS, shares

__all__ = [
    "STATE",
    "advance",
    "begin",
    "conclude",
    "direct",
    "inner",
    "measure",
    "partials",
    "rest",
    "set_sizes",
    "turn",
]

# Columns of the state of a row.
RZ, ALPHA, BETA, STATUS, ITERATIONS, STRETCH, BEST, SINCE, SIZE, TARGET, REST, LENGTH = range(12)
STATE = 12
RUNNING, CONVERGED, STAGNATED, BREAKDOWN, NOT_FINITE, EXHAUSTED = range(6)


def partials(k, m):
    """Room for three sums of each share of each row."""
    return compat.empty((k, shares(m)[1], 3), np.float64)


@functools.cache
def _summing(threads, moving):
    """Per share: q = by y + added o d and its sums, or the step of x and r and theirs."""

    @cuda.jit
    def run(partial, share, u, v, first, second, by, weight, state):
        s = cuda.shared.array((3, threads), compat.types.float64)
        t, row, lo = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y * share
        a, b, c, alpha = 0.0, 0.0, 0.0, state[row, ALPHA]
        for i in range(lo + t, min(lo + share, u.shape[1]), threads):
            if moving:  # u, v = x, r;  first, second = d, q;  weight preconditions
                x, r = u[row, i] + alpha * first[row, i], v[row, i] - alpha * second[row, i]
                u[row, i], v[row, i] = x, r
                a, b = a + r * r, b + x * x
                c += r * r * (weight[i] if weight.size > 0 else by)
            else:  # u = q;  v = d;  first = y;  weight is added
                d = v[row, i]
                q = by * first[row, i] + weight[i] * d
                u[row, i] = q
                a, b, c = a + d * q, b + d * d, c + q * q
        s[0, t], s[1, t], s[2, t] = a, b, c
        cuda.syncthreads()
        half = threads // 2
        while half > 0:
            if t < half:
                for j in range(3):
                    s[j, t] += s[j, t + half]
            cuda.syncthreads()
            half //= 2
        if t == 0:
            for j in range(3):
                partial[row, cuda.blockIdx.y, j] = s[j, 0]

    return run


def _sum(moving, partial, u, v, first, second, by, weight, state):
    k, m = u.shape
    share, count = shares(m)
    threads = min(THREADS, 1 << (min(m, share) - 1).bit_length())
    run = _summing(threads, moving)
    args = partial, share, u, v, first, second, by, weight, state
    compat.launch(run, (k, count), threads, *args)  # only x goes beyond 65535


def measure(partial, q, d, y, by, added, state):
    # q  OUT (k, m);  d, y  IN READ-ONLY (k, m);  added  IN READ-ONLY (m,)
    """q = by y + added o d, and the sums d'q, d'd, q'q."""
    _sum(False, partial, q, d, y, y, by, added, state)


def advance(partial, x, r, d, q, by, weight, state):
    # x, r  INOUT (k, m);  d, q  IN READ-ONLY (k, m);  weight  IN READ-ONLY (m,), or (0,): `by`
    """x += alpha d, r -= alpha q, and the sums r'r, x'x, r'z with z = weight o r."""
    _sum(True, partial, x, r, d, q, by, weight, state)


@cuda.jit
def _inner(partial, products):
    row = cuda.grid(1)
    if row < partial.shape[0]:
        for i in range(partial.shape[1]):
            partial[row, i, 2] = products[row] if i == 0 else 0.0


def inner(partial, products):
    # partial  INOUT (k, shares, 3);  products  IN READ-ONLY (k,)
    """These r'z in place of those of `advance`, where no weight preconditions."""
    _per_row(_inner, partial, products)


def _per_row(kernel, state, *args):
    threads = min(state.shape[0], THREADS)
    compat.launch(kernel, -(-state.shape[0] // threads), threads, state, *args)


@compat.device
def _total(partial, row, j):
    value = 0.0
    for i in range(partial.shape[1]):
        value += partial[row, i, j]
    return value


@compat.device
def _done(state, row, floor, useless):
    """The residual meets the tolerance, or the floor that rounding sets and is below `useless`."""
    rest, size = state[row, REST], state[row, SIZE]
    low = floor * (state[row, STRETCH] * state[row, LENGTH] + size)
    return rest <= state[row, TARGET] or (rest <= low and rest < useless * size)


@cuda.jit
def _set_sizes(state, squares):
    row = cuda.grid(1)
    if row < state.shape[0]:
        state[row, SIZE] = math.sqrt(squares[row])


def set_sizes(state, squares):
    # state  INOUT (k, STATE);  squares  IN READ-ONLY (k,)
    """Norms of the right-hand sides."""
    _per_row(_set_sizes, state, squares)


@cuda.jit
def _rest(state):
    row = cuda.grid(1)
    if row < state.shape[0]:
        state[row, ALPHA] = 0.0


def rest(state):
    """Steps of length 0, so that `advance` only sums."""
    _per_row(_rest, state)


@cuda.jit
def _begin(state, partial, rtol, floor, useless, limit, first):
    row = cuda.grid(1)
    if row < state.shape[0]:
        rest, length = math.sqrt(_total(partial, row, 0)), math.sqrt(_total(partial, row, 1))
        state[row, RZ] = _total(partial, row, 2)
        state[row, REST], state[row, LENGTH], state[row, BEST] = rest, length, rest
        state[row, SINCE], state[row, ALPHA], state[row, BETA] = 0.0, 0.0, 0.0
        if first:
            state[row, TARGET] = rtol * state[row, SIZE]
            state[row, ITERATIONS] = 0.0
        state[row, STATUS] = CONVERGED if _done(state, row, floor, useless) else RUNNING
        if not rest < math.inf:
            state[row, STATUS] = NOT_FINITE
        elif state[row, STATUS] == RUNNING and state[row, ITERATIONS] >= limit:
            state[row, STATUS] = EXHAUSTED


def begin(state, partial, rtol, floor, useless, limit, *, first):
    # state  INOUT (k, STATE), its SIZE given
    """Start the recurrences at a residual whose sums are known."""
    _per_row(_begin, state, partial, rtol, floor, useless, limit, first)


@cuda.jit
def _direct(state, partial):
    row = cuda.grid(1)
    if row < state.shape[0]:
        state[row, ALPHA] = 0.0
        if state[row, STATUS] == RUNNING:
            curvature, dd, qq = (
                _total(partial, row, 0),
                _total(partial, row, 1),
                _total(partial, row, 2),
            )
            state[row, ITERATIONS] += 1.0
            if dd > 0.0:  # the square of q may be out of range where its product with d is not
                stretch = math.sqrt(qq / dd) if qq < math.inf else abs(curvature) / dd
                state[row, STRETCH] = max(state[row, STRETCH], stretch)
            if not abs(curvature) < math.inf:
                state[row, STATUS] = NOT_FINITE
            elif not curvature > 0.0:
                state[row, STATUS] = BREAKDOWN
            else:
                state[row, ALPHA] = state[row, RZ] / curvature


def direct(state, partial):
    """Step lengths from the sums of `measure`."""
    _per_row(_direct, state, partial)


@cuda.jit
def _turn(state, partial, floor, useless, runaway, patience, limit):
    row = cuda.grid(1)
    if row < state.shape[0] and state[row, STATUS] == RUNNING:
        rest, length = math.sqrt(_total(partial, row, 0)), math.sqrt(_total(partial, row, 1))
        state[row, REST], state[row, LENGTH] = rest, length
        if rest < state[row, BEST]:
            state[row, BEST], state[row, SINCE] = rest, 0.0
        else:
            state[row, SINCE] += 1.0
        rz = _total(partial, row, 2)
        state[row, BETA] = rz / state[row, RZ] if state[row, RZ] > 0.0 else 0.0
        state[row, RZ] = rz
        if _done(state, row, floor, useless):
            state[row, STATUS] = CONVERGED
        elif not rest < math.inf:
            state[row, STATUS] = NOT_FINITE
        elif state[row, STRETCH] * length > runaway * state[row, SIZE]:
            state[row, STATUS] = BREAKDOWN
        elif state[row, SINCE] >= patience:
            state[row, STATUS] = STAGNATED
        elif state[row, ITERATIONS] >= limit:
            state[row, STATUS] = EXHAUSTED


def turn(state, partial, floor, useless, runaway, patience, limit):
    """Verdicts and the change of direction from the sums of `advance`; a row stagnates after
    `patience` iterations without a new smallest residual."""
    _per_row(_turn, state, partial, floor, useless, runaway, patience, limit)


@cuda.jit
def _conclude(d, r, by, weight, state):
    e = cuda.grid(1)
    if e < d.size:
        row, i = e // d.shape[1], e % d.shape[1]
        if state[row, STATUS] == RUNNING:
            z = r[row, i] * (weight[i] if weight.size > 0 else by)
            d[row, i] = z + state[row, BETA] * d[row, i]


def conclude(d, r, by, weight, state):
    # d  INOUT (k, m);  r  IN READ-ONLY (k, m)
    """d = weight o r + beta d."""
    threads = min(d.size, THREADS)
    compat.launch(_conclude, -(-d.size // threads), threads, d, r, by, weight, state)
