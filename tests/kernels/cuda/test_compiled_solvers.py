"""Factorisations, small systems and what solvers do between them, compiled for real devices."""

import importlib.util
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

from fastfisher.kernels.cuda import (
    batched,
    blocks,
    cholesky,
    compat,
    copies,
    layered,
    memory,
    metric,
    ranges,
    recurrence,
    squares,
    sums,
    triangular,
    vectors,
    vendor_nvmath,
)
from tests.kernels.cuda.compiling import CAPABILITIES, compiled, kernels_of, names_of
from tests.kernels.cuda.test_compiled import OTHERS, TILES
from tests.kernels.cuda.test_slices import CALLS as SLICES

DOUBLE, SINGLE = np.dtype(np.float64), np.dtype(np.float32)
over_capabilities = pytest.mark.parametrize(
    "capability", CAPABILITIES, ids=[f"cuda-sm_{a}{b}" for a, b in CAPABILITIES]
)


def in_registers(kernels):
    for kernel in kernels:
        assert kernel.spilled == 0 and kernel.stack == 0, kernel
        # a block of so many threads must find room in 64 Ki registers
        assert kernel.registers * kernel.threads <= 1 << 16, kernel
    return {kernel.name: kernel for kernel in kernels}


def square(n, dtype):
    return np.zeros((n, n), dtype)


def _cholesky(n):
    return lambda: cholesky.cholesky(square(n, DOUBLE), square(n, DOUBLE), 0.5)


def _batched(p, n=8):
    def call():
        x, f, damping = np.zeros((n, p), SINGLE), np.zeros((n, p, p), SINGLE), np.zeros(n, SINGLE)
        batched.batched_solve(x, np.zeros(n, np.int32), f, x, damping)

    return call


def _blocks(d):
    def call():
        c, scores = np.zeros((2, d, d)), np.zeros((7, 2 * d), SINGLE)
        blocks.block_syrk(c, scores, 0, scores[:0, 0].copy())
        blocks.block_cholesky(c, np.zeros(2, np.int32))
        blocks.block_solve(c, np.zeros((2, 2 * d)))

    return call


def _metrics():
    g, scores = np.zeros((2, 9), SINGLE), np.zeros((2, 20, 9), SINGLE)
    metric.batched_metric_solve(g, np.zeros(2, np.int32), scores, scores[:, :, 0].copy(), g, g[0])


def _substitutions():
    l, x = square(100, DOUBLE), np.zeros((3, 100))
    triangular.solve_lower(l, x)
    triangular.solve_lower_adjoint(l, x)


def _between():
    """What solvers do between these."""
    k, m = 2, 5
    rows, report = np.zeros((k, m)), np.zeros(vectors.REPORT + 4 * k)
    v, w, none, A = rows[0], np.zeros(k), np.zeros(0), square(m, DOUBLE)
    state, partial = np.zeros((k, recurrence.STATE)), np.zeros((k, 1, 3))
    counts = np.zeros(1, np.int64)
    for reduce in (sums.dots, sums.largest, sums.least, sums.norms, sums.totals):
        reduce(w, *([rows] * (2 if reduce is sums.dots else 1)))
    memory.copy(rows, rows)
    memory.gather(rows, rows)
    vectors.take(rows, rows.T.copy(), none)
    vectors.take_one(rows[:1], v)
    vectors.units(rows, 1)
    vectors.silence(rows, w)
    vectors.square_roots(v, v, v)
    vectors.invert_sum(v, v, v)
    vectors.emit(rows.T.copy().astype(SINGLE), rows, w, -3)
    vectors.blank(v, np.zeros(m, bool))
    ranges.exponents(w, w)
    ranges.shift_rows(rows, w)
    vectors.combine(rows, rows, rows, 0.5, v, rows)
    vectors.times(rows, rows, v)
    vectors.project(rows, w, v)
    vectors.normalise(rows[:1], rows[:1], w[:1], none)
    vectors.woodbury(rows, rows, rows, report, 0.0)
    vectors.spread(v, report, 0.0)
    ranges.near(rows, rows, w)
    ranges.back(rows, w)
    ranges.subtract_outer(A, v, v)
    ranges.lessen(v, v)
    squares.scale_square(A, v)
    squares.add_to_diagonal(A, v, v)
    squares.diagonal_of(v, A)
    squares.restore(A)
    squares.clear_above(A)
    squares.mend(A, none, 0.5, report, 0.5, report[:1], along=True)
    for dtype, by in ((SINGLE, 0.5), (np.float16, 1.0), (np.float16, 2.0), (np.uint16, 2.0)):
        to = np.zeros((k, m), dtype if by == 1 else SINGLE)
        copies.changed(to, np.zeros((k, m), dtype), by, np.zeros(k, bool))
        copies.rows_of(A[:k], np.zeros((k, m), dtype), 0, v, w, 0, 0.5)
    vectors.resolve(v, report, v, 0.1, 0.0, 0.0)
    vectors.examine_weights(counts, counts, v)
    vectors.roots(v, v, v, report, counts, counts)
    copies.group_sums(A, rows.astype(np.float16), np.zeros(k, np.int64), np.zeros(k, np.int64))
    vectors.per_element(vendor_nvmath._clear, v.size, v)
    vectors.per_element(vendor_nvmath._add, A.size, A, A.astype(SINGLE), True)
    vectors.per_element(vendor_nvmath._take_transposed, A.size, A, A)
    places, cubes = np.zeros(2, np.int64), np.zeros((2, 2, 2))
    squares.lower_of_blocks(cubes, cubes, w)
    squares.damp_blocks(cubes, 0.5, places, v, v)
    squares.mend_blocks(cubes, np.zeros(2, np.int32), places, v, v)
    vectors.take_blocks(rows[:, :4].copy(), rows, places, 2)
    vectors.put_blocks(rows, rows[:, :4].copy(), places, 2)
    recurrence.inner(partial, w)
    recurrence.set_sizes(state, w)
    recurrence.rest(state)
    recurrence.advance(partial, rows, rows, rows, rows, 1.0, none, state)
    recurrence.begin(state, partial, 1e-8, 1e-15, 0.5, 100, first=True)
    recurrence.measure(partial, rows, rows, rows, 1.0, v, state)
    recurrence.direct(state, partial)
    recurrence.turn(state, partial, 1e-15, 0.5, 1e30, 100, 100)
    recurrence.conclude(rows, rows, 1.0, none, state)


