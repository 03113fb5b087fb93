"""Eigenvalue cutoffs for scores on a device: sums, products and the certificate are made there.

The p x p (or n x n) matrix, and vectors, are copied to the host, where `solvers.spectral` does with
them what it does for scores of the host. Eigenvalues are found there by LAPACK; where CuPy or
nvmath-python is installed, by cuSOLVER on the device. The scores stay.
"""

from dataclasses import dataclass

import numpy as np

from ...devices import passes
from ...errors import InputError
from ...kernels.cuda import compat, memory
from ...planning import require_memory
from ...planning.device import eigen_entry
from ..eigen import eigen as eigen_on_host
from ..spectral import spectral as spectral_on_host
from ..system import System as HostSystem
from .samples import not_finite
from .system import apply_tamed

__all__ = ["HeldSeen", "Seen", "eigen", "spectral"]


@dataclass(frozen=True)
class Seen(HostSystem):
    """A system of a device as algorithms of the host see it: NumPy vectors in and out."""

    device: object = None

    @classmethod
    def of(cls, system, propagate=False):
        """What is seen of a system of a device."""
        total = float(system.n) if system.shares is None else 1.0
        return cls(system.G, None, total, system.mean, system.damping, propagate, device=system)

    @property
    def rank_bound(self):
        return self.device.rank_bound

    @property
    def root_weights(self):
        if self.device.roots is None:
            return np.full(self.n, self.n**-0.5)
        return memory.to_host(self.device.roots)

    def checked(self, values, what):
        if self.propagate or np.isfinite(values).all():
            return values
        row, size = passes.bad_row(self.G)
        if row is not None:
            raise not_finite(row)
        raise InputError(f"{what} overflows: the largest |G| is {size:.3g}; scale G")

    def rescaled(self, largest_square):
        system = self.device.rescaled(largest_square)
        return self if system is self.device else type(self).of(system, self.propagate)

    def add_syrk(self, c):
        c += self.total * self._matrix(self.p, self.device.add_fisher)

    def add_gram(self, c, column_weights=None):
        sums = memory.zeros(c.shape, np.float64)
        self.device.add_raw_gram(sums, column_weights)
        c += memory.to_host(sums)

    @staticmethod
    def _matrix(order, add):
        require_memory(4 * 8 * order * order, "a matrix on the host and its eigenvectors")
        sums = memory.zeros((order, order), np.float64)
        add(sums)
        return memory.to_host(sums)

    def _applied(self, function, rows):
        return memory.to_host(function(memory.to_device(np.ascontiguousarray(rows))))

    def apply_fisher(self, v):
        def apply(rows):
            return apply_tamed(self.device.raw_fisher, rows, self.dtype)

        return self._applied(apply, v) * self.device.inverse_total

    def raw_diagonal(self):
        return memory.to_host(self.device.diagonal())

    def apply_rows(self, v):
        return self._applied(self.device.apply_rows, v)

    def apply_adjoint(self, f):
        return self._applied(self.device.apply_adjoint, f)


@dataclass(frozen=True)
class HeldSeen(Seen):
    """The same of an F (p, p) whose scores are gone."""

    @classmethod
    def of(cls, system, propagate=False):
        return cls(None, None, 1.0, None, system.damping, propagate, device=system)

    @property
    def p(self):
        return self.device.p

    @property
    def dtype(self):
        return self.device.dtype

    def checked(self, values, what):
        return values

    def rescaled(self, largest_square):
        return self


def spectral(seen, b, coef, side, *, cutoff=None):
    """The outcome of `solvers.spectral` for rows b (k, p) or coef (k, n) of the device; its x are
    rows of the host."""
    rows = [None if x is None else memory.to_host(x) for x in (b, coef)]
    return spectral_on_host(seen, *rows, side, cutoff=cutoff, find=eigen)


def eigen(A):
    """As `solvers.eigen.eigen`."""
    entry = eigen_entry()
    if entry is None or not len(A):
        return eigen_on_host(A)
    a, e = memory.to_device(A), compat.empty((len(A),), np.float64)
    if memory.to_host(entry.load()(e, a))[0]:  # it did not converge
        return eigen_on_host(A)
    return memory.to_host(e), memory.to_host(a)
