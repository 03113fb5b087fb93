"""Mixed precision against direct solves: ``python -m bench.mixed [--quick|--full] [--name NAME]``.

Spectra times lambda / lambda_max, or ``--spectra dual``; every contender in a process of its own,
one at a time, in rotated order. Kept are medians, the error (backward, recomputed in extended
precision) that all are judged by, and where the time of ours goes. Results go to
bench/results/mixed/NAME.json, and from there to bench/MIXED.md.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from . import environment
from .mixed_cases import SHARES, SPECTRA, right_side, scores, size_of
from .mixed_report import CG_STEPS, GATE, entry_time, render

RESULTS = Path(__file__).parent / "results" / "mixed"
CONTENDERS = ("fastfisher", "fastfisher-exact", "mkl", "mkl-single", "cg")
STEPS = 60  # of MKL's refinement
BLOCK = 1 << 20  # scores in extended precision at a time
FULL = "6000x1500,8000x2048"  # a few minutes each on two cores
ONCE = ("mkl-single", "cg")  # compared with none of ours: timed once, in short runs unrotated


# Contenders ----------------------------------------------------------------------------------


def _fastfisher(G, b, lam, method):
    import fastfisher as ff

    right = {"b": b} if len(b) == G.shape[1] else {"coef": b}
    sol = ff.solve(G, damping=lam, method=method, **right)
    return sol.x, {"rung": sol.rung, "iterations": sol.iterations, "slices": sol.slices}


def _plain_cg(G, b, lam):
    import fastfisher as ff

    sol = ff.solve(
        G, b, damping=lam, method="cg", rtol=1e-13, maxiter=CG_STEPS, preconditioner=None
    )
    return sol.x, {"rung": sol.status, "iterations": sol.iterations}


def _mkl(G, b, lam):
    from .mkl import mkl

    if len(b) < G.shape[1]:  # the dual
        K = mkl.herk_lower(G, adjoint=False)
        K[np.diag_indices(len(K))] += len(G) * lam
        return mkl.product(G, mkl.potrs(mkl.potrf(K), b.copy()), adjoint=True), {}
    A = mkl.herk_lower(G, adjoint=True)  # n A: nothing but the diagonal is touched
    A[np.diag_indices(len(A))] += len(G) * lam
    return mkl.potrs(mkl.potrf(A), len(G) * b), {}


def _mkl_single(G, b, lam):
    from .mkl import mkl

    n = len(G)
    A = mkl.herk_lower(G.astype(np.float32), adjoint=True)
    A[np.diag_indices(len(A))] += np.float32(n * lam)
    L = mkl.potrf(A)

    def precondition(r):
        size = np.abs(r).max() or 1.0
        return mkl.potrs(L, (r / size).astype(np.float32)).astype(np.float64) * size

    def apply(d):
        return mkl.product(G, mkl.product(G, d, adjoint=False), adjoint=True) / n + lam * d

    x, r = np.zeros_like(b), b.copy()
    z = precondition(r)
    d, rz = z, r @ z
    step = 0
    while step < STEPS:
        step += 1
        q = apply(d)
        alpha = rz / (d @ q)
        x, r = x + alpha * d, r - alpha * q
        if np.linalg.norm(r) <= 3e-13 * np.linalg.norm(b):
            break
        z = precondition(r)
        rz, before = r @ z, rz
        d = z + rz / before * d
    return x, {"rung": "single+cg", "iterations": step}


def call(contender, G, b, lam, method):
    """x and what there is to tell."""
    if contender == "fastfisher":
        return _fastfisher(G, b, lam, method)
    if contender == "fastfisher-exact":
        return _fastfisher(G, b, lam, "primal" if len(b) == G.shape[1] else "dual")
    return {"mkl": _mkl, "mkl-single": _mkl_single, "cg": _plain_cg}[contender](G, b, lam)


def backward_error(G, b, lam, x, top):
    """Recomputed in extended precision."""
    wide, b = x.astype(np.longdouble), right_side(G, b)
    rest, step = b - np.longdouble(lam) * wide, max(1, BLOCK // G.shape[1])
    for lo in range(0, len(G), step):
        block = G[lo : lo + step].astype(np.longdouble)
        rest -= block.T @ (block @ wide) / len(G)
    left, right = np.sqrt(np.sum(rest * rest)), np.sqrt(np.sum(b * b))
    size = (top + lam) * np.linalg.norm(x) + float(right)
    return float(left / size), float(left / right)


def _norm(G):
    """||G||^2 / n by power steps, as well as they need be."""
    v = G[0] / np.linalg.norm(G[0])
    for _ in range(30):
        v = G.T @ (G @ v)
        size = np.linalg.norm(v)
        v /= size
    return float(size / len(G))


# Time by stage -------------------------------------------------------------------------------

STAGES = {
    "sample": ("Probe", "__init__"),
    "look": ("Probe", "_looked"),
    "peaks": ("Slicing", "__init__"),
    "integer product": ("Slicing", "matrix"),
    "factor": ("RoughFactor", "__init__"),
    "precondition": ("RoughFactor", "solve"),
}


def stages(G, b, lam, method):
    """Seconds of one call, by stage; the rest are products with the scores."""
    from unittest import mock

    from fastfisher.solvers import probe, refine, rough

    spent = dict.fromkeys([*STAGES, "norm", "steps"], 0.0)

    def timed(name, function):
        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            spent[name] += time.perf_counter() - start
            return result

        return wrapper

    patches = []
    for stage, (owner, name) in STAGES.items():
        kind = getattr(rough, owner, None) or getattr(probe, owner)
        patches.append(mock.patch.object(kind, name, timed(stage, getattr(kind, name))))
    patches.append(mock.patch.object(refine, "power_norm", timed("norm", refine.power_norm)))
    patches.append(mock.patch.object(refine, "refined", timed("steps", refine.refined)))
    for patch in patches:
        patch.start()
    try:
        start = time.perf_counter()
        _fastfisher(G, b, lam, method)
        spent["total"] = time.perf_counter() - start
    finally:
        for patch in patches:
            patch.stop()
    spent["steps"] -= spent["precondition"]
    return spent


# Processes -----------------------------------------------------------------------------------


def serve(pipe, contender, n, p, kind, method):
    """One contender on one matrix: answers (share, wants) with time and error."""
    G, b = scores(n, p, kind)
    top = _norm(G)
    pipe.send("ready")
    for share, wanted in iter(pipe.recv, None):
        lam = share * top
        if wanted == "stages":
            pipe.send(stages(G, b, lam, method))
            continue
        start = time.perf_counter()
        try:
            x, about = call(contender, G, b, lam, method)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as failure:
            pipe.send({"failure": type(failure).__name__})
            continue
        seconds, errors = time.perf_counter() - start, (None, None)
        if wanted == "error":
            errors = backward_error(G, b, lam, x, top)
        pipe.send({"seconds": seconds, "error": errors[0], "residual": errors[1], **about})


class Remote:
    """A contender in a process of its own."""

    def __init__(self, contender, *case):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, contender, *case), daemon=True)
        self.process.start()
        other.close()

    def ask(self, *question):
        self.pipe.send(question)
        return self.pipe.recv()

    def stop(self):
        self.pipe.send(None)
        self.process.join()


def cells(n, p, kind, shares, rounds, method, names=CONTENDERS):
    """Records of one matrix. Where memory does not hold it for all of them at once, contenders
    follow each other."""
    from fastfisher.machine import available_memory

    n, p = size_of(kind, n, p)
    found = [
        {
            "n": n,
            "p": p,
            "spectrum": kind,
            "share": share,
            "rounds": rounds,
            "contenders": {},
        }
        for share in shares
    ]
    together = 8 * n * p * len(names) < (available_memory() or 0) / 2
    for group in [tuple(names)] if together else [(name,) for name in names]:
        _compete(found, (n, p, kind, method), group, rounds)
    for record in found:
        _judge(record)
        print(_line(record), flush=True)
    return found


def _compete(found, case, names, rounds):
    """Run some contenders, each in a process of its own, on all records."""
    remotes = {name: Remote(name, *case) for name in names}
    try:
        for remote in remotes.values():  # they make their scores at the same time
            remote.pipe.recv()
        for record in found:
            share, entries = record["share"], record["contenders"]
            for name, remote in remotes.items():
                entries[name] = remote.ask(share, "error")  # also warms up
                time.sleep(0.3)
            times = {name: [] for name in names}
            for turn in range(rounds):
                for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
                    if "failure" in entries[name] or (name in ONCE and (rounds < 3 or turn)):
                        continue
                    times[name].append(remotes[name].ask(share, "time")["seconds"])
                    time.sleep(0.3)
            for name, seconds in times.items():
                if seconds:
                    entries[name]["seconds"] = statistics.median(seconds)
            if "fastfisher" in names:
                record["stages"] = remotes["fastfisher"].ask(share, "stages")
    finally:
        for remote in remotes.values():
            remote.stop()


def _judge(record):
    entries = record["contenders"]
    for entry in entries.values():
        entry["passed"] = "failure" not in entry and entry["error"] <= GATE
    direct = [entries[name] for name in ("mkl", "fastfisher-exact") if name in entries]
    exact = [entry["seconds"] for entry in direct if "failure" not in entry]
    if exact and entries["fastfisher"]["passed"]:
        record["ratio"] = min(exact) / entries["fastfisher"]["seconds"]
        if "mkl" in entries and "failure" not in entries["mkl"]:
            record["over_mkl"] = entries["mkl"]["seconds"] / entries["fastfisher"]["seconds"]


def _line(record):
    ratio = f"{record['ratio']:.2f}" if "ratio" in record else "-"
    about = record["contenders"]["fastfisher"]
    times = "  ".join(f"{name} {entry_time(entry)}" for name, entry in record["contenders"].items())
    return (
        f"{record['n']} x {record['p']} {record['spectrum']:12} {record['share']:.0e}"
        f"  ratio {ratio}  {about.get('rung')} {about.get('iterations')}  {times}"
    )


def main(argv=None):
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.mixed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small matrix, for a look")
    parser.add_argument("--full", action="store_true", help=f"{FULL}, two rounds; ten minutes")
    parser.add_argument("--sizes", help="n x p, several with commas; 8000x2048 by default")
    parser.add_argument("--spectra", default=",".join(SPECTRA[:-1]), help='also "dual", by itself')
    parser.add_argument("--shares", default=",".join(f"{share:g}" for share in SHARES))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--name", help="results/mixed/NAME.json; cells of it are replaced")
    parser.add_argument("--render", action="store_true", help="only write MIXED.md")
    options = parser.parse_args(argv)
    if options.render:
        print(render(RESULTS))
        return 0
    if options.quick:
        options.sizes, options.spectra = "1500x800", "power"
        options.shares, options.rounds = "1e-3", 1
    options.sizes = options.sizes or (FULL if options.full else "8000x2048")
    options.rounds = options.rounds or (2 if options.full else 3)
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes.split(",")]
    kinds, names = options.spectra.split(","), tuple(options.contenders.split(","))
    shares = [float(share) for share in options.shares.split(",")]
    matrices = {(size_of(kind, *size), kind) for size in sizes for kind in kinds}
    for (n, p), kind in sorted(matrices, key=lambda m: (m[0][0] * m[0][1], kinds.index(m[1]))):
        found = cells(n, p, kind, shares, options.rounds, options.method, names)
        if options.name:  # after each, so that nothing is lost
            _write(options, found)
    if options.name:
        print(render(RESULTS))
    return 0


def _write(options, found):
    from fastfisher.kernels.cpu.units import unit
    from fastfisher.kernels.slicing import KINDS

    path = RESULTS / f"{options.name}.json"
    before = json.loads(path.read_text()) if path.exists() else {"cells": [], "settings": {}}
    # In older files all cells have the rounds of the last run.
    rounds = before["settings"].get("rounds")
    kept = [{"rounds": rounds} | record for record in before["cells"]]
    keys = [_key(record) for record in found]
    together = [record for record in kept if _key(record) not in keys] + found
    together.sort(key=lambda r: (r["n"] * r["p"], SPECTRA.index(r["spectrum"]), -r["share"]))
    results = {
        "environment": environment.describe(),
        "unit": ", ".join(f"{unit(kind)} {kind}" for kind in KINDS if unit(kind) != "plain"),
        "settings": {"method": options.method},
        "cells": together,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def _key(record):
    return record["n"], record["p"], record["spectrum"], record["share"]


if __name__ == "__main__":
    sys.exit(main())
