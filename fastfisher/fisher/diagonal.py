"""The diagonal Fisher: mean squares, p numbers."""

import numpy as np

from ..damping import as_damping
from ..errors import NotPositiveDefiniteError
from ..passes import add_diag, mean_row, sums_dtype
from ..planning import plan_factored
from ..scalars import as_count
from ..solvers.cutoffs import Cutoff
from ..solvers.ladder import allowed
from ..solvers.spectral import DiagonalSpectrum
from ..solvers.system import drift_of
from .base import Fisher
from .factor import DiagonalFactor
from .spectral import SpectralFactor
from .state import take

__all__ = ["DiagonalFisher"]


class DiagonalFisher(Fisher):
    """diag(F) (p,), accumulated from batches of scores: the mean of squares (docs/math.md F11).

    Parameters
    ----------
    p : int
        Number of parameters.
    dtype, center, kind
        As in `DenseFisher`.

    Notes
    -----
    update: 5 n p flops per batch, two passes (mean and squares); 16 p bytes of state.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> F = ff.DiagonalFisher(2).update(np.array([[1.0, 0.0], [-1.0, 2.0]]))
    >>> F.diagonal()
    array([1., 2.])
    """

    def __init__(self, p, *, dtype="float64", center=False, kind=None):
        super().__init__(dtype=dtype, center=center, kind=kind)
        p = as_count(p, "p")
        self._mean = np.zeros(p, sums_dtype(self.dtype))
        self._sums = np.zeros(p)

    @property
    def p(self):
        return len(self._mean)

    @property
    def mean(self):
        return self._mean.copy()

    def _add(self, scores, weights, total):
        mean = mean_row(scores, weights, total)
        add_diag(self._sums, scores, weights=weights, shift=mean if self.center else None)
        drift = drift_of(mean, scores.dtype) if self.center else None
        if drift is not None:
            self._sums -= total * np.abs(drift) ** 2
            np.maximum(self._sums, 0.0, out=self._sums)
        self._include(mean, total)

    def _include(self, mean, total):
        weight = self.weight + total
        difference = mean - self._mean
        if self.center:
            self._sums += self.weight * (total / weight) * np.abs(difference) ** 2
        self._mean = self._mean + difference * (total / weight)

    def _decay(self, decay):
        self._sums *= decay

    def _merge(self, other):
        self._sums += other._sums
        self._include(other._mean, other.weight)

    def _real_diagonal(self):
        return self._sums / (self.weight or 1.0)

    def apply_fisher(self, v):
        """F v for rows v (k, p), in double."""
        return v * self._real_diagonal()

    def __matmul__(self, v):
        return self._product(v, self.apply_fisher)

    def matrix(self):
        return np.diag(self.diagonal()).astype(self.dtype)

    def eigvalsh(self):
        return np.sort(self.diagonal())

    def factor(self, damping):
        """diag(F) + D, ready to divide by: `DiagonalFactor`.

        Raises
        ------
        NotPositiveDefiniteError
            Naming the first parameter whose damped diagonal is not positive.
        """
        damping = as_damping(damping)
        diagonal = self._real_diagonal()
        if isinstance(damping, Cutoff):
            return SpectralFactor(self.p, self._spectrum(), damping, self.dtype)
        added = damping.resolve(float(diagonal.sum()), diagonal, self.p)
        try:
            return DiagonalFactor(diagonal, added, damping, self.dtype)
        except NotPositiveDefiniteError:
            extra, cutoff = allowed(1, float(np.max(diagonal + added)))
            if extra:
                return DiagonalFactor(diagonal, added, damping, self.dtype, extra)
            if cutoff is None:
                raise
        spectrum = DiagonalSpectrum(diagonal + added)
        return SpectralFactor(self.p, spectrum, cutoff, self.dtype, added=added)

    def _plan(self, rhs, rung):
        return plan_factored(self.n_samples, self.p, rhs, self.dtype.name, rung="division")

    def _spectrum(self):
        return DiagonalSpectrum(self._real_diagonal())

    def _arrays(self):
        return {"mean": self._mean, "sums": self._sums}

    @classmethod
    def _from_arrays(cls, header, arrays):
        p = len(arrays["mean"])
        made = cls(p, dtype=header["dtype"], center=header["center"], kind=header["kind"])
        double = made._mean.dtype
        made._mean[:] = take(arrays, "mean", (p,), double)
        made._sums[:] = take(arrays, "sums", (p,), np.float64)
        return made
