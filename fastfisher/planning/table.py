"""THE table: which kernel does an op at which size, as data. choices.py reads it."""

import functools
import importlib
import math
from dataclasses import dataclass

__all__ = ["SIDED", "SIZE", "TABLE", "Band", "Entry"]


@functools.cache
def _home(module):
    return importlib.import_module("fastfisher.kernels." + module)


@dataclass(frozen=True)
class Entry:
    """One implementation of an op: `module`.`function`, loaded when first used."""

    name: str
    module: str
    function: str
    reproducible: bool = True

    def load(self, function=None):
        """The function, or another one of its module."""
        return getattr(_home(self.module), function or self.function)

    @property
    def vendor(self):
        return self.module in ("vendor", "cuda.vendor")


def _ours(function, module=None):
    return Entry(f"numba.{function}", f"cpu.{module or function}", function)


def _scipy(function):
    return Entry(f"scipy.{function}", "vendor", function, reproducible=False)


@dataclass(frozen=True)
class Band:
    """For sizes lo <= size < hi of `op`: entries in order of preference, ours among them.

    `sides` are the numbers of right-hand sides it is for, from the first to below the second.
    `firm`: the order is not one of speeds, and no measurement changes it.
    """

    op: str
    dtypes: tuple
    lo: int
    hi: float
    entries: tuple
    because: str
    device: str = "cpu"
    sides: tuple = (0, math.inf)
    firm: bool = False

    def holds(self, size, sides):
        """True if it is for this size and so many right-hand sides."""
        return self.lo <= size < self.hi and self.sides[0] <= sides < self.sides[1]


SINGLE, DOUBLE, COMPLEX = ("float32",), ("float64",), ("complex64", "complex128")
REAL = SINGLE + DOUBLE
ALL = REAL + COMPLEX
INF = math.inf

# What "size" means: the number the choice depends on.
SIZE = {
    "syrk": "parameters p",
    "gram": "samples n",
    "mirror": "order",
    "spectral_norm": "order",
    "primal_small": "parameters p",
    "dual_small": "samples n",
    "matvec": "vectors",
    "rmatvec": "vectors",
    "fine_rmatvec": "vectors",
    "wide_fvp": "vectors",
    "fvp": "vectors",
    "diag": "parameters p",
    "scan": "parameters p",
    "peaks": "parameters p",
    "sliced_syrk": "parameters p",
    "sliced_gram": "samples n",
    "int7_syrk": "parameters p",
    "int7_gram": "samples n",
    "int16_syrk": "parameters p",
    "int16_gram": "samples n",
    "bf16_syrk": "parameters p",
    "bf16_gram": "samples n",
    "narrow": "order",
    "substitute": "order",
    "cholesky": "order",
    "solve_lower": "order",
    "solve_lower_adjoint": "order",
    "inverse_diagonal": "order",
    "batched_solve": "order of one system",
    "layered_gram": "rows of a layer, n x tokens",
    "layered_diag": "tokens",
    "batched_metric_solve": "order of one system",
    "batched_syrk": "order of one system",
    "block_syrk": "order of a block",
    "block_cholesky": "order of a block",
    "block_solve": "order of a block",
}

# Of these the choice depends on the right-hand sides, too. Rates know them by the work.
SIDED = ("solve_lower", "solve_lower_adjoint")

_TILES = "compute bound: packed register tiles at the peak of the machine, sums in double"
_SMALL = "some microseconds: LAPACK's overhead is lower than ours"
_AHEAD = "register tiles; the next diagonal block is factored ahead of the update"
_IN_PLACE = "SciPy factors in place; our packed copy of L is too much memory at this order"
_FEW = "memory bound: tiles of rows and vectors, compensated block sums, no second pool of threads"
_MANY = "many vectors: a matrix product, compute bound"
_SUBSTITUTION = "SciPy's substitution is faster for few right-hand sides or a small factor"
_PANELS = "panels of right-hand sides pass by the factor where it lies; no second pool of threads"
_UNITS = "register tiles on columns of the identity, from where they begin; no copy of L"
_FUSED = "no temporaries of rows x rows"
_ONLY = "no vendor routine does this"

_SYRK = (_ours("syrk"), _scipy("syrk"))
_GRAM = (_ours("gram"), _scipy("gram"))
_MATVEC = (_ours("matvec"), _scipy("matvec"))
_RMATVEC = (_ours("rmatvec", "matvec"), _scipy("rmatvec"))
_FVP = (_ours("fvp", "matvec"), _scipy("fvp"))
_CHOLESKY = (_ours("cholesky"), _scipy("cholesky"))
_LOWER = (_ours("solve_lower", "triangular"), _scipy("solve_lower"))
_INVERSE = (_ours("inverse_diagonal", "triangular"), _scipy("inverse_diagonal"))
_ADJOINT = (_ours("solve_lower_adjoint", "triangular"), _scipy("solve_lower_adjoint"))

# Right-hand sides, from the first to below the second, and the order from which on ours are faster.
_FASTER = {
    ("float32", "float64", "complex128"): (
        (0, 2, INF),
        (2, 4, 2000),
        (4, 8, 400),
        (8, 16, 200),
        (16, 32, 150),
        (32, 64, 120),
        (64, INF, 80),
    ),
    ("complex64",): (
        (0, 2, INF),
        (2, 8, 2000),
        (8, 16, 400),
        (16, 32, 200),
        (32, 64, 120),
        (64, INF, 80),
    ),
}


def _sided(op, entries):
    for dtypes, rows in _FASTER.items():
        for least, most, order in rows:
            sides = {"sides": (least, most)}
            yield Band(op, dtypes, 0, order, entries[::-1], _SUBSTITUTION, **sides)
            if order < INF:
                yield Band(op, dtypes, order, INF, entries, _PANELS, **sides)


