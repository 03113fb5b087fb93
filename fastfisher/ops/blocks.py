"""Blocks of a block-diagonal Fisher: sums of products, Cholesky factors, solves."""

import numpy as np

from ..arrays import (
    as_array,
    as_damping_vector,
    as_real,
    as_scores,
    as_vectors,
    as_weights,
    computing_dtype,
    contiguous,
    to_origin,
)
from ..errors import InputError
from ..passes import add_block_syrk, check_finite, sums_dtype
from ..planning import choose
from .batched import parts, real_dtype
from .placing import placed

__all__ = ["block_cholesky", "block_solve", "block_syrk"]

SUMS_BYTES = 8 << 20  # of double sums: they stay in cache while they are rounded


@placed
def block_syrk(G, block, weights=None):
    """Diagonal blocks of G' diag(w) G, for consecutive blocks of `block` parameters.

    Parameters
    ----------
    G : array (n, p)
        Scores, as in `syrk`; p is a multiple of `block`.
    block : int
        Order d of a block.
    weights : array (n,), optional
        Real, finite, >= 0.

    Returns
    -------
    array (p / d, d, d)
        Each block symmetric (Hermitian) to the bit, in the dtype of G.

    Raises
    ------
    InputError
        For bad operands, for a row of G that is not finite, or if a sum overflows.

    Notes
    -----
    n p (d + 1) flops; reads G once and p d words of result. Sums are kept in double over blocks of
    at most 256 samples.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.block_syrk(np.array([[1.0, 2.0], [3.0, 4.0]]), 1).ravel()
    array([10., 20.])
    """
    G = as_scores(G)
    n, p = G.shape
    w = as_weights(weights, n)
    d = as_real(block, "block", least=1)
    if d != int(d) or p % int(d):
        raise InputError(f"block is {block}; expected an integer that divides the {p} columns of G")
    d = int(d)
    out = np.zeros((p // d, d, d), G.dtype)
    if out.dtype == sums_dtype(G.dtype):
        add_block_syrk(out, G, weights=w)
    else:
        _add_rounded(out, G, w)
    check_finite(G, np.einsum("bii->bi", out), "G'WG")
    return to_origin(out, G.origin)


def _add_rounded(out, G, w):
    """The same for results in single precision: some blocks at a time are summed in double."""
    d = out.shape[1]
    step = max(SUMS_BYTES // (8 * d * d), 1)
    some = np.empty((min(step, len(out)), d, d), sums_dtype(G.dtype))
    for lo in range(0, len(out), step):
        part = out[lo : lo + step]
        sums = some[: len(part)]
        sums[:] = 0
        add_block_syrk(sums, G, lo * d, weights=w)
        with np.errstate(over="ignore"):
            part[:] = sums


def _blocks(A, name):
    a = as_array(A, name, need="shape (B, d, d)")
    dtype = computing_dtype(a.dtype, name)
    if a.ndim != 3 or a.shape[1] != a.shape[2]:
        raise InputError(f"{name} has shape {a.shape}; expected (B, d, d)")
    return a, dtype


@placed
def block_cholesky(A, *, damping=0.0):
    """Lower factors of A_b + damping_b I = L_b L_b' for all blocks, with a status per block.

    Parameters
    ----------
    A : array (B, d, d)
        Symmetric or Hermitian blocks; lower triangles are read.
    damping : float or array (B,)
        Absolute damping, >= 0.

    Returns
    -------
    L : array (B, d, d)
        In the dtype of A; upper triangles are zero, lower ones NaN in blocks that failed.
    info : array (B,) of int32
        0, or the order of the first minor that is not positive definite (or not finite).

    Raises
    ------
    InputError
        For operands of the wrong kind or shape. A bad block is no error: see ``info``.

    Notes
    -----
    B d^3 / 3 flops; Cholesky across blocks.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.block_cholesky(np.array([[[4.0]], [[0.0]]]), damping=[0.0, 9.0])[0].ravel()
    array([2., 3.])
    """
    a, dtype = _blocks(A, "A")
    blocks, d, _ = a.shape
    shift = as_damping_vector(damping, blocks).astype(real_dtype(dtype), copy=False)
    L, info = np.zeros(a.shape, dtype), np.zeros(blocks, np.int32)
    lower, diagonal = np.tril(np.ones((d, d), bool)), np.arange(d)
    kernel = choose("block_cholesky", d, dtype).load()
    for part in parts(blocks if d else 0, d * d * dtype.itemsize, d**3, "block_cholesky"):
        here = L[part]
        np.copyto(here, contiguous(a[part], dtype), where=lower)
        here[:, diagonal, diagonal] += shift[part, np.newaxis]
        kernel(here, info[part])
    return to_origin(L, A), to_origin(info, A)


@placed
def block_solve(L, b):
    """Solve L_b L_b' x_b = b_b for all blocks, with factors from `block_cholesky`.

    Parameters
    ----------
    L : array (B, d, d)
        Lower factors; only lower triangles are read.
    b : array (B d,) or (B d, k)
        Right-hand sides, the blocks one after the other.

    Returns
    -------
    array like b
        NaN in the rows of blocks that had failed.

    Raises
    ------
    InputError
        For operands of the wrong kind or shape.

    Notes
    -----
    2 B d^2 k flops; reads L once.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.block_solve(np.array([[[2.0]], [[3.0]]]), np.array([4.0, 9.0]))
    array([1., 1.])
    """
    a, dtype = _blocks(L, "L")
    blocks, d, _ = a.shape
    rows, single = as_vectors(b, blocks * d, dtype, "b", axis="B d")
    dtype, k = rows.dtype, len(rows)
    x = np.empty_like(rows)
    kernel = choose("block_solve", d, dtype).load()
    for part in parts(blocks if d else 0, d * d * dtype.itemsize, d * d * k, "block_solve"):
        columns = slice(part.start * d, part.stop * d)
        here = np.array(rows[:, columns], order="C")
        kernel(contiguous(a[part], dtype), here)
        x[:, columns] = here
    return to_origin(np.ascontiguousarray(x[0] if single else x.T), b)
