"""Solves in the CUDA simulator, beside those of the host; run in a process of its own.

Functions here return what JSON can hold; the tests in test_device.py judge it.
"""

import contextlib
from unittest import mock

import numpy as np

import fastfisher as ff
from tests import matrices
from tests.solvers.device_arrays import TALL, WIDE, slices_of, there
from tests.solvers.device_extremes import ends
from tests.solvers.device_ops import in_kind, operated
from tests.solvers.device_refusals import refused
from tests.solvers.device_traffic import counted

__all__ = ["CASES", "everything", "solve_case", "solved"]

# name: (shape, dtype, method, damping, what else is given)
CASES = {
    "primal": (TALL, "float64", "primal", 0.1, ()),
    "primal-all": (TALL, "float64", "primal", 0.1, ("weights", "center", "coef", "columns")),
    "primal-float32": (TALL, "float32", "primal", 0.1, ("weights",)),
    "primal-marquardt": (TALL, "float64", "primal", ff.Marquardt(0.1), ("weights",)),
    "primal-undamped": (TALL, "float64", "primal", 0.0, ()),
    "primal-host": (TALL, "float64", "primal", 0.1, ("host", "weights")),
    "primal-streamed": (TALL, "float32", "primal", 0.1, ("streamed", "weights", "center")),
    "dual": (WIDE, "float64", "auto", 0.1, ("weights", "columns", "strided")),
    "dual-coef": (WIDE, "float64", "dual", 0.1, ("coef", "center")),
    "dual-float32": (WIDE, "float32", "dual", ff.Relative(0.1), ("coef", "weights", "center")),
    "dual-streamed": (WIDE, "float64", "dual", 0.1, ("streamed", "coef")),
    "cg": (TALL, "float64", "cg", 0.1, ("weights", "columns")),
    "cg-marquardt": (WIDE, "float64", "cg", ff.Marquardt(0.2, shift=0.1), ("coef", "x0")),
    "cg-float32": (TALL, "float32", "cg", 0.1, ("center",)),
}


def _operands(name, shape, dtype, given):
    rng = matrices.generator("device", name)
    n, p = shape
    k = (2,) if "columns" in given else ()
    G = rng.standard_normal(shape).astype(dtype)
    b = coef = None
    if "coef" in given:
        coef = rng.standard_normal((n, *k)).astype(dtype)
    else:
        b = rng.standard_normal((p, *k)).astype(dtype)
    weights = rng.uniform(0.5, 2.0, n).astype(dtype) if "weights" in given else None
    x0 = rng.standard_normal((p, *k)).astype(dtype) if "x0" in given else None
    return G, b, coef, weights, x0


def everything():
    """All of it, in one process."""
    return {
        "solved": solved(),
        "ends": ends(),
        "refused": refused(),
        "counted": counted(),
        "in kind": in_kind(),
        "operated": operated(),
    }


def solve_case(name):
    """Facts of one solve beside that of the host."""
    shape, dtype, method, damping, given = CASES[name]
    G, b, coef, weights, x0 = _operands(name, shape, dtype, given)
    settings = {"damping": damping, "center": "center" in given, "method": method}
    expected = ff.solve(G, b, coef=coef, weights=weights, x0=x0, **settings)
    if "host" in given or "streamed" in given:
        streamed = slices_of(3 * G.itemsize * min(shape))
        with streamed if "streamed" in given else contextlib.nullcontext():
            made = ff.solve(G, b, coef=coef, weights=weights, device="cuda", x0=x0, **settings)
        x = made.x
    else:
        scores = there(np.asfortranarray(G) if "strided" in given else G)
        made = ff.solve(
            scores, there(b), coef=there(coef), weights=there(weights), x0=there(x0), **settings
        )
        x = made.x.copy_to_host()
    u = float(np.finfo(dtype).eps) / 2
    return {
        "status": made.status,
        "kind": type(made.x).__name__,
        "like": bool(x.dtype == expected.x.dtype and x.shape == expected.x.shape),
        "error": float(np.abs(x - expected.x).max() / np.abs(expected.x).max() / u),
        "residual": float(made.residual / u),
        "damping": abs(made.damping - expected.damping) <= 1e-5 * abs(expected.damping),
        "method": made.method == expected.method,
        "iterations": abs(made.iterations - expected.iterations) <= 1,
        "device": made.plan.problem.device,
    }


def solved():
    """{case: facts} of every solve beside that of the host."""
    from fastfisher.solvers.device import iterative

    with mock.patch.object(iterative, "CHUNK", 4):
        return {name: solve_case(name) for name in CASES}
