"""The profile that ``fastfisher calibrate`` writes: where it lies, whether it fits, its rates."""

import functools
import os
import sys
import warnings
from pathlib import Path

from .. import __version__, machine
from .rates import built_in, rates_from

__all__ = ["current_rates", "fingerprint", "profile", "profile_path", "thread_count"]

LARGEST = 1 << 20  # bytes of a profile; more than that is none of ours


def profile_path():
    """File of the profile, or None where FASTFISHER_PROFILE=off or there is no home folder.

    FASTFISHER_PROFILE names another file; the default is profile.json in the user's cache folder.
    """
    setting = os.environ.get("FASTFISHER_PROFILE", "").strip()
    if setting.lower() in ("0", "off"):
        return None
    try:
        return Path(setting).expanduser() if setting else _cache_folder() / "profile.json"
    except RuntimeError:  # no home folder
        return None


def _cache_folder():
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given, "fastfisher")
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        base = Path(local) if local else Path.home() / "AppData" / "Local"
        return base / "fastfisher" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fastfisher"
    return Path.home() / ".cache" / "fastfisher"


def thread_count():
    """Threads that kernels start with: the cores, or fewer by NUMBA_NUM_THREADS."""
    cores = machine.cpu_count()
    try:
        limit = int(os.environ.get("NUMBA_NUM_THREADS", ""))
    except ValueError:
        return cores
    return min(cores, limit) if limit > 0 else cores


def fingerprint():
    """What a profile was measured with; any difference makes it another machine's."""
    import importlib.metadata  # takes a while, and a machine without a profile never asks

    return {
        "cpu": machine.cpu_name(),
        "features": list(machine.cpu_features()),
        "threads": thread_count(),
        "fastfisher": __version__,
        "numba": importlib.metadata.version("numba"),
    }


def read_profile(path):
    """Rates from a profile; ValueError if it is damaged or was measured with anything else."""
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it has more than {LARGEST} bytes")
    rates = rates_from(path.read_text(encoding="utf-8"))
    for name, here in fingerprint().items():
        there = rates.machine.get(name)
        if there != here:
            raise ValueError(f"it was measured with {name} {there!r}, but here it is {here!r}")
    return rates


@functools.cache
def profile():
    """The user's profile, read once; None if there is none, or (with a warning) if it is no use."""
    path = profile_path()
    if path is None or not path.is_file():
        return None
    try:
        return read_profile(path)
    except (OSError, ValueError) as error:
        warnings.warn(
            f"the profile {path} is ignored: {error}; run `fastfisher calibrate` again, delete it, "
            "or set FASTFISHER_PROFILE=off",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def current_rates():
    """Rates of this machine: the profile's, or those that came with the package, scaled."""
    return profile() or built_in(thread_count())
