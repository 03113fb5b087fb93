"""What the package asks of a driver, by real device arrays of numba-cuda on the stand-in driver.py.

Each function runs in a process of its own and returns what JSON can hold.
"""

import contextlib
import gc
import sys
import types
from unittest import mock

import numpy as np

import fastfisher as ff
from tests import matrices
from tests.kernels.cuda.driver import seen, stand_in
from tests.solvers.device_arrays import there
from tests.solvers.device_ops import calls

__all__ = ["operated", "solved", "streamed", "walked"]


def _scores(*shape, dtype="float64"):
    return matrices.gaussian(shape, np.dtype(dtype), matrices.generator("driven", *shape))


def _facts(driver, call):
    """How a call ended, after how many waits, and what the driver saw."""
    from fastfisher.kernels.cuda import memory

    gc.collect()
    memory.free_bytes()  # what was dropped before is freed now
    driver.waits, driver.freed, driver.order.problems = 0, 0, set()
    try:
        ended = call()
    except Exception as error:
        ended = error
    return {
        "ended": type(ended).__name__,
        "said": str(ended),
        "waits": driver.waits,
        "freed": driver.freed,
        "problems": sorted(driver.order.problems),
    }


def solved():
    """Solves, whose kernels are compiled for what they are launched with."""
    driver, found = stand_in(), {}
    G, wide, b, coef = there([_scores(20, 5), _scores(5, 20), _scores(5), _scores(5, 2)])
    for name, call in {
        "primal": lambda: ff.solve(G, b, damping=0.1, center=True, method="primal"),
        "dual": lambda: ff.solve(wide, coef=coef, damping=0.1, method="dual"),
        "cg": lambda: ff.solve(G, b, damping=0.1, method="cg"),
    }.items():
        found[name] = _facts(driver, call)
    driver.room = 0
    found["no room"] = _facts(driver, lambda: ff.ops.fvp(G, b))
    return found


def operated():
    """Every public op, likewise."""
    driver, found = stand_in(), {}
    for name, (args, settings) in calls().items():
        args, settings = there(args), {key: there(x) for key, x in settings.items()}
        op = getattr(ff.ops, name.partition("-")[0])
        found[name] = _facts(driver, lambda op=op, a=args, s=settings: op(*a, **s))
    return found


