"""Exact damped natural gradients from per-sample scores, with a certificate.

Scores ``G`` (n samples x p parameters) and a gradient ``g`` go in, ``(F + lambda I)^-1 g`` with
``F = G' diag(w) G / sum(w)`` comes out, by the fastest route the sizes allow. Names below are
resolved on first use, so that importing the package costs NumPy only.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "natural_gradient": "api",
    "solve": "api",
    "solve_path": "paths",
    "info": "runtime",
    "warmup": "runtime",
    "set_num_threads": "runtime",
    "plan": "planning",
    "options": "planning",
    "Plan": "planning",
    "Solution": "solvers",
    "Path": "solvers.path",
    "BatchedFisher": "fisher",
    "BlockDiagonalFisher": "fisher",
    "DenseFisher": "fisher",
    "DeviceFisher": "fisher",
    "DeviceGramFisher": "fisher",
    "DiagonalFisher": "fisher",
    "GramFisher": "fisher",
    "LayeredFisher": "fisher",
    "KroneckerFisher": "fisher",
    "WindowFisher": "fisher",
    "load": "fisher",
    "Tikhonov": "damping",
    "Relative": "damping",
    "Marquardt": "damping",
    "FactoredTikhonov": "damping",
    "LevenbergMarquardt": "damping",
    "HardCutoff": "solvers.cutoffs",
    "SoftCutoff": "solvers.cutoffs",
    "SNRCutoff": "solvers.cutoffs",
    "Ladder": "solvers.ladder",
    "BlockJacobi": "solvers.preconditioners",
    "Nystrom": "solvers.preconditioners",
}
_MODULES = ("errors", "models", "ops", "optim", "stats")

__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name):
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
