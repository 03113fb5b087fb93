"""Checks of numbers that several representations share."""

import numpy as np

from ..errors import InputError
from ..scalars import as_real

__all__ = [
    "LEAST_DOUBLE",
    "LEAST_SINGLE",
    "check_decay",
    "check_range",
    "vanishes",
    "vanishing",
]

LARGEST_WEIGHT = 1e150  # of a sum of weights; the inverse for the largest of them
LARGEST_SUM = 1e307  # sums of squares beyond this are refused at the door
# Magnitudes whose squares, and products with what is a thousand times smaller, keep their digits.
LEAST_SINGLE, LEAST_DOUBLE = 2.0**-52, 2.0**-506


def check_decay(value):
    """A factor on what was accumulated, as float."""
    decay = as_real(value, "decay")
    if not 0 < decay <= 1:
        raise InputError(f"decay is {decay!r}; expected 0 < decay <= 1")
    return decay


def check_range(dtype, largest, total, largest_weight, name="G"):
    """InputError for scores or weights whose sums of squares leave the range of double."""
    if 0 < largest_weight < 1 / LARGEST_WEIGHT or total > LARGEST_WEIGHT:
        raise InputError(
            f"weights sum to {total:.3g}, with a largest of {largest_weight:.3g}: out of the "
            f"range that sums can hold; nothing was added: divide them by a common factor"
        )
    top = np.finfo(np.empty(0, dtype).real.dtype).max
    if largest and largest > min(np.sqrt(LARGEST_SUM / max(total, 1.0)), np.sqrt(top / 512)):
        raise InputError(
            f"{name} holds values up to {largest:.3g}, whose squares overflow {dtype}; "
            f"nothing was added: multiply {name} by a power of two first"
        )


def vanishes(size, root, top):
    """True if squares of what is at most `size`, weighted with `root` squared, lose their digits in
    double and are something beside the largest element ``top()`` of F so far."""
    return 0 < size * min(root, 1.0) < LEAST_DOUBLE and not top() > LEAST_DOUBLE


def vanishing(size, name="G"):
    """The error for scores whose squares lose their digits."""
    return InputError(
        f"{name} holds values up to {size:.3g} only, whose squares vanish; nothing was added: "
        f"multiply {name} by a power of two first"
    )
