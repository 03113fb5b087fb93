"""Ours on a CUDA device: ``python -m bench.gpu [--only REGEX] [--name NAME] [--simulate]``.

First every kernel is checked against float64 on the host, over sizes with tails; then it is timed
with events (warm-up, median), on random data larger than the caches, beside the best composition of
cuBLAS and cuSOLVER calls that torch or CuPy bring. Fractions are of ceilings that the same run has
measured: copy bandwidth, and the fastest multiply-adds that anything here has reached. Results go
to bench/results/NAME.json. ``--simulate`` walks the whole way on a tiny grid without a device, in
the simulator, and claims no time.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import re
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from . import gpu_cases, gpu_vendors

RESULTS = Path(__file__).parent / "results"
WARMUP, ROUNDS = 3, 11
COPY_BYTES = 2 << 30  # each way, far beyond any cache
GEMM_ORDER = 8192
PACKAGES = ("numba", "numba-cuda", "cuda-bindings", "numpy")


def main(argv=None):
    """Command line; the exit code is 1 if a check fails."""
    options = _parser().parse_args(argv)
    if options.simulate:
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
        sys.setswitchinterval(5e-5)  # its threads poll each other
    from fastfisher.devices import require_device

    require_device()
    bench = Bench(options.simulate)
    wanted = re.compile(options.only)
    checks = gpu_cases.TINY_CHECKS if options.simulate else gpu_cases.CHECKS
    grid = gpu_cases.GRIDS["tiny" if options.simulate else "full"]
    found = bench.facts()
    print(json.dumps(found, indent=1))
    found["checks"] = [bench.check(case) for case in checks if wanted.search(str(case))]
    failed = [row for row in found["checks"] if not row["passed"]]
    print(f"{len(found['checks'])} checks against float64 on the host, {len(failed)} failed")
    found["ceilings"] = ceilings = bench.ceilings()
    print("ceilings:", {name: _short(value) for name, value in ceilings.items()})
    found["times"] = []
    for case in grid:
        if wanted.search(str(case)):
            found["times"].append(bench.time(case, ceilings))
    found["goals"] = list(_goals(found["times"]))
    for goal in found["goals"]:
        print("goal:", goal)
    if options.simulate:
        print("simulated: every step ran, no time was measured")
    path = options.out or (None if options.simulate else RESULTS / f"{_slug(found['device'])}.json")
    if path:
        Path(path).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print("written:", path)
    return 1 if failed else 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose text matches")
    parser.add_argument("--out", metavar="FILE", help="where to write (by default by the device)")
    parser.add_argument("--simulate", action="store_true", help="tiny, without a device")
    return parser


def _slug(name):
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _short(value):
    return None if value is None else f"{value:.3g}"


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Bench:
    """A device, or the simulator in its place."""

    def __init__(self, simulated):
        from fastfisher.kernels.cuda import compat, memory

        self.simulated, self.compat, self.memory = simulated, compat, memory
        self.rows = []

    def facts(self):
        """Device, driver, versions, date."""
        from fastfisher import __version__, machine

        device, driver = "simulator", None
        if not self.simulated:
            current = self.compat.cuda.get_current_device()
            name = current.name
            device = name.decode() if isinstance(name, bytes) else str(name)
            try:
                from cuda.bindings import driver as cuda_driver

                driver = int(cuda_driver.cuDriverGetVersion()[1])
            except (ImportError, TypeError, ValueError):
                driver = None
        versions = {"fastfisher": __version__} | {name: _version(name) for name in PACKAGES}
        return {
            "device": device,
            "capability": list(self.compat.capability()),
            "driver": machine.gpu_driver(),
            "cuda_driver": driver,
            "versions": versions | gpu_vendors.versions() if not self.simulated else versions,
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }

    # Calls.

    def _kernel(self, case):
        from fastfisher.planning import choose

        size = {"syrk": -1, "gram": 0, "sliced_gram": 0, "cholesky": 0, "solve_lower": 0}.get(
            case.op, -1
        )
        entry = choose(case.op, case.shape[size], case.dtype, device="cuda")
        return entry.load()

    def _there(self, arrays):
        return [self.memory.to_device(a) if isinstance(a, np.ndarray) else a for a in arrays]

    def check(self, case):
        """The error of a kernel in units of u, beside the reference in float64."""
        from fastfisher.kernels import reference

        arrays, written = gpu_cases.operands(case)
        there = self._there(arrays)
        if case.op == "mixed":
            return self._checked(case, self._solve(case, there)())
        self._kernel(case)(*there)
        got = self.memory.to_host(there[written]).astype(np.float64)
        wide = [
            a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a
            for a in arrays
        ]
        getattr(reference, case.op)(*wide)
        expected, u = wide[written], np.finfo(case.dtype).eps / 2
        if case.op in ("syrk", "gram", "cholesky", "layered_gram", "sliced_syrk", "sliced_gram"):
            got, expected = np.tril(got), np.tril(expected)
        error = float(np.abs(got - expected).max() / (np.abs(expected).max() or 1) / u)
        return self._judged(case, error)

    def _checked(self, case, sol):
        """The backward error of a solve that must not have fallen back."""
        error = sol.backward_error / (np.finfo(case.dtype).eps / 2)
        return self._judged(case, error if sol.rung == "int8+cg" else np.inf)

    def _judged(self, case, error):
        row = {"case": str(case), "error_u": float(error), "gate_u": case.gate}
        row["passed"] = bool(error <= case.gate)
        print(f"{'ok  ' if row['passed'] else 'FAIL'} {case!s:<40} {error:10.3g} u")
        return row

    # Times.

    def _measured(self, call, reset=lambda: None):
        """Median seconds of a call between events, and the quartiles; None in the simulator."""
        for _ in range(1 if self.simulated else WARMUP):
            reset()
            call()
        if self.simulated:
            return None
        cuda, stream, seconds = self.compat.cuda, 0, []
        for _ in range(ROUNDS):
            reset()
            start, stop = cuda.event(), cuda.event()
            start.record(stream)
            call()
            stop.record(stream)
            stop.synchronize()
            seconds.append(cuda.event_elapsed_time(start, stop) / 1e3)
        return statistics.median(seconds)

    def ceilings(self):
        """Bytes per second of a copy, and flops per second of multiply-adds, per dtype."""
        size = 64 if self.simulated else COPY_BYTES // 8
        found = {"bandwidth": self._copies(size)}
        for dtype in ("float64", "float32"):
            found[dtype] = self._multiply_adds(dtype)
        found["int8"] = None if self.simulated else gpu_vendors.bytes_rate(self._measured)
        return found

    def _copies(self, size):
        a, b = (self.compat.empty((size,), np.float64) for _ in range(2))
        self.memory.fill(a, 1.0)
        seconds = self._measured(lambda: self.memory.copy(b, a))
        return None if seconds is None else 16 * size / seconds

    def _multiply_adds(self, dtype):
        """The best of a loop of independent multiply-adds and the vendors' matrix product."""
        kernel, blocks, threads, flops = _fma_kernel(self.compat, dtype, self.simulated)
        out = self.compat.empty((blocks * threads,), np.dtype(dtype))
        seconds = self._measured(lambda: self.compat.launch(kernel, blocks, threads, out))
        best = None if seconds is None else flops / seconds
        if not self.simulated:
            n = GEMM_ORDER
            case = gpu_cases.Case("syrk", (n, n), dtype)
            a = self._there([np.ones((n, n), dtype)])[0]
            for name, call in gpu_vendors.contenders(case, [a, a, None, None]).items():
                if name.endswith("gemm") and "recursive" not in name:
                    best = max(best, 2 * n**3 / self._measured(call))
        return best

    def time(self, case, ceilings):
        """Ours and the contenders at one shape."""
        if case.memory > self.memory.free_bytes():
            print(f"skip {case}: needs {case.memory / 1e9:.0f} GB")
            return {"case": str(case), "skipped": "memory"}
        arrays, written = gpu_cases.operands(case)
        there = self._there(arrays)
        if case.op in ("dual", "mixed"):
            call, reset = self._solve(case, there), lambda: None
        else:
            kernel = self._kernel(case)
            fresh = self.memory.to_device(arrays[written]) if written is not None else None

            def call():
                kernel(*there)

            def reset():  # in-place factors; sums would only grow
                if case.op in ("cholesky", "solve_lower"):
                    self.memory.copy(there[written], fresh)

        began = time.perf_counter()
        row = {"case": str(case), "op": case.op, "dtype": case.dtype, "seconds": None}
        row["seconds"] = self._measured(call, reset)
        row["vendors"] = {}
        if not self.simulated:
            reset()
            for name, contender in gpu_vendors.contenders(case, there).items():
                row["vendors"][name] = self._measured(contender)
            row["ours"] = self._others(case, there, reset)
            peak = ceilings[case.dtype if case.bound == "flops" else case.bound]
            work = case.bytes if case.bound == "bandwidth" else case.work
            fraction = work / row["seconds"] / peak if peak else None
            row |= {"bound": case.bound, "fraction": fraction}
            if case.op == "mixed":
                sol = call()
                row |= {"rung": sol.rung, "slices": sol.slices, "iterations": sol.iterations}
            if row["vendors"]:
                row["ratio"] = min(row["vendors"].values()) / row["seconds"]
        print(_line(row), f"({time.perf_counter() - began:.1f} s)" if self.simulated else "")
        return row

    def _others(self, case, there, reset):
        """Seconds of our other entries of the table for this op."""
        from fastfisher.planning.device import CUDA_TABLE

        entries = next((b.entries for b in CUDA_TABLE if b.op == case.op), ())[1:]
        found = {}
        for entry in entries:
            if not entry.vendor:
                kernel = entry.load()
                found[entry.name] = self._measured(lambda kernel=kernel: kernel(*there), reset)
        return found

    def _solve(self, case, there):
        import fastfisher as ff

        given = "coef" if case.op == "dual" else "b"
        G, given = there[0], {given: there[1].reshape(there[1].size)}
        return lambda: ff.solve(G, damping=gpu_vendors.DAMPING, method=case.op, **given)


