"""Rows of scores that are kept on a device, and what is answered from them."""

import numpy as np

from ...damping import Tikhonov
from ...devices import passes
from ...devices.door import as_rows, as_scores, as_weights, none, result, working_with
from ...devices.slices import wide_row_slices
from ...errors import InputError, StateError
from ...kernels.cuda import compat, memory, sums, vectors
from ...ops.device import answer, columns
from . import solve_on_device
from .report import Report
from .samples import examined, mean_row, without_bad_rows
from .system import make_system

__all__ = ["Kept"]


class Kept:
    """Copies of all batches in the kind of the first, joined when they are asked for."""

    def __init__(self, center, dtype=None):
        self.center, self.p = center, None
        self.dtype = None if dtype is None else np.dtype(dtype)
        self._batches = []  # (array of the caller's kind, its device view, weights (1, n) or None)

    def add(self, G, weights, decay, weight, skip=False):
        """Keep a batch; (rows, sum of weights, rows left out because they are not finite)."""
        with working_with(G, weights, *(made for made, *_ in self._batches[:1])):
            scores, bad, total = as_scores(G), 0, 0.0
            n, p = scores.shape
            if self.p not in (None, p) or (self.dtype or scores.dtype) != scores.dtype:
                raise InputError(
                    f"G is {scores.dtype} with {p} columns; expected {self.dtype} with {self.p}"
                )
            rows = None if weights is None else as_weights(weights, n)
            if skip and n:
                scores, rows, bad = without_bad_rows(scores, rows)
            batches = []
            if n:
                total = examined(scores, rows)[3]
                made, view = result(G, (n, p), scores.dtype)
                for lo, hi, part in wide_row_slices(scores):
                    memory.copy(view[lo:hi], part)
                batches = [(made, view, rows)]
            self._batches = [*self._scaled(decay), *batches]
            if n:
                self.p, self.dtype = p, scores.dtype
            return n - bad, total, bad

    def _scaled(self, decay):
        """The batches with their weights times decay; new ones, as there may be no room for all."""
        if decay == 1:
            return self._batches
        scaled = []
        for made, view, rows in self._batches:
            weights = compat.empty((1, len(view)), np.float64)
            vectors.times(
                weights, _ones(len(view)) if rows is None else rows, none(np.float64), decay
            )
            scaled.append((made, view, weights))
        return scaled

    def merge(self, other, *_):
        """Keep copies of what another has kept."""
        for made, _, rows in other._batches:
            with working_with(made):
                weights = (
                    None if rows is None else answer(made, rows.reshape(rows.size), rows.dtype)
                )
            self.add(made, weights, 1.0, 0.0)

    def working(self, *others):
        """Context: where the rows lie."""
        if not self._batches:
            raise StateError("this Fisher has seen nothing; update it first")
        return working_with(*others, self._batches[0][0])

    def joined(self):
        """(scores as an array of the caller's kind, weights (1, n) or None); inside `working`."""
        if len(self._batches) > 1:
            self._join()
        made, _, rows = self._batches[0]
        return made, rows

    def _join(self):
        n = sum(len(view) for _, view, _ in self._batches)
        whole, to = result(self._batches[0][0], (n, self.p), self.dtype)
        weights = None
        if any(rows is not None for *_, rows in self._batches):
            weights = _ones(n)
        lo = 0
        while self._batches:  # given back one by one: no second set of scores
            _, view, rows = self._batches.pop(0)
            hi = lo + len(view)
            memory.copy(to[lo:hi], view)
            if rows is not None:
                memory.copy(weights.reshape(n)[lo:hi], rows.reshape(hi - lo))
            lo = hi
        self._batches = [(whole, to, weights)]

    def solve(self, b, coef, damping):
        """The Solution by the dual."""
        with self.working(*(x for x in (b, coef) if x is not None)):
            G, rows = self.joined()
            weights = None if rows is None else answer(G, rows.reshape(rows.size), rows.dtype)
        settings = {"weights": weights, "center": self.center, "method": "dual"}
        return solve_on_device(G, b, coef, damping=damping, **settings)

    # Answers in the caller's kind.

    def _asked(self, answered):
        """What ``answered(G, system)`` makes of everything."""
        with self.working():
            G, weights = self.joined()
            return answered(G, self._system(G, weights))

    def _system(self, G, weights):
        rows = None if weights is None else weights.reshape(weights.size)
        G = passes.weighable(as_scores(G), rows)
        return make_system(G, weights, self.center, Tikhonov(0.0), Report(0))

    def apply(self, v):
        """F v."""
        with self.working(v):
            G, weights = self.joined()
            rows, single = as_rows(v, self.p, "v")
            system = self._system(G, weights)
            y = system.raw_fisher(rows)
            vectors.times(y, y, none(np.float64), system.inverse_total)
            return columns(G, y, single, self.dtype)

    def _square(self, side):
        def answered(G, system):
            order, add = (
                (system.p, system.add_fisher) if side == "p" else (system.n, system.add_gram)
            )
            c = memory.zeros((order, order), np.float64)
            add(c)
            passes.mirror(c)
            return answer(G, c, self.dtype)

        return self._asked(answered)

    def matrix(self):
        """F (p, p)."""
        return self._square("p")

    def gram(self):
        """T T' (n, n)."""
        return self._square("n")

    def diagonal(self):
        """Diagonal of F, (p,)."""
        return self._asked(lambda G, system: answer(G, system.diagonal(), self.dtype))

    def trace(self):
        """Trace of F, on the host."""

        def answered(G, system):
            total = compat.empty((1,), np.float64)
            sums.totals(total, system.diagonal().reshape(1, self.p))
            return float(memory.to_host(total)[0])

        return self._asked(answered)

    def mean(self):
        """The weighted mean row (p,)."""
        return self._asked(
            lambda G, system: answer(G, mean_row(system.G, system.shares), self.dtype)
        )

    def on_host(self):
        """(scores (n, p), weights (n,) or None), copied to the host."""
        with self.working():
            G, rows = self.joined()
            host = memory.to_host(as_scores(G).data)
            return host, None if rows is None else memory.to_host(rows)[0]


def _ones(n):
    rows = compat.empty((1, n), np.float64)
    memory.fill(rows, 1.0)
    return rows
