"""Pictures of a run: loss curves, Fisher spectra, predicted against actual KL.

Every function draws into ``ax`` (a Matplotlib Axes, or a new one) and returns it. Matplotlib is
imported on the first call and no window system is asked for; pyplot's state is left alone.
"""

import io
import os
import warnings
import zlib
from pathlib import Path

import numpy as np

from .errors import InputError, MissingDependencyError

__all__ = [
    "bands",
    "colour",
    "figure",
    "finish",
    "heat_map",
    "kl_predicted_actual",
    "loss_curves",
    "power_laws",
    "save",
    "spectrum",
    "vector_field",
]

# Okabe and Ito's palette, safe for colour-blind readers; one method, one colour, everywhere.
_COLOURS = {
    "natural gradient": "#0072B2",
    "gradient descent": "#D55E00",
    "Adam": "#009E73",
    "diagonal": "#E69F00",
    "KFAC": "#CC79A7",
    "EKFAC": "#56B4E9",
    "empirical Fisher": "#882255",
    "damped": "#999933",
}
_OTHERS = ("#44AA99", "#332288", "#AA4499", "#661100", "#117733", "#CC6677")
_MARKERS = {
    "natural gradient": "o",
    "gradient descent": "s",
    "Adam": "^",
    "diagonal": "D",
    "KFAC": "v",
    "EKFAC": "P",
    "empirical Fisher": "X",
}
_GREY = "#666666"


def colour(method):
    """The colour of a method: the same in every picture and every run."""
    return _COLOURS.get(method) or _OTHERS[zlib.crc32(method.encode()) % len(_OTHERS)]


