"""Mixed precision in the CUDA simulator, beside the exact routes; in a process of its own. See
device_cases.py."""

import contextlib
from unittest import mock

import numpy as np

import fastfisher as ff
from tests import matrices
from tests.solvers.device_arrays import TALL, WIDE, slices_of, there
from tests.solvers.device_refusals import message_of
from tests.solvers.device_traffic import Traffic

__all__ = ["CASES", "everything"]

# name: (shape, dtype, what is done to the scores, what solve is given)
CASES = {
    "primal": (TALL, "float64", {}, {"b": 2, "damping": 0.1, "weights": True}),
    "primal-graded": (TALL, "float64", {"graded": True}, {"b": 1, "damping": ff.Marquardt(0.1)}),
    "primal-halves": (TALL, "float16", {}, {"coef": 1, "damping": 0.1, "center": True}),
    "dual": (WIDE, "float64", {}, {"b": 1, "damping": 0.1, "weights": True}),
    "dual-streamed": (WIDE, "float32", {"streamed": True}, {"coef": 1, "damping": 0.1}),
    "tiny": (TALL, "float64", {"scale": 1e-180}, {"coef": 1, "damping": ff.Relative(0.1)}),
}
GRADES = np.array([1.0, 2.0**-15, 2.0**-30])


def _operands(name, shape, dtype, given):
    rng, (n, p) = matrices.generator("mixed on a device", name), shape
    G = rng.standard_normal(shape).astype(dtype)
    like = np.dtype("float32" if dtype == "float16" else dtype)
    operands = {}
    for key, size in (("b", p), ("coef", n)):
        if key in given:
            k = given[key]
            operands[key] = rng.standard_normal((size, k) if k > 1 else size).astype(like)
    if given.get("weights"):
        operands["weights"] = rng.uniform(0.5, 2.0, n).astype(like)
    settings = {key: given[key] for key in ("damping", "center") if key in given}
    return G, operands, settings


def _solved(name):
    """Facts of one solve beside the exact route on the host."""
    shape, dtype, changes, given = CASES[name]
    G, operands, settings = _operands(name, shape, dtype, given)
    by = np.ones(shape[1])
    if "graded" in changes:
        by = GRADES
        operands["b"] *= by
    if "scale" in changes:
        by = by * changes["scale"]
    G = (G * by).astype(dtype)
    side = "primal" if shape == TALL else "dual"
    expected = ff.solve(G, **operands, method=side, **settings)
    if "streamed" in changes:
        with slices_of(2 * G.itemsize * min(shape)):
            made = ff.solve(G, device="cuda", method="mixed", **operands, **settings)
        x = made.x
    else:
        given = {key: there(x) for key, x in operands.items()}
        made = ff.solve(there(G), method="mixed", **given, **settings)
        x = made.x.copy_to_host()
    unit = by if "graded" in changes else np.ones(shape[1])
    x, exact = ((y.T * unit).T for y in (x, expected.x))
    u = float(np.finfo(expected.x.dtype).eps) / 2
    return {
        "status": made.status,
        "method": made.method,
        "rung": made.rung,
        "like": bool(made.x.dtype == expected.x.dtype and x.shape == exact.shape),
        "error": float(np.abs(x / np.abs(exact).max() - exact / np.abs(exact).max()).max() / u),
        "backward": float(made.backward_error / u),
        "damping": [float(made.damping), float(expected.damping)],
        "slices": made.slices,
        "rough": made.rough_error,
        "iterations": made.iterations,
        "rank": [made.rank, expected.rank],
        "cancellation": [made.cancellation, expected.cancellation],
    }


def _mixed(side, method, damping=0.1, **patches):
    """A solve on the device, with some names of `device.mixed` replaced."""
    from fastfisher.solvers.device import mixed

    given = {"b": 1} if side == "primal" else {"coef": 1}
    shape = TALL if side == "primal" else WIDE
    G, operands, _ = _operands("again", shape, "float64", given)
    given = {key: there(x) for key, x in operands.items()}
    with contextlib.ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch.object(mixed, name, value))
        return ff.solve(there(G), damping=damping, method=method, **given)


