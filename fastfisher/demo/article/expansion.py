"""Part 2: half d'Fd is the KL divergence up to the third order."""

import numpy as np

from ... import plots
from ...models import MLP, Bernoulli, Gaussian
from ...optim import structured_metric
from ..report import Part, Picture, Table, close

SIZES = np.logspace(-1, -4, 7)
CURVES = ("KL", "½ d′Fd", "|KL − ½ d′Fd|", "symmetrised, F midway")


def part(quick, seed):
    """KL against its quadratic form as the step shrinks, for a coin, a Gaussian and a network."""
    made = Part("expansion", "KL against ½ d′Fd as the step d shrinks")
    made.add(
        """The Fisher matrix is the curvature of KL(p(θ) ‖ p(θ + d)) at d = 0: the divergence and
        ½ d′Fd agree up to terms of the third order. On logarithmic scales both fall with slope 2
        and their difference with slope 3. The mean of both argument orders, with F halfway between
        the two points, is right up to the fourth order."""
    )
    rng = np.random.default_rng(seed)
    fig, axes = plots.figure(3, width=4.6, height=4.2)
    rows = []
    for ax, (title, kl, fisher, theta, direction) in zip(axes, _cases(rng), strict=True):
        values = np.array([_values(kl, fisher, theta, size * direction) for size in SIZES])
        curves = dict(zip(CURVES, values.T, strict=True))
        # Where all differences are far above their rounding.
        slopes = {name: _slope(curve) for name, curve in curves.items()}
        plots.power_laws(SIZES, curves, slopes=slopes, ax=ax)
        ax.set_title(title)
        ax.set_xlabel("|d|")
        ax.set_ylabel("nats")
        ax.set_ylim(1e-23, 1)
        ax.legend(frameon=False, fontsize="small", loc="lower right")
        rows.append((title, *(f"{slopes[name]:.3f}" for name in CURVES)))
        for name, wanted in zip(CURVES, (2, 2, 3, 4), strict=True):
            made.check(close(f"{title}: slope of {name}", slopes[name], wanted, within=0.15))
    picture = Picture(
        "expansion",
        fig,
        "The two upper curves lie on each other; what is between them falls one power faster.",
    )
    caption = "Slopes between |d| = 0.0316 and 0.00316."
    return made.add(picture, Table(("slope of", *CURVES), rows, caption))


def _cases(rng):
    coin, gauss = Bernoulli(), Gaussian("log_sigma")
    yield "coin, θ = 0.3", coin.kl, coin.fisher, np.array([0.3]), np.array([1.0])
    direction = np.array([0.6, 0.8])
    yield "Gaussian, (μ, log σ)", gauss.kl, gauss.fisher, np.array([0.5, -0.3]), direction
    network = MLP((5, 8, 3))
    X = rng.normal(size=(50, 5))
    theta = network.init(rng)
    direction = rng.normal(size=network.n_params)
    yield (
        f"network of {network.n_params} parameters",
        lambda a, b: network.kl(a, b, X),
        lambda t: structured_metric(network, t, X).matrix(),
        theta,
        3 * direction / np.linalg.norm(direction),
    )


def _values(kl, fisher, theta, d):
    there, back = float(kl(theta, theta + d)), float(kl(theta + d, theta))
    quadratic = 0.5 * d @ fisher(theta) @ d
    midway = 0.5 * d @ fisher(theta + d / 2) @ d
    return there, quadratic, abs(there - quadratic), abs((there + back) / 2 - midway)


def _slope(curve):
    return float(np.log10(curve[1] / curve[3]))
