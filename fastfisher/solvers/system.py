"""The normalised linear system (F + D) x = b behind every route, matrix-free.

F = T'T with T = diag(sqrt(w / W)) (G - mean), D = lambda I or a diagonal. Vectors are rows (k, p).
"""

import functools
import math
from dataclasses import dataclass, replace

import numpy as np

from ..arrays import WIDEST, Scores, check_policy, far
from ..damping import Damping
from ..errors import InputError
from ..passes import (
    add_diag,
    add_fvp,
    add_gram,
    add_rmatvec,
    add_syrk,
    bad_rows,
    check_finite,
    mean_row,
    products,
    sums_dtype,
    weighed,
)
from .ranges import (
    FAINT,
    excess,
    in_range,
    raise_into_range,
    real_bytes,
    scale_into_range,
    tamed,
)

__all__ = [
    "System",
    "dots",
    "drift_of",
    "made_smaller",
    "make_system",
    "subtract_outer",
    "tame_weights",
]

CORRECTED = 1024  # rows of a matrix corrected at once


def drift_of(mean, dtype):
    """d = mean - m, where m is the mean in the dtype of the scores; or None where that is all."""
    if mean is None or dtype.itemsize == mean.dtype.itemsize:
        return None
    d = mean - mean.astype(dtype)
    return d if np.isfinite(d).all() and d.any() else None


def dots(rows, v):
    """Dot products of rows, or of one, with v: in an order of its own, where BLAS has one of its
    threads."""
    return np.einsum("...j,j->...", rows, v)


def subtract_outer(c, d, weight):
    """Lower triangle of c -= weight d'd, for a row d or None."""
    for lo in range(0, 0 if d is None else len(d), CORRECTED):
        hi = lo + CORRECTED
        c[lo:hi, :hi] -= (weight * d[lo:hi].conj())[:, np.newaxis] * d[:hi]
    if d is not None:
        diagonal = np.einsum("ii->i", c)
        np.maximum(diagonal.real, 0.0, out=diagonal.real)


def made_smaller(scaled, system, from_coefficients):
    """By which power of two x of the rescaled system is smaller than x of the one given: the
    square of that of its scores, or itself where the right-hand side is made from them."""
    root = round(math.log2(scaled.G.scale / system.G.scale))
    return root if from_coefficients else 2 * root


