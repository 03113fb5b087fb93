"""Triangular elimination in panels: what Cholesky and the triangular solves share.

Row e of a panel holds entry e of `width` right-hand sides (for Cholesky: of rows of the matrix)
side by side; complex numbers are pairs of rows (re, im). Both pack and unpack panels, and both
have their workspace and the order of their tasks from here.

The rest is Cholesky's, which reads panels on either side of c -= a' b (triangles.py): complex
numbers on the left are blocks [[re, -im], [im, re]], which makes them real problems of twice the
order. The solves read the factor where it lies (direct.py).

What knows the element type is compiled once per type and called by address; those who call it
deal in addresses and are compiled once for all types.
"""

import functools
from typing import NamedTuple

import numpy as np

from . import threads
from .atomics import give_way, load, pause, store
from .jit import entry_address, kernel
from .memory import room
from .moves import transpose_at
from .simd import address, call_entry, clear, lanes, tile_rows, tile_width
from .triangles import (
    FORWARD,
    double_at,
    factor_tile,
    set_integer,
    single_at,
    solve_double,
    solve_single,
)

__all__ = [
    "Tile",
    "publish",
    "run_blocks",
    "tile_of",
    "wait_for",
    "workspace",
]


class Tile(NamedTuple):
    """Register tiles of `rows` entries x `width` right-hand sides, and the code for them."""

    parts: int  # numbers per entry
    bytes: int  # per number
    rows: int
    width: int
    lanes: int  # numbers per vector
    solve: int  # addresses
    pack: int
    unpack: int
    embed: int
    pivot: int
    diagonal: int


# Typed code ----------------------------------------------------------------------------------


@kernel
def _pack(out, stride, a, lda, rows, depth, padded, width, one, size):
    """out[panel, k, i] = a[i, k] for rows x depth numbers; zeros up to whole panels of `padded`."""
    for first in range(0, rows, width):
        start, inside = out + first // width * stride * size, min(width, rows - first)
        known = depth if inside == width else 0
        clear(start + known * width * size, (padded - known) * width * size)
        transpose_at(start, width, inside, a + first * lda * size, lda, depth, one, one)


@kernel
def _unpack(a, lda, x, stride, rows, depth, below, width, lanes, one, size):
    """The way back; if `below`, only below the diagonal of numbers of so many parts."""
    for first in range(0, rows, width):
        start, inside = x + first // width * stride * size, min(width, rows - first)
        for i in range(0, inside, lanes):
            here, row = min(lanes, inside - i), first + i
            to, source = a + row * lda * size, start + i * size
            known = min(depth, row * below) if below else depth
            transpose_at(to, lda, known, source, width, here, one, one)
            for r in range(1, here if below else 1):
                more = min(depth, (row + r) * below) - known
                left, at = to + (r * lda + known) * size, source + (known * width + r) * size
                transpose_at(left, lda, more, at, width, 1, one, one)


@kernel
def _embed(out, x, rows, width):
    """Pairs of rows (re, im) as 2 x 2 blocks, whose transposes multiply by the conjugate."""
    for k in range(0, rows, 2):
        re, to = k * width, 2 * k * width
        for i in range(width):
            u, v = x[re + i], x[re + width + i]
            out[to + 2 * i], out[to + 2 * i + 1] = u, -v
            out[to + 2 * (width + i)], out[to + 2 * (width + i) + 1] = v, u


