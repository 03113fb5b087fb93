"""Approximate F, or Gram matrices, for preconditioning: from slices or single precision.

One of them serves every damping: it is factored anew in single precision, scaled by powers of two.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from ..kernels.cpu.memory import SMALL, aligned, forget
from ..kernels.slicing import BITS, KINDS, SINGLE, full_units
from ..ops.factorizations import factor
from ..passes import add_peaks, add_sliced_gram, add_sliced_syrk, sums_dtype
from ..planning import choose
from .probe import late_pivots
from .ranges import unit_roundoff

__all__ = [
    "Model",
    "Rough",
    "RoughFactor",
    "long_direction",
    "power_norm",
    "predicted_steps",
    "rough_matrix",
]

HALVES_OF = {"float64": "float32", "complex128": "complex64"}
SINGLE_ERROR = 1e-7  # of sums and a factor in single precision, in units of the norm
REACHED = 1e5  # share of the residual, in u, that steps are reckoned to: x is larger than b
BELOW = 0.5  # rounding makes eigenvalues larger at will, but hardly smaller than half
SAMPLE, BLOCK = 256, 64  # rows that tell the norm, and how many of them are neighbours
SAMPLE_BYTES = 16 << 20  # of them, where they are copied
POWER_STEPS = 6
HALF_ERROR = 2.0**-14 / 12 * 0.54  # mean square of the rounding to bfloat16, of numbers of any size
GRADED = 16  # ratio of scales from which the scaled system is solved to rounding as well


@dataclass(frozen=True)
class Model:
    """What is known before any matrix is formed: sizes of the errors that each form would have.

    `noise`: mean square of the rounding to one byte, in units of F, per row of the matrix;
    `spread`: length of the other axis; `norm` of F; `diagonal` of F where D is one; `floor`, per
    row or 0: what F has, beside D, in the direction where it has least (`Probe`); `squares`: the
    diagonal of F, nearly, per row or the same for all.
    """

    noise: np.ndarray | None
    order: int
    spread: int
    norm: float
    diagonal: np.ndarray | None = None
    floor: object = 0.0
    squares: object = 0.0

    def error(self, form, added):
        """Estimate of ||A^-1/2 E A^-1/2|| for A = F + D and M = A + E (docs/math.md X1, X5).

        E = T'R + R'T + R'R for rounding errors R that are independent. Inf where single precision
        has no factor.
        """
        least = float(np.min(added, initial=math.inf))
        if not least > 0:
            return math.inf
        floor = self.floor[self.floor > 0] if np.ndim(self.floor) else self.floor
        beside = least + float(np.median(floor)) if np.size(floor) else least
        single = SINGLE_ERROR * self.norm / beside  # that of the factor, whatever was factored
        if np.ndim(added):  # it is scaled to a diagonal near 1
            most = float(np.max(self.diagonal, initial=0.0)) or 1.0
            single *= float(np.max(self.diagonal / added, initial=0.0)) * least / most
        if form is SINGLE and single < 1:
            return single
        if self.noise is None or not single < 1:
            return math.inf
        halves = form.kind == "halves"
        noise = HALF_ERROR * self.squares if halves else self.noise * 4.0 ** (BITS - form.bits)
        shares = (noise / (added + self.floor) * np.ones_like(self.noise))[self.noise > 0]
        share = float(np.mean(shares)) if shares.size else 0.0
        share *= 4.0 ** (-KINDS[form.kind].bits * (form.slices - 1))
        ratio = min(self.order / max(self.spread, 1), 1.0)
        return 2 * math.sqrt(share * ratio) + share + single


def predicted_steps(error, dtype=np.float64):
    """Steps of conjugate gradients with a preconditioner of this error (docs/math.md X1, X5)."""
    if not error < math.inf:
        return math.inf
    root = math.sqrt((1 + error) / (1 - min(error, BELOW)))
    if root <= 1:  # the error is nothing, or lost in rounding
        return 1
    reach = 2 / (REACHED * unit_roundoff(dtype))
    return 1 + math.ceil(math.log(reach) / math.log((root + 1) / (root - 1)))


def power_norm(system):
    """A lower bound of ||F|| close to it: one product with what a sample of rows suggests."""
    v = long_direction(system)
    return 0.0 if v is None else float(np.linalg.norm(system.apply_fisher(v)))


def long_direction(system):
    """A unit vector (1, p) that F takes nearly as far as any, by a sample of rows; or None."""
    n, p = system.G.shape
    if not (n and p and system.total):
        return None
    most = SAMPLE if system.G.direct else min(SAMPLE, SAMPLE_BYTES // (p * system.G.dtype.itemsize))
    count = max(most // BLOCK, 1)
    step = max(1, -(-n // BLOCK) // count) * BLOCK
    none = np.empty(0, system.dtype)
    shift = none if system.mean is None else np.ascontiguousarray(system.mean, system.dtype)
    parts = []
    for lo in range(0, n, step)[:count]:
        weights = none.real
        if system.weights is not None:
            weights = np.ascontiguousarray(system.weights[lo : lo + BLOCK], none.real.dtype)
        parts.append((system.G.rows(lo, min(lo + BLOCK, n)), weights))
    fvp, v = choose("fvp", 1, system.dtype).load(), _longest(parts, shift)
    for _ in range(POWER_STEPS):
        size = float(np.linalg.norm(v))
        if not 0 < size < math.inf:
            return None
        start = np.ascontiguousarray(v / size, system.dtype)
        v = np.zeros(v.shape, sums_dtype(system.dtype))
        for rows, weights in parts:
            fvp(v, rows, start, weights, shift)
    size = float(np.linalg.norm(v))
    return v / size if 0 < size < math.inf else None


def _longest(parts, shift):
    """The longest of some rows, weighted and centred: F does not take it to zero. (1, p)."""
    best, found = 0.0, parts[0][0][:1]
    for rows, weights in parts:
        moved = rows - shift if shift.size else rows
        sizes = np.einsum("ij,ij->i", moved.conj(), moved).real
        sizes = sizes * weights if weights.size else sizes
        if sizes.max() > best:
            k = int(np.argmax(sizes))
            best, found = sizes[k], moved[k : k + 1]
    return np.conj(found) if best else np.zeros_like(found)


def noise_of(peaks, units, spread):
    """Mean squares of the rounding of so many numbers to these units, summed; 0 rounds to 0."""
    return np.where(peaks > 0, spread / 12, 0.0) * np.square(units)


class Slicing:
    """How the scores of a system become integers: units per column (primal) or row (dual)."""

    def __init__(self, system, side):
        self.system, self.side = system, side
        primal = side == "primal"
        self.peaks = np.zeros(system.p if primal else system.n)
        weights = system.weights if primal else None
        add_peaks(self.peaks, system.G, by_rows=primal, weights=weights, shift=system.mean)
        self.spread = system.n if primal else system.p
        self._first = {}  # by form: sums over the first terms, and how many those are

    @property
    def noise(self):
        """Mean squares of errors of bytes, summed over the other axis, in units of F (or K)."""
        return noise_of(self.peaks, self._outer(BITS), self.spread)

    def _units(self, bits):
        """Per column (row in the dual)."""
        return full_units(self.peaks, self.system.dtype, bits)

    def _outer(self, bits):
        """c = units (G - m)' w (G - m) units, so F = outer c outer; likewise K."""
        if self.side == "dual":
            return self.system.root_weights / self._units(bits)
        return 1 / (self._units(bits) * math.sqrt(self.system.total or 1.0))

    def matrix(self, form):
        """The matrix from all terms; those that are in `begun` are not gone through again."""
        c, first = self._first.pop(form, (None, 0))
        c = self._added(c, form, (first, self.spread))
        return Rough(c, self._outer(form.bits), form)

    def begun(self, form, terms):
        """The matrix from the first terms, as if they were like all."""
        c = self._added(None, form, (0, terms))
        self._first = {form: (c, terms)}
        return Rough(c, self._outer(form.bits) * math.sqrt(self.spread / terms), form)

    def forget(self):
        """Let go of what was begun."""
        self._first.clear()

    def _added(self, c, form, part):
        if c is None:  # what is factored is in single precision anyway
            c = aligned((len(self.peaks), len(self.peaks)), np.float32)
            c[:] = 0
        s, units = self.system, self._units(form.bits)
        how = {"kind": form.kind, "shift": s.mean, "part": part}
        if self.side == "primal":
            how["weights"] = s.weights
            add_sliced_syrk(c, s.G, units, form.slices, form.levels, **how)
        else:
            add_sliced_gram(c, s.G, units, form.slices, form.levels, **how)
        return c


