"""Factors of F + D: one factorisation, many questions. docs/math.md Q2 to Q5."""

import copy
from abc import ABC, abstractmethod

import numpy as np

from ..arrays import (
    Scores,
    as_answer,
    as_array,
    as_scores,
    as_vectors,
    as_weights,
    computing_dtype,
    contiguous,
    to_origin,
)
from ..damping import Marquardt
from ..errors import InputError, NotPositiveDefiniteError
from ..passes import add_gram
from ..planning import choose
from ..scalars import as_count
from ..solvers.certificate import row_norms
from ..solvers.factored import inverse_squares, solve_lower, solve_lower_adjoint
from ..solvers.modified import modified

__all__ = ["DenseFactor", "DiagonalFactor", "Factor", "FromCholesky", "hermitian_products", "quiet"]

CHUNK = 64  # unit vectors or panel columns worked on at once
POWER_STEPS = 12  # solves that estimate the norm of the inverse


quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")  # `as_answer` tells


class Factor(ABC):
    """F + D, factored. ``p``, ``damping`` (the absolute lambda; for Marquardt its c)."""

    rung = "cholesky"

    def __init__(self, p, added, damping, dtype):
        self.p = p
        self.added = added
        self.dtype = dtype
        self.damping = damping.c if isinstance(damping, Marquardt) else float(added)

    @property
    def facts(self):
        """What a Solution tells beside the rung: rank, rcond, smallest_pivot, escalation."""
        return {}

    def kept_rows(self, rows):
        """The part of right-hand sides (k, p) that is solved for: all, but for a cutoff."""
        if rows.dtype.kind == "c" and self.dtype.kind != "c":
            return self._kept(rows.real.copy()) + 1j * self._kept(rows.imag.copy())
        return self._kept(rows)

    def _kept(self, rows):
        return rows

    @abstractmethod
    def _solve(self, rows):
        """(F + D)^-1 rows, for rows (k, p) in the double dtype of F; a new array."""

    def solve_rows(self, rows):
        """(F + D)^-1 rows, for rows (k, p) in double, complex ones for a real F too."""
        if rows.dtype.kind == "c" and self.dtype.kind != "c":
            parts = self._solve(np.concatenate([rows.real, rows.imag]))
            return parts[: len(rows)] + 1j * parts[len(rows) :]
        return self._solve(rows)

    @abstractmethod
    def logdet(self):
        """log det (F + D)."""

    @abstractmethod
    def _inv_diagonal(self):
        """Diagonal of (F + D)^-1, (p,), in double."""

    @abstractmethod
    def _inv_quad_rows(self, rows):
        """rows (F + D)^-1 rows' for rows (m, p) in double, Hermitian to the bit."""

    @abstractmethod
    def _sample_rows(self, normal):
        """Rows with covariance (F + D)^-1; `normal(shape)` draws standard normals."""

    def __repr__(self):
        return (
            f"{type(self).__name__}(p={self.p}, dtype={self.dtype.name}, "
            f"damping={self.damping:.6g})"
        )

    @property
    def real_dtype(self):
        return np.empty(0, self.dtype).real.dtype

    def rounded(self, rows):
        """Rows in the dtype that the caller expects."""
        dtype = np.result_type(self.dtype, np.complex64) if rows.dtype.kind == "c" else self.dtype
        return rows.astype(dtype, copy=False)

    def answered(self, rows, single, like, what):
        """The same, finite, as an array of the kind that the caller expects."""
        return self.dress(as_answer(rows, self.rounded(rows[:0]).dtype, what), single, like)

    def dress(self, rows, single, like):
        """Rows in the dtype and kind of array that the caller expects."""
        rows = self.rounded(rows)
        return to_origin(np.ascontiguousarray(rows[0] if single else rows.T), like)

    @quiet
    def solve(self, b):
        """(F + D)^-1 b for b (p,) or (p, k); InputError where it overflows, as all answers here.

        No status tells of digits lost to underflow: that of ``F.solve`` does.
        """
        rows, single = as_vectors(b, self.p, self.dtype, "b")
        x = self.solve_rows(rows.astype(np.result_type(rows.dtype, np.float64)))
        return self.answered(x, single, b, "(F + D)^-1 b")

    @quiet
    def inv_diagonal(self):
        """Diagonal of (F + D)^-1, (p,)."""
        return as_answer(self._inv_diagonal(), self.real_dtype, "the diagonal of (F + D)^-1")

    @quiet
    def inv_quad(self, J):
        """J (F + D)^-1 J' for J (m, p): (m, m), symmetric (Hermitian) to the bit."""
        rows = self._rows(J, "J")
        return to_origin(as_answer(self._inv_quad_rows(rows), self.dtype, "J (F + D)^-1 J'"), J)

    def _rows(self, J, name):
        """Rows (m, p) as given, in double."""
        a = as_array(J, name, need="shape (m, p)")
        dtype = np.result_type(computing_dtype(a.dtype, name), self.dtype)
        if a.ndim != 2 or a.shape[1] != self.p:
            raise InputError(f"{name} has shape {a.shape}; expected (m, {self.p})")
        if dtype.kind == "c" and self.dtype.kind != "c":
            raise InputError(f"{name} is complex but this Fisher is real; pass real rows")
        rows = contiguous(a, np.result_type(dtype, np.float64))
        if not np.isfinite(rows).all():
            raise InputError(f"{name} is not finite; remove or repair the rows")
        return rows

    @quiet
    def whiten(self, b):
        """W b with W'W = (F + D)^-1, for b (p,) or (p, k): ||W b||^2 = b'(F + D)^-1 b.

        L^-1 b for the Cholesky factor L; p entries a vector (`GramFactor`: p + n; after a cutoff as
        many as there are eigenvalues). docs/math.md Q5.
        """
        rows, single = as_vectors(b, self.p, self.dtype, "b")
        rows = rows.astype(np.result_type(rows.dtype, np.float64))
        if rows.dtype.kind == "c" and self.dtype.kind != "c":
            y = self._half(rows.real.copy()) + 1j * self._half(rows.imag.copy())
        else:
            y = self._half(rows)
        return self.answered(y, single, b, "W b")

    def _half(self, rows):
        """`whiten` for rows (k, p) in the double dtype of F."""
        raise InputError(f"{type(self).__name__} has no half of its inverse to whiten with")

    def leverage(self, G, weights=None):
        """w_i / sum(w) * G_i (F + D)^-1 G_i' for every row of scores G, (n,) float64.

        The influence of a sample on its own fitted value, in [0, 1] for scores that F was made of;
        their sum is then `effective_dimension`. For a centred F pass centred rows. 2 n p^2 flops.
        docs/math.md Q4.
        """
        scores = as_scores(G)
        n, p = scores.shape
        if p != self.p or (scores.dtype.kind == "c" and self.dtype.kind != "c"):
            raise InputError(
                f"G is {scores.dtype} with {p} columns; this factor is of a {self.dtype} Fisher "
                f"with {self.p} parameters"
            )
        w = as_weights(weights, n)
        shares = np.full(n, 1 / max(n, 1)) if w is None else w / (w.sum() or 1.0)
        out = np.empty(n)
        double = np.result_type(self.dtype, np.float64)
        for lo in range(0, n, CHUNK):
            rows = scores.rows(lo, min(lo + CHUNK, n)).astype(double)
            if not np.isfinite(rows).all():
                bad = lo + int(np.argmin(np.isfinite(rows).all(axis=1)))
                raise InputError(f"G is not finite in row {bad}; remove or repair it")
            solved = self._solve(rows.conj())
            out[lo : lo + CHUNK] = np.einsum("kp,kp->k", rows, solved).real
        return shares * out

    def effective_dimension(self):
        """trace(F (F + D)^-1) = p - trace(D (F + D)^-1): how many directions D leaves free.

        Costs an `inv_diagonal`. docs/math.md Q4.
        """
        return float(self.p - np.sum(self.added * self._inv_diagonal()))

    def rcond(self):
        """Estimated reciprocal condition number of F + D in the 2-norm, from above.

        Power steps on the matrix (when it was factored) and on its inverse (here, 12 solves): the
        right order of magnitude, as a rule.
        """
        if not self.p:
            return 1.0
        x = np.random.default_rng(0).standard_normal((1, self.p))
        x = x.astype(np.result_type(self.dtype, np.float64))
        size = 0.0
        for _ in range(POWER_STEPS):
            x = self._solve(x / row_norms(x))
            size = max(size, float(row_norms(x)[0]))
        return min(1.0, 1 / (self.norm * size)) if self.norm * size > 0 else 0.0

    @quiet
    def sample(self, rng, k):
        """k draws from N(0, (F + D)^-1), (k, p); rng is a numpy.random.Generator.

        Complex Fishers give circular draws x with E[x x'] = (F + D)^-1.
        """
        k = as_count(k, "k")
        if not isinstance(rng, np.random.Generator):
            raise InputError(
                f"rng is {type(rng).__name__}; expected a generator: numpy.random.default_rng(seed)"
            )

        def normal(*shape):
            if self.dtype.kind == "c":
                return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)
            return rng.standard_normal(shape)

        return as_answer(self._sample_rows(normal, k), self.dtype, "a draw")


