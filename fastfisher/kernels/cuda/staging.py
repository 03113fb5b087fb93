"""Tiles of scores in shared memory: copied asynchronously, then changed by whoever copied them.

Element (m, k) of a tile, m along an edge of C and k along the sum, lies at m * across + k * along.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

from . import compat
from .compat import cuda, device

__all__ = ["HALVES", "Source", "Stage", "flat", "formats", "stage"]

HALVES = {"float16": compat.from_float16, "bfloat16": compat.from_bfloat16}


def formats(a):
    """(dtype that scores are computed in, format they are stored in); bfloat16 comes as uint16."""
    storage = "bfloat16" if a.dtype == np.uint16 else a.dtype.name
    return "float64" if storage == "float64" else "float32", storage


def flat(x):
    """All elements of a contiguous device array in one dimension; halves as their bits."""
    x = x.reshape(x.size)
    return x.view(np.uint16) if x.dtype == np.float16 else x


@dataclass(frozen=True)
class Source:
    """Scores (n, p) as a kernel reads them."""

    dtype: str  # computed in
    storage: str
    by_rows: bool  # sums run over rows; over columns otherwise
    vector: int  # elements copied at a time
    changed: bool  # shifted or scaled

    @property
    def half(self):
        return self.storage in HALVES

    @property
    def itemsize(self):
        return 2 if self.half else 8 if self.dtype == "float64" else 4


@dataclass(frozen=True)
class Stage:
    """Where the elements of one tile lie, and the functions that bring them there."""

    across: int
    along: int
    size: int
    raw: int  # 16-bit numbers beside them
    fetch: object
    settle: object


def _layout(side, source, tiling):
    """(across, along, size); padded so that neighbouring lanes find different banks."""
    double = source.dtype == "float64"
    if tiling.instruction is None:
        along = side + (2 if double else 4)
        return 1, along, along * tiling.depth
    if source.by_rows:
        along = side + (4 if double else 8)
        return 1, along, along * tiling.depth
    across = tiling.depth + 4
    return across, 1, across * side


@functools.cache
def stage(side, source, tiling):
    """Functions over a tile of `side` rows (or columns) of C."""
    across, along, size = _layout(side, source, tiling)
    half, changed, by_rows = source.half, source.changed, source.by_rows
    vector, itemsize, threads = source.vector, source.itemsize, tiling.threads
    per = (side if by_rows else tiling.depth) // vector
    chunks = side * tiling.depth // vector
    direct = vector * itemsize < 4  # too short for an asynchronous copy
    copy = compat.cp_async(4 if direct else vector * itemsize)
    widen = HALVES.get(source.storage, compat.from_float16)

    @device
    def fetch(tiles, at, raw, at_raw, a, base, ld, first, end, k, k_end):
        """Copy a tile: m from `first`, zeros from `end`; k from k, zeros from k_end."""
        for q in range(cuda.threadIdx.x, chunks, threads):
            r, s = q // per, q % per * vector
            if by_rows:
                source_at, count = base + (k + r) * ld + first + s, min(end - first - s, vector)
                inside, to = k + r < k_end, at + r * along + s * across
            else:
                source_at, count = base + (first + r) * ld + k + s, min(k_end - k - s, vector)
                inside, to = first + r < end, at + r * across + s * along
            if not inside or count < 0:
                count = 0
            if direct:
                raw[at_raw + q] = a[source_at] if count > 0 else 0
            elif half:
                copy(raw, at_raw + q * vector, a, source_at if count > 0 else base, count * 2)
            else:
                copy(tiles, to, a, source_at if count > 0 else base, count * itemsize)

    @device
    def settle(tiles, at, raw, at_raw, first, end, k, k_end, scale, shift):
        """Widen, shift and scale what this thread copied; call it when that has arrived."""
        for q in range(cuda.threadIdx.x, chunks, threads):
            r, s = q // per, q % per * vector
            for e in range(vector):
                if by_rows:
                    m, l, to = first + s + e, k + r, at + r * along + (s + e) * across
                else:
                    m, l, to = first + r, k + s + e, at + r * across + (s + e) * along
                if half:
                    x = widen(raw[at_raw + q * vector + e])
                else:
                    x = tiles[to]
                if changed and m < end and l < k_end:
                    if shift.size > 0:
                        x -= shift[m if by_rows else l]
                    if scale.size > 0:
                        x *= scale[l] if by_rows else math.sqrt(scale[l])
                tiles[to] = x

    return Stage(across, along, size, side * tiling.depth if half else 0, fetch, settle)
