"""Ours against the vendors: ``python -m bench.compare [--quick] [--only REGEX] [--name NAME]``.

Every contender lives in a process of its own, on its own copy of the same numbers. A round runs
each once, one at a time, in rotated order, with a pause in between so that the last one's threads
go to sleep. Kept are medians, quartiles and the ratio of medians (best vendor / ours); a probe of
the machine's FMA rate opens every round and marks the disturbed ones; a contender that misses the
accuracy gate has no time. Results go to bench/results/NAME.json, and from there, never by hand,
to bench/RESULTS.md.
"""

import argparse
import json
import multiprocessing
import re
import statistics
import sys
import time
from pathlib import Path

from fastfisher.machine import available_memory, cpu_count

from . import report
from .cases import GRIDS
from .worker import THREAD_VARIABLES, ContenderError, Probe, Remote, Worker

RESULTS = Path(__file__).parent / "results"
OURS, OUR_KERNELS = "fastfisher", "fastfisher-numba"
SETTINGS = {
    "full": {"rounds": 9, "pause": 0.3, "seconds_per_turn": 0.05, "probe_bytes": 3 << 30},
    "quick": {"rounds": 3, "pause": 0.02, "seconds_per_turn": 0.005, "probe_bytes": 384 << 20},
}


def main(argv=None):
    """Command line; returns the exit code, 1 if ours failed or missed a gate."""
    options = _parser().parse_args(argv)
    grid = "quick" if options.quick else "full"
    settings = SETTINGS[grid] | {
        key: value for key in ("rounds", "pause") if (value := getattr(options, key)) is not None
    }
    cases = [case for case in GRIDS[grid] if re.search(options.only, case.id)]
    if not cases:
        print(f"no case matches {options.only!r}; ids look like {GRIDS[grid][0].id}")
        return 2
    results = run(cases, options.contenders, options.threads, settings)
    if options.name or (grid == "full" and not options.only):
        path = save(results, options.name or report.slug(results["environment"]))
        print(f"written: {path}, {report.render(RESULTS)}")
    ours = [record["contenders"][OURS] for record in results["cases"]]
    return 0 if all(entry.get("passed") for entry in ours) else 1


def _parser():
    from .contenders import names

    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small shapes, under a minute")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose id matches")
    parser.add_argument("--name", help="results/NAME.json; a full run has a name of its own")
    parser.add_argument(
        "--contenders",
        type=lambda text: text.split(","),
        default=names(),
        help="comma-separated; numpy@Haswell sets OPENBLAS_CORETYPE (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--pause", type=float, help="seconds between two turns")
    return parser


def run(cases, names, threads, settings):
    """All cases, all contenders; everything a table needs, as plain data."""
    from . import environment

    context = multiprocessing.get_context("spawn")
    variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
    probe = Remote(context, Probe(), variables)
    workers = {}
    try:
        peaks = probe("measure", settings["probe_bytes"])
        print(report.peaks_line(peaks))
        for name in dict.fromkeys([OURS, *names]):
            core = name.partition("@")[2]
            extra = {"OPENBLAS_CORETYPE": core} if core else {}
            actor = Worker(name, settings["seconds_per_turn"])
            workers[name] = Remote(context, actor, variables | extra)
        results = {
            "environment": environment.describe() | {"threads": threads},
            "settings": settings,
            "peaks": peaks,
            "contenders": {name: worker("about") for name, worker in workers.items()},
            "cases": [],
        }
        for case in cases:
            results["cases"].append(_compare(case, workers, probe, peaks, settings))
            print(report.case_line(results["cases"][-1]), flush=True)
        return results
    finally:
        for remote in [*workers.values(), probe]:
            remote.close()


def _compare(case, workers, probe, peaks, settings):
    from .contenders import CONTENDERS, chosen_kernel
    from .gates import gate

    record = {
        "id": case.id,
        "op": case.op,
        "dtype": case.dtype,
        "flops": case.flops,
        "bytes": case.bytes,
        "limit": _limit(case, peaks),
        "kernel": chosen_kernel(case),
        "gate": gate(case),
        "contenders": {},
    }
    entries = record["contenders"]
    entrants = [name for name in workers if name.partition("@")[0] in CONTENDERS[case.op]]
    if "scipy." not in record["kernel"]:
        entrants = [name for name in entrants if name != OUR_KERNELS]  # the same code twice
    if problem := _too_large(case, len(entrants)):
        entries |= {name: {"failure": problem} for name in entrants}
        return record
    turns, speeds = {}, []

    def ask(name, method, *arguments):
        """The answer, or None from then on: a contender that fails leaves this case."""
        try:
            return workers[name](method, *arguments)
        except ContenderError as failure:
            entries[name] = {"failure": str(failure)}
            turns.pop(name, None)
            return None

    for name in entrants:
        entries[name] = {}
        if prepared := ask(name, "prepare", case):
            entries[name], turns[name] = prepared, []
    for turn in range(settings["rounds"]):
        speeds.append(probe("turn"))
        order = list(turns)
        start = turn % max(len(order), 1)
        for name in order[start:] + order[:start]:
            time.sleep(settings["pause"])
            if (seconds := ask(name, "turn")) is not None:
                turns[name].append(seconds)
    for name in list(turns):
        if (distance := ask(name, "error")) is not None:
            entries[name] |= _statistics(turns[name])
            entries[name] |= {"error": distance, "passed": distance <= record["gate"]}
        ask(name, "forget")
    record["disturbed_rounds"] = sum(abs(s / peaks["fma_d"] - 1) > 0.1 for s in speeds)
    return record | _verdict(entries, turns)


def _statistics(seconds):
    q1, median, q3 = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": median, "min": min(seconds), "q1": q1, "q3": q3}


def _limit(case, peaks):
    """Seconds that the machine's peaks allow: max(flops / FMA rate, bytes / read bandwidth)."""
    rate = peaks["fma_s" if case.dtype in "sc" else "fma_d"]
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


def save(results, name):
    """Write results/NAME.json whole or not at all."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
