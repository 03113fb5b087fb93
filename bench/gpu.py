"""Ours on a CUDA device: ``python -m bench.gpu [--only REGEX] [--name NAME] [--simulate]``.

First every kernel is checked against float64 on the host: over sizes with tails, and by the cases
of the tests, whose solves are run as well. Then it is timed with events (warm-up, median), on
random data larger than the caches, beside the best composition of cuBLAS and cuSOLVER calls that
torch, CuPy or nvmath-python bring. Fractions are of ceilings that the same run has measured: copy
bandwidth, and the fastest multiply-adds that anything here has reached. Results go to
bench/results/NAME.json, row by row; what raises is a row as well. ``--simulate`` walks the whole
way on a tiny grid without a device, in the simulator, and claims no time.
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

from . import gpu_cases, gpu_checks, gpu_vendors

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
    from fastfisher.devices import require_device
    from fastfisher.errors import FisherError

    try:
        require_device()
        bench = Bench(options.simulate)
    except FisherError as error:
        print(f"nothing to measure: {error}", file=sys.stderr)
        return 2
    found = bench.facts()
    path = options.out or (None if options.simulate else RESULTS / f"{_slug(found['device'])}.json")
    print(json.dumps(found, indent=1))
    for _ in bench.run(found, re.compile(options.only)):
        if path:  # after every row: a run may be cut short
            Path(path).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.simulate:
        print("simulated: every step ran, no time was measured")
    if path:
        print("written:", path)
    return 0 if all(row["passed"] for row in found["checks"]) else 1


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
    """A device, or the simulator in its place, where sizes are tiny and nothing is timed."""

    def __init__(self, simulated):
        from fastfisher.devices.door import on_host
        from fastfisher.kernels.cuda import compat, memory

        self.simulated, self.tiny, self.timed = simulated, simulated, not simulated
        self.compat, self.memory = compat, memory
        with on_host():  # or it says what the device lacks
            pass

    def run(self, found, wanted):
        """Fill `found`, and yield after every row."""
        cases = gpu_cases.TINY_CHECKS if self.tiny else gpu_cases.CHECKS
        found["checks"], found["times"] = [], []
        for case in cases:
            if wanted.search(str(case)):
                yield found["checks"].append(self.check(case))
        for name, check in gpu_checks.of_tests(self.tiny):
            if wanted.search(name):
                yield found["checks"].append(_checked(name, check))
        failed = [row["case"] for row in found["checks"] if not row["passed"]]
        print(f"{len(found['checks'])} checks against float64 on the host, failed: {failed}")
        found["ceilings"] = ceilings = self.ceilings()
        print("ceilings:", {name: _short(value) for name, value in ceilings.items()})
        for case in gpu_cases.GRIDS["tiny" if self.tiny else "full"]:
            if wanted.search(str(case)):
                yield found["times"].append(self.time(case, ceilings))
        found["goals"] = list(_goals(found["times"]))
        for goal in found["goals"]:
            print("goal:", goal)
        yield

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
        """A row: the error of a kernel in units of u, beside the reference in float64."""
        return _checked(str(case), lambda: (self._error(case), case.gate))

    def _error(self, case):
        from fastfisher.kernels import reference

        arrays, written = gpu_cases.operands(case)
        there = self._there(arrays)
        if case.op == "mixed":
            sol = self._solve(case, there)()
            if sol.rung != "int8+cg":
                raise RuntimeError(f"it fell back to {sol.rung}")
            return float(sol.backward_error / (np.finfo(case.dtype).eps / 2))
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
        return float(np.abs(got - expected).max() / (np.abs(expected).max() or 1) / u)

    # Times.

    def _measured(self, call, reset=lambda: None):
        """Median seconds of a call between events, and the quartiles; None in the simulator."""
        for _ in range(WARMUP if self.timed else 1):
            reset()
            call()
        if not self.timed:
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
        """Bytes per second of a copy, and flops per second of multiply-adds, per dtype; of bytes
        those of a vendor, or None."""
        size = 64 if self.tiny else COPY_BYTES // 8
        found = {"bandwidth": self._copies(size)}
        for dtype in ("float64", "float32"):
            found[dtype] = self._multiply_adds(dtype)
        found["int8"] = self._products_of_bytes() if self.timed else None
        return found

    def _copies(self, size):
        a, b = (self.compat.empty((size,), np.float64) for _ in range(2))
        self.memory.fill(a, 1.0)
        seconds = self._measured(lambda: self.memory.copy(b, a))
        return None if seconds is None else 16 * size / seconds

    def _multiply_adds(self, dtype):
        """The best of a loop of independent multiply-adds and the vendors' matrix product."""
        kernel, blocks, threads, flops = _fma_kernel(self.compat, dtype, self.tiny)
        out = self.compat.empty((blocks * threads,), np.dtype(dtype))
        seconds = self._measured(lambda: self.compat.launch(kernel, blocks, threads, out))
        best = None if seconds is None else flops / seconds
        if self.timed:
            n = self._order
            case = gpu_cases.Case("syrk", (n, n), dtype)
            a = self._there([np.ones((n, n), dtype)])[0]
            known = gpu_vendors.contenders(case, [a, a, None, None])
            products = self._raced({x: known[x] for x in known if _whole_product(x)})
            if name := _best(products):
                best = max(best, 2 * n**3 / products[name])
        return best

    def _products_of_bytes(self):
        products = self._raced(gpu_vendors.products_of_bytes(self._order))
        name = _best(products)
        return 2 * self._order**3 / products[name] if name else None

    @property
    def _order(self):
        """Of the matrices whose product is a ceiling."""
        return 8 if self.tiny else GEMM_ORDER

    def _raced(self, contenders):
        """{contender: median seconds, or what it raised}."""
        found = {}
        for name, contender in contenders.items():
            try:
                found[name] = self._measured(contender)
            except Exception as error:  # theirs, not ours
                found[name] = f"{type(error).__name__}: {error}"
        return found

    def time(self, case, ceilings):
        """Ours and the contenders at one shape."""
        row = {"case": str(case), "op": case.op, "dtype": case.dtype, "seconds": None}
        if case.memory > self.memory.free_bytes():
            print(f"skip {case}: needs {case.memory / 1e9:.0f} GB")
            return row | {"skipped": "memory"}
        began = time.perf_counter()
        try:
            row |= self._timed(case, ceilings)
        except Exception as error:
            print(f"FAIL {case}: {type(error).__name__}: {error}")
            return row | {"raised": f"{type(error).__name__}: {error}"}
        print(_line(row), "" if self.timed else f"({time.perf_counter() - began:.1f} s)")
        return row

    def _timed(self, case, ceilings):
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

        row = {"seconds": self._measured(call, reset), "vendors": {}}
        if self.timed:
            reset()
            row["vendors"] = self._raced(gpu_vendors.contenders(case, there))
            row["ours"] = self._others(case, there, reset)
            peak = ceilings[case.dtype if case.bound == "flops" else case.bound]
            work = case.bytes if case.bound == "bandwidth" else case.work
            fraction = work / row["seconds"] / peak if peak else None
            row |= {"bound": case.bound, "fraction": fraction}
            if best := _best(row["vendors"]):
                row |= {"best": best, "ratio": row["vendors"][best] / row["seconds"]}
            if case.op == "mixed":
                sol = call()
                row |= {"rung": sol.rung, "slices": sol.slices, "iterations": sol.iterations}
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


