"""Natural gradient descent."""

import math
import numbers
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ConvergenceError, InputError, NotPositiveDefiniteError
from .metric import FISHERS, fisher_metric
from .steps import gain_ratio, kl_scale, model_change

__all__ = ["NaturalGradient"]


@dataclass(frozen=True)
class _State:
    """Damping in force, and the metric kept for the next try after a rejected step."""

    damping: object
    metric: object = None
    X: np.ndarray | None = None


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
    learning_rate : float
    kl_radius : float, optional
        Trust region: the step is shortened until its predicted KL is at most this (S4).
    metric_batch : int, optional
        F comes from this many rows, drawn anew after each accepted step; loss and gradient are
        always those of all rows.
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
    learning_rate: float = 1.0
    kl_radius: float | None = None
    metric_batch: int | None = None
    labels: int = 1

    def __post_init__(self):
        if self.fisher not in FISHERS:
            raise InputError(f"fisher is {self.fisher!r}, expected one of {', '.join(FISHERS)}")
        lam = _lam(self.damping)
        if not (isinstance(lam, numbers.Real) and 0 <= lam < math.inf):
            raise InputError(
                f"damping is {self.damping!r}, expected a finite number >= 0, Tikhonov or "
                "LevenbergMarquardt"
            )
        for name in ("learning_rate", "kl_radius"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} is {value}, expected a positive finite number")
        for name in ("metric_batch", "labels"):
            value = getattr(self, name)
            if value is not None and (int(value) != value or value < 1):
                raise InputError(f"{name} is {value}, expected an integer >= 1")

    @property
    def _adaptive(self):
        return hasattr(self.damping, "step")

    def step(self, problem, point, state):
        """One try from `point`: the point reached (or kept), the new state, the record."""
        state = _State(self.damping) if state is None else state
        if state.metric is None:
            state = self._measure(problem, point, state)
        lam = float(_lam(state.damping))
        record = {"damping": lam, "accepted": False, "rho": -math.inf}

        solution = self._solve(state.metric, point.gradient, problem.model.l2 + lam)
        if solution is None:
            return point, self._rejected(state, record), record
        step = -float(self.learning_rate) * solution.x
        metric_step = state.metric @ step
        if self.kl_radius is not None:
            scale = kl_scale(step, metric_step, self.kl_radius)
            step, metric_step = scale * step, scale * metric_step
        trial = problem.at(point.theta + step)

        curvature_step = metric_step + problem.model.l2 * step
        predicted = model_change(point.gradient, step, curvature_step)
        record |= {
            "residual": float(solution.residual),
            "method": solution.method,
            "plan": solution.plan,
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
        return trial, _State(damping), record

    def _measure(self, problem, point, state):
        """The metric at this point, from all rows or from a batch drawn without replacement."""
        X, y = problem.X, problem.y
        if self.metric_batch is not None:
            if self.metric_batch > len(X):
                raise InputError(
                    f"metric_batch is {self.metric_batch} but X has {len(X)} rows; "
                    "pass None for all of them"
                )
            batch = problem.rng.choice(len(X), self.metric_batch, replace=False)
            X, y = X[batch], y[batch]
        metric = fisher_metric(
            problem.model,
            point.theta,
            X,
            y,
            fisher=self.fisher,
            rng=problem.rng,
            labels=self.labels,
        )
        return replace(state, metric=metric, X=X)

    def _solve(self, metric, gradient, damping):
        """The Solution; None if it failed and an adaptive damping can answer."""
        try:
            solution = metric.solve(gradient, damping=damping)
        except NotPositiveDefiniteError:
            if self._adaptive:
                return None
            raise
        if solution.converged:
            return solution
        if self._adaptive:
            return None
        raise ConvergenceError(
            f"the natural gradient's system ended as {solution.status!r} with relative residual "
            f"{solution.residual:.2e} at damping {damping:.3g}; raise the damping",
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
