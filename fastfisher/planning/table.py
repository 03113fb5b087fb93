"""THE table: which kernel does an op at which size, as data; and the options in force."""

import contextlib
import contextvars
import functools
import importlib
import math
from dataclasses import dataclass, fields, replace

import numpy as np

from ..errors import InputError
from .profiles import profile

__all__ = [
    "SIZE",
    "TABLE",
    "Band",
    "Choice",
    "Entry",
    "Options",
    "choose",
    "current_options",
    "decide",
    "forget_choices",
    "options",
    "prefer",
]

GAIN = 1.05  # a profile overrides the table's preference from here on: below, it is noise


@dataclass(frozen=True)
class Entry:
    """One implementation of an op: `module`.`function`, loaded when first used."""

    name: str
    module: str
    function: str
    reproducible: bool = True

    def load(self):
        return getattr(importlib.import_module("fastfisher.kernels." + self.module), self.function)

    @property
    def vendor(self):
        return self.module == "vendor"


def _ours(function, module=None):
    return Entry(f"numba.{function}", f"cpu.{module or function}", function)


def _scipy(function):
    return Entry(f"scipy.{function}", "vendor", function, reproducible=False)


@dataclass(frozen=True)
class Band:
    """For sizes lo <= size < hi of `op`: entries in order of preference; the last is ours.

    `measured` is the measurement the preference rests on, from ``python -m bench.table``.
    """

    op: str
    dtypes: tuple
    lo: int
    hi: float
    entries: tuple
    because: str
    device: str = "cpu"
    measured: str = ""


REAL, COMPLEX = ("float32", "float64"), ("complex64", "complex128")
ALL = REAL + COMPLEX
INF = math.inf

# What "size" means: the number the choice depends on.
SIZE = {
    "syrk": "parameters p",
    "gram": "samples n",
    "mirror": "order",
    "primal_small": "parameters p",
    "matvec": "vectors",
    "rmatvec": "vectors",
    "fvp": "vectors",
    "diag": "parameters p",
    "scan": "parameters p",
    "cholesky": "order",
    "solve_lower": "order",
    "solve_lower_adjoint": "order",
    "batched_solve": "order of one system",
    "layered_gram": "rows of a layer, n x tokens",
    "layered_diag": "tokens",
    "batched_metric_solve": "order of one system",
    "block_syrk": "order of a block",
    "block_cholesky": "order of a block",
    "block_solve": "order of a block",
}

_BLAS3 = (
    "compute bound: BLAS has hand-written micro-kernels, ours are plain loops (bench/RESULTS.md)"
)
_FEW = "block sums with compensation, the same bits for any threads; BLAS is faster (RESULTS.md)"
_MANY = "many vectors: a matrix product, compute bound (bench/RESULTS.md)"
_FUSED = "no temporaries of rows x rows; BLAS is faster where those are small (RESULTS.md)"
_ONLY = "no vendor routine does this"

# One row per op, dtypes and size range; a test sweeps it for gaps and overlaps.
TABLE = (
    Band("syrk", ALL, 0, INF, (_scipy("syrk"), _ours("syrk")), _BLAS3),
    Band("gram", ALL, 0, INF, (_scipy("gram"), _ours("gram")), _BLAS3),
    Band("mirror", ALL, 0, INF, (_ours("mirror", "syrk"),), _ONLY),
    Band("primal_small", ALL, 0, INF, (_ours("primal_small", "small"),), _ONLY),
    Band("matvec", ALL, 0, 4, (_ours("matvec"),), _FEW),
    Band("matvec", ALL, 4, INF, (_scipy("matvec"), _ours("matvec")), _MANY),
    Band("rmatvec", ALL, 0, 4, (_ours("rmatvec", "matvec"),), _FEW),
    Band("rmatvec", ALL, 4, INF, (_scipy("rmatvec"), _ours("rmatvec", "matvec")), _MANY),
    Band("fvp", ALL, 0, 4, (_ours("fvp", "matvec"),), _FEW),
    Band("fvp", ALL, 4, INF, (_scipy("fvp"), _ours("fvp", "matvec")), _MANY),
    Band("diag", ALL, 0, INF, (_ours("diag"),), _ONLY),
    Band("scan", ALL, 0, INF, (_ours("scan", "diag"),), _ONLY),
    Band("cholesky", ALL, 0, INF, (_scipy("cholesky"), _ours("cholesky")), _BLAS3),
    Band(
        "solve_lower",
        ALL,
        0,
        INF,
        (_scipy("solve_lower"), _ours("solve_lower", "triangular")),
        _BLAS3,
    ),
    Band(
        "solve_lower_adjoint",
        ALL,
        0,
        INF,
        (_scipy("solve_lower_adjoint"), _ours("solve_lower_adjoint", "triangular")),
        _BLAS3,
    ),
    Band("batched_solve", ALL, 0, INF, (_ours("batched_solve", "batched"),), _ONLY),
    Band("layered_diag", ALL, 0, INF, (_ours("layered_diag", "moments"),), _ONLY),
    Band("layered_gram", ALL, 0, INF, (_ours("layered_gram", "layered"),), _FUSED),
    Band("batched_metric_solve", ALL, 0, INF, (_ours("batched_metric_solve", "metric"),), _ONLY),
    Band("block_syrk", ALL, 0, INF, (_ours("block_syrk", "blocks"),), _ONLY),
    Band("block_cholesky", ALL, 0, INF, (_ours("block_cholesky", "blocks"),), _ONLY),
    Band("block_solve", ALL, 0, INF, (_ours("block_solve", "blocks"),), _ONLY),
)


