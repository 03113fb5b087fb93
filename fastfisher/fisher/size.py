"""Checks of sizes that several representations share."""

from ..errors import InputError

__all__ = ["check_size"]


def check_size(value, name):
    """An integer >= 0, as int."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 0:
        raise InputError(f"{name} is {value!r}; expected an integer >= 0")
    return int(value)
