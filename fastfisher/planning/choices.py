"""The entry of the table that is taken for an op, and the options in force.

Bands are for any processor. Where one of this kind was measured, and ours was clearly faster there
than a vendor's that comes first, ours is taken; a profile of this very machine goes before either.
"""

import contextlib
import contextvars
import functools
import math
from dataclasses import dataclass, fields, replace

import numpy as np

from ..errors import InputError
from ..scalars import as_flag
from .profiles import profile
from .rates import MEASURED, measured_at, own_kind
from .table import SIDED, TABLE, Entry

__all__ = [
    "Choice",
    "Options",
    "by_rates",
    "choose",
    "current_options",
    "decide",
    "forget_choices",
    "options",
    "solve_flops",
]

GAIN = 1.05  # a profile overrides the table's preference from here on: below, it is noise;
AWAKE = 1.3  # where a vendor's would take the place of ours: solves, whose next kernel then runs
# beside threads that wait awake, were found to lose so much by it;
KIND_GAIN = 1.15  # and what was measured on another processor of the kind, which differ
OF_VECTORS = "matvec", "rmatvec", "fvp"  # where a vendor's gains with every vector more


@dataclass(frozen=True)
class Options:
    """Settings of a block of code; see `options`."""

    reproducible: bool = False
    progress: object = None
    ladder: object = None  # a solvers.ladder.Ladder
    stream: object = None  # of CUDA


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
    ladder : fastfisher.Ladder or None
        What may be tried where a factorisation fails; None raises.
    stream : object, int or None
        The CUDA stream to work on: of CuPy, torch or numba, or a pointer. By default the one that
        the library of the arrays works on now.

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
    if "reproducible" in changes:
        as_flag(changes["reproducible"], "reproducible")
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


def choose(op, size, dtype, *, device="cpu", sides=1):
    """The entry for an op of this size, under the options in force and the profile, if any.

    `sides` are right-hand sides, where the choice depends on them (SIDED).
    """
    return decide(op, size, dtype, device=device, sides=sides).entry


def decide(op, size, dtype, *, device="cpu", sides=1):
    """The entry for an op of this size, and why."""
    return _decide(op, size, np.dtype(dtype), device, current_options().reproducible, sides)


@functools.lru_cache(maxsize=4096)
def _decide(op, size, dtype, device, reproducible, sides):
    for band in _bands(device):
        if band.op == op and dtype.name in band.dtypes and band.holds(size, sides):
            allowed = [e for e in band.entries if e.reproducible or not reproducible]
            flops = solve_flops(size, dtype, sides) if op in SIDED else None
            work = size, dtype.name, flops
            rates = None if band.firm else profile()
            if rates and _measured(allowed, work, rates, beyond=op not in OF_VECTORS):
                return by_rates(allowed, rates, work)
            return _by_table(band, allowed, work)
    raise InputError(
        f"the table has no kernel for {op} of {dtype.name} and size {size} on {device!r}"
    )


def solve_flops(order, dtype, sides):
    """Flops of a triangular solve."""
    return (4 if np.dtype(dtype).kind == "c" else 1) * order**2 * sides


def _measured(entries, work, rates, beyond=True):
    """True if there is a choice, and all of it was measured; sizes that are `beyond`, too?"""
    size, dtype, _ = work
    return len(entries) > 1 and all(
        rates.has(e.name, dtype) and (beyond or rates.covers(e.name, dtype, size)) for e in entries
    )


def _fastest(entries, rates, work, gain):
    """Which of the entries is taken, and their speeds: the first, or one that gains as much.

    `work` is (size, dtype, flops): speeds at so much work, or, for None, at all works measured.
    """
    size, dtype, flops = work
    speeds = [rates.speed(entry.name, dtype, size, flops) for entry in entries]
    best = int(np.argmax(speeds))
    return (best if speeds[best] >= gain * speeds[0] else 0), speeds


def by_rates(entries, rates, work):
    """The Choice among entries that a profile has measured."""
    best, speeds = _fastest(entries, rates, work, GAIN if entries[0].vendor else AWAKE)
    measured = f"{_comparison(entries, speeds, best)} at {work[0]}, {rates.date}"
    return Choice(entries[best], "profile", measured)


def _by_table(band, entries, work):
    """The first entry, or ours where it is clearly faster on this kind of processor; and why: its
    speed where one of the kind was measured, if there is a choice.

    A vendor's does not take the place of ours (see AWAKE). Nor do substitutions change places:
    they come in pairs, which are one kernel of ours where right-hand sides are few.
    """
    kind = own_kind()
    rates = measured_at(kind)
    if not _measured(entries, work, rates):
        return Choice(entries[0], "table", band.because)
    stays = band.firm or kind not in MEASURED or not entries[0].vendor or band.op in SIDED
    stays = stays or not _measured(entries, work, rates, beyond=False)
    best, speeds = _fastest(entries, rates, work, math.inf if stays else KIND_GAIN)
    there = f"{rates.machine['cpu']}, {rates.machine['threads']} threads, {rates.date}"
    measured = f"{_comparison(entries, speeds, best)} at {work[0]} on {there}"
    return Choice(entries[best], "table", measured if best else f"{band.because}; {measured}")


def _comparison(entries, speeds, chosen):
    rivals = [i for i in range(len(entries)) if i != chosen]
    second = max(rivals, key=lambda i: speeds[i])
    return f"{speeds[chosen] / speeds[second]:.2f}x of {entries[second].name}"


def _bands(device):
    """The rows of the table for a device."""
    if device == "cpu":
        return TABLE
    from .device import CUDA_TABLE

    return CUDA_TABLE


def forget_choices():
    """Forget what was chosen under another profile."""
    _decide.cache_clear()
