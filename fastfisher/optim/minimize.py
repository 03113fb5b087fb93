"""The loop round an optimizer: iterate, record, stop, say why."""

import time
from dataclasses import dataclass, field

import numpy as np

from ..arrays import as_array
from ..errors import InputError
from ..scalars import as_count, as_generator, as_real, said
from .problem import Problem, batches

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
        "callback". With batches only the last two, or "max_iterations".
    iterations : int
        Steps tried, rejected ones included.
    rejected : int
        Steps that were tried and not taken.
    history : dict of (iterations + 1,) arrays
        Row t is the state after t steps, row 0 the start: ``loss``, ``gradient_norm``, ``seconds``
        (cumulative, callbacks left out) and ``accepted``; for the natural gradient also
        ``damping`` (lambda, without l2), ``rho`` (gain ratio, T1), ``predicted_kl`` (1/2 d'Fd) and
        ``actual_kl`` of the step tried, ``residual`` (true, relative) and ``method`` of its solve.
        NaN where it does not apply. With batches ``loss`` is that of the step's batch after the
        step, ``gradient_norm`` that of its gradient before it, and ``loss[0]`` that of all rows.
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
    batch=None,
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
        All of them enter the loss and the gradient at every iteration, unless `batch` is given.
    optimizer : NaturalGradient, GradientDescent or Adam
    iterations : int
        The most steps to try.
    theta0 : (p,) array, optional
        The start; ``model.init(rng)`` by default. Left as it is.
    rng : numpy.random.Generator, int or None
        For the start, the metric batches and the Monte-Carlo labels. None draws a new seed.
    batch : int, optional
        Rows of each iteration's loss and gradient, and of its metric if the optimizer has no
        metric batch of its own; every pass over the data takes them in a new order. The result's
        loss is that of all rows.
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
    iterations = as_count(iterations, "iterations")
    if isinstance(optimizer, type) or not callable(getattr(optimizer, "step", None)):
        raise InputError(
            f"optimizer is {optimizer!r}, expected an optimizer, such as "
            "NaturalGradient(damping=0.1) or Adam(0.01)"
        )
    if isinstance(model, type) or not callable(getattr(model, "loss", None)):
        raise InputError(
            f"model is {said(model)}; expected one of fastfisher.models, or with their methods"
        )
    for name, function in {"callback": callback, "progress": progress}.items():
        if not (function is None or callable(function)):
            raise InputError(f"{name} is {said(function)}; expected a function or None")
    gtol, rng = as_real(gtol, "gtol"), as_generator(rng)
    theta = _start(model.init(rng) if theta0 is None else theta0)
    y = y if y is None else as_array(y, "y")  # a model of the caller's may do without
    problem = Problem(model, as_array(X, "X"), y, rng)
    source = _source(problem, batch, gtol)
    point = problem.at(theta)
    if not point.finite:
        gradient = " but its gradient overflows" if np.isfinite(point.loss) else ""
        raise InputError(
            f"the loss at theta0 is {point.loss}{gradient}; start from a smaller theta0"
        )

    state, plan, rejected, seconds = None, None, 0, 0.0
    rows = [_row(point, {}, seconds, point.gradient)]
    status = None if source else _flat(point, gtol)
    while status is None and len(rows) <= iterations:
        began = time.perf_counter()
        if source:
            here = next(source).at(point.theta)
            if here.gradient is None:
                status = "not_finite"
                break
            point = here
        trial, state, record = optimizer.step(point.problem, point, state)
        finite = trial.finite
        seconds += time.perf_counter() - began
        plan = record.get("plan", plan)
        rejected += not record.get("accepted", True)
        rows.append(_row(trial, record, seconds, (point if source else trial).gradient))
        if not finite:
            status = "not_finite"
            break
        point = trial
        if not source:
            status = record.get("status") or _flat(point, gtol)
        if progress is not None:
            progress(len(rows) - 1, iterations, point.loss)
        if callback is not None and callback(len(rows) - 1, point.theta.copy(), dict(rows[-1])):
            status = status or "callback"
    history = {name: np.array([row[name] for row in rows]) for name in _COLUMNS}
    return MinimizeResult(
        theta=point.theta,
        loss=problem.at(point.theta).loss if source else point.loss,
        status=status or "max_iterations",
        iterations=len(rows) - 1,
        rejected=rejected,
        history=history,
        plan=plan,
    )


def _start(theta0):
    """A copy of the start, finite."""
    theta = np.array(as_array(theta0, "theta0"))
    if theta.ndim != 1 or theta.dtype.kind not in "fciu":
        raise InputError(f"theta0 is {theta.dtype} of shape {theta.shape}; expected numbers (p,)")
    bad = np.flatnonzero(~np.isfinite(theta))
    if bad.size:
        raise InputError(f"theta0[{bad[0]}] is {theta[bad[0]]}; every entry must be finite")
    return theta


def _source(problem, batch, gtol):
    """The batches, or None where every iteration sees all rows."""
    if batch is None:
        return None
    n = len(problem.X) if problem.X.ndim else 0
    try:
        batch = as_count(batch, "batch", least=1, most=n)
    except InputError as error:
        raise InputError(
            f"batch is {said(batch)}, expected an integer from 1 to the {n} rows of X"
        ) from error
    if gtol:
        raise InputError(
            f"gtol is {gtol} but a batch does not show the gradient of all rows; leave one out"
        )
    return batches(problem, batch)


def _flat(point, gtol):
    return "converged" if np.abs(point.gradient).max(initial=0.0) <= gtol else None


def _row(point, record, seconds, gradient):
    with np.errstate(over="ignore"):
        norm = np.nan if gradient is None else float(np.linalg.norm(gradient))
    known = {"loss": point.loss, "gradient_norm": norm, "seconds": seconds}
    return {name: known.get(name, record.get(name, blank)) for name, blank in _COLUMNS.items()}
