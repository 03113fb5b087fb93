"""Step control as pure functions: clipping, the gain ratio, step size with momentum."""

import math

import numpy as np

from ..arrays import as_answer, as_array
from ..errors import InputError
from ..scalars import as_number, as_positive, as_real

__all__ = [
    "gain_ratio",
    "kl_clip",
    "kl_scale",
    "kl_steepest",
    "model_change",
    "norm_clip",
    "two_steps",
]


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
    radius = as_positive(radius, "radius")
    # In units of the largest entries, so that d'Fd of a huge step does not overflow.
    units = [float(np.abs(v).max(initial=0.0)) for v in (step, metric_step)]
    if 0.0 in units:
        return 1.0
    quadratic = float((step / units[0]) @ (metric_step / units[1]))
    if not quadratic > 0:
        return 1.0
    return min(1.0, math.sqrt(2 * radius / quadratic) / math.sqrt(units[0]) / math.sqrt(units[1]))


def kl_steepest(gradient, natural, radius):
    """The step that lowers the loss most, to first order, at a predicted KL of `radius` (S1).

    ``-sqrt(2 radius / g'x) x`` with ``x = F^-1 g``: among all d with ``1/2 d'Fd = radius`` it has
    the least ``g'd``. With F = I it is the gradient, scaled to length ``sqrt(2 radius)``.

    Parameters
    ----------
    gradient, natural : (p,) arrays
        g and F^-1 g.
    radius : float > 0
        In nats.

    Returns
    -------
    (p,) array

    Raises
    ------
    InputError
        Shapes differ, entries are not finite, the radius is not positive, or ``g'x <= 0``: no
        positive definite F maps x to g.

    Examples
    --------
    >>> import numpy as np
    >>> kl_steepest(np.array([3.0, 4.0]), np.array([3.0, 4.0]), 0.5)
    array([-0.6, -0.8])
    """
    gradient, natural = _pair(gradient, natural, "gradient", "natural")
    radius = as_positive(radius, "radius")
    units = [float(np.abs(v).max(initial=0.0)) for v in (gradient, natural)]
    if 0.0 in units:
        raise InputError("the gradient is zero, so no direction is steepest")
    unit = natural / units[1]
    product = float((gradient / units[0]) @ unit)
    if not product > 0:
        raise InputError(
            f"gradient'natural is {product:.3g} times their sizes, expected > 0; pass F^-1 gradient"
        )
    length = math.sqrt(2 * radius) * math.sqrt(units[1]) / math.sqrt(units[0]) / math.sqrt(product)
    with np.errstate(over="ignore"):
        return as_answer(-unit.astype(np.float64) * length, natural.dtype, "the step")


def norm_clip(step, radius):
    """The step, shortened to a Euclidean length of at most ``radius``: ``d min(1, radius / |d|)``.

    Parameters
    ----------
    step : (p,) array
        Real or complex.
    radius : float > 0

    Returns
    -------
    (p,) array
        `step` itself where it is short enough.

    Raises
    ------
    InputError
        The step is no vector of finite floats, or the radius is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> norm_clip(np.array([3.0, 4.0]), 1.0)
    array([0.6, 0.8])
    """
    step = as_array(step, "step")
    if step.ndim != 1 or step.dtype.kind not in "fc":
        raise InputError(f"step is {step.dtype} of shape {step.shape}; pass one vector of floats")
    if not np.isfinite(step).all():
        raise InputError("step has entries that are not finite; shorten or reject the step")
    radius = as_positive(radius, "radius")
    largest = float(np.abs(step).max(initial=0.0))
    if largest == 0:
        return step
    length = float(np.linalg.norm(step / largest))  # |d| itself may overflow
    if length * largest <= radius:
        return step
    return (step / largest) * step.real.dtype.type(radius / length)


def two_steps(gradient, step, previous, metric_step, metric_previous):
    """Step size and momentum that minimise the quadratic model along two directions (T2).

    ``alpha, mu`` of ``d = alpha step + mu previous`` minimise ``g'd + 1/2 d'Ad``: for the exact
    ``step = -A^-1 g`` they are 1 and 0, for an approximate one they repair its length and bring in
    what the last step knew.

    Parameters
    ----------
    gradient, step, previous, metric_step, metric_previous : (p,) arrays
        g, the new direction, the last step taken (zeros at the start), and A times each; A is F
        with whatever damping the model is to have.

    Returns
    -------
    alpha, mu : float
        The smallest such pair where the directions are parallel or zero.

    Raises
    ------
    InputError
        Shapes differ or entries are not finite.

    References
    ----------
    J. Martens, R. Grosse (2015), arXiv:1503.05671, section 7.

    Examples
    --------
    >>> import numpy as np
    >>> g = np.array([2.0, 1.0])                # A = I
    >>> alpha, mu = two_steps(g, -g / 4, np.zeros(2), -g / 4, np.zeros(2))
    >>> round(alpha, 12), mu
    (4.0, 0.0)
    """
    units, rows, images = [], [], []
    for name, d, image in (
        ("step", step, metric_step),
        ("previous", previous, metric_previous),
    ):
        gradient, d = _pair(gradient, d, "gradient", name)
        d, image = _pair(d, image, name, f"metric_{name}")
        units.append(_size(d))
        rows.append(d.astype(np.float64) / units[-1])
        with np.errstate(over="ignore"):
            images.append(image.astype(np.float64) / units[-1])
    rows, images, size = np.array(rows), np.array(images), _size(gradient)
    with np.errstate(over="ignore", invalid="ignore"):
        matrix = as_answer(rows @ images.T, np.float64, "the step times metric_step")
    # Unit diagonal, so that a small direction is not taken for a missing one.
    sizes = np.sqrt(np.maximum(matrix.diagonal(), 0.0))
    scales = np.divide(1.0, sizes, out=np.zeros(2), where=sizes > 0)
    matrix = (matrix + matrix.T) / 2 * np.outer(scales, scales)
    right = -(rows @ (gradient.astype(np.float64) / size)) * scales
    with np.errstate(over="ignore"):
        found = np.linalg.lstsq(matrix, right, rcond=1e-12)[0] * scales * (size / np.array(units))
    alpha, mu = as_answer(found, np.float64, "the step size")
    return float(alpha), float(mu)


def _size(v):
    """The largest magnitude, or 1 for none."""
    return float(np.abs(v).max(initial=0.0)) or 1.0


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
    loss, new_loss = as_number(loss, "loss"), as_number(new_loss, "new_loss")
    damping = as_real(damping, "damping")
    if not math.isfinite(loss):
        raise InputError(f"loss is {loss}; start from a point where it is finite")
    gradient, step = _pair(gradient, step, "gradient", "step")
    step, metric_step = _pair(step, metric_step, "step", "metric_step")
    predicted = model_change(gradient, step, metric_step + damping * step)
    if not math.isfinite(new_loss) or not predicted < 0:
        return -math.inf
    return (new_loss - loss) / predicted


def model_change(gradient, step, metric_step):
    """M(d) = g'd + 1/2 d'Fd in float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(step.astype(np.float64) @ (gradient + 0.5 * metric_step.astype(np.float64)))


def _pair(a, b, name_a, name_b):
    a, b = as_array(a, name_a), as_array(b, name_b)
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
