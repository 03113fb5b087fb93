"""The loop round an optimizer: iterate, record, stop, say why."""

import time
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from .problem import Problem

__all__ = ["MinimizeResult", "minimize"]

# One array each in the history, with the value it has where an optimizer does not fill it.
_COLUMNS = {
    "loss": np.nan,
    "gradient_norm": np.nan,
    "seconds": 0.0,
    "accepted": True,
    "damping": np.nan,
    "rho": np.nan,
    "predicted_kl": np.nan,
    "actual_kl": np.nan,
    "residual": np.nan,
    "method": "",
}


@dataclass(frozen=True)
class MinimizeResult:
    """What `minimize` reached and how.

    Attributes
    ----------
    theta : (p,) array
        The last point accepted; its loss is finite.
    loss : float
    status : str
        "converged" (the gradient is within gtol, or a decrease would be below rounding),
        "max_iterations", "stagnated" (the damping is so large that steps vanish, or cannot grow
        after a rejection), "not_finite" (the loss overflowed; theta is the point before), or
        "callback".
    iterations : int
        Steps tried, rejected ones included.
    rejected : int
        Steps that were tried and not taken.
    history : dict of (iterations + 1,) arrays
        Row t is the state after t steps, row 0 the start: ``loss``, ``gradient_norm``, ``seconds``
        (cumulative, callbacks left out) and ``accepted``; for the natural gradient also
        ``damping`` (lambda, without l2), ``rho`` (gain ratio, T1), ``predicted_kl`` (1/2 d'Fd) and
        ``actual_kl`` of the step tried, ``residual`` (true, relative) and ``method`` of its solve.
        NaN where it does not apply.
    plan : Plan or None
        How the last linear system was solved.
    """

    theta: np.ndarray = field(repr=False)
    loss: float
    status: str
    iterations: int
    rejected: int
    history: dict = field(repr=False)
    plan: object = field(repr=False, default=None)

    @property
    def converged(self):
        return self.status == "converged"

    @property
    def seconds(self):
        """Time spent in steps."""
        return float(self.history["seconds"][-1])


def minimize(
    model,
    X,
    y,
    *,
    optimizer,
    iterations,
    theta0=None,
    rng=None,
    gtol=0.0,
    callback=None,
    progress=None,
):
    """Minimise ``model.loss`` over theta on the data (X, y).

    Parameters
    ----------
    model : object
        As in `fastfisher.models`.
    X, y : arrays
        All of them enter the loss and the gradient at every iteration.
    optimizer : NaturalGradient, GradientDescent or Adam
    iterations : int
        The most steps to try.
    theta0 : (p,) array, optional
        The start; ``model.init(rng)`` by default. Left as it is.
    rng : numpy.random.Generator, int or None
        For the start, the metric batches and the Monte-Carlo labels. None draws a new seed.
    gtol : float
        Converged when the largest entry of the gradient is at most this.
    callback : callable(iteration, theta, record), optional
        Called after each step with the row of the history; a true result stops.
    progress : callable(iteration, iterations, loss), optional

    Returns
    -------
    MinimizeResult

    Raises
    ------
    InputError
        Wrong shapes or values, or a loss that is not finite at theta0.
    ConvergenceError, NotPositiveDefiniteError
        The natural gradient with a fixed damping could not solve its system.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.models import SoftmaxRegression
    >>> from fastfisher.optim import GradientDescent, minimize
    >>> X, y = np.array([[-1.0], [0.5], [2.0]]), np.array([0, 1, 1])
    >>> fit = minimize(SoftmaxRegression(1, 2, l2=0.1), X, y,
    ...                optimizer=GradientDescent(0.5), iterations=200, gtol=1e-8)
    >>> fit.status, round(fit.loss, 4)
    ('converged', 0.2427)
    """
    if int(iterations) != iterations or iterations < 0:
        raise InputError(f"iterations is {iterations}, expected an integer >= 0")
    rng = np.random.default_rng(rng)
    theta = np.array(model.init(rng) if theta0 is None else theta0)
    problem = Problem(model, np.asarray(X), np.asarray(y), rng)
    point = problem.at(theta)
    if not point.finite:
        raise InputError(f"the loss at theta0 is {point.loss}; start from a smaller theta0")

    state, plan, rejected, seconds = None, None, 0, 0.0
    rows = [_row(point, {}, seconds)]
    status = _flat(point, gtol)
    while status is None and len(rows) <= iterations:
        began = time.perf_counter()
        trial, state, record = optimizer.step(problem, point, state)
        seconds += time.perf_counter() - began
        plan = record.get("plan", plan)
        rejected += not record.get("accepted", True)
        rows.append(_row(trial, record, seconds))
        if not trial.finite:
            status = "not_finite"
            break
        point = trial
        status = record.get("status") or _flat(point, gtol)
        if progress is not None:
            progress(len(rows) - 1, iterations, point.loss)
        if callback is not None and callback(len(rows) - 1, point.theta, rows[-1]):
            status = status or "callback"
    history = {name: np.array([row[name] for row in rows]) for name in _COLUMNS}
    return MinimizeResult(
        theta=point.theta,
        loss=point.loss,
        status=status or "max_iterations",
        iterations=len(rows) - 1,
        rejected=rejected,
        history=history,
        plan=plan,
    )


def _flat(point, gtol):
    return "converged" if np.abs(point.gradient).max(initial=0.0) <= gtol else None


def _row(point, record, seconds):
    norm = float(np.linalg.norm(point.gradient)) if point.finite else np.nan
    known = {"loss": point.loss, "gradient_norm": norm, "seconds": seconds}
    return {name: known.get(name, record.get(name, blank)) for name, blank in _COLUMNS.items()}
