"""Problem -> Plan: the formulation by flops and memory, and the refusal of what does not fit.

Nothing is computed or allocated here.
"""

import functools
import math

import numpy as np

from .. import machine
from ..errors import InputError, MemoryLimitError
from ..kernels.cpu import memory as scratch
from ..kernels.storage import HALVES
from ..scalars import as_choice, as_count
from .choices import current_options
from .costs import (
    NOMINAL_REFINEMENTS,
    ROUTES,
    direct_stages,
    division_stage,
    mixed_forms,
    mixed_kind,
    mixed_side,
    route,
    surrounded,
    vector_bytes,
)
from .device import DEVICE_ROUTES, GROUNDS, device_route
from .records import Plan, Problem, format_bytes, format_seconds
from .table import ALL

__all__ = [
    "METHODS",
    "check_device",
    "check_method",
    "dtype_name",
    "forget_plans",
    "memory_room",
    "plan",
    "plan_factored",
    "plan_problem",
    "require_memory",
]

METHODS = ("auto", "primal", "dual", "cg", "mixed")
ALWAYS_FITS = 32 << 20  # bytes for which the system is not asked by a plan,
TRIFLE = 1 << 20  # and by whatever allocates something
MEMORY_SHARE = 0.8  # of what is available; above it a plan is refused
SHORT = 8  # times the scratch that is kept; where less is available, none is

MIXED_SHARE = 0.8  # of a direct solve's time that mixed precision may take to be chosen unasked
NOMINAL_CG_ITERATIONS = 300  # what others must take longer than before cg is chosen unasked


def _select(q, routes, room):
    """Name of the route for method="auto", and the reason."""
    if q.singular:
        return "dual", "damping is 0 and F singular: the dual gives the minimum-norm solution"
    cost = {name: sum(s.seconds for s in stages) for name, (stages, _) in routes.items()}
    cost["cg"] *= NOMINAL_CG_ITERATIONS
    flops = {name: sum(s.flops for s in stages) for name, (stages, _) in routes.items()}
    direct = "primal" if flops["primal"] <= flops["dual"] else "dual"
    other = "dual" if direct == "primal" else "primal"
    for name in (direct, other):
        if routes[name][1] <= room:
            if name != direct:
                need = format_bytes(routes[direct][1])
                why = f"{direct} would need {need} of the {format_bytes(room)} there is"
            elif _mixed_wins(q, direct, cost, routes, room):
                return "mixed", (
                    f"a rough matrix and {NOMINAL_REFINEMENTS} refinements take "
                    f"{format_seconds(cost['mixed'])}, {direct} {format_seconds(cost[direct])}; "
                    "where damping or data do not suit it, that follows"
                )
            elif cost["cg"] < cost[name] and not q.spectral:
                break
            else:
                why = (
                    f"{name} takes {flops[name]:.1e} flops, {other} {flops[other]:.1e} "
                    f"({'n < p' if q.n < q.p else 'p <= n'})"
                )
            return name, why
    if q.spectral:
        return direct, "eigenvalues are wanted, which cg does not give"
    if routes[direct][1] > room:
        return "cg", f"primal and dual need more than the {format_bytes(room)} of memory there is"
    return "cg", (
        f"{NOMINAL_CG_ITERATIONS} iterations cost less than {direct}, {flops[direct]:.1e} flops"
    )


def _mixed_wins(q, direct, cost, routes, room):
    """True if mixed precision is expected to be much faster, by products of integers; and than cg.

    Never on a device: none has been measured, so there it is for the caller to ask for.
    """
    if q.device == "cuda" or q.spectral or direct != mixed_side(q):
        return False
    gain = mixed_kind(q) and cost["mixed"] <= min(MIXED_SHARE * cost[direct], cost["cg"])
    return bool(gain) and routes["mixed"][1] <= room


def memory_room():
    """Bytes a plan may use: a share of what is available, without scratch that is kept."""
    available = machine.available_memory()
    if available is not None and available < SHORT * scratch.kept_bytes():
        scratch.forget()
        available = machine.available_memory()
    return _share(available)


def _share(available):
    return math.inf if available is None else int(MEMORY_SHARE * available)


def _room(device, enforce):
    """Bytes a plan may use there. A device is asked only by who is about to use it."""
    if device == "cpu":
        return memory_room()
    if not enforce:
        return math.inf
    from ..kernels.cuda import memory

    return _share(memory.free_bytes())


@functools.lru_cache(maxsize=1024)
def _routes(q, reproducible):
    if q.device == "cuda":
        return {name: device_route(q, name) for name in DEVICE_ROUTES}
    return {name: route(q, name) for name in ROUTES}


@functools.lru_cache(maxsize=1024)
def _unlimited(q, reproducible):
    """The plan where memory has no say, or None where it has."""
    made = _made(q, _routes(q, reproducible), math.inf)
    return made if made.peak_bytes <= ALWAYS_FITS else None


def _made(q, routes, room):
    if q.method == "auto":
        method, because = _select(q, routes, room)
    else:
        method, because = q.method, "the caller chose it"
    stages, peak = routes[method]
    if method == "mixed" and (forms := mixed_forms(q)):
        because += f"; {forms}"
    because += f"; {GROUNDS}" if q.device == "cuda" else ""
    return Plan(q, method, tuple(stages), peak, because)


