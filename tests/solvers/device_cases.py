"""Solves in the CUDA simulator, beside those of the host; run in a process of its own.

Functions here return what JSON can hold; the tests in test_device.py judge it.
"""

import contextlib
import sys
import types
from unittest import mock

import numpy as np

import fastfisher as ff
from tests import matrices

__all__ = ["CASES", "CATALOGUE", "everything"]

TALL, WIDE = (5, 3), (3, 5)
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
CATALOGUE = {
    "nan": "G is not finite in row 2",
    "weights": r"weights\[3\] is negative",
    "b": "not finite at index 1",
    "host b": "b lies on the host .* device=",
    "device=cpu": "G lies on a device but device='cpu'",
    "cutoff by cg": "HardCutoff.* needs a dense or a Gram matrix",
    "complex": "complex arrays are computed on the host",
    "rank": "F has rank at most 3 but 5 parameters",
    "singular": "pivot . of 3 of F .* is not positive at damping 0",
    "dual marquardt": "parameter 1 has no score and no damping",
    "noise": "looks at single samples: pass coef=",
    "preconditioner": "on a device expected 'auto', 'jacobi', None, ff.Nystrom",
    "columns of a preconditioner": r"returned 2 columns; expected shape \(3, 1\)",
    "shape of a preconditioner": r"what the preconditioner returned has shape \(2, 1\)",
    "bad weights of a cutoff": r"weights\[3\] is negative",
    "nystrom": "needs damping > 0 for every parameter",
    "shape": r"b has shape \(2,\); expected \(3,\)",
    "groups": "groups is float64 of shape",
    "groups nan": "G is not finite in row 2",
    "cholesky": "pivot 1 of 4 is not positive",
    "integers": "G has dtype int64",
    "syrk into G": "out shares memory with an input.*; untouched True",
    "gram into a part of G": "out shares memory with an input.*; untouched True",
    "syrk into its weights": "out shares memory with an input.*; untouched True",
    "out and weights": r"weights has shape \(2,\); expected \(5,\).*; untouched True",
    "no ladder": "expected an ff.Ladder or None",
}


def _there(x):
    from numba import cuda

    return None if x is None else cuda.to_device(x)


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


@contextlib.contextmanager
def _slices(rows):
    """Host scores pass over the bus, so many rows (or columns) at a time."""
    from fastfisher.devices import slices
    from fastfisher.solvers import device

    with (
        mock.patch.object(device, "RESIDENT_SHARE", 0),
        mock.patch.object(slices, "SLICE_BYTES", rows),
    ):
        yield


def everything():
    """All of it, in one process."""
    return {
        "solved": solved(),
        "refused": refused(),
        "counted": counted(),
        "in kind": in_kind(),
        "operated": operated(),
    }


