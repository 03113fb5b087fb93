"""The public ops on arrays of a CUDA device, beside those of the host, and the kinds of answers."""

import sys
import types
from unittest import mock

import numpy as np

import fastfisher as ff
from tests import matrices
from tests.solvers.device_arrays import TALL, there

__all__ = ["calls", "in_kind", "operated"]


def calls():
    """{op, or op-variant: (operands, settings)}."""
    rng = matrices.generator("operated on a device")
    G, w = rng.standard_normal(TALL), np.array([0.5, 0.0, 2.0, 1.0, 1.5])
    v, u = rng.standard_normal((3, 2)), rng.standard_normal(5)
    A = G.T @ G + np.eye(3)
    blocks, single = np.stack([A, 2 * A]), G.astype(np.float32)
    L, E = np.linalg.cholesky(A), rng.standard_normal((5, 2))
    scores, half = rng.standard_normal((2, 4, 3)), G.astype(np.float16)
    return {
        "syrk": ((G, w), {}),
        "syrk-float32": ((single, w), {}),
        "fvp-half": ((half, v.astype(np.float16)), {}),
        "block_syrk-half": ((half, 3, w), {}),
        "layered_gram-half": (([(half, E.astype(np.float16))],), {}),
        "layered_diag-half": ((half, E.astype(np.float16)), {}),
        "batched_syrk-half": ((scores.astype(np.float16), w[:4]), {}),
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
        "layered_gram": (([(G, E)],), {}),
        "layered_diag": ((G, E), {}),
        "layered_diag-tokens": ((single.reshape(1, 5, 3), E.reshape(1, 5, 2).astype("f")), {}),
        "batched_metric_solve": ((scores, v.T.copy(), w[:4]), {"damping": 0.1}),
        "group_sums": ((single.astype("e"), np.array([7, 3, 7, -1, 3])), {}),
        "batched_syrk": ((scores, np.stack([w[:4], w[1:]])), {}),
        "block_solve": ((np.stack([L, L]), rng.standard_normal(6)), {}),
    }


def operated():
    """{op: largest error, relative} of the ops on device arrays, beside those of the host."""
    found = {}
    for name, (args, settings) in calls().items():
        op = getattr(ff.ops, name.partition("-")[0])
        also = {key: there(x) for key, x in settings.items()}
        pairs = op(*there(args), **also), op(*args, **settings)
        if not isinstance(pairs[1], tuple):
            pairs = (pairs[0],), (pairs[1],)
        for x, y in zip(*pairs, strict=True):
            assert x.dtype == y.dtype and tuple(x.shape) == y.shape, (name, x.dtype, y.dtype)
            unit = np.finfo(y.dtype).eps if y.dtype.kind == "f" else 1
            error = np.abs(x.copy_to_host() - y).max() / (np.abs(y).max() or 1) / unit
            found[name] = max(found.get(name, 0.0), float(error))
    G, out = there(np.ones(TALL)), there(np.zeros((3, 3)))
    assert ff.ops.syrk(G, out=out) is out
    found["out"] = float(np.abs(out.copy_to_host() - TALL[0]).max() * 2**52)
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
