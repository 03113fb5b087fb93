"""Natural gradient descent."""

import math
import numbers
from dataclasses import dataclass, field, replace

import numpy as np

from ..arrays import as_array
from ..errors import ConvergenceError, InputError, NotPositiveDefiniteError
from ..scalars import as_count, as_number, as_positive, as_real
from .momentum import NoMomentum
from .power import check_power, inverse_power
from .schedules import check_rate, rate_at
from .steps import gain_ratio, kl_scale, model_change
from .structures import check_structure, structured_metric

__all__ = ["NaturalGradient"]


@dataclass(frozen=True)
class _State:
    """Damping in force, what momentum remembers, and the metric kept after a rejected step."""

    damping: object
    previous: np.ndarray
    steps: int = 0
    metric: object = None
    X: np.ndarray | None = None
    running: object = None


@dataclass(frozen=True, kw_only=True)
class NaturalGradient:
    """theta <- theta - learning_rate (F + (l2 + lambda) I)^-1 gradient (docs/math.md, S1, S2).

    F is the Fisher matrix of the model at theta, l2 its penalty, whose Hessian is l2 I: for
    softmax regression with the exact Fisher and lambda -> 0 this is Newton's method.

    Parameters
    ----------
    damping : float or LevenbergMarquardt
        lambda. A float stays and every finite step is taken. An object with ``.lam`` and
        ``.step(rho)`` adapts by the gain ratio (T1, P5): a step with rho <= 0, a loss that is not
        finite or a failed factorisation is rejected, theta stays, and the next try has the
        damping that ``.step`` answers.
    fisher : {"exact", "mc", "empirical"}
        See `fisher_metric`.
    structure : {"full", "layered", "diagonal", "kfac", "ekfac"}
        What is kept of F, see `structured_metric`.
    power : float in (0, 1]
        The step is ``(F + (l2 + lambda) I)^-power`` times the gradient (S3).
    learning_rate : float or callable
        A callable is given the number of the step taken, 1, 2, ...: ``lambda k: 1 / k`` makes
        averages of a stream (W1).
    momentum : HeavyBall, SpringMomentum, ModelMomentum, optional
    kl_radius : float, optional
        Trust region: the step is shortened until its predicted KL is at most this (S4).
    metric_batch : int, optional
        F comes from this many rows, drawn anew after each accepted step; by default from the rows
        of the loss and the gradient: all of them, or the batch of `minimize`.
    metric_X : (m, d) array, optional
        Rows that F comes from in place of the data's (Z2); without labels, so not for
        "empirical". metric_batch draws from them.
    decay : float in (0, 1), optional
        F is a running average: what was seen before counts `decay` times (U3). None forgets.
    labels : int
        Labels drawn per row for ``fisher="mc"``.

    Notes
    -----
    Cost of an iteration with m rows of scores: m p^2 + p^3/3 flops where m >= p, else the dual
    route's m^2 p + m^3/3. After a rejected step only the factorisation is repeated.

    References
    ----------
    S. Amari (1998), Neural Computation 10(2); J. Martens (2020), JMLR 21:146.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> X, y = np.array([[-1.0], [0.5], [2.0]]), np.array([0, 1, 1])
    >>> fit = ff.optim.minimize(
    ...     ff.models.SoftmaxRegression(1, 2, l2=0.1), X, y, iterations=20,
    ...     optimizer=ff.optim.NaturalGradient(damping=ff.LevenbergMarquardt(1e-2)))
    >>> fit.status, round(fit.loss, 4)
    ('converged', 0.2427)
    """

    damping: object
    fisher: str = "exact"
    structure: str = "full"
    power: float = 1.0
    learning_rate: object = 1.0
    momentum: object = None
    kl_radius: float | None = None
    metric_batch: int | None = None
    metric_X: np.ndarray | None = field(default=None, repr=False, compare=False)
    decay: float | None = None
    labels: int = 1

    def __post_init__(self):
        decay = 1.0 if self.decay is None else as_number(self.decay, "decay")
        check_structure(self.structure, self.fisher, decay)
        if self.decay is not None and decay == 1:
            raise InputError("decay is 1, expected a number in (0, 1), or None to forget at once")
        check_power(self.power)
        check_rate(self.learning_rate)
        momentum = self.momentum
        if momentum is not None and (
            isinstance(momentum, type) or not hasattr(momentum, "right_hand_side")
        ):
            raise InputError(
                f"momentum is {momentum!r}, expected None or an object such as HeavyBall(0.9)"
            )
        if self.metric_X is not None and self.fisher == "empirical":
            raise InputError("metric_X has no labels, which fisher='empirical' needs; use 'mc'")
        lam = _lam(self.damping)
        if not (isinstance(lam, numbers.Real) and 0 <= lam < math.inf):
            raise InputError(
                f"damping is {self.damping!r}, expected a finite number >= 0, Tikhonov or "
                "LevenbergMarquardt"
            )
        if self.kl_radius is not None:
            as_positive(self.kl_radius, "kl_radius")
        if self.metric_batch is not None:
            as_count(self.metric_batch, "metric_batch", least=1)
        as_count(self.labels, "labels", least=1)

    @property
    def _adaptive(self):
        return hasattr(self.damping, "step")

    def step(self, problem, point, state):
        """One try from `point`: the point reached (or kept), the new state, the record."""
        if state is None:
            state = _State(self.damping, np.zeros_like(point.theta))
        if state.metric is None:
            state = self._measure(problem, point, state)
        lam = as_real(_lam(state.damping), "damping")
        shift = problem.model.l2 + lam
        record = {"damping": lam, "accepted": False, "rho": -math.inf}

        momentum, metric = self.momentum or NoMomentum(), state.metric
        b = momentum.right_hand_side(point.gradient, lam, state.previous)
        natural, solved = self._solve(metric, b, shift)
        if natural is None:
            return point, self._rejected(state, record), record
        rate = rate_at(self.learning_rate, state.steps + 1)
        step = momentum.step(
            natural, state.previous, rate, point.gradient, lambda v: metric @ v + shift * v
        )
        metric_step = metric @ step
        if self.kl_radius is not None:
            scale = kl_scale(step, metric_step, self.kl_radius)
            step, metric_step = scale * step, scale * metric_step
        trial = problem.at(point.theta + step)

        curvature_step = metric_step + problem.model.l2 * step
        predicted = model_change(point.gradient, step, curvature_step)
        record |= solved | {
            "predicted_kl": 0.5 * float(step @ metric_step),
            "actual_kl": self._kl(problem.model, point.theta, trial, state.X),
            "rho": gain_ratio(point.loss, trial.loss, point.gradient, step, curvature_step),
        }
        # log p carries errors of some eps, so a smaller change of the loss cannot be seen.
        noise = 8 * float(np.finfo(step.dtype).eps) * max(1.0, abs(point.loss))
        if abs(predicted) <= noise:
            flat = _cauchy_decrease(problem.model.l2, state.metric, point.gradient) <= noise
            record["status"] = "converged" if flat else "stagnated"
            record["accepted"] = flat and trial.loss <= point.loss + noise
            return (trial if record["accepted"] else point), state, record
        if self._adaptive and not (trial.finite and record["rho"] > 0):
            return point, self._rejected(state, record), record
        record["accepted"] = True
        damping = state.damping.step(record["rho"]) if self._adaptive else state.damping
        taken = momentum.remember(step, rate)
        kept = {"running": state.running, "previous": taken, "steps": state.steps + 1}
        return trial, _State(damping, **kept), record

    def _measure(self, problem, point, state):
        """The metric at this point, from the rows of the gradient or from others."""
        X, y = problem.X, problem.y
        if self.metric_X is not None:
            X, y = as_array(self.metric_X, "metric_X"), None
        elif self.metric_batch is not None:
            X, y = problem.all_rows
        if self.metric_batch is not None:
            if self.metric_batch > len(X):
                name = "X" if self.metric_X is None else "metric_X"
                raise InputError(
                    f"metric_batch is {self.metric_batch} but {name} has {len(X)} rows; "
                    "pass None for all of them"
                )
            batch = problem.rng.choice(len(X), self.metric_batch, replace=False)
            X, y = X[batch], None if y is None else y[batch]
        metric = structured_metric(
            problem.model,
            point.theta,
            X,
            y,
            structure=self.structure,
            fisher=self.fisher,
            rng=problem.rng,
            labels=self.labels,
            running=state.running,
            decay=1.0 if self.decay is None else self.decay,
        )
        running = None if self.decay is None else metric
        return replace(state, metric=metric, X=X, running=running)

    def _solve(self, metric, b, shift):
        """(x, what the history records); x is None if it failed and the damping can answer."""
        try:
            if self.power != 1:
                x = inverse_power(metric, b, damping=shift, power=self.power)
                return x, {"method": "power"}
            solution = metric.solve(b, damping=shift)
        except NotPositiveDefiniteError:
            if self._adaptive:
                return None, {}
            raise
        if solution.converged:
            return solution.x, {
                "residual": float(solution.residual),
                "method": solution.method,
                "plan": solution.plan,
            }
        if self._adaptive:
            return None, {}
        raise ConvergenceError(
            f"the natural gradient's system ended as {solution.status!r} with relative residual "
            f"{solution.residual:.2e} at damping {shift:.3g}; raise the damping",
            solution=solution,
        )

    @staticmethod
    def _rejected(state, record):
        damping = state.damping.step(record["rho"])
        if _lam(damping) == _lam(state.damping):
            record["status"] = "stagnated"  # the next try would be the same
        return replace(state, damping=damping)

    @staticmethod
    def _kl(model, theta, trial, X):
        return model.kl(theta, trial.theta, X) if trial.finite else math.inf


def _lam(damping):
    return getattr(damping, "lam", damping)


def _cauchy_decrease(l2, metric, gradient):
    """Least of the undamped model along the gradient, (g'g)^2 / (2 g'(F + l2 I)g).

    It tells a flat loss from a damping so large that every step vanishes.
    """
    largest = float(np.abs(gradient).max(initial=0.0))
    if largest == 0:
        return 0.0
    unit = gradient / largest
    square = float(unit @ unit)
    curvature = float(unit @ (metric @ unit)) + l2 * square
    return (largest * square) ** 2 / (2 * curvature) if curvature > 0 else math.inf
