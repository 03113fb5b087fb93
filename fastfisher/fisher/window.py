"""The window Fisher: the last m scores, and their Gram matrix kept up to date (M-FAC)."""

import functools
from dataclasses import replace

import numpy as np

from ..arrays import as_array, contiguous
from ..errors import InputError, MissingDependencyError, StateError
from ..passes import add_gram, mean_row, products, sums_dtype
from ..planning import choose, dtype_name, require_memory
from ..scalars import as_count
from .base import Fisher
from .gram import GramFisher
from .state import take

__all__ = ["WindowFisher"]

CHUNK = 64  # rows of the Gram matrix renewed in one pass over the scores
DRIFT = 1e-2  # share of the trace left by centring, below which the origin of the rows is moved


def _storage(dtype):
    """The dtype that scores are kept in."""
    name = getattr(dtype, "__name__", str(dtype))
    if name == "bfloat16":
        try:
            from ml_dtypes import bfloat16
        except ImportError as error:
            raise MissingDependencyError(
                "bfloat16 storage needs ml_dtypes; install it, or pass dtype='float16'"
            ) from error
        return np.dtype(bfloat16)
    computed = dtype_name(dtype)
    return np.dtype(np.float16 if np.dtype(dtype).name == "float16" else computed)


class _Beside:
    """Right-hand sides that meet the scores in the pass that renews the Gram matrix."""

    def __init__(self, rows):
        self.rows, self.seen = rows, None

    def products(self, rows):
        """Products with these rows, if they are those."""
        same = self.seen is not None and rows.dtype == self.rows.dtype
        return self.seen if same and np.array_equal(rows, self.rows) else None


