"""What both demos start from: the UCI digits that scikit-learn brings, and a seed."""

import numpy as np

from ..errors import InputError, MissingDependencyError

__all__ = ["check_seed", "load_digits"]


def load_digits():
    """1797 images of 8 x 8 pixels in [0, 1], (n, 64), and their digits (n,); no download."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingDependencyError(
            "the demo needs scikit-learn for its data; install the demo extra: "
            "pip install 'fastfisher[demo]'"
        ) from error
    X, y = datasets.load_digits(return_X_y=True)
    return X / 16.0, y.astype(np.int64)


def check_seed(seed):
    """An integer >= 0, else InputError."""
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed is {seed!r}, expected an integer >= 0")
