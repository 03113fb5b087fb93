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
    cutoff = settings.pop("cutoff", None)
    damping = 1e-1 if cutoff is None else ff.HardCutoff(cutoff)
    rng = np.random.default_rng(0)

    def status(key):
        for line in open("/proc/self/status"):
            if line.startswith(key):
                return int(line.split()[1]) << 10

    # Warm up: the same calls at a size whose arrays stay small, all threads started.
    def call(G, w):
        side = {form: np.ones(G.shape[1] if form == "b" else len(G), G.dtype)}
        return ff.solve(G, **side, weights=w, damping=damping, **settings)

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


def measured(n, p, dtype, **settings):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURE), json.dumps([n, p, dtype, settings])],
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
        (3000, 2000, "float64", dict(method="mixed")),
        (1500, 20_000, "float64", dict(method="mixed", form="coef")),
        (2000, 1500, "float64", dict(method="primal", cutoff=1e-6)),
        (1500, 20_000, "float64", dict(method="dual", cutoff=1e-6)),
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
