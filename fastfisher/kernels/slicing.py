"""Slices of scores, whatever device multiplies them: kinds, forms, units, terms that 32 bits hold.

No kernels; docs/math.md X2, X3, X8, X9.
"""

from typing import NamedTuple

import numpy as np

__all__ = [
    "BITS",
    "FORMS",
    "KINDS",
    "MOST_SLICES",
    "SINGLE",
    "SLICED_LEAST",
    "SLICED_TERMS",
    "TILED_TERMS",
    "Form",
    "full_units",
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


class Form(NamedTuple):
    """What a rough matrix is made from: so many slices of a kind, or scores in single precision."""

    name: str  # "single", "int8", "int7", "int16" or "bf16"
    slices: int

    @property
    def kind(self):
        return {"int8": "bytes", "int7": "septets", "int16": "shorts", "bf16": "halves"}[self.name]

    @property
    def bits(self):
        """Of the integers of the first slice; halves are as good in any unit."""
        return BITS if self.kind == "halves" else KINDS[self.kind].bits

    @property
    def levels(self):
        """Products i + j < levels are taken: all, so that the matrix is positive semidefinite; of
        halves not those below single precision."""
        return min(2 * self.slices - 1, 3) if self.kind == "halves" else 2 * self.slices - 1

    @property
    def products(self):
        return sum(i + j < self.levels for i in range(self.slices) for j in range(self.slices))


SINGLE = Form("single", 0)
# The crudest that a processor has first; septets count where it has no bytes, which are faster and
# nearer. Two septets are slower than one short, two shorts nearer than single precision.
FORMS = (
    *(Form("int8", slices) for slices in range(1, MOST_SLICES + 1)),
    Form("int7", 1),
    Form("int16", 1),
    *(Form("bf16", slices) for slices in range(1, MOST_SLICES + 1)),
)


def slice_units(peaks, dtype=np.float64, bits=BITS):
    """Powers of two that bring numbers up to each peak to 2^bits - 1, once rounded; 1 for zero."""
    fraction, exponent = np.frexp(peaks)
    largest = 2**bits - 1
    exponent = bits - exponent - (fraction * (largest + 1) > largest + 0.49)
    most = EXPONENTS[np.dtype(dtype).itemsize]
    return np.ldexp(1.0, np.where(peaks > 0, np.clip(exponent, -most, most), 0))


def full_units(peaks, dtype=np.float64, bits=BITS):
    """Units that bring each peak itself to 2^bits - 1, once rounded: up to twice those of
    `slice_units`, where products need not be exact in them; 1 for zero."""
    powers = slice_units(peaks, dtype, bits)
    with np.errstate(all="ignore"):
        units = ((2**bits - 1) / peaks).astype(dtype).astype(float)
    # At the ends of the range, and for nothing, powers of two are what there is.
    return np.where((0.9 * powers < units) & (units < 2.1 * powers), units, powers)


def stretch_terms(most, room=SLICED_TERMS):
    """Terms between two flushes where there may be `most`: whole blocks, with room in 32 bits."""
    return max(min(most, room) // SLICED_LEAST * SLICED_LEAST, SLICED_LEAST)
