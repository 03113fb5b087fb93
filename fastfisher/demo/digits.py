"""`fastfisher demo`: natural gradient, gradient descent and Adam on the UCI digits.

Softmax regression and a small MLP are trained through the public API. scikit-learn brings the
data, so nothing is downloaded; Matplotlib draws the pictures.
"""

import textwrap
import time
from dataclasses import dataclass, field

import numpy as np

from .. import plots
from ..damping import LevenbergMarquardt
from ..models import MLP, SoftmaxRegression
from ..optim import Adam, GradientDescent, NaturalGradient, fisher_metric, minimize
from .data import start
from .progress import Progress

__all__ = ["run", "tasks"]

GRIDS = {
    "gradient descent": (GradientDescent, (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)),
    "Adam": (Adam, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)),
}


@dataclass(frozen=True)
class Task:
    """One model and how it is trained."""

    name: str
    title: str
    model: object
    iterations: int
    damping: float
    metric_batch: int | None = None


@dataclass
class Outcome:
    """What one task gave."""

    task: Task
    fits: dict = field(default_factory=dict)
    optimum: float | None = None

    @property
    def won(self):
        natural, *others = (fit.loss for fit in self.fits.values())
        return all(natural < loss for loss in others)


def tasks(quick):
    """The two models; quick takes fewer iterations and a part of the data for the MLP's Fisher."""
    softmax = SoftmaxRegression(64, 10, l2=1e-3)
    network = MLP((64, 32, 10), activation="tanh", l2=1e-4)
    return (
        Task("softmax", "Softmax regression", softmax, 10 if quick else 20, damping=1e-3),
        Task(
            "mlp",
            "MLP 64-32-10 (tanh)",
            network,
            10 if quick else 40,
            damping=1e-1,
            metric_batch=150 if quick else None,
        ),
    )


def run(*, quick=False, output_dir="fastfisher-demo", stream=None, seed=0):
    """Train, compare, draw.

    Parameters
    ----------
    quick : bool
        Under 20 s on two cores instead of some minutes.
    output_dir : path
        For the PNGs; made if it is not there.
    stream : text file, optional
        Where the report goes, standard output by default. Progress goes to standard error.
    seed : int
        Of the train/test split, the MLP's start and the metric batches.

    Returns
    -------
    int
        0 if natural gradient had the lowest training loss of the three at equal iterations for
        both models, else 1.

    Raises
    ------
    InputError
        The seed is not an integer >= 0.
    MissingDependencyError
        scikit-learn or Matplotlib is not installed.
    OSError
        The output directory cannot be written.
    """
    began = time.perf_counter()
    say, digits, output_dir = start(output_dir, stream, seed)
    train, test = _split(*digits, seed)
    say("Natural gradient against gradient descent and Adam on the UCI digits (8x8 images).")
    say(f"{len(train[1])} images to train on, {len(test[1])} to test, 10 classes; seed {seed}.")
    compiling = time.perf_counter()
    chosen = tasks(quick)
    _compile(chosen[0], *train)
    say(f"Kernels ready after {time.perf_counter() - compiling:.1f} s.")

    outcomes = []
    for number, task in enumerate(chosen, start=1):
        say(f"\n{number}. {task.title}, {task.model.n_params} parameters, l2 {task.model.l2:g}")
        outcomes.append(_train(task, train, test, seed, say))

    say("\nPictures")
    for path in _pictures(outcomes, train, output_dir):
        say(f"  {path}")
    say(f"\nDone in {time.perf_counter() - began:.0f} s.")
    lost = [outcome.task.title for outcome in outcomes if not outcome.won]
    for title in lost:
        say(f"Natural gradient did not reach the lowest training loss for: {title}.")
    return 1 if lost else 0


# Training --------------------------------------------------------------------------------------


