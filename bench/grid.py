"""Ours against the vendors: ``python -m bench.grid [--quick] [--only REGEX] [--name NAME]``.

Every contender lives in a process of its own, on its own copy of the same numbers. A round runs
each once, one at a time, in rotated order, with a pause in between so that the last one's threads
go to sleep. Kept are medians, quartiles and the ratio of medians (best vendor / ours); a probe of
the machine's FMA rate opens every round and marks the disturbed ones; a contender that misses the
accuracy gate has no time. Results go to bench/results/NAME.json, and from there, never by hand, to
bench/RESULTS.md. Until then NAME.partial has the cells so far: of a run that was stopped, it can be
renamed, and ``--only`` take the others. ``--scaling 1,2,4`` times our own kernels at several
numbers of threads instead.
"""

import argparse
import contextlib
import json
import multiprocessing
import re
import statistics
import sys
import time
from pathlib import Path

from fastfisher.machine import available_memory, cpu_count

from . import cases, report, startup, workloads
from .worker import THREAD_VARIABLES, ContenderError, Probe, Remote, Worker

RESULTS = Path(__file__).parent / "results"
OURS, OUR_KERNELS = "fastfisher", "fastfisher-numba"
GRIDS = {
    "full": [*cases.FULL, *workloads.FULL, *cases.OVERHEAD],
    "quick": [*cases.QUICK, *workloads.QUICK],
    "scaling": cases.SCALING,
}
SETTINGS = {
    "full": {
        "rounds": 7,  # fewer, but at least LEAST, where a case would take longer than case_seconds
        "case_seconds": 3.0,
        "pause": 0.1,
        "seconds_per_turn": 0.03,
        "probe_bytes": 2 << 30,
    },
    "quick": {
        "rounds": 3,
        "case_seconds": 1.0,
        "pause": 0.02,
        "seconds_per_turn": 0.005,
        "probe_bytes": 384 << 20,
    },
}
LEAST = 3
# Intel's threads spin for 200 ms after a call, into the next contender's turn; ours is the pause.
PER_PROCESS = {"KMP_BLOCKTIME": "50", "FASTFISHER_PROFILE": "off"}


def main(argv=None):
    """Command line; returns the exit code, 1 if ours failed or missed a gate."""
    options = _parser().parse_args(argv)
    speed = "quick" if options.quick else "full"
    grid = "scaling" if options.scaling and not options.quick else speed
    settings = SETTINGS[speed] | {
        key: value for key in ("rounds", "pause") if (value := getattr(options, key)) is not None
    }
    chosen = [case for case in GRIDS[grid] if re.search(options.only, case.id)]
    starts = not options.scaling and re.search(options.only, "startup")
    if not (chosen or starts):
        print(f"no case matches {options.only!r}; ids look like {GRIDS[grid][0].id}")
        return 2
    written = options.name or (speed == "full" and not options.only)

    def path(results):
        name = report.slug(results["environment"]) + ("-scaling" if options.scaling else "")
        return RESULTS / f"{options.name or name}.json"

    def after_cell(results):
        if written:
            _write(results, path(results).with_suffix(".partial"))

    if options.scaling:
        results = run_scaling(chosen, options.scaling, settings, after_cell)
    else:
        results = run(chosen, options.contenders, options.threads, settings, after_cell)
        if starts:
            results["startup"] = startup.measure(quick=options.quick)
    if written:
        save(results, path(results), keep=bool(options.only))
        print(f"written: {path(results)}, {report.render(RESULTS)}")
    if options.scaling:
        return 0
    ours = [record["contenders"][OURS] for record in results["cases"]]
    return 0 if all(entry.get("passed") for entry in ours) else 1


