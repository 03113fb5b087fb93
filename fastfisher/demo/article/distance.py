"""Part 1: two pairs of Gaussians, equally far apart in parameters, not in distribution."""

import numpy as np
from scipy.integrate import quad

from ... import plots
from ...models import Gaussian, GaussianMean
from ..report import Part, Picture, Table, close, number

MEANS = -2.0, 2.0
SIGMAS = 2.0, 0.5
COLOURS = "#44AA99", "#332288"


def part(quick, seed):
    """The article's first pictures, their KL, and the erratum."""
    made = Part("distance", "The same Euclidean distance, two KL divergences")
    made.add(
        """N(−2, σ²) and N(2, σ²) are 4 apart as parameters whatever σ is. As distributions they
        are far apart only where they hardly overlap: that is what the Kullback-Leibler divergence
        sees, and with it the Fisher information F = 1/σ².""",
        _picture(),
        _table(made),
        """Erratum. The article's text gives these pictures a variance of 2 and of 0.5, but the
        curves that it draws have their peaks where standard deviations of 2 and 0.5 put them.
        Read as variances the peaks would be lower and higher, and the divergences others; both
        readings are in the table.""",
        """For this model one natural step with rate 1 lands on the sample mean, whatever σ. Plain
        gradient descent with rate 1 multiplies the error by 1 − 1/σ²: it creeps for σ = 2 and
        diverges for σ = 0.5.""",
        _steps(made, seed),
    )
    return made


def _picture():
    fig, axes = plots.figure(2, height=3.6)
    x = np.linspace(-8, 8, 801)
    for ax, sigma in zip(axes, SIGMAS, strict=True):
        family = GaussianMean(sigma=sigma)
        for mean, shade in zip(MEANS, COLOURS, strict=True):
            density = np.exp(family.log_likelihood(np.array([mean]), x))
            ax.plot(
                x,
                density,
                color=shade,
                linewidth=1.8,
                label=f"N({mean:g}, {sigma:g}²)".replace("-", "−"),
            )
            ax.fill_between(x, density, color=shade, alpha=0.15)
        kl = family.kl(*np.array([MEANS]).T).item()
        ax.set_title(f"σ = {sigma:g}: KL = {kl:.3f} nats")
        ax.set_xlabel("x")
        ax.set_ylabel("density")
        ax.set_ylim(0, 0.85)
        plots.finish(ax, loc="upper right")
    return Picture(
        "distance",
        fig,
        "Both pairs have means 4 apart. Left they overlap, right they do not, and the divergence "
        "is sixteen times as large.",
    )


def _table(made):
    rows = []
    expected = {(2.0, "σ"): (2, 0.1995), (0.5, "σ"): (32, 0.7979)}
    expected |= {(2.0, "σ²"): (4, 0.2821), (0.5, "σ²"): (16, 0.5642)}
    for reading in ("σ", "σ²"):
        for value in SIGMAS:
            family = GaussianMean(sigma=value if reading == "σ" else value**0.5)
            a, b = np.array([MEANS]).T
            kl, F = family.kl(a, b).item(), family.fisher(a).item()
            peak = float(np.exp(family.log_likelihood(a, MEANS[0])))
            pair = np.array([[mean, family.sigma] for mean in MEANS])
            distance = Gaussian().distance(*pair).item()
            name = f"{reading} = {value:g}"
            rows.append(
                (name, f"{peak:.4f}", f"{kl:.3f}", f"{F:.3g}", f"{8 * F:.3f}", f"{distance:.6f}")
            )
            known = expected[value, reading]
            made.check(
                number(f"KL, {name}", kl, known[0]),
                number(f"peak, {name}", peak, known[1], 4),
                close(f"KL by quadrature, {name}", _quadrature(family), kl, within=1e-8 * kl),
                close(f"½ Δ² F, {name}: exact here", 8 * F, kl, within=1e-12 * kl),
            )
            if reading == "σ":
                known = {2.0: 1.862460, 0.5: 4.985802}[value]
                made.check(number(f"Fisher-Rao distance, {name}", distance, known, 6))
    return Table(
        ("reading", "peak", "KL (nats)", "F", "½ Δ² F", "Fisher-Rao distance"),
        rows,
        "The pictures drawn are the first two rows. The last column is the length of the shortest "
        "way through all Gaussians, whose mean and scale may change.",
    )


def _quadrature(family):
    p, q = (np.array([mean]) for mean in MEANS)

    def integrand(x):
        log_p = family.log_likelihood(p, x)
        return float(np.exp(log_p) * (log_p - family.log_likelihood(q, x)))

    ends = MEANS[0] - 40 * family.sigma, MEANS[0] + 40 * family.sigma
    return quad(integrand, *ends, points=[MEANS[0]], epsabs=1e-12, epsrel=1e-12, limit=200)[0]


def _steps(made, seed):
    rng, rows = np.random.default_rng(seed), []
    for sigma, factor in zip(SIGMAS, (0.75, -3.0), strict=True):
        family, theta = GaussianMean(sigma=sigma), np.array([5.0])
        y = rng.normal(1.0, sigma, size=50)
        gradient = -family.score(theta, y).mean(axis=0)
        natural = theta - np.linalg.solve(family.fisher(theta), gradient)
        plain = (theta - gradient - y.mean()) / (theta - y.mean())
        rows.append(
            (f"σ = {sigma:g}", f"{y.mean():.6f}", f"{natural.item():.6f}", f"{plain.item():.3f}")
        )
        made.check(
            close(f"natural step, σ = {sigma:g}", natural.item(), y.mean(), within=1e-12),
            number(f"factor of plain descent, σ = {sigma:g}", plain.item(), factor),
        )
    return Table(
        ("50 samples, start 5", "sample mean", "after one natural step", "error times, plain"), rows
    )
