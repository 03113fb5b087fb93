"""Part 6: vector fields of the true and of the empirical Fisher."""

import numpy as np

from ... import plots
from ...models import LinearRegression
from ...optim import fisher_metric
from ..report import Part, Picture, Table, close, holds

MODEL = LinearRegression(1)  # y = slope x + intercept + N(0, 1)
TRUTH = np.array([1.0, 0.0])
METHODS = ("gradient descent", "natural gradient", "empirical Fisher")


def part(quick, seed):
    """Three fields on one loss; scale of the residuals; one step to the solution."""
    made = Part("fields", "The empirical Fisher is not the Fisher")
    rng = np.random.default_rng(seed)
    x = rng.gamma(2.0, 0.7, size=(60, 1))
    y = TRUTH[0] * x[:, 0] + TRUTH[1] + 0.25 * rng.normal(size=60)
    Z = np.c_[x, np.ones(60)]
    best = np.linalg.lstsq(Z, y, rcond=None)[0]
    made.add(
        """A line is fitted to 60 points by least squares. Its Fisher matrix is X′X/n whatever the
        data are; replace the expectation over labels of the model by the labels of the data and it
        becomes X′ diag(r²) X/n, r the residuals. Far from the solution the residuals decide, near
        it they vanish, so the step of the empirical Fisher has neither the direction nor the
        length of a natural step (Kunstner, Hennig and Balles, 2019)."""
    )
    u, v = np.meshgrid(best[0] + np.linspace(-2.4, 2.4, 13), best[1] + np.linspace(-2.6, 2.6, 13))
    points = np.stack([u.ravel(), v.ravel()], axis=-1)
    steps = {method: np.array([_step(method, p, x, y) for p in points]) for method in METHODS}
    made.add(_picture(points, steps, Z, y, best), _table(made, points, steps, best, x, y))
    return made


def _step(method, theta, x, y):
    gradient = MODEL.gradient(theta, x, y)
    if method == "gradient descent":
        return -gradient
    fisher = "exact" if method == "natural gradient" else "empirical"
    return -fisher_metric(MODEL, theta, x, y, fisher=fisher).solve(gradient, damping=0.0).x


def _picture(points, steps, Z, y, best):
    fig, axes = plots.figure(3, width=4.6, height=4.5)
    u, v = np.meshgrid(best[0] + np.linspace(-2.7, 2.7, 80), best[1] + np.linspace(-2.9, 2.9, 80))
    losses = np.square(np.stack([u, v], -1) @ Z.T - y).mean(axis=-1) / 2
    for ax, method in zip(axes, METHODS, strict=True):
        ax.contour(u, v, losses, levels=np.geomspace(0.05, 30, 10), colors="#BBBBBB", linewidths=1)
        away = np.linalg.norm(points - best, axis=1) > 1e-9
        plots.vector_field(*points[away].T, *steps[method][away].T, method, ax=ax)
        ax.plot(*best, marker="*", color="black", markersize=12)
        ax.set_title(method)
        ax.set_xlabel("slope")
        ax.set_ylabel("intercept")
        plots.finish(ax)
        ax.grid(False)
    return Picture(
        "fields",
        fig,
        "Directions of the step over the plane of parameters; grey: contours of the loss, star: "
        "its minimum. Every arrow of the true natural gradient points at the minimum.",
    )


def _table(made, points, steps, best, x, y):
    wanted = best - points
    distance = np.linalg.norm(wanted, axis=1)
    away = distance > 1e-9
    rows, cosines, lengths = [], {}, {}
    for method in METHODS:
        d = steps[method][away]
        sizes = np.linalg.norm(d, axis=1)
        cosines[method] = np.einsum("ij,ij->i", d, wanted[away]) / sizes / distance[away]
        lengths[method] = sizes / distance[away]
        angle = np.degrees(np.arccos(np.clip(cosines[method], -1, 1)))
        rows.append(
            (
                method,
                f"{np.median(angle):.1f}°",
                f"{angle.max():.1f}°",
                f"{lengths[method].min():.3f}",
                f"{lengths[method].max():.3f}",
            )
        )
    worst = np.abs(points + steps["natural gradient"] - best).max()
    residuals = y - MODEL.mean(best, x)
    probe = best + np.array([0.5, -0.4])
    ratio = _scaled(probe, x, 3 * (residuals + 0.2)) / _scaled(probe, x, residuals + 0.2)
    near = best + 1e-3
    rest = MODEL.mean(best, x) - MODEL.mean(near, x)
    blown = [np.linalg.norm(_scaled(near, x, c * residuals + rest)) for c in (1.0, 0.1)]
    made.check(
        holds(
            "true Fisher: distance to the minimum after one step", worst, "≤ 1e-12", worst <= 1e-12
        ),
        holds(
            "empirical Fisher: least cosine with the way to the minimum",
            cosines["empirical Fisher"].min(),
            "< 0.9",
            cosines["empirical Fisher"].min() < 0.9,
        ),
        close("residuals times 3: length of the empirical step", ratio.mean(), 1 / 3, within=1e-6),
        holds(
            "a thousandth from the fit, a tenth of the noise: empirical step longer by",
            blown[1] / blown[0],
            "> 20",
            blown[1] > 20 * blown[0],
        ),
    )
    return Table(
        ("", "median angle", "largest angle", "shortest / way", "longest / way"),
        rows,
        "Angle between the step and the way to the minimum, and the length of the step as a share "
        "of that way, over the grid.",
    )


def _scaled(theta, x, residuals):
    """The empirical step at theta for labels that leave these residuals there."""
    return _step("empirical Fisher", theta, x, MODEL.mean(theta, x) + residuals)
