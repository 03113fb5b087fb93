"""What the functions of statistics accept: each check returns the value or names it."""

import math
import numbers

import numpy as np

from ..arrays import as_array
from ..errors import InputError

__all__ = ["check_count", "check_finite", "check_number"]


def check_number(value, name, low=-math.inf, high=math.inf):
    """`value` as a float strictly between low and high."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, numbers.Real) and low < value < high:
        return float(value)
    if math.isinf(high):
        wanted = "a finite number" if math.isinf(low) else f"a number > {low:g} that is finite"
    else:
        wanted = f"a number in ({low:g}, {high:g})"
    raise InputError(f"{name} is {value!r}, expected {wanted}")


def check_count(value, name, least):
    """`value` as an int of at least `least`."""
    if not (isinstance(value, numbers.Real) and value // 1 == value >= least):
        raise InputError(f"{name} is {value!r}, expected an integer >= {least}")
    return int(value)


def check_finite(values, name):
    """`values` as an array of finite doubles."""
    a = as_array(values, name)
    if a.dtype.kind not in "fiub":
        raise InputError(f"{name} has dtype {a.dtype}, expected real numbers")
    if not np.isfinite(a).all():
        raise InputError(f"{name} has entries that are not finite")
    return a.astype(np.float64, copy=False)
