"""Part 3: steepest descent in a KL ball and in a Euclidean ball."""

import numpy as np

from ... import plots
from ...models import Gaussian
from ...optim import kl_steepest
from ..report import Part, Picture, Table, close, holds

FAMILY = Gaussian("log_sigma")
TARGET = np.array([1.0, np.log(0.5)])
BALL = 0.04  # nats
STARTS = np.array([[-1.6, 0.45], [-1.3, -0.75], [0.3, 0.75], [2.6, -0.2]])
NATURAL, PLAIN = "natural gradient", "gradient descent"
PARAMETERS = ("log_sigma", "sigma", "variance")


def loss(theta):
    """KL from the target: the expected negative log-likelihood, up to a constant."""
    return FAMILY.kl(TARGET, theta)


def gradient(theta):
    """Of `loss`, in (mu, log sigma)."""
    mu, s = theta
    second = np.exp(2 * TARGET[1]) + (mu - TARGET[0]) ** 2
    return np.array([(mu - TARGET[0]) * np.exp(-2 * s), 1 - second * np.exp(-2 * s)])


def natural(theta):
    """F^-1 times the gradient."""
    return np.linalg.solve(FAMILY.fisher(theta), gradient(theta))


def half_plane(theta):
    """(mu / sqrt 2, sigma), in which the Fisher metric is the same in all directions."""
    return np.stack([theta[..., 0] / np.sqrt(2), np.exp(theta[..., 1])], axis=-1)


def part(quick, seed):
    """Balls, steepest steps and paths in parameter space and in distribution space."""
    made = Part("steepest", "Steepest descent: a KL ball against a Euclidean ball")
    made.add(
        """The direction in which the loss falls most depends on what a step of length one is.
        The gradient is the answer for Euclidean length in the parameters; the natural gradient
        F⁻¹∇L is the answer when every step changes the distribution by the same KL. Here N(μ, σ²)
        is fitted to N(1, 0.5²), with parameters μ and log σ.""",
        """Left, the space of parameters. A Euclidean ball is round there, a KL ball is not: it is
        wide where σ is large. Right, the same in coordinates (μ/√2, σ) of the space of
        distributions, where the Fisher metric treats all directions alike: now the KL balls are
        round, the natural gradient crosses the contours of the loss at right angles, and it is the
        Euclidean ball that depends on where it lies.""",
        _picture(),
        _checks(made, seed),
    )
    return made


def _picture():
    fig, axes = plots.figure(2, height=4.6)
    grid = np.stack(np.meshgrid(np.linspace(-2.4, 3.4, 200), np.linspace(-2.1, 1.7, 200)), -1)
    levels = np.geomspace(0.01, 40, 12)
    for ax, place in zip(axes, (lambda t: t, half_plane), strict=True):
        points = place(grid)
        ax.contour(
            points[..., 0],
            points[..., 1],
            loss(grid),
            levels=levels,
            colors="#BBBBBB",
            linewidths=0.9,
        )
        for index, start in enumerate(STARTS):
            for method, ball in ((NATURAL, _kl_ball(start)), (PLAIN, _euclidean_ball(start))):
                ax.plot(*place(ball).T, color=plots.colour(method), linewidth=1.5)
                ax.plot(
                    *place(_path(start, method)).T,
                    color=plots.colour(method),
                    linewidth=1.6,
                    linestyle="-" if method == NATURAL else "--",
                    label=None if index else f"{method}: ball and path",
                )
            ax.plot(*place(start), marker="o", color="black", markersize=4)
        ax.plot(*place(TARGET), marker="*", color="black", markersize=12, linestyle="none")
        ax.annotate(
            "target", place(TARGET), xytext=(8, -4), textcoords="offset points", fontsize="small"
        )
    for ax in axes:
        plots.finish(ax, loc="upper right")
        ax.grid(False)
    axes[0].get_legend().remove()
    names = (("μ", "log σ", "parameter space"), ("μ/√2", "σ", "distribution space"))
    for ax, (x, y, title) in zip(axes, names, strict=True):
        ax.set_xlabel(x)
        ax.set_ylabel(y)
        ax.set_title(title)
    axes[0].set_xlim(-2.4, 3.4)
    axes[0].set_ylim(-2.1, 1.7)
    axes[1].set_xlim(-1.7, 2.4)
    axes[1].set_ylim(0.2, 2.9)
    for ax in axes:
        ax.set_aspect("equal")
    return Picture(
        "steepest",
        fig,
        f"Balls of KL = {BALL:g} nats (blue) and of |d| = {np.sqrt(2 * BALL):.2f} (orange) round "
        "four starts, contours of the loss, and the paths that small steps of each kind follow.",
    )


def _circle(points=200):
    angle = np.linspace(0, 2 * np.pi, points)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _euclidean_ball(centre):
    return centre + np.sqrt(2 * BALL) * _circle()


