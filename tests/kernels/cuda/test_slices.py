"""Products of bytes for CUDA: to the last bit in the simulator, compiled for sm_80 and sm_90."""

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

from fastfisher.kernels.cuda import SLICE_BYTES, peaks, single, sliced
from fastfisher.kernels.cuda.tilings import sliced_bytes, sliced_stretch
from fastfisher.kernels.slicing import SLICED_LEAST, SLICED_TERMS
from tests.kernels.cuda.compiling import compiled
from tests.kernels.cuda.simulated import SIMULATOR
from tests.kernels.cuda.slices import CHECKS, run
from tests.kernels.cuda.test_compiled import fits, over_capabilities
from tests.kernels.processes import in_a_process

N = 200


@pytest.fixture(scope="module")
def found():
    return in_a_process(run, **SIMULATOR)


@pytest.mark.parametrize("name", CHECKS)
def test_X2_cuda_slices_in_the_simulator(name, found):
    assert found[name] == CHECKS[name][1], found[name]


def _call(op, stored):
    def call():
        a = np.empty((N, 300), stored)
        real = a.dtype if a.dtype.itemsize > 2 else np.dtype("float32")
        none, (n, p) = np.empty(0, real), a.shape
        if op is sliced.sliced_syrk:
            op(np.empty((p, p)), a, np.empty(p, real), 2, 3, none, none)
        elif op is sliced.sliced_gram:
            op(np.empty((n, n)), a, 0, p, np.empty(n, real), 2, 3, none)
        elif op is peaks.peaks:
            op(np.empty(p), a, True, none, none)
            op(np.empty(n), a, False, none, none)
        else:
            half, rows, u = np.empty((p, p), np.float32), np.empty((p, p)), np.empty(p)
            op(half, rows, u)
            single.to_single(half, rows, u, u)
            single.from_single(rows, half, u, u)

    return call


CALLS = [_call(op, "float64") for op in (sliced.sliced_syrk, sliced.sliced_gram)]
CALLS += [_call(op, "float32") for op in (peaks.peaks, sliced.narrow)]


@over_capabilities
@pytest.mark.parametrize(
    "op, stored",
    [
        (sliced.sliced_syrk, "float64"),
        (sliced.sliced_syrk, "float16"),
        (sliced.sliced_gram, "float32"),
    ],
    ids=["cuda-syrk-float64", "cuda-syrk-float16", "cuda-gram-float32"],
)
def test_cuda_products_of_bytes_are_made_by_tensor_cores(op, stored, capability):
    cut, hot = fits(compiled(_call(op, stored), capability))
    assert (cut.name, hot.name) == ("cut", "add_products")
    assert hot.count(r"mma\.sync\S*m16n8k32\S*s32\.s8\.s8\.s32") >= 32
    assert 2 * hot.registers * hot.threads <= 65536, "one block to a multiprocessor"
    assert hot.count(r"cp\.async\.cg.* 16,") and hot.count(r"cp\.async\.wait_group")
    assert not hot.count(r"ld\.[fubv]\d"), "an address space is not known"


@over_capabilities
@pytest.mark.parametrize("op", [peaks.peaks, sliced.narrow], ids=["cuda-peaks", "cuda-narrow"])
def test_what_is_around_cuda_slices_spills_nothing(op, capability):
    assert fits(compiled(_call(op, "float32"), capability))


def test_cuda_slices_leave_room_in_32_bits_and_in_memory():
    """127 * 127 for each pair of a level, on both sides signed: below what the CPU needs."""
    for order in (1, 4096, 40_000, 10**6):
        for count in (1, 2, 3, 8):
            terms = sliced_stretch(order, count)
            assert terms <= SLICED_TERMS and count * 127**2 * terms < 2**31
            room = sliced_bytes(order, 10**9, count)
            assert room <= SLICE_BYTES or terms == SLICED_LEAST
            assert sliced_bytes(order, 5, count) == 8 * count * (order + -order % 4)
