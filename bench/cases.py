"""The benchmark cases as data: operation, shape, dtype, and what the mathematics asks for.

Flops are the useful ones: syrk counts one triangle, n p (p + 1), never the 2 n p^2 of a general
product; a complex multiply-add counts four real ones. Bytes are the least that must cross the
memory bus: every input read once, every output written once (one triangle of a factor, both of a
Gram matrix).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# The dtype of the operands; half precision (h) is storage, computed and answered in float32.
DTYPES = {
    "d": np.float64,
    "s": np.float32,
    "z": np.complex128,
    "c": np.complex64,
    "h": np.float16,
}

DAMPING = 1e-3  # of every case that damps


@dataclass(frozen=True)
class Op:
    """An operation: what its axes mean, and its costs in real flops and in words per shape."""

    axes: str
    flops: Callable[..., float]
    reads: Callable[..., float]
    writes: Callable[..., float]


def _solve_flops(n, p):
    # The small Gram matrix, its factor, two triangular solves, the right-hand side, the way back.
    small, large = min(n, p), max(n, p)
    return large * small * (small + 1) + small**3 / 3 + 2 * small**2 + 2 * n * p


def _layer_widths(*widths):
    return sum(d_in + d_out for d_in, d_out in pairwise(widths))


OPS = {
    "syrk": Op("n x p", lambda n, p: n * p * (p + 1), lambda n, p: n * p, lambda n, p: p * p),
    "gram": Op("n x p", lambda n, p: p * n * (n + 1), lambda n, p: n * p, lambda n, p: n * n),
    "fvp": Op(
        "n x p x vectors",
        flops=lambda n, p, k: 4 * n * p * k,
        reads=lambda n, p, k: n * p + p * k,
        writes=lambda n, p, k: p * k,
    ),
    "matvec": Op(
        "n x p x vectors",
        flops=lambda n, p, k: 2 * n * p * k,
        reads=lambda n, p, k: n * p + p * k,
        writes=lambda n, p, k: n * k,
    ),
    "rmatvec": Op(
        "n x p x vectors",
        flops=lambda n, p, k: 2 * n * p * k,
        reads=lambda n, p, k: n * p + n * k,
        writes=lambda n, p, k: p * k,
    ),
    "diag": Op("n x p", lambda n, p: 2 * n * p, lambda n, p: n * p, lambda n, p: p),
    "convert": Op("n x p", lambda n, p: 0, lambda n, p: n * p, lambda n, p: 2 * n * p),
    "cholesky": Op("n", lambda n: n**3 / 3, lambda n: n * n / 2, lambda n: n * n / 2),
    "trsm": Op(
        "n x right-hand sides",
        flops=lambda n, k: n * n * k,
        reads=lambda n, k: n * n / 2 + n * k,
        writes=lambda n, k: n * k,
    ),
    "cho_solve": Op(
        "n x right-hand sides",
        flops=lambda n, k: 2 * n * n * k,
        reads=lambda n, k: n * n / 2 + n * k,
        writes=lambda n, k: n * k,
    ),
    "solve": Op("n x p", _solve_flops, lambda n, p: n * p + n, lambda n, p: p),
    "batched_solve": Op(
        "systems x p",
        flops=lambda n, p: n * (p**3 / 3 + 2 * p**2),
        reads=lambda n, p: n * (p * p + p),
        writes=lambda n, p: n * p,
    ),
    "metric_solve": Op(
        "systems x samples x p",
        flops=lambda n, s, p: n * (s * p * (p + 1) + p**3 / 3 + 2 * p**2),
        reads=lambda n, s, p: n * (s * p + p),
        writes=lambda n, s, p: n * p,
    ),
    "block_syrk": Op(
        "n x p x order of a block",
        flops=lambda n, p, d: n * p * (d + 1),
        reads=lambda n, p, d: n * p,
        writes=lambda n, p, d: p * d,
    ),
    "block_cholesky": Op(
        "blocks x order",
        flops=lambda n, d: n * d**3 / 3,
        reads=lambda n, d: n * d * d / 2,
        writes=lambda n, d: n * d * d / 2,
    ),
    "layered_gram": Op(
        "n x widths of the layers",
        flops=lambda n, *widths: n * (n + 1) * _layer_widths(*widths),
        reads=lambda n, *widths: n * _layer_widths(*widths),
        writes=lambda n, *widths: n * n,
    ),
}


@dataclass(frozen=True)
class Case:
    """One cell of the grid."""

    op: str
    dtype: str
    shape: tuple[int, ...]
    spectrum: str = "flat"  # of the Fisher: flat (Gaussian scores) or exp (1 down to 1e-6)

    @property
    def id(self):
        """Its name in tables, files and on the command line, such as syrk-d-20000x1000."""
        name = f"{self.op}-{self.dtype}-{'x'.join(map(str, self.shape))}"
        return name if self.spectrum == "flat" else f"{name}-{self.spectrum}"

    @property
    def dtype_computed(self):
        """The dtype of the answer, whose roundoff errors are measured in."""
        return np.dtype(np.float32 if self.dtype == "h" else DTYPES[self.dtype])

    @property
    def flops(self):
        """Useful real flops."""
        return round(OPS[self.op].flops(*self.shape)) * (4 if self.dtype in "zc" else 1)

    @property
    def input_bytes(self):
        """Bytes of the input, each read once."""
        return round(OPS[self.op].reads(*self.shape)) * np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def bytes(self):
        """Least traffic: the input read once and the output written once."""
        written = round(OPS[self.op].writes(*self.shape)) * np.dtype(DTYPES[self.dtype]).itemsize
        return self.input_bytes + written


def _grid(op, dtypes, *shapes, spectrum="flat"):
    return [Case(op, dtype, shape, spectrum) for shape in shapes for dtype in dtypes]


AUTOENCODER = (784, 256, 64, 256, 784)

FULL = [
    *_grid("syrk", "ds", (1_000_000, 10), (200_000, 50), (50_000, 200)),
    *_grid("syrk", "dszh", (20_000, 1000)),
    *_grid("syrk", "ds", (8000, 3000), (3000, 3000)),
    *_grid("gram", "ds", (256, 100_000), (512, 200_000), (2048, 50_000)),
    *_grid("gram", "dsz", (1024, 20_000)),
    *_grid("fvp", "dsh", (100_000, 1000, 1)),
    *_grid("fvp", "ds", (2000, 100_000, 1), (100, 1_000_000, 1)),
    *_grid("fvp", "ds", (100_000, 1000, 8), (1000, 100_000, 8), (20_000, 100, 64)),
    *_grid("matvec", "ds", (100_000, 1000, 1), (2000, 100_000, 1)),
    *_grid("rmatvec", "ds", (100_000, 1000, 1), (2000, 100_000, 1)),
    *_grid("diag", "dsh", (4096, 50_000)),
    *_grid("diag", "ds", (64, 1_000_000), (500_000, 100)),
    *_grid("convert", "h", (8192, 8192)),
    *_grid("cholesky", "ds", (32,), (64,), (100,), (200,), (256,), (500,), (1000,), (2000,)),
    *_grid("cholesky", "ds", (4000,)),
    *_grid("cholesky", "z", (1000,)),
    *_grid("trsm", "ds", (256, 1), (256, 256), (1000, 1), (1000, 16), (1000, 1000), (2000, 256)),
    *_grid("cho_solve", "ds", (256, 1), (1000, 1), (1000, 16), (1000, 1000), (2000, 256)),
    *_grid("solve", "ds", (1_000_000, 10), (20_000, 1000), (20_000, 2000), (3000, 3000)),
    *_grid("solve", "ds", (512, 200_000)),
    *_grid("solve", "ds", (1000, 50), (1000, 200), (50, 1000), (200, 1000)),
    *_grid("solve", "d", (20_000, 1000), (1024, 50_000), spectrum="exp"),
    *_grid("solve", "z", (1024, 20_000), (64, 2000), (300, 100)),
    *_grid("batched_solve", "ds", (1_000_000, 2), (500_000, 3), (200_000, 5), (100_000, 9)),
    *_grid("batched_solve", "ds", (50_000, 20), (20_000, 32)),
    *_grid("metric_solve", "ds", (10_000, 100, 9)),
    *_grid("block_syrk", "ds", (256, 100_000, 50), (64, 1_000_000, 4)),
    *_grid("block_cholesky", "ds", (10_000, 50), (100_000, 16)),
    *_grid("layered_gram", "ds", (256, *AUTOENCODER), (512, *AUTOENCODER), (1024, *AUTOENCODER)),
    *_grid("layered_gram", "d", (512, *[64] * 33), (512, 4096, 4096)),
]

# What a call costs before it computes anything.
OVERHEAD = [
    *_grid("syrk", "d", (2, 2)),
    *_grid("gram", "d", (2, 2)),
    *_grid("fvp", "d", (2, 2, 1)),
    *_grid("matvec", "d", (2, 2, 1)),
    *_grid("rmatvec", "d", (2, 2, 1)),
    *_grid("diag", "d", (2, 2)),
    *_grid("cholesky", "d", (2,)),
    *_grid("trsm", "d", (2, 1)),
    *_grid("cho_solve", "d", (2, 1)),
    *_grid("solve", "d", (2, 2), (4, 4)),
    *_grid("batched_solve", "d", (2, 2)),
    *_grid("layered_gram", "d", (2, 2, 2)),
]

QUICK = [
    *_grid("syrk", "ds", (20_000, 10), (2000, 200)),
    *_grid("syrk", "h", (2000, 64)),
    *_grid("gram", "d", (100, 10_000)),
    *_grid("gram", "z", (100, 1000)),
    *_grid("fvp", "d", (4000, 200, 1), (200, 10_000, 1)),
    *_grid("matvec", "d", (2000, 500, 1)),
    *_grid("rmatvec", "d", (2000, 500, 1)),
    *_grid("diag", "s", (2000, 500)),
    *_grid("convert", "h", (1000, 500)),
    *_grid("cholesky", "d", (64,), (300,)),
    *_grid("trsm", "d", (300, 16)),
    *_grid("cho_solve", "d", (300, 1)),
    *_grid("solve", "ds", (2000, 200), (100, 10_000)),
    *_grid("batched_solve", "d", (20_000, 2), (2000, 9)),
    *_grid("metric_solve", "d", (500, 20, 3)),
    *_grid("block_syrk", "d", (100, 1000, 20)),
    *_grid("block_cholesky", "d", (200, 10)),
    *_grid("layered_gram", "d", (128, 64, 32, 10)),
]

# One or two shapes per kernel of ours, for `bench.grid --scaling`.
SCALING = [
    *_grid("syrk", "d", (1_000_000, 10), (200_000, 50), (20_000, 1000), (8000, 3000)),
    *_grid("gram", "d", (512, 200_000), (2048, 50_000)),
    *_grid("fvp", "d", (100_000, 1000, 1), (2000, 100_000, 1)),
    *_grid("matvec", "d", (100_000, 1000, 1)),
    *_grid("rmatvec", "d", (100_000, 1000, 1)),
    *_grid("diag", "d", (4096, 50_000)),
    *_grid("cholesky", "d", (1000,), (4000,)),
    *_grid("trsm", "d", (2000, 256)),
    *_grid("cho_solve", "d", (2000, 256)),
    *_grid("solve", "d", (20_000, 2000), (512, 200_000)),
    *_grid("batched_solve", "d", (200_000, 5), (50_000, 20)),
    *_grid("metric_solve", "d", (10_000, 100, 9)),
    *_grid("block_syrk", "d", (256, 100_000, 50)),
    *_grid("block_cholesky", "d", (10_000, 50)),
    *_grid("layered_gram", "d", (1024, *AUTOENCODER)),
]
