"""Files of scores and steps: careful reading, writing that is all or nothing."""

from .files import check_target, replace_file
from .npy import FLOATS, INTEGERS, NpyFile, open_npy, write_npy

__all__ = [
    "FLOATS",
    "INTEGERS",
    "NpyFile",
    "check_target",
    "open_npy",
    "replace_file",
    "write_npy",
]
