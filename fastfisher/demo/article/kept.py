"""Part 7: what Adam, a diagonal, KFAC and EKFAC keep of the Fisher matrix, and what that costs."""

import numpy as np

from ... import plots
from ...damping import LevenbergMarquardt
from ...models import MLP
from ...optim import Adam, NaturalGradient, minimize, structured_metric
from ..data import load_digits
from ..report import Part, Picture, Table, close, holds

STRUCTURES = {
    "natural gradient": "full",
    "EKFAC": "ekfac",
    "KFAC": "kfac",
    "diagonal": "diagonal",
}
RATES = (0.003, 0.01, 0.02, 0.05, 0.1, 0.2)


def part(quick, seed, n=None, iterations=None):
    """Heat maps on a network small enough to look at; loss curves on one that learns."""
    made = Part("kept", "What each method keeps of F: Adam, diagonal, KFAC, EKFAC, exact")
    X, y = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(X))
    X, y = X[order], y[order]
    usual = (300, 10) if quick else (1437, 40)
    made.add(
        """Between gradient descent and the natural gradient lie methods that keep a part of F. A
        diagonal keeps one number for each parameter; KFAC a Kronecker product for each layer;
        EKFAC corrects its eigenvalues, and so is never further from F than KFAC. Adam keeps a
        diagonal too, to the power ½, but of the squared mean gradient: for a batch of B samples
        the part of it that is noise is B times smaller than in the diagonal of F.""",
        *_matrices(made, X, y, seed),
        *_curves(made, X[: n or usual[0]], y, seed, iterations or usual[1]),
    )
    return made


def _matrices(made, X, y, seed):
    """Heat maps after some training, when labels are neither random nor fitted."""
    X = X.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)  # 4 x 4 pixels
    model = MLP((16, 4, 10), l2=1e-4)
    first = model.layer_sizes[0][0] * model.layer_sizes[0][1]
    theta = minimize(
        model,
        X,
        y,
        optimizer=NaturalGradient(damping=LevenbergMarquardt(1e-2)),
        iterations=4,
        rng=seed,
    ).theta
    matrices = {
        name: structured_metric(model, theta, X, structure=structure).matrix()
        for name, structure in STRUCTURES.items()
    }
    exact, kfac, ekfac = (matrices[name] for name in ("natural gradient", "KFAC", "EKFAC"))
    squares = _adam_squares(model, theta, X, y, seed)
    matrices["Adam"] = np.diag(squares)
    titles = {"natural gradient": "exact F", "Adam": "Adam's v"}

    top = np.log10(np.abs(exact).max())
    fig, axes = plots.figure(5, width=3.2, height=3.6)
    norm = np.linalg.norm(exact)
    rows = []
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        image = plots.heat_map(matrix, limits=(top - 4, top), boundaries=(first,), ax=ax)
        distance, share = np.linalg.norm(exact - matrix) / norm, np.trace(matrix) / np.trace(exact)
        ax.set_title(f"{titles.get(name, name)}\ndistance {distance:.2f}", fontsize="medium")
        kept = int((matrix != 0).sum()) if name != "natural gradient" else exact.size
        rows.append((titles.get(name, name), f"{distance:.4f}", f"{share:.4f}", f"{kept}"))
    axes[0].set_ylabel("parameter")
    fig.colorbar(image, ax=axes, label="log₁₀ |entry|", shrink=0.8)

    block = exact.copy()
    block[:first, first:] = block[first:, :first] = 0
    off = np.abs(matrices["diagonal"] - np.diag(exact.diagonal())).max() / exact.max()
    errors = [np.linalg.norm(block - matrix) for matrix in (ekfac, kfac)]
    made.check(
        holds("C4: distance of EKFAC to the blocks of F", errors[0], f"≤ KFAC's {errors[1]:.3g}",
              errors[0] <= errors[1]),
        close("C4: trace of EKFAC over trace of F", np.trace(ekfac) / np.trace(exact), 1,
              within=1e-12),
        holds("trace of KFAC over trace of F (negative control)",
              np.trace(kfac) / np.trace(exact), "≠ 1 by 0.001",
              abs(np.trace(kfac) / np.trace(exact) - 1) > 1e-3),
        holds("F11: diagonal, largest difference to that of F", off, "≤ 1e-12", off <= 1e-12),
        holds("M1: Adam's v over the diagonal of F, traces", np.trace(matrices["Adam"])
              / np.trace(exact), "< 0.1", np.trace(matrices["Adam"]) < 0.1 * np.trace(exact)),
    )  # fmt: skip
    picture = Picture(
        "kept",
        fig,
        f"Magnitudes of the {model.n_params} x {model.n_params} Fisher matrix of a network "
        "16-4-10 on digits of 4 x 4 pixels, and of what stands for it; the lines divide the two "
        "layers, white is below a ten-thousandth of the largest. Distance: Frobenius, relative.",
    )
    header = ("", "distance to F", "trace / trace of F", "entries that are not 0")
    return picture, Table(header, rows)