def hermitian_products(rows):
    """rows rows' for rows (m, p) in double, Hermitian to the bit."""
    out = np.zeros((len(rows), len(rows)), rows.dtype)
    add_gram(out, Scores(np.ascontiguousarray(rows), rows.dtype))
    choose("mirror", len(out), out.dtype).load()(out)
    return out


class FromCholesky(Factor):
    """Questions to the Cholesky factor of F + D or of the damped Gram matrix."""

    def __init__(self, p, factor, damping, dtype):
        super().__init__(p, factor.added, damping, dtype)
        self._factor = factor
        self.norm, self.rung = factor.norm, factor.rung

    @property
    def facts(self):
        return {name: value for name, value in self._factor.facts.items() if name != "rung"}


class DenseFactor(FromCholesky):
    """F + D = L L' with L (p, p)."""

    def __init__(self, factor, damping, dtype):
        super().__init__(len(factor.L), factor, damping, dtype)

    def plus(self, V):
        """The factor of F + D + V'V for a few rows V (m, p): (4 m + 64) p^2 flops, not p^3 / 3.

        Rows count as they are: a score of weight w enters F as sqrt(w / sum(w)) times itself.
        docs/math.md Q5.
        """
        return self._modified(V, 1)

    def minus(self, V):
        """The factor of F + D - V'V, such as F without some scores that it was made of.

        Raises `NotPositiveDefiniteError` where less than a tenth of D is left of a pivot: factor
        anew. Every downdate costs digits, the more the closer V'V comes to F + D.
        """
        return self._modified(V, -1)

    def _modified(self, V, sign):
        made = copy.copy(self)
        made._factor = modified(self._factor, self._rows(V, "V"), sign)
        made.norm = made._factor.norm
        return made

    def _solve(self, rows):
        return self._factor.solve(rows)

    def _half(self, rows):
        return solve_lower(self._factor.L, np.array(rows))

    def logdet(self):
        return 2 * float(np.log(self._factor.L.diagonal().real).sum())

    def _inv_diagonal(self):
        return inverse_squares(self._factor.L)

    def _inv_quad_rows(self, rows):
        return hermitian_products(solve_lower(self._factor.L, np.array(rows.conj()))).conj()

    def _sample_rows(self, normal, k):
        # L^-' z has covariance (L L')^-1; L^-1 z has not (docs/math.md Q3).
        return solve_lower_adjoint(self._factor.L, normal(k, self.p))


