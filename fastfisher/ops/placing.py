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
        from . import device, device_batched  # loads CUDA

        for module in (device, device_batched):
            if function.__name__ in module.__all__:
                twin = getattr(module, function.__name__)
                break
        else:
            raise InputError(f"{function.__name__} is computed on the host only; pass host copies")
        return twin(*args, **kwargs)

    return op
