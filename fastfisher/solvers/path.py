"""Damping path: (F + lambda I) x = b for many lambda from one factorisation; docs/math.md Q1."""

import numpy as np

from ..arrays import as_answer, as_array, to_origin
from ..errors import InputError, NotPositiveDefiniteError
from ..ops.factorizations import round_up
from ..scalars import as_real, said
from .certificate import row_norms
from .factored import sufficient

__all__ = ["DualSource", "Path", "PrimalSource", "SpectralSource", "as_dampings", "positions"]

CHUNK = 32  # dampings whose solutions are in memory at once
SINGULAR = 2  # smallest eigenvalue in n eps, of the largest, that counts as one without damping
SHOWN = 12  # rows of a printed path
HEADER = ("damping", "norm", "residual", "kl", "logdet", "inner", "eff. dim.")


class Indefinite(ArithmeticError):
    """A damping of the path with which F has no solve; `order` of the failing pivot, or 0."""

    def __init__(self, index, order=0):
        super().__init__(index, order)
        self.index, self.order = index, order


class PrimalSource:
    """x(lambda) through F = Q T Q', for one right-hand side b (p,)."""

    def __init__(self, reduced, b):
        self._reduced, self.b = reduced, b
        self._c = reduced.coordinates(b[np.newaxis])[0]
        self.eigenvalues, self.size = reduced.eigenvalues, len(b)

    def rows(self, dampings):
        """x for each damping, (m, p), and the norms of what the fit leaves over, or None."""
        e = self.eigenvalues
        if not dampings.all() and e[0] <= SINGULAR * len(e) * np.finfo(np.float64).eps * e[-1]:
            raise Indefinite(int(np.argmin(dampings)))
        return self._reduced.vectors(_solved(self._reduced, self._c, dampings)), None

    def sizes(self, dampings):
        """||x|| and x'F x for each damping, without forming x where that can be avoided."""
        z = _solved(self._reduced, self._c, dampings)
        return row_norms(z), _inner(z, self._reduced.product(z))


class DualSource:
    """x(lambda) through the Gram matrix K = T T' = Q (tridiagonal) Q' of a system.

    For b = T'f with f (n,) given (docs/math.md D3), or for any b (D2).
    """

    def __init__(self, system, reduced, *, b=None, f=None):
        self._system, self._reduced, self._given = system, reduced, f is not None
        self.b = b if f is None else system.apply_adjoint(f[np.newaxis])[0]
        seen = system.apply_rows(b[np.newaxis]) if f is None else f[np.newaxis]
        self._c = reduced.coordinates(seen)[0]
        self.eigenvalues = reduced.eigenvalues
        self.size = system.n if self._given else system.p

    def rows(self, dampings):
        if not np.all(dampings > 0):
            raise Indefinite(int(np.argmin(dampings)), min(self._system.rank_bound + 1, self.size))
        z = _solved(self._reduced, self._c, dampings)
        x = self._system.apply_adjoint(self._reduced.vectors(z))
        if self._given:
            return x, dampings * row_norms(z)
        return (self.b - x) / dampings[:, np.newaxis], None

    def sizes(self, dampings):
        z = _solved(self._reduced, self._c, dampings)
        image = self._reduced.product(z)
        if self._given:  # x = T'Q z
            return np.sqrt(_inner(z, image)), _inner(image, image)
        return row_norms(self.rows(dampings)[0]), _inner(z, z)  # T x = Q z


class SpectralSource:
    """x(lambda) = V (c / (eigenvalues + lambda)) with c = V'b, for a spectrum that is known."""

    def __init__(self, spectrum, b):
        self._spectrum, self.b = spectrum, b
        self._c = spectrum.coordinates(b[np.newaxis])[0]
        self.eigenvalues, self.size = np.sort(spectrum.eigenvalues), len(b)

    def _divided(self, dampings):
        damped = self._spectrum.eigenvalues + dampings[:, np.newaxis]
        bad = np.argwhere(~(damped > 0))
        if bad.size:
            raise Indefinite(int(bad[0, 0]), int(bad[0, 1]) + 1)
        return self._c / damped

    def rows(self, dampings):
        return self._spectrum.vectors(self._divided(dampings)), None

    def sizes(self, dampings):
        z = self._divided(dampings)
        return row_norms(z), _inner(z, z * self._spectrum.eigenvalues)


