"""The ways through fvp by the length of rows: they have the same bits, on any threads."""

import numpy as np
import pytest

from fastfisher.kernels.cpu import matvec, strips
from fastfisher.kernels.cpu.row_passes import GROUP, MANY
from fastfisher.kernels.cpu.rows import real_rows
from fastfisher.kernels.cpu.splitting import BLOCK_ROWS, STRIP_BYTES, strip_rows
from fastfisher.kernels.cpu.sums import STRIPE
from tests import matrices, oracle
from tests.kernels.cases import bits_of_kernels, operands
from tests.tolerances import assert_ratio, matvec_ratio

over_stored = pytest.mark.parametrize("stored", ("float32", "float64", "float16", "float32 wide"))


def cases(shapes, stored):
    """G, weights, v and a shift, or none."""
    stored, _, wide = stored.partition(" ")
    computed = np.dtype("float64" if wide or stored == "float64" else "float32")
    for n, p in shapes:
        G, w = operands(n, p, computed).G.astype(stored), matrices.weights(n, computed)
        v = matrices.gaussian((1, p), computed, matrices.generator("fvp", n, p))
        for shift in v[0], v[0, :0]:
            yield G, w, v, shift
            yield G, w[:0], v, shift


def product(*case):
    y = np.zeros((1, case[0].shape[1]))
    G, w, v, shift = case
    matvec.fvp(y, G, v, w, shift)
    return y


@pytest.mark.parametrize("n, p", [(5, 20_000), (3 * MANY + 2, 9000), (2, 300_000)])
def test_long_rows_in_double_are_those_of_double(n, p):
    """One vector, past what is read in one pass; of single scores the same as of wide ones."""
    for G, w, v, shift in cases([(n, p)], "float32 wide"):
        wide = oracle.fvp(G - shift if shift.size else G, v.T, w if w.size else None).T
        bound = oracle.fvp_bound(G - shift if shift.size else G, v.T, w if w.size else None).T
        assert_ratio(matvec_ratio(product(G, w, v, shift), wide, bound, 1), "summation", (n, p))


@pytest.mark.parametrize("rows", (1, GROUP), ids="{} at a time".format)
@pytest.mark.parametrize("count", (1, 2, 5), ids="{} strips".format)
@over_stored
def test_strips_of_columns_have_the_bits_of_one_pass(stored, count, rows):
    shapes = (1, 9), (3, 4100), (8, STRIPE + 70), (BLOCK_ROWS + 7, 2500), (4200, 1100)
    for G, w, v, shift in cases(shapes, stored):
        found = strips.fvp(real_rows(G, shift), v, w, count, rows)
        assert np.array_equal(found, product(G, w, v, shift)), G.shape


@pytest.mark.parametrize("rows, held", ((4, 10), (1, 4)))
def test_strips_are_taken_while_a_cache_holds_their_rows_and_vectors(rows, held):
    caches = {"L2": 1 << 20, "L3": 8 << 20}
    own, every = caches["L2"] // (8 * held), caches["L3"] // 2 // (8 * held)
    assert own < every  # one thread has the larger part of L3, many have L2 each
    assert strip_rows(64 * own, 8, 64, caches) == rows > strip_rows(64 * own + 1, 8, 64, caches)
    if rows == 1:  # a row at a time gains nothing from L3
        assert strip_rows(every, 8, 1, caches) == 0
        return
    assert strip_rows(every, 8, 1, caches) == rows > strip_rows(every + 1, 8, 1, caches)
    caches["L3"] = 1 << 30  # shared with who knows whom
    most = STRIP_BYTES // (8 * held)
    assert strip_rows(most, 8, 1, caches) == rows > strip_rows(most + 1, 8, 1, caches)


@bits_of_kernels
@over_stored
def test_short_rows_have_the_bits_of_long_ones(stored, monkeypatch):
    widest = matvec.NARROW // MANY // (8 if stored == "float64" else 4)
    shapes = [(n, 10) for n in (1, 4, MANY + 5, BLOCK_ROWS, 3 * BLOCK_ROWS + MANY + 6)]
    shapes += [(BLOCK_ROWS + 9, p) for p in (1, 8, 33, widest - 1, widest, widest + 1)]
    for case in cases(shapes, stored):
        found = product(*case)
        with monkeypatch.context() as patch:
            patch.setattr(matvec, "NARROW", 0)
            assert np.array_equal(found, product(*case)), case[0].shape
