"""What the cases of solves in the CUDA simulator share."""

import contextlib
from unittest import mock

import numpy as np

__all__ = ["TALL", "WIDE", "slices_of", "there"]

TALL, WIDE = (5, 3), (3, 5)


def there(x):
    """A device copy of a host array, of those in lists and tuples; anything else as it is."""
    from numba import cuda

    if isinstance(x, list | tuple):
        return type(x)(map(there, x))
    return cuda.to_device(x) if isinstance(x, np.ndarray) else x


@contextlib.contextmanager
def slices_of(size):
    """Host scores pass over the bus, so many bytes at a time."""
    from fastfisher.devices import slices
    from fastfisher.solvers import device

    with (
        mock.patch.object(device, "RESIDENT_SHARE", 0),
        mock.patch.object(slices, "SLICE_BYTES", size),
    ):
        yield
