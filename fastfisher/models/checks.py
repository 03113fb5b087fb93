"""What a model accepts: each check returns the array or says what came and what to do."""

import numpy as np

from ..arrays import as_array
from ..errors import InputError
from ..scalars import as_real

__all__ = [
    "check_features",
    "check_floating",
    "check_labels",
    "check_parameters",
    "check_penalty",
]


def check_floating(a, name, shape):
    """`a` as a finite float32 or float64 array of the given shape.

    None leaves a length free, an Ellipsis in front any number of axes.
    """
    a = as_array(a, name)
    if a.dtype not in (np.float32, np.float64):
        raise InputError(
            f"{name} has dtype {a.dtype}, expected float32 or float64; "
            f"cast it with {name}.astype('float64')"
        )
    core = [e for e in shape if e is not ...]
    leading = a.ndim - len(core)
    fits = (leading == 0 or (leading > 0 and ... in shape)) and all(
        e in (None, length) for e, length in zip(core, a.shape[leading:], strict=True)
    )
    if not fits:
        wanted = ", ".join({None: "n", ...: "..."}.get(e, str(e)) for e in shape)
        raise InputError(
            f"{name} has shape {a.shape}, expected ({wanted}{',' * (len(shape) == 1)})"
        )
    finite = np.isfinite(a)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InputError(f"{name}{list(first)} is {a[first]}; every entry must be finite")
    return a


def check_features(X, n_features):
    """X as (n, n_features)."""
    return check_floating(X, "X", (None, n_features))


def check_parameters(theta, n_params, name="theta"):
    """theta as (n_params,)."""
    return check_floating(theta, name, (n_params,))


def check_labels(y, n, n_classes):
    """y as n integers in 0 .. n_classes - 1."""
    y = as_array(y, "y")
    if y.dtype.kind not in "iu":
        raise InputError(
            f"y has dtype {y.dtype}, expected integer class labels; cast it with y.astype('int64')"
        )
    if y.shape != (n,):
        raise InputError(f"y has shape {y.shape} but X has {n} rows; pass one label per row")
    outside = np.flatnonzero((y < 0) | (y >= n_classes))
    if outside.size:
        i = outside[0]
        raise InputError(
            f"y[{i}] is {y[i]}, expected a class in 0..{n_classes - 1}; renumber the labels"
        )
    return y


def check_penalty(l2):
    """l2 as a finite float >= 0."""
    return as_real(l2, "l2")
