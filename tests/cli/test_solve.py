"""`fastfisher solve`: results, report, JSON; what it writes, and when it writes nothing."""

import json
import os
import sys

import numpy as np
import pytest

import fastfisher
from fastfisher import cli
from tests import oracle
from tests.cli.command import run
from tests.tolerances import LIMITS, assert_ratio, forward_ratio


def expected(G, damping, *, g=None, weights=None, center=False, relative=False):
    """The step by NumPy in float64, the damping used, and the condition number."""
    F = oracle.fisher(G, weights, center)
    lam = damping * np.trace(F).real / len(F) if relative else damping
    b = oracle.mean_gradient(G, weights) if g is None else g
    spectrum = np.linalg.eigvalsh(F)
    return oracle.damped_solve(F, b, lam), lam, (spectrum[-1] + lam) / (max(spectrum[0], 0) + lam)


def test_solve_prints_the_plan_and_report_and_writes_the_step(files, tmp_path):
    output = tmp_path / "step.npy"
    done = run("solve", files / "G.npy", "--damping", "1e-3", "-o", output)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{files / 'G.npy'}: 40 x 12, float64, C order, mapped"
    with fastfisher.options(progress=print):  # which the command shows
        plan = str(fastfisher.plan(40, 12)).splitlines()
    assert lines[1 : 1 + len(plan)] == plan
    report = dict((line[:14].strip(), line[14:]) for line in lines[1 + len(plan) :])
    assert report["status"] == "converged"
    assert report["method"] == "primal, cholesky"
    assert report["damping"] == "0.001"
    assert float(report["residual"].split()[0]) < 1e-12
    assert report["iterations"] == "0"
    assert float(report["seconds"]) > 0
    assert "MB resident: " in report["peak memory"]
    assert "pages of the mapped file" in report["peak memory"]
    assert report["step"].startswith("float64 (12,), norm ")
    assert report["written to"] == str(output)
    x, _, cond = expected(np.load(files / "G.npy"), 1e-3)
    assert_ratio(forward_ratio(np.load(output), x, cond), LIMITS["identity"], "step")
    assert os.listdir(tmp_path) == ["step.npy"]


CASES = {
    "float32, Fortran order": ("fortran32", {}),
    "big-endian": ("big", {}),
    "complex, dual": ("wide", {}),
    "complex, centred": ("wide", {"center": True}),
    "integer weights": ("G", {"weights": "w"}),
    "weights, centred, relative": ("G", {"weights": "w", "center": True, "relative": True}),
    "gradient": ("G", {"g": "g"}),
    "gradient, dual": ("G", {"g": "g", "method": "dual"}),
    "cg": ("G", {"method": "cg", "rtol": 1e-13, "maxiter": 200}),
}


@pytest.mark.parametrize("case", CASES)
def test_solve_agrees_with_numpy(files, tmp_path, capsys, case):
    name, options = CASES[case]
    given = {k: np.load(files / f"{v}.npy") for k, v in options.items() if k in ("g", "weights")}
    switches = {k: v for k, v in options.items() if k in ("center", "relative")}
    flags = [f"--{k}" for k in switches]
    for key, flag in (("g", "--gradient"), ("weights", "--weights")):
        if key in given:
            flags += [flag, str(files / f"{options[key]}.npy")]
    for key in ("method", "rtol", "maxiter"):
        if key in options:
            flags += [f"--{key}", str(options[key])]
    output = tmp_path / "step.npy"
    argv = ["solve", str(files / f"{name}.npy"), "--damping", "1e-2", "-o", str(output), "--json"]
    assert cli.main(argv + flags) == 0
    facts = json.loads(capsys.readouterr().out)
    G = np.load(files / f"{name}.npy")
    x, lam, cond = expected(G, 1e-2, **given, **switches)
    got = np.load(output)
    assert got.dtype == G.dtype.newbyteorder("=")
    assert_ratio(forward_ratio(got, x, cond), LIMITS["identity"], case)
    assert facts["damping"] == pytest.approx(lam, rel=1e-6)
    assert facts["method"] == options.get("method", "dual" if len(G) < len(x) else "primal")
    assert facts["step"]["norm"] == pytest.approx(np.linalg.norm(x), rel=1e-5)


def test_json_is_one_object_with_everything_in_it(files):
    done = run("solve", files / "wide.npy", "--damping", "0.5", "--relative", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["fastfisher"] == fastfisher.__version__
    assert facts["input"] == {
        "path": str(files / "wide.npy"),
        "n": 15,
        "p": 60,
        "dtype": "complex128",
        "order": "C",
    }
    assert facts["status"] == "converged"
    assert facts["method"] == facts["plan"]["method"] == "dual"
    assert facts["residual"] < 1e-12
    assert facts["backward_error"] < 1e-12
    assert facts["iterations"] == facts["rows_skipped"] == 0
    assert facts["seconds"] > 0
    assert facts["output"] is None
    assert facts["plan"]["peak_bytes"] > 0
    assert facts["plan"]["flops"] == sum(stage["flops"] for stage in facts["plan"]["stages"])
    if sys.platform == "linux":
        assert facts["peak_rss_bytes"] > 20e6
    assert facts["step"]["shape"] == [60]
    assert [len(value) for value in facts["step"]["first"]] == [2] * 5


def test_skipped_rows_are_left_out_and_counted(files, tmp_path, capsys):
    output = tmp_path / "step.npy"
    argv = ["solve", str(files / "nan.npy"), "--damping", "1e-2", "-o", str(output)]
    assert cli.main([*argv, "--nan-policy", "skip"]) == 0
    assert "rows skipped  1\n" in capsys.readouterr().out
    G = np.delete(np.load(files / "nan.npy"), 7, axis=0)
    x, _, cond = expected(G, 1e-2)
    assert_ratio(forward_ratio(np.load(output), x, cond), LIMITS["identity"], "step")


def test_quiet_says_nothing_and_still_writes(files, tmp_path, capsys):
    output = tmp_path / "step.npy"
    argv = ["solve", str(files / "G.npy"), "--damping", "1", "-o", str(output), "--quiet"]
    assert cli.main(argv) == 0
    assert capsys.readouterr() == ("", "")
    assert np.load(output).shape == (12,)


def test_an_existing_output_is_replaced(files, tmp_path, capsys):
    output = tmp_path / "step.npy"
    output.write_bytes(b"old")
    assert cli.main(["solve", str(files / "G.npy"), "--damping", "1", "-o", str(output)]) == 0
    assert np.load(output).shape == (12,)
