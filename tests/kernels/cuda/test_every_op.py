"""Every kernel for CUDA against the reference, in the simulator, by the cases of the CPU."""

import importlib.util

import pytest

from fastfisher.planning import device
from fastfisher.planning.device import CUDA_TABLE
from tests.kernels.cuda.simulated import (
    OPS,
    SIMULATOR,
    VENDOR_OPS,
    examine,
    examine_nvmath,
    examine_vendor,
)
from tests.kernels.every_op import LIMIT, has_cases
from tests.kernels.processes import in_a_process
from tests.tolerances import assert_ratio

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)


SINGLE = [op for op in OPS if has_cases(op, "float32")]


@pytest.fixture(scope="module")
def examined():
    """{dtype: {op: worst error, case, digest}} of a process of its own."""
    return {
        dtype: in_a_process(examine, ops, [dtype], **SIMULATOR)
        for dtype, ops in {"float64": OPS, "float32": SINGLE}.items()
    }


@pytest.mark.parametrize(
    ("op", "dtype"),
    [*((op, "float64") for op in OPS), *((op, "float32") for op in SINGLE)],
    ids=lambda name: name if name.startswith("float") else f"cuda.{name}",
)
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


def test_cuda_entries_of_nvmath_keep_the_contract():
    """Row-major arrays as column-major ones: which triangle, which transpose, which stride."""
    ops = in_a_process(examine_nvmath, VENDOR_OPS, ["float64", "float32"], **SIMULATOR)
    for op, found in ops.items():
        assert found["digest"] is not None, f"{op}: {found['case']}"
        assert_ratio(found["error"], LIMIT, f"nvmath.{op} {found['case']}")


@pytest.mark.parametrize("names", [(), ("nvmath",), ("cupy", "nvmath")], ids=str)
def test_the_cuda_table_names_who_brings_cublas(names, monkeypatch):
    monkeypatch.setattr(device, "_installed", lambda: list(names))
    entries = device._both("syrk")
    assert [e.name for e in entries] == ["cuda.syrk", *(f"{name}.syrk" for name in names)]
    assert [e.module for e in entries[1:]] == [device.VENDORS[name] for name in names]
    because = device._because("why", entries)
    assert all(f"{name}.syrk" in because for name in names) and because.startswith("why")


def test_the_cuda_table_has_one_row_per_op_and_dtype():
    rows = [(band.op, dtype) for band in CUDA_TABLE for dtype in band.dtypes]
    assert len(set(rows)) == len(rows)
    assert all(band.device == "cuda" and band.lo == 0 for band in CUDA_TABLE)
