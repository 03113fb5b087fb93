"""A = Q T Q' with T real and tridiagonal: after that, every A + lambda I costs O(n) to solve with.

A quarter of the work of an eigendecomposition, which the solves have no need of.
"""

import numpy as np

from .. import linalg
from ..planning import choose

__all__ = ["Tridiagonal"]


class Tridiagonal:
    """Hermitian A (n, n), C-ordered double in its lower triangle; destroyed. docs/math.md Q1.

    Attributes
    ----------
    eigenvalues : array (n,)
        Of A, ascending.
    """

    def __init__(self, A):
        n = len(A)
        choose("mirror", n, A.dtype).load()(A)
        # The transpose is what LAPACK reads: for complex A its conjugate, hence `_turn`.
        self._conjugate = A.dtype.kind == "c"
        self.dtype = A.dtype
        self.diagonal, self.off = A.diagonal().real.copy(), np.empty(0)
        self._reflectors = None
        if n > 1:
            reduce, query = (linalg.lapack.zhetrd, linalg.lapack.zhetrd_lwork)
            if not self._conjugate:
                reduce, query = (linalg.lapack.dsytrd, linalg.lapack.dsytrd_lwork)
            lwork = int(query(n, lower=1)[0].real)
            reduced, self.diagonal, self.off, self._tau, _ = reduce(
                A.T, lower=1, lwork=lwork, overwrite_a=1
            )
            self._reflectors = np.asfortranarray(reduced[1:, :-1])
        if n > 1:
            self.eigenvalues, info = linalg.lapack.dsterf(self.diagonal, self.off)
            if info:
                raise ArithmeticError(f"dsterf did not converge ({info})")
        else:
            self.eigenvalues = self.diagonal.copy()

    def __len__(self):
        return len(self.diagonal)

    def _turn(self, rows, adjoint):
        """rows -> (Q or Q' applied to each row), for rows (m, n) of the dtype of A."""
        columns = np.array(rows.conj() if self._conjugate else rows, self.dtype).T
        if self._reflectors is None or not columns.size:
            return columns.T.conj() if self._conjugate else columns.T
        apply = linalg.lapack.zunmqr if self._conjugate else linalg.lapack.dormqr
        trans = ("C" if self._conjugate else "T") if adjoint else "N"
        body = np.asfortranarray(columns[1:])
        _, work, _ = apply("L", trans, self._reflectors, self._tau, body, -1)
        lwork = int(work[0].real)
        columns[1:], _, _ = apply(
            "L", trans, self._reflectors, self._tau, body, lwork, overwrite_c=1
        )
        return columns.T.conj() if self._conjugate else columns.T

    def coordinates(self, rows):
        """Q' applied to rows (m, n)."""
        return self._turn(rows, adjoint=True)

    def vectors(self, coordinates):
        """Q applied to rows of coordinates (m, n)."""
        return self._turn(coordinates, adjoint=False)

    def product(self, coordinates):
        """T z for rows z (m, n)."""
        out = self.diagonal * coordinates
        out[:, :-1] += self.off * coordinates[:, 1:]
        out[:, 1:] += self.off * coordinates[:, :-1]
        return out

    def solve(self, coordinates, dampings):
        """(T + lambda)^-1 c for one c (n,) and each damping: (m, n); and where the first failed.

        The second value is the index of the first damping with which T is not definite, or None.
        """
        parts = [coordinates.real, coordinates.imag] if self._conjugate else [coordinates]
        right = np.array(parts).T
        out = np.empty((len(dampings), len(self)), self.dtype)
        if len(self) < 2:  # SciPy's wrappers want an off-diagonal
            damped = self.diagonal + dampings[:, np.newaxis]
            bad = np.flatnonzero(~(damped > 0).all(axis=1))
            return (out, int(bad[0])) if bad.size else (coordinates / damped, None)
        for i, lam in enumerate(dampings):
            pivots, multipliers, info = linalg.lapack.dpttrf(self.diagonal + lam, self.off)
            if info or not np.all(pivots > 0):
                return out, i
            z, _ = linalg.lapack.dpttrs(pivots, multipliers, right)
            out[i] = z[:, 0] + 1j * z[:, 1] if self._conjugate else z[:, 0]
        return out, None
