"""Public ops: checked arrays in, raw sums out; the table chooses the kernel.

Conventions: ' is the conjugate transpose; results have the dtype of G (complex if v or u is).
Flop counts are for real data; complex data takes four times as many.
"""

from .batched import batched_metric_solve, batched_solve, batched_syrk
from .blocks import block_cholesky, block_solve, block_syrk
from .factorizations import cho_solve, cholesky
from .groups import group_sums
from .layered import layered_diag, layered_gram
from .products import diag, fvp, gram, matvec, rmatvec, syrk

__all__ = [
    "batched_metric_solve",
    "batched_solve",
    "batched_syrk",
    "block_cholesky",
    "block_solve",
    "block_syrk",
    "cho_solve",
    "cholesky",
    "diag",
    "fvp",
    "gram",
    "group_sums",
    "layered_diag",
    "layered_gram",
    "matvec",
    "rmatvec",
    "syrk",
]
