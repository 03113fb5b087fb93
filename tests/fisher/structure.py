"""What a structured Fisher keeps of the full matrix."""

import numpy as np

import fastfisher as ff


def mask(sizes):
    """True inside consecutive diagonal blocks of these orders."""
    of = np.repeat(np.arange(len(sizes)), sizes)
    return of[:, np.newaxis] == of


def structured(F, full):
    """The part of the full matrix (p, p) that F stands for."""
    if isinstance(F, ff.DiagonalFisher):
        return np.diag(np.diag(full))
    if isinstance(F, ff.BlockDiagonalFisher):
        return np.where(mask(F.sizes), full, 0)
    return full


def halves(p):
    """A ragged layout of p parameters: two orders, one of them twice, apart."""
    return [size for size in (p // 3, p - 2 * (p // 3), p // 3) if size]
