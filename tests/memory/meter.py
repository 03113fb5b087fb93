"""Peak memory above the resident set after warm-up, of calls in a process of their own."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

__all__ = ["check", "measured", "only_linux"]

ROOT = Path(__file__).parents[2]
SLACK = 6e6  # allocator granularity, BLAS buffers, Python objects
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is read from /proc")

METER = """
    import ctypes, json, sys
    from pathlib import Path
    import numpy as np
    import scipy.linalg  # which a first solve loads: nothing of that one solve
    import fastfisher as ff
    from fastfisher.kernels.cpu import memory

    rng = np.random.default_rng(0)

    def status(key):
        for line in open("/proc/self/status"):
            if line.startswith(key):
                return int(line.split()[1]) << 10

    def measure(call):
        memory.forget()  # or one call works on the scratch of the one before, unseen
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        result = call()
        peak = status("VmHWM") - before
        print(json.dumps([peak, result.plan.peak_bytes, str(result.plan)]))
"""


def measured(script, *arguments):
    """[peak, planned, plan] of every `measure` that the script does."""
    code = textwrap.dedent(METER) + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        # A fixed threshold: every array is mapped, and given back when it is freed.
        env={**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(peak, planned, plan):
    assert peak <= 1.1 * planned + SLACK, f"{peak / 1e6:.1f} MB of {planned / 1e6:.1f}\n{plan}"
    # A plan that promises far too much would refuse what fits.
    assert planned <= 2.0 * peak + 8 * SLACK, f"{peak / 1e6:.1f} MB of {planned / 1e6:.1f}\n{plan}"
