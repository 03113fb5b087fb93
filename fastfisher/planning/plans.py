"""Problem -> Plan: the formulation by flops and memory, its stages, their cost, and the reason.

Nothing is computed or allocated here.
"""

import math
from dataclasses import dataclass

import numpy as np

from .. import machine
from ..errors import InputError, MemoryLimitError
from .table import ALL, choose

__all__ = [
    "METHODS",
    "Plan",
    "Problem",
    "Stage",
    "check_device",
    "check_method",
    "plan",
    "plan_factored",
    "plan_problem",
    "require_memory",
]

METHODS = ("auto", "primal", "dual", "cg")
MEMORY_SHARE = 0.8  # of what is available; above it a plan is refused

# Only ratios of these matter: they weigh a pass over memory against arithmetic.
NOMINAL_FLOPS = 1e11  # per second
NOMINAL_BYTES = 2e10  # per second
NOMINAL_CG_ITERATIONS = 300  # what a direct solve must beat before cg is chosen unasked


@dataclass(frozen=True)
class Problem:
    """Everything a plan depends on."""

    n: int
    p: int
    rhs: int = 1
    dtype: str = "float64"
    method: str = "auto"
    device: str = "cpu"
    weighted: bool = False
    centered: bool = False
    direct: bool = True  # kernels can read G where it lies

    @property
    def itemsize(self):
        return np.dtype(self.dtype).itemsize

    @property
    def sum_bytes(self):
        """Bytes of one accumulator: sums are kept in double."""
        return 16 if np.dtype(self.dtype).kind == "c" else 8

    @property
    def multiply_add(self):
        """Real flops of one multiply-add."""
        return 8 if np.dtype(self.dtype).kind == "c" else 2


@dataclass(frozen=True)
class Stage:
    """One step of a plan."""

    op: str
    kernel: str
    size: str
    flops: int
    bytes: int
    workspace: int = 0
    reproducible: bool = True


@dataclass(frozen=True)
class Plan:
    """How a problem is solved, what it costs, and why. Printable; `stages` in order.

    ``peak_bytes`` counts every array allocated on top of the inputs, the result included.
    For cg, flops and bytes are those of one iteration.
    """

    problem: Problem
    method: str
    stages: tuple
    peak_bytes: int
    because: str

    @property
    def flops(self):
        return sum(stage.flops for stage in self.stages)

    @property
    def bytes(self):
        return sum(stage.bytes for stage in self.stages)

    @property
    def reproducible(self):
        return all(stage.reproducible for stage in self.stages)

    def __str__(self):
        q = self.problem
        unit = "iteration" if self.method == "cg" else "solve"
        lines = [
            f"{self.method}: {q.n} samples x {q.p} parameters, {q.rhs} right-hand side"
            f"{'' if q.rhs == 1 else 's'}, {q.dtype}, {q.device}",
            f"  because {self.because}",
            f"  {'stage':<22}{'kernel':<28}{'size':<18}{'flops':>10}{'bytes':>11}",
        ]
        for s in self.stages:
            mark = "" if s.reproducible else " *"
            lines.append(
                f"  {s.op:<22}{s.kernel + mark:<28}{s.size:<18}"
                f"{s.flops:>10.2e}{_bytes(s.bytes):>11}"
            )
        lines.append(
            f"  per {unit}: {self.flops:.2e} flops, {_bytes(self.bytes)} moved; "
            f"peak memory {_bytes(self.peak_bytes)}"
        )
        if not self.reproducible:
            lines.append(
                "  * vendor call: one uninterruptible step per slice, and its bits depend on the "
                "number of threads"
            )
        return "\n".join(lines)


def _bytes(count):
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _stage(problem, op, size, text, flops, moved, workspace=0, dtype=None):
    entry = choose(op, size, dtype or problem.dtype, device=problem.device)
    return Stage(op, entry.name, text, int(flops), int(moved), int(workspace), entry.reproducible)


def _sums_dtype(problem):
    return "complex128" if np.dtype(problem.dtype).kind == "c" else "float64"


def _slice_bytes(q):
    """Converted, weighted or centred copy of one slice of scores."""
    return min(q.n * q.p * q.itemsize, 64 << 20)


