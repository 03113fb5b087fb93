"""Every expected failure is one line on standard error and exit code 2, and writes nothing.

The table calls `main` in this process, which saves a start of Python per row.
"""

import math
import os

import numpy as np
import pytest

from fastfisher import cli
from fastfisher.cli import console
from tests.cli.command import assert_one_error_line

REFUSED = {
    "missing file": ("missing.npy", "", r"cannot read '.*missing\.npy': No such file"),
    "folder": (".", "", "is a folder; expected an npy file"),
    "not npy": ("text.npy", "", "is not an npy file"),
    "truncated": ("truncated.npy", "", "has 8 bytes less than its header says"),
    "trailing bytes": ("trailing.npy", "", "has 1 bytes more than its header says"),
    "pickled objects": ("objects.npy", "", "holds pickled Python objects, which are never read"),
    "integers": ("integers.npy", "", r"holds integers.*save G\.astype\(numpy\.float64\)"),
    "vector": ("g.npy", "", r"has shape \(12,\); expected \(n samples, p parameters\)"),
    "cube": ("cube.npy", "", r"has shape \(2, 2, 2\).*G\.reshape\(len\(G\), -1\)"),
    "wrong g": (
        "G.npy",
        "--gradient {short}",
        r"has shape \(9,\); expected \(12,\), one number per",
    ),
    "wrong weights": ("G.npy", "--weights {g}", r"has shape \(12,\); expected \(40,\).*per row of"),
    "matrix g": ("G.npy", "--gradient {G}", r"has shape \(40, 12\); expected \(length,\)"),
    "negative weight": ("wide.npy", "--weights {minus}", r"weights\[2\] is -1\.0; weights must"),
    "g beyond the scores' dtype": (
        "fortran32.npy",
        "--gradient {far}",
        "g overflows float32 at index 0; divide it by a power of two",
    ),
    "nan": ("nan.npy", "", "G holds nan in row 7, column 3"),
    "nan, centred": ("nan.npy", "--center", "G holds nan in row 7, column 3"),
    "negative damping": ("G.npy", "--damping -1e-3", r"--damping is -0\.001; expected a finite"),
    "nan damping": ("G.npy", "--damping nan", "--damping is nan; expected a finite"),
    "negative share": ("G.npy", "--relative --damping -1", r"--damping is -1\.0; expected"),
    "no number": ("G.npy", "--damping much", "invalid float value: 'much'; see fastfisher solve"),
    "not positive definite": (
        "wide.npy",
        "--damping 0 --method primal",
        r"pivot \d\d of 60 of F .* a larger one is better conditioned",
    ),
    "unconverged": (
        "hard.npy",
        "--damping 1e-12 --method cg --maxiter 3",
        r"cg stopped as 'max_iterations' after 3 iterations with residual \d\.\d\de",
    ),
    "negative rtol": ("G.npy", "--method cg --rtol -1", "rtol is -1.0; expected"),
    "negative maxiter": ("G.npy", "--method cg --maxiter -1", "maxiter is -1; expected"),
    "no memory": ("huge.npy", "", "this plan needs .* but only .* may be used"),
    "output is input": ("G.npy", "-o {G}", "is one of the inputs; choose another name"),
    "output folder missing": ("G.npy", "-o {out}/no/x.npy", "its folder does not exist"),
    "output is a folder": ("G.npy", "-o {out}", "it exists and is no regular file"),
    "output names a folder": ("G.npy", "-o {out}/step.npy/", "it names a folder"),
    "output is a device": ("G.npy", "-o /dev/null", "it exists and is no regular file"),
    "unknown option": ("G.npy", "--dmaping 1", "unrecognized arguments: --dmaping 1; see"),
    "unknown method": ("G.npy", "--method newton", "argument --method: invalid choice: 'newton'"),
}


@pytest.fixture(autouse=True)
def _no_progress(monkeypatch):
    """Where kernels are compiled first, a line of progress may be due."""
    monkeypatch.setattr(console.Progress, "INTERVAL", math.inf)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_with_exit_code_2(files, tmp_path, capsys, case):
    name, flags, reason = REFUSED[case]
    out = tmp_path / "out"
    out.mkdir()
    np.save(tmp_path / "minus.npy", np.where(np.arange(15) == 2, -1.0, 1.0))
    np.save(tmp_path / "far.npy", np.full(12, 1e300))
    places = {key: str(files / f"{key}.npy") for key in ("G", "g", "w", "short")}
    places |= {key: str(tmp_path / f"{key}.npy") for key in ("minus", "far")}
    flags = flags.format(**places, out=out).split()
    if "--damping" not in flags:
        flags += ["--damping", "1e-3"]
    if "-o" not in flags:
        flags += ["-o", str(out / "step.npy")]
    assert cli.main(["solve", str(files / name), *flags, "--json"]) == 2
    printed = capsys.readouterr()
    assert_one_error_line(printed.err, reason)
    assert printed.out == ""
    assert os.listdir(out) == []


def test_no_permission_is_told_before_any_work(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the suite may run as root
    argv = ["solve", str(files / "nan.npy"), "--damping", "1", "-o", str(tmp_path / "x.npy")]
    assert cli.main(argv) == 2
    assert_one_error_line(capsys.readouterr().err, "cannot write .* its folder may not be written")


def test_memory_limit_leaves_its_plan_on_standard_output_or_nowhere(files, capsys):
    assert cli.main(["solve", str(files / "huge.npy"), "--damping", "1"]) == 2
    assert_one_error_line(capsys.readouterr().err, "this plan needs .* no route fits")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["train"],
        ["solve"],
        ["plan", "--n", "-1", "--p", "2"],
        ["plan", "--n", "1e6", "--p", "2"],
    ],
)
def test_wrong_usage_is_one_line_too(capsys, argv):
    assert cli.main(argv) == 2
    assert_one_error_line(capsys.readouterr().err, "fastfisher")


def test_a_bug_is_not_dressed_up_as_an_expected_failure(monkeypatch):
    monkeypatch.setattr("fastfisher.cli.info.info", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info"])


def test_a_file_that_changes_meanwhile_gives_no_result(files, tmp_path, capsys, monkeypatch):
    path, output = tmp_path / "G.npy", tmp_path / "step.npy"
    path.write_bytes((files / "G.npy").read_bytes())
    monkeypatch.setattr(console.Progress, "__call__", lambda *_: os.utime(path, (1, 1)))
    assert cli.main(["solve", str(path), "--damping", "1", "-o", str(output)]) == 2
    assert_one_error_line(capsys.readouterr().err, "was changed while it was read")
    assert not output.exists()
