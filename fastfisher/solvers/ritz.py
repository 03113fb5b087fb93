"""What conjugate gradients tell of their preconditioner at no further product; docs/math.md X10."""

import numpy as np

from .. import linalg

__all__ = ["Ritz"]


class Ritz:
    """Eigenvalues of M^-1 A on what each row went through: its residuals r, and z = M^-1 r.

    One chain of steps after another: on the z of a row A is tridiagonal, and M diagonal.
    """

    def __init__(self):
        self._chains = []  # of steps: rows, and of each its diagonal and what is beside it
        self._before = None  # of the last step, what the next one needs

    def begin(self):
        """A new chain."""
        self._chains.append([])
        self._before = None

    def coefficients(self, alpha, beta):
        """A step of recurrences of one row each: x += alpha d, and then d = z + beta d; rows with
        alpha = 0 rest."""
        (rows,) = np.nonzero(alpha)
        with np.errstate(all="ignore"):  # what leaves the range is passed over
            diagonal, off = 1 / alpha[rows], np.zeros(len(rows))
            if self._before is not None:
                was, turned = (values[rows] for values in self._before)
                diagonal, off = diagonal + turned / was, np.sqrt(turned) / was
        self._chains[-1].append((rows, diagonal, off))
        self._before = alpha, beta

    def step(self, rows, inner, along, link, curvature):
        """A step in a block: <r, z> of each row, z = along' V + link' V_before where `curvature` is
        <V, A V>; a new chain where `link` is None."""
        if link is None:
            self.begin()
        with np.errstate(all="ignore"):
            diagonal, off = _squares(along, curvature, along).real, np.zeros(len(rows))
            if link is not None:
                were, their_inner, their_along, their_curvature = self._before
                kept = np.searchsorted(were, rows)
                diagonal = diagonal + _squares(link, their_curvature, link).real
                off = np.abs(_squares(their_along[:, kept], their_curvature, link))
                off = off / np.sqrt(their_inner[kept] * inner)
            self._chains[-1].append((rows, diagonal / inner, off))
        self._before = rows, inner, along, curvature

    def error(self):
        """The largest |1 / theta - 1|, no more than ||A^-1/2 (M - A) A^-1/2||; None without any."""
        found = [theta for chain in self._chains for theta in _thetas(chain)]
        return max((float(np.abs(1 / theta - 1).max()) for theta in found), default=None)


def _squares(x, A, y):
    """<x_j, A y_j> for columns of x and y."""
    return np.einsum("ij,ij->j", x.conj(), A @ y)


def _thetas(chain):
    """The eigenvalues of each row of a chain, as far as its numbers stayed in range."""
    own = {}
    for step in chain:
        for row, diagonal, off in zip(*step, strict=True):
            own.setdefault(int(row), []).append((diagonal, off))
    for steps in own.values():
        diagonal, off = np.array(steps).T
        length = int(np.argmin(np.append(np.isfinite(diagonal + off), False)))
        if length:
            theta = linalg.eigvalsh_tridiagonal(diagonal[:length], off[1:length])
            if theta[0] > 0:
                yield theta