def _product_workspace(q, op, order, summed):
    """Bytes that syrk (order p, summed n) or gram (order n, summed p) needs besides its result."""
    entry = choose(op, order, q.dtype, device=q.device)
    copies = 0 if q.direct else _slice_bytes(q)
    if entry.vendor:
        copied = (q.weighted and op == "syrk") or q.centered
        part = order * order * q.itemsize if q.itemsize < q.sum_bytes else 0
        return copies + part + (_slice_bytes(q) if copied else 0)
    if order > 128:
        return copies + order * 256 * max(1, min(4, 4096 // order)) * q.itemsize
    in_slice = min(summed, max((64 << 20) // max(order * q.itemsize, 1), 4096))
    return copies + -(-in_slice // 4096) * order * (order * q.sum_bytes + 512 * q.itemsize)


def _fvp_workspace(q):
    copies = 0 if q.direct else _slice_bytes(q)
    block = q.rhs * q.p * q.itemsize
    blocks = min(-(-q.n // 256), max(4, (16 << 20) // max(block, 1)))
    return copies + blocks * block + q.rhs * q.n * (q.itemsize + q.sum_bytes)


def _vectors(q, per_parameter, per_sample):
    return q.sum_bytes * q.rhs * (per_parameter * q.p + per_sample * q.n)


def _fvp_stage(q, name="fvp"):
    moved = q.n * q.p * q.itemsize
    return _stage(
        q,
        name,
        q.rhs,
        f"{q.n} x {q.p}",
        2 * q.multiply_add * q.n * q.p * q.rhs,
        moved,
        _fvp_workspace(q),
    )


def _direct_stages(q, op, order, summed):
    sums = _sums_dtype(q)
    ma = q.multiply_add
    text = f"{order} x {order}"
    square = order * order * q.sum_bytes
    return [
        _stage(
            q,
            op,
            order,
            f"{q.n} x {q.p}",
            ma * summed * order * (order + 1) / 2,
            q.n * q.p * q.itemsize + square,
            _product_workspace(q, op, order, summed),
        ),
        _stage(q, "cholesky", order, text, ma * order**3 / 6, square, 0, sums),
        _stage(q, "solve_lower", order, text, ma * order**2 * q.rhs / 2, square / 2, 0, sums),
        _stage(
            q, "solve_lower_adjoint", order, text, ma * order**2 * q.rhs / 2, square / 2, 0, sums
        ),
    ]


def _primal(q):
    stages = [*_direct_stages(q, "syrk", q.p, q.n), _fvp_stage(q)]
    return stages, q.p * q.p * q.sum_bytes + _vectors(q, 6, 1)


def _dual(q):
    product, *factor = _direct_stages(q, "gram", q.n, q.p)
    one = q.multiply_add * q.n * q.p * q.rhs
    text, moved = f"{q.n} x {q.p}", q.n * q.p * q.itemsize
    stages = [
        product,
        _stage(q, "matvec", q.rhs, text, one, moved),
        *factor,
        _stage(q, "rmatvec", q.rhs, text, one, moved, _fvp_workspace(q)),
        _fvp_stage(q),
    ]
    return stages, q.n * q.n * q.sum_bytes + _vectors(q, 6, 3)


def _cg(q):
    stages = [_fvp_stage(q)]
    return stages, _vectors(q, 9, 1)


_ROUTES = {"primal": _primal, "dual": _dual, "cg": _cg}


def _route(q, method):
    stages, resident = _ROUTES[method](q)
    return stages, int(resident + max(stage.workspace for stage in stages))


def _seconds(stages):
    return sum(max(s.flops / NOMINAL_FLOPS, s.bytes / NOMINAL_BYTES) for s in stages)


def _select(q, routes, room):
    """Name of the route for method="auto", and the reason."""
    cost = {name: _seconds(stages) for name, (stages, _) in routes.items()}
    cost["cg"] *= NOMINAL_CG_ITERATIONS
    flops = {name: sum(s.flops for s in stages) for name, (stages, _) in routes.items()}
    direct = "primal" if flops["primal"] <= flops["dual"] else "dual"
    other = "dual" if direct == "primal" else "primal"
    for name in (direct, other):
        if routes[name][1] <= room:
            if name != direct:
                why = f"{direct} would need {_bytes(routes[direct][1])} of {_bytes(room)} memory"
            elif cost["cg"] < cost[name]:
                break
            else:
                why = (
                    f"{name} takes {flops[name]:.1e} flops, {other} {flops[other]:.1e} "
                    f"({'n < p' if q.n < q.p else 'p <= n'})"
                )
            return name, why
    if routes[direct][1] > room:
        return "cg", f"primal and dual need more than the {_bytes(room)} of memory there is"
    return "cg", (
        f"{NOMINAL_CG_ITERATIONS} iterations cost less than {direct}, {flops[direct]:.1e} flops"
    )


def memory_room():
    """Bytes a plan may use: a share of what is available."""
    available = machine.available_memory()
    return math.inf if available is None else int(MEMORY_SHARE * available)


def plan_problem(q, *, enforce=False):
    """Plan a problem; with `enforce`, refuse what does not fit in memory."""
    room = memory_room()
    routes = {name: _route(q, name) for name in _ROUTES}
    if q.method == "auto":
        method, because = _select(q, routes, room)
    else:
        method, because = q.method, "the caller chose it"
    stages, peak = routes[method]
    made = Plan(q, method, tuple(stages), peak, because)
    if enforce and peak > room:
        fitting = min(routes, key=lambda name: routes[name][1])
        advice = (
            f'method="{fitting}" would need {_bytes(routes[fitting][1])}'
            if routes[fitting][1] <= room
            else "no route fits; use fewer samples or parameters, or a structured Fisher"
        )
        raise MemoryLimitError(
            f"this plan needs {_bytes(peak)} but only {_bytes(room)} may be used "
            f"({MEMORY_SHARE:.0%} of what is available); {advice}\n{made}",
            plan=made,
        )
    return made


def require_memory(count, what):
    """Refuse an allocation of `count` bytes that does not fit."""
    room = memory_room()
    if count > room:
        raise MemoryLimitError(
            f"{what} would take {_bytes(count)} but only {_bytes(room)} may be used "
            f"({MEMORY_SHARE:.0%} of what is available); use a structured Fisher or a matrix-free "
            "solve (method='cg')"
        )


def plan_factored(order, rhs, dtype, *, rung="cholesky"):
    """Plan of a solve by a matrix that is there already: factor and solve, or divide."""
    q = Problem(n=0, p=order, rhs=rhs, dtype=dtype, method="primal")
    if rung == "division":
        words = q.sum_bytes * order * rhs
        stage = Stage("divide", "numpy", f"{order}", order * rhs, 3 * words, 0)
        return Plan(q, "primal", (stage,), 3 * words, "F is diagonal")
    _, *stages = _direct_stages(q, "syrk", order, 0)
    peak = order * order * q.sum_bytes + _vectors(q, 6, 0)
    return Plan(q, "primal", tuple(stages), int(peak), "F is at hand as a dense matrix")


def check_method(method):
    """One of METHODS, or InputError."""
    if method not in METHODS:
        raise InputError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    return method


def plan(n, p, *, rhs=1, dtype="float64", method="auto", device="cpu"):
    """How ``solve`` would treat n samples of p parameters: stages, kernels, cost, memory, reason.

    Parameters
    ----------
    n, p : int
        Samples and parameters, >= 0.
    rhs : int
        Right-hand sides solved at once.
    dtype : str or numpy.dtype
        Dtype of the scores: float32, float64, complex64, complex128, float16 or bfloat16.
    method : {"auto", "primal", "dual", "cg"}
        Formulation; "auto" takes the one with the fewest flops that fits in memory.
    device : {"cpu"}
        Where to compute.

    Returns
    -------
    Plan
        ``print(plan)`` shows it; ``.method .stages .flops .bytes .peak_bytes .because``.

    Raises
    ------
    InputError
        For a negative size or an unknown dtype, method or device.

    Notes
    -----
    Costs nothing: no array is allocated and no kernel compiled. ``peak_bytes`` counts the arrays
    on top of the inputs. Flops follow docs/math.md, table of D8.

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.plan(100, 5000).method
    'dual'
    """
    return plan_problem(
        Problem(
            n=_count(n, "n"),
            p=_count(p, "p"),
            rhs=_count(rhs, "rhs"),
            dtype=_dtype_name(dtype),
            method=check_method(method),
            device=check_device(device),
            direct=str(dtype) not in ("float16", "bfloat16"),
        )
    )


def _count(value, name):
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 0:
        raise InputError(f"{name} is {value!r}; expected an integer >= 0")
    return int(value)


def _dtype_name(dtype):
    if str(dtype) in ("float16", "bfloat16"):
        return "float32"
    try:
        name = np.dtype(dtype).name
    except TypeError as error:
        raise InputError(f"dtype is {dtype!r}; expected one of {', '.join(ALL)}") from error
    if name not in ALL and name != "float16":
        raise InputError(f"dtype is {dtype!r}; expected one of {', '.join(ALL)}")
    return "float32" if name == "float16" else name


def check_device(device):
    """Only the host is available; None means wherever the array lies."""
    if device not in (None, "cpu"):
        raise InputError(f"device is {device!r}; this version computes on 'cpu'")
    return "cpu"
