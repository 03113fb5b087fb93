"""What all Fisher objects share: checked updates, counts, merging rules."""

import copy
from abc import ABC, abstractmethod

import numpy as np

from ..arrays import all_finite, as_answer, as_vectors, to_origin
from ..errors import InputError, StateError
from ..passes import syrk_step
from ..planning import dtype_name, plan_factored
from ..scalars import as_flag
from ..slices import whole_slices
from ..solvers.certificate import (
    as_returned,
    certify,
    direct_statuses,
    finite_statuses,
    underflowed,
    worst,
)
from ..solvers.solution import Solution
from .batches import OfScores
from .factor import quiet
from .paths import WithPath
from .saving import Saved
from .size import check_decay

__all__ = ["Fisher"]


class Fisher(OfScores, WithPath, Saved, ABC):
    """Base of the Fisher objects: F = sum w g'g / sum w over everything that was updated.

    Attributes
    ----------
    n_samples : int
        Rows seen (rows of weight 0 included, skipped rows not).
    n_skipped : int
        Rows left out by ``nan_policy="skip"``.
    weight : float
        Sum of weights, after decay.
    kind : str or None
        A label such as "empirical", "exact" or "mc"; printed, never used in arithmetic.
    """

    def __init__(self, *, dtype, center, kind):
        self.dtype = np.dtype(dtype_name(dtype))
        self.center = as_flag(center, "center")
        self.kind = None if kind is None else str(kind)
        self.n_samples = 0
        self.n_skipped = 0
        self.weight = 0.0
        self.decayed = False

    # What a representation supplies.

    @abstractmethod
    def _add(self, scores, weights, total):
        """Add one slice: scores, weights (or None), and their sum > 0."""

    @abstractmethod
    def _decay(self, decay):
        """Multiply the stored sums by `decay`; the weight is handled here."""

    @abstractmethod
    def _merge(self, other):
        """Add the sums of `other`, an object of the same kind and size."""

    @abstractmethod
    def _arrays(self):
        """State as a dict of arrays, for `save`."""

    @classmethod
    @abstractmethod
    def _from_arrays(cls, header, arrays):
        """A new object from a header and `_arrays`."""

    @abstractmethod
    def factor(self, damping):
        """Factor F + damping once, for many questions: see the factor's methods."""

    @abstractmethod
    def __matmul__(self, v):
        """F v for v (p,) or (p, k)."""

    @abstractmethod
    def matrix(self):
        """F as a dense array (p, p); InputError, as of all answers, where its dtype overflows."""

    @abstractmethod
    def _real_diagonal(self):
        """The diagonal of F in double."""

    @abstractmethod
    def eigvalsh(self):
        """Eigenvalues of F in ascending order."""

    @property
    @abstractmethod
    def p(self):
        """Number of parameters."""

    @property
    @abstractmethod
    def mean(self):
        """Weighted mean of the rows seen, (p,)."""

    def diagonal(self):
        """Diagonal of F, (p,)."""
        return self._answer(self._real_diagonal(), "the diagonal of F")

    @quiet
    def trace(self):
        """Trace of F."""
        return float(self._answer(np.sum(self._real_diagonal()), "the trace of F", np.float64))

    def _answer(self, values, what, dtype=None):
        """Values of F, real or complex, in its dtype; InputError where that overflows. What was
        propagated, and is not finite in F itself, stays so."""
        if dtype is None:
            dtype = self.dtype if values.dtype.kind == "c" else np.empty(0, self.dtype).real.dtype
        try:
            return as_answer(values, dtype, what)
        except InputError:
            if all_finite(values) or all_finite(self._real_diagonal()):
                raise
        return values.astype(dtype)

    _squares = True  # False where scores are kept: their range is then looked after by solves

    def _top(self):
        """The largest element of F."""
        return float(np.max(self._real_diagonal(), initial=0.0)) if self.weight else 0.0

    # Accumulation.

    def update(self, G, weights=None, decay=1.0, *, groups=None, nan_policy="raise"):
        """Add a batch of scores, in place.

        Parameters
        ----------
        G : array (n, p)
            Per-sample scores.
        weights : array (n,), optional
            Real, finite, >= 0; ones by default.
        decay : float
            Multiplies the stored sums and weight before the raw batch sums are added; 0 < decay
            <= 1. A state that was decayed can no longer be merged.
        groups : array (n,) of integers, optional
            Rows of one group (cluster, sequence) are summed first: the samples are the groups, in
            ascending order, and `weights` has one entry for each. A group belongs to one call: the
            same integer in another batch is another group. docs/math.md F10.
        nan_policy : {"raise", "skip", "propagate"}
            Rows with NaN or Inf: an error that names the row and leaves everything as it was; left
            out and counted in ``n_skipped``; or added all the same.

        Returns
        -------
        Fisher
            self.

        Raises
        ------
        InputError
            For bad operands; nothing was changed.

        Notes
        -----
        Ctrl-C is raised between slices of about 0.2 s; ``n_samples`` says how many rows are in.
        """
        decay = check_decay(decay)
        if groups is not None:
            G = self._summed_over(groups, G, weights, nan_policy)
        scores, weights = self._checked_batch(G, weights, nan_policy)
        if decay != 1:
            self._decay(decay)
            self.weight *= decay
            self.decayed = True
        n, step = scores.shape[0], self._slice_rows(scores)
        with whole_slices() as check:
            for lo in range(0, n, max(step, 1)):
                hi = min(lo + step, n)
                self._add_slice(scores.part(lo, hi), None if weights is None else weights[lo:hi])
                check()
        self._complete(scores, weights)
        return self

    def _slice_rows(self, scores):
        """Rows that `_add` is given at a time."""
        return syrk_step(scores)

    def _add_slice(self, scores, weights):
        total = float(scores.shape[0] if weights is None else weights.sum())
        if total > 0:
            self._add(scores, weights, total)
        self._count(scores, total)

    def _count(self, scores, total):
        self.weight += total
        skipped = len(scores.skipped)
        self.n_samples += scores.shape[0] - skipped
        self.n_skipped += skipped

    _identity = ("p", "dtype", "center", "kind")  # what merged objects share; None fits anything

    def merge(self, other):
        """Add everything `other` has seen, in place; returns self.

        Raises
        ------
        StateError
            If either was decayed, or kinds, sizes, dtypes or centring differ; nothing is changed.

        Notes
        -----
        Exact up to rounding of the sums; centred sums by Chan's formula. docs/math.md U1, U2.
        """
        if type(other) is not type(self):
            raise StateError(
                f"cannot merge {type(other).__name__} into {type(self).__name__}; expected the same"
            )
        for name in self._identity:
            mine, theirs = getattr(self, name), getattr(other, name)
            open_ = name != "kind" and (mine is None or theirs is None)
            if mine != theirs and not open_:
                raise StateError(f"cannot merge: {name} is {mine!r} here and {theirs!r} there")
        if self.decayed or other.decayed:
            raise StateError("cannot merge a Fisher that was decayed: decayed sums do not commute")
        if other is self:
            raise StateError("cannot merge a Fisher with itself; use update weights instead")
        if other.weight > 0:
            self._merge(other)
        self.weight += other.weight
        self.n_samples += other.n_samples
        self.n_skipped += other.n_skipped
        return self

    # Solving.

    def solve(self, b=None, *, coef=None, damping):
        """Solve (F + D) x = b by a Cholesky factor of F + D, and certify the result.

        Parameters
        ----------
        b : array (p,) or (p, k), optional
            Right-hand sides; the mean gradient of everything seen by default.
        coef : array (n,) or (n, k), optional
            Only where the scores are kept (`GramFisher`): b = G'(w o coef) / sum(w).
        damping : float or damping object
            As in `fastfisher.solve`.

        Returns
        -------
        Solution

        Raises
        ------
        InputError, NotPositiveDefiniteError
            As in `fastfisher.solve`.
        """
        if coef is not None:
            raise InputError(
                f"{type(self).__name__} does not keep the scores that coef refers to; pass b, or "
                "accumulate in a GramFisher"
            )
        rows, single = self._right_hand_sides(b)
        factor = self._factor_once(damping)
        with np.errstate(over="ignore", invalid="ignore"):  # the verdict tells what left the range
            exact, certificate, rung = self._solved(factor, rows)
            x, statuses = factor.rounded(exact), direct_statuses(self, certificate)
            operator = getattr(factor, "operator", self)
            if found := as_returned(operator, factor.added, x, exact, certificate):
                certificate, statuses = found[0], underflowed(statuses, found[1])
        status = worst(statuses := finite_statuses(statuses, x))
        return Solution(
            x=factor.dress(x, single, b),
            status=status,
            converged=status == "converged",
            residual=certificate.residual,
            backward_error=certificate.backward_error,
            iterations=0,
            method="primal",
            damping=factor.damping,
            rung=rung,
            plan=self._plan(len(rows), factor.rung),
            statuses=statuses,
            residuals=certificate.residuals,
            **factor.facts,
        )

    def _factor_once(self, damping):
        """The factor for a single solve."""
        return self.factor(damping)

    def _solved(self, factor, rows):
        """x with (F + D) x = rows, its certificate, and the rung it came by."""
        x = factor.solve_rows(rows)
        certificate = certify(self, factor.added, x, factor.kept_rows(rows), factor.norm)
        return x, certificate, factor.rung

    def _plan(self, rhs, rung):
        """The plan of a solve by a factor."""
        return plan_factored(self.n_samples, self.p, rhs, self.dtype.name, rung=rung)

    def _right_hand_sides(self, b):
        """Rows (k, p) in double, and whether it was one vector."""
        if b is None:
            return self.mean.conj()[np.newaxis], True
        rows, single = as_vectors(b, self.p, self.dtype, "b")
        return rows.astype(np.complex128 if rows.dtype.kind == "c" else np.float64), single

    @quiet
    def _product(self, v, apply):
        """`apply` on checked rows of v, back in v's shape and kind."""
        rows, single = as_vectors(v, self.p, self.dtype, "v")
        wanted = np.result_type(self.dtype, rows.dtype)
        rows = rows.astype(np.result_type(rows.dtype, np.float64))
        if rows.dtype.kind == "c" and self.dtype.kind != "c":
            y = apply(rows.real.copy()) + 1j * apply(rows.imag.copy())
        else:
            y = apply(rows)
        y = self._answer(y, "F v", wanted)
        return to_origin(np.ascontiguousarray(y[0] if single else y.T), v)

    # State.

    def __copy__(self):
        return copy.deepcopy(self)

    def __repr__(self):
        facts = [
            f"p={self.p}",
            f"dtype={self.dtype.name}",
            f"n_samples={self.n_samples}",
            f"weight={self.weight:g}",
        ]
        if self.center:
            facts.append("center=True")
        if self.kind is not None:
            facts.append(f"kind={self.kind!r}")
        if self.n_skipped:
            facts.append(f"n_skipped={self.n_skipped}")
        return f"{type(self).__name__}({', '.join(facts)})"
