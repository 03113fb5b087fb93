"""Solves in the CUDA simulator that need more than one factorisation, or scores that are not taken
as they are: beside those of the host, in a process of its own. See device_cases.py."""

from unittest import mock

import numpy as np

import fastfisher as ff
from tests import matrices
from tests.solvers.device_arrays import slices_of, there

__all__ = ["CASES", "everything"]


# Two columns agree, and pivots are exact: zero, and damping far below u is lost in them.
ALIKE = np.array([[2.0, 2.0, 1.0], [-2.0, -2.0, 1.0], [2.0, 2.0, -1.0], [-2.0, -2.0, 0.0]])
PAIR = np.array([[3.0, 1.0, 5.0], [1.0, -1.0, 5.0]])  # centred, K has the pivots 1 and 0
NEARLY = np.array([[1.0, 2.0, 0.0, 1.0], [1.0, 2.0, 1e-8, 1.0], [0.0, 1.0, 3.0, 1.0]])
LADDER = ff.Ladder(escalations=4)
CUT = ff.Ladder(cutoff=ff.HardCutoff(1e-6))
SHARES = np.array([0.5, 0.0, 2.0, 1.0])


def _halves(r):
    """A preconditioner: other weights for other parameters, wherever the array lies."""
    weights = np.arange(1.0, 4.0)[:, np.newaxis]
    return weights * r if isinstance(r, np.ndarray) else there(weights * r.copy_to_host())


# name: (scores or their shape, dtype, what is done to them, what solve is given, ladder)
CASES = {
    "undamped-dual-mended": (
        (4, 6),
        "float64",
        {},
        {"coef": 1, "damping": 0.0, "weights": SHARES, "center": True},
        None,
    ),
    "faint-dual-mended": (
        PAIR,
        "float64",
        {},
        {"coef": 1, "damping": ff.Relative(1e-20), "center": True, "method": "dual"},
        None,
    ),
    "marquardt-dual": (
        (3, 5),
        "float32",
        {},
        {"b": 2, "damping": ff.Marquardt(0.5), "weights": SHARES[1:] + 1},
        None,
    ),
    "marquardt-dual-coef": (
        (3, 5),
        "float64",
        {"streamed": True},
        {"coef": 1, "damping": ff.Marquardt(0.5, shift=0.1), "center": True},
        None,
    ),
    "skip": (
        (4, 6),
        "float16",
        {"bad": 0},
        {"coef": 1, "damping": 0.1, "weights": SHARES, "center": True},
        None,
    ),
    "groups": (
        (6, 3),
        "float64",
        {"bad": 2},
        {"b": 1, "damping": 0.1, "groups": np.array([5, 2, 9, 9, 2, 7]), "weights": SHARES + 0.5},
        None,
    ),
    "skip-streamed": (
        (5, 3),
        "float32",
        {"bad": 1, "streamed": True},
        {"b": 1, "damping": 0.1},
        None,
    ),
    "huge": ((5, 3), "float32", {"scale": 1e19}, {"b": 2, "damping": ff.Relative(0.1)}, None),
    "tiny-columns": (
        (5, 3),
        "float64",
        {"scale": np.array([1.0, 1e-162, 1.0])},
        {"coef": 1, "damping": ff.Marquardt(2.0), "method": "primal"},
        None,
    ),
    "tiny-columns-dual": (
        (3, 4),
        "float32",
        {"scale": np.array([1.0, 1e-22, 1.0, 1e-20])},
        {"coef": 1, "damping": ff.Marquardt(2.0), "method": "dual"},
        None,
    ),
    "zero": ((4, 3), "float64", {"scale": 0.0}, {"b": 1, "damping": 0.1}, None),
    "tiny-coef": (
        (3, 5),
        "float64",
        {"scale": 1e-180},
        {"coef": 1, "damping": ff.Relative(0.1), "center": True},
        None,
    ),
    "tiny-cg": (
        (4, 3),
        "float64",
        {"scale": 1e-120},
        {"b": 1, "damping": ff.Relative(0.1), "method": "cg", "x0": 1e240},
        None,
    ),
    "cg-nystrom": (
        (6, 5),
        "float64",
        {},
        {"b": 2, "damping": 0.01, "method": "cg", "preconditioner": ff.Nystrom(3)},
        None,
    ),
    "cg-callable": (
        (4, 3),
        "float64",
        {},
        {"b": 1, "damping": 0.1, "method": "cg", "preconditioner": _halves},
        None,
    ),
    "cg-blocks": (
        (5, 4),
        "float32",
        {"bad": 1},
        {
            "coef": 1,
            "damping": ff.Marquardt(0.1),
            "method": "cg",
            "center": True,
            "preconditioner": ff.BlockJacobi((1, 2, 1)),
        },
        None,
    ),
    "cg-blocks-streamed": (
        (5, 4),
        "float64",
        {"streamed": True},
        {"b": 1, "damping": 0.1, "method": "cg", "preconditioner": ff.BlockJacobi(4)},
        None,
    ),
    "cg-blocks-singular": (
        ALIKE,
        "float64",
        {},
        {"coef": 1, "damping": 0.0, "method": "cg", "preconditioner": ff.BlockJacobi((2, 1))},
        None,
    ),
    "huge-cutoff": (
        (4, 3),
        "float64",
        {"scale": 1e100, "streamed": True},
        {"b": 1, "damping": ff.HardCutoff(1e-3)},
        None,
    ),
    "cutoff-dual": (
        (4, 5),
        "float64",
        {},
        {"coef": 2, "damping": ff.SoftCutoff(0.1), "weights": SHARES},
        None,
    ),
    "noise": (
        (6, 4),
        "float64",
        {},
        {"coef": 1, "damping": ff.SNRCutoff(0.5), "method": "primal"},
        None,
    ),
    "orthogonal": (ALIKE, "float64", {}, {"b": 1, "damping": 1e-19}, LADDER),
    "orthogonal-dual": (NEARLY, "float64", {}, {"coef": 1, "damping": 0.0, "center": True}, LADDER),
    "damped-dual": ((4, 3), "float64", {}, {"b": 1, "damping": 0.0, "method": "dual"}, LADDER),
    "eigen": (ALIKE, "float64", {}, {"b": 1, "damping": 0.0}, CUT),
    "eigen-hopeless": ((2, 4), "float64", {}, {"b": 1, "damping": 0.0}, CUT),
}


