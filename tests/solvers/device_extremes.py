"""Solves in the CUDA simulator at the ends of the range, beside those of the host."""

import numpy as np

import fastfisher as ff
from tests import matrices
from tests.solvers.device_arrays import TALL, WIDE, there

__all__ = ["FAINT", "FAR", "IDLE", "LOST", "ends"]

# name: (shape, method, size of b, damping): the last column of b is ordinary
LOST = {
    "primal": (TALL, "primal", 1e-33, 1e8),  # some digits are left
    "dual, marquardt": (WIDE, "dual", 1e-30, ff.Marquardt(1e-3, shift=1e25)),
    "cutoff": (TALL, "primal", 1e-42, ff.HardCutoff(1e-6)),
}
# name: (shape, size of G, damping): b = G'(w o coef) / W is tiny, and nobody has normalised it
FAINT = {
    "primal": (TALL, 1e-165, 1e155),  # some digits are left
    "dual": (WIDE, 1e-160, 1e300),
    "cg": (TALL, 1e-165, 1e155),
}
FAR = {
    "primal": (TALL, "primal", 1e-2, ("weights",)),
    "dual": (WIDE, "dual", 1e-2, ("weights",)),
    "dual, marquardt": (WIDE, "dual", ff.Marquardt(0.5, shift=1e-3), ("coef", "weights")),
    "cutoff": (WIDE, "dual", ff.HardCutoff(1e-3), ("coef", "weights")),
    "beside an outlier without weight": (TALL, "primal", 1e-2, ("weights", "outlier")),
}

# name: (method, damping, what a row without weight holds)
IDLE = {
    "primal": ("primal", ff.Relative(0.1), 1.0),
    "primal, marquardt": ("primal", ff.Marquardt(0.1, shift=1e-28), 1e30),
    "dual": ("dual", ff.Relative(0.1), 1e30),
    "cg": ("cg", 1e-28, 1.0),
    "nothing counts": ("dual", 0.5, 1e30),
}


def ends():
    """All of it, in one process."""
    return {
        "lost": {name: _lost(name) for name in LOST},
        "faint": {name: _faint(name) for name in FAINT},
        "far": {name: _far(name) for name in FAR},
        "idle": {method: _idle(method) for method in IDLE},
        "above": _above(),
        "held": _held(),
    }


def _facts(made):
    return {
        "status": made.status,
        "statuses": list(made.statuses),
        "residuals": np.asarray(made.residuals).tolist(),
    }


def _lost(name):
    """Statuses and residuals of a step of which one column underflows; those of the host."""
    shape, method, size, damping = LOST[name]
    rng = matrices.generator("lost", name)
    G = rng.standard_normal(shape).astype(np.float32)
    b = rng.standard_normal((shape[1], 2)).astype(np.float32)
    b[:, 0] *= np.float32(size)
    b[:, 1] *= np.float32(1e25)
    settings = {"damping": damping, "method": method}
    return [_facts(ff.solve(there(G), there(b), **settings)), _facts(ff.solve(G, b, **settings))]


def _faint(method):
    """The same of a step that underflows on the way, in double."""
    shape, size, lam = FAINT[method]
    G = size * matrices.generator("faint", method).standard_normal(shape)
    coef = np.stack([np.ones(len(G)), np.zeros(len(G))], axis=1)
    settings = {"damping": lam, "method": method}
    made = ff.solve(there(G), coef=there(coef), **settings)
    return [_facts(made), _facts(ff.solve(G, coef=coef, **settings))]


def _far(name):
    """The error of x for scores centred 1e6 deviations from zero."""
    shape, method, damping, given = FAR[name]
    (n, p), rng = shape, matrices.generator("far", name)
    G = (rng.standard_normal(shape) + 1e6 * rng.standard_normal(p)).astype(np.float32)
    weights = rng.uniform(0.5, 2, n) if "weights" in given else None
    if "outlier" in given:
        G[0], weights[0] = 1e12, 0
    side = "coef" if "coef" in given else "b"
    given = {side: rng.standard_normal(n if side == "coef" else p).astype(np.float32)}
    settings = {"damping": damping, "center": True}
    exact = {key: x.astype(float) for key, x in given.items()}
    route = "dual" if side == "coef" else "primal"
    expected = ff.solve(G.astype(float), **exact, weights=weights, method=route, **settings)
    on_device = {key: there(x) for key, x in given.items()}
    made = ff.solve(there(G), **on_device, weights=there(weights), method=method, **settings)
    x = made.x.copy_to_host().astype(float)
    error = np.linalg.norm(x - expected.x) / np.linalg.norm(expected.x)
    return {**_facts(made), "error": float(error)}


def _idle(name):
    """Scores whose squares single precision loses, beside a large one that has no weight."""
    method, damping, large = IDLE[name]
    G = np.array([[large, large], [1e-14, 2e-14], [3e-14, 0]], np.float32)
    if name == "nothing counts":
        G[1:] = 0
    b, w = np.full(2, 1e-14, np.float32), np.array([0.0, 1.0, 1.0])
    expected = ff.solve(G[1:].astype(float), b.astype(float), damping=damping).x
    made = ff.solve(there(G), there(b), weights=there(w), damping=damping, method=method)
    error = np.abs(made.x.copy_to_host() - expected).max() / np.abs(expected).max()
    return {"status": made.status, "error": float(error)}


def _above():
    """A column of x above the range, beside one that is 1e45 only on the way."""
    b = np.array([[1e30, 1e-30]] * 3, np.float32)
    return _facts(ff.solve(there(np.zeros(TALL, np.float32)), there(b), damping=1e-45))


def _held():
    """What a Fisher of the device says of steps below the range, and of scores far from zero."""
    rng = matrices.generator("held, far")
    G = (rng.standard_normal(TALL) + 1e6).astype(np.float32)
    b = np.array([[1e-30, 1.0]] * 3, np.float32)
    F = ff.DeviceFisher(3, dtype="float32", center=True).update(there(G))
    centred = np.cov(G.astype(float), rowvar=False, bias=True)
    error = np.abs(F.matrix().copy_to_host() - centred).max() / np.abs(centred).max()
    F64 = ff.DeviceFisher(3).update(there(np.eye(3)))
    double = F64.solve(there(np.full(3, 1e-200)), damping=1e200)
    return {
        **_facts(F.solve(there(b), damping=1e20)),
        "error": float(error),
        "all lost": [double.status, double.residual],
    }