def _inner(x, y):
    """Re x_i'y_i for rows."""
    return np.einsum("mp,mp->m", x.conj(), y).real


def _solved(reduced, c, dampings):
    z, failed = reduced.solve(c, dampings)
    if failed is not None:
        raise Indefinite(failed)
    return z


def _root(ratio, low, high):
    """Where a falling positive function passes 1, between low >= 0 and high."""
    if not ratio(high) < 1:
        return high
    from scipy.optimize import brentq  # on use: it takes longer than many a solve

    if low == 0:
        return brentq(lambda lam: np.log(ratio(lam)), low, high, xtol=1e-300, rtol=1e-14)
    ends = np.log(low), np.log(high)
    return float(np.exp(brentq(lambda t: np.log(ratio(np.exp(t))), *ends, xtol=1e-14, rtol=1e-15)))


def as_dampings(dampings):
    """Check a list of absolute dampings: (m,) finite, >= 0, at least one; float64."""
    a = as_array(dampings, "dampings", need="a list of numbers >= 0")
    if a.ndim != 1 or not a.size or a.dtype.kind not in "fiu":
        raise InputError(
            f"dampings is {a.dtype} of shape {a.shape}; expected absolute dampings (m,) as numbers "
            "(a Relative damping c is c * F.trace() / F.p)"
        )
    a = a.astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(a) & (a >= 0)))
    if bad.size:
        raise InputError(f"dampings[{bad[0]}] is {a[bad[0]]}; expected a finite number >= 0")
    return a


def positions(index, m):
    """Which of m dampings an index of NumPy names: an array (k,), or one integer."""
    try:
        which = np.arange(m)[slice(None) if index is None else index]
    except (IndexError, TypeError, ValueError):
        which = None
    if which is None or isinstance(index, bool | np.bool_) or which.ndim > 1:
        raise InputError(
            f"index is {said(index)}; expected integers from {-m} to {m - 1}, a slice, or a mask "
            f"of {m} dampings"
        )
    return which


