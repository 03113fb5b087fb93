"""Factor of a damped F that has fewer samples than parameters. docs/math.md Q2 to Q5."""

import numpy as np

from ..solvers.dual import Pair, applied_inverse
from ..solvers.factored import inverse_squares, solve_lower
from ..solvers.fine import certified
from .factor import CHUNK, FromCholesky, hermitian_products

__all__ = ["GramFactor"]

CANCELS = 8  # |b| over |lambda x| from which x = (b - T'y) / lambda is looked at, and corrected


class GramFactor(FromCholesky):
    """T'T + lambda I through the Cholesky factor of T T' + lambda I (n, n); lambda > 0."""

    def __init__(self, system, factor, damping, dtype):
        super().__init__(system.p, factor, damping, dtype)
        self._system = system

    def _solve(self, rows):
        system, factor, lam = self._system, self._factor, self.added
        pair = Pair(system, lam, rows, None)

        def improve(x, rest):
            return pair.moved(factor.solve(pair.rest()))

        def correct(x, rest):
            return x + applied_inverse(system, factor, lam, rest)

        x = improve(None, None)
        if pair.growth(rows).max(initial=0.0) <= CANCELS:
            return x
        return certified(system, lam, x, rows, factor.norm, improve, correct)[0]

    def _half(self, rows):
        # The adjoint of the map that `_sample_rows` draws with (docs/math.md Q3).
        T, root = self._system, np.sqrt(self.added)
        inner = self._factor.solve(T.apply_rows(rows))
        return np.concatenate([(rows - T.apply_adjoint(inner)) / root, -inner], axis=1)

    def effective_dimension(self):
        return float(len(self._factor.L) - self.added * inverse_squares(self._factor.L).sum())

    def rcond(self):
        if len(self._factor.L) < self.p:  # lambda is an eigenvalue
            return float(self.added / max(self.norm, self.added))
        return super().rcond()

    def logdet(self):
        n = len(self._factor.L)
        log_l = float(np.log(self._factor.L.diagonal().real).sum())
        return (self.p - n) * float(np.log(self.added)) + 2 * log_l

    def _inv_diagonal(self):
        out = np.empty(self.p)
        for lo in range(0, self.p, CHUNK):
            panel = self._system.columns(lo, min(lo + CHUNK, self.p))
            squares = np.abs(solve_lower(self._factor.L, np.ascontiguousarray(panel.T))) ** 2
            out[lo : lo + CHUNK] = (1 - squares.sum(axis=1)) / self.added
        return out

    def _inv_quad_rows(self, rows):
        seen = solve_lower(self._factor.L, self._system.apply_rows(rows.conj()))
        inner = hermitian_products(seen).conj()
        return (hermitian_products(rows) - inner) / self.added

    def _sample_rows(self, normal, k):
        T, root = self._system, np.sqrt(self.added)
        z = normal(k, self.p)
        seen = T.apply_rows(z) + root * normal(k, len(self._factor.L))
        return (z - T.apply_adjoint(self._factor.solve(seen))) / root
