"""Where the numbers were taken: what must be known to read them later."""

import datetime
import importlib.metadata
import platform

from fastfisher import machine

PACKAGES = ("fastfisher", "numpy", "scipy", "numba", "llvmlite", "mkl", "torch")


def describe():
    """Machine, versions and date, from the parent process."""
    memory = machine.available_memory()
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": machine.cpu_name(),
        "cores": machine.cpu_count(),
        "features": list(machine.cpu_features()),
        "caches_KiB": {level: size >> 10 for level, size in machine.cache_sizes().items()},
        "memory_free_GiB": round(memory / 2**30, 1) if memory else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(package):
    if package == "fastfisher":  # the checkout, whether or not it is installed
        import fastfisher

        return fastfisher.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def contender(name):
    """Thread pools of this process that the contender uses, as the libraries report them."""
    from . import contenders

    if name == "mkl":
        return {"blas": contenders.mkl.version, "threads": contenders.mkl.threads}
    if name == "torch":
        return contenders.torch_ops.version()
    ours = name.startswith("fastfisher")
    about = {"blas": _openblas("scipy" if ours else name.partition("-")[0])}
    if ours:
        import numba

        about |= {"threads": numba.get_num_threads(), "features": _compiled_for()}
    return about


def _openblas(owner):
    from threadpoolctl import threadpool_info

    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    mine = [pool for pool in pools if f"{owner}.libs" in pool["filepath"]] or pools
    return "; ".join(
        f"{p['internal_api']} {p['version']} {p.get('architecture', '')} x{p['num_threads']}"
        for p in mine
    )


def _compiled_for():
    from .roofline import simd_features

    wanted = ("avx2", "fma", "avx512f", "avx512vnni", "amx-int8", "amx-bf16", "neon", "sve")
    return [name for name in wanted if name in simd_features()]
