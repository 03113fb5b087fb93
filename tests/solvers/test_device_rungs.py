"""Rungs of the ladder, cutoffs, bad rows and scores out of range on a CUDA device: as on the host.

In the simulator.
"""

import importlib.util

import numpy as np
import pytest

from tests.kernels.processes import in_a_process
from tests.solvers.device_rungs import CASES, everything

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)
# In units of u: of a condition number of the scores of 1e10, of a tolerance, of rounding. A rung
# that only damps would be off by 1 / u.
LIMITS = {
    "orthogonal": 1e12,
    "orthogonal-dual": 1e11,
    "tiny-cg": 1e6,
    "cg-nystrom": 1e6,
    "cg-callable": 1e6,
}


def sides(case):
    """Right-hand sides; the host searches the space of all of them, a device that of each."""
    settings = CASES[case][3]
    return settings.get("b", settings.get("coef"))


@pytest.fixture(scope="module")
def found():
    return in_a_process(everything, NUMBA_ENABLE_CUDASIM="1")


@pytest.mark.parametrize("case", CASES, ids=[f"cuda-{name}" for name in CASES])
def test_what_a_solve_meets_is_met_on_a_device_as_on_the_host(case, found):
    facts = found[case]
    assert facts["rungs"][0] == facts["rungs"][1], facts
    # a right-hand side along what only the damping determines: no residual below 1/2
    assert facts["status"] == ["inaccurate" if case == "orthogonal" else "converged"] * 2, facts
    assert facts["like"] and facts["facts"][0] == facts["facts"][1], facts
    assert facts["error"] <= LIMITS.get(case, 200) and max(facts["backward"]) <= 100, facts
    assert np.allclose(*facts["damping"], rtol=1e-6, atol=0), facts
    assert facts["iterations"][0] <= facts["iterations"][1] * sides(case) + 1, facts
    same, residuals = facts["each"]
    assert same and residuals == sides(case), facts


def test_a_plan_says_that_eigenvalues_are_found_on_the_host_of_a_cuda_device(found):
    assert [name for name in CASES if found[name]["host"]] == [
        "huge-cutoff",
        "cutoff-dual",
        "noise",
    ]


@pytest.mark.parametrize("rung", ["orthogonal", "cholesky+damping", "eigen", "cholesky", "cg"])
def test_every_rung_is_met_on_a_cuda_device(rung, found):
    assert any(facts["rungs"] == [rung, rung] for facts in found.values())
