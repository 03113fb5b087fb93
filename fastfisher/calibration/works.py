"""The calls that calibration times: for each op and size a short one and a long one, or one for
each number of right-hand sides."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..planning import CACHED, SIDED, TABLE, solve_flops

__all__ = ["FULL", "QUICK", "SIDES", "Settings", "band_of", "cells", "works"]


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    budget: float  # seconds; from then on a cell gets the fewest rounds
    rounds: int
    turn: float  # seconds a measurement takes at least
    pause: float  # seconds between turns: thread pools fall asleep
    bytes: int  # of the operands
    flops: float  # of one call
    dtypes: tuple
    every: int  # take each size, or each second one


QUICK = Settings(11.0, 3, 0.002, 0.005, 32 << 20, 5e8, ("float64", "float32"), 2)
FULL = Settings(
    120.0,
    7,
    0.004,
    0.01,
    CACHED,
    4e9,
    ("float64", "float32", "complex128", "complex64"),
    1,
)
SIZES = {
    "syrk": (8, 24, 64, 128, 250, 600, 1500),
    "gram": (16, 64, 128, 250, 500, 1000, 1500),
    "matvec": (1, 2, 4, 8, 16, 32),
    "rmatvec": (1, 2, 4, 8, 16, 32),
    "fvp": (1, 2, 4, 8, 16, 32),
    "cholesky": (16, 64, 96, 128, 200, 300, 500, 1000, 2000),
    "solve_lower": (16, 64, 250, 500, 1000, 2500),
    "solve_lower_adjoint": (16, 64, 250, 500, 1000, 2500),
    "inverse_diagonal": (64, 250, 500, 1000, 2000),
    "batched_solve": (2, 5, 9, 20, 32),
    "layered_gram": (32, 128, 256, 512, 1024),
}
SIDES = 1, 4, 16, 64  # right-hand sides, where the choice depends on them
IN_PLANS = ("syrk", "gram", "matvec", "rmatvec", "fvp", "cholesky")
IN_PLANS += ("solve_lower", "solve_lower_adjoint")


@dataclass(frozen=True)
class Work:
    """One call: the operands, what restores those it overwrites, its flops."""

    arguments: tuple
    flops: float
    restore: Callable = None


def _numbers(shape, dtype):
    """Gaussian numbers, repeated: what they are does not matter, that they are normal does."""
    dtype = np.dtype(dtype)
    block = np.random.default_rng(0).standard_normal((65_537, 2))
    block = block.view(np.complex128)[:, 0] if dtype.kind == "c" else block[:, 0]
    return np.resize(block.astype(dtype), shape)


def _multiply_add(dtype):
    return 8 if np.dtype(dtype).kind == "c" else 2


def _double(dtype):
    return np.dtype(np.complex128 if np.dtype(dtype).kind == "c" else np.float64)


def _extents(settings, words, flops, least=32):
    """The two lengths that are measured, where `words` and `flops` are those of one unit."""
    large = max(int(min(settings.bytes / 8 / words, settings.flops / flops)), 128, 2 * least)
    return (max(large // 16, least), large)


def _syrk(size, dtype, settings):
    for n in _extents(settings, size, _multiply_add(dtype) / 2 * size**2, max(size // 2, 32)):
        empty, real = np.empty(0, dtype), np.empty(0, np.empty(0, dtype).real.dtype)
        c, a = np.zeros((size, size), _double(dtype)), _numbers((n, size), dtype)
        flops = _multiply_add(dtype) * n * size * (size + 1) / 2
        yield Work((c, a, real, empty), flops)


def _gram(size, dtype, settings):
    for p in _extents(settings, size, _multiply_add(dtype) / 2 * size**2, max(size // 2, 32)):
        empty, real = np.empty(0, dtype), np.empty(0, np.empty(0, dtype).real.dtype)
        c, a = np.zeros((size, size), _double(dtype)), _numbers((size, p), dtype)
        flops = _multiply_add(dtype) * p * size * (size + 1) / 2
        yield Work((c, a, 0, p, real, empty), flops)


WIDTH = 2000  # parameters of the scores in products with vectors


def _products(op, k, dtype, settings):
    one = _multiply_add(dtype) * WIDTH * k
    for n in _extents(settings, WIDTH, 2 * one):
        empty, real = np.empty(0, dtype), np.empty(0, np.empty(0, dtype).real.dtype)
        a, v, u = (_numbers(s, dtype) for s in ((n, WIDTH), (k, WIDTH), (k, n)))
        y, z = np.zeros((k, WIDTH), _double(dtype)), np.zeros((k, n), _double(dtype))
        if op == "matvec":
            yield Work((z, a, v, empty), one * n)
        elif op == "rmatvec":
            yield Work((y, a, u, empty), one * n)
        else:
            yield Work((y, a, v, real, empty), 2 * one * n)


def _cholesky(n, dtype, settings):
    A = _numbers((n, n), dtype)
    A = A @ A.conj().T / n + np.eye(n, dtype=dtype)
    work = A.copy()
    flops = _multiply_add(dtype) * n**3 / 6
    yield Work((work,), flops, lambda: np.copyto(work, A))


def _solve_lower(op, n, dtype, settings):
    L = np.tril(_numbers((n, n), dtype)) / (4 * n)
    np.einsum("ii->i", L)[...] = 1
    for k in SIDES:
        b = _numbers((k, n), dtype)
        x = b.copy()
        arguments = (L, x, 0) if op == "solve_lower" else (L, x)
        flops = solve_flops(n, dtype, k)
        yield Work(arguments, flops, lambda x=x, b=b: np.copyto(x, b))


def _inverse_diagonal(n, dtype, settings):
    L = np.tril(_numbers((n, n), dtype)) / (4 * n)
    np.einsum("ii->i", L)[...] = 1
    yield Work((np.zeros(n), L), _multiply_add(dtype) * n**3 / 6)


def _batched_solve(p, dtype, settings):
    flops = _multiply_add(dtype) * (p**3 / 6 + p**2)
    for n in _extents(settings, p * p, flops):
        B = _numbers((min(n, 1024), p, p), dtype)
        f = np.resize(B @ B.conj().swapaxes(1, 2) / p + np.eye(p, dtype=dtype), (n, p, p))
        g, x, info = _numbers((n, p), dtype), np.zeros((n, p), dtype), np.zeros(n, np.int32)
        damping = np.zeros(n, np.empty(0, dtype).real.dtype)
        yield Work((x, info, f, g, damping), n * flops)


def _layered_gram(rows, dtype, settings):
    for d in (64, 512):
        a, e = _numbers((rows, d), dtype), _numbers((rows, d), dtype)
        c = np.zeros((rows, rows), _double(dtype))
        flops = _multiply_add(dtype) * rows * (rows + 1) * d
        yield Work((c, a, e, 1), flops)


def works(op, size, dtype, settings):
    """The calls that are measured for an op at a size, the short ones first."""
    if op in ("matvec", "rmatvec", "fvp"):
        return _products(op, size, dtype, settings)
    if op in SIDED:
        return _solve_lower(op, size, dtype, settings)
    makers = {
        "syrk": _syrk,
        "gram": _gram,
        "cholesky": _cholesky,
        "inverse_diagonal": _inverse_diagonal,
        "batched_solve": _batched_solve,
        "layered_gram": _layered_gram,
    }
    return makers[op](size, dtype, settings)


def band_of(op, dtype, size, sides=1, table=TABLE):
    """The row of the table."""
    for band in table:
        fits = band.op == op and dtype in band.dtypes and band.holds(size, sides)
        if fits and band.device == "cpu":
            return band
    raise LookupError(f"no band for {op} of {dtype}, size {size}, {sides} right-hand sides")


def cells(settings, table=TABLE):
    """(op, dtype, size, entries) to measure: bands with a choice, and every op of the plans."""
    for op, sizes in SIZES.items():
        for dtype, size in itertools.product(settings.dtypes, sizes[:: settings.every]):
            entries = band_of(op, dtype, size, table=table).entries
            if len(entries) > 1 or op in IN_PLANS:
                yield op, dtype, size, entries
