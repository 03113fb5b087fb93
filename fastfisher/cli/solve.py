"""`fastfisher solve`: the natural gradient of a file of per-sample scores."""

import contextlib
import sys
import time

import numpy as np

from .. import __version__
from ..api import gradient_solution
from ..arrays import as_real, as_scores
from ..damping import Relative, Tikhonov
from ..errors import FisherError, InputError
from ..machine import peak_rss
from ..passes import bad_rows
from ..planning import options
from ..stream import FLOATS, INTEGERS, check_target, open_npy, write_npy
from .console import Progress, megabytes, print_json, say
from .plan import plan_facts

__all__ = ["main"]


def main(args):
    """Read, plan, solve, write, report."""
    size = as_real(args.damping, "--damping")
    damping = Relative(size) if args.relative else Tikhonov(size)
    with contextlib.ExitStack() as stack:
        files = _open_all(args, stack)
        _check_output(args.output, files.values())
        grads = files["scores"]
        about = _describe(grads)
        talk = not (args.json or args.quiet)
        if talk:
            say("{path}: {n} x {p}, {dtype}, {order} order, mapped".format(**about))
        began = time.perf_counter()
        progress = stack.enter_context(Progress(args.quiet))
        stack.enter_context(options(progress=progress))
        skipped = _count_bad_rows(grads.array) if args.nan_policy == "skip" else 0
        solution = gradient_solution(
            grads.array,
            files["gradient"].array if "gradient" in files else None,
            weights=files["weights"].array if "weights" in files else None,
            damping=damping,
            center=args.center,
            method=args.method,
            rtol=args.rtol,
            maxiter=args.maxiter,
            nan_policy=args.nan_policy,
            announce=say if talk else None,
        ).require_convergence()
        seconds = time.perf_counter() - began
        for file in files.values():
            file.check_unchanged()
    if args.output:
        with _naming("write", args.output):
            write_npy(args.output, solution.x)
    report = {
        "fastfisher": __version__,
        "input": about,
        "status": solution.status,
        "method": solution.method,
        "rung": solution.rung,
        "damping": solution.damping,
        "residual": solution.residual,
        "backward_error": solution.backward_error,
        "iterations": solution.iterations,
        "rows_skipped": skipped,
        "seconds": seconds,
        "peak_rss_bytes": peak_rss() or None,
        "plan": plan_facts(solution.plan),
        "step": _summary(solution.x),
        "output": args.output,
    }
    if args.json:
        print_json(report)
    elif talk:
        _print_report(report, args)
    return 0


def _open_all(args, stack):
    """The mapped input files by what they are, checked against one another."""

    def opened(path, **settings):
        with _naming("read", path):
            return stack.enter_context(open_npy(path, **settings))

    def vector(path, length, per, **settings):
        file = opened(path, ndim=1, **settings)
        if file.array.shape != (length,):
            raise InputError(
                f"{path!r} has shape {file.array.shape}; expected ({length},), one number per "
                f"{per} of {args.grads!r}"
            )
        return file

    files = {"scores": opened(args.grads)}
    n, p = files["scores"].array.shape
    if args.weights is not None:
        files["weights"] = vector(args.weights, n, "row", codes=FLOATS | INTEGERS)
    if args.gradient is not None:
        files["gradient"] = vector(args.gradient, p, "column")
    return files


def _describe(grads):
    n, p = grads.array.shape
    return {
        "path": grads.path,
        "n": n,
        "p": p,
        "dtype": grads.array.dtype.newbyteorder("=").name,
        "order": "Fortran" if grads.header.fortran_order else "C",
    }


def _check_output(path, inputs):
    """Refuse an output that cannot be written before the work, not after it."""
    if path is None:
        return
    if any(file.is_same_file(path) for file in inputs):
        raise InputError(f"the output {path!r} is one of the inputs; choose another name")
    with _naming("write", path):
        check_target(path)


@contextlib.contextmanager
def _naming(verb, path):
    """Turn an OSError into a line that says what could not be done to which file."""
    try:
        yield
    except OSError as error:
        raise FisherError(f"cannot {verb} {path!r}: {error.strerror or error}") from error


def _count_bad_rows(array):
    return int(bad_rows(as_scores(array))[0].sum())


def _summary(x):
    """Dtype, shape, 2-norm and first values of the step; complex values as pairs."""
    largest = float(np.max(np.abs(x), initial=0.0))
    norm = float(np.linalg.norm(x / (largest or 1.0))) * largest
    return {
        "dtype": x.dtype.name,
        "shape": list(x.shape),
        "norm": min(norm, sys.float_info.max),  # JSON has no infinity
        "first": [[v.real, v.imag] if isinstance(v, complex) else v for v in x[:5].tolist()],
    }


def _print_report(report, args):
    step, used = report["step"], report["peak_rss_bytes"]
    values = [complex(*v) if isinstance(v, list) else v for v in step["first"]]
    share = f" = {args.damping:g} trace(F)/p" if args.relative else ""
    planned = megabytes(report["plan"]["peak_bytes"])
    rows = {
        "status": report["status"],
        "method": f"{report['method']}, {report['rung']}",
        "damping": f"{report['damping']:.10g}{share}",
        "residual": f"{report['residual']:.2e} = ||g - (F + lambda I) x|| / ||g||, recomputed",
        "iterations": report["iterations"],
        "rows skipped": report["rows_skipped"] if args.nan_policy == "skip" else None,
        "seconds": f"{report['seconds']:.2f}",
        "peak memory": f"{megabytes(used) if used else 'unknown'} resident: Python, libraries, "
        f"pages of the mapped file, and arrays (plan: {planned})",
        "step": f"{step['dtype']} ({step['shape'][0]},), norm {step['norm']:.6g}",
        "first values": " ".join(f"{v:.6g}" for v in values),
        "written to": args.output or "nowhere (-o step.npy writes it)",
    }
    for name, value in rows.items():
        if value is not None:
            say(f"{name:<14}{value}")
