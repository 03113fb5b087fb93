"""Where numbers lose digits, and powers of two that keep scores and rows away from there."""

import functools
import math

import numpy as np

from ..arrays import far

__all__ = [
    "FAINT",
    "excess",
    "in_range",
    "number_range",
    "raise_into_range",
    "real_bytes",
    "scale_into_range",
    "shifted",
    "tamed",
    "unit_roundoff",
]

# By bytes of a real: mean squares of scores that are left as they are, so that squares of those
# squares still have room, and the power of two that larger (smaller) scores are brought to.
RANGE = {4: (1e-26, 1e30, 40), 8: (1e-140, 1e140, 220)}
LAMBDA = {4: 800, 8: 0}  # powers of two that lambda may reach then, by bytes; vectors are double
LARGEST_POWER = {4: 127, 8: 1023}  # of two, by bytes of a real
SUMMED = 8  # powers of two that a block sum of squares is larger than the root of its terms
FAINT = {4: 2.0**-110, 8: 2.0**-970}  # mean squares below have lost digits to underflow
# From here on (and below the inverse) rows are brought near 1 for a product with scores.
FAR = {4: 2.0**40, 8: 2.0**400}


@functools.cache
def real_bytes(dtype):
    """Bytes of a real of this dtype: 4 in single precision, 8 in double."""
    return np.empty(0, dtype).real.dtype.itemsize


def in_range(mean_square, itemsize):
    """True if scores with this mean square, in reals of so many bytes, are left as they are."""
    least, most, _ = RANGE[itemsize]
    return least <= mean_square <= most


def excess(mean_square, itemsize):
    """This mean square if it is too large for the range, else 0."""
    return mean_square if mean_square > RANGE[itemsize][1] else 0.0


def scale_into_range(counted, largest, mean_square, damping, itemsize):
    """The power of two for scores that count up to `counted`, and are up to `largest`: not further
    than needed, since absolute damping should not vanish beside them, nor grow beyond them until x
    is lost."""
    _, most, target = RANGE[itemsize]
    exponent = _exponent(largest if mean_square > most else counted)
    if mean_square > most or exponent > 0:
        return 2.0 ** min(target - exponent, _room(largest, itemsize))
    power = -target - exponent
    if damping.needs in ("", "diagonal"):
        absolute = float(np.max(damping.resolve(0.0, np.zeros(1), 1)))
        room = (LAMBDA[itemsize] - math.frexp(absolute)[1]) // 2
        power = min(power, max(room, 0)) if absolute else power
    return 2.0 ** min(power, _room(largest, itemsize))


def raise_into_range(counted, largest, itemsize):
    """The power of two that makes scores that count up to `counted`, and are up to `largest`, as
    large as they may be, for the sake of the small ones."""
    power = min(RANGE[itemsize][2] - _exponent(counted), _room(largest, itemsize))
    return 2.0 ** max(power, 0)


def _room(largest, itemsize):
    """The largest power of two that is finite, and leaves sums of squares up to `largest` so."""
    most = LARGEST_POWER[itemsize]
    return min(most, most // 2 - SUMMED - _exponent(largest))


def _exponent(size):
    """The power of two next to a size, from above; that of the largest double for infinity."""
    return math.ceil(math.log2(min(size, number_range(np.dtype(np.float64))[1])))


@functools.cache
def number_range(dtype):
    """The smallest normal number of a dtype, and the largest."""
    info = np.finfo(dtype)
    return float(info.smallest_normal), float(info.max)


@functools.cache
def unit_roundoff(dtype):
    """u: half the spacing of 1 (2^-24 or 2^-53)."""
    return float(np.finfo(dtype).eps) / 2


def shifted(rows, exponents):
    """Rows times powers of two, in two steps: a factor may be out of range where they are not."""
    half = exponents // 2
    return np.ldexp(1.0, half) * rows * np.ldexp(1.0, exponents - half)


def tamed(product):
    """A product with rows, which are brought near 1 by powers of two where they are far from it:
    neither they nor what comes of them on the way then leaves the range of the scores."""

    @functools.wraps(product)
    def apply(system, rows):
        largest = np.abs(rows).max(axis=1, initial=0.0)
        if not far(largest, FAR[real_bytes(system.dtype)]).any():
            return product(system, rows)
        exponents = np.frexp(largest)[1][:, np.newaxis]
        return shifted(product(system, shifted(rows, -exponents)), exponents)

    return apply
