"""Very many small Fishers at once, each with scores, weight and status of its own."""

import numpy as np

from ..arrays import (
    as_array,
    as_damping_vector,
    check_policy,
    computing_dtype,
    contiguous,
    to_origin,
)
from ..damping import Damping, Marquardt, Relative, as_damping
from ..errors import InputError, StateError
from ..ops.batched import add_batched_syrk
from ..passes import sums_dtype
from ..planning import plan_batched, require_memory
from ..scalars import as_count
from ..slices import whole_slices
from ..solvers.cutoffs import Cutoff
from . import stacks
from .base import Fisher
from .batched_factor import BatchedFactor, refuse_overflow, solve_systems
from .draws import checked_scores, checked_weights, parts_of, scan
from .factor import quiet
from .size import check_decay, check_range, vanishes, vanishing
from .state import take

__all__ = ["BatchedFisher"]


class BatchedFisher(Fisher):
    """n independent Fishers F_i = sum_s w_is a_is' a_is / sum_s w_is of p parameters each.

    Parameters
    ----------
    n : int
        Number of systems, 10^6 or more.
    p : int
        Parameters of one system; meant for up to 32.
    dtype : str or dtype
        What results are given in; sums are always kept in double.
    center : bool
        Subtract the weighted mean of each system.
    kind : str, optional
        A printed label: "empirical", "exact", "mc".

    Raises
    ------
    MemoryLimitError
        If the sums do not fit in memory.

    Notes
    -----
    Every answer has the systems as its first axis: `matrix` (n, p, p), `diagonal` and `eigvalsh`
    (n, p), `trace` (n,), products ``F @ v`` for v (n, p) or (n, p, k). ``n_samples`` counts scores
    over all systems; ``weights`` (n,) are the sums of weights, ``weight`` is their total.

    State: 8 n (p^2 + p + 1) bytes. update: S p^2 flops per system; outer products of single scores
    are never stored. For one solve without anything kept, `fastfisher.ops.batched_metric_solve`
    stores no matrix at all. Duan et al., "NGBoost" (2020).

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> F = ff.BatchedFisher(2, 2)
    >>> F = F.update(np.array([[[2.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]]))
    >>> F.solve(np.ones((2, 2)), damping=0.0)  # doctest: +ELLIPSIS
    BatchedSolution(status='not_positive_definite', ..., 1 of 2 systems failed: 1)
    >>> x, info = F.solve(np.ones((2, 2)), damping=[0.0, 1.0])
    >>> info
    array([0, 0], dtype=int32)
    """

    def __init__(self, n, p, *, dtype="float64", center=False, kind=None):
        super().__init__(dtype=dtype, center=center, kind=kind)
        n, p, double = as_count(n, "n"), as_count(p, "p"), sums_dtype(self.dtype)
        count = n * (p * p + p) * double.itemsize + 8 * n
        require_memory(count, f"the sums of BatchedFisher({n}, {p})")
        self._sums = np.zeros((n, p, p), double)
        self._mean = np.zeros((n, p), double)
        self._weights = np.zeros(n)

    @property
    def n(self):
        """Number of systems."""
        return len(self._weights)

    @property
    def p(self):
        return self._mean.shape[1]

    @property
    def mean(self):
        """Weighted mean of the scores of each system, (n, p)."""
        return self._mean.copy()

    @property
    def weights(self):
        """Sum of the weights of each system, (n,)."""
        return self._weights.copy()

    # Accumulation.

    def update(self, G, weights=None, decay=1.0, *, nan_policy="raise"):
        """Add a batch of scores to every system, in place.

        Parameters
        ----------
        G : array (n, S, p) or (n, p)
            S scores of each system, or one.
        weights : array (n, S) or (S,), for scores (n, p) an array (n,); optional
            Real, finite, >= 0; ones by default.
        decay, nan_policy
            As for other Fishers; a row is one score of one system. With "propagate" only its
            system is spoiled.

        Returns
        -------
        BatchedFisher
            self.

        Raises
        ------
        InputError
            For bad operands; nothing was changed.

        Notes
        -----
        Ctrl-C is raised once the whole batch is in.
        """
        decay = check_decay(decay)
        check_policy(nan_policy)
        a, dtype = checked_scores(G, self.n, self.p, self.dtype)
        w = checked_weights(weights, a.shape[:2], single=np.ndim(G) == 2)
        bad, largest = scan(a, dtype)
        if bad.any() and nan_policy == "raise":
            system, draw = np.argwhere(bad)[0].tolist()
            raise InputError(
                f"G holds values that are not finite in system {system}, score {draw} "
                f"({int(bad.sum())} such scores in all); nothing was added: remove them or pass "
                "nan_policy='skip'"
            )
        total = a.shape[1] if w is None else float(w.sum(axis=-1).max(initial=0.0))
        check_range(dtype, largest, total, 1.0 if w is None else float(w.max(initial=0.0)))
        root = 1.0 if w is None else float(np.sqrt(w.max(initial=0.0)))
        if vanishes(largest, root, self._top):
            raise vanishing(largest)
        skipped = bad if bad.any() and nan_policy == "skip" else None
        with whole_slices():
            if decay != 1:
                self._decay(decay)
                self.weight *= decay
                self.decayed = True
            for part in parts_of(a, "update"):
                here = None if w is None else np.broadcast_to(w, a.shape[:2])[part]
                self._add(part, contiguous(a[part], dtype), here, skipped)
            self.weight = float(self._weights.sum())
            left_out = 0 if skipped is None else int(skipped.sum())
            self.n_samples += a.shape[0] * a.shape[1] - left_out
            self.n_skipped += left_out
        return self

    def _add(self, part, scores, weights, skipped):
        """Add scores (m, S, p) to the systems of a slice."""
        rows, w = scores, weights
        if skipped is not None:
            w = np.ones(rows.shape[:2]) if w is None else np.array(w)
            w[skipped[part]] = 0
            rows = np.where(skipped[part][..., np.newaxis], 0, rows)
        m, count, _ = rows.shape
        if not count:
            return
        rows = rows.astype(self._sums.dtype, copy=False)
        # About one of the scores: a column that is constant has exactly its value as mean.
        if w is None:
            total, about = np.full(m, float(count)), rows[:, 0]
        else:
            total, about = w.sum(axis=1), rows[np.arange(m), np.argmax(w > 0, axis=1)]
        around = rows - about[:, np.newaxis]
        sums = np.einsum("nsp->np", around) if w is None else np.einsum("ns,nsp->np", w, around)
        mean = about + sums / np.where(total > 0, total, 1.0)[:, np.newaxis]
        if self.center:
            rows = np.subtract(rows, mean[:, np.newaxis], out=around)
        _add_products(self._sums[part], rows, None if w is None else np.sqrt(w))
        self._include(part, mean, total)

    def _include(self, part, mean, total):
        """Account for scores with these means and weights, whose products are in already (Chan)."""
        before = self._weights[part]
        weight = before + total
        share = total / np.where(weight > 0, weight, 1.0)
        difference = mean - self._mean[part]
        if self.center:
            row = np.sqrt(before * share)[:, np.newaxis] * difference
            _add_products(self._sums[part], row[:, np.newaxis])
        self._mean[part] += difference * share[:, np.newaxis]
        self._weights[part] = weight

    def _decay(self, decay):
        self._sums *= decay
        self._weights *= decay

    def merge(self, other):
        if type(other) is type(self) and other.p == self.p and other.n != self.n:
            raise StateError(f"cannot merge: n is {self.n} here and {other.n} there")
        super().merge(other)
        self.weight = float(self._weights.sum())
        return self

    merge.__doc__ = Fisher.merge.__doc__

    def _merge(self, other):
        self._sums += other._sums
        self._include(slice(0, self.n), other._mean, other._weights)

    # Questions.

    def normalised(self, part):
        """F of some systems as a copy in double."""
        weights = np.where(self._weights[part] > 0, self._weights[part], 1.0)
        return self._sums[part] / weights[:, np.newaxis, np.newaxis]

    def pieces(self):
        """Slices of the systems whose matrices make a small copy."""
        for lo, hi in stacks.pieces(self.n, self.p, self._sums.itemsize):
            yield slice(lo, hi)

    def _finite(self, answers, what, *operands):
        """The answers (n, ...); InputError for a system that is finite, and whose overflows."""
        lost = ~stacks.finite(answers)
        if lost.any():
            sound = [stacks.finite(given) for given in (self._sums, *operands)]
            refuse_overflow(answers, lost & np.all(sound, axis=0), what)
        return answers

    def _answer(self, values, what):
        return self._finite(values.astype(np.empty(0, self.dtype).real.dtype, copy=False), what)

    @quiet
    def matrix(self):
        """F of every system, (n, p, p)."""
        require_memory(self._sums.size * self.dtype.itemsize, "the matrices of F")
        out = np.empty(self._sums.shape, self.dtype)
        for part in self.pieces():
            out[part] = self.normalised(part)
        return self._finite(out, "F")

    def _real_diagonal(self):
        """Diagonals in double, (n, p)."""
        weights = np.where(self._weights > 0, self._weights, 1.0)
        return np.einsum("nii->ni", self._sums).real / weights[:, np.newaxis]

    @quiet
    def diagonal(self):
        """Diagonal of F of every system, (n, p)."""
        return self._answer(self._real_diagonal(), "the diagonal of F")

    @quiet
    def trace(self):
        """Trace of F of every system, (n,)."""
        return self._answer(self._real_diagonal().sum(axis=1), "the trace of F")

    @quiet
    def eigvalsh(self):
        """Eigenvalues of F of every system, (n, p), ascending along the last axis."""
        out = np.empty((self.n, self.p), np.empty(0, self.dtype).real.dtype)
        for part in self.pieces():
            out[part] = stacks.spectra(self.normalised(part))
        return self._finite(out, "the largest eigenvalue of F")

    @quiet
    def __matmul__(self, v):
        a = as_array(v, "v", need=f"shape ({self.n}, {self.p}) or ({self.n}, {self.p}, k)")
        dtype = np.result_type(computing_dtype(a.dtype, "v"), self.dtype)
        if a.ndim not in (2, 3) or a.shape[:2] != (self.n, self.p):
            raise InputError(
                f"v has shape {a.shape}; expected ({self.n}, {self.p}) or ({self.n}, {self.p}, k)"
            )
        y = np.empty(a.shape, dtype)
        for part in self.pieces():
            columns = a[part].reshape(*a[part].shape[:2], -1)
            y[part] = stacks.apply(self.normalised(part), columns).reshape(a[part].shape)
        return to_origin(self._finite(y, "F v", a), v)

    def factor(self, damping):
        """Cholesky factors of F_i + D_i: `BatchedFactor` with solve, logdet, ... and ``info``.

        A system that fails is no error: its answers are NaN, its ``info`` is not 0. A `Ladder` in
        force may damp it instead.

        Raises
        ------
        InputError
            For damping of the wrong kind or shape.
        MemoryLimitError
            If another copy of the sums does not fit.
        """
        require_memory(self._sums.nbytes, f"the factors of BatchedFisher({self.n}, {self.p})")
        return BatchedFactor(self, *self._resolve(damping))

    def solve(self, b=None, *, coef=None, damping):
        """Solve (F_i + D_i) x_i = b_i for every system, with a status for each.

        Parameters
        ----------
        b : array (n, p) or (n, p, k), optional
            Right-hand sides; the mean gradients by default.
        damping : float, array (n,) or damping object
            Absolute damping; `Relative` looks at the trace, `Marquardt` at the diagonal, a cutoff
            at the largest eigenvalue of each system.

        Returns
        -------
        BatchedSolution
            ``.x`` is NaN where ``.info`` is not 0; ``.converged`` if all were solved.

        Raises
        ------
        InputError
            For operands of the wrong kind or shape. A bad system is no error: see ``.info``.
        """
        if coef is not None:
            raise InputError("BatchedFisher does not keep the scores that coef refers to; pass b")
        given = self._mean.conj() if b is None else b
        if isinstance(damping, Cutoff):
            if damping.per_sample:
                raise InputError(f"{damping} looks at single samples, which are not kept")
            return solve_systems(self, given, 0.0, 0.0, like=b, cutoff=damping)
        return solve_systems(self, given, *self._resolve(damping), like=b)

    def path(self, b, dampings):
        """Refused: every system would have a path of its own."""
        raise InputError("BatchedFisher has no path; solve with damping (n,), or path one system")

    def _resolve(self, damping):
        """What is added to the diagonals, a number, (n, 1) or (n, p), and what is reported."""
        if not isinstance(damping, Damping) and np.ndim(damping):
            lams = as_damping_vector(damping, self.n)
            return lams[:, np.newaxis], float(lams.max(initial=0.0))
        damping = as_damping(damping)
        if isinstance(damping, Marquardt):
            return damping.resolve(None, self._real_diagonal(), self.p), damping.c
        if isinstance(damping, Relative):
            share = damping.resolve(1.0, None, self.p)
            lams = share * self._real_diagonal().sum(axis=1, keepdims=True)
            return lams, float(lams.max(initial=0.0))
        if damping.needs:
            raise InputError(
                f"damping is {damping!r}; BatchedFisher takes a number, (n,) numbers, Tikhonov, "
                "Relative or Marquardt (to solve also HardCutoff or SoftCutoff)"
            )
        lam = float(damping.resolve(None, None, self.p))
        return lam, lam

    def plan_solve(self, rhs):
        """The plan of a solve."""
        dtype, piece = self.dtype.name, stacks.PIECE_BYTES
        return plan_batched(self.n_samples, self.n, self.p, rhs, dtype, piece)

    # State.

    def _arrays(self):
        return {"mean": self._mean, "sums": self._sums, "weights": self._weights}

    @classmethod
    def _from_arrays(cls, header, arrays):
        n, p = arrays["mean"].shape
        made = cls(n, p, dtype=header["dtype"], center=header["center"], kind=header["kind"])
        double = made._mean.dtype
        made._mean[:] = take(arrays, "mean", (n, p), double)
        made._sums[:] = take(arrays, "sums", (n, p, p), double)
        made._weights[:] = take(arrays, "weights", (n,), np.float64)
        return made

    def __repr__(self):
        return super().__repr__()[:-1] + f", n={self.n})"


def _add_products(c, rows, scale=None):
    """c (m, p, p) += rows' diag(scale^2) rows for rows (m, S, p), Hermitian to the bit."""
    none = np.empty(0, rows.real.dtype)
    add_batched_syrk(c, rows, none if scale is None else scale, rows.dtype)