def _parser():
    from .contenders import names

    parser = argparse.ArgumentParser(prog="python -m bench.grid", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small shapes, under a minute")
    parser.add_argument(
        "--only",
        default="",
        metavar="REGEX",
        help="cases whose id matches, or startup; with --name the others are kept",
    )
    parser.add_argument("--name", help="results/NAME.json; a full run has a name of its own")
    parser.add_argument(
        "--contenders",
        type=lambda text: text.split(","),
        default=names(),
        help="comma-separated; numpy@Haswell sets OPENBLAS_CORETYPE (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--rounds", type=int, help="the most rounds; the slowest cases get 3")
    parser.add_argument("--pause", type=float, help="seconds between two turns")
    parser.add_argument(
        "--scaling",
        type=lambda text: sorted({int(word) for word in text.split(",")}),
        metavar="1,2,...",
        help="our kernels at these numbers of threads: parallel efficiency",
    )
    return parser


@contextlib.contextmanager
def _processes(threads, names, settings):
    """The probe, and a worker per contender; ``names`` maps a name to (contender, threads)."""
    context = multiprocessing.get_context("spawn")
    started = {}

    def start(actor, count, extra=()):
        variables = dict.fromkeys(THREAD_VARIABLES, str(count))
        return Remote(context, actor, variables | PER_PROCESS | dict(extra))

    try:
        started["probe"] = start(Probe(), threads)
        peaks = started["probe"]("measure", settings["probe_bytes"])
        print(report.peaks_line(peaks))
        for name, (contender, count) in names.items():
            core = contender.partition("@")[2]
            extra = {"OPENBLAS_CORETYPE": core} if core else {}
            started[name] = start(Worker(contender, settings["seconds_per_turn"]), count, extra)
        yield started["probe"], {name: started[name] for name in names}, peaks
    finally:
        for remote in started.values():
            remote.close()


def _results(threads, settings, peaks, workers):
    from . import environment

    return {
        "environment": environment.describe() | {"threads": threads},
        "settings": settings,
        "peaks": peaks,
        "contenders": {name: worker("about") for name, worker in workers.items()},
        "cases": [],
    }


def run(chosen, names, threads, settings, after_cell=lambda results: None):
    """All cases, all contenders; everything a table needs, as plain data.

    ``after_cell`` is called with the results so far.
    """
    named = {name: (name, threads) for name in dict.fromkeys([OURS, *names])}
    with _processes(threads, named, settings) as (probe, workers, peaks):
        results = _results(threads, settings, peaks, workers)
        for case in chosen:
            record = _compare(case, workers, probe, peaks, settings)
            results["cases"].append(record)
            print(report.case_line(record), flush=True)
            after_cell(results)
        return results


def run_scaling(chosen, counts, settings, after_cell=lambda results: None):
    """Our own kernels at several numbers of threads, a process for each; as `run`."""
    named = {str(count): (OUR_KERNELS, count) for count in counts}
    with _processes(max(counts), named, settings) as (probe, workers, peaks):
        results = _results(max(counts), settings, peaks, workers)
        for case in chosen:
            entries, turns, disturbed = _measure(case, workers, probe, peaks, settings)
            for name, seconds in turns.items():
                entries[name] |= _statistics(seconds)
            medians = {name: e["median"] for name, e in entries.items() if "median" in e}
            record = {"id": case.id, "op": case.op, "disturbed_rounds": disturbed}
            results["cases"].append(record | {"scaling": medians})
            print(report.scaling_line(results["cases"][-1]), flush=True)
            after_cell(results)
        return results


def _measure(case, workers, probe, peaks, settings, gate=None):
    """Per contender what it said of itself, and the seconds of its turns; the error if gated."""
    entries, turns, speeds = {name: {} for name in workers}, {}, []

    def ask(name, method, *arguments):
        """The answer, or None from then on: a contender that fails leaves this case."""
        try:
            return workers[name](method, *arguments)
        except ContenderError as failure:
            entries[name] = {"failure": str(failure)}
            turns.pop(name, None)
            return None

    together(workers, "make", case)
    for name in workers:
        if prepared := ask(name, "prepare"):
            entries[name], turns[name] = prepared, []
    a_round = sum(entries[name]["turn"] + settings["pause"] for name in turns)
    rounds = min(settings["rounds"], max(LEAST, int(settings["case_seconds"] / max(a_round, 1e-9))))
    for turn in range(rounds):
        speeds.append(probe("turn"))
        order = list(turns)
        start = turn % max(len(order), 1)
        for name in order[start:] + order[:start]:
            time.sleep(settings["pause"])
            if (seconds := ask(name, "turn")) is not None:
                turns[name].append(seconds)
    if gate is not None:
        found = together({name: workers[name] for name in turns}, "error")
        for name, distance in found.items():
            if isinstance(distance, ContenderError):
                entries[name] = {"failure": str(distance)}
                del turns[name]
            else:
                entries[name] |= {"error": distance, "passed": distance <= gate}
    together(workers, "forget")
    return entries, turns, sum(abs(s / peaks["fma_d"] - 1) > 0.1 for s in speeds)


def together(workers, method, *arguments):
    """Every worker at once, for what is not timed: name -> answer or ContenderError."""
    answers = {}
    for name, worker in workers.items():
        try:
            worker.send(method, *arguments)
        except ContenderError as failure:
            answers[name] = failure
    for name in [name for name in workers if name not in answers]:
        try:
            answers[name] = workers[name].receive()
        except ContenderError as failure:
            answers[name] = failure
    return answers


def _compare(case, workers, probe, peaks, settings):
    from .contenders import chosen_kernel, entrants
    from .gates import gate

    record = {
        "id": case.id,
        "op": case.op,
        "dtype": case.dtype,
        "shape": case.shape,
        "flops": case.flops,
        "bytes": case.bytes,
        "limit": _limit(case, peaks),
        "bound": "peak" if _limit(case, peaks) > case.bytes / peaks["read"] else "bandwidth",
        "kernel": chosen_kernel(case),
        "gate": gate(case),
        "contenders": {},
        "disturbed_rounds": 0,
    }
    names = entrants(case, workers)
    if "scipy." not in record["kernel"]:
        names = [name for name in names if name != OUR_KERNELS]  # the same code twice
    if problem := _too_large(case, len(names)):
        record["contenders"] = {name: {"failure": problem} for name in names}
        return record
    entries, turns, record["disturbed_rounds"] = _measure(
        case,
        {name: workers[name] for name in names},
        probe,
        peaks,
        settings,
        record["gate"] or 1,
    )
    record["contenders"] = entries
    for name, seconds in turns.items():
        entries[name] |= _statistics(seconds)
    return record | _verdict(entries, turns)


def _statistics(seconds):
    some = seconds if len(seconds) > 1 else seconds * 2  # quartiles are of two at least
    q1, median, q3 = statistics.quantiles(some, n=4, method="inclusive")
    return {"median": median, "min": min(seconds), "q1": q1, "q3": q3}


def _limit(case, peaks):
    """Seconds that the machine's peaks allow: max(flops / FMA rate, bytes / read bandwidth)."""
    rate = peaks["fma_d" if case.dtype in "dz" else "fma_s"]
    return max(case.flops / rate, case.bytes / peaks["read"])


def _verdict(entries, turns):
    """Best vendor over ours: of the medians, and the quartiles of the rounds' own ratios."""
    vendors = {
        name: entry["median"]
        for name, entry in entries.items()
        if name not in (OURS, OUR_KERNELS) and entry.get("passed")
    }
    if not vendors or not entries[OURS].get("passed"):
        return {}
    best = min(vendors, key=vendors.get)
    rounds = [v / o for v, o in zip(turns[best], turns[OURS], strict=True)]
    spread = _statistics(rounds)
    return {
        "best_vendor": best,
        "ratio": vendors[best] / entries[OURS]["median"],
        "ratio_q1": spread["q1"],
        "ratio_q3": spread["q3"],
    }


def _too_large(case, contenders):
    # Each holds its input and makes its output; checking widens blocks of one of them.
    needed, room = case.bytes * (contenders + 1), available_memory()
    if room is not None and needed > 0.8 * room:
        return f"not run: needs {needed / 1e9:.0f} GB for {contenders} contenders"
    return None


PLACE = ("cpu", "features", "versions", "threads")


def _together_with(earlier, results):
    """The cells of an earlier run in the same place that were not taken again, and these."""
    if any(earlier["environment"][key] != results["environment"][key] for key in PLACE):
        return results
    cases = {record["id"]: record for record in earlier["cases"] + results["cases"]}
    known = {case.id: k for k, case in enumerate(GRIDS["full"])}
    ordered = sorted(cases.values(), key=lambda record: known.get(record["id"], len(known)))
    contenders = earlier["contenders"] | results["contenders"]
    return earlier | results | {"cases": ordered, "contenders": contenders}


def save(results, path, *, keep=False):
    """Write all results, whole or not at all; `keep` what the file has of other cells."""
    if keep and path.is_file():
        results = _together_with(json.loads(path.read_text()), results)
    _write(results, path)
    path.with_suffix(".partial").unlink(missing_ok=True)


def _write(results, path):
    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(f"{path.name}.partial")
    beside.write_text(json.dumps(results, indent=1) + "\n")
    beside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
