"""Factors and solves of very many small systems, with a status per system."""

import numpy as np

from ..arrays import as_array, computing_dtype, to_origin
from ..errors import InputError
from ..scalars import as_count
from ..solvers.batched import BatchedSolution
from ..solvers.certificate import DIRECT_LIMIT, USELESS, kept_digits
from ..solvers.ladder import allowed_cutoff, current_ladder
from ..solvers.ranges import unit_roundoff
from . import stacks
from .factor import quiet

__all__ = ["BatchedFactor", "refuse_overflow", "solve_systems"]

RUNGS = ("cholesky", "cholesky+damping", "eigen")
STATUS = {-1: "not_finite", -2: "inaccurate", -3: "underflow"}


def _factored(A, added):
    """L in place of A, and info: the failing order, or -1 for a matrix that is not finite."""
    bad = ~stacks.finite(A)
    info = stacks.factor_stack(A, added)
    info[bad] = -1
    return info


def _part(added, part):
    return added[part] if np.ndim(added) else added


def _systems(b, n, p, dtype, name):
    """Right-hand sides (n, p, k) as given, and the dtype of what is solved for."""
    a = as_array(b, name, need=f"shape ({n}, {p}) or ({n}, {p}, k)")
    wide = np.result_type(computing_dtype(a.dtype, name), np.float32)
    if a.ndim not in (2, 3) or a.shape[:2] != (n, p):
        raise InputError(f"{name} has shape {a.shape}; expected ({n}, {p}) or ({n}, {p}, k)")
    complex_ = wide.kind == "c" or dtype.kind == "c"
    return a.reshape(n, p, -1) if a.ndim == 3 else a[..., np.newaxis], (
        np.result_type(dtype, np.complex64) if complex_ else dtype
    )


def _substitute(L, b):
    """(L L')^-1 b for b (m, p, k) in double, complex ones for real L too."""
    if b.dtype.kind == "c" and L.dtype.kind != "c":
        k = b.shape[2]
        x = _substitute(L, np.concatenate([b.real, b.imag], axis=2))
        return x[..., :k] + 1j * x[..., k:]
    m, p, k = b.shape
    rows = np.array(b.transpose(2, 0, 1).reshape(k, m * p), dtype=L.dtype, order="C")
    if rows.size:
        stacks.solve_stack(L, rows)
    return rows.reshape(k, m, p).transpose(1, 2, 0)


def refuse_overflow(answers, lost, what):
    """InputError that names the first of the systems whose answer is lost, (n,) bool."""
    if lost.any():
        raise InputError(
            f"{what} overflows {answers.dtype} in system {int(np.argmax(lost))}; divide by a "
            "power of two what it is made of, or use float64"
        )


def solve_systems(fisher, b, added, damping, *, like, cutoff=None):
    """(F_i + D_i)^-1 b_i as a BatchedSolution; `added` is D as a number, (n, 1) or (n, p).

    With a cutoff, which takes the place of all inverses, D is 0.
    """
    n, p = fisher.n, fisher.p
    given, dtype = _systems(b, n, p, fisher.dtype, "b")
    x, info = np.empty(given.shape, dtype), np.zeros(n, np.int32)
    residuals, backward = np.zeros(n), np.zeros(n)
    limit = DIRECT_LIMIT * unit_roundoff(dtype)
    last = cutoff or allowed_cutoff()
    rungs = None if current_ladder() is None and cutoff is None else np.zeros(n, np.int8)
    pivot, rcond, escalation, kept = np.inf, 1.0, 0.0, p
    for part in fisher.pieces():
        A, D = fisher.normalised(part), _part(added, part)
        right = given[part].astype(np.result_type(dtype, np.float64))
        norms = stacks.norms(A) + _least(D)
        if cutoff is None:
            L = A.copy()
            here, more = _climbed(L, D, A.__getitem__)
            good = here == 0
            if more.any():
                D = D + more[:, np.newaxis]
                norms += more
                rungs[part][more > 0] = RUNGS.index("cholesky+damping")
                escalation = max(escalation, float(more.max()))
            pivots = stacks.smallest_pivots(L)[good]
            pivot = min(pivot, float(pivots.min(initial=np.inf)))
            scale = norms[good]
            rcond = min(rcond, float((pivots / np.where(scale > 0, scale, 1.0)).min(initial=1.0)))
        else:
            here = np.where(stacks.finite(A), 1, -1).astype(np.int32)
        here[~stacks.finite(right)] = -1
        with np.errstate(invalid="ignore", over="ignore"):
            y = _substitute(L, right) if cutoff is None else np.empty_like(right)
            cut = np.flatnonzero(here > 0) if last is not None else here[:0]
            if cut.size:
                spectra = _Spectra(A[cut], _rows(D, cut), last)
                y[cut], right[cut] = spectra.solve(right[cut]), spectra.kept(right[cut])
                here[cut], rungs[part][cut] = 0, RUNGS.index("eigen")
                kept = min(kept, spectra.rank)
                rcond = min(rcond, spectra.rcond)
                damping = max(damping, spectra.threshold) if cutoff is not None else damping
            shift = D[..., np.newaxis] if np.ndim(D) else D
            residuals[part], backward[part] = _errors(A, y, right, shift, norms)
            x[part] = y
            lost = _underflowed(x[part], y)
        good = here == 0
        rough = ~((backward[part] <= limit) & (residuals[part] < USELESS))
        here[good & rough] = -2
        here[good & ~stacks.finite(x[part])] = -1
        x[part][here != 0] = np.nan
        here[(here == 0) & lost] = -3
        info[part] = here
    failed = np.flatnonzero(info)
    solved = info == 0
    first = int(info[failed[0]]) if failed.size else 0
    out = x if np.ndim(b) == 3 else x[..., 0]
    return BatchedSolution(
        x=to_origin(np.ascontiguousarray(out), like),
        status=STATUS.get(first, "not_positive_definite") if first else "converged",
        converged=not failed.size,
        residual=float(residuals[solved].max(initial=0.0)),
        backward_error=float(backward[solved].max(initial=0.0)),
        iterations=0,
        method="primal",
        damping=damping,
        rung=RUNGS[0 if rungs is None else int(rungs.max(initial=0))],
        plan=fisher.plan_solve(given.shape[2]),
        rank=kept if solved.any() else None,
        rcond=rcond if solved.any() else None,
        smallest_pivot=pivot if np.isfinite(pivot) else None,
        escalation=escalation,
        systems=info,
        rungs=rungs,
    )


