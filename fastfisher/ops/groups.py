"""Scores summed over groups of samples: clusters, sequences, the tokens of a sample."""

from dataclasses import replace

import numpy as np

from ..arrays import Scores, as_array, as_scores, to_origin
from ..errors import InputError
from ..passes import bad_rows, check_finite, sums_dtype
from ..planning import require_memory
from ..slices import slices
from .placing import placed

__all__ = ["group_sums", "grouped", "members"]


@placed
def group_sums(G, groups):
    """Sum scores over groups of samples: row c of the result is the sum of G_i over groups_i = c.

    Parameters
    ----------
    G : array (n, p)
        Scores, as in `syrk`.
    groups : array (n,) of integers
        Which group each row belongs to; any integers, in any order.

    Returns
    -------
    array (m, p)
        One row for each of the m different groups, in ascending order of their integers
        (``numpy.unique(groups)``), in the dtype of G.

    Raises
    ------
    InputError
        For bad operands, for a row of G that is not finite, or if a sum overflows.
    MemoryLimitError
        If the sums do not fit in memory.

    Notes
    -----
    n p additions in double, one pass over G. With them F is that of clustered scores, ``sum_c s_c
    s_c' / m``, its Gram matrix M K M' for the 0/1 matrix M of who belongs where: docs/math.md F10.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.ops.group_sums(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), [7, 3, 7])
    array([[3., 4.],
           [6., 8.]])
    """
    sums = grouped(as_scores(G), groups)
    return to_origin(sums.data, G)


def members(groups, n):
    """(the integers of the groups, ascending; the number of its group for each of n rows)."""
    a = as_array(groups, "groups", need="one integer per row of G")
    if a.shape != (n,) or (a.size and a.dtype.kind not in "iu"):
        raise InputError(
            f"groups is {a.dtype} of shape {a.shape}; expected one integer for each of the {n} "
            "rows of G"
        )
    return np.unique(a, return_inverse=True)


def grouped(G, groups, weights=None, nan_policy="raise"):
    """`Scores` of the sums over groups, for which there are as many weights. Groups with NaN or Inf
    are refused, naming the row, or kept as they are for a policy that deals with them."""
    from scipy.sparse import csr_array

    n, p = G.shape
    ids, member = members(groups, n)
    if weights is not None and np.shape(weights) != ids.shape:
        raise InputError(
            f"weights has shape {np.shape(weights)}; with groups pass one weight for each of the "
            f"{len(ids)} groups, in ascending order"
        )
    what = f"the sums of {len(ids)} groups"
    require_memory(len(ids) * p * G.dtype.itemsize, what)
    double = sums_dtype(G.dtype)
    belongs = csr_array((np.ones(n, double), (member, np.arange(n))), shape=(len(ids), n))
    out = np.empty((len(ids), p), G.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for lo, hi in slices(p, G.slice_columns, "group_sums"):
            out[:, lo:hi] = belongs @ G.columns(lo, hi).astype(double, copy=False)
    if not np.isfinite(out).all():
        if nan_policy == "raise":
            check_finite(G, out, what)
        spoiled = np.zeros(len(ids), bool)
        spoiled[member[bad_rows(G)[0]]] = True
        check_finite(replace(G, data=G.data[~spoiled[member]]), out[~spoiled], what)
    return Scores(out, G.dtype, G.origin)