def _fma_kernel(compat, dtype, tiny):
    """A kernel of nothing but multiply-adds: (kernel, blocks, threads, flops)."""
    cuda, steps, chains = compat.cuda, 2 if tiny else 4096, 8
    blocks, threads = (1, 2) if tiny else (16 * 132, 256)
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


def _checked(name, check):
    """A row of what ``check()`` finds: (error, gate), in units of u."""
    row = {"case": name, "passed": False}
    try:
        row["error_u"], row["gate_u"] = check()
    except Exception as error:
        row["raised"] = f"{type(error).__name__}: {error}"
        print(f"FAIL {name}: {row['raised']}")
        return row
    row["passed"] = bool(row["error_u"] <= row["gate_u"])
    print(f"{'ok  ' if row['passed'] else 'FAIL'} {name:<44} {row['error_u']:10.3g} u")
    return row


def _whole_product(name):
    """True for contenders that compute n^2 elements by n terms each."""
    return name.endswith(" gemm") and "recursive" not in name


def _best(vendors):
    """The fastest contender that ran, or None."""
    ran = {name: seconds for name, seconds in vendors.items() if not isinstance(seconds, str)}
    return min(ran, key=ran.get, default=None)


def _line(row):
    if row["seconds"] is None:
        return f"ran  {row['case']}"
    beside = f"{row['ratio']:.2f}x of {row['best']}" if "best" in row else "no vendor"
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
