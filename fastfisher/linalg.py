"""SciPy's linear algebra, imported on first use: small solves do without it, and start sooner."""

import importlib

__all__ = []  # whatever scipy.linalg has


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("scipy.linalg"), name)
    globals()[name] = value
    return value
