"""What the kernel tests share: implementations, operands, and the sizes at which blocks end."""

from dataclasses import dataclass

import hypothesis.strategies as st
import numba
import numpy as np
import pytest

from fastfisher.planning import TABLE, Entry
from tests import matrices

DTYPES = matrices.DTYPES
VARIANTS = ("plain", "weighted", "shifted", "weighted and shifted")

over_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
over_variants = pytest.mark.parametrize("variant", VARIANTS)
sizes = st.integers(0, 64)
bits_of_kernels = pytest.mark.skipif(
    numba.config.DISABLE_JIT, reason="NumPy sums several rows or vectors in orders of its own"
)


def with_variants(shapes, dtype):
    """(n, p, variant): the four variants take turns, so that four dtypes cover every pair."""
    first = DTYPES.index(dtype)
    return [(*shape, VARIANTS[(first + i) % 4]) for i, shape in enumerate(shapes)]


def entries(op):
    """Every entry of the table for an op, and the reference."""
    found = {entry.name: entry for band in TABLE if band.op == op for entry in band.entries}
    return [*found.values(), Entry(f"reference.{op}", "reference", op)]


def implementations(op):
    """The test runs once per implementation of the op."""
    return pytest.mark.parametrize("entry", entries(op), ids=lambda entry: entry.name)


def implementations_of(*ops):
    """The test runs once per implementation of each op, and knows the op too."""
    cases = [pytest.param(op, entry, id=entry.name) for op in ops for entry in entries(op)]
    return pytest.mark.parametrize("op, entry", cases)


def ours(op):
    """Our compiled kernel for an op."""
    return next(e for b in TABLE if b.op == op for e in b.entries if e.module.startswith("cpu."))


def sums_dtype(dtype):
    return np.dtype(np.complex128 if np.dtype(dtype).kind == "c" else np.float64)


def real_dtype(dtype):
    return np.zeros(0, dtype).real.dtype


@dataclass(frozen=True)
class Operands:
    """Scores with optional weights and shift, and (0,) where a kernel takes "none"."""

    G: np.ndarray
    weights: np.ndarray | None
    shift: np.ndarray | None

    @property
    def shifted(self):
        """Exact rows (G - shift) in double."""
        G = self.G.astype(sums_dtype(self.G.dtype))
        return G if self.shift is None else G - self.shift

    @property
    def weights_or_none(self):
        return np.empty(0, real_dtype(self.G.dtype)) if self.weights is None else self.weights

    @property
    def scale_or_none(self):
        return np.sqrt(self.weights_or_none)

    @property
    def shift_or_none(self):
        return np.empty(0, self.G.dtype) if self.shift is None else self.shift


def operands(n, p, dtype, variant="plain", *, per="row"):
    """Gaussian scores; weights per row (samples) or per column (parameters)."""
    rng = matrices.generator("operands", n, p, str(dtype), variant)
    G = matrices.gaussian((n, p), dtype, rng)
    weights = matrices.weights(n if per == "row" else p, dtype) if "weighted" in variant else None
    shift = matrices.gaussian((p,), dtype, rng) if "shifted" in variant else None
    return Operands(G, weights, shift)


UNTOUCHED = 2.0**20  # above the diagonal: read, it spoils the sums; written to, it changes


def started(order, dtype):
    """An accumulator with a lower triangle to add to; and that triangle."""
    rng = matrices.generator("started", order, str(dtype))
    start = np.tril(matrices.gaussian((order, order), sums_dtype(dtype), rng))
    start[np.diag_indices(order)] = np.abs(start.diagonal())
    return start + np.triu(np.full((order, order), UNTOUCHED), 1), start


def lower_of(c):
    """The lower triangle of an accumulator, after a look at the upper one."""
    assert np.all(c[np.triu_indices(len(c), 1)] == UNTOUCHED), "the upper triangle was written"
    return np.tril(c)


def rounded(c, dtype):
    """Double sums in the dtype of the data, in whose u their error is measured."""
    return c.astype(dtype)


def unchanged(*arrays):
    """A function that asserts that the bytes of the arrays are still what they were."""
    before = [a.tobytes() for a in arrays]

    def check():
        assert [a.tobytes() for a in arrays] == before, "an input was changed"

    return check
