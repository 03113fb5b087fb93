"""Step control as pure functions: KL clipping and the gain ratio."""

import math

import numpy as np

from ..errors import InputError

__all__ = ["gain_ratio", "kl_clip", "kl_scale", "model_change"]


def kl_clip(step, metric_step, radius):
    """The step, shortened so that its predicted KL ``1/2 d'Fd`` is at most ``radius`` (S4).

    ``d min(1, sqrt(2 radius / d'Fd))``.

    Parameters
    ----------
    step : (p,) array
        d.
    metric_step : (p,) array
        F d. With (F + lambda I) d = -g, which costs nothing, the clip is at least as hard.
    radius : float > 0
        Largest predicted KL, in nats.

    Returns
    -------
    (p,) array
        `step` itself where it is short enough.

    Raises
    ------
    InputError
        Shapes differ, entries are not finite, or the radius is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> d = np.array([3.0, 4.0])
    >>> kl_clip(d, d, 0.5)      # F = I: a step of length 5 into the ball of radius 1
    array([0.6, 0.8])
    """
    scale = kl_scale(step, metric_step, radius)
    return np.asarray(step) if scale == 1.0 else scale * np.asarray(step)


def kl_scale(step, metric_step, radius):
    """The factor in (0, 1] of `kl_clip`."""
    step, metric_step = _pair(step, metric_step, "step", "metric_step")
    if not 0 < radius < math.inf:
        raise InputError(f"radius is {radius}, expected a positive finite number of nats")
    # In units of the largest entries, so that d'Fd of a huge step does not overflow.
    units = [float(np.abs(v).max(initial=0.0)) for v in (step, metric_step)]
    if 0.0 in units:
        return 1.0
    quadratic = float((step / units[0]) @ (metric_step / units[1]))
    if not quadratic > 0:
        return 1.0
    return min(1.0, math.sqrt(2 * radius / quadratic) / math.sqrt(units[0]) / math.sqrt(units[1]))


def gain_ratio(loss, new_loss, gradient, step, metric_step, *, damping=0.0):
    """Actual over predicted change of the loss, the number that drives the damping (T1).

    ``rho = (h(theta + d) - h(theta)) / M(d)`` with ``M(d) = g'd + 1/2 d'Fd``: the model is the
    *undamped* quadratic, as lambda is a trust in the model, not a part of it. rho is 1 on a
    quadratic whose Hessian is F, negative for a step uphill. With ``damping=lam`` the term
    ``lam/2 ||d||^2`` enters the model, whose minimum the damped step is; that ratio is larger.

    Parameters
    ----------
    loss, new_loss : float
        h before and after the step.
    gradient, step, metric_step : (p,) arrays
        g, d and F d. A penalty l2 belongs to the metric: pass F d + l2 d.
    damping : float
        lambda of the model; 0 leaves it out.

    Returns
    -------
    float
        -inf where the new loss is not finite or the model does not predict a decrease.

    Raises
    ------
    InputError
        Shapes differ or entries are not finite.

    Notes
    -----
    Levenberg-Marquardt (P5): lower the damping above 3/4, raise it below 1/4.

    References
    ----------
    J. Martens, R. Grosse (2015), arXiv:1503.05671, section 6.5.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([1.0, -2.0])           # h = 1/2 x'x, F = I
    >>> d = -0.5 * x
    >>> gain_ratio(x @ x / 2, (x + d) @ (x + d) / 2, x, d, d)
    1.0
    """
    gradient, step = _pair(gradient, step, "gradient", "step")
    step, metric_step = _pair(step, metric_step, "step", "metric_step")
    predicted = model_change(gradient, step, metric_step + damping * step)
    if not math.isfinite(new_loss) or not predicted < 0:
        return -math.inf
    return (float(new_loss) - float(loss)) / predicted


def model_change(gradient, step, metric_step):
    """M(d) = g'd + 1/2 d'Fd in float64."""
    return float(step.astype(np.float64) @ (gradient + 0.5 * metric_step.astype(np.float64)))


def _pair(a, b, name_a, name_b):
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(
            f"{name_a} has shape {a.shape} and {name_b} {b.shape}; pass two vectors of one length"
        )
    for name, v in ((name_a, a), (name_b, b)):
        if v.dtype.kind != "f":
            raise InputError(f"{name} has dtype {v.dtype}, expected a real floating dtype")
        if not np.isfinite(v).all():
            raise InputError(f"{name} has entries that are not finite; shorten or reject the step")
    return a, b
