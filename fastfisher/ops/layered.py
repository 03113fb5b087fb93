"""Gram matrices of layered models."""

import numpy as np

from ..arrays import to_origin
from ..errors import InputError
from ..passes import sums_dtype
from .layers import add_layer_moments, add_layered_gram, as_layers, read_layer
from .placing import placed
from .products import mirror

__all__ = ["layered_diag", "layered_gram"]


@placed
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
    layers = as_layers(layers)
    n, dtype = layers.n, layers.dtype
    sums = np.zeros((n, n), sums_dtype(dtype))
    for index, (a, e) in enumerate(layers.pairs):
        add_layered_gram(sums, a, e)
        bad = np.flatnonzero(~np.isfinite(sums.diagonal()))
        if bad.size:
            raise InputError(f"layer {index} is not finite, or overflows, in sample {bad[0]}")
    K = sums if sums.dtype == dtype else np.empty(sums.shape, dtype)
    mirror(sums, K)
    bad = np.flatnonzero(~np.isfinite(K.diagonal()))
    if bad.size:
        raise InputError(
            f"the Gram matrix overflows {dtype} in sample {bad[0]}; scale the layers down"
        )
    return to_origin(K, layers.origin)


@placed
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
    a, e = read_layer(0, (A, E))
    dtype = np.result_type(a.dtype, e.dtype)
    sums = np.zeros((e.shape[2], a.shape[2]))
    add_layer_moments(sums, a.astype(dtype, copy=False), e.astype(dtype, copy=False))
    with np.errstate(over="ignore"):
        result = sums.astype(np.empty(0, dtype).real.dtype, copy=False)
    if not np.isfinite(result).all():
        for name, x in (("A", a), ("E", e)):
            bad = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))
            if bad.size:
                raise InputError(f"{name} is not finite in sample {bad[0]}; drop or repair it")
        raise InputError(f"the second moments overflow {result.dtype}; scale A or E down")
    return to_origin(result, A)
