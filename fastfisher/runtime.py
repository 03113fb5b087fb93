"""The process fastfisher runs in: its versions, threads and compiled kernels."""

import gc
import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys

import numpy as np

from . import machine
from .api import solve
from .errors import InputError
from .planning import check_device
from .scalars import as_count

__all__ = ["info", "set_num_threads", "warmup"]

MANY, LONG = (300, 1100), (8, 40_000)  # scores of several blocks, and of rows read in strips


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
    Results of our own kernels have the same bits for any k. SciPy is loaded by the first call that
    uses it, or here where threadpoolctl is installed: limits that threadpoolctl itself sets before
    do not hold for its BLAS.

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.set_num_threads(1)
    >>> ff.set_num_threads(ff.info()["threads_available"])
    """
    from .kernels.cpu import threads

    most = threads.max_threads()
    k = as_count(k, "k", least=1, most=most)
    threads.set_num_threads(k)
    try:
        import threadpoolctl
    except ImportError:
        return
    importlib.import_module("scipy.linalg")  # only a BLAS that is loaded is told
    threadpoolctl.threadpool_limits(k, user_api="blas")


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
    from .kernels import cuda
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
        "cuda": cuda.obstacle() or "available",
        "numba_cuda": _version("numba-cuda"),
        "gpu": machine.gpu_name() or "none",
        "gpu_driver": machine.gpu_driver() or "none",
        "thread_variables": " ".join(
            f"{name}={os.environ[name]}"
            for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
            if name in os.environ
        )
        or "none set",
        "executable": sys.executable,
    }


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def warmup(dtypes=("float32", "float64"), device="cpu"):
    """Compile every kernel for these dtypes and start the threads now, instead of on first use.

    Parameters
    ----------
    dtypes : sequence of str
        Any of float32, float64, complex64, complex128.
    device : {"cpu", "cuda"}
        For "cuda" float32 and float64 only; a context is created.

    Raises
    ------
    InputError
        For an unknown dtype or device, or if there is no such device.

    Notes
    -----
    Takes some twenty seconds per dtype the first time, in two processes per two dtypes where there
    are cores; afterwards compiled code comes from a cache. What reads scores in half precision is
    left to its first use.

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.warmup(dtypes=())
    """
    from .arrays import COMPUTED
    from .kernels.cpu import threads

    check_device(device)
    known = [np.dtype(name) for name in COMPUTED]
    for dtype in dtypes:
        if dtype not in known:
            raise InputError(f"dtype is {dtype!r}; expected one of {', '.join(COMPUTED)}")
    dtypes = [np.dtype(dtype).name for dtype in dtypes]
    if device == "cuda":
        _warmup_device(dtypes)
        return
    pairs = [dtypes[i : i + 2] for i in range(0, len(dtypes), 2)]
    others = []
    if _compiling_is_shared():
        ends = [(pair, end) for pair in pairs for end in (1, -1)][1:]  # this process has the first
        others = [_warmup_elsewhere(pair, end) for pair, end in ends]
    try:
        threads.start()
        for pair in pairs:
            _compile_all(pair)
    finally:
        for process in others:
            process.wait()


def _warmup_device(dtypes):
    """Solve small problems by every route on the device."""
    from .devices import require_device

    require_device()
    for dtype in dtypes:
        G = np.eye(5, 3, dtype=dtype)
        for method in ("primal", "dual", "cg"):
            for extras in ({}, {"weights": np.ones(5), "center": True}):
                solve(G, G[0], damping=1.0, method=method, device="cuda", **extras)


def _compiling_is_shared():
    """True if compiling in other processes helps: there are cores, and a cache that shares."""
    from .kernels.cpu import jit

    return machine.cpu_count() > 1 and jit.cache_folder() is not None


def _warmup_elsewhere(dtypes, end):
    """A process that compiles kernels into the cache; its failure costs time only.

    Two of them begin at either end, and find in the cache what lies beyond where they meet.
    """
    code = f"from fastfisher import runtime; runtime._compile_all({dtypes!r}, {end})"
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-c", code], stdin=quiet, stdout=quiet, stderr=quiet)


def _compile_all(dtypes, direction=1):
    """Call every kernel once, small: what is compiled depends on dtypes only."""
    collecting = gc.isenabled()
    gc.disable()  # a compiler's objects live on: to look through them takes a tenth of the time
    try:
        kinds = zip(*(_small_calls(np.dtype(dtype)) for dtype in dtypes), strict=True)
        for calls in list(kinds)[::direction]:
            for call in calls:
                call()
    finally:
        if collecting:
            gc.enable()


def _small_calls(dtype):
    """Calls without arguments that run every kernel; of every dtype as many."""
    from . import ops, passes
    from .arrays import as_scores
    from .kernels.cpu.tiny import LARGEST
    from .kernels.slicing import KINDS
    from .planning import choose, integer_unit, options
    from .solvers.rough import HALVES_OF

    thin = np.eye(70, 4, dtype=dtype) + dtype.type(0.1)
    wide = np.ascontiguousarray(thin.T)
    b, w = thin[0].copy(), np.ones(70)

    def reproducible(function, *args, **kwargs):
        with options(reproducible=True):
            return function(*args, **kwargs)

    def factored(a):
        L = ops.cholesky(ops.syrk(a), damping=1.0)
        for count in (1, 3):
            ops.cho_solve(L, a[:count].T)

    def products(a, counts=(1, 3), **how):
        G, (n, p), k = as_scores(a), a.shape, max(counts)
        u, v, y = (np.ones((k, m), dtype) for m in (n, p, p))
        y = y.astype(passes.sums_dtype(dtype))
        for count in counts:
            passes.add_fvp(y[:count], G, v[:count], **how)
            passes.add_rmatvec(y[:count], G, u[:count])
            passes.products(G, v[:count])

    def halved():  # what mixed precision factors
        half = HALVES_OF.get(dtype.name, dtype.name)
        for a in (thin.astype(half), wide.astype(half)):
            G, sums = as_scores(a), passes.sums_dtype(dtype)
            passes.add_syrk(np.zeros((a.shape[1],) * 2, sums), G)
            passes.add_gram(np.zeros((len(a),) * 2, sums), G)
        factored(thin.astype(half))

    def rough():
        if dtype.kind == "c":
            return  # only real scores are sliced
        G = as_scores(thin)
        for op, order in {"syrk": 4, "gram": 70}.items():
            passes.add_peaks(np.zeros(order), G, by_rows=op == "syrk")
            c, units = np.zeros((order, order), np.float32), np.ones(order)
            for kind in KINDS:
                if integer_unit(kind) != "plain":
                    getattr(passes, f"add_sliced_{op}")(c, G, units, 1, 2, kind=kind)
        for sums in (c, c.astype(np.float64)):
            choose("narrow", 70, c.dtype).load()(c, sums, units)

    def batched(p):
        F = np.eye(p, dtype=dtype)[np.newaxis]
        ops.batched_solve(F, F[0, :1], damping=1.0)
        ops.batched_metric_solve(F, F[0, :1], damping=1.0)
        ops.batched_syrk(F)

    def blocks():
        L, _ = ops.block_cholesky(ops.block_syrk(thin, 2), damping=1.0)
        ops.block_solve(L, b)

    def solved(method):
        return reproducible(solve, thin, b, damping=1.0, method=method, weights=w, center=True)

    # Neighbours have most code in common, and the ends least: two processes start from them.
    return [
        lambda: reproducible(products, thin),
        lambda: batched(2),  # unrolled,
        lambda: batched(LARGEST + 1),  # and in loops
        lambda: reproducible(products, np.ones(MANY, dtype), counts=(1,)),
        rough,
        lambda: solved("cg"),
        lambda: reproducible(products, thin, finely=True),
        blocks,
        lambda: reproducible(ops.diag, thin),
        lambda: reproducible(products, np.ones(LONG, dtype), counts=(1,)),
        lambda: ops.layered_gram([(thin, thin)]),
        lambda: solve(thin, b, damping=1.0, nan_policy="skip"),
        lambda: reproducible(ops.gram, thin),
        lambda: solved("dual"),
        lambda: solve(thin, b, damping=1.0, method="primal"),
        lambda: ops.layered_diag(thin, thin),
        lambda: reproducible(halved),
        lambda: reproducible(factored, thin),
        lambda: reproducible(ops.gram, wide),
        lambda: reproducible(ops.syrk, wide),  # more than THIN parameters
        lambda: solved("primal"),
    ]