def _split(X, y, seed):
    """((X, y) to train, (X, y) to test), 80/20."""
    order = np.random.default_rng(seed).permutation(len(X))
    train, test = np.split(order, [len(X) * 4 // 5])
    return (X[train], y[train]), (X[test], y[test])


def _compile(task, X, y):
    """One step on as many images as make p rows of scores, so that no timed step compiles."""
    model = task.model
    n = -(-model.n_params // model.n_classes)
    minimize(model, X[:n], y[:n], optimizer=NaturalGradient(damping=1.0), iterations=1)


def _train(task, train, test, seed, say):
    """Fit one model with every method from the same start, and report."""
    model, outcome = task.model, Outcome(task)
    theta0 = model.init(np.random.default_rng(seed))

    def fit(optimizer, label):
        with Progress(f"{task.title}, {label}") as progress:
            return minimize(
                model,
                *train,
                optimizer=optimizer,
                iterations=task.iterations,
                theta0=theta0,
                rng=seed,
                progress=progress,
            )

    natural = NaturalGradient(
        fisher="exact",
        damping=LevenbergMarquardt(task.damping),
        metric_batch=task.metric_batch,
    )
    rows = task.metric_batch or len(train[1])
    say(
        f"   exact Fisher from {rows} images, Levenberg-Marquardt damping from {task.damping:g}, "
        f"{task.iterations} iterations"
    )
    outcome.fits["natural gradient"] = fit(natural, "natural gradient")
    settings = {"natural gradient": _damping_range(outcome.fits["natural gradient"].history)}
    say("   learning rates tried and the training loss that each reached (* best)")
    for method, (optimizer, rates) in GRIDS.items():
        fits = {rate: fit(optimizer(rate), f"{method} at {rate:g}") for rate in rates}
        best = min(rates, key=lambda rate: _reached(fits[rate]))
        outcome.fits[method], settings[method] = fits[best], f"rate {best:g}"
        losses = (f"{_reached(fits[r]):.4g}{'*' if r == best else ''}" for r in rates)
        say(f"     {method:<18}" + "".join(f"{r:>10g}" for r in rates))
        say(f"     {'':<18}" + "".join(f"{loss:>10}" for loss in losses))
    say()
    say(
        f"   {'method':<18}{'rate or damping':<24}{'train loss':>12}{'test accuracy':>15}"
        f"{'iterations':>12}{'seconds':>9}"
    )
    for method, result in outcome.fits.items():
        accuracy = model.accuracy(result.theta, *test)
        say(
            f"   {method:<18}{settings[method]:<24}{result.loss:>12.6f}{accuracy:>14.1%} "
            f"{result.iterations:>12}{result.seconds:>9.2f}"
        )
    _report(task, outcome, train, say)
    return outcome


def _reached(fit):
    """The loss a run ended with; infinite if it overflowed on the way."""
    return np.inf if fit.status == "not_finite" else fit.loss


def _damping_range(history):
    lam = history["damping"][1:]
    return f"lambda {lam[0]:.0e} to {lam[-1]:.0e}" if len(lam) else "lambda"


def _report(task, outcome, train, say):
    """What else there is to know about the natural gradient's run."""
    fit = outcome.fits["natural gradient"]
    say()
    if task.name == "softmax":
        outcome.optimum = _sklearn_optimum(task.model, *train)
        say(
            f"   scikit-learn's LogisticRegression finds {outcome.optimum:.12f}; "
            f"natural gradient ends {fit.loss - outcome.optimum:.0e} above it"
        )
    if fit.plan is None:
        return
    residuals = fit.history["residual"]
    solved = np.isfinite(residuals)
    say(
        f"   largest true residual of {solved.sum()} solves: {residuals[solved].max():.1e}; "
        f"steps rejected: {fit.rejected}; ended as {fit.status}"
    )
    say("   plan of the last solve")
    say(textwrap.indent(str(fit.plan), "   "))


def _sklearn_optimum(model, X, y):
    """The least loss, from an independent solver of the same objective.

    The bias is penalised like every weight, hence a column of ones and no intercept; scikit-learn
    multiplies the likelihood by C where we multiply the penalty by l2, so C = 1 / (n l2).
    """
    from sklearn.linear_model import LogisticRegression

    solver = LogisticRegression(
        C=1 / (len(X) * model.l2), fit_intercept=False, solver="newton-cg", tol=1e-10, max_iter=1000
    )
    solver.fit(np.c_[X, np.ones(len(X))], y)
    return model.loss(solver.coef_.ravel(), X, y)


# Pictures --------------------------------------------------------------------------------------


def _pictures(outcomes, train, output_dir):
    """Draw the three pictures, yielding the path of each as it is written."""
    fig, axes = plots.figure(len(outcomes))
    for ax, outcome in zip(axes, outcomes, strict=True):
        losses = {method: fit.history["loss"] for method, fit in outcome.fits.items()}
        plots.loss_curves(losses, optimum=outcome.optimum, ax=ax).set_title(outcome.task.title)
    yield plots.save(fig, output_dir / "loss.png")

    fig, axes = plots.figure(len(outcomes))
    for ax, outcome in zip(axes, outcomes, strict=True):
        task, fit = outcome.task, outcome.fits["natural gradient"]
        metric = fisher_metric(task.model, fit.theta, train[0][: task.metric_batch])
        shift = task.model.l2 + np.nan_to_num(fit.history["damping"][-1])
        plots.spectrum(metric.eigvalsh(), damping=shift, damping_label="λ + l2", ax=ax)
        ax.set_title(f"{task.title}: exact Fisher after training")
    yield plots.save(fig, output_dir / "spectrum.png")

    fig, axes = plots.figure(len(outcomes))
    for ax, outcome in zip(axes, outcomes, strict=True):
        history = outcome.fits["natural gradient"].history
        plots.kl_predicted_actual(history["predicted_kl"], history["actual_kl"], ax=ax)
        ax.set_title(outcome.task.title)
    yield plots.save(fig, output_dir / "kl.png")
