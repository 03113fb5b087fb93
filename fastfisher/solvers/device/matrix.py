"""F or K on a device: damping, Cholesky, the rungs of a ladder, and what the report knows of it."""

import numpy as np

from ...devices.door import none
from ...devices.passes import load
from ...kernels.cuda import BLOCK_BYTES, compat, memory, squares, sums, vectors
from ...kernels.cuda.vectors import ADDED, INVERSE, LARGEST, LOW, NORM, ORDER, PIVOT, SCALED, TRACE
from ...kernels.reference import POWER_STEPS
from ..factored import SINGULAR, refusal
from ..ladder import escalation

__all__ = ["Matrix", "resolved"]

EPS = float(np.finfo(np.float64).eps)
ROUNDS = 3  # factors that an orthogonal one is the product of
SHIFTS = 6  # tried for the first of them


def _parts(damping):
    """Damping as lam + share trace + ratio diag: (lam, share, ratio)."""
    if damping.needs == "trace":
        return 0.0, damping.c, 0.0
    if damping.needs == "diagonal":
        return damping.shift, 0.0, damping.c
    return float(damping.resolve(None, None, 1)), 0.0, 0.0


def resolved(report, diagonal, damping, p):
    """(what is added to a matrix with this diagonal (m,), its share of that diagonal).

    The largest and, for damping made of it, the smallest element of the diagonal, its sum and the
    scalar part of damping enter the report.
    """
    rows, added = diagonal.reshape(1, diagonal.size), compat.empty((diagonal.size,), np.float64)
    sums.largest(report.place(LARGEST), rows)
    sums.totals(report.place(TRACE), rows)
    lam, share, ratio = _parts(damping)
    if ratio:
        sums.least(report.place(LOW), rows)
    vectors.resolve(added, report.device, diagonal, lam, share / p, ratio)
    return added, ratio


