"""How kernels are compiled: flags, and the guarded on-disk cache."""

import functools
import hashlib
import os
import pickle
import stat
import warnings
from pathlib import Path

import numba
import numpy as np
from numba import types

from . import linking

__all__ = ["compiled", "entry_address", "kernel"]

# No nnan, no ninf: NaN and Inf must be seen. No reassoc: the order of sums is part of the result.
FLAGS = {"contract", "nsz"}
COMMON = {"nogil": True, "error_model": "numpy", "fastmath": FLAGS}
OUTER = linking.OUTER | COMMON
INNER = linking.INNER | COMMON | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

KEPT = []  # compiled code that is reached by address only

# Reading a damaged cache file raises any of these from Numba's loader.
CACHE_DAMAGE = (
    EOFError,
    OSError,
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    ImportError,
    IndexError,
    MemoryError,
    RuntimeError,
)


@functools.cache
def _sources_stamp():
    """Hash of all kernel sources: a kernel inlines others, so editing one outdates them all."""
    digest = hashlib.sha256()
    room = Path(__file__).parent
    for path in (room.parent / "slicing.py", *sorted(room.glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _private(folder):
    """True if no other user can plant code in `folder` (cached code is executed when loaded)."""
    try:
        info = os.stat(folder)
    except OSError:
        return True  # Numba is about to create it
    if not hasattr(os, "getuid"):
        return True
    return info.st_uid in (os.getuid(), 0) and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


class _GuardedCache:
    """Numba's function cache, but damage or a full disk costs a compilation, not a crash."""

    def __init__(self, cache):
        self._cache = cache
        stamp = _sources_stamp()
        self._cache._cache_file = type(cache._cache_file)(
            cache_path=cache._cache_path,
            filename_base=cache._impl.filename_base,
            source_stamp=stamp,
        )

    def __getattr__(self, name):
        return getattr(self._cache, name)

    def load_overload(self, sig, target_context):
        try:
            if not linking.KNOWN:
                return self._cache.load_overload(sig, target_context)
            from numba.core.runtime import rtsys

            rtsys.initialize(target_context)  # not all that compiling needs: that takes longer
            with self._cache._guard_against_spurious_io_errors():
                return self._cache._load_overload(sig, target_context)
        except CACHE_DAMAGE as damage:
            self._set_aside(damage)
            return None

    def save_overload(self, sig, data):
        try:
            self._cache.save_overload(sig, data)
        except CACHE_DAMAGE as damage:
            self._set_aside(damage)

    def _set_aside(self, damage):
        index = Path(self._cache._cache_path) / self._cache._cache_file._index_name
        try:
            index.replace(index.with_suffix(".damaged"))
        except OSError:
            pass
        warnings.warn(
            f"the compiled-code cache {index} could not be used ({type(damage).__name__}: "
            f"{damage}); it was set aside and the kernel compiled anew",
            RuntimeWarning,
            stacklevel=2,
        )


def compiled(func, **options):
    """A Numba dispatcher, cached on disk where that is safe."""
    if numba.config.DISABLE_JIT:
        return np.errstate(all="ignore")(func)  # NumPy warns of the NaN that compiled code hands on
    options = OUTER | options
    if os.environ.get("FASTFISHER_CACHE", "1") != "0":
        try:
            dispatcher = numba.njit(**options)(func)
            dispatcher.enable_caching()
            if _private(dispatcher._cache._cache_path):
                dispatcher._cache = _GuardedCache(dispatcher._cache)
                return dispatcher
        except (RuntimeError, OSError, AttributeError):
            pass  # no writable cache folder: every process compiles for itself
    return numba.njit(**options)(func)


def kernel(func):
    """A serial kernel, called from other kernels or once per task, never from Python.

    Its code is kept within that of the drivers and entries that need it.
    """
    return numba.njit(**INNER)(func)


def entry_address(func, arguments, **options):
    """Address of func, compiled for so many integers, as a C function without a result.

    With the JIT disabled it is func itself, which twins call.
    """
    if numba.config.DISABLE_JIT:
        return func
    dispatcher = compiled(func, no_cpython_wrapper=True, **options)
    dispatcher.compile(types.void(*[types.intp] * arguments))
    (result,) = dispatcher.overloads.values()
    KEPT.append(result)
    return result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)


def cache_folder():
    """Folder that compiled kernels are kept in, or None if they are not kept."""
    cache = getattr(compiled(_private), "_cache", None)
    return (cache and cache.cache_path) or None
