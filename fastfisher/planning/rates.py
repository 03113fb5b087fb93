"""How fast each kernel runs: measured points, interpolated; the one cost model of all plans."""

import functools
import json
import math
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import machine
from .table import SIDED

__all__ = [
    "CACHED",
    "DEFAULT_RATE",
    "MEASURED",
    "Rates",
    "built_in",
    "measured_at",
    "own_kind",
    "rates_from",
]

FORMAT = 2  # 1: before triangular solves were measured with several numbers of right-hand sides
STREAMING = ("matvec", "rmatvec", "fvp", "diag", "scan", "divide")  # bound by memory, not by FMAs
RELATED = {"complex128": "float64", "complex64": "float32"}  # whose rates stand in
# Bytes of vector arithmetic per instruction and cycle, by the kind of processor, and what was
# measured on one of the kind.
WIDTHS = {"avx512": 64, "halved avx512": 32, "avx2": 32, "narrow": 16}
MEASURED = {
    "avx512": "rates_avx512.json",
    "halved avx512": "rates_halved_avx512.json",
    "avx2": "rates_avx2.json",
}
DEFAULT_RATE = 1e10  # flops per second of a kernel that nobody has measured
SOLVE = 7  # overheads of a direct solve in stages, however many: as many as the dual has stages;
ITERATION = 3  # of an iteration of conjugate gradients
FRESH = 1 / 4  # of the bandwidth of memory: what arrays that are made on the way get
PAUSED = 2  # how much longer than in a loop a small solve takes that follows a pause or another
CACHED = 96 << 20  # bytes that the works measured have at most; what larger caches do is not known
LARGE = 1000, 1e9  # order and flops of a product that shows what a core reaches


@dataclass(frozen=True)
class Rates:
    """What a machine reaches: per entry of the table and dtype, points (size, flops, flops/s).

    ``size`` is the number the table's choice depends on, ``flops`` the work of the call measured.
    """

    machine: dict
    date: str
    bandwidth: float  # bytes per second from memory
    overhead: float  # seconds of a product outside its kernel; of a solve, see SOLVE
    call: float  # seconds of a solve that is too small to have stages, one after the other
    conversion: float  # scores copied per second where kernels cannot read them as they lie
    points: dict = field(repr=False)
    compute_scale: float = 1.0
    stream_scale: float = 1.0

    @functools.cached_property
    def _curves(self):
        """(entry, dtype) -> sizes, and per size the (works, rates) in logarithms."""
        curves = {}
        for entry, by_dtype in self.points.items():
            for dtype, points in by_dtype.items():
                by_size = {}
                for size, work, rate in sorted(points):
                    works, rates = by_size.setdefault(math.log(size), ([], []))
                    works.append(math.log(work))
                    rates.append(math.log(rate))
                curves[entry, dtype] = (list(by_size), list(by_size.values()))
        return curves

    def has(self, entry, dtype):
        """True if this entry was measured for this dtype."""
        return (entry, dtype) in self._curves

    def covers(self, entry, dtype, size):
        """True if sizes on either side of this one were measured, or this one was."""
        sizes, _ = self._curves[entry, dtype]
        return sizes[0] <= math.log(max(size, 1)) <= sizes[-1]

    def speed(self, entry, dtype, size, flops=None):
        """Flops per second at a size, of so much work, or geometric mean over those measured.

        Of triangular solves the work at other sizes is that of as many right-hand sides.
        """
        sizes, curves = self._curves[entry, dtype]
        size, squares = math.log(max(size, 1)), 2 * (entry.partition(".")[2] in SIDED)
        if flops is None:
            at_sizes = [sum(rates) / len(rates) for _, rates in curves]
        else:
            work = math.log(max(flops, 1))
            at_sizes = [
                _interpolate(works, rates, work + squares * (at - size))
                for at, (works, rates) in zip(sizes, curves, strict=True)
            ]
        return math.exp(_interpolate(sizes, at_sizes, size))

    def _rate(self, op, entry, dtype, size, flops):
        if op == "substitute":  # both solves in one
            solve = self._rate("solve_lower", "numba.solve_lower", dtype, size, flops)
            return max(solve, DEFAULT_RATE)  # one side at the rate of the memory, or better
        for name in (entry, f"numba.{op}", f"scipy.{op}"):
            for kind in (dtype, RELATED.get(dtype), "float64"):
                if (name, kind) in self._curves:
                    return self.speed(name, kind, size, flops)
        return DEFAULT_RATE

    def core_speed(self):
        """Flops per second of one core in large products, in double."""
        rate = self._rate("syrk", "numba.syrk", "float64", *LARGE)
        return rate * self.compute_scale / machine.cpu_count()

    def seconds(self, op, entry, dtype, size, flops, moved, shrunk=1.0):
        """Time of one stage: max(flops / rate, bytes beyond the cache / bandwidth) + overhead.

        `shrunk`: bytes of a score over those of the dtype that the rates are measured with.
        """
        scale = self.stream_scale / shrunk if op in STREAMING else self.compute_scale
        computing = flops / (self._rate(op, entry, dtype, size, flops) * scale)
        beyond = max(moved - min(machine.cache_sizes()["L3"], CACHED), 0)
        return max(computing, beyond / (self.bandwidth * self.stream_scale)) + self.overhead

    def around(self, stages, passed, overheads=SOLVE):
        """Seconds of a solve beside those of its stages: of `overheads` in all, and of so many
        bytes that pass through arrays made on the way."""
        left = max(overheads - stages, 0) * self.overhead
        return left + passed / (FRESH * self.bandwidth * self.stream_scale)

    def as_json(self):
        """The measured part, for a file that `rates_from` reads."""
        facts = {
            "format": FORMAT,
            "machine": self.machine,
            "date": self.date,
            "bandwidth": self.bandwidth,
            "overhead": self.overhead,
            "repeated_call": self.call,
            "conversion": self.conversion,
        }
        head = json.dumps(facts, indent=1)[:-2]
        rows = [
            f"  {json.dumps(entry)}: {{\n"
            + ",\n".join(f"   {json.dumps(d)}: {json.dumps(p)}" for d, p in by_dtype.items())
            + "\n  }"
            for entry, by_dtype in self.points.items()
        ]
        return f'{head},\n "points": {{\n' + ",\n".join(rows) + "\n }\n}\n"