def _solve_case(name):
    shape, dtype, method, damping, given = CASES[name]
    G, b, coef, weights, x0 = _operands(name, shape, dtype, given)
    settings = {"damping": damping, "center": "center" in given, "method": method}
    expected = ff.solve(G, b, coef=coef, weights=weights, x0=x0, **settings)
    if "host" in given or "streamed" in given:
        streamed = _slices(3 * G.itemsize * min(shape)) if "streamed" in given else _slices(1 << 20)
        with streamed if "streamed" in given else contextlib.nullcontext():
            made = ff.solve(G, b, coef=coef, weights=weights, device="cuda", x0=x0, **settings)
        x = made.x
    else:
        there = _there(np.asfortranarray(G)) if "strided" in given else _there(G)
        made = ff.solve(
            there, _there(b), coef=_there(coef), weights=_there(weights), x0=_there(x0), **settings
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
        return {name: _solve_case(name) for name in CASES}


def refused():
    """{case: message} of what is refused."""
    rng = matrices.generator("refused on a device")
    G, v, w = rng.standard_normal(TALL), rng.standard_normal(3), rng.uniform(0.5, 2, 5)
    bad, worse, negative = G.copy(), v.copy(), w.copy()
    bad[2, 1], worse[1], negative[3] = np.nan, np.inf, -1
    d, h = _there, dict(damping=0.1, method="primal")
    same, wide = np.repeat(G[:, :1], 3, axis=1), rng.standard_normal(WIDE)
    calls = {
        "nan": lambda: ff.solve(d(bad), d(v), **h),
        "weights": lambda: ff.solve(d(G), d(v), weights=d(negative), **h),
        "b": lambda: ff.solve(d(G), d(worse), **h),
        "host b": lambda: ff.solve(d(G), v, **h),
        "device=cpu": lambda: ff.solve(d(G), d(v), device="cpu", **h),
        "cutoff by cg": lambda: ff.solve(d(G), d(v), damping=ff.HardCutoff(1e-3), method="cg"),
        "complex": lambda: ff.solve(d(G + 0j), d(v), **h),
        "columns of a preconditioner": lambda: ff.solve(
            d(G), d(v), damping=0.1, method="cg", preconditioner=lambda r: d(np.ones((3, 2)))
        ),
        "shape of a preconditioner": lambda: ff.solve(
            d(G), d(v), damping=0.1, method="cg", preconditioner=lambda r: r[:2]
        ),
        "nystrom": lambda: ff.solve(
            d(G), d(v), damping=0.0, method="cg", preconditioner=ff.Nystrom(2)
        ),
        "rank": lambda: ff.solve(d(wide), d(w), damping=0.0),
        "singular": lambda: ff.solve(d(same), d(v), damping=0.0, method="primal"),
        "dual marquardt": lambda: ff.solve(
            d(wide * [1, 0, 1, 1, 1]), d(w), damping=ff.Marquardt(0.1), method="dual"
        ),
        "noise": lambda: ff.solve(d(G), d(v), damping=ff.SNRCutoff(1.0)),
        "preconditioner": lambda: ff.solve(
            d(G), d(v), damping=0.1, method="cg", preconditioner="ilu"
        ),
        "bad weights of a cutoff": lambda: ff.solve(
            d(G), d(v), weights=d(negative), damping=ff.HardCutoff(0.1)
        ),
        "shape": lambda: ff.solve(d(G), d(v[:2]), **h),
        "groups": lambda: ff.ops.group_sums(d(G), d(w)),
        "groups nan": lambda: ff.solve(d(bad), d(v), groups=[0, 1, 0, 1, 1], **h),
        "cholesky": lambda: ff.ops.cholesky(d(-np.eye(4))),
        "integers": lambda: ff.solve(d(np.ones((3, 4), int)), d(v), **h),
    }
    found = {}
    for name, call in calls.items():
        found[name] = _message(call)
    whole, ones, pair = d(rng.standard_normal((4, 3))), d(np.ones((3, 3))), d(np.ones((1, 1)))
    for name, kept, call in (
        ("syrk into G", ones, lambda: ff.ops.syrk(ones, out=ones)),
        ("gram into a part of G", whole, lambda: ff.ops.gram(whole[:3], out=whole[1:])),
        ("syrk into its weights", pair, lambda: ff.ops.syrk(pair, pair.reshape(1), out=pair)),
        ("out and weights", ones, lambda: ff.ops.syrk(d(G), d(w[:2]), out=ones)),
    ):
        before = kept.copy_to_host()
        message = _message(call)
        found[name] = f"{message}; untouched {np.array_equal(kept.copy_to_host(), before)}"
    with ff.options(ladder="cholesky"):
        found["no ladder"] = _message(lambda: ff.solve(d(G), d(v), **h))
    return found


def _message(call):
    try:
        return f"nothing was refused: {call()}"
    except ff.errors.FisherError as error:
        return str(error)


def _dropped():
    """How many copies are waited for where slices of host scores are given up after the first."""
    from fastfisher.arrays import as_scores as host_scores
    from fastfisher.devices import door, slices

    waited = []
    event = types.SimpleNamespace(
        record=lambda stream: None,
        wait=lambda stream: None,
        synchronize=lambda: waited.append(1),
    )
    G = door.as_scores(host_scores(np.ones(TALL)))
    with _slices(48), mock.patch.object(slices.memory, "event", lambda: event):
        rows = slices.row_slices(G)
        next(rows)
        rows.close()
    return len(waited)


def _ladder():
    G = np.repeat(matrices.generator("ladder").standard_normal((5, 1)), 3, axis=1)
    with ff.options(ladder=ff.Ladder(escalations=4)):
        made = ff.solve(_there(G), _there(G[0]), damping=0.0, method="primal")
        expected = ff.solve(G, G[0], damping=0.0, method="primal")
    return {
        "rung": made.rung,
        "escalation": made.escalation,
        "expected": expected.escalation,
        "status": made.status,
    }


def _propagated():
    G = np.ones(TALL)
    G[1, 1] = np.nan
    made = ff.solve(_there(G), _there(G[0]), damping=0.1, method="primal", nan_policy="propagate")
    x = made.x.copy_to_host()
    return {"status": made.status, "nan": bool(np.isnan(x).all()), "damping": made.damping}


class Traffic:
    """Counts what goes over the bus, and how often the host waits."""

    def __init__(self):
        from fastfisher.kernels.cuda import compat, memory

        self.to_host = self.to_device = self.waits = self.launches = 0
        self._stack = contextlib.ExitStack()
        for module, name, count in (
            (memory, "copy_in", "to_device"),
            (memory, "copy_out", "to_host"),
            (memory, "synchronize", "waits"),
            (compat, "launch", "launches"),
        ):
            self._stack.enter_context(
                mock.patch.object(module, name, self._counting(getattr(module, name), count))
            )

    def _counting(self, function, count):
        def counted(*args):
            setattr(self, count, getattr(self, count) + 1)
            return function(*args)

        return counted

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stack.close()


def counted():
    """{call: copies to the device, to the host, waits} of calls on device arrays."""
    from fastfisher.kernels.cuda import compat, simulated  # noqa: F401 - loaded before counting

    rng = matrices.generator("counted")
    G, w, v = _there(rng.standard_normal(TALL)), _there(np.ones(5)), _there(np.ones(3))
    wide, u = _there(rng.standard_normal(WIDE)), _there(np.ones(3))
    calls = {
        "primal": lambda: ff.solve(G, v, damping=0.1, weights=w, method="primal"),
        "dual": lambda: ff.solve(wide, coef=u, damping=0.1, center=True, method="dual"),
        "cg": lambda: ff.solve(G, v, damping=0.1, weights=w, method="cg"),
        "natural_gradient": lambda: ff.natural_gradient(G, damping=0.1, method="primal"),
        "syrk": lambda: ff.ops.syrk(G, w),
        "fvp": lambda: ff.ops.fvp(G, v, w),
    }
    found = {}
    for name, call in calls.items():
        with Traffic() as traffic:
            call()
        found[name] = [traffic.to_device, traffic.to_host, traffic.waits]
    found["ladder"], found["propagated"] = _ladder(), _propagated()
    found["dropped"] = _dropped()
    return found


def operated():
    """{op: largest error, relative} of the ops on device arrays, beside those of the host."""
    rng = matrices.generator("operated on a device")
    G, w = rng.standard_normal(TALL), np.array([0.5, 0.0, 2.0, 1.0, 1.5])
    v, u = rng.standard_normal((3, 2)), rng.standard_normal(5)
    A = G.T @ G + np.eye(3)
    blocks, single = np.stack([A, 2 * A]), G.astype(np.float32)
    L, E = np.linalg.cholesky(A), rng.standard_normal((5, 2))
    scores = rng.standard_normal((2, 4, 3))
    calls = {
        "syrk": ((G, w), {}),
        "syrk-float32": ((single, w), {}),
        "gram": ((G, w), {}),
        "fvp": ((G, v, w), {}),
        "matvec": ((G, v[:, 0].copy()), {}),
        "rmatvec": ((G, u), {}),
        "diag": ((G, w), {}),
        "cholesky": ((A,), {"damping": 0.5}),
        "cho_solve": ((L, v), {}),
        "batched_solve": ((blocks, v.T.copy()), {"damping": 0.1}),
        "block_syrk": ((G, 1, w), {}),
        "block_cholesky": ((blocks,), {"damping": np.array([0.5, 1.5])}),
        "layered_diag": ((G, E), {}),
        "layered_diag-tokens": (
            (
                single.reshape(1, 5, 3),
                E.reshape(1, 5, 2).astype("f"),
            ),
            {},
        ),
        "batched_metric_solve": ((scores, v.T.copy(), w[:4]), {"damping": 0.1}),
        "group_sums": ((single.astype("e"), np.array([7, 3, 7, -1, 3])), {}),
        "batched_syrk": ((scores, np.stack([w[:4], w[1:]])), {}),
        "block_solve": ((np.stack([L, L]), rng.standard_normal(6)), {}),
    }
    found = {}
    for name, (args, settings) in calls.items():
        op = getattr(ff.ops, name.partition("-")[0])
        there = [_there(x) if isinstance(x, np.ndarray) else x for x in args]
        also = {k: _there(x) if isinstance(x, np.ndarray) else x for k, x in settings.items()}
        pairs = op(*there, **also), op(*args, **settings)
        if not isinstance(pairs[1], tuple):
            pairs = (pairs[0],), (pairs[1],)
        for x, y in zip(*pairs, strict=True):
            assert x.dtype == y.dtype and tuple(x.shape) == y.shape, name
            error = np.abs(x.copy_to_host() - y).max() / (np.abs(y).max() or 1)
            found[name] = max(found.get(name, 0.0), float(error / np.finfo(args[0].dtype).eps))
    layers = ff.ops.layered_gram([(_there(G), _there(E))]).copy_to_host()
    found["layered_gram"] = float(np.abs(layers - ff.ops.layered_gram([(G, E)])).max() * 2**52)
    out = _there(np.zeros((3, 3)))
    assert ff.ops.syrk(_there(G), out=out) is out
    found["out"] = float(np.abs(out.copy_to_host() - G.T @ G).max() * 2**52)
    return found


class Foreign:
    """A device array of another library, known by its interface alone."""

    def __init__(self, a, stream=None):
        self.a = a
        self.__cuda_array_interface__ = {
            **a.__array_interface__,
            "version": 3,
            "stream": stream,
        }

    __cuda_array_interface__ = None


def in_kind():
    """Kinds of the answers, and the streams and pools that were asked."""
    rng = matrices.generator("in kind")
    G, v = rng.standard_normal(TALL), rng.standard_normal(3)
    expected = ff.natural_gradient(G, v, damping=0.1)
    asked = {"empty": 0, "stream": 0}

    class Array(Foreign):
        pass

    def empty(shape, dtype):
        asked["empty"] += 1
        return Array(np.empty(shape, dtype))

    def current():
        asked["stream"] += 1
        return types.SimpleNamespace(ptr=0)

    Array.__module__ = "cupy"
    library = types.ModuleType("cupy")
    library.empty = empty
    library.cuda = types.SimpleNamespace(get_current_stream=current)
    # Before the patch, which forgets what was imported inside it.
    y = ff.natural_gradient(Foreign(G, 7), Foreign(v, 7), damping=0.1)
    with mock.patch.dict(sys.modules, {"cupy": library}):
        x = ff.natural_gradient(Array(G), Array(v), damping=0.1)
    A = G.T @ G + np.eye(3)
    given, kept = Foreign(A.copy()), Foreign(A.copy())
    locked = Foreign(A.copy())
    locked.__cuda_array_interface__["data"] = (locked.a.ctypes.data, True)
    L = np.linalg.cholesky(A + 0.5 * np.eye(3))
    made = ff.ops.cholesky(given, damping=0.5, overwrite=True)
    ff.ops.cholesky(kept, damping=0.5)
    ff.ops.cholesky(locked, damping=0.5, overwrite=True)
    return {
        "overwritten": made is given and bool(np.allclose(given.a, L, rtol=1e-14, atol=0)),
        "kept": bool(np.array_equal(kept.a, A) and np.array_equal(locked.a, A)),
        "cupy": type(x).__name__,
        "asked": asked,
        "error": float(np.abs(x.a - expected).max()),
        "unknown": type(y).__name__,
        "input": bool(np.array_equal(G, matrices.generator("in kind").standard_normal(TALL))),
    }
