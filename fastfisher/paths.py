"""The front door for many dampings at once: solve_path."""

from .api import sample_scores
from .arrays import as_scores, as_vectors
from .damping import as_damping
from .devices import lies_on_device
from .errors import InputError
from .planning import check_method
from .scalars import as_flag
from .solvers.cutoffs import Cutoff
from .solvers.small import in_stages
from .solvers.solve import plan_system
from .solvers.sweep import solve_sweep
from .solvers.system import make_system

__all__ = ["solve_path"]


def solve_path(
    G,
    b=None,
    *,
    coef=None,
    dampings,
    weights=None,
    groups=None,
    center=False,
    method="auto",
    nan_policy="raise",
):
    """Solve (F + D) x = b for many D, F = G' diag(w) G / sum(w), and certify each result.

    Exactly one of `b` and `coef` is given. `DenseFisher.path` and `GramFisher.path` take hundreds
    of dampings and measure more of each (log determinant, effective dimension, cross-validation),
    by way of a tridiagonal form; this is for a handful, of any kind, on large scores: the matrix is
    formed once, unless forming it again costs hardly anything.

    Parameters
    ----------
    G : array (n, p)
        Per-sample scores on the host, as in `solve`.
    b : array (p,) or (p, k)
        Right-hand sides.
    coef : array (n,) or (n, k)
        Right-hand sides as b = G'(w o coef) / sum(w), as in `solve`.
    dampings : sequence
        What `solve` takes as `damping`: numbers and damping objects, no cutoffs; at least one.
    weights, groups, center, nan_policy
        As in `solve`.
    method : {"auto", "primal", "dual", "cg", "mixed"}
        As in `solve`, for all dampings together. "mixed" forms its rough matrix once, factors it in
        single precision for each damping, and accepts each result on its own residual; from the
        first damping it does not hold on, the exact matrix serves the rest.

    Returns
    -------
    tuple of Solution
        One for each damping, in the order given; the plan is that of all of them.

    Raises
    ------
    InputError, NotPositiveDefiniteError, MemoryLimitError
        As in `solve`; all of them, if one has no solution.

    Notes
    -----
    primal, m dampings: n p^2 + m p^3 / 3 flops (small: m (n p^2 + p^3 / 3)) and 16 p^2 bytes;
    dual: n for p and p for n. The
    results of the exact routes are to the bit those of `solve`, but where that is one compiled
    call and forms what is kept here. docs/math.md X4, Q1.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> G = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> path = ff.solve_path(G, np.array([1.0, 5.0]), dampings=[0.5, 2.0])
    >>> [sol.x.round(12).tolist() for sol in path]
    [[1.0, 2.0], [0.4, 1.25]]
    """
    check_method(method)
    center = as_flag(center, "center")
    if lies_on_device(G):
        raise InputError("G lies on a device; solve_path computes on the host, loop over solve")
    if (b is None) == (coef is None):
        came = "neither b nor coef was" if b is None else "both b and coef were"
        raise InputError(f"{came} given; pass exactly one of them")
    dampings = _dampings(dampings)
    scores, w = sample_scores(as_scores(G), weights, groups, nan_policy)
    n, p = scores.shape
    rows = coefs = None
    if b is not None:
        rows, single = as_vectors(b, p, scores.dtype, "b")
    else:
        coefs, single = as_vectors(coef, n, scores.dtype, "coef", axis="n")
    given = rows if coefs is None else coefs
    sides = len(given) * (2 if given.dtype.kind == "c" and scores.dtype.kind != "c" else 1)
    undamped = rows is None and any(damping.is_zero for damping in dampings)
    facts = {"undamped": undamped, "staged": any(map(in_stages, dampings))}
    plan = plan_system(scores, w, center, sides, method, **facts, dampings=len(dampings))
    system = make_system(scores, w, center, dampings[0], nan_policy)
    return solve_sweep(system, plan, dampings, rows, coefs, single=single)


def _dampings(given):
    """Damping objects of a sequence."""
    try:
        values = None if isinstance(given, str) else list(given)
    except TypeError:  # an array without axes has __iter__ too
        values = None
    if values is None:
        raise InputError(f"dampings is {given!r}; expected a sequence of what solve takes")
    made = [as_damping(damping) for damping in values]
    if not made:
        raise InputError("dampings is empty; expected at least one")
    cutoffs = [damping for damping in made if isinstance(damping, Cutoff)]
    if cutoffs:
        raise InputError(
            f"dampings hold {cutoffs[0]!r}, which replaces the inverse; pass it to solve"
        )
    return made
