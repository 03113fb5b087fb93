"""What `bench.gpu` measures, as data: operands, work, what limits it, and what it should reach.

Flops count one triangle of syrk, gram and Cholesky; bytes every input and output once.
"""

from dataclasses import dataclass

import numpy as np

from fastfisher.kernels.slicing import slice_units

__all__ = ["CHECKS", "GOALS", "GRIDS", "Case", "operands"]


@dataclass(frozen=True)
class Case:
    """An op of the table at one shape."""

    op: str
    shape: tuple
    dtype: str

    def __str__(self):
        return f"{self.op} {'x'.join(map(str, self.shape))} {self.dtype}"

    @property
    def _item(self):
        return np.dtype(self.dtype).itemsize

    @property
    def flops(self):
        n, p = (*self.shape, 1)[:2]
        return {
            "syrk": n * p * (p + 1),
            "gram": p * n * (n + 1),
            "fvp": 4 * n * p,
            "matvec": 2 * n * p,
            "rmatvec": 2 * n * p,
            "diag": 3 * n * p,
            "cholesky": n**3 / 3,
            "solve_lower": n * n * p,
            "batched_solve": n * (p**3 / 3 + 2 * p * p),
            "layered_gram": n * (n + 1) * 2 * p,
            "dual": p * n * (n + 1) + n**3 / 3 + 8 * n * p,
            "mixed": n * p * (p + 1) + p**3 / 3 + 4 * n * p,  # those of the exact route
            "sliced_syrk": n * p * (p + 1),
            "sliced_gram": p * n * (n + 1),
        }[self.op]

    @property
    def work(self):
        """Operations of its kernel: all pairs of two slices, where there are slices."""
        return 4 * self.flops if self.op.startswith("sliced") else self.flops

    @property
    def bytes(self):
        n, p = (*self.shape, 1)[:2]
        words = {
            "syrk": n * p + p * p,
            "gram": n * p + n * n,
            "cholesky": n * n,
            "solve_lower": n * n / 2 + 2 * n * p,
            "batched_solve": n * (p * p + 2 * p),
            "layered_gram": 2 * n * p + n * n,
            "dual": 4 * n * p,
            "sliced_syrk": n * p + p * p,
            "sliced_gram": n * p + n * n,
        }.get(self.op, n * p)
        return self._item * words

    @property
    def bound(self):
        """What limits it: arithmetic or memory."""
        streaming = ("fvp", "matvec", "rmatvec", "diag", "batched_solve", "solve_lower")
        if self.op in streaming:
            return "bandwidth"
        return "int8" if self.op.startswith("sliced") else "flops"

    @property
    def memory(self):
        """Bytes it needs on the device, contenders included."""
        return 3 * self.bytes

    @property
    def gate(self):
        """The largest error that passes, in units of u."""
        n, p = (*self.shape, 1)[:2]
        if self.op == "mixed":  # of the backward error: 1e-15
            return 9.0
        terms = {"cholesky": n, "solve_lower": n, "batched_solve": 30 + p, "gram": p}
        return 30.0 + terms.get(self.op, n + p)


def _both(op, *shapes):
    return [Case(op, shape, dtype) for shape in shapes for dtype in ("float64", "float32")]


# Checked against float64 on the host, and not timed: tails, odd sizes, past tiles and panels.
CHECKS = [
    *_both("syrk", (1, 1), (3, 70), (1000, 257), (5000, 33)),
    *_both("gram", (1, 1), (70, 3), (257, 1000), (129, 5000)),
    *_both("fvp", (1, 1), (1000, 257), (300, 5001)),
    *_both("matvec", (1000, 257), (7, 5001)),
    *_both("rmatvec", (1000, 257), (5001, 7)),
    *_both("diag", (1000, 257), (5001, 7)),
    *_both("cholesky", (1,), (33,), (129,), (500,)),
    *_both("solve_lower", (1, 1), (65, 3), (500, 9)),
    *_both("batched_solve", (1000, 1), (1000, 3), (999, 9), (500, 20), (100, 40), (5, 150)),
    *_both("layered_gram", (70, 33), (257, 129)),
    # in single precision the reference would round some scores the other way
    *(Case("sliced_syrk", shape, "float64") for shape in ((3, 70), (9000, 257), (1000, 130))),
    *(Case("sliced_gram", shape, "float64") for shape in ((70, 3), (257, 9000), (130, 1000))),
    *_both("mixed", (3000, 500), (500, 3000)),
]