@over_capabilities
def test_cholesky_spills_nothing(capability):
    # of one panel: what comes after it is the trailing update, an op of `rank_k`
    found = in_registers(compiled(_cholesky(100), capability))
    assert {"diagonal", "below", "update"} <= set(found)


def test_cuda_cholesky_updates_the_rest_on_tensor_cores():
    found = compiled(_cholesky(300), CAPABILITIES[-1])
    assert any(kernel.count("mma.sync") for kernel in in_registers(found).values())


@over_capabilities
@pytest.mark.parametrize("p", [9, 20, 40], ids=["thread", "warp", "block"])
def test_batched_solve_stays_in_registers(p, capability):
    (kernel,) = in_registers(compiled(_batched(p), capability)).values()
    if p == 9:
        assert kernel.count("cp.async") and not kernel.count("ld.local")


@over_capabilities
@pytest.mark.parametrize(
    "call, names",
    [
        (_blocks(9), {"add", "factor", "solve"}),
        (_metrics, {"add", "_mean", "solve"}),
        (_substitutions, {"step"}),
    ],
    ids=["blocks", "metrics", "substitutions"],
)
def test_small_systems_spill_nothing(call, names, capability):
    assert names <= set(in_registers(compiled(call, capability)))


@over_capabilities
def test_what_solvers_do_between_kernels_compiles(capability):
    found = in_registers(compiled(_between, capability))
    assert len(found) >= 35
    # No sum depends on who comes first: atomics only on integers.
    assert not any("atom.add.f" in k.ptx or "red.add.f" in k.ptx for k in found.values())


def test_no_cuda_kernel_is_left_uncompiled():
    calls = [call for call, *_ in TILES.values()] + [*OTHERS.values(), _metrics, _substitutions]
    calls += [
        *SLICES,
        _between,
        _cholesky(300),
        *map(_batched, (9, 20, 40, 150)),
        *map(_blocks, (9, 150)),
    ]
    launched = set().union(*map(names_of, calls))
    assert kernels_of(Path(compat.__file__).parent) == launched


def test_cuda_grids_take_any_number_of_samples_with_many_tokens():
    n, tokens, grids = 70_000, 64, []  # a sample fills a tile

    class Sums:
        size = n * n

        def __len__(self):
            return n

    a = np.empty((n * tokens, 1), np.float32)
    with (
        mock.patch.object(compat, "launch", lambda kernel, blocks, *args: grids.append(blocks)),
        mock.patch.object(layered, "flat", lambda x: x),
        mock.patch.object(compat, "capability", lambda: CAPABILITIES[0]),
    ):
        layered.layered_gram(Sums(), a, a, tokens)
    ((x, y, z),) = grids
    assert x >= n and y * z >= n and y < 1 << 16


def test_cuda_grids_take_any_number_of_right_hand_sides():
    k, m = 3 << 18, 2  # beyond 65535 blocks of any number of rows
    rows, sides, none = np.empty((k, m)), np.empty(k), np.zeros(0)
    state, partial = np.empty((k, recurrence.STATE)), np.empty((k, 1, 3))
    grids = []

    def record(kernel, blocks, threads, *args):
        grids.append(np.atleast_1d(blocks))

    with mock.patch.object(compat, "launch", record), mock.patch.object(compat, "empty", np.empty):
        sums.dots(sides, rows, rows)
        ranges.shift_rows(rows, sides)
        recurrence.advance(partial, rows, rows, rows, rows, 1.0, none, state)
        recurrence.turn(state, partial, 1e-15, 0.5, 1e30, 100, 100)
        triangular.solve_lower(np.eye(m), rows)
        triangular.solve_lower_adjoint(np.eye(m), rows)
        blocks.block_solve(np.ones((1, m, m)), rows)
    assert any(grid[0] > 1 << 16 for grid in grids)
    assert all(grid[1:].max(initial=0) < 1 << 16 and grid[0] < 1 << 31 for grid in grids), grids
