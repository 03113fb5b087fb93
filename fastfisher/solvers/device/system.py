"""The normalised system (F + D) x = b on a device; twin of `solvers.system`.

F = T'T with T = diag(u) (G - mean), u = sqrt(w / W). Vectors are rows (k, p) in double. What a
solve must know of them is gathered in its report, which the host reads once.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np

from ...arrays import LARGE, WIDEST
from ...damping import Damping
from ...devices import passes
from ...devices.door import DeviceScores, none
from ...devices.slices import column_slices, row_slices
from ...errors import InputError
from ...kernels.cuda import BLOCK_BYTES, compat, copies, memory, ranges, squares, sums, vectors
from ...kernels.cuda.vectors import BAD, SPREAD, TOTAL, USED
from ..ranges import FAINT, in_range, raise_into_range, scale_into_range, unit_roundoff
from .samples import mean_row

__all__ = [
    "System",
    "apply_tamed",
    "check_weights",
    "drift_of",
    "make_system",
]


def apply_tamed(product, rows, dtype):
    """product(rows), a new array; rows far from 1 are brought near it by powers of two where
    products are in single precision, as by `solvers.system.tamed`."""
    if dtype.itemsize == 8:
        return product(rows)
    sizes, moved = compat.empty((rows.shape[0],), np.float64), compat.empty(rows.shape, np.float64)
    sums.largest(sizes, rows)
    ranges.near(moved, rows, sizes)
    y = product(moved)
    ranges.back(y, sizes)
    return y


def drift_of(mean, dtype):
    """d = mean - m (p,), where kernels subtract m, the mean in the precision of scores; or None."""
    if mean is None or dtype.itemsize == 8:
        return None
    row, d = mean.reshape(1, mean.size), compat.empty((1, mean.size), np.float64)
    memory.copy(d, passes.cast(row, dtype))
    vectors.combine(d, row, d, 1.0, none(np.float64), none(np.float64, 2))
    return d.reshape(mean.size)


@dataclass(frozen=True)
class System:
    """Scores, weights and centring of F on a device, and the damping asked for."""

    G: DeviceScores
    roots: object  # u (n,), or None: all alike
    shares: object  # w / W (n,), or None
    mean: object  # (p,), or None
    damping: Damping

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
    def scale(self):
        """What scores were multiplied by."""
        return self.G.scale

    @property
    def rank_bound(self):
        """The most rank F can have, as far as the host knows."""
        return max(self.n - (self.mean is not None), 0)

    @property
    def roundoff(self):
        return unit_roundoff(self.dtype)

    @property
    def inverse_total(self):
        """What raw sums are multiplied by."""
        return 1.0 / self.n if self.shares is None else 1.0

    @property
    def _alike(self):
        return 1.0 if self.shares is not None else self.n**-0.5

    def raw_fisher(self, v):
        """F v without the factor `inverse_total`."""
        y = memory.zeros(tuple(v.shape), np.float64)
        passes.add_fvp(y, self.G, v, weights=self.shares, shift=self.mean)
        if self.drift is not None:
            vectors.project(y, self._along_drift(v, 1 / self.inverse_total), self.drift)
        return y

    @functools.cached_property
    def drift(self):
        """What sums and products are corrected by, as in `solvers.system`; or None."""
        return drift_of(self.mean, self.dtype)

    def _along_drift(self, v, by=1.0):
        """v d, times a number, for rows v: (k,)."""
        k = v.shape[0]
        along = compat.empty((k, 1), np.float64)
        passes.load("matvec", k)(along, self.drift.reshape(1, self.p), v, none(np.float64))
        vectors.times(along, along, none(np.float64), by)
        return along.reshape(k)

    def add_fisher(self, F):
        """Lower triangle of F, from zeros."""
        passes.add_syrk(F, self.G, scale=self.roots, shift=self.mean)
        if self.roots is None:
            squares.scale_square(F, none(np.float64), self.inverse_total)
        if self.drift is not None:
            ranges.subtract_outer(F, self.drift, self.drift, 0.5)

    def add_raw_gram(self, K, weight=None):
        """Lower triangle of K += (G - mean) diag(weight) (G - mean)'."""
        passes.add_gram(K, self.G, weight=weight, shift=self.mean)
        if self.drift is None:
            return
        d, ones = compat.empty((1, self.p), np.float64), compat.empty((self.n,), np.float64)
        vectors.times(
            d, self.drift.reshape(1, self.p), none(np.float64) if weight is None else weight
        )
        memory.fill(ones, 1.0)
        # Seen by kernels, a row is (G_i - mean) + d: its product with d, less half of d'd.
        seen, half = passes.products(self.G, d, shift=self.mean), self._along_drift(d, 0.5)
        vectors.project(seen, half, none(np.float64), 1.0)
        ranges.subtract_outer(K, seen.reshape(self.n), ones)

    def add_gram(self, K, weight=None):
        """Lower triangle of T diag(weight) T', from zeros."""
        self.add_raw_gram(K, weight)
        roots = none(np.float64) if self.roots is None else self.roots
        squares.scale_square(K, roots, self.inverse_total)

    def diagonal(self):
        """Diagonal of F, (p,)."""
        y = memory.zeros((self.p,), np.float64)
        passes.add_diag(y, self.G, weights=self.shares, shift=self.mean)
        rows = y.reshape(1, self.p)
        vectors.times(rows, rows, none(np.float64), self.inverse_total)
        if self.drift is not None:
            ranges.lessen(y, self.drift)
        return y

    def _weighted(self, rows, out=None):
        u = none(np.float64) if self.roots is None else self.roots
        vectors.times(rows if out is None else out, rows, u, self._alike)
        return rows if out is None else out

    def apply_rows(self, v):
        """T v."""
        return apply_tamed(self._rows_times, v, self.dtype)

    def _rows_times(self, v):
        y = passes.products(self.G, v, shift=self.mean)
        if self.drift is not None:
            vectors.project(y, self._along_drift(v), none(np.float64), 1.0)
        return self._weighted(y)

    def apply_adjoint(self, f):
        """T'f."""
        return apply_tamed(self._adjoint_times, f, self.dtype)

    def _adjoint_times(self, f):
        u = self._weighted(f, compat.empty(tuple(f.shape), np.float64))
        y = memory.zeros((f.shape[0], self.p), np.float64)
        passes.add_rmatvec(y, self.G, u, shift=self.mean)
        if self.drift is not None:
            along = compat.empty((f.shape[0],), np.float64)
            sums.totals(along, u)
            vectors.project(y, along, self.drift)
        return y

    def from_coefficients(self, coef):
        """f with G'(w o coef) / W = T'f, without its mean where T is centred; a new array."""
        f = self._weighted(coef, compat.empty(tuple(coef.shape), np.float64))
        return f if self.mean is None else self.off_mean(f)

    def off_mean(self, f):
        """f <- f - (f u) u: T'u = 0 where T is centred."""
        along, k = compat.empty((f.shape[0],), np.float64), f.shape[0]
        if self.roots is None:
            sums.totals(along, f)
            vectors.project(f, along, none(np.float64), 1.0 / self.n)
        else:
            for i in range(k):
                sums.dots(along[i : i + 1], f[i : i + 1], self.roots.reshape(1, self.n))
            vectors.project(f, along, self.roots)
        return f

    def used(self, report):
        """How many samples have a weight, (1,) on the device."""
        if self.shares is not None:
            return report.place(USED)
        count = compat.empty((1,), np.float64)
        memory.fill(count, float(self.n))
        return count

    def row_blocks(self):
        """T in double, some of its rows at a time; whoever gets them may overwrite them."""
        for lo, hi, rows in row_slices(self.G):
            yield from self._blocks(rows, lo, hi - lo, self.p, across=False)

    def adjoint_blocks(self):
        """T' likewise."""
        for lo, hi, columns in column_slices(self.G):
            mean = None if self.mean is None else self.mean[lo:hi]
            yield from self._blocks(columns, 0, hi - lo, self.n, across=True, mean=mean)

    def _blocks(self, part, at, count, width, *, across, mean=None):
        shift = self.mean if mean is None else mean
        shift, roots = (none(np.float64) if x is None else x for x in (shift, self.roots))
        step = max(BLOCK_BYTES // (8 * width), 1)
        for first in range(0, count, step):
            block = compat.empty((min(step, count - first), width), np.float64)
            copies.rows_of(block, part, first, shift, roots, at, self._alike, across=across)
            yield block

    def rescaled(self, largest_square):
        """The same with scores times a power of two, if their squares leave the range: as
        `solvers.system.System.rescaled`, for the largest mean square as computed. Waits."""
        if in_range(largest_square, self.dtype.itemsize):
            return self
        bad, largest = passes.bad_rows(self.G)
        if bad.any() or largest == 0:
            return self
        system, largest = self._without_idle(largest)
        itemsize, square = self.dtype.itemsize, largest_square
        if system is not self:  # what does not count may be in the square
            square = min(square, largest * largest)
            if in_range(square, itemsize) or largest == 0:
                return system
        return system._scaled(scale_into_range(largest, largest, square, self.damping, itemsize))

    def _without_idle(self, largest):
        """This system with zeros for rows that have no weight, and the largest score then. Waits
        where there are weights."""
        if self.shares is None:
            return self, largest
        idle = memory.to_host(self.shares) == 0
        if not idle.any():
            return self, largest
        system = replace(self, G=self.G.without(idle))
        return system, passes.bad_rows(system.G)[1]

    def without_faint(self, least):
        """The same with scores times a power of two where mean squares, of which this is the
        `least`, lost digits that damping needs: as `solvers.system.System.ranged`. May wait."""
        itemsize = self.dtype.itemsize
        if not least < FAINT[itemsize]:
            return self
        faint = memory.to_host(self.diagonal()) < FAINT[itemsize]
        peaks, (system, _) = memory.zeros((self.p,), np.float64), self._without_idle(0.0)
        passes.add_peaks(peaks, system.G, by_rows=True)
        peaks = memory.to_host(peaks)
        if not peaks[faint].any():
            return self
        return system._scaled(raise_into_range(peaks.max(), peaks.max(), itemsize))

    def widened(self, report):
        """The same, read in double beside weights that single precision would lose, by what the
        report says of them. Waits where they are that far apart."""
        if self.shares is None or self.G.wide or self.dtype.itemsize == 8:
            return self
        if not report.host[SPREAD] >= WIDEST / 2 or not passes.bad_rows(self.G)[1] > LARGE:
            return self
        G = replace(self.G, wide=True)
        mean = None if self.mean is None else mean_row(G, self.shares)
        return replace(self, G=G, mean=mean)

    def _scaled(self, scale):
        if scale == 1:
            return self
        try:
            damping = self.damping.scaled(scale)
        except InputError:  # lambda overflows: F is negligible beside it
            return self
        G = self.G.scaled(scale)
        mean = None if self.mean is None else mean_row(G, self.shares)
        return replace(self, G=G, mean=mean, damping=damping)


def make_system(G, weights, center, damping, report):
    """The system for weights (1, n) in double; what is wrong with them is told by the report."""
    n = G.shape[0]
    roots = shares = mean = None
    if weights is not None:
        w = weights.reshape(n)
        bad, used = compat.empty((1,), np.int64), memory.zeros((1,), np.int64)
        memory.fill(bad, n)
        vectors.examine_weights(bad, used, w)
        sums.totals(report.place(TOTAL), weights)
        roots, shares = (compat.empty((n,), np.float64) for _ in range(2))
        vectors.roots(roots, shares, w, report.device, bad, used)
        if G.dtype.itemsize < 8:
            inverse = compat.empty((1, n), np.float64)
            vectors.invert_sum(inverse.reshape(n), shares, shares)
            sums.largest(report.place(SPREAD), inverse)
    if center:
        mean = mean_row(G, shares)
    return System(G, roots, shares, mean, damping)


def check_weights(system, report):
    """InputError if the report found a bad weight."""
    if system.shares is None:
        return
    bad, total = report.host[BAD], report.host[TOTAL]
    if bad < system.n:
        raise InputError(f"weights[{int(bad)}] is negative or not finite; expected finite, >= 0")
    if not np.isfinite(total):
        raise InputError("the sum of the weights overflows; divide them by their largest")