def _halved(system, largest_square):
    """The system with scores in single precision, in units of the largest column's mean square."""
    name = HALVES_OF.get(system.dtype.name)
    if name is None:
        return system
    s = np.ldexp(1.0, -(int(np.frexp(largest_square)[1]) // 2)) if largest_square > 0 else 1.0
    mean = None if system.mean is None else system.mean * s
    G = replace(system.G, dtype=np.dtype(name), scale=system.G.scale * float(s))
    return replace(system, G=G, mean=mean)


def rough_matrix(system, side, form, slicing, largest_square):
    """The approximate matrix of the primal (F) or the dual (K)."""
    if form is not SINGLE:
        return slicing.matrix(form)
    half = _halved(system, largest_square)
    ratio = half.G.scale / system.G.scale
    order = system.p if side == "primal" else system.n
    c = np.zeros((order, order), sums_dtype(system.dtype))
    with np.errstate(over="ignore", invalid="ignore"):  # then there is no factor in single either
        (half.add_syrk if side == "primal" else half.add_gram)(c)
    forget(SMALL)
    if side == "primal":
        outer = np.full(order, 1 / (math.sqrt(system.total or 1.0) * ratio))
    else:
        outer = system.root_weights / ratio
    return Rough(c, outer, SINGLE)


class Rough:
    """F (or K) ~ diag(outer) c diag(outer), of c its lower triangle.

    `last`: it is factored but once more, where it lies if it is in single precision.
    """

    def __init__(self, c, outer, form):
        self.c, self.outer, self.form, self.last = c, outer, form, False
        with np.errstate(invalid="ignore"):  # what is out of range has no factor
            self.diagonal = c.diagonal().real * outer * outer

    def factored(self, added):
        """The factor of this matrix + added, or None where single precision has none."""
        found = RoughFactor(self, added)
        return None if found.order else found


class RoughFactor:
    """A + D ~ L L' in single precision, scaled by powers of two to a diagonal near 1.

    `order` is that of the failing pivot, or 0.
    """

    def __init__(self, rough, added):
        c, n = rough.c, len(rough.c)
        in_place = rough.last and c.dtype == np.float32
        if in_place:
            rough.c = None
        diagonal = rough.diagonal + added
        exponents = np.frexp(np.where(diagonal > 0, diagonal, 1.0))[1]
        self._scales = np.ldexp(1.0, -(exponents // 2))
        by = rough.outer * self._scales
        self.complex = c.dtype.kind == "c"
        self._L = c if in_place else np.empty((n, n), np.complex64 if self.complex else np.float32)
        if self.complex:
            with np.errstate(under="ignore"):
                self._L[:] = c * by[:, np.newaxis] * by
        else:
            choose("narrow", n, c.dtype).load()(self._L, c, by)
        np.einsum("ii->i", self._L)[:] = diagonal * self._scales**2
        self._scaled_diagonal = self._L.diagonal().real.copy()
        self.order = factor(self._L)

    def least(self, terms):
        """The share of its own diagonal that late pivots keep, of a matrix from so many terms."""
        pivots = self._L.diagonal().real.astype(float) ** 2 / self._scaled_diagonal
        return late_pivots(pivots * terms / np.maximum(terms - np.arange(len(self)), 1))

    def __len__(self):
        return len(self._L)

    @property
    def graded(self):
        """The scales, where they differ much; else None."""
        s = self._scales
        return s if len(s) and s.max() > GRADED * s.min() else None

    def solve(self, rows):
        """(A + D)^-1 rows, nearly: each row in units of its largest entry."""
        scaled = rows * self._scales
        exponents = np.frexp(np.abs(scaled).max(axis=1, initial=0.0))[1][:, np.newaxis]
        half = np.ascontiguousarray(_shifted(scaled, -exponents), dtype=self._L.dtype)
        # No threads of LAPACK, which would still be awake when the next product begins.
        choose("substitute", len(self._L), self._L.dtype).load()(self._L, half)
        return _shifted(half.astype(rows.dtype, copy=False), exponents) * self._scales


def _shifted(x, exponents):
    """x 2^exponents, in two steps: one power of two may be out of range where the result is not."""
    first = exponents // 2
    return x * np.ldexp(1.0, first) * np.ldexp(1.0, exponents - first)
