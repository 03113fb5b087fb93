"""Blocks kron(E, A) of a Fisher, their eigenbases, and the factor that divides in them."""

from dataclasses import dataclass

import numpy as np

from .. import linalg
from ..arrays import as_vectors
from ..errors import InputError, NotPositiveDefiniteError
from ..ops.factorizations import round_up
from ..solvers.factored import sufficient
from .factor import Factor, hermitian_products

__all__ = ["Basis", "Blocks", "Eigen", "KroneckerFactor", "KroneckerSpectrum", "Spectral"]

EPS = np.finfo(np.float64).eps


def split_rows(rows, widths):
    """Rows (k, p) as one (k, d_out, d_in) view per layer."""
    parts, first = [], 0
    for d_in, d_out in widths:
        parts.append(rows[:, first : first + d_in * d_out].reshape(len(rows), d_out, d_in))
        first += d_in * d_out
    return parts


def _joined(parts):
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _eigh(x, what):
    """Eigenvalues, those that are rounding as 0, and eigenvectors of a semidefinite factor."""
    if not np.isfinite(x).all():
        raise InputError(f"{what} is not finite; the sums hold NaN or overflowed")
    try:
        # Divide and conquer: SciPy's default loses a hundred times more orthogonality.
        values, vectors = linalg.eigh(x, driver="evd")
    except linalg.LinAlgError:  # it gave up; the QR iteration hardly ever does
        values, vectors = linalg.eigh(x, driver="ev")
    values[values <= 2 * len(values) * EPS * values[-1]] = 0
    return values, np.ascontiguousarray(vectors)


@dataclass(frozen=True)
class Basis:
    """Orthonormal U = kron(outputs, inputs) of one layer; vectors are (k, d_out, d_in)."""

    outputs: np.ndarray
    inputs: np.ndarray

    def into(self, v):
        """U' v."""
        return self.outputs.conj().T @ v @ self.inputs.conj()

    def out_of(self, y):
        """U y."""
        return self.outputs @ y @ self.inputs.T

    def diagonal(self, spectrum):
        """Diagonal of U diag(spectrum) U', for a spectrum (d_out, d_in)."""
        return np.abs(self.outputs) ** 2 @ spectrum @ np.abs(self.inputs.T) ** 2


@dataclass(frozen=True)
class Blocks:
    """F = blockdiag kron(E_l, A_l), as pairs (E, A)."""

    pairs: tuple

    @property
    def widths(self):
        return tuple((len(A), len(E)) for E, A in self.pairs)

    def apply_fisher(self, v):
        """F v for rows v (k, p)."""
        parts = split_rows(v, self.widths)
        return _joined([E @ part @ A.T for (E, A), part in zip(self.pairs, parts, strict=True)])

    def shifted(self, shifts):
        """The blocks with shifts (of A, of E) on their diagonals."""
        pairs = zip(self.pairs, shifts, strict=True)
        return Blocks(
            tuple((E + o * np.eye(len(E)), A + i * np.eye(len(A))) for (E, A), (i, o) in pairs)
        )

    def diagonal(self):
        return np.concatenate(
            [np.outer(E.diagonal().real, A.diagonal().real).ravel() for E, A in self.pairs]
        )

    def trace(self):
        return float(sum(np.trace(E).real * np.trace(A).real for E, A in self.pairs))

    def matrices(self):
        """The blocks themselves, one after the other."""
        return (np.kron(E, A) for E, A in self.pairs)

    def eigen(self):
        """Eigenbases and eigenvalues of the factors."""
        bases, values = [], []
        for index, (E, A) in enumerate(self.pairs):
            s, U = _eigh(E, f"the factor E of layer {index}")
            t, V = _eigh(A, f"the factor A of layer {index}")
            bases.append(Basis(U, V))
            values.append((s, t))
        return Eigen(tuple(bases), tuple(values))


@dataclass(frozen=True)
class Eigen:
    """Bases and eigenvalues (s of E, t of A) of Kronecker factors."""

    bases: tuple
    values: tuple

    def spectral(self, shifts=None):
        """The blocks they make, with shifts (of A, of E) added to the factors."""
        shifts = [(0.0, 0.0)] * len(self.values) if shifts is None else shifts
        pairs = zip(self.values, shifts, strict=True)
        return Spectral(self.bases, tuple(np.outer(s + o, t + i) for (s, t), (i, o) in pairs))