class DiagonalFactor(Factor):
    """diag(F) + D."""

    rung = "division"

    def __init__(self, diagonal, added, damping, dtype, escalation=0.0):
        super().__init__(len(diagonal), added + escalation, damping, dtype)
        self.escalation = escalation
        if escalation:
            self.rung = "division+damping"
        self._damped = diagonal + self.added
        self.norm = float(self._damped.max(initial=0.0))
        if not np.isfinite(self._damped).all():
            raise InputError("F is not finite; the sums hold NaN or overflowed")
        bad = np.flatnonzero(~(self._damped > 0))
        if bad.size:
            raise NotPositiveDefiniteError(
                f"the damped diagonal is {self._damped[bad[0]]:.3g} for parameter {bad[0]} "
                f"({bad.size} such parameters): it has no score; pass damping > 0",
                order=int(bad[0]) + 1,
                rcond=0.0,
                suggested_damping=float(diagonal.max(initial=0.0)) * 1e-8 or 1.0,
            )

    @property
    def facts(self):
        pivot = float(self._damped.min()) if self.p else None
        return {
            "rank": self.p,
            "rcond": self.rcond(),
            "smallest_pivot": pivot,
            "escalation": self.escalation,
        }

    def _solve(self, rows):
        return rows / self._damped

    def _half(self, rows):
        return rows / np.sqrt(self._damped)

    def rcond(self):
        return float(self._damped.min() / self.norm) if self.p else 1.0

    def effective_dimension(self):
        return float(((self._damped - self.added) / self._damped).sum())

    def logdet(self):
        return float(np.log(self._damped).sum())

    def _inv_diagonal(self):
        return 1 / self._damped

    def _inv_quad_rows(self, rows):
        return hermitian_products(rows / np.sqrt(self._damped))

    def _sample_rows(self, normal, k):
        return normal(k, self.p) / np.sqrt(self._damped)
