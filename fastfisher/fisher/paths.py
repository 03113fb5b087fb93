"""Damping paths of Fisher objects: through eigenvalues, where a class knows no better way."""

import numpy as np

from ..errors import InputError
from ..passes import sums_dtype
from ..solvers.path import Path, SpectralSource, as_dampings

__all__ = ["WithPath", "exponent"]


def exponent(size):
    """e with size < 2^e <= 2 size; 0 for 0."""
    return int(np.frexp(size)[1]) if size > 0 else 0


class WithPath:
    """The verb ``path`` of a Fisher object, which has ``_spectrum()`` or a ``_path`` of its own.

    A spectrum knows ``eigenvalues`` and turns rows into ``coordinates`` and back to ``vectors``.
    """

    def path(self, b, dampings):
        """What `solve` would give for each of many dampings, from one factorisation.

        Parameters
        ----------
        b : array (p,) or None
            Right-hand side; None for the mean gradient of everything seen.
        dampings : array (m,)
            Absolute dampings lambda >= 0, in any order.

        Returns
        -------
        Path
            ``.norms .residuals .kl .logdet .inner .effective_dimension`` for each lambda,
            ``.x(i)``, ``.gcv()``, ``.corner()``; printed as a table.

        Raises
        ------
        InputError
            If b is not one vector of F's kind, or a damping is no number >= 0.
        NotPositiveDefiniteError
            If F is not definite with one of the dampings.
        MemoryLimitError
            If the matrix to be factored does not fit.

        Notes
        -----
        F = Q T Q' with T tridiagonal, 4 p^3 / 3 flops and 16 p^2 bytes (a Gram matrix: n for p);
        then O(p^2) a damping. Blocks and Kronecker factors: by their eigenvectors. docs/math.md Q1.

        References
        ----------
        L. Elden, Algorithms for the regularization of ill-conditioned least squares problems, BIT
        17, 1977.

        Examples
        --------
        >>> import numpy as np, fastfisher as ff
        >>> F = ff.DenseFisher(2).update(np.array([[1.0, 0.0], [0.0, 3.0]]))
        >>> F.path(np.array([1.0, 1.0]), [0.5, 4.5]).inner.round(3)
        array([1.2  , 0.311])
        """
        dampings = as_dampings(dampings)
        rows, single = self._right_hand_sides(b)
        if not single:
            raise InputError(f"b has shape {np.shape(b)}; a path takes one vector ({self.p},)")
        if rows.dtype.kind == "c" and self.dtype.kind != "c":
            raise InputError(
                "b is complex but this Fisher is real; take the paths of b.real and b.imag"
            )
        rows = rows.astype(sums_dtype(self.dtype), copy=False)
        shift = exponent(np.abs(rows).max(initial=0.0))
        return self._path(rows[0] * np.ldexp(1.0, -shift), shift, dampings, b)

    def _path(self, b, shift, dampings, origin):
        """The path for 2^shift b; here through all eigenvectors."""
        settings = {"p": self.p, "dtype": self.dtype, "origin": origin, "shift": shift}
        return Path(SpectralSource(self._spectrum(), b), self.apply_fisher, dampings, **settings)
