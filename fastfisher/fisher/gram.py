"""The Gram Fisher: keeps the scores and works with the n x n Gram matrix."""

import math

import numpy as np

from .. import linalg
from ..arrays import Scores, as_real, as_scores, as_vectors, contiguous
from ..damping import as_damping
from ..errors import InputError, NotPositiveDefiniteError
from ..passes import bad_rows, sums_dtype
from ..planning import choose, require_memory
from ..slices import whole_slices
from ..solvers.cutoffs import Cutoff
from ..solvers.dual import gram_factor, gram_lower
from ..solvers.ladder import allowed_cutoff
from ..solvers.path import DualSource, Path, as_dampings
from ..solvers.primal import fisher_lower
from ..solvers.small import in_stages
from ..solvers.solve import plan_system, solve_system
from ..solvers.spectral import GramSpectrum
from ..solvers.system import make_system
from ..solvers.tridiagonal import Tridiagonal
from .base import Fisher
from .gram_factor import GramFactor
from .lock import Lock
from .paths import exponent
from .spectral import SpectralFactor
from .state import take

__all__ = ["GramFisher"]


def _as_given(system, lower):
    """The matrix that `lower` forms, without the power of two it may have put on the scores."""
    matrix, scaled = lower(system)
    s = scaled.G.scale / system.G.scale
    if s != 1:
        with np.errstate(over="ignore", under="ignore"):
            matrix /= s
            matrix /= s
        if not np.isfinite(matrix.diagonal()).all():
            raise InputError("F overflows double precision; scale the scores down first")
    return matrix


def _range_of(dtype):
    """The smallest magnitude that does not vanish, and the largest."""
    if dtype.name == "bfloat16":
        return 2.0**-133, 255 * 2.0**120
    info = np.finfo(dtype)
    return float(info.smallest_subnormal), float(info.max)