@dataclass(frozen=True)
class Options:
    """Settings of a block of code; see `options`."""

    reproducible: bool = False
    progress: object = None


_options = contextvars.ContextVar("fastfisher_options", default=None)


_DEFAULTS = Options()


def current_options():
    """The options in force."""
    return _options.get() or _DEFAULTS


@contextlib.contextmanager
def options(**changes):
    """Settings for the calls inside the `with` block, of this thread or task only.

    Parameters
    ----------
    reproducible : bool
        Leave out kernels whose bits depend on the number of threads (BLAS and LAPACK).
    progress : callable or None
        Called as ``progress(op, done, total)`` after every slice of samples or iteration.

    Raises
    ------
    InputError
        If an option is unknown.

    Examples
    --------
    >>> import fastfisher as ff
    >>> with ff.options(reproducible=True):
    ...     print(ff.plan(1000, 10).reproducible)
    True
    """
    known = [field.name for field in fields(Options)]
    for name in changes:
        if name not in known:
            raise InputError(f"unknown option {name!r}; expected one of {', '.join(known)}")
    token = _options.set(replace(current_options(), **changes))
    try:
        yield current_options()
    finally:
        _options.reset(token)


@dataclass(frozen=True)
class Choice:
    """The entry taken, what decided ("table" or "profile"), and the measurement it rests on."""

    entry: Entry
    source: str
    measured: str


def choose(op, size, dtype, *, device="cpu"):
    """The entry for an op of this size, under the options in force and the profile, if any."""
    return decide(op, size, dtype, device=device).entry


def decide(op, size, dtype, *, device="cpu"):
    """The entry for an op of this size, and why."""
    return _decide(op, size, np.dtype(dtype), device, current_options().reproducible)


@functools.lru_cache(maxsize=4096)
def _decide(op, size, dtype, device, reproducible):
    for band in TABLE:
        if (band.op, band.device) == (op, device) and dtype.name in band.dtypes:
            if band.lo <= size < band.hi:
                allowed = [e for e in band.entries if e.reproducible or not reproducible]
                rates = profile()
                found = rates and prefer(allowed, size, dtype.name, rates)
                return found or Choice(allowed[0], "table", band.measured or band.because)
    raise InputError(
        f"the table has no kernel for {op} of {dtype.name} and size {size} on {device!r}"
    )


def prefer(entries, size, dtype, rates):
    """The Choice among entries that `rates` has measured; None if there is nothing to choose."""
    if len(entries) < 2 or not all(rates.has(entry.name, dtype) for entry in entries):
        return None
    speeds = [rates.speed(entry.name, dtype, size) for entry in entries]
    best = int(np.argmax(speeds))
    if speeds[best] < GAIN * speeds[0]:
        best = 0
    rivals = [i for i in range(len(entries)) if i != best]
    second = max(rivals, key=lambda i: speeds[i])
    ratio = speeds[best] / speeds[second]
    measured = f"{ratio:.2f}x of {entries[second].name} at {size}, {rates.date}"
    return Choice(entries[best], "profile", measured)


def forget_choices():
    """Forget what was chosen under another profile."""
    _decide.cache_clear()