@dataclass(frozen=True)
class System:
    """Scores, weights and centring of F, and the damping asked for."""

    G: Scores
    weights: np.ndarray | None
    total: float
    mean: np.ndarray | None
    damping: Damping
    propagate: bool = False
    explicit = True  # samples are at hand, a few at a time
    # Callables that give a copy of raw sums, lower triangles, where somebody keeps them:
    kept_gram: object = None  # (G - mean)(G - mean)'
    kept_fisher: object = None  # (G - mean)'w(G - mean)
    kept_products: object = None  # callable: (G - mean) v for rows v, or None where not known

    @property
    def n(self):
        return self.G.shape[0]

    @property
    def p(self):
        return self.G.shape[1]

    @property
    def dtype(self):
        return self.G.dtype

    @property
    def rank_bound(self):
        """The most rank F can have."""
        used = self.n if self.weights is None else int(np.count_nonzero(self.weights))
        return max(used - (self.mean is not None), 0)

    @property
    def root_weights(self):
        """sqrt(w / W), (n,)."""
        if self.weights is None:
            return np.full(self.n, 1 / np.sqrt(self.total)) if self.total else np.zeros(self.n)
        return np.sqrt(self.weights / self.total) if self.total else np.zeros(self.n)

    def checked(self, values, what):
        """`values`, computed from G; InputError if they are not finite (unless propagated)."""
        if not self.propagate:
            check_finite(self.G, values, what)
        return values

    def cast(self, rows):
        """Rows in the dtype the kernels take beside G."""
        return np.ascontiguousarray(rows, dtype=self.dtype)

    @tamed
    def apply_fisher(self, v):
        """F v for rows v (k, p), in double."""
        return self._times_fisher(v, finely=False)

    @tamed
    def apply_finely(self, v):
        """The same, also where rows are all alike; more slowly."""
        return self._times_fisher(v, finely=True)

    def _times_fisher(self, v, *, finely):
        y = np.zeros((len(v), self.p), sums_dtype(self.dtype))
        if self.total:
            how = {"weights": self.weights, "shift": self.mean, "finely": finely}
            add_fvp(y, self.G, self.cast(v), **how)
            y /= self.total
            if self.drift is not None:
                y -= dots(v, self.drift)[:, np.newaxis] * self.drift.conj()
        return y

    @functools.cached_property
    def drift(self):
        """d = mean - m, where kernels subtract m, the mean in single precision; or None. What they
        make of rows G - m = (G - mean) + d is corrected; F then has d'd too much."""
        return drift_of(self.mean, self.dtype)

    def add_syrk(self, c):
        """Lower triangle of c (p, p) += W F, in double."""
        add_syrk(c, self.G, weights=self.weights, shift=self.mean)
        subtract_outer(c, self.drift, self.total)

    def add_gram(self, c, column_weights=None):
        """Lower triangle of c (n, n) += Gram matrix of the (centred) scores, in double."""
        G = self.G
        if column_weights is not None and far(column_weights, WIDEST).any():
            G = replace(G, dtype=sums_dtype(G.dtype))
        add_gram(c, G, shift=self.mean, column_weights=column_weights)
        if self.drift is None or G is not self.G:
            return
        d = self.drift.conj() if column_weights is None else self.drift.conj() * column_weights
        seen, size = self._products(d[np.newaxis])[0], dots(self.drift, d).real
        for lo in range(0, self.n, CORRECTED):  # seen: of the corrected rows
            hi = lo + CORRECTED
            c[lo:hi, :hi] -= seen[lo:hi, np.newaxis] + seen[:hi].conj() + size

    def _products(self, v):
        """(G - mean) v for rows v (k, p): (k, n)."""
        v_cast, y = self.cast(v), None
        if self.kept_products and self.G.scale == 1:
            y = self.kept_products(v_cast)
        if y is None:
            y = products(self.G, v_cast, shift=self.mean)
        return y if self.drift is None else y - dots(v, self.drift)[:, np.newaxis]

    def raw_diagonal(self):
        """Diagonal of F, (p,) float64; Inf where it overflows."""
        y = np.zeros(self.p)
        if self.total:
            add_diag(y, self.G, weights=self.weights, shift=self.mean)
            y /= self.total
            if self.drift is not None:
                y = np.maximum(y - np.abs(self.drift) ** 2, 0.0)
        return y

    def fisher_diagonal(self):
        """Diagonal of F, (p,) float64."""
        return self.checked(self.raw_diagonal(), "diag F")

    def with_diagonal(self):
        """This system, rescaled if need be, and the diagonal of its F."""
        diagonal = self.raw_diagonal()
        system = self.ranged(diagonal)
        if system is not self:
            return system, system.fisher_diagonal()
        return self, self.checked(diagonal, "diag F")

    @tamed
    def apply_rows(self, v):
        """T v for rows v (k, p): (k, n)."""
        return self._products(v) * self.root_weights

    def mean_of(self, G):
        """Weighted mean row of scores like these."""
        return mean_row(G, self.weights, self.total)

    def columns(self, lo, hi):
        """T[:, lo:hi] in double, (n, hi - lo)."""
        panel = self.G.columns(lo, hi).astype(sums_dtype(self.dtype))
        if self.mean is not None:
            panel -= self.mean[lo:hi]
        return panel * self.root_weights[:, np.newaxis]

    def row_blocks(self, step=1024):
        """T in double, `step` rows at a time."""
        roots = self.root_weights[:, np.newaxis]
        for lo in range(0, self.n, step):
            hi = min(lo + step, self.n)
            block = self.G.rows(lo, hi).astype(sums_dtype(self.dtype))
            if self.mean is not None:
                block -= self.mean
            yield block * roots[lo:hi]

    def adjoint_blocks(self, step=1024):
        """T' in double, `step` of its rows at a time."""
        for lo in range(0, self.p, step):
            yield self.columns(lo, min(lo + step, self.p)).conj().T

    @tamed
    def apply_adjoint(self, f):
        """T'f for rows f (k, n): (k, p)."""
        return self.summed(f * self.root_weights)

    def summed(self, u, *, finely=False):
        """(G - mean)'u for rows u (k, n): (k, p); `finely` also where rows are all alike."""
        y = np.zeros((len(u), self.p), sums_dtype(self.dtype))
        add_rmatvec(y, self.G, u, shift=self.mean, finely=finely)
        if self.drift is not None:
            y -= u.sum(axis=1)[:, np.newaxis] * self.drift.conj()
        return y

    def from_coefficients(self, coef):
        """f with b = G'(w o coef) / W = T'f.

        Without its mean where T is centred: T'u = 0, but what (T T' + lambda I)^-1 makes of u is
        1/lambda times as large, and would drown the rest.
        """
        return self.centred(coef) * self.root_weights

    def centred(self, coef):
        """Coefficients without their mean where T is centred."""
        if self.mean is None or not self.total:
            return coef
        w = 1.0 if self.weights is None else self.weights
        for _ in range(2):  # nothing is left of equal ones
            coef = coef - (coef * w).sum(axis=-1, keepdims=True) / self.total
        return coef

    def resolve_damping(self, diagonal, trace=None):
        """The diagonal D: a number or (p,); looks at the diagonal of F only if it must."""
        need = self.damping.needs
        if need and diagonal is None:
            diagonal = self.fisher_diagonal() if trace is None or need == "diagonal" else None
        if need == "trace" and trace is None:
            trace = float(np.sum(diagonal))
        return self.damping.resolve(trace, diagonal, self.p)

    def ranged(self, diagonal):
        """This system, rescaled if squares leave the range; given the diagonal of F as computed.

        The small ones count too where damping is made of them.
        """
        if not (self.p and self.total):
            return self
        system = self.rescaled(float(diagonal.max()))
        if system is not self or self.damping.needs != "diagonal":
            return system
        faint = np.flatnonzero(diagonal < FAINT[real_bytes(self.dtype)])
        system = self._without_idle() if faint.size else self
        if not faint.size or not system._any_score(faint) or bad_rows(self.G)[0].any():
            return self
        counted, largest = system._sizes()
        if counted == 0:
            return system
        return system._scaled(raise_into_range(counted, largest, real_bytes(self.dtype)))

    def _any_score(self, columns, step=1024):
        """True if one of these columns is not all zero."""
        starts = range(0, self.n, step)
        return any(self.G.rows(lo, min(lo + step, self.n))[:, columns].any() for lo in starts)

    def rescaled(self, largest_square):
        """The same system with scores times a power of two, if their squares leave the range.

        `largest_square` is the largest diagonal element of F (or K), computed as is, maybe Inf.
        """
        itemsize, square = real_bytes(self.dtype), largest_square
        if in_range(square, itemsize) or bad_rows(self.G)[0].any():
            return self
        system = self._without_idle()
        counted, largest = system._sizes()
        if counted == 0:
            return system
        square = math.inf if math.isnan(square) else square
        if self.weights is not None:  # what does not count, or hardly, may be in the square
            square = max(min(square, counted * counted), excess(largest * largest, itemsize))
            if in_range(square, itemsize):
                return system
        scale = scale_into_range(counted, largest, square, self.damping, itemsize)
        return system._scaled(scale)

    def _without_idle(self):
        """This system with zeros for rows that have no weight, which need not stay in range."""
        idle = () if self.weights is None else np.flatnonzero(self.weights == 0).tolist()
        skipped = tuple(sorted({*idle, *self.G.skipped}))
        if skipped == self.G.skipped:
            return self
        G = replace(self.G, skipped=skipped)
        return replace(self, G=G, kept_gram=None, kept_products=None)

    def _sizes(self):
        """The largest score, by the root of its weight over the largest weight; and as it is."""
        largest = bad_rows(self.G)[1]
        if self.weights is None or not self.total:
            return largest, largest
        roots, counted = np.sqrt(self.weights / self.weights.max()), 0.0
        for lo in range(0, self.n, self.G.slice_rows):
            part = slice(lo, lo + self.G.slice_rows)
            peaks = np.abs(self.G.rows(lo, min(part.stop, self.n))).max(axis=1, initial=0.0)
            counted = max(counted, float((roots[part] * peaks).max()))
        return counted, largest

    def _scaled(self, scale):
        if scale == 1:
            return self
        try:
            damping = self.damping.scaled(scale)
        except InputError:  # lambda overflows: F is negligible beside it
            return self
        G = replace(self.G, scale=self.G.scale * scale)
        mean = None if self.mean is None else self.mean_of(G)
        return replace(self, G=G, mean=mean, damping=damping)


