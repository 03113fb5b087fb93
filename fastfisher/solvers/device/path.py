"""Damping paths on a device: a Cholesky factorisation per damping, all queued, one wait.

The host reduces F to tridiagonal form instead; on a device n^3/3 flops more per damping are cheap
beside that reduction, which is bound by memory.
"""

from types import SimpleNamespace

import numpy as np

from ...devices.door import none, require_finite, result, working_with
from ...devices.passes import load
from ...errors import NotPositiveDefiniteError
from ...kernels.cuda import compat, memory, squares, sums, vectors
from ..path import Path, positions

__all__ = ["DevicePath"]

# What is measured of x(lambda), in the order of a row of results.
ORDER, NORM, REST, FITTED, LOGDET, INNER, INVERSE, MISFIT = range(8)
MEASURED = 8


class DevicePath(Path):
    """`Path` for an F that lies on a device; `x` answers there, what is measured is on the host.

    p^3 flops per damping: two thirds of them for the effective dimension.
    """

    def __init__(self, F, b, dampings, *, dtype, origin):
        """F (p, p) with both triangles, b (1, p), both in double; F is kept as it is."""
        self._F, self._b, self._dtype, self._origin = F, b, dtype, origin
        self.dampings, self.p = dampings, F.shape[0]
        self._source = SimpleNamespace(size=self.p)
        self._work = compat.empty((self.p, self.p), np.float64)
        self._diagonal, self._added, self._zeros = (
            compat.empty((self.p,), np.float64) for _ in range(3)
        )
        memory.fill(self._zeros, 0.0)
        squares.diagonal_of(self._diagonal, F)
        memory.copy(self._work, F)
        given = memory.zeros((1,), np.float64)
        sums.norms(given, b)
        found = self._measured(dampings)
        size = float(memory.to_host(given)[0]) or 1.0
        self.norms, self.inner = found[:, NORM], found[:, INNER]
        self.residuals = found[:, REST] / size
        self.kl, self.logdet = found[:, FITTED] / 2, 2 * found[:, LOGDET]
        self.effective_dimension = self.p - dampings * found[:, INVERSE]
        self.misfits = found[:, MISFIT]

    def _factor(self, damping, order):
        """The factor of F + damping I, in the lower triangle of the work space."""
        squares.restore(self._work)
        squares.add_to_diagonal(self._work, self._diagonal, self._zeros, damping)
        memory.copy(order, load("cholesky", self.p)(self._work))

    def _solved(self):
        x = compat.empty((1, self.p), np.float64)
        memory.copy(x, self._b)
        load("solve_lower", self.p)(self._work, x)
        load("solve_lower_adjoint", self.p)(self._work, x)
        return x

    def _measured(self, dampings):
        """Results (m, MEASURED) on the host."""
        results = memory.zeros((len(dampings) * MEASURED,), np.float64)
        for i, damping in enumerate(dampings.tolist()):
            row = results[i * MEASURED : (i + 1) * MEASURED]
            self._measure_one(damping, [row[j : j + 1] for j in range(MEASURED)])
        found = memory.to_host(results).reshape(len(dampings), MEASURED)
        bad = np.flatnonzero(found[:, ORDER])
        if bad.size:
            raise NotPositiveDefiniteError(
                f"F + {dampings[bad[0]]:.3g} I is not positive definite to working precision: "
                f"pivot {int(found[bad[0], ORDER])} of {self.p}; start the path higher",
                order=int(found[bad[0], ORDER]),
                rcond=0.0,
            )
        return found

    def _measure_one(self, damping, places):
        p, b = self.p, self._b
        self._factor(damping, places[ORDER])
        x, fitted, rest = self._solved(), *(compat.empty((1, p), np.float64) for _ in range(2))
        load("matvec", 1)(fitted, self._F, x, none(np.float64))
        sums.norms(places[NORM], x)
        sums.dots(places[FITTED], x, fitted)
        sums.dots(places[INNER], x, b)
        memory.fill(self._added, damping)
        vectors.combine(rest, b, fitted, 1.0, self._added, x)
        sums.norms(places[REST], rest)
        vectors.combine(rest, b, fitted, 1.0, none(np.float64), none(np.float64, 2))
        sums.norms(places[MISFIT], rest)
        pivots = compat.empty((1, p), np.float64)
        squares.diagonal_of(pivots.reshape(p), self._work)
        sums.logarithms(places[LOGDET], pivots)
        load("inverse_diagonal", p)(pivots.reshape(p), self._work)
        sums.totals(places[INVERSE], pivots)

    def x(self, index=None):
        """The solutions of these dampings: (p,) for one index, else (p, k), all by default."""
        which = positions(index, len(self))
        chosen = self.dampings[np.atleast_1d(which)]
        with working_with(self._origin):
            rows = compat.empty((len(chosen), self.p), np.float64)
            order = compat.empty((1,), np.float64)
            for i, damping in enumerate(chosen.tolist()):
                self._factor(damping, order)
                memory.copy(rows[i : i + 1], self._solved())
            shape = (self.p, len(chosen)) if which.ndim else (self.p,)
            made, out = result(self._origin, shape, self._dtype)
            vectors.emit(out.reshape(self.p, len(chosen)), rows, none(np.float64))
            require_finite(out, "x", b=self._b)
        return made

    def _value(self, damping, name):
        with working_with(self._origin):
            (found,) = self._measured(np.array([damping]))
        return float(found[NORM] if name == "norm" else found[FITTED] / 2)
