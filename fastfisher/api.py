"""The front door's functions: natural_gradient and solve."""

import numpy as np

from .arrays import as_scores, as_vectors, as_weights, check_policy, to_origin
from .damping import as_damping
from .devices import lies_on_device, require_device
from .errors import InputError
from .ops.groups import group_sums, grouped
from .planning import check_device, check_method
from .scalars import as_count, as_flag, as_real
from .solvers.cutoffs import Cutoff
from .solvers.preconditioners import check_preconditioner
from .solvers.small import in_stages
from .solvers.solve import plan_system, solve_system
from .solvers.system import make_system

__all__ = ["gradient_solution", "natural_gradient", "sample_scores", "solve"]


def solve(
    G,
    b=None,
    *,
    coef=None,
    damping,
    weights=None,
    groups=None,
    center=False,
    method="auto",
    rtol=None,
    maxiter=None,
    x0=None,
    preconditioner="auto",
    nan_policy="raise",
    device=None,
):
    """Solve (F + D) x = b with F = G' diag(w) G / sum(w), and certify the result.

    Exactly one of `b` and `coef` is given.

    Parameters
    ----------
    G : array (n, p)
        Per-sample scores; float32, float64, complex64, complex128, or float16/bfloat16 storage
        (computed and answered in float32). NumPy, or anything with DLPack on the host; or a real
        array of CuPy, torch or numba on a CUDA device, as then are all operands and the answer.
    b : array (p,) or (p, k)
        Right-hand sides.
    coef : array (n,) or (n, k)
        Right-hand sides as b = G'(w o coef) / sum(w) (rows centred if `center`): the form without
        cancellation in the dual, and with damping 0 the minimum-norm solution.
    damping : float or damping object
        D: a float or `Tikhonov` (lambda I), `Relative`, `Marquardt`, `LevenbergMarquardt`; or a
        cutoff of eigenvalues in its place: `HardCutoff`, `SoftCutoff`, `SNRCutoff` (not by cg).
    weights : array (n,), optional
        Real, finite, >= 0; ones by default.
    groups : array (n,) of integers, optional
        Rows of one group (cluster, sequence) are summed before anything else: the samples are then
        the m groups in ascending order, and `weights` and `coef` have one entry for each of them.
        See `fastfisher.ops.group_sums`; docs/math.md F10.
    center : bool
        Subtract the weighted mean row from G in F (and behind `coef`), never from `b`.
    method : {"auto", "primal", "dual", "cg", "mixed"}
        Formulation; "auto" takes the fewest flops that fit in memory (see `plan`). "mixed" is
        primal or dual with sums from short slices of the scores or in single precision and a
        factor in single precision, refined on the residual in the precision of G to what the
        direct routes promise; where that fails it repeats the solve with them (``rung`` tells).
        "auto" takes it for large real problems where the processor multiplies small integers
        fast, and then only tries what damping and a sample of the scores let expect to be faster;
        on a device never, as none has been measured. There sums are from slices alone.
        "auto" takes cg, and with it `rtol`, where 300 iterations cost less than anything else.
    rtol : float, optional
        cg: relative residual to reach; 1e-10 in double, 1e-5 in single precision. Where the
        condition of F + D puts it out of reach, a backward error of 10 u (u the roundoff) will do
        with a residual below 1/2: ``converged`` is True then, and ``residual`` above `rtol`.
    maxiter : int, optional
        cg: iteration limit; 10 (min(n, p) + 10) by default.
    x0 : array like x, optional
        cg: starting point; columns that need nothing more are not touched.
    preconditioner : {"auto", "jacobi", None}, BlockJacobi, Nystrom or callable
        cg: approximate inverse; a callable is applied to arrays (p, k) of the k columns that are
        not solved yet (on a device: of all columns, as arrays of the kind of G in float64). "auto"
        is Jacobi, but none where F has fewer samples than parameters and damping is a number.
    nan_policy : {"raise", "skip", "propagate"}
        Rows with NaN or Inf: an error naming the row; left out as if of weight 0; or NaN out.
    device : {None, "cpu", "cuda"}
        Where to compute; None is where G lies. "cuda" copies host arrays in and the answer out;
        scores beyond the memory of the device pass through it in slices. A solve by primal or dual
        waits once for the device, by cg once in 16 iterations, in mixed precision some seven times
        and once in 4 iterations; rungs of a `Ladder`, bad rows and scores out of range cost further
        waits. For a cutoff F (or the Gram matrix), not the scores, is copied to the host, where its
        eigenvalues are found.

    Returns
    -------
    Solution
        ``.x .status .converged .residual .iterations .method .damping .rung .plan``;
        ``x, info = solution`` also works.

    Raises
    ------
    InputError
        For operands of the wrong kind, shape or value; nothing was changed.
    NotPositiveDefiniteError
        If F + D has no Cholesky factor; ``.order .rcond .suggested_damping``.
    MemoryLimitError
        If the plan does not fit in memory; raised before anything is allocated.

    Notes
    -----
    primal: n p^2 + p^3/3 flops, 8 p^2 bytes. dual: n^2 p + n^3/3 flops, 8 n^2 bytes.
    cg: 4 n p flops for each right-hand side and one pass over G per iteration. docs/math.md D1-D8,
    I1-I3, I5.

    References
    ----------
    S. Amari, Natural gradient works efficiently in learning, 1998. R. Rende et al.,
    arXiv:2310.05715, eq. 5 (the form behind `coef`).

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> G = np.random.default_rng(0).standard_normal((50, 8))
    >>> sol = ff.solve(G, np.ones(8), damping=1e-3)
    >>> sol.status, sol.method, bool(sol.residual < 1e-12)
    ('converged', 'primal', True)
    """
    settings = _settings(damping, center, method, nan_policy, rtol, maxiter)
    settings["preconditioner"] = check_preconditioner(preconditioner)
    if (b is None) == (coef is None):
        came = "neither b nor coef was" if b is None else "both b and coef were"
        raise InputError(f"{came} given; pass exactly one of them")
    if check_device(device) == "cuda" or lies_on_device(G):
        return _solve_on_device(G, b, coef, weights, groups, device, x0=x0, **settings)
    scores, w = sample_scores(as_scores(G), weights, groups, nan_policy)
    n, p = scores.shape
    if b is not None:
        rows, single = as_vectors(b, p, scores.dtype, "b")
        coefs = None
    else:
        coefs, single = as_vectors(coef, n, scores.dtype, "coef", axis="n")
        rows = None
    start = _start(x0, p, scores.dtype, rows if coefs is None else coefs)
    return _solve(scores, rows, coefs, w, single=single, x0=start, **settings)


