"""Primal, dual and cg against the oracle and against each other."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.solvers import STATUSES
from tests import matrices, oracle
from tests.solvers.routes import over_dtypes, over_methods, tight
from tests.solvers.routes import small_problems as small_problems
from tests.tolerances import assert_ratio, forward_ratio, solve_ratio, unit_roundoff

pytestmark = pytest.mark.usefixtures("small_problems")
over_shapes = pytest.mark.parametrize(
    "shape", [(40, 9), (9, 40), (20, 20)], ids=lambda s: f"{s[0]}x{s[1]}"
)
COND = 1e3
DAMPINGS = {
    "number": 0.05,
    "Tikhonov": ff.Tikhonov(0.05),
    "Relative": ff.Relative(0.05),
    "Marquardt": ff.Marquardt(0.05, shift=0.02),
    "LevenbergMarquardt": ff.LevenbergMarquardt(0.05),
}


def added(damping, F):
    """What each damping adds to F, written down independently."""
    p = len(F)
    if isinstance(damping, ff.Relative):
        return np.full(p, damping.c * np.trace(F).real / p)
    if isinstance(damping, ff.Marquardt):
        return damping.c * np.diag(F).real + damping.shift
    return np.full(p, damping if isinstance(damping, float) else damping.lam)


@over_methods
@over_shapes
@over_dtypes
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
@pytest.mark.parametrize("damping", DAMPINGS.values(), ids=DAMPINGS.keys())
def test_law_26_10_every_route_solves_the_dense_system(
    method, shape, dtype, weighted, center, damping, rng
):
    (n, p), G = shape, matrices.scores(*shape, dtype, cond=COND)
    w = matrices.weights(n, dtype) if weighted else None
    F = oracle.fisher(G, w, center)
    D = added(damping, F)
    A = F + np.diag(D)
    cond = np.linalg.cond(A)
    b, c = matrices.gaussian((p, 3), dtype, rng), matrices.gaussian((n, 3), dtype, rng)
    settings = dict(
        damping=damping, weights=w, center=center, method=method, **tight(method, dtype)
    )
    for sides, rhs in [({"b": b}, oracle.wide(b)), ({"coef": c}, oracle.coef_rhs(G, c, w, center))]:
        result = ff.solve(G, **sides, **settings)
        x = result.x
        assert x.shape == (p, 3) and x.dtype == dtype
        assert result.status == "converged" and result.converged and result.method == method
        assert_ratio(solve_ratio(A, x, rhs) * p, 100, f"{method} backward")
        assert_ratio(forward_ratio(x, np.linalg.solve(A, rhs), cond), 30 + 10 * p, "forward")
        true = np.linalg.norm(rhs - A @ x.astype(A.dtype), axis=0) / np.linalg.norm(rhs, axis=0)
        assert result.residual == pytest.approx(
            true.max(), rel=0.5, abs=50 * p * unit_roundoff(dtype)
        )
        expected = damping.c if isinstance(damping, ff.Marquardt) else D[0]
        assert result.damping == pytest.approx(expected, rel=1e3 * unit_roundoff(dtype))
        # One column at a time is the same problem.
        name, columns = next(iter(sides.items()))
        single = ff.solve(G, **{name: columns[:, 1]}, **settings)
        assert single.x.shape == (p,)
        assert_ratio(forward_ratio(single.x, x[:, 1], cond), 60 + 20 * p, "one column")


@over_methods
@over_shapes
@over_dtypes
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
def test_natural_gradient_defaults_to_the_mean_gradient_without_a_sign(
    method, shape, dtype, center, rng
):
    G = matrices.scores(*shape, dtype, cond=COND)
    w = matrices.weights(shape[0], dtype)
    F = oracle.fisher(G, w, center)
    A = F + 0.05 * np.eye(len(F))
    x = ff.natural_gradient(G, damping=0.05, weights=w, center=center, method=method)
    assert x.dtype == dtype and x.shape == (shape[1],)
    mean = oracle.mean_gradient(G, w)
    # cg promises a residual, not a forward error.
    slack = 1e5 if method == "cg" else 1
    limit = 300 * np.linalg.cond(A) * unit_roundoff(dtype) * slack
    error = np.linalg.norm(x - np.linalg.solve(A, mean)) / np.linalg.norm(np.linalg.solve(A, mean))
    assert error <= limit
    given = ff.natural_gradient(
        G, mean.astype(dtype), damping=0.05, weights=w, center=center, method=method
    )
    assert np.linalg.norm(given - x) <= 2 * limit * np.linalg.norm(x)


@over_methods
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@over_shapes
def test_complex_right_hand_sides_with_real_scores(method, dtype, shape, rng):
    n, p = shape
    G = matrices.scores(n, p, dtype, cond=COND)
    wide = np.result_type(dtype, np.complex64)
    b, c = matrices.gaussian((p, 2), wide, rng), matrices.gaussian((n,), wide, rng)
    A = oracle.fisher(G, None, True) + 0.1 * np.eye(p)
    settings = dict(damping=0.1, center=True, method=method, **tight(method, dtype))
    for result, rhs in [
        (ff.solve(G, b, **settings), b),
        (ff.solve(G, b, x0=b, **settings), b),
        (ff.solve(G, coef=c, **settings), oracle.coef_rhs(G, c, None, True)),
    ]:
        assert result.x.dtype == wide and result.converged
        expected = np.linalg.solve(A, oracle.wide(rhs))
        assert_ratio(forward_ratio(result.x, expected, np.linalg.cond(A)), 50 + 10 * p, "complex b")
        assert result.x.imag.any()


@over_methods
def test_real_right_hand_sides_with_complex_scores(method, rng):
    G = matrices.scores(30, 8, "complex128", cond=COND)
    b = rng.standard_normal(8)
    result = ff.solve(G, b, damping=0.1, method=method, **tight(method, "complex128"))
    A = oracle.fisher(G) + 0.1 * np.eye(8)
    assert result.x.dtype == np.complex128
    np.testing.assert_allclose(result.x, np.linalg.solve(A, b), rtol=1e-11)


def test_F9_complex_scores_equal_stacked_real_ones(rng):
    """Real parameters of a complex amplitude: Re T by stacking, D3 with the residual behind it."""
    O, e = (
        matrices.gaussian((25, 7), "complex128", rng),
        matrices.gaussian((25,), "complex128", rng),
    )
    O_c, e_c = O - O.mean(axis=0), e - e.mean()
    T = oracle.ct(O_c) @ O_c / 25
    np.testing.assert_allclose(
        ff.solve(O, coef=e, damping=0.1, center=True).x,
        np.linalg.solve(T + 0.1 * np.eye(7), oracle.ct(O_c) @ e / 25),
        rtol=1e-12,
    )
    stacked, right = np.vstack([O_c.real, O_c.imag]), np.concatenate([e_c.real, e_c.imag])
    # 2n rows: F of the stack is Re T / 2, so twice the coefficients and half the damping.
    x = ff.solve(stacked, coef=right, damping=0.05).x
    expected = np.linalg.solve(T.real + 0.1 * np.eye(7), (oracle.ct(O_c) @ e_c / 25).real)
    np.testing.assert_allclose(x, expected, rtol=1e-12)


def test_every_status_that_solve_can_return_is_listed():
    assert set(STATUSES) >= {
        "converged",
        "max_iterations",
        "stagnated",
        "breakdown",
        "inaccurate",
        "not_finite",
    }
