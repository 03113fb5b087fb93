"""The process fastfisher runs in: its versions, threads and compiled kernels."""

import importlib.metadata
import os
import platform
import sys

import numpy as np

from . import machine
from .api import solve
from .errors import InputError
from .planning import check_device

__all__ = ["info", "set_num_threads", "warmup"]


def set_num_threads(k):
    """Use at most `k` threads in later kernel calls; BLAS follows if threadpoolctl is installed.

    Parameters
    ----------
    k : int
        1 <= k <= the number Numba started with (NUMBA_NUM_THREADS, by default all cores).

    Raises
    ------
    InputError
        If k is outside that range.

    Notes
    -----
    Results of our own kernels have the same bits for any k.

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.set_num_threads(1)
    >>> ff.set_num_threads(ff.info()["threads_available"])
    """
    from .kernels.cpu import threads

    most = threads.max_threads()
    if isinstance(k, bool) or not hasattr(k, "__index__") or not 1 <= int(k) <= most:
        raise InputError(f"k is {k!r}; expected an integer from 1 to {most}")
    threads.set_num_threads(int(k))
    try:
        import threadpoolctl
    except ImportError:
        return
    threadpoolctl.threadpool_limits(int(k), user_api="blas")


def info():
    """Versions, processor, threads, memory and caches, as a flat dict; also what `info` prints.

    Returns
    -------
    dict
        Strings and numbers only.

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.info()["fastfisher"] == ff.__version__
    True
    """
    import numba

    from . import __version__
    from .kernels.cpu import jit, threads

    caches = machine.cache_sizes()
    features = machine.cpu_features()
    return {
        "fastfisher": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "scipy": importlib.metadata.version("scipy"),
        "numba": numba.__version__,
        "cpu": machine.cpu_name(),
        "cpu_features": " ".join(features) or "unknown",
        "cores": machine.cpu_count(),
        "threads": threads.thread_count(),
        "threads_available": threads.max_threads(),
        "threading_layer": threads.threading_layer() or "not started",
        "l1d_bytes": caches["L1d"],
        "l2_bytes": caches["L2"],
        "l3_bytes": caches["L3"],
        "memory_available_bytes": machine.available_memory() or 0,
        "kernel_cache": jit.cache_folder() or "off",
        "thread_variables": " ".join(
            f"{name}={os.environ[name]}"
            for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
            if name in os.environ
        )
        or "none set",
        "executable": sys.executable,
    }


def warmup(dtypes=("float32", "float64"), device="cpu"):
    """Compile every kernel for these dtypes now, instead of on first use.

    Parameters
    ----------
    dtypes : sequence of str
        Any of float32, float64, complex64, complex128.
    device : {"cpu"}

    Raises
    ------
    InputError
        For an unknown dtype or device.

    Notes
    -----
    Takes seconds to tens of seconds the first time; afterwards compiled code comes from a cache.

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.warmup(dtypes=())
    """
    from . import ops
    from .arrays import COMPUTED
    from .planning import options

    check_device(device)
    known = [np.dtype(name) for name in COMPUTED]
    for dtype in dtypes:
        if dtype not in known:
            raise InputError(f"dtype is {dtype!r}; expected one of {', '.join(COMPUTED)}")
    names = [np.dtype(dtype).name for dtype in dtypes]
    for name in names:
        G = np.eye(6, 4, dtype=name) + np.dtype(name).type(0.1)
        g = G[0].copy()
        for reproducible in (False, True):
            with options(reproducible=reproducible):
                for method in ("primal", "dual", "cg"):
                    solve(G, g, damping=1.0, method=method, weights=np.ones(6), center=True)
                ops.matvec(G, g)
                ops.gram(G)
                ops.cho_solve(ops.cholesky(ops.syrk(G), damping=1.0), g)
        ops.batched_solve(ops.syrk(G)[np.newaxis], g[np.newaxis], damping=1.0)
        ops.layered_gram([(G, G)])
