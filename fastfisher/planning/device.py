"""The part of the table that is for CUDA devices, and what routes cost there.

No device has been measured: the rates are nominal ones of a data-centre GPU, and plans say so.
"""

import functools
import importlib.util
import math
from dataclasses import replace

import numpy as np

from ..kernels.cuda import BLOCK_BYTES, SAMPLES, SLICE_BYTES
from ..kernels.cuda.tilings import sliced_bytes
from ..kernels.slicing import MOST_SLICES
from .choices import current_options, decide
from .costs import NOMINAL_REFINEMENTS, MixedCosts, eigen_stage, mixed_side
from .records import Stage
from .table import INF, REAL, Band, Entry

__all__ = [
    "CUDA_TABLE",
    "DEVICE_ROUTES",
    "GROUNDS",
    "NORM_STEPS",
    "device_mixed_costs",
    "device_route",
    "eigen_entry",
]


def _ours(function, module=None):
    return Entry(f"cuda.{function}", f"cuda.{module or function}", function)


def _plain(function):
    """Without tensor cores."""
    return Entry(f"cuda.plain_{function}", f"cuda.{function}", f"plain_{function}")


# Who brings cuBLAS and cuSOLVER, in the order in which they are taken, and our module for each.
VENDORS = {"cupy": "cuda.vendor", "nvmath": "cuda.vendor_nvmath"}


@functools.cache
def _installed():
    return [name for name in VENDORS if importlib.util.find_spec(name) is not None]


def _theirs(function):
    """cuBLAS or cuSOLVER where CuPy or nvmath-python is installed."""
    return tuple(
        Entry(f"{name}.{function}", VENDORS[name], function, False) for name in _installed()
    )


def _both(function, module=None, *others):
    """Ours, and theirs."""
    return (_ours(function, module), *others, *_theirs(function))


def eigen_entry():
    """cuSOLVER's eigenvalues; None where nobody brings them, or the options leave them out: then
    they are LAPACK's, on the host."""
    return None if current_options().reproducible else next(iter(_theirs("eigh")), None)


def _because(text, entries):
    """Why the first entry, and what else there is."""
    others = [entry.name for entry in entries[1:] if not entry.reproducible]
    return f"{text}; {' and '.join(others)} not measured against it" if others else text


_TILES = "compute bound: tiles in shared memory, tensor cores for float64, sums in double"
_PASS = "memory bound: one pass, sums in double in a fixed order"
_BLOCKED = "blocked; the status stays on the device"
_ROWS = "a launch per block of unknowns"
_SMALL = "a system per thread, warp or block, by its order; loads are coalesced"
_ONLY = "no vendor routine does this"

# One row per op and size range, as in table.py.
CUDA_TABLE = tuple(
    Band(op, REAL, 0, INF, entries, _because(because, entries), "cuda")
    for op, entries, because in (
        ("syrk", _both("syrk", None, _plain("syrk")), _TILES),
        ("gram", _both("gram", None, _plain("gram")), _TILES),
        ("mirror", (_ours("mirror", "syrk"),), _ONLY),
        ("matvec", _both("matvec"), _PASS),
        ("rmatvec", _both("rmatvec", "matvec"), _PASS),
        ("fvp", (_ours("fvp", "matvec"),), _ONLY),
        ("diag", (_ours("diag"),), _ONLY),
        ("scan", (_ours("scan", "diag"),), _ONLY),
        ("peaks", (_ours("peaks"),), _ONLY),
        ("sliced_syrk", (_ours("sliced_syrk", "sliced"),), _ONLY),
        ("sliced_gram", (_ours("sliced_gram", "sliced"),), _ONLY),
        ("narrow", (_ours("narrow", "sliced"),), _ONLY),
        ("cholesky", _both("cholesky"), _BLOCKED),
        ("solve_lower", _both("solve_lower", "triangular"), _ROWS),
        ("solve_lower_adjoint", _both("solve_lower_adjoint", "triangular"), _ROWS),
        ("inverse_diagonal", (_ours("inverse_diagonal", "triangular"),), _ONLY),
        ("batched_solve", (_ours("batched_solve", "batched"),), _SMALL),
        ("batched_metric_solve", (_ours("batched_metric_solve", "metric"),), _ONLY),
        ("batched_syrk", (_ours("batched_syrk", "blocks"),), _ONLY),
        ("block_syrk", (_ours("block_syrk", "blocks"),), _ONLY),
        ("block_cholesky", (_ours("block_cholesky", "blocks"),), _SMALL),
        ("block_solve", (_ours("block_solve", "blocks"),), _SMALL),
        ("layered_gram", (_ours("layered_gram", "layered"),), _ONLY),
        ("layered_diag", (_ours("layered_diag", "moments"),), _ONLY),
    )
)

