"""Products of two tiles in shared memory, in registers: by tensor cores, or multiply-adds.

`multiply(acc, tiles, left, right)` adds the products of one stage. A thread's u-th sum is element
(row() + i, column() + j) of the tile, where (i, j) = places[u].
"""

import functools
from dataclasses import dataclass

from . import compat
from .compat import cuda, device, types

__all__ = ["Products", "products"]


@dataclass(frozen=True)
class Products:
    """The functions of one tiling."""

    multiply: object
    row: object
    column: object
    places: tuple


def products(tiling, source, left, right):
    """Products of tiles that lie as `left` and `right` say."""
    strides = left.across, left.along, right.across, right.along
    if tiling.instruction is None:
        return _plain(tiling, source.dtype, left.along, right.along)
    exact = source.dtype != "float32" or (source.half and not source.changed)
    return _tensor(tiling, source.dtype, exact, *strides)


@functools.cache
def _tensor(tiling, dtype, exact, l_across, l_along, r_across, r_along):
    """Tensor cores. A float32 is the sum of two TF32 numbers to within two of its roundoffs.

    The product of the two small ones, below four, is left out. `exact`: the first number is all
    of it, as of half precision. An int32 is a word of four bytes.
    """
    m, n, k = tiling.instruction
    single, rows = dtype == "float32", m // 8
    i_count, j_count = tiling.part_rows // m, tiling.part_columns // n
    size_a, size_b, size_c = m * k // 32, k * n // 32, m * n // 32
    length_a, length_b = i_count * size_a, j_count * size_b
    across = tiling.columns // tiling.part_columns
    part_rows, part_columns, depth = tiling.part_rows, tiling.part_columns, tiling.depth
    number = getattr(types, dtype)
    mma, to_tf32 = compat.mma(m, n, k), compat.to_tf32

    @device
    def multiply(acc, tiles, left, right):
        warp, lane = cuda.threadIdx.x // 32, cuda.threadIdx.x % 32
        g, t = lane // 4, lane % 4
        left += (warp // across * part_rows + g) * l_across + t * l_along
        right += (warp % across * part_columns + g) * r_across + t * r_along
        a = cuda.local.array(length_a, number)
        b = cuda.local.array(length_b, number)
        rest_a = cuda.local.array(length_a, number)
        rest_b = cuda.local.array(length_b, number)
        for step in range(0, depth, k):
            for i in range(i_count):
                for u in range(size_a):
                    e = (i * m + u % rows * 8) * l_across + (step + u // rows * 4) * l_along
                    x = tiles[left + e]
                    if single:
                        a[i * size_a + u] = to_tf32(x)
                        if not exact:
                            rest_a[i * size_a + u] = to_tf32(x - a[i * size_a + u])
                    else:
                        a[i * size_a + u] = x
            for j in range(j_count):
                for u in range(size_b):
                    e = j * n * r_across + (step + u * 4) * r_along
                    x = tiles[right + e]
                    if single:
                        b[j * size_b + u] = to_tf32(x)
                        if not exact:
                            rest_b[j * size_b + u] = to_tf32(x - b[j * size_b + u])
                    else:
                        b[j * size_b + u] = x
            # one factor pair after the other: products in a row do not wait for each other
            if single and not exact:
                for i in range(i_count):
                    for j in range(j_count):
                        mma(acc, (i * j_count + j) * size_c, rest_a, i * size_a, b, j * size_b)
                for i in range(i_count):
                    for j in range(j_count):
                        mma(acc, (i * j_count + j) * size_c, a, i * size_a, rest_b, j * size_b)
            for i in range(i_count):
                for j in range(j_count):
                    mma(acc, (i * j_count + j) * size_c, a, i * size_a, b, j * size_b)

    @device
    def row():
        return cuda.threadIdx.x // 32 // across * part_rows + cuda.threadIdx.x % 32 // 4

    @device
    def column():
        return cuda.threadIdx.x // 32 % across * part_columns + cuda.threadIdx.x % 4 * 2

    places = tuple(
        (i * m + u // 2 * 8, j * n + u % 2)
        for i in range(i_count)
        for j in range(j_count)
        for u in range(size_c)
    )
    return Products(multiply, row, column, places)


@functools.cache
def _plain(tiling, dtype, l_along, r_along):
    """A thread's part is made of vectors that lie as far apart as all threads' vectors reach."""
    part_rows, part_columns, depth = tiling.part_rows, tiling.part_columns, tiling.depth
    across, down = tiling.columns // part_columns, tiling.rows // part_rows
    vector = 2 if dtype == "float64" else 4
    number = types.float32 if dtype == "float32" else types.float64
    load = compat.load_vector(vector)

    @device
    def multiply(acc, tiles, left, right):
        left += cuda.threadIdx.x // across * vector
        right += cuda.threadIdx.x % across * vector
        a = cuda.local.array(part_rows, number)
        b = cuda.local.array(part_columns, number)
        for k in range(depth):
            for i in range(0, part_rows, vector):
                load(a, i, tiles, left + k * l_along + i * down)
            for j in range(0, part_columns, vector):
                load(b, j, tiles, right + k * r_along + j * across)
            for i in range(part_rows):
                for j in range(part_columns):
                    acc[i * part_columns + j] += a[i] * b[j]

    @device
    def row():
        return cuda.threadIdx.x // across * vector

    @device
    def column():
        return cuda.threadIdx.x % across * vector

    places = tuple(
        (i // vector * down * vector + i % vector, j // vector * across * vector + j % vector)
        for i in range(part_rows)
        for j in range(part_columns)
    )
    return Products(multiply, row, column, places)
