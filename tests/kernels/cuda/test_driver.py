"""Real device arrays, streams and events on a driver that stands in for the one of CUDA."""

import importlib.util

import pytest

from tests.kernels.cuda.driven import operated, solved, streamed, walked
from tests.kernels.processes import in_a_process
from tests.solvers.device_ops import calls

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)
# Nothing is computed: matrices are zero, and what looks for convergence looks until it is stopped.
ENDS = ("Solution", "DeviceNDArray", "DeviceFisher", "list", "TooLong", "NotPositiveDefiniteError")
REAL = {"NUMBA_ENABLE_CUDASIM": None}


@pytest.fixture(scope="module")
def solves():
    return in_a_process(solved, **REAL)


@pytest.fixture(scope="module")
def ops():
    return in_a_process(operated, **REAL)


@pytest.fixture(scope="module")
def walks():
    return in_a_process(walked, **REAL)


@pytest.fixture(scope="module")
def slices():
    return in_a_process(streamed, **REAL)


@pytest.mark.parametrize("name", ["primal", "dual", "cg"])
def test_a_cuda_solve_compiles_for_what_it_launches_and_frees_nothing(name, solves):
    facts = solves[name]
    # cg runs out of patience: nothing is computed, so nothing converges
    assert facts["ended"] == ("TooLong" if name == "cg" else "Solution"), facts
    assert facts["problems"] == []
    assert facts["freed"] == 0, "the driver frees with the device at rest"


@pytest.mark.parametrize("name", calls(), ids=[f"cuda-{name}" for name in calls()])
def test_an_op_compiles_for_the_device_arrays_it_is_given(name, ops):
    assert ops[name]["ended"] in ("DeviceNDArray", "tuple") and not ops[name]["problems"], ops[name]


def test_real_cuda_arrays_take_every_way_through_the_package(walks):
    assert len(walks) == 27
    for name, facts in walks.items():
        assert facts["ended"] in ENDS, (name, facts)
        assert facts["problems"] == [], (name, facts)


def test_a_cuda_device_without_room_says_so(solves):
    facts = solves["no room"]
    assert facts["ended"] == "MemoryLimitError" and "device has no room" in facts["said"]


def test_cuda_slices_hold_what_the_host_has_and_wait_for_each_other(slices):
    facts = slices["nothing"]
    assert facts["same"] and facts["problems"] == [] and facts["waits"] == 0
    assert set(slices["flags"]) == {1}, "a stream that waits for the default one overlaps nothing"


def test_cuda_memory_that_somebody_keeps_for_later_counts_as_free(slices):
    assert slices["free"] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    "left_out, sentence, same",
    [
        ("kernels before the copy", "_copy does not wait for a copy to the device", True),
        ("copies before the buffer is free", "a copy to the device does not wait for _copy", False),
        ("the host before the copy", None, False),
    ],
)
def test_a_cuda_wait_that_is_left_out_is_seen(left_out, sentence, same, slices):
    facts = slices[left_out]
    assert facts["problems"] == ([] if sentence is None else [sentence])
    assert facts["same"] is same


def test_a_cuda_stream_that_is_asked_for_orders_the_pool_of_torch_too(slices):
    facts = slices["asked"]
    assert facts["ended"] == "Tensor" and facts["problems"] == [], facts
    assert facts["pool"] == [True]
    assert facts["with gradient"] == "v requires grad and cannot be shared; pass v.detach()"