def figure(columns=1, *, width=6.4, height=4.4):
    """A figure and its row of axes, drawn without a window system."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "pictures need matplotlib; install the demo extra: pip install 'fastfisher[demo]'"
        ) from error
    fig = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(fig)
    return fig, list(fig.subplots(1, columns, squeeze=False)[0])


def save(fig, path, *, dpi=130):
    """Write the figure as PNG, whole or not at all; returns the path."""
    path = Path(path)
    image = io.BytesIO()
    with warnings.catch_warnings():
        # Said when finding room took a second, which a busy machine makes of anything.
        warnings.filterwarnings("ignore", message='Creating legend with loc="best"')
        fig.savefig(image, format="png", dpi=dpi)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(image.getvalue())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def loss_curves(losses, *, optimum=None, ax=None):
    """Loss against iteration on a logarithmic scale, one curve per method.

    Parameters
    ----------
    losses : dict of str to (iterations + 1,) array
        Entry t is the loss after t iterations.
    optimum : float, optional
        The least loss there is. The curves then show the gap to it; a gap that rounding hides
        (below 1e-16) is drawn at 1e-16.
    ax : matplotlib.axes.Axes, optional
    """
    ax = _axes(ax)
    for method, loss in losses.items():
        loss = _vector(loss, f"losses[{method!r}]")
        gap = loss if optimum is None else np.maximum(loss - optimum, 1e-16)
        ax.plot(
            np.arange(len(gap)),
            np.where(np.isfinite(gap) & (gap > 0), gap, np.nan),
            color=colour(method),
            marker=_MARKERS.get(method, "."),
            markersize=4,
            linewidth=1.6,
            label=method,
        )
    ax.set_yscale("log")
    ax.set_xlabel("iteration")
    ax.set_ylabel("training loss" if optimum is None else "training loss − optimum")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return finish(ax)


def spectrum(eigenvalues, *, damping=None, damping_label="damping", label=None, ax=None):
    """Eigenvalues of a Fisher matrix from the largest down, on a logarithmic scale.

    Parameters
    ----------
    eigenvalues : (p,) array
        In any order. Those at or below p u times the largest are rounding: they are not drawn but
        counted in the legend.
    damping : float, optional
        Drawn as a line: eigenvalues below it are those that damping replaces.
    damping_label, label : str, optional
    ax : matplotlib.axes.Axes, optional
    """
    ax = _axes(ax)
    values = np.sort(_vector(eigenvalues, "eigenvalues"))[::-1]
    floor = len(values) * np.finfo(values.dtype).eps / 2 * max(values.max(initial=0.0), 0.0)
    shown = values[values > floor]
    text = f"{label or 'Fisher matrix'}: {len(shown)} of {len(values)} above rounding"
    (line,) = ax.plot(np.arange(1, len(shown) + 1), shown, linewidth=1.8, label=text)
    if damping is not None and damping > 0:
        ax.axhline(damping, color=line.get_color(), linestyle=":", linewidth=1.4)
        ax.annotate(
            f"{damping_label} {damping:.1e}",
            (1, damping),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            fontsize="small",
            color=line.get_color(),
        )
    ax.set_yscale("log")
    ax.set_xlabel("index, largest first")
    ax.set_ylabel("eigenvalue of the Fisher matrix")
    return finish(ax)


def kl_predicted_actual(predicted, actual, *, label="natural gradient", ax=None):
    """Actual KL of each step against its prediction 1/2 d'Fd, with the line where they agree.

    Parameters
    ----------
    predicted, actual : (iterations,) arrays, in nats
        Pairs that are not finite and positive are left out.
    label : str
        The method, which fixes the colour.
    ax : matplotlib.axes.Axes, optional
    """
    ax = _axes(ax)
    predicted, actual = _vector(predicted, "predicted"), _vector(actual, "actual")
    if predicted.shape != actual.shape:
        raise InputError(
            f"predicted has {len(predicted)} entries and actual {len(actual)}; pass pairs"
        )
    good = np.isfinite(predicted) & np.isfinite(actual) & (predicted > 0) & (actual > 0)
    predicted, actual = predicted[good], actual[good]
    if good.any():
        ends = [min(predicted.min(), actual.min()) / 3, max(predicted.max(), actual.max()) * 3]
        ax.plot(ends, ends, color=_GREY, linestyle="--", linewidth=1.2, label="actual = predicted")
        ax.set_xlim(ends)
        ax.set_ylim(ends)
    ax.plot(
        predicted,
        actual,
        linestyle="none",
        marker=_MARKERS.get(label, "o"),
        markersize=6,
        alpha=0.75,
        color=colour(label),
        label=f"steps of {label}",
    )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("predicted KL, ½ d′Fd (nats)")
    ax.set_ylabel("actual KL (nats)")
    return finish(ax)


def power_laws(x, curves, *, slopes=None, ax=None):
    """Curves on two logarithmic scales, whose slopes are powers of x.

    Parameters
    ----------
    x : (m,) array
    curves : dict of str to (m,) array
        Values that are not finite and positive are left out.
    slopes : dict of str to float, optional
        Powers to say in the legend, by the name of the curve.
    ax : matplotlib.axes.Axes, optional
    """
    ax, x = _axes(ax), _vector(x, "x")
    for index, (name, values) in enumerate(curves.items()):
        values = _vector(values, f"curves[{name!r}]")
        slope = (slopes or {}).get(name)
        ax.plot(
            x,
            np.where(np.isfinite(values) & (values > 0), values, np.nan),
            marker=_MARKERS.get(name, ".sd*xP"[index % 6]),
            markersize=5,
            linewidth=1.6,
            linestyle="--" if index % 2 else "-",
            color=_COLOURS.get(name) or _OTHERS[index % len(_OTHERS)],
            label=name if slope is None else f"{name}: slope {slope:.2f}",
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    return finish(ax)


def bands(x, curves, *, ax=None):
    """Mean and one standard deviation to both sides, for each method.

    Parameters
    ----------
    x : (m,) array
    curves : dict of str to (runs, m) array
    ax : matplotlib.axes.Axes, optional
    """
    ax, x = _axes(ax), _vector(x, "x")
    for method, runs in curves.items():
        runs = np.asarray(runs, dtype=np.float64)
        mean, spread = runs.mean(axis=0), runs.std(axis=0)
        line = {"color": colour(method), "marker": _MARKERS.get(method, "."), "markersize": 5}
        ax.plot(x, mean, linewidth=1.6, label=method, **line)
        ax.fill_between(x, mean - spread, mean + spread, color=colour(method), alpha=0.18, lw=0)
    return finish(ax)


def heat_map(matrix, *, limits, boundaries=(), ax=None):
    """log10 of the magnitudes of a matrix; what is below the limits, zeros too, is white.

    Parameters
    ----------
    matrix : (p, p) array
    limits : (float, float)
        The log10 that the first and the last colour stand for: give pictures side by side one.
    boundaries : sequence of int
        Rows before which a line is drawn, such as the first parameter of a layer.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.image.AxesImage
        For a colour bar.
    """
    ax = _axes(ax)
    with np.errstate(divide="ignore"):
        logs = np.log10(np.abs(np.asarray(matrix, dtype=np.float64)))
    logs = np.where(logs < limits[0], np.nan, logs)
    image = ax.imshow(logs, vmin=limits[0], vmax=limits[1], cmap="viridis_r", interpolation="none")
    for row in boundaries:
        ax.axhline(row - 0.5, color=_GREY, linewidth=0.8)
        ax.axvline(row - 0.5, color=_GREY, linewidth=0.8)
    ax.set_xlabel("parameter")
    return image


def vector_field(x, y, u, v, method, *, ax=None):
    """Arrows of one length along (u, v) at (x, y), in the method's colour."""
    ax, length = _axes(ax), np.hypot(u, v)
    length = np.where(length > 0, length, 1.0)
    ax.quiver(
        x,
        y,
        u / length,
        v / length,
        color=colour(method),
        angles="xy",
        pivot="middle",
        width=0.005,
        scale=22,
        zorder=3,
    )
    return ax


def _axes(ax):
    return figure()[1][0] if ax is None else ax


def _vector(values, name):
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"{name} has shape {values.shape}, expected one dimension")
    return values


def finish(ax, loc="best"):
    """The look of every picture: a light grid, no box, a legend if something has a name."""
    ax.grid(True, which="major", color="#DDDDDD", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, loc=loc)
    return ax