FLOPS = {"float64": 3e13, "float32": 3e13}  # per second, nominal
BYTES = 5e14  # the same of products of bytes
BANDWIDTH, LAUNCH, BUS = 3e12, 5e-6, 2.5e10
GROUNDS = "times are nominal, those of a data-centre GPU: none has been measured"
PARTS_BYTES = 130 << 20  # of partial sums of a product, at most
BOTH = "matvec", "rmatvec"
NORM_STEPS = 3  # products with F that tell its norm, in mixed precision


def _stage(op, size, text, flops, moved, dtype="float64", launches=1, workspace=0, rate=None):
    choice = decide(op, size, dtype, device="cuda")
    seconds = max(flops / (rate or FLOPS[dtype]), moved / BANDWIDTH) + launches * LAUNCH
    entry = choice.entry
    return Stage(
        op,
        entry.name,
        text,
        int(flops),
        int(moved),
        int(workspace),
        entry.reproducible,
        seconds,
        choice.source,
        choice.measured,
    )


def _pass(q, op, factor, passes=1):
    flops = factor * q.n * q.p * q.rhs * passes
    text = f"{q.n} x {q.p}" if passes == 1 else f"{passes} passes"
    sums = 8 * q.rhs * q.p * -(-q.n // SAMPLES) if op != "matvec" else 0
    moved = q.n * q.p * q.stored_bytes * passes
    return _stage(op, q.rhs, text, flops, moved, q.dtype, 2 * passes, sums)


def _substitutions(order, sides, dtype, passes=1):
    """L^-1 and L^-T of so many rows, over and over."""
    text = f"{order} x {order}" if passes == 1 else f"{passes} passes"
    flops, moved = passes * order * order * sides, passes * np.dtype(dtype).itemsize * order**2 / 2
    launches = passes * -(-order // 32) / 2
    return [
        _stage(op, order, text, flops, moved, dtype, launches=launches)
        for op in ("solve_lower", "solve_lower_adjoint")
    ]


def _factored(q, op, order, summed):
    text, square = f"{order} x {order}", 8 * order * order
    moved = q.n * q.p * q.stored_bytes + square
    flops = summed * order * (order + 1)
    blocks = -(-order // 32)
    parts = min(PARTS_BYTES, square * -(-summed // SAMPLES))
    product = _stage(op, order, f"{q.n} x {q.p}", flops, moved, q.dtype, workspace=parts)
    if q.spectral:
        eigen = eigen_stage(replace(q, device="cpu"), order, text, square)
        entry, seconds = eigen_entry(), eigen.seconds + square / BUS  # the matrix goes to the host
        kernel = (
            "scipy.eigh, on the host" if entry is None else f"{entry.name}, vectors to the host"
        )
        room = 0 if entry is None else 4 * square
        return [product, replace(eigen, kernel=kernel, seconds=seconds, workspace=room)]
    return [
        product,
        _stage("cholesky", order, text, order**3 / 3, square, launches=3 * blocks),
        *_substitutions(order, q.rhs, "float64"),
    ]


def _kept(q, order):
    """Bytes of the matrix; with a ladder two more triangles, and rows of the scores in double."""
    square = 8 * order * order
    return 3 * square + BLOCK_BYTES if q.climbs else square


def _primal(q):
    stages = [*_factored(q, "syrk", q.p, q.n), _pass(q, "fvp", 4)]
    return stages, _kept(q, q.p) + 8 * q.rhs * (6 * q.p + q.n)


def _dual(q):
    product, *factor = _factored(q, "gram", q.n, q.p)
    one = _pass(q, "matvec", 2), _pass(q, "rmatvec", 2)
    stages = [product, one[0], *factor, one[1], _pass(q, "fvp", 4)]
    return stages, _kept(q, q.n) + 8 * q.rhs * (6 * q.p + 3 * q.n)


def _cg(q):
    return [_pass(q, "fvp", 4)], 8 * q.rhs * (10 * q.p + q.n)


def _rough(q, side):
    """Looks at the scores, the product of bytes, its factor in single precision; and the order."""
    op, order, summed = ("sliced_syrk", q.p, q.n) if side == "primal" else ("sliced_gram", q.n, q.p)
    text, moved = f"{order} x {order}", q.n * q.p * q.stored_bytes
    looks = [
        _stage("peaks", q.p, f"{q.n} x {q.p}", q.n * q.p, moved, q.dtype, 2),
        _pass(q, "diag", 3),
    ]
    workspace = sliced_bytes(max(order, 1), summed, MOST_SLICES)
    product = _stage(
        op,
        order,
        f"{q.n} x {q.p}",
        summed * order * (order + 1),
        moved + 8 * order * order,
        q.dtype,
        workspace=workspace,
        rate=BYTES,
    )
    launches = 3 * -(-order // 32)
    factor = _stage(
        "cholesky", order, text, order**3 / 3, 4 * order * order, "float32", launches=launches
    )
    return looks, product, factor, order


def _mixed(q):
    """A rough matrix, its factor, then a few products in the precision of the scores."""
    side = mixed_side(q)
    looks, product, factor, order = _rough(q, side)
    solves = _substitutions(order, q.rhs, "float32", NOMINAL_REFINEMENTS)
    if side == "primal":
        products = [_pass(q, "fvp", 4, NOMINAL_REFINEMENTS + NORM_STEPS + 1)]
    else:
        both = (_pass(q, op, 2, NOMINAL_REFINEMENTS) for op in BOTH)
        products = [*both, _pass(q, "fvp", 4, NORM_STEPS + 2)]
    stages = [*looks, product, factor, *solves, *products]
    resident = 12 * order * order + 8 * q.rhs * (13 * q.p + 10 * q.n)
    others, exact = DEVICE_ROUTES[side](q)  # which may follow
    exact += max(s.workspace for s in others) - max(s.workspace for s in stages)
    return stages, max(resident, exact)


def device_mixed_costs(q, side):
    """MixedCosts of a problem through its primal or dual; no product there is in single."""
    looks, product, factor, order = _rough(q, side)
    passes = [_pass(q, "fvp", 4)] if side == "primal" else [_pass(q, o, 2) for o in BOTH]
    step = sum(s.seconds for s in [*passes, *_substitutions(order, q.rhs, "float32")])
    exact = sum(s.seconds for s in DEVICE_ROUTES[side](q)[0])
    slicing = sum(s.seconds for s in looks)
    pairs = {"bytes": product.seconds}
    return MixedCosts(math.inf, pairs, slicing, factor.seconds, step, exact)


DEVICE_ROUTES = {"primal": _primal, "dual": _dual, "cg": _cg, "mixed": _mixed}


def device_route(q, method):
    """Stages of a method on a device, and its peak bytes there beside the scores."""
    stages, resident = DEVICE_ROUTES[method](q)
    copies = 0 if q.direct else min(q.n * q.p * q.stored_bytes, 2 * SLICE_BYTES)
    return stages, int(resident + copies + max(stage.workspace for stage in stages))
