"""Gram matrices of layered models."""

import numpy as np

from ..arrays import Scores, as_array, computing_dtype, contiguous, to_origin
from ..errors import InputError
from ..passes import add_gram, slices, sums_dtype
from ..planning import choose
from .products import mirror

__all__ = ["layered_diag", "layered_gram"]

SLICE_BYTES = 64 << 20  # of both factors per kernel call


def layered_gram(layers):
    """Gram matrix of layered scores, sum over layers of (A_l A_l') o (E_l E_l').

    The score of sample i in layer l is kron(e_i, a_i), or the sum over tokens of it; scores are
    never formed.

    Parameters
    ----------
    layers : sequence of pairs (A_l, E_l)
        A_l (n, d_in) inputs and E_l (n, d_out) output gradients, or (n, t, d) with tokens. A bias
        is a column of ones in A_l.

    Returns
    -------
    array (n, n)
        Both triangles, symmetric (Hermitian) to the bit.

    Raises
    ------
    InputError
        For shapes that do not match, or a layer that is not finite.

    Notes
    -----
    n^2 t^2 (d_in + d_out) flops per layer, or n^2 d_in d_out where that is less.
    docs/math.md L1, L2.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.layered_gram([(np.array([[1.0, 2.0]]), np.array([[3.0]]))])
    array([[45.]])
    """
    layers = list(layers)
    checked = [_layer(index, pair) for index, pair in enumerate(layers)]
    if not checked:
        raise InputError("layers is empty; expected at least one pair (A, E)")
    counts = {a.shape[0] for a, _ in checked}
    if len(counts) != 1:
        raise InputError(f"layers have {sorted(counts)} samples; expected the same n in all")
    (n,) = counts
    dtype = np.result_type(*(x.dtype for pair in checked for x in pair))
    sums = np.zeros((n, n), sums_dtype(dtype))
    for index, (a, e) in enumerate(checked):
        _add_layer(sums, a.astype(dtype, copy=False), e.astype(dtype, copy=False))
        bad = np.flatnonzero(~np.isfinite(sums.diagonal()))
        if bad.size:
            raise InputError(f"layer {index} is not finite, or overflows, in sample {bad[0]}")
    mirror(sums)
    with np.errstate(over="ignore"):
        K = sums.astype(dtype, copy=False)
    bad = np.flatnonzero(~np.isfinite(K.diagonal()))
    if bad.size:
        raise InputError(
            f"the Gram matrix overflows {dtype} in sample {bad[0]}; scale the layers down"
        )
    return to_origin(K, layers[0][0])


def layered_diag(A, E):
    """Second moments of a layer's scores, sum_n |sum_t e_nt a_nt'|^2, element by element.

    The diagonal of the layer's raw Fisher in the shape of its weights. With A and E rotated into
    the eigenbases of the Kronecker factors these are the eigenvalues of EKFAC, up to 1/n; the
    scores themselves, n d_in d_out numbers, are never formed.

    Parameters
    ----------
    A : array (n, d_in) or (n, t, d_in)
        Inputs of the layer; a bias is a column of ones.
    E : array (n, d_out) or (n, t, d_out)
        Output gradients.

    Returns
    -------
    array (d_out, d_in)
        Real, in the precision of A and E.

    Raises
    ------
    InputError
        For shapes that do not match, or a layer that is not finite.

    Notes
    -----
    2 n t d_in d_out flops; sums over samples are kept in double. docs/math.md, Kronecker factors.

    References
    ----------
    T. George et al., Fast approximate natural gradient descent in a Kronecker-factored eigenbasis,
    arXiv:1806.03884, eq. 9.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.layered_diag(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0], [2.0]]))
    array([[37., 68.]])
    """
    a, e = _layer(0, (A, E))
    dtype = np.result_type(a.dtype, e.dtype)
    n, t, d_in = a.shape
    sums = np.zeros((e.shape[2], d_in))
    step = max(1, SLICE_BYTES // max(t * (d_in + sums.shape[0]) * dtype.itemsize, 1))
    kernel = choose("layered_diag", t, dtype).load()
    for lo, hi in slices(n, step, "layered_diag"):
        parts = [
            np.ascontiguousarray(x[lo:hi], dtype=dtype).reshape(-1, x.shape[2]) for x in (a, e)
        ]
        kernel(sums, *parts, t)
    with np.errstate(over="ignore"):
        result = sums.astype(np.empty(0, dtype).real.dtype, copy=False)
    if not np.isfinite(result).all():
        for name, x in (("A", a), ("E", e)):
            bad = np.flatnonzero(~np.isfinite(x).reshape(n, -1).all(axis=1))
            if bad.size:
                raise InputError(f"{name} is not finite in sample {bad[0]}; drop or repair it")
        raise InputError(f"the second moments overflow {result.dtype}; scale A or E down")
    return to_origin(result, A)


def _layer(index, pair):
    try:
        first, second = pair
    except (TypeError, ValueError) as error:
        raise InputError(f"layers[{index}] is no pair (A, E)") from error
    operands = []
    for name, x in (("A", first), ("E", second)):
        a = as_array(x, f"layers[{index}].{name}")
        dtype = computing_dtype(a.dtype, f"layers[{index}].{name}")
        if a.ndim not in (2, 3):
            raise InputError(
                f"layers[{index}].{name} has shape {a.shape}; expected (n, d) or (n, t, d)"
            )
        operands.append(contiguous(a if a.ndim == 3 else a[:, np.newaxis], dtype))
    a, e = operands
    if a.shape[:2] != e.shape[:2]:
        raise InputError(
            f"layers[{index}] has A {np.shape(first)} and E {np.shape(second)}; expected the same "
            "samples (and tokens) in both"
        )
    return a, e


def _add_layer(sums, a, e):
    n, t, d_in = a.shape
    d_out = e.shape[2]
    if n == 0:
        return
    if t * t * (d_in + d_out) < d_in * d_out or t <= 1:
        kernel = choose("layered_gram", n * t, a.dtype).load()
        kernel(sums, a.reshape(n * t, d_in), e.reshape(n * t, d_out), t)
        return
    # Many tokens: scores of a few outputs at a time are cheaper than all token pairs.
    step = max(1, (64 << 20) // max(n * d_in * a.itemsize, 1))
    for o in range(0, d_out, step):
        with np.errstate(invalid="ignore", over="ignore"):
            part = np.matmul(e[:, :, o : o + step].transpose(0, 2, 1), a).reshape(n, -1)
        add_gram(sums, Scores(part, a.dtype, None))