def forget_plans():
    """Forget what was planned under another profile."""
    for plans in (_routes, _unlimited, _factored):
        plans.cache_clear()


def plan_problem(q, *, enforce=False):
    """Plan a problem; with `enforce`, refuse what does not fit in memory."""
    reproducible = current_options().reproducible
    if (made := _unlimited(q, reproducible)) is not None:
        return made
    routes, room = _routes(q, reproducible), _room(q.device, enforce)
    made = _made(q, routes, room)
    peak = made.peak_bytes
    if enforce and peak > room:
        fitting = min(routes, key=lambda name: routes[name][1])
        advice = (
            f'method="{fitting}" would need {format_bytes(routes[fitting][1])}'
            if routes[fitting][1] <= room
            else "no route fits; use fewer samples or parameters, or a structured Fisher"
        )
        raise MemoryLimitError(
            f"this plan needs {format_bytes(peak)} but only {format_bytes(room)} may be used "
            f"({MEMORY_SHARE:.0%} of what is available); {advice}\n{made}",
            plan=made,
        )
    return made


def require_memory(count, what):
    """Refuse an allocation of `count` bytes that does not fit."""
    if count <= TRIFLE:
        return
    room = memory_room()
    if count > room:
        raise MemoryLimitError(
            f"{what} would take {format_bytes(count)} but only {format_bytes(room)} may be used "
            f"({MEMORY_SHARE:.0%} of what is available); use a structured Fisher or a matrix-free "
            "solve (method='cg')"
        )


def plan_factored(n, order, rhs, dtype, *, rung="cholesky"):
    """Plan of a solve by a matrix that is there already: factor and solve, or divide."""
    q = Problem(n=n, p=order, rhs=rhs, dtype=dtype, method="primal", spectral=rung == "eigen")
    stages, peak, because = _factored(order, rhs, dtype, rung, current_options().reproducible)
    return Plan(q, "primal", stages, peak, because)


@functools.lru_cache(maxsize=1024)
def _factored(order, rhs, dtype, rung, reproducible):
    """Stages, bytes and grounds of such a plan, in which samples have no part."""
    eigen = rung == "eigen"
    q = Problem(n=0, p=order, rhs=rhs, dtype=dtype, method="primal", spectral=eigen)
    if rung == "division":
        # The diagonal beside right-hand sides, x, its certificate and what they are made of.
        peak = (1 + 5 * rhs) * order * q.sum_bytes
        return (division_stage(q),), peak, "F is diagonal"
    _, *stages = direct_stages(q, "syrk", order, 0)
    stages = surrounded(q, "primal", stages)
    work = max(stage.workspace for stage in stages)
    peak = (1 + eigen) * order * order * q.sum_bytes + work + vector_bytes(q, 6, 0)
    return tuple(stages), int(peak), "F is at hand as a dense matrix"


def check_method(method):
    """One of METHODS, or InputError."""
    return as_choice(method, "method", METHODS)


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
    method : {"auto", "primal", "dual", "cg", "mixed"}
        Formulation; "auto" takes the one with the fewest flops that fits in memory. "mixed" it
        takes on the host alone, where that is expected to be much faster: no device was measured.
    device : {"cpu", "cuda"}
        Where to compute.

    Returns
    -------
    Plan
        ``print(plan)`` shows it; ``.method .stages .seconds .flops .bytes .peak_bytes
        .because``.

    Raises
    ------
    InputError
        For a negative size or an unknown dtype, method or device; for complex scores on a device.

    Notes
    -----
    Costs nothing: no array is allocated and no kernel compiled. ``peak_bytes`` counts the arrays
    on top of the inputs. Flops follow docs/math.md, table of D8. It is for a damping that is a
    number; small problems with another one, or none, are solved in stages. Seconds are estimated
    from rates that came with the package, scaled to this machine, or those of ``fastfisher
    calibrate``, for solves one after the other: a small one takes some times as long by itself.

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.plan(100, 5000).method
    'dual'
    """
    name, device = dtype_name(dtype), check_device(device)
    if device == "cuda" and name.startswith("complex"):
        raise InputError(f"dtype is {name!r}; expected float32 or float64 on a device")
    return plan_problem(
        Problem(
            n=as_count(n, "n"),
            p=as_count(p, "p"),
            rhs=as_count(rhs, "rhs"),
            dtype=name,
            method=check_method(method),
            device=device,
            halves=_name(dtype) in HALVES,
            staged=current_options().progress is not None,
        )
    )


def _name(dtype):
    if str(dtype) in HALVES:  # NumPy alone does not know bfloat16
        return str(dtype)
    try:
        name = np.dtype(dtype).name
    except (TypeError, ValueError) as error:
        raise InputError(f"dtype is {dtype!r}; expected one of {', '.join(ALL)}") from error
    if name not in (*ALL, *HALVES):
        raise InputError(f"dtype is {dtype!r}; expected one of {', '.join(ALL)}")
    return name


def dtype_name(dtype):
    """Name of the dtype that scores of `dtype` are computed in, or InputError."""
    name = _name(dtype)
    return "float32" if name in HALVES else name


def check_device(device):
    """Where to compute, "cpu" or "cuda"; None, where the array lies, is the host here."""
    return "cpu" if device is None else as_choice(device, "device", ("cpu", "cuda"))
