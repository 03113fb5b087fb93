"""Kernels compiled by Numba for the CPU."""

import os

from ...errors import InputError

MOST = 4096  # threads, which a process may be unable to start


def _check_threads():
    """InputError for a number of threads that Numba, or the process, would die of."""
    try:
        threads = int(os.environ.get("NUMBA_NUM_THREADS", "1"))
    except ValueError:  # it warns, and takes all cores
        return
    if not 1 <= threads <= MOST:
        raise InputError(
            f"NUMBA_NUM_THREADS is {threads}; set it to the cores to be used, or not at all"
        )


def _check_features():
    """InputError for a list of features that LLVM would abort the process for."""
    given = os.environ.get("NUMBA_CPU_FEATURES", "")
    for name in filter(None, given.split(",")):
        if name[0] not in "+-":
            raise InputError(
                f"NUMBA_CPU_FEATURES names {name!r}; expected features after + or -, such as "
                "'+avx2,+fma', or the variable not set at all"
            )


_check_threads()
_check_features()
