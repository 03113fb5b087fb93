"""Operands that lie on a CUDA device are computed there."""

import functools

import numpy as np

from ..devices import lies_on_device, require_device

__all__ = ["placed"]


def placed(function):
    """The op for host arrays; for those of a device its twin, in `device` or `device_batched`."""

    @functools.wraps(function)
    def op(*args, **kwargs):
        first = args[0] if args else next(iter(kwargs.values()), None)
        if type(first) is np.ndarray:
            return function(*args, **kwargs)
        while isinstance(first, list | tuple) and first:  # layers
            first = first[0]
        if not lies_on_device(first):
            return function(*args, **kwargs)
        require_device()
        from . import device, device_batched  # loads CUDA

        name = function.__name__
        twin = getattr(device if name in device.__all__ else device_batched, name)
        return twin(*args, **kwargs)

    return op
