"""What we call of SciPy's linear algebra, imported on first use: small solves start sooner."""

import importlib

_NAMES = (
    "LinAlgError",
    "blas",
    "cho_factor",
    "cho_solve",
    "cholesky",
    "eigh",
    "eigvalsh",
    "eigvalsh_tridiagonal",
    "lapack",
    "qr",
    "solve_triangular",
)

__all__ = [*_NAMES]


def __getattr__(name):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("scipy.linalg"), name)
    globals()[name] = value
    return value
