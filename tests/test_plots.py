"""Pictures: what is drawn, labelled and coloured, and what is refused."""

import sys

import numpy as np
import pytest

from fastfisher import plots
from fastfisher.errors import InputError


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
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


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
