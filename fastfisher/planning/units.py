"""What may multiply slices of scores here, foretold without the compiler."""

import os

import numpy as np

from .. import machine

__all__ = ["integer_unit", "normwise_pays"]

# Parameters from which integer products may stand for those of scores, in matrix registers: 6 of
# them take 0.57 of the time of one in single precision. 28 of them take 1.2 of one in double.
NORMWISE_ORDER = {"float32": 2048}


def integer_unit(kind="bytes"):
    """What may multiply slices of a kind here, or "plain" where that is no gain.

    From the processor and the environment, without the compiler: its gates decide in the end.
    """
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "plain"
    generic = os.environ.get("NUMBA_CPU_NAME", "").lower() == "generic"  # has none but those named
    named = os.environ.get("NUMBA_CPU_FEATURES", "" if generic else None)
    if named is None:
        known = set(machine.cpu_features())
    else:
        known = {name[1:].replace("-", "_") for name in named.split(",") if name[:1] == "+"}
        known |= {name.replace("vnni", "_vnni").replace("512bf", "512_bf") for name in known}
    tiles = named is None or "amx_tile" in known
    if kind == "bytes" and tiles and "amx_int8" in known:
        return "amx"
    if kind == "halves":
        if tiles and "amx_bf16" in known:
            return "amx"
        return "avx512bf16" if {"avx512_bf16", "avx512f"} <= known else "plain"
    if kind != "septets":
        if {"avx512_vnni", "avx512f"} <= known:
            return "vnni"
        if "avx_vnni" in known:
            return "avxvnni"
    # Single precision in vectors twice as wide is as fast.
    return "avx2" if kind != "bytes" and "avx2" in known and "avx512f" not in known else "plain"


def normwise_pays(p, dtype):
    """True where all products of bytes are faster than one of scores."""
    least = NORMWISE_ORDER.get(np.dtype(dtype).name)
    if least is None or p < least or integer_unit() != "amx":
        return False
    from ..kernels.cpu.units import unit  # tries the gates

    return unit() == "amx"
