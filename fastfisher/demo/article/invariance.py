"""Part 5: the path does not depend on the parameters, unless something is added to F."""

import numpy as np

from ... import plots
from ...models import LogisticRegression
from ...optim import GradientDescent, NaturalGradient, minimize
from ..report import Part, Picture, Table, close, holds

MODEL = LogisticRegression(2, intercept=False)
B = np.array([[1.6, 0.9], [-0.3, 0.5]])  # theta = B gamma
STEPS = 12
DAMPING = 0.1


class Reparametrised:
    """The model in other parameters: theta = zeta(gamma), with Jacobian J(gamma)."""

    l2 = 0.0

    def __init__(self, zeta, jacobian):
        self.zeta, self.jacobian = zeta, jacobian

    def loss(self, gamma, X, y):
        return MODEL.loss(self.zeta(gamma), X, y)

    def gradient(self, gamma, X, y):
        return self.jacobian(gamma).T @ MODEL.gradient(self.zeta(gamma), X, y)

    def scores(self, gamma, X, y):
        return MODEL.scores(self.zeta(gamma), X, y) @ self.jacobian(gamma)

    def exact_scores(self, gamma, X):
        rows, weights = MODEL.exact_scores(self.zeta(gamma), X)
        return rows @ self.jacobian(gamma), weights

    def kl(self, gamma, new, X):
        return MODEL.kl(self.zeta(gamma), self.zeta(new), X)


AFFINE = Reparametrised(lambda gamma: B @ gamma, lambda gamma: B)
SINH = Reparametrised(np.sinh, lambda gamma: np.diag(np.cosh(gamma)))

CASES = (
    ("natural gradient", "F, nothing added", NaturalGradient(damping=0.0, learning_rate=0.3)),
    (
        "damped",
        f"F + {DAMPING:g} I",
        NaturalGradient(damping=DAMPING, learning_rate=0.3),
    ),
    (
        "diagonal",
        "the diagonal of F",
        NaturalGradient(damping=0.0, structure="diagonal", learning_rate=0.3),
    ),
    ("gradient descent", "gradient descent", GradientDescent(0.5)),
)


def part(quick, seed):
    """Paths in two parametrisations, drawn in one; end points under a nonlinear one."""
    made = Part("invariance", "Invariance under reparametrisation")
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200, 2)) * [1.0, 1.5]
    y = (rng.random(200) < 1 / (1 + np.exp(-X @ [1.2, -0.8]))).astype(np.int64)
    made.add(
        """A model can be written in θ or in γ with θ = Bγ; the distributions are the same, the
        gradients are not. The natural gradient takes the same path through the distributions in
        both. Adding λI to F, or keeping only its diagonal, gives that up: both say something about
        the parameters, not about the distribution. Damping is a trust in the parameters chosen.""",
        *_affine(made, X, y, np.array([-1.2, 0.9])),
        """Under a nonlinear map, here θ = sinh γ, finite steps differ, but only at the second
        order of the rate. Newton's method differs at the first: its Hessian picks up the
        curvature of the map.""",
        *_nonlinear(made, X, y, np.array([-1.2, 0.9])),
    )
    return made


def _paths(optimizer, X, y, theta0):
    """Paths (STEPS + 1, 2) in theta, of runs in theta and in gamma."""
    paths = []
    for model, start, back in (
        (MODEL, theta0, lambda t: t),
        (AFFINE, np.linalg.solve(B, theta0), AFFINE.zeta),
    ):
        points = [start]
        minimize(
            model,
            X,
            y,
            optimizer=optimizer,
            iterations=STEPS,
            theta0=start,
            callback=lambda i, theta, record, points=points: points.append(theta.copy()),
        )
        paths.append(np.array([back(point) for point in points]))
    return paths


