"""Operands that lie on a CUDA device are computed there."""

import functools

from ..devices import lies_on_device, require_device
from ..errors import InputError

__all__ = ["placed"]


def placed(function):
    """The op for host arrays, or its twin of the same name in `device` for those of a device."""

    @functools.wraps(function)
    def op(*args, **kwargs):
        first = args[0] if args else next(iter(kwargs.values()), None)
        while isinstance(first, list | tuple) and first:  # layers
            first = first[0]
        if not lies_on_device(first):
            return function(*args, **kwargs)
        require_device()
        from . import device  # loads CUDA

        twin = getattr(device, function.__name__, None)
        if twin is None:
            raise InputError(f"{function.__name__} is computed on the host only; pass host copies")
        return twin(*args, **kwargs)

    return op
