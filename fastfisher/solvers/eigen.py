"""Eigenvalues and eigenvectors of symmetric matrices."""

import numpy as np

from .. import linalg
from ..planning import choose

__all__ = ["eigen"]


def eigen(A):
    """Eigenvalues (ascending) and V' of A = V diag(e) V', in its lower triangle; destroys A."""
    choose("mirror", len(A), A.dtype).load()(A)
    if not len(A):
        return np.empty(0), np.empty((0, 0), A.dtype)
    # The transpose is in the order LAPACK wants. It is conj(A), so its eigenvectors are conj(V),
    # and their transpose is V'.
    e, columns = linalg.eigh(A.T, lower=True, overwrite_a=True, check_finite=False, driver="evr")
    return e, columns.T
