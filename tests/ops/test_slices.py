"""Passes over scores in slices: every row once, none longer than asked, none much shorter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastfisher as ff
from fastfisher import arrays
from fastfisher.kernels.cpu import memory
from fastfisher.slices import slices
from tests import matrices
from tests.tolerances import assert_ratio, matvec_ratio

steps = st.builds(int.__mul__, st.integers(1, 20), st.sampled_from((1, 16, 256)))


@given(length=st.integers(0, 9000), step=steps)
def test_slices_are_a_partition(length, step):
    parts = list(slices(length, step, "syrk"))
    assert [row for lo, hi in parts for row in range(lo, hi)] == list(range(length))
    assert all(0 < hi - lo <= step for lo, hi in parts)
    assert len(parts) == -(-length // step)


def test_the_last_slice_is_about_as_long_as_the_others():
    assert list(slices(4097, 4096, "syrk")) == [(0, 2304), (2304, 4097)]
    assert list(slices(33, 16, "syrk")) == [(0, 16), (16, 32), (32, 33)]
    assert list(slices(10, 4, "syrk")) == [(0, 4), (4, 8), (8, 10)]


@pytest.fixture(params=(1, 300, 700), ids="slices of about {}".format)
def narrow(request, monkeypatch):
    """Slices of few rows: of the flops, and of the bytes that are copied."""
    monkeypatch.setattr("fastfisher.slices.SLICE_FLOPS", request.param * P**2)
    monkeypatch.setattr(arrays, "SLICE_BYTES", request.param * P * 8)


N, P = 1801, 13


@pytest.mark.parametrize("layout", ("C", "F"))
@pytest.mark.parametrize("dtype", ("float32", "float64", "complex128", "float16"))
def test_sums_over_several_slices_count_every_row_once(narrow, dtype, layout):
    kind = np.dtype("float32" if dtype == "float16" else dtype)
    rng = matrices.generator("slices", dtype)
    G = np.asarray(matrices.gaussian((N, P), kind, rng).astype(dtype), order=layout)
    w, v, u = rng.uniform(0, 2, N), rng.standard_normal((P, 3)), rng.standard_normal((N, 2))
    w, v, u = (x.astype(kind.type(0).real.dtype) for x in (w, v, u))

    def products(run, A, w, v, u):
        """All of them by `run`, NumPy's where it is None."""
        if run:
            return [
                run.syrk(A, w),
                run.gram(np.asarray(A.T, order=layout)),
                run.fvp(A, v, w),
                run.matvec(A, v),
                run.rmatvec(A, u),
                run.diag(A, w),
            ]
        H = A.conj().T
        return [H * w @ A, A.T @ A.conj(), H * w @ (A @ v), A @ v, H @ u, w @ np.abs(A) ** 2]

    wide = [x.astype(np.result_type(x, np.float64)) for x in (G, w, v, u)]
    exact, bounds = products(None, *wide), products(None, *map(np.abs, wide))
    names = ("syrk", "gram", "fvp", "matvec", "rmatvec", "diag")
    for name, *found in zip(names, products(ff.ops, G, w, v, u), exact, bounds, strict=True):
        assert_ratio(matvec_ratio(*found, N + P), "goal", name)


@pytest.mark.parametrize("n, p, dtype", [(6912, 400, "float64"), (16_000, 400, "float32")])
def test_syrk_of_more_than_one_slice(n, p, dtype, monkeypatch):
    monkeypatch.setattr("fastfisher.slices.SLICE_FLOPS", 5000 * p**2)
    G = matrices.gaussian((n, p), np.dtype(dtype), matrices.generator("long", n))
    wide = np.abs(G.astype(np.float64))
    exact, bound = G.T.astype(np.float64) @ G.astype(np.float64), wide.T @ wide
    assert_ratio(matvec_ratio(ff.ops.syrk(G), exact, bound, n), "goal", f"{n} x {p} {dtype}")


def test_slices_share_their_scratch_and_leave_none(monkeypatch):
    monkeypatch.setattr(memory, "LARGEST", 1000)

    def place():
        return memory.aligned((5000,), "u1").ctypes.data

    kept = []
    for _ in slices(3000, 1000, "outer"):
        kept.append(place())
        kept += [place() for _ in slices(2000, 1000, "inner")]
    assert len(kept) == 9 and len(set(kept)) == 1 and memory._own.large is None
    held = []

    def stop(*_):
        raise ValueError

    with ff.options(progress=stop):
        try:
            for _ in slices(3000, 1000, "syrk"):
                place()
        except ValueError as error:
            held.append(error)
    assert held and memory._own.large is None
