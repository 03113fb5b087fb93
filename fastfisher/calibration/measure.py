"""Measure the kernels on this machine, and write the profile that planning reads.

Ours and the vendor's run in processes of their own, because idle threads of one pool spin on the
cores of the other; their rounds are interleaved, and medians are kept.
"""

import contextlib
import datetime
import math
import multiprocessing
import os
import signal
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

import numpy as np

from ..errors import FisherError, InputError
from ..machine import available_memory, cache_sizes
from ..planning import (
    CACHED,
    SIDED,
    SOLVE,
    Rates,
    by_rates,
    choose,
    fingerprint,
    forget_profile,
    options,
    profile_path,
    solve_flops,
)
from ..stream import check_target, replace_file
from .works import FULL, QUICK, SIDES, band_of, cells, works

__all__ = ["Calibration", "Row", "calibrate"]


SPINNING = "OPENBLAS_THREAD_TIMEOUT"
FEWEST = 2  # rounds of a cell when the budget is spent


# In the child processes ----------------------------------------------------------------------

_prepared = []  # of this process: (call, repeats) per work


def _ignore_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C


def _prepare(op, size, dtype, settings, entry):
    """Make the operands and warm up; flops of each work."""
    kernel = entry.load()
    facts = []
    _prepared.clear()
    for work in works(op, size, dtype, settings):
        _once(kernel, work)
        repeats = max(1, math.ceil(settings.turn / max(_once(kernel, work), 1e-7)))
        _prepared.append((kernel, work, min(repeats, 1000)))
        facts.append(work.flops)
    return facts


def _once(kernel, work):
    if work.restore is not None:
        work.restore()
    start = time.perf_counter()
    kernel(*work.arguments)
    return time.perf_counter() - start


def _turn():
    """Median seconds of a call, for each work."""
    return [
        statistics.median(_once(kernel, work) for _ in range(repeats))
        for kernel, work, repeats in _prepared
    ]


STAGED = 144  # order of a dual that is solved in stages


def _around_kernels():
    """Seconds of a solve that is one call, in a loop; of one with stages, and the stages; scores of
    another layout copied per second."""
    from ..api import solve

    def alone(order, method, pauses):
        G, b = np.eye(order) + 0.1, np.ones(order)
        stages = [solve(G, b, damping=1.0, method=method).plan.stages for _ in range(3)]
        medians = []
        for pause in pauses:
            turns = []
            for _ in range(50):
                if pause:
                    time.sleep(pause)
                turns.append(_seconds(solve, G, b, damping=1.0, method=method))
            medians.append(statistics.median(turns))
        return statistics.geometric_mean(medians), stages[0]

    columns = np.ones((1 << 11, 1 << 13), np.float32).T
    copying = statistics.median(_seconds(np.array, columns, order="C") for _ in range(5))
    # One call after the other, and by itself; who is told of progress solves in stages.
    with options(progress=lambda *_: None):
        staged = alone(STAGED, "dual", (0.0, 0.003))
    return alone(4, "primal", (0.0,))[0], *staged, columns.size / copying


def _memory_bandwidth():
    """Bytes per second of a product with scores that no cache holds."""
    room = available_memory() or math.inf
    length = 1 << 12
    rows = int(max(min(2 * max(cache_sizes()["L3"], CACHED), room / 4), 1 << 20)) // (8 * length)
    G, v, y = np.ones((rows, length)), np.ones((1, length)), np.empty((1, rows))
    kernel = choose("matvec", 1, np.float64).load()
    turns = [_seconds(kernel, y, G, v, np.empty(0)) for _ in range(6)]
    return G.nbytes / statistics.median(turns[1:])


def _seconds(function, *arguments, **settings):
    start = time.perf_counter()
    function(*arguments, **settings)
    return time.perf_counter() - start


# In the parent -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One cell: milliseconds of each entry, of the short and the long call; the entry taken.

    Where that depends on the right-hand sides, a row for each number of them.
    """

    op: str
    dtype: str
    size: int
    sides: int | None
    milliseconds: dict
    chosen: str
    measured: str


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` measured: the rates, a row per cell, and the file written (or None)."""

    rates: Rates
    rows: tuple
    path: object
    seconds: float

    def __str__(self):
        header = ("op", "dtype", "size", "entries, ms (short / long call)", "chosen")
        cells = [header, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(str.ljust, cell, widths)).rstrip() for cell in cells]
        rates, around = self.rates, self.rates.around(0, 0) * 1e6
        lines.append(
            f"{rates.bandwidth / 1e9:.1f} GB/s, {around:.0f} µs a solve outside "
            f"kernels, {rates.machine['threads']} threads, measured in {self.seconds:.0f} s"
        )
        lines.append(f"written: {self.path}" if self.path else "not written")
        return "\n".join(lines)


def _cells(row):
    times = [
        f"{name} {' / '.join(f'{x:.3g}' for x in ms)}" for name, ms in row.milliseconds.items()
    ]
    size = f"{row.size:>5}" + (f" x {row.sides}" if row.sides else "")
    return row.op, row.dtype, size, "  ".join(times), row.chosen


@contextlib.contextmanager
def _brief_spinning():
    """OpenBLAS reads when its threads fall asleep, log2 of cycles, as it is loaded; by itself they
    spin for 20 ms, into the other contender's turn."""
    before = os.environ.get(SPINNING)
    os.environ[SPINNING] = before or "20"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SPINNING]