def walked():
    """What else the package does to device arrays, compiled elsewhere."""
    driver, found = stand_in(), {}
    driver.compiles = False
    G, W, b, v, w = there([_scores(20, 5), _scores(5, 20), _scores(5), _scores(20), np.ones(20)])
    host, halves = _scores(20, 5), _scores(20, 5).astype(np.float16)
    strided, ids = there(np.asfortranarray(host)), there(np.arange(20) // 4)
    F, K = (
        ff.DeviceFisher(5, center=True).update(G, w),
        ff.DeviceGramFisher().update(W).update(W, b),
    )
    ladder, primal = ff.Ladder(escalations=1, cutoff=ff.HardCutoff(1e-9)), {"method": "primal"}
    damped = {"damping": 0.1}
    for name, call in {
        "centred": lambda: ff.solve(G, b, weights=w, center=True, **damped, **primal),
        "marquardt": lambda: ff.solve(W, v, damping=ff.Marquardt(0.1, shift=0.1), method="dual"),
        "minimum norm": lambda: ff.solve(W, coef=b, damping=0.0, method="dual", center=True),
        "cutoff": lambda: ff.solve(G, b, damping=ff.HardCutoff(0.1)),
        "skip": lambda: ff.solve(G, b, nan_policy="skip", **damped, **primal),
        "host": lambda: ff.solve(host, np.ones(5), device="cuda", **damped, **primal),
        "halves": lambda: ff.solve(halves, np.ones(5, "f"), device="cuda", method="dual", **damped),
        "strided": lambda: ff.solve(strided, b, method="dual", **damped),
        "groups": lambda: ff.solve(G, b, groups=ids, **damped, **primal),
        "gradient": lambda: ff.natural_gradient(G, damping=0.1),
        "blocks": lambda: ff.solve(G, b, method="cg", preconditioner=ff.BlockJacobi(2), **damped),
        "nystrom": lambda: ff.solve(G, b, method="cg", preconditioner=ff.Nystrom(2), **damped),
        "update": lambda: F.update(G, decay=0.5),
        "product": lambda: F @ b,
        "solve": lambda: F.solve(damping=0.1),
        "factor": lambda: F.factor(0.1).solve(b),
        "inverse": lambda: F.factor(0.1).inv_diagonal(),
        "quadratic": lambda: F.factor(0.1).inv_quad(G),
        "sample": lambda: F.factor(0.1).sample(np.random.default_rng(0), 3),
        "path": lambda: F.path(b, [0.1, 1.0]).x(),
        "held": lambda: [F.matrix(), F.diagonal(), F.mean, F.trace(), F.to_host()],
        "merge": lambda: ff.DeviceFisher(5).update(G).merge(ff.DeviceFisher(5).update(G)),
        "kept": lambda: [K.solve(damping=0.1), K @ v, K.gram(), K.mean, K.to_host()],
        "cholesky": lambda: ff.ops.cholesky(there(np.eye(4)), overwrite=True),
        "out": lambda: ff.ops.syrk(G, w, out=there(np.zeros((5, 5)))),
    }.items():
        found[name] = _facts(driver, call)
    with ff.options(ladder=ladder):
        for name, side in (("primal", (G, b)), ("dual", (W, v))):
            call = lambda side=side, name=name: ff.solve(*side, damping=0.0, method=name)  # noqa: E731
            found[f"ladder, {name}"] = _facts(driver, call)
    return found


@contextlib.contextmanager
def _broken(what):
    """Slices that do not wait for one of the things that they must wait for."""
    from fastfisher.devices import slices

    class Event:
        def __init__(self):
            self.real = real()

        def record(self, stream):
            self.real.record(stream)

        def wait(self, stream):
            mine = stream == 0
            if what != ("kernels before the copy" if mine else "copies before the buffer is free"):
                self.real.wait(stream)

        def synchronize(self):
            if what != "the host before the copy":
                self.real.synchronize()

    real = slices.memory.event
    with mock.patch.object(slices.memory, "event", Event):
        yield


def streamed():
    """Host scores in slices: what kernels find there, and whether all wait for what they must."""
    from fastfisher.arrays import as_scores as host_scores
    from fastfisher.devices import door, slices
    from fastfisher.kernels.cuda import memory

    driver, found = stand_in(), {}
    driver.compiles = False
    G = _scores(23, 4)
    for what in (
        "nothing",
        "kernels before the copy",
        "copies before the buffer is free",
        "the host before the copy",
    ):
        rows = []

        def look(name, arrays, rows=rows):
            if name == "_copy":
                rows.append(seen(arrays[1]).copy())

        with mock.patch.object(slices, "SLICE_BYTES", 5 * G.itemsize * 4), _broken(what):
            out, scores = memory.zeros((23, 4), np.float64), door.as_scores(host_scores(G))
            driver.look = look
            facts = _facts(
                driver,
                lambda scores=scores, out=out: [
                    memory.copy(out[lo:hi], part) for lo, hi, part in slices.row_slices(scores)
                ],
            )
            driver.wait()
        same = bool(np.array_equal(np.concatenate(rows).reshape(G.shape), G))
        found[what] = facts | {"same": same}
    found["flags"], found["free"] = list(driver.streams.values()), _free(memory)
    found["asked"] = _asked(driver)
    return found


def _free(memory):
    """Bytes that are free before an array is made, while it is there, and when it is gone."""
    from fastfisher.kernels.cuda import compat

    found = [memory.free_bytes()]
    for make in (compat.cuda.device_array, compat.empty):
        array = make((1 << 20,), np.uint8)
        found.append(memory.free_bytes())
        del array
        found.append(memory.free_bytes())
    return [found[0] - size >> 20 for size in found]


def _asked(driver):
    """A stream that is asked for, beside torch: which one its pool is asked for, what waits."""
    from numba import cuda

    pointers, current = [], [0]

    class Tensor:
        """An array of torch, which does not say what stream it was made on."""

        def __init__(self, a):
            self.a, self.device, self.requires_grad, self.dtype = a, 0, False, "torch.float64"

        @property
        def __cuda_array_interface__(self):
            if self.requires_grad:
                raise RuntimeError("call detach()")
            return {**self.a.__cuda_array_interface__, "stream": None}

    Tensor.__module__ = "torch"

    def empty(shape, dtype, device):
        pointers.append(current[0])
        return Tensor(cuda.device_array(shape, dtype))

    @contextlib.contextmanager
    def on(stream):
        before, current[0] = current[0], stream.cuda_stream
        yield
        current[0] = before

    def stream(pointer, device=None):
        return types.SimpleNamespace(cuda_stream=pointer)

    torch = types.ModuleType("torch")
    torch.empty, torch.float64 = empty, np.float64
    torch.cuda = types.SimpleNamespace(
        current_stream=lambda device: stream(current[0]),
        default_stream=lambda device: stream(0),
        ExternalStream=stream,
        stream=on,
    )
    with mock.patch.dict(sys.modules, {"torch": torch}):
        G, v = Tensor(there(_scores(20, 5))), Tensor(there(_scores(5)))
        from fastfisher.kernels.cuda import memory

        memory.copy(memory.view(v), memory.view(v))  # work on the current stream of torch
        mine = cuda.stream()
        with ff.options(stream=mine):
            facts = _facts(driver, lambda: ff.ops.fvp(G, v))
        v.requires_grad = True
        facts["with gradient"] = _facts(driver, lambda: ff.ops.fvp(G, v))["said"]
    return facts | {"pool": sorted({p == int(mine.handle) for p in pointers})}