@dataclass(frozen=True)
class Spectral:
    """F = blockdiag U_l diag(S_l) U_l' with spectra S_l (d_out, d_in)."""

    bases: tuple
    spectra: tuple

    @property
    def widths(self):
        return tuple(spectrum.shape[::-1] for spectrum in self.spectra)

    def damped(self, lam):
        """F + lambda; without damping eigenvalues that are rounding count as 0."""
        if lam:
            return Spectral(self.bases, tuple(s + lam for s in self.spectra))
        spectra = []
        for s in self.spectra:
            noise = (4 * max(s.shape) * EPS) ** 2 * s.max()
            spectra.append(np.where(s > noise, s, 0.0))
        return Spectral(self.bases, tuple(spectra))

    def map(self, rows, *spectra):
        """U f U' rows for multipliers f per layer."""
        parts = split_rows(rows, self.widths)
        return _joined(
            [
                basis.out_of(basis.into(part) * f)
                for basis, part, f in zip(self.bases, parts, spectra, strict=True)
            ]
        )

    @property
    def eigenvalues(self):
        return np.concatenate([spectrum.ravel() for spectrum in self.spectra])

    def coordinates(self, rows):
        """U' rows."""
        parts = split_rows(rows, self.widths)
        return _joined([basis.into(part) for basis, part in zip(self.bases, parts, strict=True)])

    def vectors(self, rows):
        """U rows."""
        parts = split_rows(rows, self.widths)
        return _joined([basis.out_of(part) for basis, part in zip(self.bases, parts, strict=True)])

    def apply_fisher(self, v):
        """F v for rows v (k, p)."""
        return self.map(v, *self.spectra)

    def diagonal(self):
        pairs = zip(self.bases, self.spectra, strict=True)
        return np.concatenate([basis.diagonal(s).ravel() for basis, s in pairs])

    def trace(self):
        return float(sum(spectrum.sum() for spectrum in self.spectra))

    def matrices(self):
        for basis, spectrum in zip(self.bases, self.spectra, strict=True):
            U = np.kron(basis.outputs, basis.inputs)
            block = (U * spectrum.ravel()) @ U.conj().T
            yield (block + block.conj().T) / 2


class KroneckerSpectrum:
    """A `Spectral` F + shift I as cutoffs want it."""

    def __init__(self, spectral, shift=0.0):
        self._spectral = spectral
        self.eigenvalues = spectral.eigenvalues + shift
        self.order = max(max(width) for width in spectral.widths)
        self.coordinates, self.vectors = spectral.coordinates, spectral.vectors

    def diagonal(self, gains):
        """Diagonal of U diag(gains) U'."""
        parts = split_rows(gains[np.newaxis], self._spectral.widths)
        spectra = tuple(part[0] for part in parts)
        return Spectral(self._spectral.bases, spectra).diagonal()


class KroneckerFactor(Factor):
    """F = U diag(free) U' and F + D = U diag(damped) U' per layer. docs/math.md P6, P7.

    `operator` multiplies by F + D without the eigenvectors, for the residual.
    """

    rung = "eigenbasis"

    def __init__(self, free, damped, operator, lam, damping, dtype, escalation=0.0):
        p = sum(spectrum.size for spectrum in damped.spectra)
        super().__init__(p, lam + escalation, damping, dtype)
        self.escalation = escalation
        if escalation:
            self.rung = "eigenbasis+damping"
        self._free, self._damped, self.operator = free, damped, operator
        self.norm = max(float(s.max()) for s in damped.spectra)
        first = 0
        for index, spectrum in enumerate(damped.spectra):
            least = int(np.argmin(spectrum))
            if not spectrum.ravel()[least] > 0:
                raise _refusal(index, first + least + 1, damped, lam, self.dtype)
            first += spectrum.size

    @property
    def facts(self):
        return {
            "rank": self.p,
            "rcond": self.rcond(),
            "smallest_pivot": float(self._damped.eigenvalues.min()),
            "escalation": self.escalation,
        }

    def _solve(self, rows):
        return self._damped.map(rows, *(1 / s for s in self._damped.spectra))

    def inv_root(self, b):
        """(F + D)^-1/2 b, by the Hermitian root, for b (p,) or (p, k). docs/math.md S3."""
        rows, single = as_vectors(b, self.p, self.dtype, "b")
        rows = rows.astype(np.result_type(rows.dtype, np.float64))
        roots = (1 / np.sqrt(s) for s in self._damped.spectra)
        return self.answered(self._damped.map(rows, *roots), single, b, "(F + D)^-1/2 b")

    def logdet(self):
        return float(sum(np.log(s).sum() for s in self._damped.spectra))

    def _inv_diagonal(self):
        inverse = Spectral(self._damped.bases, tuple(1 / s for s in self._damped.spectra))
        return inverse.diagonal()

    def _roots(self):
        return np.sqrt(self._damped.eigenvalues)

    def _half(self, rows):
        return self._damped.coordinates(rows) / self._roots()

    def effective_dimension(self):
        return float((self._free.eigenvalues / self._damped.eigenvalues).sum())

    def rcond(self):
        return float(self._damped.eigenvalues.min() / self.norm)

    def _inv_quad_rows(self, rows):
        # A row of J is a bra: J U is the conjugate of U' applied to its adjoint.
        return hermitian_products(self._half(rows.conj()).conj())

    def _sample_rows(self, normal, k):
        return self._damped.vectors(normal(k, self.p) / self._roots())


def _refusal(index, order, spectral, lam, dtype):
    largest = max(float(s.max()) for s in spectral.spectra)
    orders = max(max(width) for width in spectral.widths)
    suggested = round_up(lam + sufficient(orders, dtype, largest)) or 1.0
    return NotPositiveDefiniteError(
        f"eigenvalue {order} of F + damping, in layer {index}, is not positive at damping "
        f"{lam:.3g}; an absolute damping of {suggested:.3g} would factor, a larger one is better "
        "conditioned",
        order=order,
        rcond=0.0,
        suggested_damping=suggested,
    )
