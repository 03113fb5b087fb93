"""Vector intrinsics: what they are compiled for and to, and the NumPy twins they stand for."""

import functools
from typing import NamedTuple

import numba
import numpy as np
import pytest
from numba import types

from fastfisher.kernels.cpu import direct, moves, simd, triangles, twins
from fastfisher.kernels.cpu import row_passes as passes
from fastfisher.kernels.cpu.simd import SHORT, lanes, target
from tests import matrices
from tests.kernels.every_op import LIMIT, OPS, examine
from tests.kernels.instruction_sets import ENVIRONMENTS, compiled_as, environment, host_isa
from tests.kernels.processes import in_a_process
from tests.tolerances import assert_ratio, unit_roundoff

SUMS = ("syrk", "gram", "layered_gram", "block_syrk", "batched_syrk", "matvec", "rmatvec")
SUMS += ("fvp", "diag")
SYSTEMS = ("batched_solve", "batched_metric_solve", "block_cholesky", "block_solve")


# Every kernel on every ISA -------------------------------------------------------------------


def on_this_isa(ops):
    """Complex systems have no vector code, real ones have some in either precision."""
    systems, others = ([op for op in ops if (op in SYSTEMS) == own] for own in (True, False))
    found = examine(others, ["float64", "complex64"])
    found |= examine([op for op in others if op == "wide_fvp"], ["float32", "complex64"])
    return {"isa": target().name, **found, **examine(systems, ["float32", "float64"])}


@functools.cache
def _results(name, ops):
    return in_a_process(on_this_isa, ops, **environment(name))


