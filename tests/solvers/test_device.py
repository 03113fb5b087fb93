"""Solves on a CUDA device, in the simulator: as on the host, with one wait and no silent copies."""

import importlib.util
import re

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.kernels import cuda
from tests.kernels.processes import in_a_process
from tests.solvers.device_cases import CASES, everything
from tests.solvers.device_extremes import FAINT, FAR, IDLE, LOST
from tests.solvers.device_far import far
from tests.solvers.device_fishers import held, kept
from tests.solvers.device_refusals import CATALOGUE
from tests.tolerances import assert_ratio

SIMULATOR = {"NUMBA_ENABLE_CUDASIM": "1"}
with_cuda = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)


@pytest.fixture(scope="module")
def found():
    return in_a_process(everything, **SIMULATOR)


@pytest.fixture(scope="module")
def fisher():
    return in_a_process(held, **SIMULATOR)


@pytest.fixture
def solved(found):
    return found["solved"]


@pytest.fixture
def refused(found):
    return found["refused"]


@pytest.fixture
def counted(found):
    return found["counted"]


@with_cuda
@pytest.mark.parametrize("case", CASES, ids=[f"cuda-{name}" for name in CASES])
def test_a_solve_on_a_device_is_that_of_the_host(case, solved):
    facts = solved[case]
    assert facts["status"] == "converged" and facts["like"] and facts["device"] == "cuda", facts
    assert facts["method"] and facts["damping"] and facts["iterations"], facts
    # cg stops at a tolerance, not at rounding
    assert facts["error"] <= (1e6 if case.startswith("cg") else 200), facts
    host = "host" in case or "streamed" in case
    assert facts["kind"] == ("ndarray" if host else "FakeCUDAArray")


@with_cuda
@pytest.mark.parametrize("case", LOST, ids=[f"cuda-{name}" for name in LOST])
def test_law_26_15_what_underflows_on_a_device_is_told_as_on_the_host(case, found):
    facts, expected = found["ends"]["lost"][case]
    assert facts["statuses"] == expected["statuses"] == ["underflow", "converged"]
    assert facts["status"] == "underflow"
    assert facts["residuals"] == pytest.approx(expected["residuals"], rel=1e-3, abs=1e-6)


@with_cuda
@pytest.mark.parametrize("method", FAINT, ids=[f"cuda-{method}" for method in FAINT])
def test_law_26_15_what_underflows_on_the_way_is_tried_again_on_a_device(method, found):
    facts, expected = found["ends"]["faint"][method]
    assert facts["statuses"] == expected["statuses"] == ["underflow", "converged"], facts
    assert facts["residuals"] == pytest.approx(expected["residuals"], rel=1e-3)


@with_cuda
def test_law_26_15_on_a_device_the_side_that_overflows_is_named(found):
    facts = found["ends"]["above"]
    assert facts["status"] == "not_finite", facts
    assert facts["statuses"] == ["not_finite", "converged"], facts


@with_cuda
def test_a_cuda_fisher_tells_underflow_and_is_centred_by_its_mean(found):
    facts = found["ends"]["held"]
    assert facts["statuses"] == ["underflow", "converged"] and facts["residuals"][0] == 1, facts
    assert facts["error"] < 4 * 2.0**-24, facts
    assert facts["all lost"] == ["inaccurate", 1.0], facts


@with_cuda
@pytest.mark.parametrize("case", IDLE, ids=[f"cuda-{name}" for name in IDLE])
def test_on_a_device_the_range_is_that_of_scores_that_count(case, found):
    facts = found["ends"]["idle"][case]
    assert facts["status"] == "converged" and facts["error"] < 1e-5, facts


@with_cuda
@pytest.mark.parametrize("case", FAR, ids=[f"cuda-{name}" for name in FAR])
def test_15_on_a_device_scores_are_centred_by_the_mean_and_not_its_rounding(case, found):
    facts = found["ends"]["far"][case]
    assert facts["status"] == "converged" and facts["error"] < 20 * 2.0**-24, facts


@with_cuda
def test_weights_far_from_1_keep_their_digits_on_a_device():
    found = in_a_process(far, **SIMULATOR)
    assert len(found) == 3 * 4 * 7 + 2 * 8
    for case, ratio in found.items():
        assert_ratio(ratio, "goal", case)


@with_cuda
@pytest.mark.parametrize("case", CATALOGUE, ids=[f"cuda-{name}" for name in CATALOGUE])
def test_what_a_device_does_not_do_is_said(case, refused):
    assert re.search(CATALOGUE[case], refused[case]), refused[case]


@with_cuda
@pytest.mark.parametrize("method", ["primal", "dual", "natural_gradient"])
def test_a_cuda_solve_waits_once_and_copies_its_report_alone(method, counted):
    assert counted[method] == [0, 1, 1]


@with_cuda
def test_cuda_cg_looks_once_per_chunk_of_iterations(counted):
    # a chunk, the residual from the scores, and the report: TALL has four eigenvalues
    assert counted["cg"] == [0, 3, 3]


@with_cuda
@pytest.mark.parametrize("op", ["syrk", "fvp"])
def test_a_cuda_op_waits_for_nothing(op, counted):
    assert counted[op] == [0, 0, 0]