def _kl_ball(centre):
    """All of KL(p_centre || p) = BALL: the length along each direction, by bisection."""
    short, long = np.zeros(200), np.full(200, 4.0)
    directions = _circle()
    for _ in range(60):
        middle = (short + long) / 2
        outside = FAMILY.kl(centre, centre + middle[:, None] * directions) > BALL
        short, long = np.where(outside, short, middle), np.where(outside, middle, long)
    return centre + short[:, None] * directions


def _path(theta, method, steps=2000):
    """Small steps until the loss is small."""
    points = [theta]
    for _ in range(steps):
        g = gradient(theta)
        d = -natural(theta) if method == NATURAL else -g
        theta = theta + d * min(0.02, 0.02 / np.linalg.norm(d))
        points.append(theta)
        if loss(theta) < 1e-4:
            break
    return np.array(points)


def _checks(made, seed):
    rng, rows = np.random.default_rng(seed), []
    worst = {"kl": 0.0, "fall": 0.0, "angle": 0.0, "spread": 0.0}
    best, control, plain_spread = -np.inf, 90.0, 0.0
    for theta in STARTS:
        F, g = FAMILY.fisher(theta), gradient(theta)
        d = kl_steepest(g, natural(theta), BALL)
        plain = -g * np.sqrt(2 * BALL / (g @ F @ g))
        others = rng.normal(size=(2000, 2))
        others *= np.sqrt(2 * BALL / np.einsum("ij,jk,ik->i", others, F, others))[:, None]
        promised = np.sqrt(2 * BALL * (g @ natural(theta)))
        worst["kl"] = max(worst["kl"], abs(0.5 * d @ F @ d - BALL))
        worst["fall"] = max(worst["fall"], abs(-g @ d - promised))
        best = max(best, (g @ d) / (others @ g).min())
        worst["angle"] = max(worst["angle"], abs(_angle(theta, -natural(theta)) - 90))
        control = min(control, _angle(theta, -g))
        turns = _turns(theta)
        worst["spread"] = max(worst["spread"], turns[NATURAL])
        plain_spread = max(plain_spread, turns[PLAIN])
        after = [float(loss(theta + step)) for step in (d, plain)]
        name = f"μ = {theta[0]:g}, σ = {np.exp(theta[1]):.2f}".replace("-", "−")
        angles = (f"{_angle(theta, -natural(theta)):.1f}°", f"{_angle(theta, -g):.1f}°")
        rows.append((name, f"{float(loss(theta)):.3f}", *(f"{a:.3f}" for a in after), *angles))
    made.check(
        close("½ d′Fd of the steepest step", BALL + worst["kl"], BALL, within=1e-12),
        holds("−g′d against √(2c g′F⁻¹g), largest difference", worst["fall"], "≤ 1e-12",
              worst["fall"] <= 1e-12),
        holds("best of 2000 random steps of that KL, share of its fall", f"{1 / best:.6f}", "≤ 1",
              best >= 1),
        close("angle of natural gradient and contour", 90 + worst["angle"], 90, within=1e-5),
        holds("the same for the gradient, least (negative control)", f"{control:.1f}°", "< 80°",
              control < 80),
        holds("turn of the natural gradient between three parametrisations",
              f"{worst['spread']:.1e}°", "≤ 1e-5°", worst["spread"] <= 1e-5),
        holds("turn of the gradient (negative control)", f"{plain_spread:.1f}°", "> 5°",
              plain_spread > 5),
    )  # fmt: skip
    return Table(
        ("start", "loss", "natural step", "gradient step", "angle, natural", "angle, gradient"),
        rows,
        f"The loss after one step of predicted KL {BALL:g} along each, and the angle at which "
        "each crosses the contour of the loss in distribution space.",
    )


def _jacobian(function, theta, h=1e-6):
    return np.stack(
        [(function(theta + h * e) - function(theta - h * e)) / (2 * h) for e in np.eye(2)], axis=-1
    )


def _degrees(a, b):
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _angle(theta, direction):
    """Between a direction and the contour of the loss, both seen in the half-plane; 0 to 90."""
    J = _jacobian(half_plane, theta)
    g = np.linalg.solve(J.T, gradient(theta))
    angle = _degrees(J @ direction, np.array([-g[1], g[0]]))
    return min(angle, 180 - angle)


def _turns(theta):
    """Largest angle between the directions that three parametrisations give, in the half-plane."""
    J0, directions = _jacobian(half_plane, theta), {NATURAL: [], PLAIN: []}
    for parameter in PARAMETERS:
        sigma = np.exp(theta[1])
        second, slope = {
            "log_sigma": (theta[1], 1.0),
            "sigma": (sigma, 1 / sigma),
            "variance": (sigma**2, 0.5 / sigma**2),
        }[parameter]
        J = np.diag([1.0, slope])  # d (mu, log sigma) / d (mu, second)
        F = Gaussian(parameter).fisher(np.array([theta[0], second]))
        g = J.T @ gradient(theta)
        directions[NATURAL].append(J0 @ J @ np.linalg.solve(F, g))
        directions[PLAIN].append(J0 @ J @ g)
    return {
        name: max(_degrees(given[0], other) for other in given[1:])
        for name, given in directions.items()
    }
