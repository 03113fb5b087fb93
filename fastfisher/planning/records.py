"""Problem, Stage and Plan: plain records, printable."""

import textwrap
from dataclasses import dataclass

import numpy as np

from ..kernels.cpu.splitting import APART

__all__ = ["Plan", "Problem", "Stage", "format_bytes", "format_seconds"]

WIDTH = 96  # of a printed plan, so that it can be indented
# In real numbers, of which complex ones are two:
SMALL_ORDER = 384  # parameters of a primal solve, samples of a dual one, and
SMALL_WORK = 2.5e6  # numbers read for every right-hand side up to which one core does a whole solve
SMALL_AGAIN = 4e6  # products that it forms again for every damping rather than keep them
SMALL_PAIRS = 150e6  # products of complex scores as real ones, twice as many as they need
SMALL_ROW = 20  # of those, in time, for every row of scores


@dataclass(frozen=True)
class Problem:
    """Everything a plan depends on."""

    n: int
    p: int
    rhs: int = 1
    dtype: str = "float64"
    method: str = "auto"
    device: str = "cpu"
    weighted: bool = False
    centered: bool = False
    direct: bool = True  # kernels can read G where it lies
    halves: bool = False  # G is stored in half precision
    singular: bool = False  # F has no inverse; the minimum-norm solution is wanted
    spectral: bool = False  # eigenvalues take the place of a Cholesky factor
    climbs: bool = False  # on a device: a ladder may try a factor from the scores, in more room
    kept: bool = False  # most of the Gram matrix is there from the solve before
    staged: bool = False  # the damping, or an option, rules one compiled call out
    dampings: int = 1  # solved for one after the other, from one matrix

    def small(self, side):
        """True where the primal (dual) route is one compiled call (solvers/small.py)."""
        n, p = self.reals
        scores, order = n * p, p if side == "primal" else n
        read, products = scores + SMALL_ROW * n + order * order, scores * (order + 1)
        fits = 0 < order <= SMALL_ORDER and 0 < scores and read * max(self.rhs, 1) <= SMALL_WORK
        if self.parts == 2:  # their mean is subtracted first, which single precision would round
            fits = fits and products <= SMALL_PAIRS and not (self.centered and self.itemsize == 8)
        # One call forms in double what the kernels of larger problems sum in single precision.
        most = APART if self.itemsize == 4 * self.parts else SMALL_AGAIN
        again = self.dampings == 1 or products <= most
        return fits and again and not (self.spectral or self.kept or self.staged)

    @property
    def reals(self):
        """Samples and parameters of the same problem in real numbers: twice as many of complex."""
        return self.parts * self.n, self.parts * self.p

    @property
    def itemsize(self):
        return np.dtype(self.dtype).itemsize

    @property
    def stored_bytes(self):
        """Bytes of a score as it is stored."""
        return 2 if self.halves else self.itemsize

    @property
    def parts(self):
        """Real numbers per score."""
        return 2 if np.dtype(self.dtype).kind == "c" else 1

    @property
    def sum_bytes(self):
        """Bytes of one accumulator: sums are kept in double."""
        return 16 if np.dtype(self.dtype).kind == "c" else 8

    @property
    def multiply_add(self):
        """Real flops of one multiply-add."""
        return 8 if np.dtype(self.dtype).kind == "c" else 2


@dataclass(frozen=True)
class Stage:
    """One step of a plan."""

    op: str
    kernel: str
    size: str
    flops: int
    bytes: int
    workspace: int = 0
    reproducible: bool = True
    seconds: float = 0.0  # estimated
    source: str = "table"  # what chose the kernel: the table, or the user's profile
    measured: str = ""  # the measurement that choice rests on


@dataclass(frozen=True)
class Plan:
    """How a problem is solved, what it costs, and why. Printable; `stages` in order.

    ``peak_bytes`` counts every array allocated on top of the inputs, the result included.
    For cg, flops, bytes and seconds are those of one iteration. Seconds are estimates.
    The stage "between" is what is done with vectors, and around the kernels, outside the others.
    """

    problem: Problem
    method: str
    stages: tuple
    peak_bytes: int
    because: str

    @property
    def flops(self):
        return sum(stage.flops for stage in self.stages)

    @property
    def bytes(self):
        return sum(stage.bytes for stage in self.stages)

    @property
    def seconds(self):
        return sum(stage.seconds for stage in self.stages)

    @property
    def reproducible(self):
        return all(stage.reproducible for stage in self.stages)

    def __str__(self):
        q = self.problem
        unit = "iteration" if self.method == "cg" else "solve"
        lines = [
            f"{self.method}: {q.n} samples x {q.p} parameters, {q.rhs} right-hand side"
            f"{'' if q.rhs == 1 else 's'}{f', {q.dampings} dampings' if q.dampings > 1 else ''}, "
            f"{q.dtype}, {q.device}",
            *_wrapped(f"because {self.because}"),
            f"  {'stage':<20}{'kernel':<28}{'size':<14}{'flops':>9}{'bytes':>10}{'time':>9}",
        ]
        for s in self.stages:
            mark = "" if s.reproducible else " *"
            lines.append(
                f"  {s.op:<20}{s.kernel + mark:<28}{s.size:<14}"
                f"{s.flops:>9.2e}{format_bytes(s.bytes):>10}{format_seconds(s.seconds):>9}"
            )
        lines.append(
            f"  per {unit}: {self.flops:.2e} flops, {format_bytes(self.bytes)} moved, "
            f"about {format_seconds(self.seconds)}; peak memory {format_bytes(self.peak_bytes)}"
        )
        grounds = {}
        for s in self.stages:
            if s.measured:
                grounds.setdefault(f"by {s.source}, {s.measured}", {})[s.op] = None
        for ground, ops in grounds.items():
            lines += _wrapped(f"{', '.join(ops)}: {ground}")
        if not self.reproducible:
            lines += _wrapped(
                "* vendor call: one uninterruptible step per slice, and its bits depend on the "
                "number of threads"
            )
        return "\n".join(lines)


def _wrapped(text):
    """Lines of a plan, those after the first indented further."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def format_bytes(count):
    """A count of bytes for people: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_seconds(value):
    """Seconds for people: 1.5 ms."""
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if value * factor >= 0.9995:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"
