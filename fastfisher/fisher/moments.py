"""Second moments of layered scores in fixed eigenbases: what EKFAC corrects KFAC with."""

import numpy as np

from ..ops.layers import add_layer_moments
from .eigenbasis import Basis, Spectral
from .state import take

__all__ = ["Moments"]


class Moments:
    """Sums over samples of w |U'g|^2, per layer (d_out, d_in), and their weight."""

    def __init__(self, bases):
        self.bases = tuple(bases)
        self.sums = [np.zeros((len(b.outputs), len(b.inputs))) for b in self.bases]
        self.weight = 0.0

    def add(self, batch, weights):
        """Add a batch of `ops.layers.Layers`; scores are squared after their sum over tokens."""
        for index, basis in enumerate(self.bases):
            a, e = batch.factors(index)
            if weights is not None:
                e = e * np.sqrt(weights)[:, np.newaxis, np.newaxis]
            rotated = (a @ basis.inputs, e @ basis.outputs)
            add_layer_moments(
                self.sums[index], *(x.astype(batch.dtype, copy=False) for x in rotated)
            )
        self.weight += float(batch.n if weights is None else weights.sum())

    def decay(self, factor):
        for sums in self.sums:
            sums *= factor
        self.weight *= factor

    def shares_bases_with(self, other):
        """True if both are in the same bases, to the bit."""
        return all(
            np.array_equal(a.outputs, b.outputs) and np.array_equal(a.inputs, b.inputs)
            for a, b in zip(self.bases, other.bases, strict=True)
        )

    def merge(self, other):
        for mine, theirs in zip(self.sums, other.sums, strict=True):
            mine += theirs
        self.weight += other.weight

    def spectral(self):
        """F with the mean squares as eigenvalues."""
        return Spectral(self.bases, tuple(sums / (self.weight or 1.0) for sums in self.sums))

    def arrays(self):
        lists = {
            "U": [basis.outputs for basis in self.bases],
            "V": [basis.inputs for basis in self.bases],
            "M": self.sums,
        }
        return {f"{name}{i}": a for name, parts in lists.items() for i, a in enumerate(parts)}

    @classmethod
    def from_arrays(cls, arrays, widths, dtype, weight):
        made = cls(
            Basis(
                take(arrays, f"U{i}", (d_out, d_out), dtype),
                take(arrays, f"V{i}", (d_in, d_in), dtype),
            )
            for i, (d_in, d_out) in enumerate(widths)
        )
        made.sums = [
            take(arrays, f"M{i}", (d_out, d_in), np.float64)
            for i, (d_in, d_out) in enumerate(widths)
        ]
        made.weight = weight
        return made
