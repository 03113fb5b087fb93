"""The instruction set that Numba compiles for, and the register tile that fits it."""

import functools
from dataclasses import dataclass

import numba
import numpy as np

__all__ = ["ISA", "lanes", "target", "tile_rows", "tile_width", "widens_halves"]


@dataclass(frozen=True)
class ISA:
    """Vector width, and the register tile that fits: rows x vectors of accumulators."""

    name: str
    bytes: int
    rows: int
    vectors: int
    fused: bool = True  # has a fused multiply-add; without one llvm.fma would call libm


ISAS = {
    "avx512": ISA("avx512", 64, 8, 3),
    "avx2": ISA("avx2", 32, 4, 3),
    "neon": ISA("neon", 16, 6, 3),
    "plain": ISA("plain", 16, 2, 3, fused=False),
}
# CPU names that imply features Numba's feature string leaves out when it is set by hand.
_IMPLIED = {
    "avx512": ("skylake-avx512", "cascadelake", "icelake", "sapphirerapids", "znver4", "znver5"),
    "avx2": ("haswell", "broadwell", "skylake", "znver", "alderlake", "x86-64-v3"),
}


@functools.cache
def target():
    """The instruction set Numba compiles for, which its environment variables may narrow."""
    if numba.config.DISABLE_JIT:
        return ISAS["plain"]
    from numba.core.registry import cpu_target

    triple, name, features = cpu_target.target_context.codegen().magic_tuple()
    if triple.startswith(("aarch64", "arm64")):
        return ISAS["neon"]
    has = set(features.split(","))
    bare = not any(feature.startswith("+avx") for feature in has)
    for isa, needed in (("avx512", {"+avx512f", "+avx512vl"}), ("avx2", {"+avx2", "+fma"})):
        if needed <= has or (bare and name.startswith(_IMPLIED[isa]) and not features):
            return ISAS[isa]
    return ISAS["plain"]


@functools.cache
def widens_halves():
    """True if there is an instruction for it; else fpext may call a library that nobody links."""
    from numba.core.registry import cpu_target

    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    # Processors whose names imply AVX2 have F16C too.
    return "+f16c" in features or (features == [""] and target().name in ("avx512", "avx2"))


def lanes(dtype):
    """Elements of a real dtype in one vector."""
    return target().bytes // np.dtype(dtype).itemsize


def tile_rows():
    """Rows of a register tile: scalars of the broadcast side."""
    return target().rows


def tile_width(dtype):
    """Columns of a register tile, a multiple of its rows; also the width of a packed panel."""
    return target().vectors * lanes(dtype)
