"""Slices of scores, whatever device multiplies them: kinds, units, and terms that 32 bits hold.

No kernels; docs/math.md X2, X3, X8, X9.
"""

from typing import NamedTuple

import numpy as np

__all__ = [
    "BITS",
    "KINDS",
    "MOST_SLICES",
    "SLICED_LEAST",
    "SLICED_TERMS",
    "TILED_TERMS",
    "slice_units",
    "stretch_terms",
]


class Kind(NamedTuple):
    """A kind of slices, of which a word of 32 bits holds several terms."""

    terms: int  # in a word
    bits: int  # per slice after the first, which has numbers up to 2^bits - 1; of "halves" 8
    op: str  # how its kernels begin


KINDS = {
    "bytes": Kind(4, 7, "sliced"),
    "septets": Kind(4, 6, "int7"),
    "shorts": Kind(2, 11, "int16"),
    "halves": Kind(2, 8, "bf16"),
}
BITS = KINDS["bytes"].bits
MOST_SLICES = 3  # of a rough matrix: more are nearer than their factor in single precision
SLICED_TERMS = 8192  # of bytes summed in 32 bits: 8 pairs of slices x 255 x 127 x 8192 < 2^31
TILED_TERMS = 16384  # the same where none is offset: 8 x 127 x 127 x 16384 < 2^31
SLICED_LEAST = 512  # terms; of shorts the most: 2 pairs of slices x 2047 x 1024 x 512 < 2^31
EXPONENTS = {4: 120, 8: 1000}  # largest of a unit, by bytes of a score


def slice_units(peaks, dtype=np.float64, bits=BITS):
    """Powers of two that bring numbers up to each peak to 2^bits - 1, once rounded; 1 for zero."""
    fraction, exponent = np.frexp(peaks)
    largest = 2**bits - 1
    exponent = bits - exponent - (fraction * (largest + 1) > largest + 0.49)
    most = EXPONENTS[np.dtype(dtype).itemsize]
    return np.ldexp(1.0, np.where(peaks > 0, np.clip(exponent, -most, most), 0))


def stretch_terms(most, room=SLICED_TERMS):
    """Terms between two flushes where there may be `most`: whole blocks, with room in 32 bits."""
    return max(min(most, room) // SLICED_LEAST * SLICED_LEAST, SLICED_LEAST)
