"""What this computer is: cores, SIMD features, cache sizes, memory. Reading it changes nothing."""

import functools
import os
import platform
import re
from pathlib import Path

__all__ = [
    "available_memory",
    "cache_sizes",
    "cpu_count",
    "cpu_features",
    "cpu_name",
    "gpu_driver",
    "gpu_name",
    "peak_rss",
]

_UNKNOWN_CACHES = {"L1d": 32 << 10, "L2": 1 << 20, "L3": 8 << 20}


def cpu_count():
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpuinfo(key):
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            for line in f:
                name, _, value = line.partition(":")
                if name.strip() == key:
                    return value.strip()
    except OSError:
        pass
    return ""


@functools.cache
def cpu_name():
    """The processor's name as the system reports it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


@functools.cache
def cpu_features():
    """SIMD features of the host that matter to the kernels, widest first."""
    flags = set(_cpuinfo("flags").split()) | set(_cpuinfo("Features").split())
    known = "amx_int8 amx_bf16 avx512_vnni avx512_bf16 avx512f avx_vnni avx2 fma asimd".split()
    return tuple(name for name in known if name in flags)


@functools.cache
def cache_sizes():
    """Bytes of L1 data, L2 and L3 cache of the first core; common values where unknown."""
    sizes = dict(_UNKNOWN_CACHES)
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level = (index / "level").read_text().strip()
            kind = (index / "type").read_text().strip()
            size = (index / "size").read_text().strip()
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            sizes["L1d" if level == "1" else f"L{level}"] = int(size[:-1]) << 10
    return sizes


def gpu_name():
    """Name of the first NVIDIA GPU, from the kernel module, or None; nothing is initialised."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            text = path.read_text()
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return None


def gpu_driver():
    """Version of NVIDIA's kernel module, or None."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    return found.group() if found else None


def _read_number(path):
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cgroup_room():
    """Bytes left below the memory limit of this process's control group, or None."""
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        most, used = _read_number(limit), _read_number(usage)
        if most is not None and used is not None:
            return max(most - used, 0)
    return None


def _address_space_room():
    """Bytes left below RLIMIT_AS, or None."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return None
    return max(most - _status_bytes("VmSize"), 0)


def _status_bytes(key):
    try:
        with open("/proc/self/status", encoding="ascii") as f:
            for line in f:
                if line.startswith(key + ":"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def _system_memory():
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def available_memory():
    """Bytes this process can still allocate (system, control group, RLIMIT_AS); None: unknown."""
    rooms = (_system_memory(), _cgroup_room(), _address_space_room())
    known = [room for room in rooms if room is not None]
    return min(known) if known else None


def peak_rss():
    """Largest resident set of this process so far, in bytes (0 where the system does not say)."""
    return _status_bytes("VmHWM")
