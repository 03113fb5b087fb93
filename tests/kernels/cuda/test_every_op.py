"""Every kernel for CUDA against the reference, in the simulator, by the cases of the CPU."""

import importlib.util

import pytest

from fastfisher.planning.device import CUDA_TABLE
from tests.kernels.cuda.simulated import (
    OPS,
    SIMULATOR,
    VENDOR_OPS,
    examine,
    examine_vendor,
)
from tests.kernels.every_op import LIMIT, in_a_process
from tests.tolerances import assert_ratio

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)


@pytest.fixture(scope="module")
def examined():
    """{dtype: {op: worst error, case, digest}} of a process of its own."""
    return {
        dtype: in_a_process(examine, OPS, [dtype], **SIMULATOR) for dtype in ("float64", "float32")
    }


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("op", OPS, ids=[f"cuda.{op}" for op in OPS])
def test_an_op_is_that_of_the_reference(op, dtype, examined):
    found = examined[dtype][op]
    assert found["digest"] is not None, found["case"]
    assert_ratio(found["error"], LIMIT, f"cuda.{op} {dtype} {found['case']}")


def test_cuda_kernels_give_the_same_bits_again(examined):
    again = in_a_process(examine, ("cholesky", "solve_lower"), ["float64"], **SIMULATOR)
    for op, found in again.items():
        assert found["digest"] == examined["float64"][op]["digest"], op


def test_cuda_entries_of_vendors_keep_the_contract():
    for op, found in in_a_process(examine_vendor, VENDOR_OPS, ["float64"], **SIMULATOR).items():
        assert found["digest"] is not None, f"{op}: {found['case']}"
        assert_ratio(found["error"], LIMIT, f"cupy.{op} {found['case']}")


def test_the_cuda_table_has_one_row_per_op_and_dtype():
    rows = [(band.op, dtype) for band in CUDA_TABLE for dtype in band.dtypes]
    assert len(set(rows)) == len(rows)
    assert all(band.device == "cuda" and band.lo == 0 for band in CUDA_TABLE)