@with_cuda
def test_the_ladder_escalates_on_a_cuda_device_as_on_the_host(counted):
    facts = counted["ladder"]
    assert facts["rung"] == "cholesky+damping" and facts["status"] == "converged"
    assert np.isclose(facts["escalation"], facts["expected"], rtol=1e-12)


@with_cuda
def test_cuda_scores_that_are_not_finite_can_be_propagated(counted):
    assert counted["propagated"] == {"status": "not_finite", "nan": True, "damping": 0.1}


@with_cuda
def test_cuda_arrays_are_answered_in_kind_from_the_pool_of_their_library(found):
    facts = found["in kind"]
    assert facts["cupy"] == "Array" and facts["unknown"] == "FakeCUDAArray", facts
    assert facts["asked"]["empty"] > 1 and facts["asked"]["stream"] == 1, facts
    assert facts["error"] < 1e-14 and facts["input"], facts


@with_cuda
def test_cholesky_overwrites_a_cuda_array_that_is_only_seen_through_a_view(found):
    assert found["in kind"]["overwritten"]
    assert found["in kind"]["kept"], "what may not be overwritten was"


@with_cuda
def test_copies_to_a_cuda_device_are_waited_for_where_the_slices_are_given_up(counted):
    assert counted["dropped"] == 2


@with_cuda
def test_the_ops_on_cuda_arrays_are_those_of_the_host(found):
    errors = found["operated"]
    assert len(errors) == 25 and max(errors.values()) < 50, errors


@with_cuda
def test_a_cuda_fisher_answers_as_a_dense_one(fisher):
    facts = fisher
    assert max(facts["errors"].values()) < 1e-13, facts["errors"]
    assert facts["waits"] == 2 and all(facts["facts"]), facts  # |b| and what was measured


@with_cuda
def test_what_a_cuda_fisher_does_not_do_is_said_and_changes_nothing(fisher):
    expected = {
        "host": "G lies on the host; use DenseFisher",
        "nan": "G is not finite in row 0",
        "weights": r"weights\[0\] is negative",
        "host Fisher": "G lies on a CUDA device, but this is computed on the host",
        "empty": "has seen nothing",
        "factor": r"use to_host\(\).factor\(HardCutoff",
        "singular": "pivot . of 3 of F . damping is not positive",
        "decayed": "decayed sums do not commute",
        "centring": "cannot merge DeviceFisher.*center=True",
        "factor overflows": r"\(F \+ D\)\^-1 b overflows float32",
        "path overflows": "x overflows float32",
        "factor nan": "b is not finite",
        "indefinite": "pivot . of 3; start the path higher",
    }
    for name, message in expected.items():
        assert re.search(message, fisher["refusals"][name]), fisher["refusals"]
    assert fisher["unchanged"]


def check_crowded(messages, same, least):
    assert same, "an update that found no room has changed something"
    assert len(messages) >= least
    for message in messages:
        assert re.search(r"no room .*an array of .* MB was asked for; .* MB are free", message)


@with_cuda
def test_a_cuda_fisher_that_finds_no_room_is_as_before(fisher):
    check_crowded(*fisher["crowded"], 8)


@pytest.mark.skipif(cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_the_obstacle_is_named():
    with pytest.raises(ff.errors.FisherError, match="no CUDA device: "):
        ff.solve(np.eye(3), np.ones(3), damping=1.0, device="cuda")
    with pytest.raises(ff.errors.FisherError, match="no CUDA device: "):
        ff.warmup(device="cuda")
    assert ff.info()["cuda"] != "available"


def test_a_cuda_plan_needs_no_device_and_says_that_its_times_are_nominal():
    plan = ff.plan(5000, 100, device="cuda")
    assert plan.method == "primal" and "nominal" in str(plan) and "cuda.cholesky" in str(plan)
    assert ff.plan(100, 5000, device="cuda", dtype="float32").method == "dual"
    assert all(stage.seconds > 0 for stage in plan.stages)


@pytest.mark.parametrize("device", ["gpu", "cuda:0", 0])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ff.errors.InputError, match="expected one of cpu, cuda"):
        ff.solve(np.eye(3), np.ones(3), damping=1.0, device=device)


@with_cuda
def test_a_cuda_gram_fisher_answers_as_one_of_the_host():
    facts = in_a_process(kept, **SIMULATOR)
    single = facts["errors"].pop("halves, merged")
    assert max(facts["errors"].values()) < 1e-13 and single < 1e-5, facts["errors"]
    assert facts["facts"] == [True] * 4 and facts["traffic"] == [0, 1, 1]
    for name, message in {
        "host": "G lies on the host",
        "nan": "not finite in row 1",
        "width": "with 2 columns; expected float64 with 5",
        "dtype": "G is float32 with 5 columns",
        "both": "both b and coef",
        "empty": "has seen nothing",
        "decayed": "cannot merge DeviceGramFisher",
        "kinds": "cannot merge DeviceFisher",
    }.items():
        assert re.search(message, facts["refusals"][name]), facts["refusals"]
    assert facts["unchanged"]
    check_crowded(*facts["crowded"], 4)
