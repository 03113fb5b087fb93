"""Slices of 7 bits, whatever device multiplies them: units, and terms that 32 bits hold.

No kernels; docs/math.md X2, X3.
"""

import numpy as np

__all__ = [
    "BITS",
    "MOST_SLICES",
    "SLICED_LEAST",
    "SLICED_TERMS",
    "TILED_TERMS",
    "byte_units",
    "stretch_terms",
]

BITS = 7  # per slice after the first, which takes what fits a byte
LARGEST_BYTE = 127
MOST_SLICES = 3  # of a rough matrix: more are nearer than their factor in single precision
SLICED_TERMS = 8192  # of bytes summed in 32 bits: 8 pairs of slices x 255 x 127 x 8192 < 2^31
TILED_TERMS = 16384  # the same where none is offset: 8 x 127 x 127 x 16384 < 2^31
SLICED_LEAST = 512
EXPONENTS = {4: 120, 8: 1000}  # largest of a unit, by bytes of a score


def byte_units(peaks, dtype=np.float64):
    """Powers of two that bring numbers up to each peak into a byte; 1 for those that are zero."""
    fraction, exponent = np.frexp(peaks)
    exponent = BITS - exponent - (fraction * 128 > LARGEST_BYTE + 0.49)
    most = EXPONENTS[np.dtype(dtype).itemsize]
    return np.ldexp(1.0, np.where(peaks > 0, np.clip(exponent, -most, most), 0))


def stretch_terms(most, room=SLICED_TERMS):
    """Terms between two flushes where there may be `most`: whole blocks, with room in 32 bits."""
    return max(min(most, room) // SLICED_LEAST * SLICED_LEAST, SLICED_LEAST)
