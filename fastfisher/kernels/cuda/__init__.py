"""CUDA twins of the kernels in cpu/: same file, function and argument names, device arrays in.

Nothing of CUDA is loaded until a kernel, or `compat`, is imported. `is_available` and `obstacle`
never raise and never create a context.
"""

import ctypes
import functools
import importlib.util
import os
import platform
import sys

import numpy as np

from ...errors import MissingDependencyError

__all__ = ["BLOCK_BYTES", "SAMPLES", "SLICE_BYTES", "is_available", "obstacle", "require"]

# Of kernels, solvers and plans, which load nothing of CUDA.
BLOCK_BYTES = 64 << 20  # of rows of scores in double, at most
SAMPLES = 256  # per partial sum of a pass
SLICE_BYTES = 256 << 20  # of a buffer that scores pass through, at most

EXTRA = 'pip install "fastfisher[cuda]"'


def _missing():
    """What keeps kernels from being compiled, in one sentence; None if nothing does."""
    if importlib.util.find_spec("numba_cuda") is None:
        here = sys.platform == "linux" and platform.machine() == "x86_64"
        only = "" if here else " (which brings it on Linux x86-64 only)"
        return f"the CUDA kernels need the package numba-cuda: {EXTRA}{only}"
    if not hasattr(np, "row_stack"):
        return (
            f"numba-cuda does not work with NumPy {np.__version__}, it needs NumPy < 2.5: "
            f"{EXTRA} brings one that fits"
        )
    return None


def _devices():
    """GPUs that the management library counts; None where it cannot be asked.

    Asking the driver itself would leave a process whose forked children cannot use CUDA.
    """
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        count = ctypes.c_uint(0)
        if library.nvmlInit_v2() or library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return None
        library.nvmlShutdown()
    except (OSError, AttributeError):
        return None
    return count.value


@functools.cache
def _loads():
    """True if the driver loads; nothing is initialised."""
    names = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def _simulated():
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0").strip() not in ("", "0")


def obstacle():
    """Why CUDA kernels cannot run here, in one sentence; None if they can."""
    try:
        missing = _missing()
        if missing or _simulated():
            return missing
        if os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() in ("", "-1"):
            return "CUDA_VISIBLE_DEVICES hides every GPU from this process"
        if not _loads():
            return "no NVIDIA driver was found (libcuda does not load)"
        if _devices() == 0:
            return "the NVIDIA driver sees no GPU"
    except Exception as error:  # an odd installation is an answer, not a crash
        return f"CUDA cannot be asked for: {type(error).__name__}: {error}"
    return None


def is_available():
    """True if CUDA kernels can run here. Never raises, never creates a context."""
    return obstacle() is None


def require():
    """Raise MissingDependencyError where kernels cannot be compiled."""
    missing = _missing()
    if missing:
        raise MissingDependencyError(missing)