def _facts(sol, exact):
    same = sol.x.copy_to_host().tobytes() == exact.x.copy_to_host().tobytes()
    return {
        "method": sol.method,
        "rung": sol.rung,
        "same": same,
        "slices": sol.slices,
        "converged": sol.converged,
    }


def _fallen():
    """{why: facts} of solves that end on the exact route of the device."""
    from fastfisher.solvers.device import mixed

    exact = _mixed("primal", "primal")

    class Off(mixed.Steps):
        def run(self):
            x, *others = super().run()
            mixed.vectors.times(x, x, mixed.none(np.float64), 1 + 1e-9)
            return x, *others

    class One(mixed.Steps):
        _chunk = 1

        def _given_up(self, running):
            super()._given_up(running)
            self.slow = len(self._course) > 0
            return self.slow

    found = {
        "residual": _facts(_mixed("primal", "mixed", Steps=Off), exact),
        "slow": _facts(_mixed("primal", "mixed", Steps=One), exact),
    }
    for name, side, damping in (
        ("damping", "primal", 1e-15),
        ("marquardt", "dual", ff.Marquardt(0.1)),
        ("undamped", "dual", 0.0),
    ):
        exact = _mixed(side, side, damping)
        found[name] = _facts(_mixed(side, "mixed", damping), exact)
    return found


def _more():
    """A factor that fails leads to one more slice; the same call has the same bits."""
    from fastfisher.solvers.device import mixed

    tried, made = [], mixed._Rough.factored

    def factored(self, form):
        tried.append(form.slices)
        return None if len(tried) == 1 else made(self, form)

    with mock.patch.object(mixed._Rough, "factored", factored):
        sol = _mixed("primal", "mixed")
    with Traffic() as traffic:
        plain = _mixed("primal", "mixed")
    again = _mixed("primal", "mixed")
    same = again.x.copy_to_host().tobytes() == plain.x.copy_to_host().tobytes()
    return {
        "rough": [plain.rough_error, _rough_error("primal")],
        "tried": tried,
        "slices": [plain.slices, sol.slices],
        "rung": sol.rung,
        "same": same and again.residual == plain.residual,
        "traffic": [traffic.to_device, traffic.to_host, traffic.waits],
    }


def _rough_error(side):
    """||A^-1/2 (M - A) A^-1/2|| of the preconditioner of `_mixed`, from all eigenvalues."""
    from fastfisher.solvers.device import mixed

    made, factored = [], mixed._Rough.factored

    def kept(self, form):
        made.append((self, factored(self, form)))
        return made[-1][1]

    with mock.patch.object(mixed._Rough, "factored", kept):
        _mixed(side, "mixed")
    rough, factor = made[-1]
    eye = there(np.eye(rough.order))
    inverse = factor.preconditioner(eye)(eye).copy_to_host()
    F = rough.system.raw_fisher(eye).copy_to_host() * rough.system.inverse_total
    half = np.linalg.cholesky(F + rough.damping * np.eye(rough.order))
    return float(np.abs(1 / np.linalg.eigvalsh(half.T @ inverse @ half) - 1).max())


def _refused():
    G = np.ones(TALL)
    G[2, 1] = np.nan
    b, weights = np.ones(3), np.array([1.0, 1, 1, -1, 1])
    calls = {
        "nan": lambda: ff.solve(there(G), there(b), damping=0.1, method="mixed"),
        "weights": lambda: ff.solve(
            there(np.ones(TALL)), there(b), weights=there(weights), damping=0.1, method="mixed"
        ),
        "b": lambda: ff.solve(there(np.eye(5, 3)), there(b * np.nan), damping=0.1, method="mixed"),
        "cutoff": lambda: ff.solve(
            there(np.eye(5, 3)), there(b), damping=ff.HardCutoff(0.1), method="mixed"
        ),
        "rank": lambda: ff.solve(
            there(np.eye(3, 5)), there(np.ones(5)), damping=0.0, method="mixed"
        ),
    }
    return {name: message_of(call) for name, call in calls.items()}


def everything():
    """All of it, in one process."""
    with np.errstate(all="ignore"):
        return {
            "solved": {name: _solved(name) for name in CASES},
            "fallen": _fallen(),
            "more": _more(),
            "refused": _refused(),
        }