def _adam_squares(model, theta, X, y, seed, batch=128):
    """The expectation of Adam's v at theta: squares of mean gradients of batches."""
    rng = np.random.default_rng(seed)
    draws = [rng.choice(len(X), batch, replace=False) for _ in range(200)]
    return np.mean([model.gradient(theta, X[rows], y[rows]) ** 2 for rows in draws], axis=0)


def _curves(made, X, y, seed, iterations):
    """Training loss by iterations and by seconds, full batches, from one start."""
    n = len(X)
    y = y[:n]
    model = MLP((64, 16, 10), l2=1e-4)
    theta0 = model.init(np.random.default_rng(seed))

    def fit(optimizer):
        return minimize(
            model, X, y, optimizer=optimizer, iterations=iterations, theta0=theta0, rng=seed
        )

    fits, settings = {}, {}
    for name, structure in STRUCTURES.items():
        optimizer = NaturalGradient(damping=LevenbergMarquardt(0.1), structure=structure)
        # Compiles what the timed run needs.
        minimize(model, X[:200], y[:200], optimizer=optimizer, iterations=1, theta0=theta0)
        fits[name] = fit(optimizer)
        lam = fits[name].history["damping"]
        settings[name] = f"λ {lam[1]:.0e} to {lam[-1]:.0e}"
    tried = {rate: fit(Adam(rate)) for rate in RATES}
    best = min(tried, key=lambda rate: tried[rate].loss)
    fits["Adam"], settings["Adam"] = tried[best], f"rate {best:g}, best of {len(RATES)}"

    fig, (left, right) = plots.figure(2, height=4.4)
    plots.loss_curves({name: result.history["loss"] for name, result in fits.items()}, ax=left)
    left.set_title("by iteration")
    for name, result in fits.items():
        seconds, losses = result.history["seconds"], result.history["loss"]
        right.plot(seconds[1:], losses[1:], color=plots.colour(name), linewidth=1.6, label=name)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("seconds")
    right.set_ylabel("training loss")
    right.set_title("by time on this machine")
    plots.finish(right)
    losses = {name: result.loss for name, result in fits.items()}
    others = min(value for name, value in losses.items() if name != "natural gradient")
    exact = losses["natural gradient"]
    made.check(
        holds("exact natural gradient: final loss", exact, f"≤ best of the others, {others:.3g}",
              exact <= others),
        holds("KFAC and EKFAC: final loss", max(losses["KFAC"], losses["EKFAC"]),
              f"≤ the diagonal's, {losses['diagonal']:.3g}",
              max(losses["KFAC"], losses["EKFAC"]) <= losses["diagonal"]),
    )  # fmt: skip
    rows = [
        (
            name,
            settings[name],
            f"{result.loss:.5f}",
            f"{result.iterations}",
            f"{1e3 * result.seconds / result.iterations:.1f}",
        )
        for name, result in fits.items()
    ]
    picture = Picture(
        "curves",
        fig,
        f"A network 64-16-10 of {model.n_params} parameters on {n} digits, full batches, one start "
        "for all; F from every label of every image, Levenberg-Marquardt damping.",
    )
    header = ("", "damping or rate", "training loss", "iterations", "ms an iteration")
    return picture, Table(header, rows)
