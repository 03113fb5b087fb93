"""What each formulation costs: stages with flops, bytes, workspace. docs/math.md, table of D8."""

import math
from dataclasses import dataclass, replace

import numpy as np

from .. import machine
from ..kernels.cpu.splitting import (
    BLOCK_ROWS,
    SLICE_BYTES,
    SLICED_ORDER,
    factor_bytes,
    one_pass,
    padded,
    rank_k_bytes,
    sliced_terms,
    strip_rows,
)
from ..kernels.slicing import FORMS, KINDS
from .choices import choose, decide
from .profiles import current_rates, thread_count
from .rates import ITERATION, SOLVE
from .records import Stage
from .small import one_call
from .units import integer_unit

__all__ = [
    "ROUTES",
    "direct_stages",
    "division_stage",
    "eigen_stage",
    "mixed_costs",
    "mixed_forms",
    "mixed_kind",
    "mixed_side",
    "route",
    "stage_of",
    "surrounded",
    "vector_bytes",
]

NOMINAL_REFINEMENTS = 8  # products that a mixed-precision solve takes where one slice suits it
# Of products of slices, over those in single precision; that of "avxvnni", which has not been
# measured, by what its instructions do.
SLICED_SPEED = {
    "bytes": {"avxvnni": 4.0, "vnni": 4.0, "amx": 10.0},
    "septets": {"avx2": 2.2},
    "shorts": {"avx2": 1.4, "avxvnni": 2.0, "vnni": 1.5},
    "halves": {"avx512bf16": 1.6, "amx": 5.0},
}
INTEGERS = "bytes", "septets", "shorts"  # the fastest first
SLICED_SCRATCH = 16 << 20  # bytes beside the slices: blocks of 32-bit sums, samples
SLICING_READS = 4  # passes over the scores that finding peaks and slicing take, in time
# Passes over right-hand sides, in double, outside the kernels: measured, with those of columns.
VECTOR_PASSES = {"primal": 12, "dual": 24, "cg": 12, "mixed": 24}
PRODUCT_PASSES = 2  # likewise over products of scores and vectors
OVER_SCORES = ("syrk", "gram", "matvec", "rmatvec", "fvp")


def stage_of(q, op, size, text, flops, moved, workspace=0, dtype=None, passes=1, sides=1):
    """A stage by what the table chooses for `op` at this size, timed by the rates in force."""
    dtype = dtype or q.dtype
    choice, rates = decide(op, size, dtype, device=q.device, sides=sides), current_rates()
    entry = choice.entry
    copied = op in OVER_SCORES and _copied(q, entry)
    shrunk = q.stored_bytes / q.itemsize if op in OVER_SCORES and not copied else 1
    seconds = passes * rates.seconds(op, entry.name, dtype, size, flops / passes, moved, shrunk)
    if copied:
        seconds += q.n * q.p / rates.conversion
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


def _sums_dtype(problem):
    return "complex128" if np.dtype(problem.dtype).kind == "c" else "float64"


def _copied(q, entry):
    """True if a kernel cannot read the scores where they lie: vendors read no half precision."""
    return not q.direct or (q.halves and entry.vendor)


def _slice_bytes(q):
    """Converted, weighted or centred copy of one slice of scores."""
    return min(q.n * q.p * q.itemsize, SLICE_BYTES)