def make_system(G, weights, center, damping, nan_policy):
    """Apply the NaN policy, form the mean row if asked, and return the System."""
    check_policy(nan_policy)
    if nan_policy == "skip":
        G, weights = skip_bad_rows(G, weights)
    weights, total = tame_weights(G, weights)
    G = weighed(G, weights)
    mean = mean_row(G, weights, total) if center else None
    if mean is not None and not np.isfinite(mean).all() and nan_policy != "propagate":
        check_finite(G, mean, "the mean of G")
    return System(G, weights, total, mean, damping, nan_policy == "propagate")


def tame_weights(G, weights):
    """Weights in the middle of the range, and their sum."""
    half = 0 if weights is None else math.frexp(weights.max(initial=0.0))[1] // 2
    if half:  # only their ratios count; an even power of two has an exact root
        weights = np.ldexp(weights, -2 * half)
    return weights, float(G.shape[0] if weights is None else weights.sum())


def skip_bad_rows(G, weights):
    """Scores and weights without the rows that are not finite."""
    bad = np.flatnonzero(bad_rows(G)[0])
    if not bad.size:
        return G, weights
    weights = np.ones(G.shape[0]) if weights is None else weights.copy()
    weights[bad] = 0
    return replace(G, skipped=tuple(bad.tolist())), weights
