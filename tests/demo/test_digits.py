"""The demo as a user sees it: report, pictures, exit codes."""

import argparse
import io
import struct
import subprocess
import sys
from dataclasses import replace

import pytest

from fastfisher import cli
from fastfisher import demo as demos
from fastfisher.demo import digits as demo
from fastfisher.demo import progress
from fastfisher.errors import InputError, MissingDependencyError

PICTURES = ("loss.png", "spectrum.png", "kl.png")


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[-8:-4] == b"IEND"
    return struct.unpack(">II", data[16:24])


def small(quick, **changes):
    """The quick tasks with a metric batch and a number of steps that take a second."""
    softmax, mlp = demo.tasks(quick)
    changes = {"iterations": 3} | changes
    return replace(softmax, **changes), replace(mlp, metric_batch=40, **changes)


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    directory, report = tmp_path_factory.mktemp("demo") / "new" / "pictures", io.StringIO()
    code = demo.run(quick=True, output_dir=directory, stream=report, seed=0)
    return code, report.getvalue(), directory


# The whole run -------------------------------------------------------------------------------


def test_quick_demo_natural_gradient_wins_on_loss_per_iteration(quick_run):
    code, report, _ = quick_run
    assert code == 0
    assert "did not reach" not in report


def test_quick_demo_reports_what_it_promises(quick_run):
    _, report, directory = quick_run
    lines = report.splitlines()
    assert max(map(len, lines)) <= 100
    assert sum("train loss" in line and "test accuracy" in line for line in lines) == 2
    for method in ("natural gradient", "gradient descent", "Adam"):
        rows = [line for line in lines if line.strip().startswith(method) and "%" in line]
        assert len(rows) == 2, method
    assert sum("largest true residual" in line for line in lines) == 2
    assert sum("plan of the last solve" in line for line in lines) == 2
    assert sum(line.count("*") > 0 for line in lines if "learning rates" not in line) >= 4
    for name in PICTURES:
        assert str(directory / name) in report


def test_quick_demo_reaches_the_optimum_of_scikit_learn(quick_run):
    line = next(line for line in quick_run[1].splitlines() if "LogisticRegression" in line)
    assert abs(float(line.split("ends ")[1].split()[0])) <= 1e-9


def test_quick_demo_solves_have_small_true_residuals(quick_run):
    for line in quick_run[1].splitlines():
        if "largest true residual" in line:
            assert float(line.split("solves: ")[1].split(";")[0]) < 1e-9


def test_quick_demo_writes_whole_pictures_and_nothing_else(quick_run):
    directory = quick_run[2]
    assert sorted(p.name for p in directory.iterdir()) == sorted(PICTURES)
    for name in PICTURES:
        width, height = png_size(directory / name)
        assert width > 1200
        assert height > 400


# Exit codes ----------------------------------------------------------------------------------


def test_demo_exits_with_1_where_natural_gradient_does_not_win(tmp_path, monkeypatch):
    crippled = small(True, damping=1e6)
    monkeypatch.setattr(demo, "tasks", lambda quick: crippled)
    report = io.StringIO()
    assert demo.run(quick=True, output_dir=tmp_path, stream=report) == 1
    assert (
        "Natural gradient did not reach the lowest training loss for: Softmax regression."
        in report.getvalue()
    )


def options(*argv):
    parser = argparse.ArgumentParser()
    demos.add_arguments(parser)
    return parser.parse_args(argv)


def test_options_and_their_defaults():
    args = options()
    assert (args.name, args.quick, args.output, args.seed) == ("digits", False, None, 0)
    args = options("--quick", "--output", "here", "--seed", "3")
    assert (args.quick, args.output, args.seed) == (True, "here", 3)


def test_main_passes_the_options_on(tmp_path, monkeypatch, capsys):
    reduced = small(True)
    monkeypatch.setattr(demo, "tasks", lambda quick: reduced)
    assert demos.main(options("--quick", "--output", str(tmp_path), "--seed", "3")) == 0
    assert "seed 3" in capsys.readouterr().out
    assert (tmp_path / "kl.png").exists()


def test_command_exits_with_2_and_one_line_where_it_cannot_run(tmp_path, capsys):
    blocker = tmp_path / "file"
    blocker.write_text("here first")
    for argv in (["--output", str(blocker)], ["--seed", "-1"], ["--seed", "one"]):
        assert cli.main(["demo", "--quick", *argv]) == 2
        assert "error: " in capsys.readouterr().err.splitlines()[-1]
    assert blocker.read_text() == "here first"


def test_seed_is_checked():
    for seed in (-1, 0.5, None):
        with pytest.raises(InputError, match=f"seed is {seed}, expected an integer >= 0"):
            demo.run(quick=True, seed=seed)


@pytest.mark.parametrize("package", ["sklearn", "matplotlib"])
def test_missing_package_names_the_extra(package, monkeypatch, tmp_path):
    for name in [m for m in sys.modules if m == package or m.startswith(package + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fastfisher\[demo\]'"):
        demo.run(quick=True, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_importing_the_demo_loads_neither_scikit_learn_nor_matplotlib():
    code = (
        "import sys, fastfisher.demo.digits\n"
        "print([m for m in ('sklearn', 'matplotlib', 'tqdm', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# Progress ------------------------------------------------------------------------------------


def test_progress_off_a_terminal_prints_lines_only_now_and_then(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 6.0, 6.0, 7.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.Progress("training") as told:
        for iteration, loss in enumerate((2.0, 1.5, 1.0), start=1):
            told(iteration, 3, loss)
    assert capsys.readouterr().err == "training: 2 of 3, loss 1.5\n"