def _interpolate(xs, ys, x):
    """y at x through points with increasing xs; constant outside them."""
    k = bisect_left(xs, x)
    if k == 0:
        return ys[0]
    if k == len(xs):
        return ys[-1]
    share = (x - xs[k - 1]) / (xs[k] - xs[k - 1])
    return ys[k - 1] + share * (ys[k] - ys[k - 1])


def rates_from(text):
    """Rates from the text of a file; ValueError with the reason if it is damaged."""
    try:
        facts = json.loads(text)
        if facts["format"] != FORMAT:
            raise ValueError(f"its format is {facts['format']!r}, not {FORMAT}")
        points = {
            str(entry): {
                str(dtype): [tuple(map(_positive, point)) for point in points]
                for dtype, points in by_dtype.items()
            }
            for entry, by_dtype in facts["points"].items()
        }
        for entry, by_dtype in points.items():
            for dtype, rows in by_dtype.items():
                if not rows or any(len(row) != 3 for row in rows):
                    raise ValueError(f"{entry} for {dtype} has no points (size, flops, rate)")
                if len({row[:2] for row in rows}) < len(rows):
                    raise ValueError(f"{entry} for {dtype} repeats a point")
        return Rates(
            machine=dict(facts["machine"]),
            date=str(facts["date"]),
            bandwidth=_positive(facts["bandwidth"]),
            overhead=_positive(facts["overhead"]),
            call=_repeated_call(facts),
            conversion=_positive(facts["conversion"]),
            points=points,
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _repeated_call(facts):
    """Older files hold the mean of a solve in a loop and of one after a pause."""
    if "repeated_call" in facts:
        return _positive(facts["repeated_call"])
    return _positive(facts["call"]) / PAUSED


def _positive(value):
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    if not 0 < value < math.inf:
        raise ValueError(f"{value!r} is not positive and finite")
    return value


def vector_kind(cpu, features):
    """Key of `WIDTHS`; Zen 4 splits 512-bit vectors in two."""
    if "avx512f" in features:
        return "halved avx512" if cpu.startswith("AMD") else "avx512"
    return "avx2" if "avx2" in features else "narrow"


@functools.cache
def measured_at(kind):
    """The rates that came with the package, of a machine of this kind if there is one."""
    path = Path(__file__).with_name(MEASURED.get(kind, MEASURED["avx2"]))
    return rates_from(path.read_text(encoding="utf-8"))


def own_kind():
    """The kind of this machine's processor."""
    return vector_kind(machine.cpu_name(), machine.cpu_features())


@functools.cache
def built_in(threads):
    """The rates that came with the package, scaled to this machine's cores and vector width."""
    kind = own_kind()
    measured = measured_at(kind)
    there = measured.machine
    cores = threads / there["threads"]
    width = WIDTHS[kind] / WIDTHS[vector_kind(there["cpu"], there["features"])]
    # A few cores saturate the memory of most machines.
    return replace(measured, compute_scale=cores * width, stream_scale=min(cores, 4.0))