class WindowFisher(GramFisher):
    """F = sum w g'g / sum w over the last m scores, with all the verbs of `GramFisher`.

    Parameters
    ----------
    m : int
        Length of the window, >= 1. A new score takes the place of the oldest.
    p : int
        Number of parameters.
    dtype : str or dtype
        What scores are kept and computed in. "float16" and "bfloat16" are kept as they are and
        computed in float32: F is that of the rounded scores.
    center, kind
        As in `DenseFisher`; the mean is that of the window.

    Raises
    ------
    InputError
        For m < 1 or an unknown dtype.
    MemoryLimitError
        If the window does not fit in memory.

    Notes
    -----
    ``n_samples`` and ``weight`` are those of the window, ``n_seen`` counts every score. Decay
    multiplies the weights of the scores in the window. `coef` and `gram` follow the age of the
    scores, the oldest first. `merge` is refused where the scores of both do not fit.

    State: m p words and 8 m^2 bytes. Only rows of the Gram matrix whose scores were replaced are
    computed anew, all together at the next question: 2 m p flops for each; a solve takes m^3 / 3
    flops and four passes over the window, the first of which computes those rows, too.
    docs/math.md B3; Frantar et al., "M-FAC" (2021, arXiv:2107.03356).

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> F = ff.WindowFisher(2, 3)
    >>> for g in ([9.0, 9.0, 9.0], [3.0, 0.0, 4.0], [3.0, 0.0, 4.0]):
    ...     F = F.update(np.array([g]))
    >>> F.solve(damping=25.0).x
    array([0.06, 0.  , 0.08])
    """

    def __init__(self, m, p, *, dtype="float64", center=False, kind=None):
        storage = _storage(dtype)
        super().__init__(dtype=dtype, center=center, kind=kind)
        m, self._p, self._open = as_count(m, "m"), as_count(p, "p"), False
        if m == 0:
            raise InputError("m is 0; expected a window of at least one score")
        double = sums_dtype(self.dtype)
        require_memory(
            m * self._p * storage.itemsize + m * m * double.itemsize,
            f"the scores and the Gram matrix of WindowFisher({m}, {self._p})",
        )
        self.n_seen = 0
        self._rows = np.zeros((m, self._p), storage)
        self._row_weights = np.zeros(m)
        self._next = 0  # slot of the next score; the oldest one's, once the window is full
        self._gram = np.zeros((m, m), double)  # of rows minus the origin, where not stale
        self._stale = np.ones(m, bool)
        self._origin = None

    @property
    def m(self):
        """Length of the window."""
        return len(self._rows)

    def _slots(self):
        """Slots in use, by the age of their scores."""
        first = self._next if self.n_samples == self.m else 0
        return (first + np.arange(self.n_samples)) % self.m

    # Accumulation.

    def _checked_batch(self, G, weights, nan_policy):
        scores, weights = Fisher._checked_batch(self, G, weights, nan_policy)
        self._check_storage(scores, self._rows.dtype)
        return scores, weights

    def _add_slice(self, scores, weights):
        n = scores.shape[0]
        kept = np.setdiff1d(np.arange(n), scores.skipped)
        self.n_seen += len(kept)
        self.n_skipped += n - len(kept)
        kept = kept[-self.m :]
        if kept.size:
            rows = scores.rows(int(kept[0]), n)
            if len(kept) < len(rows):
                rows = rows[kept - kept[0]]
            self._push(rows, np.ones(len(kept)) if weights is None else weights[kept])

    def _push(self, rows, weights):
        for part in (slice(0, self.m - self._next), slice(self.m - self._next, None)):
            count = len(rows[part])
            here = slice(self._next, self._next + count)
            self._rows[here] = rows[part]
            self._row_weights[here] = weights[part]
            self._stale[here] = True
            self._next = (self._next + count) % self.m
        self.n_samples = min(self.n_samples + len(rows), self.m)
        self.weight = float(self._row_weights.sum())

    def _decay(self, decay):
        self._row_weights *= decay

    def merge(self, other):
        alike = type(other) is type(self) and (other.p, other.dtype) == (self.p, self.dtype)
        if alike and other is not self:
            if other._rows.dtype != self._rows.dtype:
                raise StateError(
                    f"cannot merge: scores are {self._rows.dtype} here, {other._rows.dtype} there"
                )
            if self.n_samples + other.n_samples > self.m:
                raise StateError(
                    f"cannot merge: {self.n_samples} scores here and {other.n_samples} there do "
                    f"not fit a window of {self.m}"
                )
        counts = self.n_samples, self.weight
        super().merge(other)
        self.n_samples, self.weight = counts
        slots = other._slots()
        if slots.size:
            self._push(other._rows[slots], other._row_weights[slots])
        self.n_seen += other.n_seen
        return self

    merge.__doc__ = Fisher.merge.__doc__

    def _merge(self, other):
        """Scores are moved in `merge`, those of weight 0 too."""

    # The Gram matrix.

    def _joined(self):
        n = self.n_samples
        return [self._rows[:n]], self._row_weights[:n]

    def _system(self, damping=None):
        return replace(super()._system(damping), kept_gram=self._kept_gram)

    def _expecting(self, system, rows):
        if system.mean is not None or len(rows) > CHUNK:
            return system
        beside = _Beside(system.cast(rows))
        kept = functools.partial(self._kept_gram, beside=beside)
        return replace(system, kept_gram=kept, kept_products=beside.products)

    def _kept_gram(self, system, beside=None):
        """Gram matrix of the (centred) rows of the window, a copy."""
        with self._lock:
            K = self._renewed(system, beside)
            if system.mean is None:
                return K
            trace, n = float(K.diagonal().real.sum()), self.n_samples
            share = np.full(n, 1 / n) if system.weights is None else system.weights / system.total
            if self._centred(K, share) < DRIFT * trace:
                self._stale[:] = True
                K = self._renewed(system)
                self._centred(K, share)
            return K

    def _centred(self, K, share):
        """K about the mean in place of the origin (docs/math.md D5); returns its trace."""
        towards = K @ share
        K -= towards[:, np.newaxis]
        K -= towards.conj()
        K += (share @ towards).real
        return float(K.diagonal().real.sum())

    def _renewed(self, system, beside=None):
        """A copy of the Gram matrix, once the rows of new scores are computed."""
        n = self.n_samples
        scores, K = system.G, self._gram[:n, :n]
        stale = np.flatnonzero(self._stale[:n])
        if 2 * len(stale) > n:
            if system.mean is not None:
                self._origin = mean_row(scores, system.weights, system.total)
            whole = np.zeros_like(K)
            add_gram(whole, scores, shift=self._origin)
            choose("mirror", n, whole.dtype).load()(whole)
            K[:] = whole
            stale = stale[:0]
        for lo in range(0, len(stale), CHUNK):
            some = stale[lo : lo + CHUNK]
            rows = contiguous(scores.data[some], self.dtype)
            if self._origin is not None:
                rows = rows - self._origin.astype(self.dtype)
            rows, also = rows.conj(), beside is not None and lo == 0 and self._origin is None
            asked = np.vstack([rows, beside.rows]) if also else rows
            seen = products(scores, asked, shift=self._origin)
            if also:
                seen, beside.seen = np.split(seen, [len(rows)])
            K[:, some], K[some] = seen.T, seen.conj()
        if stale.size:
            new = K[np.ix_(stale, stale)]
            K[np.ix_(stale, stale)] = (new + new.conj().T) / 2
        self._stale[:n] = False
        return K.copy()

    def gram(self):
        """The normalised Gram matrix (n, n) of the (centred) scores, the oldest first."""
        slots = self._slots()
        return super().gram()[np.ix_(slots, slots)]

    def solve(self, b=None, *, coef=None, damping):
        due = int(np.count_nonzero(self._stale[: self.n_samples]))
        solution = super().solve(b, coef=self._by_slot(coef), damping=damping)
        return replace(solution, plan=self._planned(solution.plan, due))

    solve.__doc__ = GramFisher.solve.__doc__

    def path(self, b, dampings, *, coef=None):
        return super().path(b, dampings, coef=self._by_slot(coef))

    path.__doc__ = GramFisher.path.__doc__

    def _by_slot(self, coef):
        """Coefficients by age in the order of the slots."""
        if coef is not None:
            coef = as_array(coef, "coef", need="shape (n,) or (n, k)")
            if coef.ndim and len(coef) == self.n_samples:
                coef = coef[np.argsort(self._slots())]
        return coef

    def _planned(self, plan, due):
        """The plan with the rows of the Gram matrix that were due in place of all of it."""
        n = max(self.n_samples, 1)
        gram, *rest = plan.stages
        share = min(2 * due / n, 1.0)
        flops, seconds = int(gram.flops * share), gram.seconds * share
        renewed = replace(gram, size=f"{due} of {n} rows", flops=flops, seconds=seconds)
        because = f"the Gram matrix is kept; {due} of {self.n_samples} rows are new"
        return replace(plan, stages=(renewed, *rest), because=because)

    # State.

    def _arrays(self):
        n = self.n_samples
        rows = self._rows[:n]
        return {
            "scores": rows.view(np.uint16) if rows.dtype.name == "bfloat16" else rows,
            "weights": self._row_weights[:n],
            "gram": self._gram[:n, :n],
            "stale": self._stale[:n].astype(np.uint8),
            "origin": np.zeros(0, self._gram.dtype) if self._origin is None else self._origin,
            "ring": np.array([self.m, self._p, self._next, self.n_seen], np.int64),
            "storage": np.frombuffer(self._rows.dtype.name.encode(), np.uint8),
        }

    @classmethod
    def _from_arrays(cls, header, arrays):
        m, p, first, seen = take(arrays, "ring", (4,), np.int64).tolist()
        storage, n = arrays["storage"].tobytes().decode(), len(arrays["weights"])
        made = cls(m, p, dtype=storage, center=header["center"], kind=header["kind"])
        if n > m or not 0 <= first < m or n != header["n_samples"]:
            raise ValueError(f"a window of {m} with {n} scores and slot {first} next")
        bits = np.uint16 if storage == "bfloat16" else made._rows.dtype
        made._rows[:n] = take(arrays, "scores", (n, p), bits).view(made._rows.dtype)
        made._row_weights[:n] = take(arrays, "weights", (n,), np.float64)
        made._gram[:n, :n] = take(arrays, "gram", (n, n), made._gram.dtype)
        made._stale[:n] = take(arrays, "stale", (n,), np.uint8)
        if arrays["origin"].size:
            made._origin = take(arrays, "origin", (p,), made._gram.dtype)
        made._next, made.n_seen = first, seen
        return made

    def __repr__(self):
        stored = self._rows.dtype.name
        kept = "" if stored == self.dtype.name else f", stored as {stored}"
        return super().__repr__()[:-1] + f", m={self.m}{kept})"
