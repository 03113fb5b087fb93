"""Proposed bands of the planning table: ``python -m bench.table FILE.json ...``.

FILE is a result of ``python -m bench.grid``, whose ``fastfisher-numba`` is set against SciPy, or a
profile of ``fastfisher calibrate``, which compares the entries of the table themselves. Several
files are pooled: the ratio at a size is the geometric mean of all measurements there.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from itertools import groupby
from pathlib import Path

import numpy as np

from fastfisher.planning import SIDED, solve_flops
from fastfisher.planning.rates import rates_from
from fastfisher.planning.table import INF

from .cases import DTYPES
from .contenders import DECIDING

VENDORS = ("scipy", "scipy-gemm")


def main(argv=None):
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.table", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    options = parser.parse_args(argv)
    pooled, origins = defaultdict(lambda: defaultdict(list)), []
    for path in options.files:
        ratios, origin = measurements(path.read_text())
        origins.append(origin)
        for key, by_size in ratios.items():
            for size, values in by_size.items():
                pooled[key][size] += values
    origin = "; ".join(dict.fromkeys(origins))
    for (op, dtype, sides), by_size in sorted(pooled.items()):
        measured = sorted(k for o, d, k in pooled if (o, d) == (op, dtype))
        for line in propose(op, dtype, by_size, origin, sides, measured):
            print(line)
    return 0 if pooled else 1


def measurements(text):
    """{(op, dtype, right-hand sides): {size: [vendor's time / ours]}} of a file, and where it
    was taken; None where the choice does not depend on right-hand sides."""
    facts = json.loads(text)
    return _of_profile(rates_from(text)) if "points" in facts else _of_grid(facts)


def _of_grid(results):
    found = defaultdict(lambda: defaultdict(list))
    for record in results["cases"]:
        deciding, shape = DECIDING.get(record["op"]), record.get("shape")
        if deciding is None or shape is None or max(shape) <= 4 or record["dtype"] == "h":
            continue
        passed = {n: e["median"] for n, e in record["contenders"].items() if e.get("passed")}
        ours = passed.get("fastfisher-numba")
        if ours is None and "scipy." not in record["kernel"]:
            ours = passed.get("fastfisher")
        vendors = [passed[name] for name in VENDORS if name in passed]
        if ours is None or not vendors:
            continue
        op, axis = deciding
        size = math.prod(shape[:1]) if op == "layered_gram" else shape[axis]
        key = op, np.dtype(DTYPES[record["dtype"]]).name, shape[1] if op in SIDED else None
        found[key][size].append(min(vendors) / ours)
    place = results["environment"]
    return found, f"{place['cpu']}, {place['threads']} threads, {place['date'][:10]}"


def _of_profile(rates):
    found = defaultdict(lambda: defaultdict(list))
    for name, by_dtype in rates.points.items():
        owner, _, op = name.partition(".")
        vendor = f"scipy.{op}"
        for dtype, points in by_dtype.items():
            if owner == "numba" and rates.has(vendor, dtype):
                for size, flops in {point[:2] for point in points}:
                    work = flops if op in SIDED else None
                    ours, theirs = (rates.speed(x, dtype, size, work) for x in (name, vendor))
                    sides = round(work / solve_flops(size, dtype, 1)) if work else None
                    found[op, dtype, sides][size].append(ours / theirs)
    place = rates.machine
    return found, f"{place['cpu']}, {place['threads']} threads, {rates.date}"


def propose(op, dtype, by_size, origin, sides=None, measured=()):
    """Lines of Python: bands of sizes with the same winner, split midway between measurements.

    So are the right-hand sides, of which `measured` holds all numbers there are, `sides` this one.
    """
    end = of = ""
    if sides is not None:
        end, of = f", sides={_neighbourhood(sides, measured)}", f" for k = {sides}"
    ratios = {size: math.exp(np.mean(np.log(values))) for size, values in sorted(by_size.items())}
    groups = [
        (ours, [size for size, _ in members])
        for ours, members in groupby(ratios.items(), key=lambda pair: pair[1] >= 1)
    ]
    lo = 0
    for k, (ours, sizes) in enumerate(groups):
        hi = INF if k + 1 == len(groups) else _between(sizes[-1], groups[k + 1][1][0])
        first = "ours, then SciPy's" if ours else "SciPy's, then ours"
        figures = ", ".join(f"{ratios[size]:.2f}x at {size}" for size in sizes)
        yield (
            f'Band("{op}", ("{dtype}",), {lo}, {_named(hi)}, ...{end})  # {first}\n'
            f"    # ours {figures} of SciPy's speed{of} ({origin})"
        )
        lo = hi


def _neighbourhood(sides, measured):
    """The numbers nearest to `sides` of those measured: from the first to below the second."""
    at = measured.index(sides)
    least = _between(measured[at - 1], sides) if at else 0
    most = _between(sides, measured[at + 1]) if at + 1 < len(measured) else INF
    return f"({least}, {_named(most)})"


def _named(bound):
    return "INF" if bound == INF else bound


def _between(a, b):
    """A round number near the geometric mean."""
    middle = math.sqrt(a * b)
    unit = 10 ** max(math.floor(math.log10(middle)) - 1, 0)
    return min(max(round(middle / unit) * unit, a + 1), b)


if __name__ == "__main__":
    sys.exit(main())
