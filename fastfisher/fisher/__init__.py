"""Fisher matrices as objects: accumulate, merge, multiply, factor, solve, save."""

from .base import Fisher
from .batched import BatchedFisher
from .block import BlockDiagonalFisher
from .dense import DenseFisher
from .device import DeviceFisher
from .device_gram import DeviceGramFisher
from .diagonal import DiagonalFisher
from .gram import GramFisher
from .kronecker import KroneckerFisher
from .layered import LayeredFisher
from .saving import load
from .window import WindowFisher

__all__ = [
    "BatchedFisher",
    "BlockDiagonalFisher",
    "DenseFisher",
    "DeviceFisher",
    "DeviceGramFisher",
    "DiagonalFisher",
    "Fisher",
    "GramFisher",
    "KroneckerFisher",
    "LayeredFisher",
    "WindowFisher",
    "load",
]