def _product_workspace(q, op, order, summed):
    """Bytes that syrk (order p, summed n) or gram (order n, summed p) needs besides its result."""
    entry = choose(op, order, q.dtype, device=q.device)
    copies = _slice_bytes(q) if _copied(q, entry) else 0
    if entry.vendor:
        copied = (q.weighted and op == "syrk") or q.centered
        part = order * order * q.itemsize if q.itemsize < q.sum_bytes else 0
        return copies + part + (_slice_bytes(q) if copied else 0)
    length = min(summed, max(SLICE_BYTES // max(order * q.itemsize, 1), 4096))
    real, cache = q.itemsize // q.parts, machine.cache_sizes()["L2"]
    return copies + rank_k_bytes(order, length, q.parts, real, machine.cpu_count(), cache)


def _packed_factor(q, order, dtype):
    """Bytes of L in panels beside A, of this dtype."""
    entry = choose("cholesky", order, dtype, device=q.device)
    real = np.dtype(dtype).itemsize // q.parts
    return 0 if entry.vendor else factor_bytes(order, q.parts, real)


def _fvp_workspace(q, op="fvp"):
    entry = choose(op, q.rhs, q.dtype, device=q.device)
    copies = _slice_bytes(q) if _copied(q, entry) else 0
    real = q.rhs * q.parts  # complex vectors are two real ones
    block = (padded(real) if real > 1 else real) * q.p * q.itemsize
    blocks = min(-(-q.n // BLOCK_ROWS), max(4, (16 << 20) // max(block, 1)))
    return copies + blocks * block + q.rhs * q.n * (q.itemsize + q.sum_bytes)


def vector_bytes(q, per_parameter, per_sample):
    """Bytes of so many double vectors per right-hand side."""
    return q.sum_bytes * q.rhs * (per_parameter * q.p + per_sample * q.n)


def _reads_once(q):
    """True if `fvp` finds the scores in a cache when it needs them again."""
    width, itemsize, vectors = q.p * q.parts, q.itemsize // q.parts, q.rhs * q.parts
    vectors = padded(vectors) if vectors > 1 else vectors
    caches = machine.cache_sizes()
    strips = vectors == 1 and strip_rows(width, itemsize, thread_count(), caches)
    return bool(strips) or one_pass(width, itemsize, vectors)


def _fvp_stage(q, name="fvp"):
    moved = q.n * q.p * q.stored_bytes
    return stage_of(
        q,
        name,
        q.rhs,
        f"{q.n} x {q.p}",
        2 * q.multiply_add * q.n * q.p * q.rhs,
        moved,
        _fvp_workspace(q),
        passes=1 if _reads_once(q) else 2,
    )


def division_stage(q):
    """x = g / diagonal."""
    words, flops = 3 * q.sum_bytes * q.p * q.rhs, q.p * q.rhs
    rates = current_rates()
    seconds = words / rates.bandwidth + rates.overhead
    return Stage("divide", "numpy", f"{q.p}", flops, words, seconds=seconds)


def eigen_stage(q, order, text, square):
    """Eigenvalues and eigenvectors; LAPACK, 9 n^3 flops, at the speed of a Cholesky at best."""
    flops = q.multiply_add * 4.5 * order**3
    rates, sums = current_rates(), _sums_dtype(q)
    name = choose("cholesky", order, sums, device=q.device).name
    seconds = rates.seconds("cholesky", name, sums, order, flops, 3 * square)
    return Stage("eigh", "scipy.eigh", text, int(flops), 3 * square, square, False, seconds=seconds)


def direct_stages(q, op, order, summed, *, sums=None):
    """Product (syrk or gram), Cholesky and the two triangular solves, these in dtype `sums`."""
    sums = sums or _sums_dtype(q)
    ma = q.multiply_add
    text = f"{order} x {order}"
    square = order * order * q.sum_bytes
    solve = {"dtype": sums, "sides": q.rhs}
    panels = order * -(-q.rhs // 16) * 16 * np.dtype(sums).itemsize if q.rhs > 1 else 0
    product = stage_of(
        q,
        op,
        order,
        f"{q.n} x {q.p}",
        ma * summed * order * (order + 1) / 2,
        q.n * q.p * q.stored_bytes + square,
        _product_workspace(q, op, order, summed),
    )
    if q.spectral:
        return [product, eigen_stage(q, order, text, square)]
    return [
        product,
        stage_of(
            q,
            "cholesky",
            order,
            text,
            ma * order**3 / 6,
            square,
            _packed_factor(q, order, sums),
            sums,
        ),
        *(
            stage_of(q, half, order, text, ma * order**2 * q.rhs / 2, square / 2, panels, **solve)
            for half in ("solve_lower", "solve_lower_adjoint")
        ),
    ]


def _repeated(stages, times):
    """Stages that are gone through so many times."""
    return [
        replace(
            stage,
            flops=times * stage.flops,
            bytes=times * stage.bytes,
            seconds=times * stage.seconds,
        )
        for stage in stages
    ]


def surrounded(q, method, stages):
    """The stages, and what is done between them as one more."""
    overheads = ITERATION if method == "cg" else SOLVE
    passed = (VECTOR_PASSES[method] * q.p + PRODUCT_PASSES * q.n) * q.rhs * q.sum_bytes
    seconds = current_rates().around(len(stages), passed, overheads)
    between = Stage("between", "numpy", f"{q.p} x {q.rhs}", 0, passed, seconds=seconds)
    return stages + _repeated([between], q.dampings)


def _kept(q, order):
    """Bytes of the matrix, and of a copy to be factored where one serves many dampings."""
    return (1 + (q.dampings > 1)) * order * order * q.sum_bytes


def _primal(q):
    vectors = vector_bytes(q, 6, 1)
    if q.small("primal"):
        return _repeated([one_call(q, "primal")], q.dampings), vectors
    resident = _kept(q, q.p) + vectors
    product, *others = [*direct_stages(q, "syrk", q.p, q.n), _fvp_stage(q)]
    return [product, *_repeated(others, q.dampings)], resident


def _dual(q):
    vectors = vector_bytes(q, 6, 3)
    if q.small("dual"):
        return _repeated([one_call(q, "dual")], q.dampings), vectors
    resident = _kept(q, q.n) + vectors
    product, *factor = direct_stages(q, "gram", q.n, q.p)
    one = q.multiply_add * q.n * q.p * q.rhs
    text, moved = f"{q.n} x {q.p}", q.n * q.p * q.stored_bytes
    others = [
        stage_of(q, "matvec", q.rhs, text, one, moved),
        *factor,
        stage_of(q, "rmatvec", q.rhs, text, one, moved, _fvp_workspace(q, "rmatvec")),
        _fvp_stage(q),
    ]
    return [product, *_repeated(others, q.dampings)], resident


def _cg(q):
    stages = [_fvp_stage(q)]
    return stages, vector_bytes(q, 9, 1)


def mixed_side(q):
    """The formulation behind method="mixed": the one with fewer flops."""
    primal = q.n * q.p**2 + q.p**3 / 3
    dual = q.n**2 * q.p + q.n**3 / 3
    return "dual" if q.singular or dual < primal else "primal"


@dataclass(frozen=True)
class MixedCosts:
    """Seconds of what a mixed-precision solve is made of, and of the exact route beside it."""

    single: float  # the product in single precision
    pairs: dict  # a product of two slices, by kind
    slicing: float
    factor: float
    step: float
    exact: float

    def product(self, form):
        """Seconds until the rough matrix of this form (solvers/rough.py) is there."""
        if not form.slices:
            return self.single
        return self.slicing + form.products * self.pairs.get(form.kind, math.inf)


def _halves_of(q, side):
    """The problem in single precision, its product op, the order and the other length."""
    single = {"float64": "float32", "complex128": "complex64"}.get(q.dtype, q.dtype)
    half = replace(q, dtype=single, direct=q.direct and single == q.dtype, spectral=False)
    op, order, summed = ("syrk", q.p, q.n) if side == "primal" else ("gram", q.n, q.p)
    return half, op, order, summed, single


def mixed_costs(q, side, units):
    """MixedCosts of a problem through its primal or dual; `units` multiply slices, by kind."""
    half, op, order, summed, single = _halves_of(q, side)
    product, *factor = direct_stages(half, op, order, summed, sums=single)
    speeds = {kind: SLICED_SPEED[kind].get(unit) for kind, unit in units.items()}
    scores = q.n * q.p * q.stored_bytes
    return MixedCosts(
        product.seconds,
        {kind: product.seconds / x for kind, x in speeds.items() if x and q.parts == 1},
        SLICING_READS * scores / current_rates().bandwidth,
        factor[0].seconds,
        _fvp_stage(q).seconds * (1 if side == "primal" else 2),
        sum(stage.seconds for stage in route(q, side)[0]),
    )


def mixed_kind(q):
    """The kind of the one slice that a plan reckons with, or None where it would be no gain."""
    order = q.p if mixed_side(q) == "primal" else q.n
    if q.parts > 1 or order < SLICED_ORDER:
        return None
    return next((kind for kind in INTEGERS if integer_unit(kind) != "plain"), None)


def mixed_forms(q):
    """In words, what the one slice that a plan reckons with may give way to; "" if to nothing."""
    device = q.device == "cuda"
    kinds = {"bytes"} if device else {kind for kind in KINDS if integer_unit(kind) != "plain"}
    if not device and mixed_kind(q) is None:
        return ""
    if "bytes" in kinds:
        kinds -= {"septets"}  # slower and cruder
    most = {form.name: form.slices for form in FORMS if form.kind in kinds}
    first, *others = most
    others = [f"up to {most[first]} of them"] * (most[first] > 1) + others
    others += ["single precision"] * (q.method == "mixed" and not device)
    if not others:
        return ""
    *some, last = others
    asked = f"{', '.join(some)} or {last}" if some else last
    return f"one slice of {first} is reckoned with, damping and scores may ask for {asked}"


def _sliced_bytes(order, kind):
    """Bytes of a stretch of slices of this kind, if there may be any."""
    unit, per_word = integer_unit(kind), KINDS[kind].terms
    if unit == "plain":
        return 0
    terms = sliced_terms(order, 1, tiled=unit == "amx", per_word=per_word)
    return order * terms * 4 // per_word


def _mixed(q):
    """A rough product and factor, then a few products in the precision of the scores."""
    side = mixed_side(q)
    half, op, order, summed, single = _halves_of(q, side)
    product, *factor = direct_stages(half, op, order, summed, sums=single)
    workspace, kind = product.workspace, mixed_kind(q)
    if kind:
        if q.method != "mixed":  # unasked, single precision is not tried, but the exact route is
            workspace = direct_stages(q, op, order, summed)[0].workspace
        sliced, unit = f"{KINDS[kind].op}_{op}", integer_unit(kind)
        costs = mixed_costs(q, side, {kind: unit})
        copies = _slice_bytes(q) if q.halves or not q.direct else 0  # no half precision is read
        sliced_bytes = max(_sliced_bytes(order, k) for k in INTEGERS) + copies
        workspace = max(workspace, sliced_bytes) + SLICED_SCRATCH
        entry = choose(sliced, order, q.dtype, device=q.device)
        product = replace(
            product,
            op=sliced,
            kernel=entry.name,
            workspace=workspace,
            reproducible=True,
            seconds=costs.slicing + costs.pairs[kind],
            source="table",
            measured="",
        )
    square, flops = order * order * half.itemsize, q.multiply_add * order**2 * q.rhs
    factor[1:] = [stage_of(half, "substitute", order, f"{order} x {order}", flops, square)]
    passes = (2 if side == "dual" else 1) * NOMINAL_REFINEMENTS * q.dampings
    (refinement,) = _repeated([_fvp_stage(q)], passes)
    stages = [product, *_repeated(factor, q.dampings), replace(refinement, size=f"{passes} passes")]
    square = _kept(q, order)  # of the exact route, which may take over
    if q.method == "mixed" or not kind:  # sums in double, rounded for a factor in single precision
        square = max(square, order * order * (q.sum_bytes + half.itemsize))
    return stages, square + vector_bytes(q, 9, 5)


ROUTES = {"primal": _primal, "dual": _dual, "cg": _cg, "mixed": _mixed}


def route(q, method):
    """Stages of a method, and its peak bytes."""
    stages, resident = ROUTES[method](q)
    if not (method in ("primal", "dual") and q.small(method)):
        stages = surrounded(q, method, stages)
    return stages, int(resident + max(stage.workspace for stage in stages))
