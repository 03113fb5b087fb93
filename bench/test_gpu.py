"""The benchmark of the CUDA kernels walks its whole way in the simulator."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import gpu_cases

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)
def test_the_cuda_benchmark_runs_in_the_simulator_and_claims_no_time(tmp_path):
    out = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench.gpu", "--simulate", "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["device"] == "simulator" and not found["goals"]
    assert len(found["checks"]) == len(gpu_cases.TINY_CHECKS)
    assert all(row["passed"] for row in found["checks"])
    assert len(found["times"]) == len(gpu_cases.GRIDS["tiny"])
    assert all(row["seconds"] is None for row in found["times"])


def test_a_cuda_case_counts_its_work():
    case = gpu_cases.Case("syrk", (10, 3), "float32")
    assert case.flops == 120 and case.bytes == 4 * 39 and case.bound == "flops"
    case = gpu_cases.Case("batched_solve", (100, 9), "float64")
    assert case.bytes == 8 * 100 * 99 and case.bound == "bandwidth"
