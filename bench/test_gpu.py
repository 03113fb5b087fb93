"""The benchmark of the CUDA kernels walks its whole way in the simulator."""

import contextlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from bench import gpu_cases
from tests.kernels.processes import in_a_process

ROOT = Path(__file__).parents[1]


with_cuda = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )


@with_cuda
def test_the_cuda_benchmark_runs_in_the_simulator_and_claims_no_time(tmp_path):
    out = tmp_path / "found.json"
    done = run("-m", "bench.gpu", "--simulate", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["device"] == "simulator" and not found["goals"]
    checks = [row["case"] for row in found["checks"]]
    assert checks[: len(gpu_cases.TINY_CHECKS)] == list(map(str, gpu_cases.TINY_CHECKS))
    assert {"solve primal", "tensor cores m8n8k4"} <= set(checks)
    assert all(row["passed"] for row in found["checks"])
    assert len(found["times"]) == len(gpu_cases.GRIDS["tiny"])
    assert all(row["seconds"] is None for row in found["times"])


def timed():
    """What is found where a clock is there: a second for ours, two for theirs; a kernel raises."""
    from bench import gpu, gpu_vendors

    def broken():
        raise TypeError("not like this")

    bench = gpu.Bench(True)
    theirs, kernel = {"theirs gemm": lambda: 2.0, "theirs, broken": broken}, bench._kernel

    def measured(call, reset=None):
        seconds = call()
        return seconds if isinstance(seconds, float) else 1.0

    def failing(case):
        if case.op == "diag":
            raise RuntimeError("no diag today")
        return kernel(case)

    bench.timed, bench._measured, bench._kernel = True, measured, failing
    ops = "syrk", "diag", "mixed", "sliced_syrk"
    cases = [next(case for case in gpu_cases.TINY_CHECKS if case.op == op) for op in ops]
    found = {}
    with (
        mock.patch.object(gpu_vendors, "contenders", lambda case, arrays: theirs),
        mock.patch.object(gpu_vendors, "products_of_bytes", lambda order: theirs),
        mock.patch.object(gpu_cases, "TINY_CHECKS", cases),
        mock.patch.dict(gpu_cases.GRIDS, {"tiny": cases}),
        mock.patch.object(gpu.gpu_checks, "of_tests", lambda tiny: ()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        for _ in bench.run(found, re.compile("")):
            pass
    return found


@with_cuda
def test_a_cuda_benchmark_reports_fractions_goals_and_what_failed():
    found = in_a_process(timed, NUMBA_ENABLE_CUDASIM="1")
    (syrk, diag, *others), (took, failed, mixed, cut) = found["checks"], found["times"]
    assert all(row["passed"] for row in others) and len(others) == 2
    assert cut["bound"] == "int8" and found["ceilings"]["int8"] == 512 and cut["fraction"] > 0
    assert mixed["rung"] == "int8+cg" and mixed["slices"] and mixed["iterations"] > 0
    assert syrk["passed"] and not diag["passed"] and "no diag today" in diag["raised"]
    assert took["ratio"] == 2 and took["best"] == "theirs gemm" and took["fraction"] > 0
    assert "not like this" in took["vendors"]["theirs, broken"]
    assert "no diag today" in failed["raised"]
    assert [goal["met"] for goal in found["goals"]] == [True]


@with_cuda
def test_the_cuda_benchmark_says_why_there_is_nothing_to_measure():
    done = run("-m", "bench.gpu", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and done.stdout == ""
    (sentence,) = done.stderr.strip().splitlines()
    assert sentence.startswith("nothing to measure: no CUDA device: CUDA_VISIBLE_DEVICES hides")


def test_every_cuda_op_that_is_timed_is_walked_through_in_the_simulator():
    tiny, full = ({case.op for case in gpu_cases.GRIDS[name]} for name in ("tiny", "full"))
    assert tiny == full


def test_a_cuda_case_counts_its_work():
    case = gpu_cases.Case("syrk", (10, 3), "float32")
    assert case.flops == 120 and case.bytes == 4 * 39 and case.bound == "flops"
    case = gpu_cases.Case("batched_solve", (100, 9), "float64")
    assert case.bytes == 8 * 100 * 99 and case.bound == "bandwidth"