def _settings(damping, center, method, nan_policy, rtol, maxiter):
    """What is the same on the host and on a device, checked."""
    return {
        "damping": as_damping(damping),
        "center": as_flag(center, "center"),
        "method": check_method(method),
        "nan_policy": nan_policy,
        "rtol": None if rtol is None else as_real(rtol, "rtol"),
        "maxiter": _limit(maxiter),
    }


def _solve(
    scores,
    rows,
    coefs,
    weights,
    *,
    damping,
    center,
    method,
    nan_policy,
    single,
    announce=None,
    **settings,
):
    given = rows if coefs is None else coefs
    sides = len(given) * (2 if given.dtype.kind == "c" and scores.dtype.kind != "c" else 1)
    undamped = rows is None and damping.is_zero
    spectral = isinstance(damping, Cutoff)
    facts = {"undamped": undamped, "spectral": spectral, "staged": in_stages(damping)}
    plan = plan_system(scores, weights, center, sides, method, **facts)
    if announce is not None:
        announce(plan)
    system = make_system(scores, weights, center, damping, nan_policy)
    return solve_system(system, plan, rows, coefs, single=single, **settings)


def sample_scores(scores, weights, groups, nan_policy):
    """The scores of what counts as a sample, rows or groups of rows, and their weights."""
    if groups is None:
        return scores, as_weights(weights, scores.shape[0])
    check_policy(nan_policy)
    scores = grouped(scores, groups, weights, nan_policy)
    return scores, as_weights(weights, scores.shape[0])


def _solve_on_device(G, b, coef, weights, groups, device, **settings):
    require_device()
    from .solvers.device import finite_rows, solve_on_device  # loads CUDA

    if groups is not None and lies_on_device(G):
        check_policy(settings["nan_policy"])
        if settings["nan_policy"] == "raise":
            finite_rows(G)
        G = group_sums(G, groups)
    elif groups is not None:
        scores = grouped(as_scores(G), groups, weights, settings["nan_policy"])
        G = to_origin(scores.data, G)
    return solve_on_device(G, b, coef, weights=weights, device=device, **settings)