def _underflowed(x, y):
    """True for the systems in which x, rounded from y (m, p, k), lost more than that."""
    m, p, k = y.shape
    columns = (np.moveaxis(a, 2, 1).reshape(m * k, p) for a in (x, y))
    found = kept_digits(*columns)
    return np.zeros(m, bool) if found is None else found[1].reshape(m, k).any(axis=1)


def _climbed(L, D, again):
    """L in place of F, its info, and what the ladder in force added to each system."""
    info = _factored(L, D)
    extra = stacks.climb(L, info, D, again) if (info > 0).any() else np.zeros(len(L))
    return info, extra


def _rows(D, some):
    """The part of D for some systems, (m, 1) or (m, p), or a number."""
    return D[some] if np.ndim(D) else D


class _Spectra:
    """Eigenvalues of some F_i + D_i, and what a cutoff makes of their inverses."""

    def __init__(self, A, D, cutoff):
        np.einsum("bii->bi", A)[...] += D
        values, self._vectors = stacks.eigen(A)
        largest, floor = values[:, -1:], stacks.NOISE * A.shape[1] * np.finfo(np.float64).eps
        gains = cutoff.gains(values, largest, floor)
        self._gains, self._share = gains[..., np.newaxis], (gains * values)[..., np.newaxis]
        kept = gains > 0
        self.rank = int(kept.sum(axis=1).min())
        least = np.where(kept, values, np.inf).min(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = np.where(np.isfinite(least), least / largest[:, 0], 1.0)
        self.rcond = float(ratios.min())
        self.threshold = float(np.max(cutoff.threshold(largest, floor)))

    def _through(self, b, gains):
        V = self._vectors
        return np.matmul(V, gains * np.matmul(V.conj().swapaxes(1, 2), b))

    def solve(self, b):
        """V gains V' b."""
        return self._through(b, self._gains)

    def kept(self, b):
        """The part of b that is solved for."""
        return self._through(b, self._share)


def _least(D):
    """The smallest element of each D_i: a number, or (m,)."""
    if not np.ndim(D):
        return D
    return D[:, 0] if D.shape[1] == 1 else D.min(axis=1, initial=np.inf)


def _errors(A, x, b, shift, norms):
    """Relative residual and backward error of each system, the worst of its right-hand sides."""
    n, _, k = b.shape
    rest = b - stacks.apply(A, x) - shift * x
    residuals, backward = np.zeros(n), np.zeros(n)
    for j in range(k):
        size, given, found = (stacks.lengths(v[..., j]) for v in (rest, b, x))
        np.maximum(residuals, size / np.where(given > 0, given, 1.0), out=residuals)
        scale = norms * found + given
        np.maximum(backward, size / np.where(scale > 0, scale, 1.0), out=backward)
    return residuals, backward


class BatchedFactor:
    """F_i + D_i = L_i L_i' for every system; ``info`` (n,) as in `BatchedSolution`.

    Answers about systems that failed are NaN; ``escalations`` (n,) is what a `Ladder` added.
    """

    def __init__(self, fisher, added, damping):
        self.n, self.p, self.dtype, self.damping = fisher.n, fisher.p, fisher.dtype, damping
        self.info, self.escalations = np.zeros(self.n, np.int32), np.zeros(self.n)
        self._L, self._norms = np.empty_like(fisher._sums), np.zeros(self.n)
        for part in fisher.pieces():
            self._L[part] = A = fisher.normalised(part)
            D = _part(added, part)
            self.info[part], more = _climbed(self._L[part], D, A.__getitem__)
            self.escalations[part] = more
            self._norms[part] = stacks.norms(A) + _least(D) + more

    @property
    def rung(self):
        """The rung of the ladder that was reached."""
        return RUNGS[int(self.escalations.any())]

    def rcond(self):
        """Estimated reciprocal condition numbers (n,), from above: by inverse iteration."""
        out = np.full(self.n, np.nan)
        for part, L in self._pieces():
            good = np.flatnonzero(self.info[part] == 0)
            if self.p and good.size:
                pivots = np.einsum("bii->bi", L[good]).real
                least = stacks.least(L[good], np.ones((good.size, self.p)), pivots.argmin(axis=1))
                norms = self._norms[part][good]
                out[part][good] = np.minimum(least / np.where(norms > 0, norms, 1.0), 1.0)
        return out

    @property
    def real_dtype(self):
        return np.empty(0, self.dtype).real.dtype

    def _finite(self, answers, what):
        """The answers (n, ...); InputError for a system that has a factor, and whose overflows."""
        refuse_overflow(answers, ~stacks.finite(answers) & (self.info == 0), what)
        return answers

    def _pieces(self):
        for lo, hi in stacks.pieces(self.n, self.p, self._L.itemsize):
            yield slice(lo, hi), self._L[lo:hi]

    @quiet
    def solve(self, b):
        """(F_i + D_i)^-1 b_i for b (n, p) or (n, p, k)."""
        given, dtype = _systems(b, self.n, self.p, self.dtype, "b")
        x = np.empty(given.shape, dtype)
        for part, L in self._pieces():
            x[part] = _substitute(L, given[part].astype(np.result_type(dtype, np.float64)))
        self._finite(x, "(F + D)^-1 b")
        return to_origin(np.ascontiguousarray(x if np.ndim(b) == 3 else x[..., 0]), b)

    def logdet(self):
        """log det (F_i + D_i), (n,)."""
        return 2 * np.log(np.einsum("nii->ni", self._L).real).sum(axis=1)

    @quiet
    def inv_diagonal(self):
        """Diagonals of (F_i + D_i)^-1, (n, p)."""
        diagonals = stacks.inverse_diagonal(self._L).astype(self.real_dtype, copy=False)
        return self._finite(diagonals, "the diagonal of (F + D)^-1")

    @quiet
    def inv_quad(self, J):
        """J_i (F_i + D_i)^-1 J_i' for J (n, m, p): (n, m, m), Hermitian to the bit."""
        a = as_array(J, "J", need=f"shape ({self.n}, m, {self.p})")
        dtype = computing_dtype(a.dtype, "J")
        if a.ndim != 3 or (a.shape[0], a.shape[2]) != (self.n, self.p):
            raise InputError(f"J has shape {a.shape}; expected ({self.n}, m, {self.p})")
        if dtype.kind == "c" and self.dtype.kind != "c":
            raise InputError("J is complex but this Fisher is real; pass real rows")
        out = np.empty((self.n, a.shape[1], a.shape[1]), self.dtype)
        for part, L in self._pieces():
            half = np.array(a[part].conj().swapaxes(1, 2), dtype=L.dtype, order="C")
            half = stacks.solve_lower(L, half)
            products = np.matmul(half.conj().swapaxes(1, 2), half)
            out[part] = (products + products.conj().swapaxes(1, 2)) / 2
        return to_origin(self._finite(out, "J (F + D)^-1 J'"), J)

    @quiet
    def sample(self, rng, k):
        """k draws from N(0, (F_i + D_i)^-1) for every system, (k, n, p)."""
        k = as_count(k, "k")
        if not isinstance(rng, np.random.Generator):
            raise InputError(
                f"rng is {type(rng).__name__}; expected a generator: numpy.random.default_rng(seed)"
            )
        shape = (self.n, self.p, k)
        z = rng.standard_normal(shape)
        if self.dtype.kind == "c":
            z = (z + 1j * rng.standard_normal(shape)) / np.sqrt(2)
        for part, L in self._pieces():
            # L^-' z has covariance (L L')^-1; L^-1 z has not (docs/math.md Q3).
            z[part] = stacks.solve_lower_adjoint(L, z[part])
        draws = self._finite(z.astype(self.dtype, copy=False), "a draw")
        return np.ascontiguousarray(draws.transpose(2, 0, 1))

    def __repr__(self):
        return (
            f"BatchedFactor(n={self.n}, p={self.p}, dtype={self.dtype.name}, "
            f"damping={self.damping:.6g}, failed={int(np.count_nonzero(self.info))})"
        )
