"""What calls on a CUDA device copy over the bus, and how often the host waits."""

import contextlib
import types
from unittest import mock

import numpy as np

import fastfisher as ff
from tests import matrices
from tests.solvers.device_arrays import TALL, WIDE, slices_of, there

__all__ = ["Traffic", "counted"]


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
    with slices_of(48), mock.patch.object(slices.memory, "event", lambda: event):
        rows = slices.row_slices(G)
        next(rows)
        rows.close()
    return len(waited)


def _ladder():
    G = np.repeat(matrices.generator("ladder").standard_normal((5, 1)), 3, axis=1)
    with ff.options(ladder=ff.Ladder(escalations=4)):
        made = ff.solve(there(G), there(G[0]), damping=0.0, method="primal")
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
    made = ff.solve(there(G), there(G[0]), damping=0.1, method="primal", nan_policy="propagate")
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
    G, w, v = there(rng.standard_normal(TALL)), there(np.ones(5)), there(np.ones(3))
    wide, u = there(rng.standard_normal(WIDE)), there(np.arange(3.0))
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
