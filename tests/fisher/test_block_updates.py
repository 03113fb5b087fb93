"""Batches into a block-diagonal Fisher: small ones wait, bad ones leave no trace."""

import threading
from concurrent.futures import ThreadPoolExecutor

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import fastfisher as ff
from fastfisher.errors import InputError, MemoryLimitError
from tests import oracle
from tests.fisher.kinds import check
from tests.fisher.structure import mask, structured


@hypothesis.given(data=st.data(), center=st.booleans())
def test_U1_U3_any_sequence_of_batches_equals_one_weighted_batch(data, center):
    """Batches of any length, weight and decay, some reads and copies between them."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000), "seed"))
    F = ff.BlockDiagonalFisher([2, 3, 2], center=center)
    rows, ages = [], []
    for _ in range(data.draw(st.integers(1, 6), "batches")):
        n = data.draw(st.sampled_from([0, 1, 2, 15, 16, 17, 40]), "n")
        decay = data.draw(st.sampled_from([1.0, 0.5, 0.9]), "decay")
        dtype = data.draw(st.sampled_from(["float64", "float32"]), "dtype")
        G = (rng.standard_normal((n, 7)) + 1).astype(dtype)
        w = rng.random(n) + 0.5
        match data.draw(st.sampled_from(["", "read", "copy"]), "between"):
            case "read":
                F.trace()
            case "copy":
                F = F.__copy__()
        F.update(G, w, decay=decay)
        ages = [age * decay for age in ages] + [w]
        rows.append(G.astype(np.float64))
    G, w = np.concatenate(rows), np.concatenate(ages)
    expected = structured(F, oracle.fisher(G, w, center)) if len(G) else np.zeros((7, 7))
    # Batches of float32 are summed in float32 within a block of samples.
    np.testing.assert_allclose(F.matrix(), expected, atol=1e-4 if len(G) else 0)
    assert F.weight == pytest.approx(w.sum()) and F.n_samples == len(G)
    if len(G):
        np.testing.assert_allclose(F.mean, w @ G / w.sum(), atol=1e-5)


@pytest.mark.parametrize("center", [False, True])
def test_rows_one_at_a_time_with_decay_equal_the_dense_fisher(center, rng):
    G, w = rng.standard_normal((130, 12)) + 2, rng.random(130)
    F, D = ff.BlockDiagonalFisher((3, 4), center=center), ff.DenseFisher(12, center=center)
    for i in range(130):
        decay = 0.9 if i % 10 == 0 else 1.0
        F.update(G[i : i + 1], w[i : i + 1], decay=decay)
        D.update(G[i : i + 1], w[i : i + 1], decay=decay)
    np.testing.assert_allclose(F.matrix(), np.where(mask(F.sizes), D.matrix(), 0), rtol=1e-12)
    assert F.weight == D.weight


def test_an_error_at_the_door_leaves_staged_rows_alone(rng):
    F = ff.BlockDiagonalFisher((3, 2))
    G = rng.standard_normal((5, 6))
    F.update(G[:3])
    bad = G[3:].copy()
    bad[1, 2] = np.nan
    for call in (lambda: F.update(bad), lambda: F.update(bad, decay=0.5), lambda: F.update(G, [1])):
        with pytest.raises(InputError):
            call()
    F.update(bad, nan_policy="skip")
    check(F, G[:4])
    assert (F.n_samples, F.n_skipped, F.weight) == (4, 1, 4.0)


def test_rows_in_half_precision_and_other_layouts_are_read(rng):
    G = rng.standard_normal((40, 12)).astype(np.float16)
    expected = ff.BlockDiagonalFisher([4, 8], dtype="float32").update(G.astype(np.float32)).matrix()
    for stored in (G, np.asfortranarray(G), G[:, ::-1][:, ::-1]):
        F = ff.BlockDiagonalFisher([4, 8], dtype="float32").update(stored)
        np.testing.assert_array_equal(F.matrix(), expected)


def test_the_buffer_is_left_out_where_it_does_not_fit(monkeypatch, rng):
    import fastfisher.fisher.staging as module

    real = module.require_memory

    def tight(count, what):
        if "buffer" in what:
            raise MemoryLimitError("none left")
        real(count, what)

    monkeypatch.setattr(module, "require_memory", tight)
    F, G = ff.BlockDiagonalFisher((3, 2)), rng.standard_normal((9, 6))
    for g in G:
        F.update(g[np.newaxis])
    check(F, G)


def test_threads_that_read_at_once_add_the_staged_rows_once(rng):
    for _ in range(20):
        F, G = ff.BlockDiagonalFisher((40, 20)), rng.standard_normal((5, 800))
        F.update(G)
        start = threading.Barrier(4)

        def read(F=F, start=start):
            start.wait()
            return F.diagonal()

        with ThreadPoolExecutor(4) as pool:
            answers = [done.result() for done in [pool.submit(read) for _ in range(4)]]
        for answer in answers:
            np.testing.assert_allclose(answer, (G**2).mean(axis=0), rtol=1e-12)