@kernel
def _diagonal(x, stride, rows, width, parts, added):
    """The double at the address `added` onto the diagonal of packed rows x rows entries."""
    for j in range(rows):
        x[j // width * stride + j * parts * width + j % width] += double_at(added)[0]


@kernel
def _pivot(a, step, x, left, lda, tile, place, width, column, inside, solve, vectors, rows, parts):
    """Factor a diagonal tile and solve the rest of its panel; returns the failing pivot.

    a is the diagonal of the matrix, `step` apart, of which `inside` numbers exist; x the tile's
    rows of the panel, in which it starts at `column`; tile is scratch, and `place` its address.
    """
    for s in range(1, rows, parts):
        if parts == 2:
            left[(s - 1) * lda + s] = 0  # imaginary parts on the diagonal do not count
    failing = factor_tile(tile, left, lda, inside)
    here = address(x, 0)
    call_entry(solve, (vectors, FORWARD, here, width, place, rows, here, width, 0, here))
    for s in range(0, rows, parts):
        at = column + s // parts
        for r in range(s + 1):
            x[r * width + at] = tile[r * rows + s]
        for r in range(s + 1, rows):
            x[r * width + at] = 0
        if s < inside:
            a[s // parts * step] = tile[rows * rows + s]
            if parts == 2:
                a[s // parts * step + 1] = 0
    return failing


def pack_double(out, stride, a, lda, rows, depth, padded, width):
    _pack(out, stride, a, lda, rows, depth, padded, width, np.float64(1), np.int64(8))


def pack_single(out, stride, a, lda, rows, depth, padded, width):
    _pack(out, stride, a, lda, rows, depth, padded, width, np.float32(1), np.int64(4))


def unpack_double(a, lda, x, stride, rows, depth, below, width, lanes):
    one, size = np.float64(1), np.int64(8)
    _unpack(a, lda, x, stride, rows, depth, below, width, lanes, one, size)


def unpack_single(a, lda, x, stride, rows, depth, below, width, lanes):
    one, size = np.float32(1), np.int64(4)
    _unpack(a, lda, x, stride, rows, depth, below, width, lanes, one, size)


def embed_double(out, x, rows, width):
    _embed(double_at(out), double_at(x), rows, width)


def embed_single(out, x, rows, width):
    _embed(single_at(out), single_at(x), rows, width)


def diagonal_double(x, stride, rows, width, parts, added):
    _diagonal(double_at(x), stride, rows, width, parts, added)


def diagonal_single(x, stride, rows, width, parts, added):
    _diagonal(single_at(x), stride, rows, width, parts, added)


def pivot_double(
    info, a, step, x, left, lda, tile, width, column, inside, solve, vectors, rows, parts
):
    t = double_at(tile)
    y, b, d = double_at(left), double_at(x), double_at(a)
    failing = _pivot(
        d, step, b, y, lda, t, tile, width, column, inside, solve, vectors, rows, parts
    )
    set_integer(info, failing)


def pivot_single(
    info, a, step, x, left, lda, tile, width, column, inside, solve, vectors, rows, parts
):
    t = single_at(tile)
    y, b, d = single_at(left), single_at(x), single_at(a)
    failing = _pivot(
        d, step, b, y, lda, t, tile, width, column, inside, solve, vectors, rows, parts
    )
    set_integer(info, failing)


_CODE = {
    8: (
        (solve_double, 10),
        (pack_double, 8),
        (unpack_double, 9),
        (embed_double, 4),
        (pivot_double, 14),
        (diagonal_double, 6),
    ),
    4: (
        (solve_single, 10),
        (pack_single, 8),
        (unpack_single, 9),
        (embed_single, 4),
        (pivot_single, 14),
        (diagonal_single, 6),
    ),
}


@functools.cache
def _addresses(size):
    return [entry_address(func, count) for func, count in _CODE[size]]


@functools.cache
def tile_of(dtype):
    """The register tile of a dtype, and its code."""
    parts = 2 if dtype.kind == "c" else 1
    size = dtype.itemsize // parts
    real = np.dtype(f"f{size}")
    return Tile(parts, size, tile_rows(), tile_width(real), lanes(real), *_addresses(size))


def workspace(*sizes):
    """Memory for arrays of so many bytes, and the address of each, on cache lines of their own."""
    starts, end = [], 0
    for size in sizes:
        starts.append(end)
        end += -(-size // 64) * 64
    memory, base = room(end)
    return memory, *[base + start for start in starts]


# Order of tasks ------------------------------------------------------------------------------

LINE = 8  # counters on cache lines of their own
PATIENCE = 2000  # looks at a counter before the core is offered to other threads


@kernel
def wait_for(counters, i, value):
    """Until counter i has reached a value that an earlier task publishes."""
    tries = 0
    while load(address(counters, i * LINE)) < value:
        pause()
        tries += 1
        if tries > PATIENCE:
            give_way()


@kernel
def publish(counters, i, value):
    """What this task wrote before is seen by those who wait for the value."""
    store(address(counters, i * LINE), value)


def run_blocks(driver, parallel, *args):
    """Call a driver, on several threads if that is worth it."""
    if parallel:
        threads.run(driver.compiled, args)
    else:
        driver.compiled(0, *args)