def _limit(maxiter):
    if maxiter is None:
        return None
    return as_count(maxiter, "maxiter")


def _start(x0, p, dtype, given):
    if x0 is None:
        return None
    rows, _ = as_vectors(x0, p, dtype, "x0")
    if len(rows) != len(given):
        raise InputError(
            f"x0 holds {len(rows)} vectors but there are {len(given)} right-hand sides"
        )
    if rows.dtype.kind == "c" and dtype.kind != "c":
        if given.dtype.kind != "c":
            raise InputError("x0 is complex but G and the right-hand sides are real; pass x0.real")
        rows = np.concatenate([rows.real, rows.imag])
    elif given.dtype.kind == "c" and dtype.kind != "c":
        rows = np.concatenate([rows, np.zeros_like(rows)])
    return rows


def natural_gradient(
    G,
    g=None,
    *,
    damping,
    weights=None,
    groups=None,
    center=False,
    method="auto",
    nan_policy="raise",
    device=None,
):
    """The damped natural gradient, +(F + D)^-1 g with F = G' diag(w) G / sum(w).

    Parameters
    ----------
    G : array (n, p)
        Per-sample scores (or per-sample gradients of the loss), as in `solve`.
    g : array (p,), optional
        Gradient; by default the weighted mean of the rows of G (conjugated if complex).
    damping, weights, groups, center, method, nan_policy, device
        As in `solve`.

    Returns
    -------
    array (p,)
        Of the kind and dtype of G; no sign is applied.

    Raises
    ------
    InputError, NotPositiveDefiniteError, MemoryLimitError
        As in `solve`.
    ConvergenceError
        Instead of an unconverged result; ``.solution`` holds what was reached.

    Notes
    -----
    Cost as in `solve`. The default g goes through the form without cancellation (docs/math.md D3).

    The metric may come from other samples than the gradient, unlabelled or fewer (docs/math.md
    Z2): G are then the scores of the metric batch and g the mean of the gradient batch. With Fisher
    objects that is ``F.update(metric).solve(g)``, or, where both batches are layers,
    ``F.update(metric).solve(H.update(batch).mean)`` for another Fisher H (complex: ``.conj()``).

    References
    ----------
    S. Amari, Natural gradient works efficiently in learning, Neural Computation 10, 1998.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.natural_gradient(np.array([[1.0, 0.0], [0.0, 2.0]]), damping=0.0)
    array([1. , 0.5])

    A metric of two samples for the gradient of one:

    >>> metric, batch = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 4.0]])
    >>> ff.natural_gradient(metric, batch.mean(axis=0), damping=0.0)
    array([6., 2.])
    """
    solution = gradient_solution(
        G,
        g,
        damping=damping,
        weights=weights,
        groups=groups,
        center=center,
        method=method,
        nan_policy=nan_policy,
        device=device,
    )
    if solution.status == "not_finite" and nan_policy == "propagate":
        return solution.x
    return solution.require_convergence().x


def gradient_solution(
    G,
    g=None,
    *,
    damping,
    weights=None,
    groups=None,
    center=False,
    method="auto",
    rtol=None,
    maxiter=None,
    nan_policy="raise",
    device=None,
    announce=None,
):
    """The Solution behind `natural_gradient`, converged or not; ``announce(plan)`` comes first."""
    settings = _settings(damping, center, method, nan_policy, rtol, maxiter)
    settings["announce"] = announce
    if check_device(device) == "cuda" or lies_on_device(G):
        return _solve_on_device(G, g, None, weights, groups, device, name="g", **settings)
    scores, w = sample_scores(as_scores(G), weights, groups, nan_policy)
    n, p = scores.shape
    rows = coefs = None
    if g is not None:
        rows, single = as_vectors(g, p, scores.dtype, "g")
        if not single:
            raise InputError(f"g has shape {np.shape(g)}; expected ({p},); use solve for several")
    elif center:
        # The mean gradient is not in the row space of centred scores (docs/math.md D6).
        rows = _mean_gradient(scores, w, nan_policy)
    else:
        coefs = np.ones((1, n), scores.dtype)
    return _solve(scores, rows, coefs, w, single=True, **settings)


def _mean_gradient(scores, weights, nan_policy):
    system = make_system(scores, weights, True, None, nan_policy)
    return system.mean.conj()[np.newaxis].astype(scores.dtype)
