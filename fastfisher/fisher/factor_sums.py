"""Sums behind Kronecker factors: of a a', of e e', and of the scores themselves."""

import numpy as np

from ..arrays import Scores
from ..ops.layers import add_adjoint
from ..passes import add_syrk, sums_dtype
from ..planning import choose
from .eigenbasis import Blocks
from .state import take

__all__ = ["FactorSums"]


class FactorSums:
    """Per layer sums over samples of a a' (d_in, d_in) and e e' (d_out, d_out); G'w (p,)."""

    def __init__(self, widths, dtype):
        self.inputs = [np.zeros((d_in, d_in), dtype) for d_in, _ in widths]
        self.outputs = [np.zeros((d_out, d_out), dtype) for _, d_out in widths]
        self.gradient = np.zeros(sum(d_in * d_out for d_in, d_out in widths), dtype)

    def _all(self):
        return *self.inputs, *self.outputs, self.gradient

    @property
    def nbytes(self):
        return sum(sums.nbytes for sums in self._all())

    def add(self, batch, weights, tokens):
        """Add a batch of `ops.layers.Layers`; `tokens` as in `KroneckerFisher`."""
        for index in range(len(batch.pairs)):
            sums = self.inputs[index], self.outputs[index]
            flat = _flat(*batch.factors(index), weights, tokens)
            for c, (x, w) in zip(sums, flat, strict=True):
                add_syrk(c, Scores(x, batch.dtype), weights=w)
                choose("mirror", len(c), c.dtype).load()(c)
        w = np.ones(batch.n) if weights is None else weights
        add_adjoint(self.gradient[np.newaxis], batch, w[np.newaxis])

    def scale(self, factor):
        for sums in self._all():
            sums *= factor

    def merge(self, other):
        for mine, theirs in zip(self._all(), other._all(), strict=True):
            mine += theirs

    def top(self):
        """The largest element on a diagonal."""
        return float(max(c.diagonal().real.max() for c in (*self.inputs, *self.outputs)))

    def blocks(self, weight):
        """The factors, divided by a weight."""
        pairs = zip(self.outputs, self.inputs, strict=True)
        return Blocks(tuple((E / weight, A / weight) for E, A in pairs))

    def arrays(self):
        lists = {"A": self.inputs, "E": self.outputs}
        named = {f"{name}{i}": a for name, parts in lists.items() for i, a in enumerate(parts)}
        return {"gradient": self.gradient, **named}

    @classmethod
    def from_arrays(cls, arrays, widths, dtype):
        made = cls(widths, dtype)
        made.gradient = take(arrays, "gradient", made.gradient.shape, dtype)
        for i, (d_in, d_out) in enumerate(widths):
            made.inputs[i] = take(arrays, f"A{i}", (d_in, d_in), dtype)
            made.outputs[i] = take(arrays, f"E{i}", (d_out, d_out), dtype)
        return made


def _flat(a, e, weights, tokens):
    """The rows of A and E that a layer's factors sum over, each with its weights."""
    n, t, _ = a.shape
    if t == 1:
        return (a[:, 0], weights), (e[:, 0], weights)
    if tokens == "reduce":
        mean = a.sum(axis=1, dtype=sums_dtype(a.dtype)) / max(t, 1)
        return (mean.astype(a.dtype, copy=False), weights), (e.sum(axis=1), weights)
    shares = np.repeat(np.ones(n) if weights is None else weights, t)
    rows = (x.reshape(n * t, x.shape[2]) for x in (a, e))
    return tuple(zip(rows, (shares / t, shares), strict=True))
