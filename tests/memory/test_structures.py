"""Promise: peak memory of a structured solve is what the plan printed, +10 %."""

import pytest

from tests.memory.meter import check, measured, only_linux

pytestmark = only_linux

STRUCTURED = """
    name, small, sizes, rows, dtype, cutoff = json.loads(sys.argv[1])

    def filled(sizes):
        # A pair in JSON is a list; here it is (count, size), (m, p) or (n, p).
        pair = tuple(sizes)
        if name == "GramFisher":
            F, shape = ff.GramFisher(dtype=dtype), (pair[1],)
        else:
            F = getattr(ff, name)(*([pair] if name == "BlockDiagonalFisher" else pair), dtype=dtype)
            shape = F.mean.shape
        for _ in range(rows):
            F.update(rng.standard_normal((shape if len(shape) == 2 else (1, *shape))).astype(dtype))
        if name != "GramFisher":
            F.diagonal()  # whatever waits is in
        return F, np.ones(shape, dtype)

    damping = ff.HardCutoff(0.01) if cutoff else 0.1
    F, b = filled(small)
    F.solve(b, damping=damping)
    F, b = filled(sizes)
    measure(lambda: F.solve(b, damping=damping))
"""


@pytest.mark.parametrize(
    ("name", "small", "sizes", "rows", "dtype", "cutoff"),
    [
        ("BlockDiagonalFisher", (20, 50), (12_000, 50), 3, "float64", False),
        ("BlockDiagonalFisher", (20, 8), (100_000, 8), 3, "float32", False),
        ("BlockDiagonalFisher", (2, 300), (40, 600), 3, "float64", False),
        ("BlockDiagonalFisher", (20, 20), (10_000, 20), 3, "float64", True),
        ("BatchedFisher", (100, 9), (100_000, 9), 3, "float64", False),
        ("BatchedFisher", (100, 2), (300_000, 2), 1, "float64", False),
        ("BatchedFisher", (100, 5), (80_000, 5), 3, "float64", True),
        ("WindowFisher", (40, 100), (300, 200_000), 300, "float32", False),
        ("GramFisher", (40, 100), (60, 500_000), 60, "float64", False),
        ("DenseFisher", (100,), (1600,), 40, "float64", False),
        ("DiagonalFisher", (100,), (1_000_000,), 1, "float64", False),
    ],
    ids=str,
)
def test_peak_memory_of_a_structured_solve_is_what_the_plan_printed(
    name, small, sizes, rows, dtype, cutoff
):
    (found,) = measured(STRUCTURED, name, small, sizes, rows, dtype, cutoff)
    check(*found)
