"""Numbers, switches and words at the door: what came, and what was expected."""

import math
import operator
import sys

import numpy as np

from .errors import InputError

__all__ = [
    "as_choice",
    "as_count",
    "as_flag",
    "as_generator",
    "as_number",
    "as_positive",
    "as_real",
    "said",
]


def said(value):
    """What came, on one line."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"of type {type(value).__name__}"


def as_number(value, name):
    """Check a real number, NaN and infinities included, and nothing that is only like one."""
    try:
        if isinstance(value, str | bytes | bool | np.bool_) or np.iscomplexobj(value):
            raise TypeError
        if isinstance(value, np.ndarray) and (
            value.ndim or value.dtype.kind not in "fiuO" or np.ma.is_masked(value)
        ):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} is {said(value)}; expected a real number") from error


def as_real(value, name, *, least=0.0):
    """Check a real number that is finite and at least `least`."""
    if type(value) is float and least <= value < math.inf:
        return value
    number = as_number(value, name)
    if not math.isfinite(number) or number < least:
        raise InputError(f"{name} is {said(value)}; expected a finite real number >= {least:g}")
    return number


def as_positive(value, name):
    """Check a real number that is finite and above zero."""
    number = as_number(value, name)
    if not 0 < number < math.inf:
        raise InputError(f"{name} is {said(value)}; expected a finite real number > 0")
    return number


def as_count(value, name, *, least=0, most=None):
    """Check an integer of at least `least` and at most `most`, as int."""
    try:
        if isinstance(value, bool | np.bool_) or np.ma.isMaskedArray(value):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or count < least or count > (sys.maxsize if most is None else most):
        wanted = f">= {least}" if most is None else f"from {least} to {most}"
        beyond = ", below 2**63" if most is None and count is not None and count >= least else ""
        raise InputError(f"{name} is {said(value)}; expected an integer {wanted}{beyond}")
    return count


def as_flag(value, name):
    """Check a switch: "no" and other objects that merely count as true are refused."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} is {said(value)}; expected True or False")
    return bool(value)


def as_choice(value, name, choices):
    """Check a word that is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} is {said(value)}; expected one of {', '.join(choices)}")
    return value


def as_generator(rng, name="rng"):
    """A generator itself, or the one of a seed."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} is {said(rng)}; expected a numpy.random.Generator, a seed >= 0 or None"
        ) from error
