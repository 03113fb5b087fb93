"""What a case is run on."""

import math
import zlib
from itertools import pairwise

import numpy as np

from .cases import DTYPES
from .workloads import WORKLOADS

PERIOD = 4_000_037


def inputs(case):
    """The operands of a case: the same numbers for every contender and every run."""
    rng = np.random.default_rng(zlib.crc32(case.id.encode()))
    dtype = np.dtype(DTYPES[case.dtype])

    def normal(*shape):
        # Numbers repeat after PERIOD, a prime: rows of a large matrix still differ.
        count = min(math.prod(shape), PERIOD)
        real = np.dtype(np.float32) if dtype.itemsize <= 4 else dtype.type(0).real.dtype
        numbers = rng.standard_normal(count * (2 if dtype.kind == "c" else 1), real)
        numbers = numbers.view(dtype) if dtype.kind == "c" else numbers.astype(dtype, copy=False)
        filled = np.empty(shape, dtype)
        flat = filled.reshape(-1)
        for lo in range(0, flat.size, PERIOD):
            part = flat[lo : lo + PERIOD]
            part[:] = numbers[: len(part)]
        return filled

    if case.op in WORKLOADS:
        return WORKLOADS[case.op].inputs(normal, case.shape)
    match case.op, case.shape:
        case "syrk" | "gram" | "diag" | "convert", (n, p):
            return (normal(n, p),)
        case "fvp" | "matvec", (n, p, k):
            return normal(n, p), _columns(normal, case, p, k)
        case "rmatvec", (n, p, k):
            return normal(n, p), _columns(normal, case, n, k)
        case "cholesky", (n,):
            return (_positive_definite(normal(n, n)),)
        case "cho_solve" | "trsm", (n, k):
            L = np.linalg.cholesky(_positive_definite(normal(n, n)))
            return L, normal(n) if k == 1 else normal(n, k)
        case "solve", (n, p):
            G = normal(n, p)
            if case.spectrum == "exp":
                _give_exponential_spectrum(G, normal(p))
            return G, normal(n)
        case "batched_solve", (n, p):
            return _positive_definite(normal(n, p, p)), normal(n, p)
        case "metric_solve", (n, s, p):
            return normal(n, s, p), normal(n, p)
        case "block_syrk", (n, p, d):
            return normal(n, p), d
        case "block_cholesky", (n, d):
            return (_positive_definite(normal(n, d, d)),)
        case "layered_gram", (n, *widths):
            return ([(normal(n, d_in), normal(n, d_out)) for d_in, d_out in pairwise(widths)],)
    raise ValueError(f"no inputs for {case.id}")


def _columns(normal, case, size, k):
    vectors = normal(size) if k == 1 else normal(size, k)
    return vectors.astype(case.dtype_computed)


def _positive_definite(B):
    p = B.shape[-1]
    A = B @ B.conj().swapaxes(-1, -2)
    A /= p
    np.einsum("...ii->...i", A)[...] += 1
    return A


def _give_exponential_spectrum(G, direction):
    # Scaled columns, then one reflection: a diagonal Fisher would flatter Jacobi and CG.
    G *= np.logspace(0, -3, G.shape[1], dtype=G.real.dtype)
    direction /= np.linalg.norm(direction)
    G -= np.outer(2 * (G @ direction.conj()), direction)
