"""What starting costs, in fresh processes: import, first call cold and from the cache, warm-up."""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORT = "import fastfisher"
SOLVE = "import numpy as np, fastfisher as ff; ff.solve(np.eye(4) + 0.1, np.ones(4), damping=1.0)"
WARMUP = "import fastfisher as ff; ff.warmup()"
TIMED = "import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"


def _seconds(code, folder):
    env = {**os.environ, "NUMBA_CACHE_DIR": folder, "FASTFISHER_PROFILE": "off"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(code=code)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def measure(*, quick=False, repeats=3):
    """Seconds by what they are; `quick` leaves out the compilation of everything."""

    def median(code, folder):
        return statistics.median(_seconds(code, folder) for _ in range(repeats))

    with tempfile.TemporaryDirectory() as folder:
        found = {
            "import numpy": median("import numpy", folder),
            "import fastfisher": median(IMPORT, folder),
            "first ff.solve (4 x 4), nothing cached": _seconds(SOLVE, folder),
            "first ff.solve (4 x 4), from the cache": median(SOLVE, folder),
        }
        if not quick:
            with tempfile.TemporaryDirectory() as empty:
                found["ff.warmup(), nothing cached"] = _seconds(WARMUP, empty)
                found["ff.warmup(), from the cache"] = _seconds(WARMUP, empty)
    return found