class _Contenders:
    """Ours and the vendor's, a process each."""

    def __init__(self, stack):
        context = multiprocessing.get_context("spawn")
        self.pools = {
            vendor: stack.enter_context(
                ProcessPoolExecutor(1, mp_context=context, initializer=_ignore_interrupts)
            )
            for vendor in (False, True)
        }
        with _brief_spinning():
            for vendor in self.pools:
                self.ask(vendor, os.getpid)  # starts the process

    def ask(self, vendor, function, *arguments):
        try:
            return self.pools[vendor].submit(function, *arguments).result()
        except BrokenProcessPool as error:
            owner = "SciPy's" if vendor else "our"
            raise FisherError(f"the process that measured {owner} kernels died: {error}") from error


def _measure(contenders, cell, settings, rounds):
    """Per entry, the points (size, flops, flops per second)."""
    op, dtype, size, entries = cell
    facts, times = {}, {}
    for entry in entries:  # entries of one owner take turns one after the other
        facts[entry.name] = contenders.ask(entry.vendor, _prepare, op, size, dtype, settings, entry)
        times[entry.name] = []
        alone = sum(e.vendor == entry.vendor for e in entries) == 1
        if not alone:
            times[entry.name] = [contenders.ask(entry.vendor, _turn) for _ in range(rounds)]
    for _ in range(rounds):
        for entry in entries:
            if len(times[entry.name]) < rounds:
                time.sleep(settings.pause)
                times[entry.name].append(contenders.ask(entry.vendor, _turn))
    points = {}
    for name, turns in times.items():
        medians = [statistics.median(turn[i] for turn in turns) for i in range(len(facts[name]))]
        points[name] = [
            (size, round(flops), float(f"{flops / seconds:.4g}"))
            for flops, seconds in zip(facts[name], medians, strict=True)
        ]
    return points


def calibrate(*, quick=False, dry_run=False, progress=None):
    """Measure every choice of the table on this machine, and write the profile.

    Parameters
    ----------
    quick : bool
        Two dtypes and every second size, about 15 s instead of two minutes.
    dry_run : bool
        Measure, but write nothing.
    progress : callable or None
        Called as ``progress(op, done, total)`` after every cell.

    Returns
    -------
    Calibration
        ``print(calibration)`` shows ops x sizes, times and choices; ``.rates .rows .path``.

    Raises
    ------
    InputError
        If profiles are off (FASTFISHER_PROFILE=off) or kernels are not compiled.
    OSError
        If the profile cannot be written; it is written whole or not at all.

    Notes
    -----
    The profile reorders the entries of a band by measured speed; it never adds one, and
    ``options(reproducible=True)`` holds as before. It is read by later processes, and by this one
    at the next call, as long as processor, threads and versions are the same. Scripts call this
    under ``if __name__ == "__main__"``, because it starts processes.

    Examples
    --------
    >>> from fastfisher.calibration import calibrate
    >>> print(calibrate(quick=True, dry_run=True))  # doctest: +SKIP
    """
    path = profile_path()
    if path is None and not dry_run:
        raise InputError(
            "FASTFISHER_PROFILE is off, or there is no home folder; set it to a file, or dry_run"
        )
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise InputError("NUMBA_DISABLE_JIT is set; kernels that are not compiled tell nothing")
    if not dry_run:  # told before the work, not after it
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_target(path)
    settings = QUICK if quick else FULL
    start = time.monotonic()
    points, todo = {}, list(cells(settings))
    with contextlib.ExitStack() as stack:
        contenders = _Contenders(stack)
        call, solving, stages, conversion = contenders.ask(False, _around_kernels)
        bandwidth = contenders.ask(False, _memory_bandwidth)
        started = time.monotonic()
        for done, cell in enumerate(todo):
            on_time = time.monotonic() - started <= settings.budget * done / len(todo) + 1
            rounds = settings.rounds if on_time else FEWEST
            for name, rows in _measure(contenders, cell, settings, rounds).items():
                points.setdefault(name, {}).setdefault(cell[1], []).extend(rows)
            if progress is not None:
                progress(f"{cell[0]} {cell[1]}", done + 1, len(todo))
    rates = Rates(
        machine=fingerprint(),
        date=datetime.date.today().isoformat(),
        bandwidth=float(f"{bandwidth:.4g}"),
        overhead=1e-9,
        call=float(f"{call:.4g}"),
        conversion=float(f"{conversion:.4g}"),
        points=points,
    )
    inside = sum(rates.seconds(s.op, s.kernel, "float64", STAGED, s.flops, 0) for s in stages)
    overhead = max(solving - inside, 0.1 * solving) / SOLVE
    rates = replace(rates, overhead=float(f"{overhead:.4g}"))
    if not dry_run:
        replace_file(path, rates.as_json().encode())
        forget_profile()
    rows = tuple(row for cell in todo if len(cell[3]) > 1 for row in _rows(cell, rates))
    return Calibration(rates, rows, None if dry_run else path, time.monotonic() - start)


def _rows(cell, rates):
    op, dtype, size, _ = cell
    for sides in SIDES if op in SIDED else (None,):
        entries = band_of(op, dtype, size, sides or 1).entries
        flops = solve_flops(size, dtype, sides) if sides else None
        milliseconds = {
            entry.name: [
                work / rate * 1e3
                for at, work, rate in sorted(rates.points[entry.name][dtype])
                if at == size and flops in (None, work)
            ]
            for entry in entries
        }
        choice = by_rates(entries, rates, (size, dtype, flops))
        yield Row(op, dtype, size, sides, milliseconds, choice.entry.name, choice.measured)
