"""The command as a program: start, help, other commands, pipes, full disks, Ctrl-C, progress."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import fastfisher
from fastfisher import cli
from fastfisher.cli import console
from tests import matrices
from tests.cli.command import ROOT, assert_one_error_line, run

# Start ---------------------------------------------------------------------------------------


def test_help_lists_everything_without_heavy_imports():
    code = (
        "import sys, fastfisher.cli; code = fastfisher.cli.main(['--help']); "
        "print(*[m for m in ('numpy', 'numba', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    *text, heavy = done.stdout.splitlines()
    assert heavy == ""
    for word in ("solve", "plan", "info", "demo", "examples:", "exit codes:", "--version"):
        assert any(word in line for line in text), word


def test_help_of_solve_names_every_option_and_its_default(capsys):
    assert cli.main(["solve", "--help"]) == 0
    text = capsys.readouterr().out
    options = "damping relative gradient weights center method output rtol maxiter nan-policy"
    for option in [*options.split(), "json", "quiet"]:
        assert f"--{option}" in text
    assert text.count("default: ") >= 7
    assert cli.main(["demo", "--help"]) == 0
    assert "--quick" in capsys.readouterr().out


def test_version_from_the_package_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "fastfisher", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"fastfisher {fastfisher.__version__}\n"


# Other commands -----------------------------------------------------------------------------


def test_plan_and_info_print_what_the_library_says(capsys):
    assert cli.main(["plan", "--n", "100", "--p", "5000", "--dtype", "float32", "--rhs", "3"]) == 0
    plan = fastfisher.plan(100, 5000, dtype="float32", rhs=3)
    assert capsys.readouterr().out == f"{plan}\n"
    assert cli.main(["plan", "--n", "100", "--p", "5000", "--method", "cg", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["method"], facts["problem"]["p"]) == ("cg", 5000)
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts.keys() == fastfisher.info().keys()
    assert cli.main(["info"]) == 0
    assert f"{'numpy':<24}{np.__version__}\n" in capsys.readouterr().out


def test_demo_gets_its_own_arguments(monkeypatch):
    from fastfisher import demo

    seen = []
    monkeypatch.setattr(demo, "main", lambda args, stream: seen.append(args) or 1)
    assert cli.main(["demo", "--quick", "--output", "pictures", "--seed", "3"]) == 1
    assert (seen[0].quick, seen[0].output, seen[0].seed) == (True, "pictures", 3)


def test_a_demo_goes_on_in_silence_when_its_reader_leaves(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        for line in ("first", "second"):
            print(line, file=console.Output(), flush=True)
        monkeypatch.undo()


# Faults --------------------------------------------------------------------------------------


def test_failures_of_a_process_have_no_traceback(files, tmp_path):
    done = run("solve", files / "nan.npy", "--damping", "1e-3", "-o", tmp_path / "step.npy")
    assert done.returncode == 2
    assert_one_error_line(done.stderr, "G holds nan in row 7, column 3")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs Linux")
def test_a_full_disk_leaves_the_old_output(tmp_path):
    import resource

    # A limit on file size stops the reservation as a full disk does. It is far above what the
    # kernel cache may have to write.
    p, limit = 500_000, 3_000_000
    np.save(tmp_path / "G.npy", matrices.generator("disk").standard_normal((1, p)))
    output = tmp_path / "step.npy"
    output.write_bytes(b"old")
    done = run(
        *("solve", tmp_path / "G.npy", "--damping", "1", "-o", output, "--quiet"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2
    assert_one_error_line(done.stderr, r"cannot write '.*step\.npy': File too large")
    assert output.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["G.npy", "step.npy"]


def test_ctrl_c_in_a_pass_gives_130_and_one_line(files, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(console.Progress, "__call__", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        output = tmp_path / "step.npy"
        code = cli.main(["solve", str(files / "G.npy"), "--damping", "1", "-o", str(output)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert capsys.readouterr().err == "fastfisher: interrupted\n"
    assert os.listdir(tmp_path) == []


def test_a_reader_that_leaves_does_not_stop_the_work(files, tmp_path):
    output = tmp_path / "step.npy"
    reader, writer = os.pipe()
    os.close(reader)
    done = run(
        *("solve", files / "G.npy", "--damping", "1", "-o", output),
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    # where it takes seconds, progress is told
    said = [x for x in done.stderr.splitlines() if not re.fullmatch(r"\w+: \d+ of \d+", x)]
    assert (done.returncode, said) == (0, [])
    assert np.load(output).shape == (12,)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the always-full device")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("args", ["plan --n 2 --p 2", "--help"])
def test_full_standard_output_is_an_error_line(args, unbuffered):
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = run(*args.split(), stdout=full, stderr=subprocess.PIPE, env=env)
    assert done.returncode == 2
    assert_one_error_line(done.stderr, "No space left on device: 'standard output'")


@pytest.mark.parametrize("threads", ["0", "-1", "99999"])
def test_threads_that_numba_would_die_of_are_an_error_line(files, threads):
    env = {**os.environ, "NUMBA_NUM_THREADS": threads}
    done = run("solve", files / "G.npy", "--damping", 1, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_error_line(done.stderr, f"NUMBA_NUM_THREADS is {threads}; set it to the cores")


@pytest.mark.parametrize("features", ["avx2", "+avx2, +fma"])
def test_features_that_llvm_would_abort_for_are_an_error_line(files, features):
    env = {**os.environ, "NUMBA_CPU_FEATURES": features}
    done = run("solve", files / "G.npy", "--damping", 1, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    name = re.escape(repr(features.split(",")[-1]))
    assert_one_error_line(done.stderr, f"NUMBA_CPU_FEATURES names {name}; expected features after")


def test_a_warning_is_one_line(tmp_path):
    profile = tmp_path / "profile.json"
    profile.write_text("{")
    env = {**os.environ, "FASTFISHER_PROFILE": str(profile), "NUMBA_NUM_THREADS": "two"}
    done = run("info", env=env)  # numba's has a traceback in it
    variable = "Environment variable 'NUMBA_NUM_THREADS' is defined but its associated value 'two'"
    assert done.returncode == 0
    assert done.stderr == f"fastfisher: warning: {variable} could not be parsed.\n"
    done = run("plan", "--n", 2, "--p", 2, env=env)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert done.stderr.startswith(f"fastfisher: warning: the profile {profile} is ignored: ")


# Progress ------------------------------------------------------------------------------------


class Bar:
    """What tqdm would show, as a list of events."""

    def __init__(self, **_):
        self.events = []

    def set_description(self, op, refresh):
        self.events.append(op)

    def reset(self, total):
        self.events.append(total)

    def update(self, steps):
        self.events.append(f"+{steps}")

    def close(self):
        self.events.append("closed")


def test_progress_shows_each_op_and_only_iterations_once_cg_runs():
    progress = console.Progress(quiet=False)
    with progress:
        progress.bar = bar = Bar()
        for call in [("syrk", 4, 8), ("syrk", 8, 8), ("fvp", 8, 8), ("fvp", 8, 8), ("cg", 1, 30)]:
            progress(*call)
        for call in [("fvp", 8, 8), ("cg", 2, 30), ("cg", 1, 28)]:
            progress(*call)
    first = ["syrk", 8, "+4", "+4", "fvp", 8, "+8", "+0", "cg", 30, "+1"]
    assert bar.events == [*first, "+1", "cg", 28, "+1", "closed"]


def test_progress_off_a_terminal_is_a_line_every_few_seconds(capsys, monkeypatch):
    for quiet, text in ((False, "gram: 2 of 9\n"), (True, "")):
        clock = iter([0.0, 1.0, 6.0, 6.0, 7.0])
        monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))  # noqa: B023
        with console.Progress(quiet) as progress:
            for done in (1, 2, 3):
                progress("gram", done, 9)
        assert capsys.readouterr().err == text