class GramFisher(Fisher):
    """F through the scores themselves: for fewer samples than parameters.

    Parameters
    ----------
    dtype : str or dtype, optional
        What scores are stored and computed in; that of the first update by default.
    center, kind
        As in `DenseFisher`.

    Notes
    -----
    Keeps a copy of every batch: n p words. solve: n^2 p + n^3 / 3 flops, 8 n^2 bytes, by the dual
    (docs/math.md D1-D8); `F.matrix()` is p x p all the same.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> F = ff.GramFisher().update(np.array([[3.0, 0.0, 4.0]]))
    >>> F.solve(damping=25.0).x
    array([0.06, 0.  , 0.08])
    """

    def __init__(self, *, dtype=None, center=False, kind=None):
        super().__init__(dtype=dtype or "float64", center=center, kind=kind)
        self._open = dtype is None
        self._p = None
        self._batches = []
        self._weights = []
        self._lock = Lock()

    @property
    def p(self):
        return self._p

    _squares = False

    def _check_width(self, p):
        if self._p not in (None, p):
            raise InputError(f"G has {p} columns but this Fisher has {self._p} parameters")

    def _checked_batch(self, G, weights, nan_policy):
        kept = self.dtype
        if self._open:
            self.dtype = np.dtype(np.complex128)  # takes anything
        try:
            scores, weights = super()._checked_batch(G, weights, nan_policy)
        finally:
            self.dtype = kept
        dtype = scores.dtype if self._open else kept
        self._check_storage(scores, dtype)
        words = sum(a.size for a in self._kept(scores))
        require_memory(words * dtype.itemsize, f"a copy of the scores {scores.shape}")
        self.dtype, self._open, self._p = dtype, False, scores.shape[1]
        return scores, weights

    def _check_storage(self, scores, dtype):
        """InputError for scores that a narrower dtype cannot hold."""
        if dtype.itemsize >= scores.dtype.itemsize:
            return
        least, most = _range_of(dtype)
        kept = [a.reshape(len(a), math.prod(a.shape[1:])) for a in self._kept(scores)]
        for largest in (*(bad_rows(as_scores(a))[1] for a in kept), self._scan(scores)[1]):
            if largest > most:
                limit = f"beyond the {most:.3g}"
            elif 0 < largest < least and not self._top() > 0:
                limit = f"below the {least:.3g}"
            else:
                continue
            raise InputError(
                f"{self._operand} holds values up to {largest:.3g}, {limit} of {dtype}; "
                f"nothing was added: multiply {self._operand} by a power of two first"
            )

    def _kept(self, scores):
        """The arrays of a batch that are kept, samples first; without its skipped rows zeroed."""
        return [scores.data]

    def _add_slice(self, scores, weights):
        # Rows of weight 0 are kept as well: coef counts them.
        total = float(scores.shape[0] if weights is None else weights.sum())
        self._add(scores, weights, total)
        self._count(scores, total)

    def _add(self, scores, weights, total):
        batch = [np.array(contiguous(a, scores.dtype), self.dtype) for a in self._kept(scores)]
        for a in batch:
            a[list(scores.skipped)] = 0
        self._batches.append(batch)
        self._weights.append(np.ones(scores.shape[0]) if weights is None else np.array(weights))

    def _decay(self, decay):
        for weights in self._weights:
            weights *= decay

    def _merge(self, other):
        self._p = other._p if self._p is None else self._p
        self._batches += [[a.copy() for a in batch] for batch in other._batches]
        self._weights += [weights.copy() for weights in other._weights]

    def _joined(self):
        """The arrays of all batches, joined once, and the weights."""
        with self._lock:
            if not self._batches:
                return self._nothing(), np.zeros(0)
            if len(self._batches) > 1:
                self._join()
            return self._batches[0], self._weights[0]

    def _join(self):
        """One batch of all, each given back once it is copied: no second set of scores."""
        weights = np.concatenate(self._weights)
        joined = [np.empty((len(weights), *a.shape[1:]), a.dtype) for a in self._batches[0]]
        with whole_slices():
            lo = 0
            while self._batches:
                batch = self._batches.pop(0)
                hi = lo + len(batch[0])
                for whole, a in zip(joined, batch, strict=True):
                    whole[lo:hi] = a
                lo = hi
            self._batches, self._weights = [joined], [weights]

    def _nothing(self):
        return [np.zeros((0, self._p or 0), self.dtype)]

    def _system(self, damping=None):
        arrays, weights = self._joined()
        return self._system_of(arrays, None if np.all(weights == 1) else weights, damping)

    def _system_of(self, arrays, weights, damping):
        scores = Scores(arrays[0], self.dtype)
        return make_system(scores, weights, self.center, damping, "raise")

    def _dual_plan(self, system, rhs):
        facts = {
            "spectral": isinstance(system.damping, Cutoff),
            "kept": system.kept_gram is not None,
            "staged": in_stages(system.damping),
        }
        return plan_system(system.G, system.weights, self.center, rhs, "dual", **facts)

    @property
    def mean(self):
        system = self._system()
        if system.mean is not None:
            return system.mean.copy()
        return system.apply_adjoint(system.from_coefficients(np.ones((1, system.n))))[0].conj()

    def solve(self, b=None, *, coef=None, damping):
        """Solve (F + D) x = b, or for b = G'(w o coef) / sum(w) without cancellation.

        Parameters
        ----------
        b : array (p,) or (p, k), optional
            Right-hand sides; by default the mean gradient of everything seen.
        coef : array (n,) or (n, k), optional
            Coefficients of the rows in the order they were added; skipped rows keep their place.
        damping : float or damping object
            As in `fastfisher.solve`.

        Returns
        -------
        Solution

        Raises
        ------
        InputError, NotPositiveDefiniteError, MemoryLimitError
            As in `fastfisher.solve`.
        """
        if b is not None and coef is not None:
            raise InputError("both b and coef were given; pass at most one of them")
        system = self._system(as_damping(damping))
        rows = coefs = None
        single = True
        if coef is not None:
            coefs, single = as_vectors(coef, system.n, self.dtype, "coef", axis="n")
        elif b is not None:
            rows, single = as_vectors(b, system.p, self.dtype, "b")
        elif self.center:
            rows = system.mean.conj()[np.newaxis]
        else:
            coefs = np.ones((1, system.n), self.dtype)
        given = rows if coefs is None else coefs
        if rows is not None:
            system = self._expecting(system, rows)
        return solve_system(system, self._dual_plan(system, len(given)), rows, coefs, single=single)

    def _expecting(self, system, rows):
        """The system, which will soon be asked for its products with these right-hand sides."""
        return system

    def __matmul__(self, v):
        return self._product(v, self._system().apply_fisher)

    def gram(self):
        """The normalised Gram matrix T T' (n, n), of the (centred) scores."""
        K = _as_given(self._system(as_damping(0.0)), gram_lower)
        choose("mirror", len(K), K.dtype).load()(K)
        return self._answer(K, "the Gram matrix")

    def matrix(self):
        require_memory((self._p or 0) ** 2 * sums_dtype(self.dtype).itemsize, "the matrix of F")
        F = _as_given(self._system(as_damping(0.0)), fisher_lower)
        choose("mirror", len(F), F.dtype).load()(F)
        return self._answer(F, "F")

    def _real_diagonal(self):
        system = self._system(as_damping(0.0))
        scaled, diagonal = system.with_diagonal()
        s = scaled.G.scale / system.G.scale
        with np.errstate(over="ignore"):
            return system.checked(diagonal / s / s, "diag F")

    def eigvalsh(self):
        """Eigenvalues of the Gram matrix, (n,) ascending: those of F, but for zeros."""
        K = _as_given(self._system(as_damping(0.0)), gram_lower)
        return self._answer(linalg.eigvalsh(K, overwrite_a=True), "the largest eigenvalue of F")

    def path(self, b, dampings, *, coef=None):
        """What `solve` would give for each of many dampings; see `DenseFisher.path`.

        Parameters
        ----------
        b : array (p,) or None
            Right-hand side; None for the mean gradient, or with `coef`.
        dampings : array (m,)
            Absolute dampings lambda > 0.
        coef : array (n,), optional
            b = G'(w o coef) / sum(w), without cancellation at small dampings; `Path.gcv` and
            `Path.corner` are then those of the least-squares problem behind it.

        Returns
        -------
        Path

        Raises
        ------
        InputError, NotPositiveDefiniteError, MemoryLimitError
            As in `DenseFisher.path`.

        Notes
        -----
        n^2 p + 4 n^3 / 3 flops, then 6 n p a damping.
        """
        if coef is None and b is None and not self.center:
            coef = np.ones(self._system().n, self.dtype)
        if coef is None:
            return super().path(b, dampings)
        if b is not None:
            raise InputError("both b and coef were given; pass at most one of them")
        dampings = as_dampings(dampings)
        system = self._system(as_damping(0.0))
        rows, single = as_vectors(coef, system.n, self.dtype, "coef", axis="n")
        if not single or (rows.dtype.kind == "c" and self.dtype.kind != "c"):
            raise InputError(
                f"coef is {rows.dtype} of shape {np.shape(coef)}; a path takes one vector "
                f"({system.n},), real for real scores"
            )
        rows = rows.astype(sums_dtype(self.dtype), copy=False)
        shift = exponent(np.abs(rows).max(initial=0.0))
        f = system.from_coefficients(rows[0] * np.ldexp(1.0, -shift))
        return self._dual_path(system, dampings, coef, shift, f=f)

    def _path(self, b, shift, dampings, origin):
        return self._dual_path(self._system(as_damping(0.0)), dampings, origin, shift, b=b)

    def _dual_path(self, system, dampings, origin, shift, **side):
        require_memory(3 * system.n**2 * sums_dtype(self.dtype).itemsize, "the Gram matrix")
        K, scaled = gram_lower(system)
        # Scores times s: F by s^2, and b = T'f by s.
        root = round(math.log2(scaled.G.scale / system.G.scale))
        source = DualSource(scaled, Tridiagonal(K), **side)
        return Path(
            source,
            scaled.apply_fisher,
            dampings,
            p=system.p,
            dtype=self.dtype,
            origin=origin,
            root=root,
            shift=shift - root if "f" in side else shift,
        )

    def factor(self, damping):
        """Factor of F + lambda I through the Gram matrix; lambda > 0, or a cutoff.

        Raises
        ------
        InputError
            For Marquardt damping, which has no such factor; use `solve`.
        NotPositiveDefiniteError
            If lambda is 0 or too small.
        """
        damping = as_damping(damping)
        if damping.needs == "diagonal":
            name = type(self).__name__
            raise InputError(f"{name}.factor needs scalar damping; use solve for Marquardt")
        system = self._system(damping)
        if isinstance(damping, Cutoff):
            return self._spectral(system, damping)
        require_memory(system.n**2 * sums_dtype(self.dtype).itemsize, "the Gram matrix")
        K = _as_given(system, gram_lower)
        trace = float(K.diagonal().real.sum())
        lam = as_real(damping.resolve(trace, None, system.p), "damping")
        try:
            factor = gram_factor(K, lam, system, trace)
        except NotPositiveDefiniteError:
            cutoff = allowed_cutoff()
            if cutoff is None:
                raise
            return self._spectral(system, cutoff, lam)
        return GramFactor(system, factor, damping, self.dtype)

    def _spectral(self, system, cutoff, added=0.0):
        require_memory(2 * system.n**2 * sums_dtype(self.dtype).itemsize, "the Gram matrix")
        spectrum = GramSpectrum(system, _as_given(system, gram_lower), added)
        return SpectralFactor(system.p, spectrum, cutoff, self.dtype, added=added)

    def _arrays(self):
        (scores,), weights = self._joined()
        return {"scores": scores, "weights": weights}

    @classmethod
    def _from_arrays(cls, header, arrays):
        made = cls(dtype=header["dtype"], center=header["center"], kind=header["kind"])
        n, p = arrays["scores"].shape
        weights = take(arrays, "weights", (n,), np.float64)
        if n:
            made._batches = [[take(arrays, "scores", (n, p), made.dtype)]]
            made._weights, made._p = [weights], p
        else:
            made._open = True
        return made