class Matrix:
    """A symmetric matrix, both triangles given.

    Factors overwrite the lower triangle; the upper one and the diagonal bring it back.
    """

    def __init__(self, A, report, damping, p, mend=None):
        """`mend` changes A once damping, which knows nothing of that, is in the report."""
        self.A, self.report, self.order = A, report, A.shape[0]
        self.diagonal = compat.empty((self.order,), np.float64)
        squares.diagonal_of(self.diagonal, A)
        self.added, self.ratio = resolved(report, self.diagonal, damping, p)
        if mend is not None:
            mend(A)
            squares.diagonal_of(self.diagonal, A)
            sums.largest(report.place(LARGEST), self.diagonal.reshape(1, self.order))
        self.free, self.given = damping.is_zero, 0.0
        self.rung, self._factors = "cholesky", ()
        self._power(self._times, self.diagonal.reshape(1, self.order), NORM)

    def give(self, extra):
        """Damping from the ladder where none was asked for, and none would be no use."""
        vectors.resolve(self.added, self.report.device, self.diagonal, extra, 0.0, 0.0)
        self.free, self.given = False, extra

    def _times(self, y, x):
        load("matvec", 1)(y, self.A, x, none(np.float64))

    def _power(self, apply, start, place):
        """Queue a norm, from below, by a few power steps."""
        size, best = compat.empty((1,), np.float64), none(np.float64)
        x, y = (compat.empty((1, self.order), np.float64) for _ in range(2))
        memory.copy(y, start)
        for _ in range(POWER_STEPS + 1):
            sums.norms(size, y)
            vectors.normalise(x, y, size, best)
            apply(y, x)
            best = self.report.place(place)
        sums.norms(size, y)
        vectors.normalise(x, y, size, best)

    def factor(self, extra=0.0):
        """Queue the factorisation of A + D + extra I."""
        bare = self.free and not extra
        if bare:
            self._condition_before()
        self._restore(extra)
        memory.copy(self.report.place(ORDER), load("cholesky", self.order)(self.A))
        sums.least(self.report.place(PIVOT), _diagonal_of(self.A).reshape(1, self.order))
        self.rung = "cholesky+damping" if extra or self.given else "cholesky"
        if bare:
            self._condition_after()

    def _restore(self, extra):
        """A + D + extra I, whatever was made of it before."""
        if self._factors:
            squares.restore(self.A)
        self._factors = (self.A,)
        squares.add_to_diagonal(self.A, self.diagonal, self.added, extra)

    def _condition_before(self):
        """The norm of A scaled to a unit diagonal (docs/math.md P4)."""
        self._up, self._down = (compat.empty((self.order,), np.float64) for _ in range(2))
        vectors.square_roots(self._up, self._down, self.diagonal)
        t = compat.empty((1, self.order), np.float64)

        def apply(y, x):
            vectors.times(t, x, self._down)
            self._times(y, t)
            vectors.times(y, y, self._down)

        self._power(apply, self._down.reshape(1, self.order), SCALED)

    def _condition_after(self):
        """The norm of its inverse."""

        def apply(y, x):
            vectors.times(y, x, self._up)
            self._solve_in_place(y)
            vectors.times(y, y, self._up)

        self._power(apply, self._down.reshape(1, self.order), INVERSE)

    def _solve_in_place(self, x):
        for L in self._factors:
            load("solve_lower", self.order)(L, x)
        for L in reversed(self._factors):
            load("solve_lower_adjoint", self.order)(L, x)

    def solve(self, rows):
        """(A + D)^-1 rows (k, order), a new array, by the factor made last."""
        x = compat.empty(tuple(rows.shape), np.float64)
        memory.copy(x, rows)
        self._solve_in_place(x)
        return x

    def orthogonal(self, blocks):
        """Factor A + D from the scores as well as a QR factorisation would; False if that is not
        definite either. Waits for each factor.

        A + D = S'S with S = [D^1/2; the rows of ``blocks()``]. Its factor is a product: that of
        S'S + s I, then those of the Gram matrices of S L^-', made anew from the rows and far better
        conditioned each time. The relative error is u kappa(S), that of `factor` u kappa(S)^2.
        T. Fukaya et al., Shifted Cholesky QR for computing the QR factorization of ill-conditioned
        matrices, SISC 42, 2020.
        """
        cholesky, size = load("cholesky", self.order), self.largest
        for j in range(1, SHIFTS + 1):
            self._restore(float(escalation(j, self.order, size)))
            if not memory.to_host(cholesky(self.A))[0]:
                break
        else:
            return False
        factors = [self.A]
        while len(factors) < ROUNDS:
            C = memory.zeros((self.order, self.order), np.float64)
            for rows in (self._roots_of_damping, blocks):
                for block in rows():
                    for L in factors:
                        load("solve_lower", self.order)(L, block)
                    load("syrk", self.order)(C, block, none(np.float64), none(np.float64))
            if memory.to_host(cholesky(C))[0]:
                return False
            factors.append(C)
        pivots = np.prod([memory.to_host(_diagonal_of(L)) for L in factors], axis=0)
        squares_ = memory.to_host(self.diagonal) + memory.to_host(self.added)
        shares = pivots / np.sqrt(np.maximum(squares_, np.finfo(float).tiny))
        if not np.all(shares > 8 * self.order * EPS):  # as in `solvers.ladder`
            return False
        self._factors, self.rung = tuple(factors), "orthogonal"
        self._found = float(shares.min()) ** 2, float(pivots.min()) ** 2
        return True

    def _roots_of_damping(self):
        """The rows of D^1/2."""
        if self.free:
            return
        roots = compat.empty((self.order,), np.float64)
        vectors.weight_roots(roots, self.added)
        step = max(BLOCK_BYTES // (8 * self.order), 1)
        for first in range(0, self.order, step):
            block = compat.empty((min(step, self.order - first), self.order), np.float64)
            vectors.units(block, first)
            vectors.times(block, block, roots)
            yield block

    # After the report has been read.

    @property
    def lam(self):
        return float(self.report.host[ADDED])

    @property
    def largest(self):
        """The largest element of the diagonal of A + D."""
        largest = float(self.report.host[LARGEST])
        return largest + self.lam + self.ratio * largest

    def norm(self, extra):
        """||A + D||, from below."""
        largest = float(self.report.host[LARGEST])
        return max(float(self.report.host[NORM]), largest) + self.largest - largest + extra

    def failure(self, extra, what, system):
        """The error if the factorisation failed, or succeeded on noise; else None."""
        host = self.report.host
        order, rcond = int(host[ORDER]), 0.0
        if self.free and not extra and not order:
            rcond = self._rcond
            if not rcond >= SINGULAR * self.order * EPS:
                order = self.order
        if not order:
            return None
        added = np.array([self.largest - float(host[LARGEST]) + extra])
        given = order, self.order, rcond, added, host[TRACE], what
        return refusal(*given, system.dtype, system.scale)

    @property
    def _rcond(self):
        """Reciprocal condition number of the scaled matrix, estimated; only without damping."""
        product = float(self.report.host[SCALED] * self.report.host[INVERSE])
        return 1 / product if product > 0 else 0.0

    def facts(self, extra):
        """What a Solution tells of the factor."""
        rcond = self._rcond if self.free and not extra else None
        pivot = float(self.report.host[PIVOT]) ** 2
        if self.rung == "orthogonal":
            rcond, pivot = self._found
        return {
            "rung": self.rung,
            "rank": self.order,
            "rcond": rcond,
            "smallest_pivot": pivot,
            "escalation": self.given + extra,
        }


def _diagonal_of(A):
    diagonal = compat.empty((A.shape[0],), np.float64)
    squares.diagonal_of(diagonal, A)
    return diagonal
