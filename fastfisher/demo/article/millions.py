"""Part 8: the exact natural gradient of a network with millions of parameters."""

import itertools
import time
import tracemalloc

import numpy as np
from scipy import ndimage

from ... import plots
from ...damping import LevenbergMarquardt
from ...models import MLP
from ...optim import GradientDescent, NaturalGradient, minimize, structured_metric
from ..data import load_digits
from ..report import Part, Picture, Table, holds

# The autoencoder of the second-order literature, made for images of 28 x 28 pixels.
SIZES = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
DAMPING = 1e-2
RATES = (0.001, 0.003, 0.01)


def part(quick, seed, sizes=SIZES, n=None):
    """One solve with its cost, checked by hand; then some steps of training."""
    model = MLP(sizes, output="gaussian")
    made = Part("millions", f"The natural gradient of {model.n_params:,} parameters")
    n = n or (400 if quick else 1000)
    X = _images(sizes[0], n, seed)
    theta = model.init(np.random.default_rng(seed))
    made.add(
        f"""An autoencoder {"-".join(map(str, sizes))} with {model.n_params:,} parameters, on {n}
        digits enlarged to {sizes[0]} pixels. One label per image is drawn from the model, so F is
        an unbiased estimate of the Fisher matrix of rank {n}; beyond that nothing is approximated:
        no blocks, no factors, no diagonal. Each score is a sum of outer products of what goes into
        a layer and what comes back to it, so the {n} x {n} Gram matrix of the scores follows from
        products of those, and neither F nor a single score is ever formed.""",
        *_solve(made, model, theta, X, seed),
        *_train(made, model, theta, X, quick, seed),
    )
    return made


def _images(pixels, n, seed):
    side = round(pixels**0.5)
    X, _ = load_digits()
    chosen = np.random.default_rng(seed).permutation(len(X))[:n]
    images = X[chosen].reshape(-1, 8, 8)
    larger = ndimage.zoom(images, (1, side / 8, side / 8), order=1, grid_mode=True, mode="nearest")
    return larger.reshape(len(images), -1)


def _solve(made, model, theta, X, seed):
    gradient = model.gradient(theta, X, X)
    structured_metric(  # compiles
        model, theta, X[:4], structure="layered", fisher="mc", rng=seed
    ).solve(gradient, damping=DAMPING)
    began = time.perf_counter()
    metric = structured_metric(model, theta, X, structure="layered", fisher="mc", rng=seed)
    kept = time.perf_counter()
    solution = metric.solve(gradient, damping=DAMPING)
    seconds = time.perf_counter() - kept
    tracemalloc.start()
    try:
        metric.solve(gradient, damping=DAMPING)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    n, p = len(X), model.n_params
    labels = model.sample(theta, X, np.random.default_rng(seed))
    by_hand = _residual(model.layers(theta, X, labels), solution.x, gradient)
    rate = _flops(n, model.layer_sizes) / seconds
    count, shown = _count(model.sizes), solution.residual
    made.check(
        holds("parameters", f"{p:,}", f"{count:,}", p == count),
        holds("status", solution.status, "converged", solution.converged),
        holds("true residual, as the solver recomputed it", shown, "≤ 1e-9", shown <= 1e-9),
        holds("the same in ten lines of NumPy", by_hand, "≤ 1e-9", by_hand <= 1e-9),
    )
    rows = [
        (
            "layered, as done here",
            f"{seconds:.2f} s",
            _bytes(peak),
            f"forward and backward passes {kept - began:.2f} s more",
        ),
        (
            "scores written out, dual",
            _duration((n * n * p + n**3 / 3 + 4 * n * p) / rate),
            _bytes(8 * n * p),
            f"{n} x {p:,} numbers",
        ),
        (
            "F written out, Cholesky",
            _duration((n * p**2 + p**3 / 3) / rate),
            _bytes(8 * p**2),
            f"{p:,} x {p:,} numbers",
        ),
    ]
    table = Table(
        ("route to (F + λI)⁻¹g", "time", "memory", ""),
        rows,
        f"λ = {DAMPING:g}. The first row is measured; memory is the peak of all arrays of the "
        f"solve. The others are what their operations take at the {rate / 1e9:.0f} Gflop/s of "
        "the first, and what the matrices alone occupy.",
    )
    return (table,)


def _count(sizes):
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


def _flops(n, widths):
    """Multiplications and additions of the Gram matrix, its factor, and two passes."""
    gram = sum(n * n * (d_in + d_out) for d_in, d_out in widths)
    return gram + n**3 / 3 + 8 * n * sum(d_in * d_out for d_in, d_out in widths)


def _residual(layers, x, b):
    """||b - (F + lambda I) x|| / ||b||, by the definition of F alone."""
    n, start = len(layers[0][0]), 0
    seen = np.zeros(n)
    for A, E in layers:
        V = x[start : start + E.shape[1] * A.shape[1]].reshape(E.shape[1], A.shape[1])
        seen += ((A @ V.T) * E).sum(axis=1)
        start += V.size
    Fx = np.concatenate([((seen[:, None] * E).T @ A).ravel() for A, E in layers]) / n
    return float(np.linalg.norm(b - Fx - DAMPING * x) / np.linalg.norm(b))


def _train(made, model, theta, X, quick, seed):
    """Some full-batch steps, and gradient descent at its best rate beside them."""
    n, iterations = (min(100, len(X)), 5) if quick else (len(X), 12)
    X = X[:n]

    def fit(optimizer):
        return minimize(
            model, X, X, optimizer=optimizer, iterations=iterations, theta0=theta, rng=seed
        )

    natural = NaturalGradient(
        damping=LevenbergMarquardt(100.0, grow=4.0), structure="layered", fisher="mc"
    )
    fits = {"natural gradient": fit(natural)}
    tried = {rate: fit(GradientDescent(rate)) for rate in RATES}
    best = min(tried, key=lambda rate: tried[rate].loss)
    fits["gradient descent"] = tried[best]
    constant = model.sizes[-1] / 2 * np.log(2 * np.pi)  # of the density, whatever the parameters
    errors = {
        name: 2 * (result.history["loss"] - constant) / model.sizes[-1]
        for name, result in fits.items()
    }
    fig, (ax,) = plots.figure(1, height=3.8)
    plots.loss_curves(errors, ax=ax)
    ax.set_yscale("linear")
    ax.set_ylim(bottom=0)
    ax.set_ylabel("mean squared error of a pixel")
    history = fits["natural gradient"].history
    residual = float(np.nanmax(history["residual"]))
    first, last = (errors["natural gradient"][k] for k in (0, -1))
    made.check(
        holds("training: largest true residual", residual, "≤ 1e-10", residual <= 1e-10),
        holds("training: error at the end", last, f"< 0.7 × {first:.3g}", last < 0.7 * first),
    )
    return (
        Picture(
            "training",
            fig,
            f"Full-batch steps on {n} images from one start: the natural gradient with "
            f"Levenberg-Marquardt damping, {fits['natural gradient'].rejected} of "
            f"{iterations} tries rejected, {fits['natural gradient'].seconds / iterations:.1f} s "
            f"each; gradient descent at {best:g}, the best of {len(RATES)} rates, "
            f"{fits['gradient descent'].seconds / iterations:.1f} s each.",
        ),
    )


def _bytes(count):
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    return None


def _duration(seconds):
    for unit, size in (("years", 365.25 * 86400), ("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2f} s"
