"""Learning rates: a number, or a function of the step's number."""

import math
import numbers

from ..errors import InputError

__all__ = ["check_rate", "rate_at"]


def check_rate(rate):
    """A positive finite number or a callable, else InputError."""
    if callable(rate):
        return
    if not (isinstance(rate, numbers.Real) and 0 < rate < math.inf):
        raise InputError(
            f"learning_rate is {rate!r}, expected a positive finite number, or a function of the "
            "step's number 1, 2, ..."
        )


def rate_at(rate, step):
    """The learning rate of step 1, 2, ... as a float."""
    if not callable(rate):
        return float(rate)
    value = rate(step)
    if not (isinstance(value, numbers.Real) and 0 <= value < math.inf):
        raise InputError(f"learning_rate({step}) is {value!r}, expected a finite number >= 0")
    return float(value)