class Path:
    """What a solve would give for each of many dampings; made by ``F.path(b, dampings)``.

    Attributes
    ----------
    dampings : array (m,)
        Absolute lambda, in the order given.
    norms : array (m,)
        ||x(lambda)||; falls with lambda.
    residuals : array (m,)
        ||b - (F + lambda I) x|| / ||b||, recomputed with F.
    kl : array (m,)
        1/2 x'F x, the Kullback-Leibler divergence that the step x predicts.
    logdet : array (m,)
        log det (F + lambda I).
    inner : array (m,)
        b'x = b'(F + lambda I)^-1 b: the decrease of the loss per unit of learning rate.
    effective_dimension : array (m,)
        trace(F (F + lambda I)^-1).
    misfits : array (m,)
        ||b - F x||; for a path by coefficients ||f - S x||, the residual of the least squares.

    Notes
    -----
    docs/math.md Q1, Q4, P1. `x` computes the solutions it is asked for, nothing else is stored.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> F = ff.DenseFisher(2).update(np.array([[1.0, 0.0], [0.0, 3.0]]))
    >>> path = F.path(np.array([1.0, 1.0]), [0.5, 4.5])
    >>> path.x(0), path.effective_dimension
    (array([1. , 0.2]), array([1.4, 0.6]))
    """

    def __init__(self, source, apply, dampings, *, p, dtype, origin=None, root=0, shift=0):
        """The source, and `apply` (rows times F), work with 2^(2 root) F and 2^-shift b."""
        self._source, self._root, self._shift = source, root, shift
        self.dampings, self.p, self._dtype, self._origin = dampings, p, dtype, origin
        columns = [np.empty(len(dampings)) for _ in range(7)]
        for lo in range(0, len(dampings), CHUNK):
            part = slice(lo, min(lo + CHUNK, len(dampings)))
            for column, values in zip(columns, self._measure(part, apply), strict=True):
                column[part] = values
        norm, residual, fitted, logdet, inner, dimension, misfit = columns
        two = 2 * root
        with np.errstate(over="ignore", under="ignore"):
            self.norms = np.ldexp(norm, two + shift)
            self.kl = np.ldexp(fitted, two + 2 * shift - 1)
            self.inner = np.ldexp(inner, two + 2 * shift)
            self.misfits = np.ldexp(misfit, shift)
        self.residuals = residual
        self.logdet = logdet - p * two * np.log(2)
        self.effective_dimension = dimension

    def _rows(self, part):
        try:
            return self._source.rows(np.ldexp(self.dampings[part], 2 * self._root))
        except Indefinite as error:
            raise self._not_definite(self.dampings[part][error.index], error.order) from None

    def _not_definite(self, damping, order=0):
        e = self._source.eigenvalues
        least = max(-float(e[0]), 0.0) + sufficient(len(e), self._dtype, float(e[-1]))
        with np.errstate(over="ignore", under="ignore"):
            suggested = round_up(float(np.ldexp(least, -2 * self._root))) or None
            bounds = np.ldexp(e[[0, -1]], -2 * self._root)
        advice = f"start the path at {suggested:.3g}" if suggested else "F is zero: raise damping"
        return NotPositiveDefiniteError(
            f"F + {damping:.3g} I is not positive definite to working precision: the eigenvalues "
            f"of F run from {bounds[0]:.3g} to {bounds[1]:.3g}; {advice}",
            order=order,
            rcond=0.0,
            suggested_damping=suggested,
        )

    def _measure(self, part, apply):
        b, e, lam = self._source.b, self._source.eigenvalues, self.dampings[part]
        x, left = self._rows(part)
        lam = np.ldexp(lam, 2 * self._root)
        fitted = apply(x)
        rest = b - fitted
        spectrum = np.maximum(e, 0.0)
        damped = spectrum + lam[:, np.newaxis]
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(spectrum > 0, spectrum / damped, 0.0)
            zeros = self.p - len(e)
            logdet = np.log(damped).sum(axis=1) + (zeros * np.log(lam) if zeros else 0.0)
        size = float(row_norms(b[np.newaxis])[0]) or 1.0
        return (
            row_norms(x),
            row_norms(rest - lam[:, np.newaxis] * x) / size,
            _inner(x, fitted),
            logdet,
            (x @ b.conj()).real,
            shares.sum(axis=1),
            row_norms(rest) if left is None else left,
        )

    def x(self, index=None):
        """The solutions of these dampings: (p,) for one index, else (p, k); all by default."""
        which = positions(index, len(self))
        rows, _ = self._rows(np.atleast_1d(which))
        total = 2 * self._root + self._shift
        half = total // 2  # in two steps: the factor may be out of range where x is not
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            rows = rows * np.ldexp(1.0, half) * np.ldexp(1.0, total - half)
        rows = as_answer(rows, self._dtype, "x")
        return to_origin(np.ascontiguousarray(rows.T if which.ndim else rows[0]), self._origin)

    def damping_for(self, *, norm=None, kl=None):
        """The smallest damping, from the smallest of the path up, that keeps the step inside.

        Parameters
        ----------
        norm : float, optional
            Trust region ||x|| <= norm.
        kl : float, optional
            Trust region 1/2 x'F x <= kl. Exactly one of the two is given.

        Returns
        -------
        float
            Both sides fall with lambda: the root, unless the smallest damping already satisfies it.

        Notes
        -----
        About ten eliminations. docs/math.md P5.

        Examples
        --------
        >>> import numpy as np, fastfisher as ff
        >>> F = ff.DenseFisher(1).update(np.array([[1.0]]))
        >>> round(F.path(np.array([6.0]), [0.0, 1.0]).damping_for(norm=2.0), 12)
        2.0
        """
        if (norm is None) == (kl is None):
            raise InputError("pass exactly one of norm and kl")
        name, bound = ("norm", norm) if kl is None else ("kl", kl)
        bound = as_real(bound, name)
        if bound == 0:
            raise InputError(f"{name} is 0; no finite damping makes the step vanish")
        values = self.norms if kl is None else self.kl
        order = np.argsort(self.dampings)
        inside = order[values[order] <= bound]
        low = float(self.dampings[order[0]])
        if values[order[0]] <= bound:
            return low
        outside = order[values[order] > bound]
        low = float(self.dampings[outside[-1]])
        # Beyond the path in steps by tens.
        high = float(self.dampings[inside[0]]) if inside.size else max(10 * low, 1e-300)
        while not inside.size and self._value(high, name) > bound:
            low, high = high, 10 * high
        return _root(lambda lam: self._value(lam, name) / bound, low, high)

    def _value(self, damping, name):
        """||x|| or 1/2 x'F x at one damping."""
        try:
            norm, fitted = self._source.sizes(np.ldexp(np.array([damping]), 2 * self._root))
        except Indefinite as error:
            raise self._not_definite(damping, error.order) from None
        two = 2 * self._root
        if name == "norm":
            return float(np.ldexp(norm[0], two + self._shift))
        return float(np.ldexp(fitted[0], two + 2 * self._shift - 1))

    def gcv(self):
        """Generalised cross-validation, (m,): size ||misfit||^2 / (size - effective dimension)^2.

        Its minimum is a damping whose fit would predict left-out entries of the right-hand side
        (for a path by coefficients: left-out samples) best; Golub, Heath, Wahba 1979.
        """
        size = self._source.size
        with np.errstate(divide="ignore", invalid="ignore"):
            return size * (self.misfits / (size - self.effective_dimension)) ** 2

    def corner(self):
        """Index of the damping at the corner of the L-curve, log misfit against log norm.

        The point of largest curvature (Hansen 1992), from differences on the dampings given.

        Raises
        ------
        InputError
            With fewer than five different positive dampings.
        """
        order = np.argsort(self.dampings, kind="stable")
        keep = np.concatenate([[True], np.diff(self.dampings[order]) > 0])
        keep &= (self.dampings[order] > 0) & (self.misfits[order] > 0) & (self.norms[order] > 0)
        order = order[keep]
        if len(order) < 5:
            raise InputError(f"the path has {len(order)} usable dampings; a corner needs five")
        t = np.log(self.dampings[order])
        across, up = np.log(self.misfits[order]), np.log(self.norms[order])
        da, du = np.gradient(across, t), np.gradient(up, t)
        curvature = da * np.gradient(du, t) - np.gradient(da, t) * du
        curvature /= (da**2 + du**2) ** 1.5
        return int(order[np.argmax(curvature)])

    def __len__(self):
        return len(self.dampings)

    def __repr__(self):
        half = SHOWN // 2
        shown = range(len(self))
        if len(self) > SHOWN:
            shown = [*range(half), None, *range(len(self) - half, len(self))]
        lines = [f"Path: {len(self)} dampings, p={self.p}"]
        lines.append("".join(f"{name:>12}" for name in HEADER))
        table = zip(
            self.dampings,
            self.norms,
            self.residuals,
            self.kl,
            self.logdet,
            self.inner,
            self.effective_dimension,
            strict=True,
        )
        rows = ["".join(f"{value:>12.4g}" for value in row) for row in table]
        lines += ["         ..." if i is None else rows[i] for i in shown]
        return "\n".join(lines)
