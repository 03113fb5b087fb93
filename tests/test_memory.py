"""Promise: peak memory above the resident set after warm-up is what the plan printed, +10 %."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SLACK = 6e6  # allocator granularity, BLAS buffers, Python objects
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is read from /proc")

MEASURE = """
    import ctypes, json, sys
    from pathlib import Path
    import numpy as np
    import fastfisher as ff

    n, p, dtype, settings = json.loads(sys.argv[1])
    layout = settings.pop("layout", "C")
    weighted = settings.pop("weighted", False)
    form = settings.pop("form", "b")
    rng = np.random.default_rng(0)

    def status(key):
        for line in open("/proc/self/status"):
            if line.startswith(key):
                return int(line.split()[1]) << 10

    # Warm up: the same calls at a size whose arrays stay small, all threads started.
    def call(G, w):
        side = {form: np.ones(G.shape[1] if form == "b" else len(G), G.dtype)}
        return ff.solve(G, **side, weights=w, damping=1e-1, **settings)

    for shape in ((600, 300), (300, 600)):
        small = np.asarray(rng.standard_normal(shape), dtype, order=layout)
        call(small, np.ones(len(small)) if weighted else None)
    G = np.empty((n, p), dtype, order=layout)
    row = rng.standard_normal(p)
    for i in range(n):
        G[i] = np.roll(row, i)
    w = np.ones(n) if weighted else None
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    result = call(G, w)
    peak = status("VmHWM") - before
    print(json.dumps([peak, result.plan.peak_bytes, str(result.plan)]))
"""


MEASURE_FISHER = """
    import ctypes, json, sys
    from pathlib import Path
    import numpy as np
    import fastfisher as ff

    name, small, sizes, rows, dtype = json.loads(sys.argv[1])

    def status(key):
        for line in open("/proc/self/status"):
            if line.startswith(key):
                return int(line.split()[1]) << 10

    def filled(sizes):
        # A pair in JSON is a list; here it is (count, size), (m, p) or (n, p).
        pair = tuple(sizes)
        F = getattr(ff, name)(*([pair] if name == "BlockDiagonalFisher" else pair), dtype=dtype)
        rng = np.random.default_rng(0)
        shape = F.mean.shape
        for _ in range(rows):
            F.update(rng.standard_normal((shape if len(shape) == 2 else (1, *shape))).astype(dtype))
        F.diagonal()  # whatever waits is in
        return F, np.ones(shape, dtype)

    F, b = filled(small)
    F.solve(b, damping=0.1)
    F, b = filled(sizes)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    result = F.solve(b, damping=0.1)
    peak = status("VmHWM") - before
    print(json.dumps([peak, result.plan.peak_bytes, str(result.plan)]))
"""


def measured(n, p, dtype, **settings):
    return answer(MEASURE, [n, p, dtype, settings])


def answer(script, arguments):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), json.dumps(arguments)],
        # A fixed threshold: every array is mapped, and given back when it is freed.
        env={**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("n", "p", "dtype", "settings"),
    [
        (2500, 2000, "float64", dict(method="primal")),
        (2500, 2000, "float32", dict(method="primal")),
        (2000, 1500, "float64", dict(method="primal", weighted=True, center=True)),
        (2000, 1500, "float64", dict(method="primal", layout="F")),
        (1500, 40_000, "float64", dict(method="dual")),
        (1000, 20_000, "float32", dict(method="dual", form="coef", center=True)),
        (3000, 20_000, "float64", dict(method="cg", maxiter=5)),
    ],
    ids=lambda value: (
        str(value) if not isinstance(value, dict) else "-".join(map(str, value.values()))
    ),
)
def test_peak_memory_is_what_the_plan_printed(n, p, dtype, settings):
    peak, planned, plan = measured(n, p, dtype, **settings)
    assert peak <= 1.1 * planned + SLACK, f"{peak / 1e6:.1f} MB of {planned / 1e6:.1f}\n{plan}"
    # A plan that promises far too much would refuse what fits.
    assert planned <= 2.0 * peak + 8 * SLACK, f"{peak / 1e6:.1f} MB of {planned / 1e6:.1f}\n{plan}"


@pytest.mark.parametrize(
    ("name", "small", "sizes", "rows", "dtype"),
    [
        ("BlockDiagonalFisher", (20, 50), (12_000, 50), 3, "float64"),
        ("BlockDiagonalFisher", (20, 8), (100_000, 8), 3, "float32"),
        ("BlockDiagonalFisher", (2, 300), (40, 600), 3, "float64"),
        ("BatchedFisher", (100, 9), (300_000, 9), 3, "float64"),
        ("BatchedFisher", (100, 2), (1_000_000, 2), 1, "float64"),
        ("WindowFisher", (40, 100), (300, 200_000), 300, "float32"),
    ],
    ids=lambda value: str(value),
)
def test_peak_memory_of_a_structured_solve_is_what_the_plan_printed(
    name, small, sizes, rows, dtype
):
    peak, planned, plan = answer(MEASURE_FISHER, [name, small, sizes, rows, dtype])
    assert peak <= 1.1 * planned + SLACK, f"{peak / 1e6:.1f} MB of {planned / 1e6:.1f}\n{plan}"
    assert planned <= 2.0 * peak + 8 * SLACK, f"{peak / 1e6:.1f} MB of {planned / 1e6:.1f}\n{plan}"
