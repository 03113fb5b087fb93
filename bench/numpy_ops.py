"""Operations in NumPy, as one writes them."""

import numpy as np

from .cases import DAMPING


def add_to_diagonal(A, value):
    """A, after value was added to its diagonal in place."""
    np.einsum("ii->i", A)[...] += value
    return A


def solve(G, coef):
    """(F + lambda I)^-1 of the gradient with these coefficients, by the smaller Gram matrix."""
    n, p = G.shape
    small = G.conj().T @ G if p <= n else G @ G.conj().T
    add_to_diagonal(small, n * DAMPING)
    if p <= n:
        return np.linalg.solve(small, (coef.conj() @ G).conj())
    return (np.linalg.solve(small, coef).conj() @ G).conj()


def explicit_gram(layers, limit=2e9):
    """The Gram matrix of layered scores that are formed first."""
    n, sizes = len(layers[0][0]), [A.shape[1] * E.shape[1] for A, E in layers]
    nbytes = n * sum(sizes) * layers[0][0].itemsize
    if nbytes > limit:
        raise MemoryError(f"the explicit scores would take {nbytes / 1e9:.0f} GB")
    G = np.empty((n, sum(sizes)), layers[0][0].dtype)
    columns = np.split(G, np.cumsum(sizes)[:-1], axis=1)
    for block, (A, E) in zip(columns, layers, strict=True):
        np.multiply(E[:, :, None], A[:, None, :], out=block.reshape(n, E.shape[1], A.shape[1]))
    return G @ G.T


def metric_solve(scores, g):
    """As NGBoost forms it, but without storing the products of single samples."""
    M = np.einsum("nsp,nsq->npq", scores, scores, optimize=True) / scores.shape[1]
    np.einsum("nii->ni", M)[...] += DAMPING
    return np.linalg.solve(M, g[..., None])[..., 0]


def block_syrk(G, d):
    """G'G of every block of d columns."""
    blocks = G.reshape(len(G), -1, d).transpose(1, 0, 2)
    return blocks.swapaxes(1, 2) @ blocks
