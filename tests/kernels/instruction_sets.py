"""What Numba may compile for on this machine: its own vectors, or narrower ones, in processes."""

import platform

import llvmlite.binding as llvm
import pytest

HOST = {name for name, there in llvm.get_host_cpu_features().items() if there}
X86 = platform.machine() in ("x86_64", "AMD64")
ENVIRONMENTS = {
    "native": {"NUMBA_CPU_NAME": None, "NUMBA_CPU_FEATURES": None},
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""},
    "plain": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
}


def host_isa():
    if {"avx512f", "avx512vl"} <= HOST:
        return "avx512"
    return "avx2" if {"avx2", "fma"} <= HOST else "plain"


def compiled_as(isa):
    """The environment of an ISA: that of this machine is what every other test compiles for."""
    return "native" if isa == host_isa() else isa


def environment(isa):
    """Where Numba compiles for an ISA that this machine has."""
    if not X86:
        pytest.skip(f"{platform.machine()} has one vector width, and this is x86")
    if isa == "avx2" and not {"avx2", "fma"} <= HOST:
        pytest.skip("this machine has no AVX2")
    return {"NUMBA_DISABLE_JIT": "0", **ENVIRONMENTS[compiled_as(isa)]}
