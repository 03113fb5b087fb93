"""What a small sample of the scores tells of F or K, before anything is formed from all."""

import numpy as np

from ..arrays import Scores
from ..ops.factorizations import factor
from ..passes import add_syrk

__all__ = ["Probe", "late_pivots"]

GLANCE = 256  # terms that tell sizes
PART = 2  # every second parameter (dual: sample) is looked at,
TERMS = 1.25  # with so many terms a sum for each of them,
BLOCK = 64  # that lie together in blocks
WINDOW, QUANTILE = 16, 0.25  # pivots seen together, by the number of all, and what of them counts
LEAST = 4  # the smallest eigenvalue beside the harmonic mean, which pivots tell: a quarter
DOUBT = 16  # times less than foreseen, and F has a rank above that of half
FEW = 0.1  # of late pivots that may be small: conjugate gradients see to some directions
JITTER = 1e-6  # added to a diagonal of ones: far below the rounding of slices


def sampled(length, count):
    """Pairs (lo, hi) of blocks spread over range(length), `count` or a few more in all."""
    blocks = max(-(-min(int(count), length) // BLOCK), 1)
    step = max(1, -(-length // BLOCK) // blocks) * BLOCK
    return [(lo, min(lo + BLOCK, length)) for lo in range(0, length, step)][:blocks]


def late_pivots(shares):
    """What nearly all of the last eighth of the pivots are above."""
    return float(np.quantile(shares[-max(len(shares) // 8, 1) :], FEW)) if len(shares) else 1.0


class Probe:
    """Estimates for F ("primal") or K ("dual"); docs/math.md X6.

    `peaks` and `diagonal` of every PARTth row, as all scores have them; once asked for, `norm`, and
    `kept`, the smallest eigenvalue where the diagonal is 1: these from a matrix of half the order,
    at a twentieth of the cost of forming the whole, or less. Not finite where scores are not.
    """

    def __init__(self, system, side):
        self._system, self._primal = system, side == "primal"
        p, n = system.p, system.n
        self._order, self._length = (p, n) if self._primal else (n, p)
        part, unit = self._sample(GLANCE)
        self._glanced = len(part)
        with np.errstate(all="ignore"):  # what leaves the range tells nothing
            self.peaks = _peaks(part) * unit
            squares = np.einsum("ij,ij->j", part, part).astype(float)
            self.diagonal = squares * unit**2 * (self._length / len(part))
        self.trace = PART * float(self.diagonal.sum())
        self._found = None

    def _sample(self, count):
        """Rows of T (or T') in single precision, in a unit of their own."""
        system, primal, parts, unit = self._system, self._primal, [], 0.0
        with np.errstate(all="ignore"):
            for lo, hi in sampled(self._length, count):
                rows = _terms(system, primal, lo, hi)
                unit = unit or np.ldexp(1.0, -int(np.frexp(np.abs(rows).max(initial=0.0))[1]))
                parts.append(np.multiply(rows, unit, dtype=np.float32, casting="unsafe"))
        same = 1.0 if not primal or system.weights is not None else float(system.root_weights[0])
        return np.concatenate(parts), same / unit

    @property
    def norm(self):
        """||F||, roughly and from above, where what is seen is like the rest."""
        return min(self._looked()[0] * PART * float(self.diagonal.mean()), self.trace)

    @property
    def kept(self):
        """The smallest eigenvalue of F once its diagonal is 1."""
        return self._looked()[1]

    def holds(self, late):
        """False where late pivots of all parameters are far below what `kept` makes of half."""
        return late >= LEAST * self.kept / DOUBT

    @property
    def growth(self):
        """How much larger the mean square of all peaks is: heavy tails go on as they began."""
        return self._looked()[2]

    def _looked(self):
        if self._found is None:
            part, unit = self._sample(TERMS * (self._order // PART))
            with np.errstate(all="ignore"):
                larger = np.square(_peaks(part) * unit).sum() / np.square(self.peaks).sum()
                more = np.log(len(part) / self._glanced)
                growth = (
                    larger ** (np.log(self._length / self._glanced) / more) if more > 0 else 1.0
                )
                squares = np.einsum("ij,ij->j", part, part)
                seen = squares > 0
                part = part if seen.all() else part[:, seen]
                part *= 1 / np.sqrt(squares[seen])
            C = np.zeros((part.shape[1], part.shape[1]))
            add_syrk(C, Scores(part, part.dtype))
            # Frobenius, of both triangles; not by BLAS, whose threads would spin beside ours.
            largest = float(np.sqrt(2 * np.einsum("ij,ij->", C, C)))
            self._found = largest, _kept(C, len(part)), max(float(growth), 1.0)
        return self._found


def _peaks(part):
    return np.maximum(part.max(axis=0), -part.min(axis=0)).astype(float)


def _terms(system, primal, lo, hi):
    """Every PARTth entry of rows lo..hi of T, or of T'; times what is the same for all."""
    rows = system.G.rows(lo, hi)[:, ::PART] if primal else system.G.columns(lo, hi)[::PART].T
    if system.mean is not None:
        rows = rows - (system.mean[::PART] if primal else system.mean[lo:hi, np.newaxis])
    if not primal:
        return rows * system.root_weights[::PART]
    return rows if system.weights is None else rows * system.root_weights[lo:hi, np.newaxis]


def _kept(C, terms):
    """The share of a parameter's mean square that no combination of the others takes away.

    Pivots are such shares given the parameters before; their decay is carried on to the end.
    """
    m = len(C)
    if m < 2:
        return 1.0
    L = C.astype(np.float32)
    np.einsum("ii->i", L)[:] += np.float32(JITTER)
    if factor(L):
        return 0.0
    shares = L.diagonal().astype(float) ** 2 * terms / np.maximum(terms - np.arange(m), 1)
    wide = max(m // WINDOW, 1)
    windows = shares[m // 2 - wide : m // 2 + wide], shares[-2 * wide :]
    middle, end = (np.quantile(window, QUANTILE) for window in windows)
    return float(end * min(end / middle, 1.0) ** (2 * (PART - 1)) / LEAST)
