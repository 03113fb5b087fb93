"""Solves through eigenvalues: cutoffs in place of damping, in the primal and in the dual."""

import numpy as np

from .certificate import certify, direct_status
from .cutoffs import Cutoff
from .dual import gram_lower
from .eigen import eigen
from .outcome import Outcome
from .primal import fisher_lower

__all__ = [
    "DenseSpectrum",
    "DiagonalSpectrum",
    "GramSpectrum",
    "floor_of",
    "largest_of",
    "spectral",
]

NOISE = 8  # eigenvalues up to this many n eps, of the largest, are rounding of the sums
CHUNK = 64  # columns of scores worked on at once


class DenseSpectrum:
    """A = V diag(eigenvalues) V' (p, p); A in its lower triangle, in double; destroyed."""

    def __init__(self, A, find=eigen):
        self.eigenvalues, self._adjoint = find(A)
        self.order = len(A)

    def coordinates(self, rows):
        """V'b for rows b (k, p)."""
        return rows @ self._adjoint.T

    def vectors(self, coordinates):
        """V c for rows c (k, m)."""
        return coordinates @ self._adjoint.conj()

    def diagonal(self, gains):
        """Diagonal of V diag(gains) V'."""
        return gains @ np.abs(self._adjoint) ** 2


class DiagonalSpectrum:
    """The eigenvalues of a diagonal F, in the order of the parameters."""

    def __init__(self, diagonal):
        self.eigenvalues, self.order = diagonal, len(diagonal)

    def coordinates(self, rows):
        return rows

    def vectors(self, coordinates):
        return coordinates

    def diagonal(self, gains):
        return gains.copy()


class GramSpectrum:
    """F + shift I through T T' = U diag(e) U': V = T'U e^-1/2, for e that are not rounding."""

    def __init__(self, system, K, shift=0.0, find=eigen):
        e, rows = find(K)
        self.order = len(e)
        noise = floor_of(self) * max(e[-1:], default=0.0)
        first = int(np.searchsorted(e, noise, side="right"))
        kept = slice(max(first, self.order - min(system.rank_bound, system.p)), None)
        self._system, self._adjoint, self._roots = system, rows[kept], np.sqrt(e[kept])
        self.eigenvalues = e[kept] + shift

    def coordinates(self, rows):
        """V'b for rows b (k, p)."""
        return (self._system.apply_rows(rows) @ self._adjoint.T) / self._roots

    def of_coefficients(self, f):
        """V'b of b = T'f for rows f (k, n)."""
        return (f @ self._adjoint.T) * self._roots

    def seen(self, lo, hi):
        """|T V|^2 of modes lo..hi, (hi - lo, n)."""
        return np.abs(self._adjoint[lo:hi] * self._roots[lo:hi, np.newaxis]) ** 2

    def vectors(self, coordinates):
        """V c for rows c (k, m)."""
        # By powers of two: c / e^1/2 may leave the range that V c is in.
        sizes = np.abs(coordinates).max(axis=1, initial=0.0)[:, np.newaxis]
        unit = np.ldexp(1.0, -np.clip(np.frexp(sizes)[1], -1000, 1000))
        rows = self._system.apply_adjoint((coordinates * unit / self._roots) @ self._adjoint.conj())
        return rows / unit

    def diagonal(self, gains):
        """Diagonal of V diag(gains) V'."""
        out, roots = np.empty(self._system.p), self._roots[:, np.newaxis]
        for lo in range(0, len(out), CHUNK):
            panel = self._system.columns(lo, min(lo + CHUNK, len(out)))
            out[lo : lo + CHUNK] = gains @ np.abs((self._adjoint @ panel) / roots) ** 2
        return out


def floor_of(spectrum):
    """The share of the largest eigenvalue below which one is rounding."""
    return NOISE * spectrum.order * float(np.finfo(np.float64).eps)


def largest_of(spectrum):
    """The largest eigenvalue, 0 where there is none."""
    return float(spectrum.eigenvalues.max(initial=0.0))


def _noise(system, spectrum, coef, c):
    """Signal-to-noise ratios (k, m) of the modes: |mean q| sqrt(n) / std(q)."""
    squares, mean = np.empty(c.shape), np.abs(c)
    for lo in range(0, c.shape[1], CHUNK):
        hi = min(lo + CHUNK, c.shape[1])
        if isinstance(spectrum, GramSpectrum):
            seen = spectrum.seen(lo, hi)
        else:
            unit = np.eye(hi - lo, c.shape[1], lo)
            seen = np.abs(system.apply_rows(spectrum.vectors(unit))) ** 2
        squares[:, lo:hi] = np.abs(coef) ** 2 @ seen.T
    shares = system.root_weights**2
    count = 1 / float((shares**2).sum() or 1.0)
    deviation = np.sqrt(np.maximum(squares - mean**2, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = mean * np.sqrt(count) / deviation
    return np.where(mean > 0, ratio, 0.0)


def spectral(system, b, coef, side, *, cutoff=None, rung="eigen", find=eigen):
    """Solve for rows b (k, p) or coef (k, n) with a cutoff in place of the inverse of F + D.

    `side` is "primal" or "dual". The cutoff is the system's damping unless given: then D is the
    system's damping, which was too small. `find` finds eigenvalues, as `eigen`.
    """
    needs, asked = system.damping.needs, cutoff or system.damping
    f = None if coef is None else system.from_coefficients(coef)
    if side == "primal":
        A, system = fisher_lower(system)
        added = 0.0
        if not isinstance(system.damping, Cutoff):
            added = system.resolve_damping(A.diagonal().real.copy())
            np.einsum("ii->i", A)[:] += added
        spectrum = DenseSpectrum(A, find)
    else:
        A, system = gram_lower(system)
        added = (
            0.0 if needs == "spectrum" else system.resolve_damping(None, A.diagonal().real.sum())
        )
        spectrum = GramSpectrum(system, A, added, find)
    if b is None:
        b = system.apply_adjoint(f)
        system.checked(b, "b = G'(w o coef)/sum(w)")
    by_coefficients = f is not None and side == "dual"
    c = spectrum.of_coefficients(f) if by_coefficients else spectrum.coordinates(b)
    noise = _noise(system, spectrum, coef, c) if asked.per_sample and coef is not None else None
    e, floor, largest = spectrum.eigenvalues, floor_of(spectrum), largest_of(spectrum)
    gains = asked.gains(e, largest, floor, noise)
    x, wanted = spectrum.vectors(gains * c), spectrum.vectors(gains * e * c)
    certificate = certify(system, added, x, wanted, largest)
    better = x + spectrum.vectors(gains * spectrum.coordinates(certificate.rows))
    again = certify(system, added, better, wanted, largest)
    if again.backward_error < certificate.backward_error:
        x, certificate = better, again
    kept = np.atleast_2d(gains > 0)
    return Outcome(
        system,
        x,
        certificate,
        direct_status(system, certificate),
        asked.threshold(largest, floor),
        rung=rung,
        rank=int(kept.sum(axis=1).max(initial=0)),
        rcond=_condition(np.broadcast_to(e, kept.shape)[kept], largest),
    )


def _condition(kept, largest):
    return float(kept.min() / largest) if kept.size else 0.0
