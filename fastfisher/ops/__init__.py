"""Public ops: checked arrays in, raw sums out; the table chooses the kernel.

Conventions: ' is the conjugate transpose; results have the dtype of G (complex if v or u is).
Flop counts are for real data; complex data takes four times as many.
"""

from .factorizations import batched_solve, cho_solve, cholesky
from .layered import layered_gram
from .products import diag, fvp, gram, matvec, rmatvec, syrk

__all__ = [
    "batched_solve",
    "cho_solve",
    "cholesky",
    "diag",
    "fvp",
    "gram",
    "layered_gram",
    "matvec",
    "rmatvec",
    "syrk",
]
