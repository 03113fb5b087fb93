"""F + D factored on a device: one factorisation, many questions. docs/math.md Q2, Q3, Q5."""

import numpy as np

from ...damping import Marquardt
from ...devices.door import as_matrix, as_rows, none, require_finite, result, working_with
from ...devices.passes import load, mirror
from ...errors import InputError
from ...kernels.cuda import compat, memory, squares, sums, vectors
from .direct import climb
from .matrix import Matrix
from .report import Report

__all__ = ["DeviceFactor"]


class DeviceFactor:
    """The Cholesky factor of F + D on a device; answers are of the kind of what F was made of.

    InputError where one overflows, so each of them is waited for.

    Attributes
    ----------
    p : int
        Order.
    damping : float
        The absolute lambda; for `Marquardt` its c.
    rung : str
        "cholesky", or "cholesky+damping" where a `Ladder` added to it.
    """

    def __init__(self, system, origin):
        """`system` holds F (p, p) in double, both triangles, which is destroyed."""
        self.p, self.dtype, self._origin = system.p, system.dtype, origin
        report = Report(0)
        self._matrix = Matrix(system.F, report, system.damping, system.p)

        def attempt(extra):
            report.read()
            return lambda: extra

        extra = climb(self._matrix, system, attempt, "F + damping")
        self.rung, self._L = self._matrix.rung, self._matrix.A
        marquardt = isinstance(system.damping, Marquardt)
        self.damping = system.damping.c if marquardt else self._matrix.lam + extra

    def __repr__(self):
        return (
            f"DeviceFactor(p={self.p}, dtype={self.dtype.name}, damping={self.damping:.6g}, "
            f"rung={self.rung!r})"
        )

    def _answer(self, values, what, **given):
        made, view = result(self._origin, tuple(values.shape), self.dtype)
        memory.copy(view, values)
        require_finite(view, what, **given)
        return made

    def _columns(self, rows, single, what, **given):
        shape = (self.p,) if single else (self.p, rows.shape[0])
        made, view = result(self._origin, shape, self.dtype)
        vectors.emit(view.reshape(self.p, rows.shape[0]), rows, none(np.float64))
        require_finite(view, what, **given)
        return made

    def solve(self, b):
        """(F + D)^-1 b for b (p,) or (p, k).

        No status tells of digits lost to underflow: that of ``F.solve`` does.
        """
        with working_with(b, self._origin):
            rows, single = as_rows(b, self.p, "b")
            return self._columns(self._matrix.solve(rows), single, "(F + D)^-1 b", b=rows)

    def whiten(self, b):
        """L^-1 b for b (p,) or (p, k): ||L^-1 b||^2 = b'(F + D)^-1 b."""
        with working_with(b, self._origin):
            rows, single = as_rows(b, self.p, "b")
            half = compat.empty(tuple(rows.shape), np.float64)
            memory.copy(half, rows)
            load("solve_lower", self.p)(self._L, half)
            return self._columns(half, single, "W b", b=rows)

    def logdet(self):
        """log det (F + D); waits."""
        with working_with(self._origin):
            pivots, total = (compat.empty((size,), np.float64) for size in (self.p, 1))
            squares.diagonal_of(pivots, self._L)
            sums.logarithms(total, pivots.reshape(1, self.p))
            return 2 * float(memory.to_host(total)[0])

    def inv_diagonal(self):
        """Diagonal of (F + D)^-1, (p,). 2/3 p^3 flops."""
        with working_with(self._origin):
            diagonal = compat.empty((self.p,), np.float64)
            load("inverse_diagonal", self.p)(diagonal, self._L)
            return self._answer(diagonal, "the diagonal of (F + D)^-1")

    def inv_quad(self, J):
        """J (F + D)^-1 J' for J (m, p): (m, m), symmetric to the bit."""
        with working_with(J, self._origin):
            a = as_matrix(J, "J", ("m", "p"))
            m, p = a.shape
            if p != self.p:
                raise InputError(f"J has shape {(m, p)}; expected (m, {self.p})")
            rows, products = compat.empty((m, p), np.float64), memory.zeros((m, m), np.float64)
            memory.copy(rows, a)
            load("solve_lower", p)(self._L, rows)
            none_ = none(np.float64)
            load("gram", m)(products, rows, 0, p, none_, none_)
            mirror(products)
            return self._answer(products, "J (F + D)^-1 J'", J=a)

    def sample(self, rng, k):
        """k draws from N(0, (F + D)^-1), (k, p); rng is a numpy.random.Generator of the host."""
        if not isinstance(rng, np.random.Generator):
            raise InputError(
                f"rng is {type(rng).__name__}; expected a generator: numpy.random.default_rng(seed)"
            )
        with working_with(self._origin):
            rows = memory.to_device(rng.standard_normal((k, self.p)))
            load("solve_lower_adjoint", self.p)(self._L, rows)  # L^-1 z has another covariance
            return self._answer(rows, "a draw")
