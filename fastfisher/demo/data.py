"""What both demos start from: the UCI digits that scikit-learn brings, and a seed."""

import functools
import sys
from pathlib import Path

import numpy as np

from .. import plots
from ..errors import InputError, MissingDependencyError

__all__ = ["load_digits", "start"]


def start(output_dir, stream, seed):
    """(say, digits, directory): what is wrong or not installed is told before the work.

    ``say(text)`` prints a line to the stream, standard output by default.
    """
    _check_seed(seed)
    digits = load_digits()
    plots.figure()
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    return functools.partial(print, file=stream or sys.stdout, flush=True), digits, output_dir


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


def _check_seed(seed):
    """An integer >= 0, else InputError."""
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed is {seed!r}, expected an integer >= 0")
