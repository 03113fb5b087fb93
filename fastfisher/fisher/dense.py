"""The dense Fisher: sums of outer products, p x p."""

import numpy as np

from .. import linalg
from ..arrays import Scores, as_real
from ..damping import as_damping
from ..errors import InputError, NotPositiveDefiniteError
from ..passes import add_syrk, mean_row, sums_dtype
from ..planning import choose, require_memory
from ..scalars import as_count
from ..solvers.cutoffs import Cutoff
from ..solvers.ladder import allowed_cutoff, climb
from ..solvers.path import Path, PrimalSource
from ..solvers.spectral import DenseSpectrum
from ..solvers.system import drift_of, subtract_outer
from ..solvers.tridiagonal import Tridiagonal
from .base import Fisher
from .factor import DenseFactor
from .paths import exponent
from .spectral import SpectralFactor
from .staging import Staged
from .state import take

__all__ = ["DenseFisher"]


class DenseFisher(Staged, Fisher):
    """F (p, p), accumulated from batches of scores.

    Parameters
    ----------
    p : int
        Number of parameters.
    dtype : str or dtype
        What results are given in; sums are always kept in double (8 p^2 bytes, complex 16 p^2).
    center : bool
        Subtract the weighted mean row: F is then the covariance of the scores.
    kind : str, optional
        A printed label: "empirical", "exact", "mc".

    Raises
    ------
    MemoryLimitError
        If the sums do not fit in memory.

    Notes
    -----
    update: n p^2 flops per batch; factor: p^3 / 3 flops and another 8 p^2 bytes. Batches of less
    than 256 samples wait in a buffer, half as large as the sums (of at least 16 samples), and enter
    them together, so that single rows cost what a batch costs; reading anything empties it.
    docs/math.md U1, U2.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> F = ff.DenseFisher(2).update(np.array([[1.0, 0.0], [1.0, 2.0]]))
    >>> F.matrix()
    array([[1., 1.],
           [1., 2.]])
    >>> F.solve(damping=1.0).x
    array([0.4, 0.2])
    """

    def __init__(self, p, *, dtype="float64", center=False, kind=None):
        super().__init__(dtype=dtype, center=center, kind=kind)
        p = as_count(p, "p")
        double = sums_dtype(self.dtype)
        require_memory(p * p * double.itemsize, f"the sums of DenseFisher({p})")
        self._mean = np.zeros(p, double)
        # Raw second moments, or centred ones, of what does not wait; both triangles.
        self._absorbed = np.zeros((p, p), double)
        self._open_buffer()

    @classmethod
    def from_sums(cls, sums, weight, *, n_samples=0, dtype="float64", kind=None):
        """Take over sums formed elsewhere, F = sums / weight, of scores whose mean is zero.

        Parameters
        ----------
        sums : array (p, p)
            Symmetric (Hermitian) and finite; copied.
        weight : float
            Sum of the weights, > 0.
        n_samples : int
            Rows that went in.
        dtype, kind
            As in the constructor.

        Raises
        ------
        InputError
            If sums are no such matrix; nothing is symmetrised silently.

        Examples
        --------
        >>> import numpy as np, fastfisher as ff
        >>> ff.DenseFisher.from_sums(np.array([[4.0, 2.0], [2.0, 6.0]]), 2).solve(
        ...     np.array([1.0, 0.0]), damping=0.0).x
        array([ 0.6, -0.2])
        """
        sums = np.asarray(sums)
        if sums.ndim != 2 or sums.shape[0] != sums.shape[1]:
            raise InputError(f"sums has shape {sums.shape}; expected a square matrix (p, p)")
        weight = as_real(weight, "weight")
        if not weight > 0:
            raise InputError(f"weight is {weight}; expected the sum of the weights, > 0")
        made = cls(len(sums), dtype=dtype, kind=kind)
        if sums.dtype.kind not in "fiu" + made._sums.dtype.kind:
            raise InputError(f"sums has dtype {sums.dtype} but the Fisher is {made.dtype}")
        if not np.isfinite(sums).all():
            raise InputError("sums has entries that are not finite; rescale the scores")
        with np.errstate(over="ignore"):
            if not np.isfinite(float(np.max(np.abs(sums), initial=0.0)) / np.float64(weight)):
                raise InputError(f"sums / weight overflows {made._sums.dtype}; scale both")
        if not np.array_equal(sums, sums.conj().T):
            raise InputError("sums is not symmetric to the bit; pass (sums + sums.conj().T) / 2")
        made._sums[:] = sums
        made.weight = made._summed = weight
        made.n_samples = as_count(n_samples, "n_samples")
        return made

    @property
    def p(self):
        return len(self._mean)

    @property
    def mean(self):
        self._flush()
        return self._mean.copy()

    @property
    def _sums(self):
        self._flush()
        return self._absorbed

    @property
    def _sum_bytes(self):
        return self._absorbed.nbytes

    def _absorb(self, scores, weights, total):
        mean = mean_row(scores, weights, total)
        add_syrk(self._absorbed, scores, weights=weights, shift=mean if self.center else None)
        if self.center:
            subtract_outer(self._absorbed, drift_of(mean, scores.dtype), total)
        self._include(mean, total)

    def _include(self, mean, total):
        """Account for a batch with this mean and weight whose sums are in already (Chan)."""
        weight = self._summed + total
        difference = mean - self._mean
        if self.center and self._summed:
            row = np.sqrt(self._summed * (total / weight)) * difference[np.newaxis]
            add_syrk(self._absorbed, Scores(row, row.dtype))
        self._mean = self._mean + difference * (total / weight)
        choose("mirror", self.p, self._absorbed.dtype).load()(self._absorbed)

    def _scale(self, factor):
        self._absorbed *= factor

    def _merge(self, other):
        self._flush()
        self._absorbed += other._sums
        self._include(other._mean, other.weight)
        self._summed = self.weight + other.weight

    def apply_fisher(self, v):
        """F v for rows v (k, p), in double."""
        return (v @ self._sums.T) / self.weight if self.weight else np.zeros_like(v)

    def __matmul__(self, v):
        return self._product(v, self.apply_fisher)

    def _normalised(self):
        return self._sums / (self.weight or 1.0)

    def matrix(self):
        return self._answer(self._normalised(), "F")

    def _real_diagonal(self):
        return self._sums.diagonal().real / (self.weight or 1.0)

    def eigvalsh(self):
        values = linalg.eigvalsh(self._normalised(), overwrite_a=True)
        return self._answer(values, "the largest eigenvalue of F")

    def factor(self, damping):
        """Cholesky factor of F + D: `DenseFactor` with solve, logdet, inv_diagonal, ...

        Damping by a cutoff gives a `SpectralFactor` with the same questions.

        Raises
        ------
        NotPositiveDefiniteError
            With ``.order`` and ``.suggested_damping``.
        MemoryLimitError
            If another p x p array does not fit.
        """
        damping = as_damping(damping)
        require_memory(self._sum_bytes, f"the factor of DenseFisher({self.p})")
        if isinstance(damping, Cutoff):
            return self._spectral(damping)
        diagonal = self._real_diagonal()
        added = damping.resolve(float(diagonal.sum()), diagonal, self.p)
        try:
            given = dict(trace=diagonal.sum(), what="F + damping", dtype=self.dtype)
            factor = climb(self._normalised(), added, **given)
        except NotPositiveDefiniteError:
            cutoff = allowed_cutoff()
            if cutoff is None:
                raise
            return self._spectral(cutoff, added)
        return DenseFactor(factor, damping, self.dtype)

    def _spectral(self, cutoff, added=0.0):
        require_memory(2 * self._sum_bytes, f"the eigenvectors of DenseFisher({self.p})")
        A = self._normalised()
        np.einsum("ii->i", A)[:] += added
        return SpectralFactor(self.p, DenseSpectrum(A), cutoff, self.dtype, added=added)

    def _path(self, b, shift, dampings, origin):
        require_memory(3 * self._sum_bytes, f"a damping path of {self.p} parameters")
        F = self._normalised()
        root = -(exponent(F.diagonal().real.max(initial=0.0)) // 2)
        scale = np.ldexp(1.0, root)
        F *= scale
        F *= scale

        def apply(rows):
            return self.apply_fisher(rows * scale) * scale

        source = PrimalSource(Tridiagonal(F), b)
        settings = {"p": self.p, "dtype": self.dtype, "origin": origin, "root": root}
        return Path(source, apply, dampings, shift=shift, **settings)

    def _arrays(self):
        return {"mean": self._mean, "sums": self._absorbed, **self._staged_arrays()}

    @classmethod
    def _from_arrays(cls, header, arrays):
        p = len(arrays["mean"])
        made = cls(p, dtype=header["dtype"], center=header["center"], kind=header["kind"])
        double = made._mean.dtype
        made._mean[:] = take(arrays, "mean", (p,), double)
        made._absorbed[:] = take(arrays, "sums", (p, p), double)
        return made