# One row per op, dtypes, size range and right-hand sides; a test sweeps it for gaps and overlaps.
TABLE = (
    Band("syrk", ALL, 0, INF, _SYRK, _TILES),
    Band("gram", ALL, 0, INF, _GRAM, _TILES),
    Band("mirror", ALL, 0, INF, (_ours("mirror", "syrk"),), _ONLY),
    Band("spectral_norm", ALL, 0, INF, (_ours("spectral_norm", "power"),), _ONLY),
    Band("primal_small", ALL, 0, INF, (_ours("primal_small", "small"),), _ONLY),
    Band("dual_small", ALL, 0, INF, (_ours("dual_small", "small_dual"),), _ONLY),
    Band("matvec", DOUBLE, 0, 13, _MATVEC, _FEW),
    Band("matvec", DOUBLE, 13, INF, _MATVEC[::-1], _MANY),
    Band("matvec", SINGLE, 0, 25, _MATVEC, _FEW),
    Band("matvec", SINGLE, 25, INF, _MATVEC[::-1], _MANY),
    Band("matvec", COMPLEX, 0, 9, _MATVEC, _FEW),
    Band("matvec", COMPLEX, 9, INF, _MATVEC[::-1], _MANY),
    Band("rmatvec", DOUBLE, 0, 13, _RMATVEC, _FEW),
    Band("rmatvec", DOUBLE, 13, INF, _RMATVEC[::-1], _MANY),
    Band("rmatvec", SINGLE, 0, 32, _RMATVEC, _FEW),
    Band("rmatvec", SINGLE, 32, INF, _RMATVEC[::-1], _MANY),
    Band("rmatvec", COMPLEX, 0, 7, _RMATVEC, _FEW),
    Band("rmatvec", COMPLEX, 7, INF, _RMATVEC[::-1], _MANY),
    Band("fine_rmatvec", ALL, 0, INF, (_ours("fine_rmatvec", "matvec"),), _ONLY),
    Band("wide_fvp", ALL, 0, INF, (_ours("wide_fvp", "matvec"),), _ONLY),
    Band("fvp", DOUBLE, 0, 25, _FVP, _FEW),
    Band("fvp", DOUBLE, 25, INF, _FVP[::-1], _MANY),
    Band("fvp", SINGLE, 0, 32, _FVP, _FEW),
    Band("fvp", SINGLE, 32, INF, _FVP[::-1], _MANY),
    Band("fvp", COMPLEX, 0, 13, _FVP, _FEW),
    Band("fvp", COMPLEX, 13, INF, _FVP[::-1], _MANY),
    Band("diag", ALL, 0, INF, (_ours("diag"),), _ONLY),
    Band("scan", ALL, 0, INF, (_ours("scan", "diag"),), _ONLY),
    Band("peaks", ALL, 0, INF, (_ours("peaks"),), _ONLY),
    Band("sliced_syrk", ALL, 0, INF, (_ours("sliced_syrk", "sliced"),), _ONLY),
    Band("sliced_gram", ALL, 0, INF, (_ours("sliced_gram", "sliced"),), _ONLY),
    Band("int7_syrk", ALL, 0, INF, (_ours("int7_syrk", "sliced"),), _ONLY),
    Band("int7_gram", ALL, 0, INF, (_ours("int7_gram", "sliced"),), _ONLY),
    Band("int16_syrk", ALL, 0, INF, (_ours("int16_syrk", "sliced"),), _ONLY),
    Band("int16_gram", ALL, 0, INF, (_ours("int16_gram", "sliced"),), _ONLY),
    Band("bf16_syrk", ALL, 0, INF, (_ours("bf16_syrk", "sliced"),), _ONLY),
    Band("bf16_gram", ALL, 0, INF, (_ours("bf16_gram", "sliced"),), _ONLY),
    Band("narrow", ALL, 0, INF, (_ours("narrow", "sliced"),), _ONLY),
    Band("substitute", ALL, 0, INF, (_ours("substitute", "triangular"),), _ONLY),
    Band("cholesky", REAL, 0, 84, _CHOLESKY[::-1], _SMALL),
    Band("cholesky", REAL, 84, 12_000, _CHOLESKY, _AHEAD),
    Band("cholesky", COMPLEX, 0, 56, _CHOLESKY[::-1], _SMALL),
    Band("cholesky", COMPLEX, 56, 12_000, _CHOLESKY, _AHEAD),
    Band("cholesky", ALL, 12_000, INF, _CHOLESKY[::-1], _IN_PLACE, firm=True),
    *_sided("solve_lower", _LOWER),
    *_sided("solve_lower_adjoint", _ADJOINT),
    Band("inverse_diagonal", ALL, 0, 150, _INVERSE[::-1], _SMALL),
    Band("inverse_diagonal", ALL, 150, INF, _INVERSE, _UNITS),
    Band("batched_solve", ALL, 0, INF, (_ours("batched_solve", "batched"),), _ONLY),
    Band("layered_diag", ALL, 0, INF, (_ours("layered_diag", "moments"),), _ONLY),
    Band("layered_gram", ALL, 0, INF, (_ours("layered_gram", "layered"),), _FUSED),
    Band("batched_metric_solve", ALL, 0, INF, (_ours("batched_metric_solve", "metric"),), _ONLY),
    Band("batched_syrk", ALL, 0, INF, (_ours("batched_syrk", "blocks"),), _ONLY),
    Band("block_syrk", ALL, 0, INF, (_ours("block_syrk", "blocks"),), _ONLY),
    Band("block_cholesky", ALL, 0, INF, (_ours("block_cholesky", "blocks"),), _ONLY),
    Band("block_solve", ALL, 0, INF, (_ours("block_solve", "blocks"),), _ONLY),
)