GRIDS = {
    "full": [
        *_both("syrk", (65536, 1024), (65536, 4096), (16384, 8192)),
        *_both("gram", (4096, 131072), (1024, 262144)),
        *_both("fvp", (65536, 8192), (4096, 131072)),
        *_both("matvec", (65536, 8192)),
        *_both("rmatvec", (65536, 8192)),
        *_both("diag", (65536, 8192)),
        *_both("cholesky", (1024,), (4096,), (16384,)),
        *_both("solve_lower", (8192, 1), (8192, 64)),
        *_both("batched_solve", (1_000_000, 3), (1_000_000, 9), (200_000, 20), (50_000, 40)),
        *_both("layered_gram", (4096, 1024)),
        Case("dual", (4096, 1_000_000), "float32"),
        Case("dual", (4096, 200_000), "float64"),
        Case("sliced_syrk", (65536, 8192), "float64"),
        Case("sliced_gram", (4096, 131072), "float64"),
        *(Case("mixed", shape, "float64") for shape in ((65536, 4096), (65536, 16384))),
    ],
    "tiny": [
        Case("syrk", (6, 5), "float64"),
        Case("gram", (5, 6), "float32"),
        Case("fvp", (6, 5), "float64"),
        Case("matvec", (4, 5), "float64"),
        Case("rmatvec", (4, 5), "float32"),
        Case("diag", (6, 5), "float32"),
        Case("cholesky", (6,), "float64"),
        Case("solve_lower", (5, 2), "float64"),
        Case("batched_solve", (5, 3), "float32"),
        Case("layered_gram", (4, 3), "float64"),
        Case("sliced_syrk", (5, 4), "float64"),
        Case("sliced_gram", (4, 5), "float64"),
        Case("dual", (3, 5), "float64"),
        Case("mixed", (5, 3), "float64"),
    ],
}
TINY_CHECKS = [case for case in GRIDS["tiny"] if case.op != "dual"]

# (op, dtype, what is compared, at least): of an H200-class card.
GOALS = (
    ("syrk", "float64", "ratio", 0.9),
    ("syrk", "float32", "ratio", 1.0),
    ("fvp", "float64", "fraction", 0.85),
    ("fvp", "float32", "fraction", 0.85),
    ("diag", "float64", "fraction", 0.85),
    ("diag", "float32", "fraction", 0.85),
    ("batched_solve", "float64", "fraction", 0.85),
    ("batched_solve", "float32", "fraction", 0.85),
    ("dual", "float32", "ratio", 3.0),
)


def _definite(rng, n, dtype):
    """Well conditioned, without n^3 flops: a random symmetric matrix on a heavy diagonal."""
    a = rng.standard_normal((n, n), np.float32).astype(dtype)
    a += a.T.copy()
    a *= 0.5 / np.sqrt(n)
    a[np.diag_indices(n)] += 4
    return a


def operands(case, seed=0):
    """Host arrays in the order of the kernel's arguments, and which of them it writes."""
    rng, dtype = np.random.default_rng(seed), np.dtype(case.dtype)
    none = np.empty(0, dtype)

    def random(*shape):
        return rng.standard_normal(shape, np.float32).astype(dtype, copy=False)

    n, p = (*case.shape, 1)[:2]
    if case.op == "cholesky":
        return (_definite(rng, n, dtype),), 0
    if case.op == "solve_lower":
        lower = np.tril(random(n, n)) / np.sqrt(n, dtype=dtype)
        lower[np.diag_indices(n)] = 2
        return (lower, random(p, n)), 1
    if case.op == "batched_solve":
        f = random(n, p, p)
        f = 0.5 / np.sqrt(p, dtype=dtype) * (f + f.transpose(0, 2, 1))
        f[:, np.arange(p), np.arange(p)] += 4
        d = np.full(n, 0.5, dtype)
        return (np.empty((n, p), dtype), np.empty(n, np.int32), f, random(n, p), d), 0
    if case.op == "layered_gram":
        return (np.zeros((n, n)), random(n, p), random(n, p), 1), 0
    a = random(n, p)

    def peaks(axis):
        return np.abs(a).max(axis=axis)

    return {
        "syrk": lambda: ((np.zeros((p, p)), a, none, none), 0),
        "gram": lambda: ((np.zeros((n, n)), a, 0, p, none, none), 0),
        "fvp": lambda: ((np.zeros((1, p)), a, random(1, p), none, none), 0),
        "matvec": lambda: ((np.zeros((1, n)), a, random(1, p), none), 0),
        "rmatvec": lambda: ((np.zeros((1, p)), a, random(1, n), none), 0),
        "diag": lambda: ((np.zeros(p), a, none, none), 0),
        "dual": lambda: ((a, random(1, n)), None),
        "mixed": lambda: ((a, random(1, p)), None),
        "sliced_syrk": lambda: ((np.zeros((p, p)), a, slice_units(peaks(0)), 2, 3, none, none), 0),
        "sliced_gram": lambda: (
            (np.zeros((n, n)), a, 0, p, slice_units(peaks(1)), 2, 3, none),
            0,
        ),
    }[case.op]()
