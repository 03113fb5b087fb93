"""Mixed precision on a CUDA device, in the simulator: X1, X3, X5; the exact route where it must."""

import importlib.util
import re
from dataclasses import replace

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.kernels.cuda import BLOCK_BYTES
from fastfisher.planning.device import device_route
from tests.kernels.processes import in_a_process
from tests.solvers.device_mixed import CASES, everything

with_cuda = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)
REASONS = {
    "residual": "the residual recomputed from the scores is not that of the recurrence",
    "slow": "conjugate gradients are given up",
    "damping": "single precision cannot hold it",
    "marquardt": "a damping that is no number, in the dual",
    "undamped": "there is no damping",
}
REFUSED = {
    "nan": "G is not finite in row 2",
    "weights": r"weights\[3\] is negative",
    "b": "not finite at index 0",
    "cutoff": "HardCutoff.* needs a dense or a Gram matrix",
    "rank": "F has rank at most 3 but 5 parameters",
}


@pytest.fixture(scope="module")
def found():
    return in_a_process(everything, NUMBA_ENABLE_CUDASIM="1")


@with_cuda
@pytest.mark.parametrize("case", CASES, ids=[f"cuda-{name}" for name in CASES])
def test_X1_mixed_on_a_device_is_the_exact_solution(case, found):
    facts = found["solved"][case]
    assert facts["status"] == "converged" and facts["like"], facts
    assert facts["method"] == "mixed" and facts["rung"] == "int8+cg", facts
    assert facts["error"] <= 200 and facts["backward"] <= 9, facts
    assert facts["damping"][0] == pytest.approx(facts["damping"][1], rel=1e-6), facts
    assert 1 <= facts["slices"] <= 3 and 0 < facts["rough"] < 1, facts
    assert 1 <= facts["iterations"] <= 8 and facts["rank"][0] == facts["rank"][1], facts
    made, expected = facts["cancellation"]
    assert (made is None) if expected is None else np.isclose(made, expected, rtol=1e-6), facts


@with_cuda
@pytest.mark.parametrize("reason", REASONS, ids=[f"cuda-{name}" for name in REASONS])
def test_X4_mixed_on_a_device_falls_back_to_the_bits_of_the_exact_route(reason, found):
    facts = found["fallen"][reason]
    assert facts["same"] and facts["converged"], (REASONS[reason], facts)
    assert facts["method"] == "mixed" and facts["rung"].startswith("cholesky"), facts
    assert facts["slices"] is None


@with_cuda
def test_X3_a_cuda_factor_that_fails_leads_to_one_more_slice(found):
    facts = found["more"]
    first, second = facts["tried"]
    assert second == first + 1 and facts["slices"] == [first, second], facts
    assert facts["rung"] == "int8+cg"


@with_cuda
def test_X10_cuda_rough_error_is_that_of_the_preconditioner(found):
    seen, error = found["more"]["rough"]
    assert 0.6 * error <= seen <= 1.05 * error


@with_cuda
def test_cuda_mixed_has_the_same_bits_again_and_waits_for_looks_alone(found):
    facts = found["more"]
    assert facts["same"]
    # scales, and how the recurrence begins, go in; report, peaks, diagonal, status, the recurrence
    # twice, report come out; the host waits for each
    assert facts["traffic"] == [2, 7, 9]


@with_cuda
@pytest.mark.parametrize("case", REFUSED, ids=[f"cuda-{name}" for name in REFUSED])
def test_what_mixed_on_a_device_refuses_is_what_the_exact_route_refuses(case, found):
    assert re.search(REFUSED[case], found["refused"][case]), found["refused"][case]


def test_a_cuda_plan_of_mixed_precision_says_what_it_is_made_of():
    for shape, product in (((65_536, 16_384), "sliced_syrk"), ((16_384, 10**6), "sliced_gram")):
        plan = ff.plan(*shape, method="mixed", device="cuda")
        exact = ff.plan(*shape, device="cuda")
        ops = {stage.op: stage for stage in plan.stages}
        assert ops[product].kernel == f"cuda.{product}" and {"peaks", "cholesky"} <= ops.keys()
        assert exact.method in ("primal", "dual"), "nobody has measured a device"
        assert plan.seconds < exact.seconds and plan.peak_bytes >= exact.peak_bytes
        rungs = [replace(q, climbs=True) for q in (plan.problem, exact.problem)]  # of a ladder
        room = device_route(rungs[0], "mixed")[1]
        assert device_route(rungs[1], exact.method)[1] <= room
        assert room <= plan.peak_bytes + 16 * min(shape) ** 2 + BLOCK_BYTES
        assert "may ask for up to 3 of them" in plan.because and "slice" not in exact.because
        assert "nominal" in str(plan) and max(map(len, str(plan).splitlines())) <= 100