def results(name, op):
    """Of an op and its neighbours: a third each in a process, which may compile all it runs."""
    ops = SUMS if name == "native" and host_isa() == "avx512" else OPS
    third = 3 * ops.index(op) // len(ops)
    return _results(name, tuple(o for i, o in enumerate(ops) if 3 * i // len(ops) == third))


@pytest.mark.slow
@pytest.mark.parametrize("isa", ENVIRONMENTS)
def test_the_instruction_set_is_the_one_that_numba_compiles_for(isa):
    expected = host_isa() if isa == "native" else isa
    assert results(compiled_as(isa), SUMS[0])["isa"] == expected


@pytest.mark.slow
@pytest.mark.parametrize("isa", ("avx2", "plain"))
@pytest.mark.parametrize("op", OPS)
def test_every_kernel_is_right_on_narrower_vectors(isa, op):
    found = results(compiled_as(isa), op)[op]
    assert_ratio(found["error"], LIMIT, f"{op} on {isa}, {found['case']}")


@pytest.mark.slow
@pytest.mark.parametrize("op", SUMS)
def test_sums_in_order_have_the_same_bits_on_avx2_as_on_this_machine(op):
    if host_isa() != "avx512":
        pytest.skip("this machine has no vectors wider than those of AVX2")
    native, avx2 = results("native", op), results("avx2", op)
    assert native[op]["digest"] == avx2[op]["digest"]


# Twins ---------------------------------------------------------------------------------------

compiled_only = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="the twins are all there is")
over_reals = pytest.mark.parametrize("dtype", ("float32", "float64"))


def compiled(intrinsic):
    return numba.njit(lambda *args: intrinsic(*args))


def compare(function, twin, arrays, arguments, units=0):
    """Both on copies of the arrays, which may then differ by so many u of the last, normwise.

    arguments(*arrays) makes what they are called with.
    """
    seen, results = [], []
    for call in (function, twin):
        seen.append([array.copy() for array in arrays])
        results.append(call(*arguments(*seen[-1])))
    assert results[0] == results[1]
    for x, y in zip(*seen, strict=True):
        error = np.abs(x.astype(np.float64) - y).max(initial=0)
        assert error <= units * unit_roundoff(arrays[-1].dtype) * np.abs(y).max(initial=0)


def data(dtype, *shape):
    return matrices.gaussian(shape, dtype, matrices.generator("twins", dtype, shape))


def at(array, offset=0):
    return twins.address(array, offset)


@compiled_only
@over_reals
def test_twin_of_address_and_load(dtype):
    x, one = data(dtype, 9), np.dtype(dtype).type(1)
    assert compiled(simd.address)(x, 4) == at(x, 4)
    assert compiled(moves.load_at)(at(x, 4), one) == twins.load_at(at(x, 4), one) == x[4]


@compiled_only
@over_reals
@pytest.mark.parametrize("sign", (1, -1))
def test_twin_of_the_register_tiles(dtype, sign):
    """Every shape; c has more columns than the tile, which stay."""
    element, n = getattr(types, dtype), lanes(dtype)
    function = compiled(simd.micro_kernel(element, types.float64, sign))
    for short in (False, True):
        for vectors in (1, 2, 3):
            rows = SHORT if short else target().rows
            for steps in (2, 6, 256):
                a, b = data(dtype, steps, 3 * n + 8), data(dtype, steps, 3 * n + 8)

                def arguments(c, a, b, vectors=vectors, steps=steps, short=short):
                    tile = at(c), c.shape[1], at(a), at(b), a.shape[1], steps, at(b)
                    return vectors + 4 * short, *tile

                def twin(shape, *operands, rows=rows, vectors=vectors):
                    twins.micro(rows, vectors * n, dtype, "float64", sign, *operands)

                c = data("float64", rows, 3 * n + 5)
                compare(function, twin, [c, a, b], arguments, 64)


@compiled_only
@over_reals
def test_twins_of_the_passes_over_rows(dtype):
    """Every layout; nothing but `count` elements is read, and whole vectors are written."""
    function, unit = (
        compiled(passes.rows_kernel(getattr(types, dtype))),
        128 // np.dtype(dtype).itemsize,
    )
    for layout, (operation, r, shifted) in enumerate(passes._LAYOUTS):
        for count in (0, 1, unit - 1, unit, 2 * unit + 3):
            a, x, m = data(dtype, 2 * r, count + 2), data(dtype, count + r), data(dtype, count)
            s = data(dtype, r)

            def arguments(out, a, x, m, s=s, r=r, layout=layout, count=count):
                rows = at(a, r * a.shape[1]), a.shape[1], at(x), at(m), count, 64
                return layout, at(out), *rows, at(out, r), at(s)

            def twin(_, *operands, operation=operation, r=r, shifted=shifted):
                passes._TWINS[operation](dtype, dtype, r, shifted, *operands)

            out = data(dtype, 3 * unit + r)
            seen = out.copy(), out.copy()
            for call, y in ((function, seen[0]), (twin, seen[1])):
                call(*arguments(y, a, x, m))
            written = {passes.DOTS: r, passes.BOTH: r + count}.get(operation, count)
            np.testing.assert_array_equal(seen[0][written:], out[written:])
            error = np.abs(seen[0] - seen[1]).max()
            assert error <= 64 * unit_roundoff(dtype) * max(1, np.abs(seen[1]).max())


@compiled_only
def test_twins_of_clear_and_add_doubles():
    x, y = data("float64", 40), data("float64", 40)
    clear, add = compiled(simd.clear), compiled(simd.add_doubles)
    for size in (0, 1, 8, 72):
        compare(clear, twins.clear, [x], lambda x, size=size: (at(x, 2), size))
    for count in (0, 1, 2, 9):
        for step in (1, 2, 4):
            both = lambda x, y, s=step, c=count: (at(x, 1), s, at(y, 3), c)  # noqa: E731
            compare(add, twins.add_doubles, [x, y], both)


@compiled_only
@over_reals
def test_twin_of_transpose_at(dtype):
    n, function, one = lanes(dtype), compiled(moves.transpose_at), np.dtype(dtype).type(1)
    x, to = data(dtype, 2 * n + 3, 2 * n + 9), data(dtype, 2 * n + 3, 2 * n + 6)
    for rows in (0, 1, n - 1, n, n + 1, 2 * n + 3):
        for columns in (0, 1, n - 1, n, n + 1, 2 * n + 3):

            def arguments(to, x, rows=rows, columns=columns):
                return at(to), to.shape[1], rows, at(x), x.shape[1], columns, one, one

            compare(function, twins.transpose_at, [to, x], arguments)


@compiled_only
@over_reals
@pytest.mark.parametrize("shifted", (False, True))
@pytest.mark.parametrize("parts", (1, 2))
def test_twins_of_the_row_copies(dtype, parts, shifted):
    """Nothing, one, all but one, whole vectors; zeros follow, and what is beyond them stays."""
    n, factor = lanes(dtype), np.dtype(dtype).type(1.7)
    function = compiled(moves.copy_at if parts == 1 else moves.split_at)
    twin = functools.partial(twins.copy_at, parts)
    arrays = data(dtype, 10 * n), data(dtype, 12 * n), data(dtype, 11 * n)
    for width in (n, 3 * n):
        for count in {0, 1, n - 1, n, n + 1, width - 1, width}:
            if count > width:
                continue

            def place(to, x, m, count=count, width=width):
                return (
                    at(to, 2),
                    4 * n,
                    at(x, 3),
                    count,
                    width,
                    factor,
                    at(m, 1),
                    int(shifted),
                    factor,
                )

            compare(function, twin, arrays, place)


@compiled_only
@over_reals
def test_row_copies_neither_read_nor_write_beyond_their_ends(dtype):
    """NaN beyond the row and in a shift that is not asked for must not show, not even times 0."""
    n, factor = lanes(dtype), np.dtype(dtype).type(2)
    copy, split = compiled(moves.copy_at), compiled(moves.split_at)
    for parts, function in ((1, copy), (2, split)):
        for count in (0, 1, n - 1):
            x, to = np.full(4 * n, np.nan, dtype), np.full(6 * n, 7, dtype)
            x[: parts * count] = np.arange(parts * count)
            function(at(to, n), 3 * n, at(x), count, n, factor, at(x, 2 * n), 0, factor)
            expected = np.full(6 * n, 7, dtype)
            for part in range(parts):
                row = expected[n + 3 * n * part : 2 * n + 3 * n * part]
                row[:] = 0
                row[:count] = 2 * np.arange(parts * count)[part::parts]
            np.testing.assert_array_equal(to, expected)


@compiled_only
@over_reals
def test_twins_of_the_affine_rows(dtype):
    n, factor, m = lanes(dtype), *np.array([1.7, -0.3], dtype)
    place = compiled(moves.affine_at)
    for width in (n, 5 * n):
        x = [data(dtype, 6 * n)]
        compare(place, twins.affine_at, x, lambda x, w=width: (at(x, 3), w, factor, m))


@compiled_only
@over_reals
def test_twins_of_rows_spread_over_planes(dtype):
    n, one = lanes(dtype), np.dtype(dtype).type(1)
    place = compiled(moves.spread_at)
    for terms, width in ((1, n), (5, 3 * n)):
        size, pairs = terms * width, data(dtype, terms, 2, width)
        a, b = pairs[:, 0], pairs[:, 1]
        for function in (place, twins.spread_at):
            to = np.full((4, size + 3), 7, dtype)
            function(at(to), size + 3, at(pairs), terms, width, one)
            planes = to[:, :size].reshape(4, terms, width)
            np.testing.assert_array_equal(planes, np.stack([a, b, (a - b) / 2, a + b]))
            assert (to[:, size:] == 7).all()


class Record(NamedTuple):
    to: int
    x: int
    y: bool


read = simd.reader(Record)


@compiled_only
def test_calls_by_address_hand_over_their_integers():
    def by_record(place):
        record = read(place)
        triangles.set_integer(record.to, 10 * record.x + record.y)

    def by_tuple(to, a, b, c, d):
        triangles.set_integer(to, a + 10 * b + 100 * c + 1000 * d)

    def entry(function, count):
        return numba.cfunc(types.void(*[types.intp] * count))(function)

    out = np.zeros(1, np.int64)
    record, integers = entry(by_record, 1), entry(by_tuple, 5)
    compiled(simd.call)(record.address, Record(at(out), 7, True))
    assert out[0] == 71
    compiled(simd.call_entry)(integers.address, (at(out), 1, -2, True, np.int32(4)))
    assert out[0] == 4081


@compiled_only
@over_reals
@pytest.mark.parametrize("mode", (triangles.UPDATE, triangles.FORWARD))
def test_twin_of_the_triangular_tiles(dtype, mode):
    element, rows, n = getattr(types, dtype), target().rows, lanes(dtype)
    function, width = compiled(triangles._solver(element)), 3 * n + 5
    for vectors in (1, 2, 3):
        for steps in (0, rows, 4 * rows):
            # the triangle after the rows of a holds small numbers and reciprocals
            a, b = 0.1 * data(dtype, steps + 2 * rows, rows + 3), data(dtype, steps + 1, width)

            def arguments(c, a, b, vectors=vectors, steps=steps):
                first = at(a, rows * a.shape[1])
                b = at(b)
                return vectors, mode, at(c), width, first, a.shape[1], b, width, steps, b

            def twin(vectors, *operands):
                twins.solver(rows, vectors * n, dtype, *operands)

            compare(function, twin, [data(dtype, rows, width), a, b], arguments, 64)


@compiled_only
@over_reals
@pytest.mark.parametrize("parts", (1, 2))
@pytest.mark.parametrize("mode", range(4))
def test_twin_of_the_tiles_that_read_the_factor_where_it_lies(dtype, mode, parts):
    rows, n = target().rows, lanes(dtype)
    function, count = compiled(direct._reader(getattr(types, dtype), parts)), rows // parts
    adjoint, solved = mode & direct.ADJOINT, mode & direct.SOLVED
    shapes = [(1, 0, count), (2, 3, count), (3, 17, count), (3, 0, 1)]
    if not adjoint:  # where ragged tiles have no steps
        shapes += [(1, 3, count - 1), (2, 17, 1), (3, 9, count // 2)]
    for vectors, steps, inside in shapes:
        width, order = vectors * n, steps + 3 * count
        l = 0.1 * data(dtype, order, order * parts)
        l[:, ::parts] += 2 * np.eye(order, dtype=dtype)
        c, b = data(dtype, rows, width), data(dtype, (steps + 1) * parts, width)
        # from the first column of the first row, or the last rows of all, whose triangle is above
        first, triangle = (count, 0) if adjoint else (steps, steps)
        ld, place = order * parts, first * order * parts
        l[np.triu(np.ones((order, order), bool), 1).repeat(parts, axis=1)] = np.nan
        if inside < count:
            l[triangle + inside :] = np.nan

        def arguments(c, b, l=l, vectors=vectors, steps=steps, inside=inside, ld=ld, place=place):
            return vectors, mode, at(c), at(l.reshape(-1)[place:]), ld, at(b), steps, inside, 0

        def call(vectors, mode, c, *operands, inside=inside):
            function(vectors, mode, c, *operands)
            if not solved:  # rows beyond are zero once solved, and before that anything
                width = vectors * n
                twins.rows_at(c, dtype, rows, width, width)[inside * parts :] = 0

        def twin(vectors, mode, c, l, ld, b, steps, inside, ahead):
            width = vectors * n
            twins.direct(rows, width, dtype, parts, mode, c, l, ld, b, steps, inside)

        compare(call, twin, [c, b], arguments, 64)


@compiled_only
@over_reals
def test_twin_of_the_diagonal_tile(dtype):
    rows = target().rows
    function = compiled(triangles.factor_tile)
    twin = functools.partial(twins.factor_tile, rows)
    g = data(dtype, 4 * rows, rows)
    whole = (g.T @ g / (4 * rows)).astype(dtype)
    for failing in (None, 0, rows - 1):
        for inside in (1, rows):
            a = whole.copy()
            if failing is not None:
                a[failing, failing] = -1
            a = np.hstack([np.triu(a), np.zeros((rows, 3), dtype)]).reshape(-1)
            out = np.zeros(rows * rows + rows, dtype)
            limit = 64 if failing is None else 1e4  # what follows a failing pivot is anything

            def arguments(out, a, inside=inside):
                return out, a, rows + 3, inside

            compare(function, twin, [out, a], arguments, limit)
