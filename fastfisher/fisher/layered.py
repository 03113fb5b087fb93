"""The layered Fisher: keeps the factors of every layer's scores, works with the n x n Gram."""

import numpy as np

from ..errors import InputError
from ..ops.layers import Layers
from ..planning import plan_layered
from ..solvers.cutoffs import Cutoff
from ..solvers.layered import layered_system
from .batches import OfLayers
from .gram import GramFisher
from .state import take

__all__ = ["LayeredFisher"]

BALANCE = 64  # powers of two between the largest |A| and |E| that are left as they are


class LayeredFisher(OfLayers, GramFisher):
    """F of a layered model through inputs A and output gradients E: exact, scores never formed.

    The score of sample n in a layer is ``sum_t kron(e_nt, a_nt)``, that is dW.ravel() for
    dW = E'A of shape (d_out, d_in); the parameter vector puts the layers one after the other.

    Parameters
    ----------
    dtype, center, kind
        As in `GramFisher`.

    Attributes
    ----------
    sizes : tuple
        (t, d_in, d_out) of each layer, t tokens a sample; None before the first update.

    Notes
    -----
    Keeps a copy of every batch: sum n t (d_in + d_out) words. solve: n^2 (d_in + d_out) + n^3 / 3
    flops and 8 n^2 bytes beside some vectors (p,): the dual of docs/math.md D1-D8 on the Gram
    matrix of L1, L2. With tokens n^2 t^2 (d_in + d_out), or explicit scores, slice by slice, where
    those take fewer flops; Marquardt damping, `matrix` and a centred `diagonal` read explicit
    slices too. Centring acts on the Gram matrix (D5): the step loses digits where the squared
    mean score exceeds the variance by more than 1/u.

    References
    ----------
    Y. Ren, D. Goldfarb, Efficient subsampled Gauss-Newton and natural gradient methods for
    training neural networks, arXiv:1906.02353.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> A, E = np.array([[1.0, 2.0]]), np.array([[3.0]])
    >>> F = ff.LayeredFisher().update([(A, E)])
    >>> F.matrix()
    array([[ 9., 18.],
           [18., 36.]])
    >>> F.solve(damping=5.0).x
    array([0.06, 0.12])
    """

    sizes = None
    _identity = (*GramFisher._identity, "sizes")

    @property
    def widths(self):
        return None if self.sizes is None else tuple(size[1:] for size in self.sizes)

    def update(self, layers, weights=None, decay=1.0, *, nan_policy="raise"):
        """Add a batch of layers, in place.

        Parameters
        ----------
        layers : sequence of pairs (A, E)
            Per layer inputs A (n, d_in) and output gradients E (n, d_out), or (n, t, d) with
            tokens or patches, summed over t; short sequences are filled with zeros. A bias is a
            column of ones in A. Gradients of each sample's own loss: a mean over the batch
            divides them by n.
        weights, decay, nan_policy
            As in `DenseFisher.update`.

        Returns
        -------
        LayeredFisher
            self.

        Raises
        ------
        InputError
            For bad operands; nothing was changed.
        """
        return super().update(layers, weights, decay, nan_policy=nan_policy)

    def _as_batch(self, layers):
        batch = super()._as_batch(layers)
        for index, expected in enumerate(self.sizes or ()):
            tokens = batch.sizes[index][0]
            if tokens != expected[0]:
                raise InputError(
                    f"layers[{index}] has {tokens} tokens a sample; this Fisher has {expected[0]}: "
                    "fill up with zeros, which add nothing"
                )
        return batch

    def _checked_batch(self, layers, weights, nan_policy):
        batch, weights = super()._checked_batch(layers, weights, nan_policy)
        self.sizes = batch.sizes
        return batch, weights

    def _slice_rows(self, batch):
        return max(batch.n, 1)  # a copy

    def _kept(self, batch):
        return [x for pair in batch.pairs for x in pair]

    def _add(self, batch, weights, total):
        super()._add(batch, weights, total)
        kept = self._batches[-1]
        for a, e in zip(kept[::2], kept[1::2], strict=True):
            _balance(a, e)

    def _merge(self, other):
        self.sizes = other.sizes if self.sizes is None else self.sizes
        super()._merge(other)

    def _nothing(self):
        return [np.zeros((0, t, d), self.dtype) for t, *ds in self.sizes or () for d in ds]

    def _system_of(self, arrays, weights, damping):
        layers = Layers(tuple(zip(arrays[::2], arrays[1::2], strict=True)), self.dtype)
        return layered_system(layers, weights, self.center, damping)

    def _dual_plan(self, system, rhs):
        weighted = system.weights is not None
        return plan_layered(
            system.n,
            system.G.sizes,
            rhs,
            self.dtype.name,
            weighted=weighted,
            centered=self.center,
            spectral=isinstance(system.damping, Cutoff),
        )

    def _arrays(self):
        factors, weights = self._joined()
        names = [f"{name}{index}" for index in range(len(factors) // 2) for name in "AE"]
        return {"weights": weights, **dict(zip(names, factors, strict=True))}

    @classmethod
    def _from_arrays(cls, header, arrays):
        made = cls(dtype=header["dtype"], center=header["center"], kind=header["kind"])
        count = (len(arrays) - 1) // 2
        factors = [arrays[f"{name}{index}"] for index in range(count) for name in "AE"]
        n = len(arrays["weights"])
        weights = take(arrays, "weights", (n,), np.float64)
        if not count:
            made._open = True
            return made
        for index in range(count):
            a, e = factors[2 * index : 2 * index + 2]
            take(arrays, f"A{index}", (n, a.shape[1], a.shape[2]), made.dtype)
            take(arrays, f"E{index}", (n, a.shape[1], e.shape[2]), made.dtype)
        kept = Layers(tuple(zip(factors[::2], factors[1::2], strict=True)), made.dtype)
        made.sizes, made._p = kept.sizes, kept.shape[1]
        made._batches, made._weights = ([factors], [weights]) if n else ([], [])
        return made


def _balance(a, e):
    """Move a power of two between factors whose squares could leave the range, in place."""
    exponents = [int(np.frexp(np.abs(x).max(initial=0.0))[1]) for x in (a, e)]
    shift = (exponents[0] - exponents[1]) // 2
    if abs(shift) > BALANCE // 2 and all(np.isfinite(x).all() for x in (a, e)):
        real = a.real.dtype.type
        a *= real(2.0**-shift)
        e *= real(2.0**shift)