def _affine(made, X, y, theta0):
    fig, axes = plots.figure(len(CASES), width=3.5, height=3.7)
    best = minimize(MODEL, X, y, optimizer=NaturalGradient(damping=0.0), iterations=30).theta
    u, v = np.meshgrid(np.linspace(-2, 2.4, 60), np.linspace(-2, 1.6, 60))
    margins = np.where(y == 1, 1, -1)[:, None] * (X @ np.stack([u.ravel(), v.ravel()]))
    heights = np.logaddexp(0, -margins).mean(axis=0).reshape(u.shape)
    rows = []
    for ax, (method, title, optimizer) in zip(axes, CASES, strict=True):
        first, second = _paths(optimizer, X, y, theta0)
        gap = np.abs(first - second).max() / np.abs(first - theta0).max()
        rows.append((title, *(f"{value:.6f}" for value in (*first[-1], *second[-1])), f"{gap:.1e}"))
        if method == "natural gradient":
            limit = 1e-12 * np.linalg.cond(B)
            made.check(holds(f"gap, {title}", f"{gap:.1e}", f"≤ {limit:.1e}", gap <= limit))
        else:
            made.check(holds(f"gap, {title} (negative control)", gap, "≥ 0.01", gap >= 0.01))
        ax.contour(u, v, heights, levels=14, colors="#BBBBBB", linewidths=0.9)
        color = plots.colour(method)
        ax.plot(*first.T, "o-", color=color, markersize=4, linewidth=1.4, label="in θ")
        ax.plot(
            *second.T, "x--", color="black", markersize=5, linewidth=1, label="in γ, drawn in θ"
        )
        ax.plot(*best, marker="*", color="black", markersize=11, linestyle="none")
        ax.set_title(title, fontsize="medium")
        ax.set_xlabel("θ₁")
        ax.set_ylabel("θ₂")
        plots.finish(ax)
        ax.grid(False)
        ax.legend(frameon=False, fontsize="small", loc="lower left")
    picture = Picture(
        "invariance",
        fig,
        "The same optimizer run in θ and in γ, both drawn in θ; grey: contours of the loss, star: "
        "its minimum. Only the first panel shows one path.",
    )
    header = ("", "θ₁", "θ₂", "θ₁ by way of γ", "θ₂ by way of γ", "gap / way")
    return picture, Table(header, rows, f"End points after {STEPS} steps.")


def _nonlinear(made, X, y, theta0):
    rates, gaps = np.logspace(-1, -4, 7), {"natural gradient": [], "Newton": []}
    gamma0 = np.arcsinh(theta0)
    g, H = MODEL.gradient(theta0, X, y), MODEL.exact_fisher(theta0, X).matrix()
    J = SINH.jacobian(gamma0)
    hessian = J @ H @ J + np.diag(g * np.sinh(gamma0))
    for rate in rates:
        optimizer = NaturalGradient(damping=0.0, learning_rate=rate)
        ends = [
            minimize(m, X, y, optimizer=optimizer, iterations=1, theta0=start).theta
            for m, start in ((MODEL, theta0), (SINH, gamma0))
        ]
        gaps["natural gradient"].append(np.abs(ends[0] - np.sinh(ends[1])).max())
        newton = theta0 - rate * np.linalg.solve(H, g)
        other = np.sinh(gamma0 - rate * np.linalg.solve(hessian, J @ g))
        gaps["Newton"].append(np.abs(newton - other).max())
    slopes = {name: float(np.log10(gap[2] / gap[4])) for name, gap in gaps.items()}
    made.check(
        close("slope of the gap, natural gradient", slopes["natural gradient"], 2, within=0.15),
        close("slope of the gap, Newton", slopes["Newton"], 1, within=0.15),
    )
    fig, (ax,) = plots.figure(1, height=3.8)
    plots.power_laws(rates, gaps, slopes=slopes, ax=ax)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("distance of the end points in θ")
    caption = "One step in θ and in γ = arcsinh θ: how far apart the two ends are."
    return (Picture("nonlinear", fig, caption),)
