"""Fisher matrices as objects: accumulate, merge, multiply, factor, solve, save."""

from .base import Fisher, load
from .dense import DenseFisher
from .diagonal import DiagonalFisher
from .gram import GramFisher
from .kronecker import KroneckerFisher
from .layered import LayeredFisher

__all__ = [
    "DenseFisher",
    "DiagonalFisher",
    "Fisher",
    "GramFisher",
    "KroneckerFisher",
    "LayeredFisher",
    "load",
]
