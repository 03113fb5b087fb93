"""The linear system behind layered scores: every pass by the factors, scores never formed.

It has the face of `System`, so routes, certificate and factors serve both. Explicit slices of
scores appear only where nothing else is exact: Marquardt damping, a centred diagonal, F itself.
"""

import numpy as np

from ..ops.layers import (
    add_adjoint,
    add_layer_moments,
    add_layered_gram,
    center_gram,
    layered_products,
)
from ..passes import sums_dtype
from .ranges import tamed
from .system import System, tame_weights

__all__ = ["LayeredSystem", "layered_system"]


class LayeredSystem(System):
    """`System` whose G is `ops.layers.Layers`."""

    explicit = False

    @tamed
    def apply_rows(self, v):
        v = self.cast(v)
        y = layered_products(self.G, v)
        if self.mean is not None:
            y -= (v.astype(self.mean.dtype) @ self.mean)[:, np.newaxis]
        return y * self.root_weights

    @tamed
    def apply_adjoint(self, f):
        u = f * self.root_weights
        y = np.zeros((len(f), self.p), sums_dtype(self.dtype))
        add_adjoint(y, self.G, u)
        if self.mean is not None:
            y -= u.sum(axis=1)[:, np.newaxis] * self.mean.conj()
        return y

    def apply_fisher(self, v):
        return self.apply_adjoint(self.apply_rows(v))

    def add_gram(self, c, column_weights=None):
        if column_weights is not None:
            super().add_gram(c, column_weights)
            return
        for index in range(len(self.G.pairs)):
            add_layered_gram(c, *self.G.factors(index))
        if self.mean is not None:
            center_gram(c, self.root_weights**2)

    def raw_diagonal(self):
        if self.mean is not None or not self.total:
            return super().raw_diagonal()
        y, root = np.zeros(self.p), self.root_weights[:, np.newaxis, np.newaxis]
        for index, (_, d_in, d_out) in enumerate(self.G.sizes):
            (first, last), (a, e) = self.G.spans[index], self.G.factors(index)
            outputs = (e * root).astype(self.dtype, copy=False)
            add_layer_moments(y[first:last].reshape(d_out, d_in), a, outputs)
        return y

    def mean_of(self, G):
        return _mean(G, self.weights, self.total)


def _mean(layers, weights, total):
    """Weighted mean row, (p,) in double."""
    y = np.zeros((1, layers.shape[1]), sums_dtype(layers.dtype))
    if total:
        add_adjoint(y, layers, (np.ones(layers.n) if weights is None else weights)[np.newaxis])
        y /= total
    return y[0].conj()


def layered_system(layers, weights, center, damping):
    """The system of checked layers, with their mean row if they are centred."""
    weights, total = tame_weights(layers, weights)
    mean = _mean(layers, weights, total) if center else None
    return LayeredSystem(layers, weights, total, mean, damping)