def _fma_kernel(compat, dtype, simulated):
    """A kernel of nothing but multiply-adds: (kernel, blocks, threads, flops)."""
    cuda, steps, chains = compat.cuda, 2 if simulated else 4096, 8
    blocks, threads = (1, 2) if simulated else (16 * 132, 256)
    one, small = np.dtype(dtype).type(1), np.dtype(dtype).type(1e-3)
    space = {"cuda": cuda, "one": one, "small": small, "steps": steps}
    space["kind"] = getattr(compat.types, dtype)
    names = [f"x{i}" for i in range(chains)]
    lines = [f"    {x} = kind(t + {i})" for i, x in enumerate(names)]
    body = [f"        {x} = {x} * small + one" for x in names]
    text = "def loop(out):\n    t = cuda.grid(1)\n" + "\n".join(lines)
    text += "\n    for _ in range(steps):\n" + "\n".join(body)
    text += "\n    out[t] = " + " + ".join(names) + "\n"
    exec(text, space)
    return cuda.jit(space["loop"]), blocks, threads, 2 * chains * steps * blocks * threads


def _line(row):
    if row["seconds"] is None:
        return f"ran  {row['case']}"
    best = min(row["vendors"], key=row["vendors"].get, default=None)
    beside = f"{row['ratio']:.2f}x of {best}" if best else "no vendor"
    share = f"{row['fraction']:5.1%} of {row['bound']}" if row["fraction"] else "no ceiling"
    took = f"{row['seconds'] * 1e3:9.3f} ms  {share}"
    return f"{row['case']:<40} {took}  {beside}"


def _goals(rows):
    for op, dtype, what, least in gpu_cases.GOALS:
        values = [r[what] for r in rows if r.get("op") == op and r["dtype"] == dtype and what in r]
        if values:
            goal, reached = f"{op} {dtype} {what} >= {least}", min(values)
            yield {"goal": goal, "reached": reached, "met": reached >= least}


if __name__ == "__main__":
    sys.exit(main())
