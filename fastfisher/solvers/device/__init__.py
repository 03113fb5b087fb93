"""Solves on a CUDA device: the twins of primal, dual, cg and mixed, queued end to end.

The host waits once per solve, for a report of some numbers; cg once per chunk of iterations, mixed
also for what it decides by (mixed.py). Scores of any size may lie on the host: they then pass over
the bus in slices.
"""

import numpy as np

from ... import arrays
from ...arrays import check_policy, to_origin
from ...devices import lies_on_device
from ...devices.door import (
    DeviceScores,
    as_rows,
    as_scores,
    as_weights,
    on_host,
    result,
    working_with,
)
from ...devices.passes import bad_row
from ...devices.slices import row_slices
from ...errors import InputError
from ...kernels.cuda import compat, memory
from ...planning import Problem, plan_problem
from ..cutoffs import Cutoff
from ..ladder import current_ladder
from .report import Report
from .samples import not_finite, without_bad_rows
from .solve import Run
from .system import make_system

__all__ = ["finite_rows", "solve_on_device"]

RESIDENT_SHARE = 0.5  # of free memory that host scores may take and stay on the device


class _Device:
    """Operands that lie on a device, answered in kind."""

    there = True

    def __init__(self, G, *others):
        self._scope = working_with(G, *others)
        self.origin = G

    def __enter__(self):
        return self._scope.__enter__() or self

    def __exit__(self, *error):
        return self._scope.__exit__(*error)

    def scores(self, G):
        return as_scores(G)

    def rows(self, b, size, dtype, name, axis="p"):
        return as_rows(b, size, name, axis=axis)

    def weights(self, w, n):
        return None if w is None else as_weights(w, n)

    def new(self, shape, dtype):
        return result(self.origin, shape, dtype)

    def answer(self, made):
        return made


class _Host:
    """Operands of the host, copied in and answered there, in kind."""

    there = False

    def __init__(self, G, *others):
        self._scope = on_host()
        self.origin = G

    def __enter__(self):
        self._scope.__enter__()
        return self

    def __exit__(self, *error):
        return self._scope.__exit__(*error)

    def scores(self, G):
        """Scores copied to the device if they fit beside what a solve needs there, else as is."""
        host = as_scores(arrays.as_scores(G))
        n, p = host.shape
        size = n * p * host.data.stored.itemsize
        if size > RESIDENT_SHARE * memory.free_bytes():
            return host
        bits = np.dtype(np.uint16) if host.data.stored.name == "bfloat16" else host.data.stored
        there = compat.empty((n, p), bits)
        for lo, hi, rows in row_slices(host):
            memory.copy(there[lo:hi], rows)
        return DeviceScores(there, host.dtype, G)

    def rows(self, b, size, dtype, name, axis="p"):
        rows, single = arrays.as_vectors(b, size, dtype, name, axis=axis)
        if rows.dtype.kind == "c":
            raise InputError(f"{name} is complex; complex arrays need device='cpu'")
        return memory.to_device(rows.astype(np.float64)), single

    def weights(self, w, n):
        return None if w is None else memory.to_device(arrays.as_weights(w, n)[np.newaxis])

    def new(self, shape, dtype):
        made = compat.cuda.device_array(tuple(shape), np.dtype(dtype))
        return made, made

    def answer(self, made):
        return to_origin(memory.to_host(made), self.origin)


def solve_on_device(
    G,
    b,
    coef,
    *,
    damping,
    weights=None,
    center=False,
    method="auto",
    nan_policy="raise",
    device=None,
    x0=None,
    announce=None,
    name="b",
    **settings,
):
    """The Solution of `fastfisher.solve`; neither b nor coef stands for the mean gradient."""
    check_policy(nan_policy)
    there = lies_on_device(G)
    if device == "cpu":
        raise InputError(
            "G lies on a device but device='cpu'; pass a host copy (torch: .cpu(), cupy: .get())"
        )
    with (_Device if there else _Host)(G, b, coef, weights, x0) as place:
        scores = place.scores(G)
        n, p = scores.shape
        if not n or not p:
            raise InputError(f"G has shape {(n, p)}; on a device it cannot be empty")
        single, given, f = True, None, None
        if b is not None:
            given, single = place.rows(b, p, scores.dtype, name)
            if name == "g" and not single:
                raise InputError(f"g holds {given.shape[0]} vectors; use solve for several")
        elif coef is not None:
            f, single = place.rows(coef, n, scores.dtype, "coef", "n")
        elif not center:
            f = compat.empty((1, n), np.float64)
            memory.fill(f, 1.0)
        sides = 1 if f is None and given is None else (given if f is None else f).shape[0]
        start = None if x0 is None else place.rows(x0, p, scores.dtype, "x0")[0]
        if start is not None and start.shape[0] != sides:
            raise InputError(
                f"x0 holds {start.shape[0]} vectors but there are {sides} right-hand sides"
            )
        weights = place.weights(weights, n)
        if nan_policy == "skip":
            scores, weights, _ = without_bad_rows(scores, weights)
        plan = _plan(scores, weights, center, sides, method, damping, undamped=f is not None)
        if announce is not None:
            announce(plan)
        report = Report(sides)
        system = make_system(scores, weights, center, damping, report)
        if given is None and f is None:  # docs/math.md D6
            given = compat.empty((1, p), np.float64)
            memory.copy(given, system.mean.reshape(1, p))
        run = Run(place, plan, given, f, start, single, nan_policy, settings)
        return run.solution(system, report)


def finite_rows(G):
    """InputError naming the first row of device scores that is not finite. Waits."""
    with working_with(G):
        row, _ = bad_row(as_scores(G))
    if row is not None:
        raise not_finite(row)


def _plan(scores, weights, center, sides, method, damping, *, undamped):
    n, p = scores.shape
    problem = Problem(
        n=n,
        p=p,
        rhs=sides,
        dtype=scores.dtype.name,
        method=method,
        device="cuda",
        weighted=weights is not None,
        centered=bool(center),
        direct=scores.direct,
        halves=scores.stored.itemsize == 2,
        singular=undamped and damping.is_zero and n - bool(center) < p,
        spectral=isinstance(damping, Cutoff),
        climbs=current_ladder() is not None and not isinstance(damping, Cutoff),
    )
    return plan_problem(problem, enforce=True)
