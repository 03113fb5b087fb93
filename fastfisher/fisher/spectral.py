"""Factors through eigenvalues: what a cutoff keeps of the inverse of F."""

import numpy as np

from ..arrays import as_vectors
from ..solvers.spectral import floor_of, largest_of
from .factor import Factor, hermitian_products

__all__ = ["SpectralFactor"]


class SpectralFactor(Factor):
    """V diag(gains) V' in place of (F + D)^-1; its null space is what was cut. docs/math.md P8.

    ``logdet`` is that of the inverse of what is kept, samples lie in its span.
    """

    rung = "eigen"

    def __init__(self, p, spectrum, cutoff, dtype, *, added=0.0):
        self.norm, floor = largest_of(spectrum), floor_of(spectrum)
        self._spectrum = spectrum
        self._gains = cutoff.gains(spectrum.eigenvalues, self.norm, floor)
        super().__init__(p, cutoff.threshold(self.norm, floor), cutoff, dtype)
        self.added = added

    @property
    def facts(self):
        kept = self._spectrum.eigenvalues[self._gains > 0]
        return {"rank": len(kept), "rcond": self.rcond()}

    def rcond(self):
        kept = self._spectrum.eigenvalues[self._gains > 0]
        return float(kept.min() / self.norm) if kept.size else 0.0

    def _filter(self, rows, gains):
        return self._spectrum.vectors(gains * self._spectrum.coordinates(rows))

    def _solve(self, rows):
        return self._filter(rows, self._gains)

    def inv_root(self, b):
        """V diag(gains^1/2) V' b, the Hermitian root of what replaces the inverse, for b (p,) or
        (p, k)."""
        rows, single = as_vectors(b, self.p, self.dtype, "b")
        rows = rows.astype(np.result_type(rows.dtype, np.float64))
        roots = np.sqrt(self._gains)
        if rows.dtype.kind == "c" and self.dtype.kind != "c":
            y = self._filter(rows.real.copy(), roots) + 1j * self._filter(rows.imag.copy(), roots)
        else:
            y = self._filter(rows, roots)
        return self.answered(y, single, b, "the root times b")

    def _kept(self, rows):
        return self._filter(rows, self._gains * self._spectrum.eigenvalues)

    def logdet(self):
        return -float(np.log(self._gains[self._gains > 0]).sum())

    def _inv_diagonal(self):
        return self._spectrum.diagonal(self._gains)

    def effective_dimension(self):
        return float((self._gains * self._spectrum.eigenvalues).sum())

    def _half(self, rows):
        return np.sqrt(self._gains) * self._spectrum.coordinates(rows)

    def _inv_quad_rows(self, rows):
        return hermitian_products(self._half(rows.conj())).conj()

    def _sample_rows(self, normal, k):
        return self._spectrum.vectors(np.sqrt(self._gains) * normal(k, len(self._gains)))