def _solved(name):
    """Facts of one solve beside that of the host."""
    G, dtype, changes, settings, ladder = CASES[name]
    rng, settings = matrices.generator("device rungs", name), dict(settings)
    if isinstance(G, tuple):
        G = rng.standard_normal(G)
    G = (G * changes.get("scale", 1.0)).astype(dtype)
    if "bad" in changes:
        G[changes["bad"], 1] = np.nan
        settings["nan_policy"] = "skip"
    like = np.dtype("float32" if dtype == "float16" else dtype)
    operands, (n, p) = {}, G.shape
    for key, size in (("b", p), ("coef", n)):
        if key in settings:
            k = settings.pop(key)
            operands[key] = rng.standard_normal((size, k) if k > 1 else size).astype(like)
    if "weights" in settings:
        operands["weights"] = settings.pop("weights").astype(like)
    if "x0" in settings:
        operands["x0"] = settings.pop("x0") * rng.standard_normal(p)
    with ff.options(ladder=ladder):
        expected = ff.solve(G, **operands, **settings)
        if "streamed" in changes:
            with slices_of(2 * G.itemsize * min(G.shape)):
                made = ff.solve(G, device="cuda", **operands, **settings)
            x = made.x
        else:
            moved = {key: there(x) for key, x in operands.items()}
            made = ff.solve(there(G), **moved, **settings)
            x = made.x.copy_to_host()
    size, u = np.abs(expected.x).max(), float(np.finfo(like).eps) / 2
    return {
        "status": [made.status, expected.status],
        "rungs": [s.rung.partition("+refinement")[0] for s in (made, expected)],
        "like": bool(x.dtype == expected.x.dtype and x.shape == expected.x.shape),
        "error": float(np.abs(x / size - expected.x / size).max() / u),
        "backward": [float(s.backward_error / u) for s in (made, expected)],
        "each": [made.statuses == expected.statuses, len(made.residuals)],
        "facts": [[s.rank, s.method] for s in (made, expected)],
        "damping": [[s.damping, s.escalation] for s in (made, expected)],
        "iterations": [made.iterations, expected.iterations],
        "host": "scipy.eigh, on the host" in str(made.plan),
    }


def everything():
    """{case: facts} of each solve beside that of the host."""
    from fastfisher.solvers.device import iterative

    with mock.patch.object(iterative, "CHUNK", 4), np.errstate(all="ignore"):
        return {name: _solved(name) for name in CASES}
