"""The demo as a user sees it: report, pictures, exit codes; and the pictures' own functions."""

import argparse
import io
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from fastfisher import cli, demo, plots
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
    demo.add_arguments(parser)
    return parser.parse_args(argv)


def test_options_and_their_defaults():
    args = options()
    assert (args.quick, args.output, args.seed) == (False, "fastfisher-demo", 0)
    args = options("--quick", "--output", "here", "--seed", "3")
    assert (args.quick, args.output, args.seed) == (True, "here", 3)


def test_main_passes_the_options_on(tmp_path, monkeypatch, capsys):
    reduced = small(True)
    monkeypatch.setattr(demo, "tasks", lambda quick: reduced)
    assert demo.main(options("--quick", "--output", str(tmp_path), "--seed", "3")) == 0
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
        "import sys, fastfisher.demo\n"
        "print([m for m in ('sklearn', 'matplotlib', 'tqdm', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# Progress ------------------------------------------------------------------------------------


def test_progress_off_a_terminal_prints_lines_only_now_and_then(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 6.0, 6.0, 7.0])
    monkeypatch.setattr(demo.time, "monotonic", lambda: next(clock))
    with demo._Progress("training") as progress:
        for iteration, loss in enumerate((2.0, 1.5, 1.0), start=1):
            progress(iteration, 3, loss)
    assert capsys.readouterr().err == "training: 2 of 3, loss 1.5\n"


# Pictures ------------------------------------------------------------------------------------


def test_plots_draw_into_the_axes_given_and_label_them():
    _, (left, middle, right) = plots.figure(3)
    assert plots.loss_curves({"Adam": [2.0, 1.0]}, ax=left) is left
    assert plots.spectrum(np.array([1.0, 0.1]), damping=0.5, ax=middle) is middle
    assert plots.kl_predicted_actual([1e-3, 1e-4], [2e-3, 1e-4], ax=right) is right
    for ax in (left, middle, right):
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert ax.get_yscale() == "log"
        assert ax.get_legend() is not None


def test_plots_make_their_own_axes_and_leave_pyplot_alone():
    ax = plots.loss_curves({"Adam": [2.0, 1.0]})
    assert ax.figure.canvas is not None
    assert ax.figure.number if hasattr(ax.figure, "number") else True


def test_a_method_has_one_colour_everywhere():
    losses = plots.loss_curves({"Adam": [2.0, 1.0], "natural gradient": [2.0, 0.1]})
    colours = {line.get_label(): line.get_color() for line in losses.get_lines()}
    alone = plots.loss_curves({"natural gradient": [3.0, 0.1]}).get_lines()[0]
    kl = plots.kl_predicted_actual([1e-3], [1e-3]).get_lines()[-1]
    assert colours["natural gradient"] == alone.get_color() == kl.get_color()
    assert colours["Adam"] != colours["natural gradient"]
    assert plots.colour("my method") == plots.colour("my method")


def test_loss_curves_show_the_gap_and_hide_what_cannot_be_drawn():
    ax = plots.loss_curves({"Adam": [2.0, 1.0, np.inf]}, optimum=1.0)
    x, y = ax.get_lines()[0].get_data()
    np.testing.assert_array_equal(x, [0, 1, 2])
    np.testing.assert_array_equal(y, [1.0, 1e-16, np.nan])


def test_spectrum_counts_eigenvalues_that_are_rounding():
    ax = plots.spectrum(np.array([1e-18, 1.0, -1e-17, 0.5]))
    _, y = ax.get_lines()[0].get_data()
    np.testing.assert_array_equal(y, [1.0, 0.5])
    assert "2 of 4" in ax.get_legend().get_texts()[0].get_text()


def test_kl_picture_leaves_out_rejected_and_undefined_steps():
    ax = plots.kl_predicted_actual([np.nan, 1e-3, 1e-2, 0.0], [1.0, 2e-3, np.inf, 1.0])
    x, y = ax.get_lines()[-1].get_data()
    np.testing.assert_array_equal([*x, *y], [1e-3, 2e-3])


def test_pictures_of_nothing_are_empty_axes():
    assert not plots.loss_curves({}).get_lines()
    assert plots.kl_predicted_actual([], []).get_xlabel()
    assert plots.spectrum(np.array([])).get_xlabel()


def test_plots_refuse_wrong_shapes():
    with pytest.raises(InputError, match=r"eigenvalues has shape \(2, 2\), expected one dimension"):
        plots.spectrum(np.eye(2))
    with pytest.raises(InputError, match="predicted has 2 entries and actual 1"):
        plots.kl_predicted_actual([1.0, 2.0], [1.0])


def test_picture_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    fig, _ = plots.figure()
    target = tmp_path / "out.png"
    target.write_bytes(b"old")

    def full(self, data):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        plots.save(fig, target)
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]
    assert target.read_bytes() == b"old"
