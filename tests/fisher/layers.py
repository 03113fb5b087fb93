"""Layers for tests, and the Fishers they define, from explicit rows in double precision."""

import numpy as np
from scipy.linalg import block_diag

from tests import matrices, oracle


def layer(n, t, d_in, d_out, dtype="float64", rng=None):
    rng = matrices.generator("layer", n, t, d_in, d_out, str(dtype)) if rng is None else rng
    middle = () if t is None else (t,)
    return (
        matrices.gaussian((n, *middle, d_in), dtype, rng),
        matrices.gaussian((n, *middle, d_out), dtype, rng),
    )


def mixed(n, dtype="float64", rng=None):
    """A dense layer with bias, a sequence and a patch layer of more tokens than features."""
    A, E = layer(n, None, 4, 3, dtype, rng)
    A[:, -1] = 1
    return [(A, E), layer(n, 2, 6, 5, dtype, rng), layer(n, 5, 2, 3, dtype, rng)]


def part(layers, lo, hi):
    return [(A[lo:hi], E[lo:hi]) for A, E in layers]


def widths(layers):
    return [(A.shape[-1], E.shape[-1]) for A, E in layers]


def _tokens(A, E, tokens):
    """Rows and their weights behind the factors, (n, t, d) each."""
    A, E = (x[:, None] if x.ndim == 2 else x for x in (oracle.wide(A), oracle.wide(E)))
    if tokens == "reduce":
        return A.mean(axis=1, keepdims=True), E.sum(axis=1, keepdims=True)
    return A, E


def factors(layers, w=None, tokens="expand"):
    """Normalised (E, A) of each layer. C1, C2."""
    pairs = []
    for A, E in layers:
        A, E = _tokens(A, E, tokens)
        n, t, _ = A.shape
        share = (np.ones(n) if w is None else np.asarray(w, float)) / (n if w is None else w.sum())
        second = lambda x, s: np.einsum("n,nti,ntj->ij", s, x.conj(), x)  # noqa: E731
        pairs.append((second(E, share), second(A, share / t)))
    return pairs


def kfac(layers, w=None, tokens="expand"):
    return block_diag(*(np.kron(E, A) for E, A in factors(layers, w, tokens)))


def ekfac(layers, w=None, tokens="expand", *, basis=None, bases=None):
    """C3 by explicit rows; `basis` are layers and weights that the eigenbases `bases` are of."""
    if bases is None:
        pairs = factors(*(basis or (layers, w)), tokens)
        bases = [np.kron(np.linalg.eigh(E)[1], np.linalg.eigh(A)[1]) for E, A in pairs]
    blocks = []
    for pair, U in zip(layers, bases, strict=True):
        rows = oracle.scaled_rows(oracle.layer_scores([pair]), w) @ U
        blocks.append((U * (np.abs(rows) ** 2).sum(axis=0)) @ oracle.ct(U))
    return block_diag(*blocks)


def exact_blocks(layers, w=None):
    """The block-diagonal part of the Fisher itself."""
    return block_diag(*(oracle.fisher(oracle.layer_scores([pair]), w) for pair in layers))
