"""Powers of an inverse Fisher matrix between the diagonal scaling of Adam and the whole step."""

import numbers

import numpy as np

from .. import linalg
from ..arrays import as_answer, as_array, as_real
from ..errors import InputError, NotPositiveDefiniteError
from ..fisher import DiagonalFisher, KroneckerFisher

__all__ = ["check_power", "inverse_power"]


def check_power(power):
    """A number in (0, 1], else InputError."""
    if not (isinstance(power, numbers.Real) and 0 < power <= 1):
        raise InputError(f"power is {power!r}, expected a number in (0, 1]")


def inverse_power(metric, b, *, damping, power):
    """(F + damping I)^-power b, docs/math.md S3.

    ``power=1`` is the natural gradient, ``power=1/2`` with a `DiagonalFisher` the scaling of
    RMSProp and Adam.

    Parameters
    ----------
    metric : Fisher object
    b : (p,) array
    damping : float >= 0
    power : float in (0, 1]

    Returns
    -------
    (p,) array

    Raises
    ------
    InputError
        The power is out of range, the damping negative, or b not p finite numbers.
    NotPositiveDefiniteError
        F + damping I has an eigenvalue that is not positive.

    Notes
    -----
    p operations for a `DiagonalFisher`, the eigenbases of a `KroneckerFisher` at power 1/2, for
    everything else the explicit matrix and its eigenvectors: 9 p^3 flops, 16 p^2 bytes.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> F = ff.DiagonalFisher(2).update(np.array([[2.0, 3.0]]))
    >>> ff.optim.inverse_power(F, np.array([4.0, 9.0]), damping=0.0, power=0.5)
    array([2., 3.])
    """
    check_power(power)
    damping = as_real(damping, "damping")
    b = as_array(b, "b")
    if b.dtype.kind not in "fiub":
        raise InputError(f"b has dtype {b.dtype}, expected real numbers")
    if b.shape != (metric.p,):
        raise InputError(f"b has shape {b.shape}, expected ({metric.p},)")
    if not np.isfinite(b).all():
        raise InputError("b has entries that are not finite")
    if isinstance(metric, DiagonalFisher):
        values, vectors = metric.diagonal() + damping, None
    elif isinstance(metric, KroneckerFisher) and power == 0.5:
        return metric.factor(damping).inv_root(b)
    else:
        values, vectors = linalg.eigh(metric.matrix())
        values = values + damping
    lost = np.flatnonzero(~(values > len(values) * np.finfo(values.dtype).eps * values.max()))
    if len(lost) and (vectors is not None or not (values[lost] > 0).all()):
        raise NotPositiveDefiniteError(
            f"{len(lost)} of {len(values)} eigenvalues of F + {damping:g} I are not positive, so "
            f"its power -{power:g} does not exist; raise the damping",
            order=int(lost[0]) + 1,
        )
    with np.errstate(over="ignore", invalid="ignore"):
        gains = values**-power
        x = gains * b if vectors is None else vectors @ (gains * (vectors.T @ b))
    return as_answer(x, x.dtype, f"(F + D)^-{power:g} b")
