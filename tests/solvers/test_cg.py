"""Conjugate gradients: when they stop, and what they say about it."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import ConvergenceError, InputError
from fastfisher.solvers.cg import BACKWARD_LIMIT
from tests import matrices, oracle
from tests.tolerances import unit_roundoff


def cg(G, b=None, **settings):
    return ff.solve(G, b, method="cg", **settings)


@pytest.mark.parametrize("n", [0, 5, 40])
def test_cg_I2_zero_right_hand_side_takes_no_iteration(n, rng):
    G = rng.standard_normal((n, 7))
    result = cg(G, np.zeros(7), damping=0.1)
    assert (result.iterations, result.residual, result.status) == (0, 0.0, "converged")
    assert not result.x.any()
    mixed = cg(G, np.stack([np.zeros(7), np.ones(7)], axis=1), damping=0.1)
    assert mixed.converged and not mixed.x[:, 0].any()


def test_cg_I2_zero_right_hand_side_forgets_where_it_started(rng):
    G, start = rng.standard_normal((40, 7)), rng.standard_normal((7, 2))
    result = cg(G, np.zeros((7, 2)), damping=0.1, x0=start)
    assert result.converged and result.iterations == 0 and not result.x.any()
    mixed = cg(G, np.stack([np.zeros(7), np.ones(7)], axis=1), damping=0.1, x0=start)
    assert mixed.converged and not mixed.x[:, 0].any() and mixed.iterations <= 9
    imaginary = cg(G, 1j * np.ones(7), damping=0.1, x0=np.ones(7))
    assert imaginary.converged and imaginary.iterations <= 9 and not imaginary.x.real.any()


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_cg_I1_rank_r_takes_at_most_r_plus_1_iterations(rank, dtype, rng):
    G = matrices.from_spectrum(100, 60, np.linspace(1, 3, rank), dtype, rng)
    b = matrices.gaussian((60,), dtype, rng)
    result = cg(G, b, damping=0.5, preconditioner=None)
    assert result.converged
    assert result.iterations <= rank + 1
    assert result.iterations >= rank


def test_cg_I1_error_falls_at_least_as_fast_as_the_bound(rng):
    kappa = 1e3
    G = matrices.scores(200, 40, spectrum="geo", cond=1e6)
    A = oracle.fisher(G)
    lam = np.linalg.eigvalsh(A)[-1] / (kappa - 1)
    A += lam * np.eye(40)
    kappa = np.linalg.cond(A)
    b = rng.standard_normal(40)
    x = np.linalg.solve(A, b)

    def energy(v):
        return np.sqrt(v @ A @ v)

    errors, norms, models = [], [], []
    for k in range(1, 25):
        step = cg(G, b, damping=lam, preconditioner=None, maxiter=k, rtol=1e-14).x
        errors.append(energy(step - x))
        norms.append(np.linalg.norm(step))
        models.append(step @ A @ step / 2 - b @ step)
        root = np.sqrt(kappa)
        assert errors[-1] <= 2 * ((root - 1) / (root + 1)) ** k * energy(x) * (1 + 1e-8)
    assert np.all(np.diff(errors) < 0) and np.all(np.diff(norms) > 0)
    assert np.all(np.diff(models) < 0) and max(models) < 0


@pytest.mark.parametrize("maxiter", [0, 1, 3])
def test_cg_I2_maxiter_is_a_status_with_the_true_residual(maxiter, rng):
    G, b = matrices.scores(80, 30, cond=1e8), rng.standard_normal(30)
    result = cg(G, b, damping=1e-6, maxiter=maxiter)
    assert result.status == "max_iterations" and not result.converged
    assert result.iterations == maxiter
    x, info = result
    assert info == max(maxiter, 1)
    r = b - (oracle.fisher(G) + 1e-6 * np.eye(30)) @ x
    assert result.residual == pytest.approx(np.linalg.norm(r) / np.linalg.norm(b), rel=1e-8)
    with pytest.raises(
        ConvergenceError, match=r"max_iterations.*raise damping or maxiter"
    ) as caught:
        result.require_convergence()
    assert caught.value.solution is result


def test_natural_gradient_never_returns_an_unconverged_step(rng):
    G = matrices.scores(60, 20, cond=1e24)
    b = rng.standard_normal(20)
    try:
        x = ff.natural_gradient(G, b, damping=1e-25, method="cg")
    except ConvergenceError as error:
        assert error.solution.status != "converged"
        assert error.solution.residual > 1e-10
        assert np.isfinite(error.solution.x).all()
    else:
        r = b - oracle.fisher(G) @ x
        u = unit_roundoff("float64")
        assert np.linalg.norm(r) <= 20 * u * (np.linalg.norm(x) * 1.0 + np.linalg.norm(b)) * 20


def test_cg_stagnation_at_condition_1e14_is_not_called_convergence_to_rtol(rng):
    G = matrices.scores(120, 60, cond=1e14)
    b = rng.standard_normal(60)
    result = cg(G, b, damping=0, rtol=1e-15, maxiter=3000)
    A = oracle.fisher(G)
    r = np.linalg.norm(b - A @ result.x)
    u = unit_roundoff("float64")
    assert result.residual == pytest.approx(r / np.linalg.norm(b), rel=0.5)
    assert np.isfinite(result.x).all()
    if result.converged:  # then by backward error, as promised
        bound = np.linalg.norm(A, 2) * np.linalg.norm(result.x) + np.linalg.norm(b)
        assert r <= 15 * u * bound
    else:
        assert result.status in ("stagnated", "max_iterations")


def test_cg_breakdown_on_a_singular_system_out_of_range(rng):
    """b outside the range of F with no damping has no solution: never 'converged'."""
    G = matrices.gaussian((40, 6), "float64", rng)
    G[:, 2] = 0
    b = np.ones(6)
    result = cg(G, b, damping=0)
    assert result.residual > 0.1
    assert not result.converged and result.status in ("breakdown", "stagnated"), result
    assert np.isfinite(result.x).all()


def test_cg_breakdown_with_an_indefinite_preconditioner(rng):
    G = rng.standard_normal((40, 6))
    result = cg(G, np.ones(6), damping=0.1, preconditioner=lambda r: -r)
    true = np.linalg.norm(np.ones(6) - (oracle.fisher(G) + 0.1 * np.eye(6)) @ result.x)
    assert result.converged == (true / np.sqrt(6) <= 1e-10)
    zero = cg(G, np.ones(6), damping=0.1, preconditioner=lambda r: 0 * r)
    assert zero.status == "breakdown" and not zero.converged


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_law_26_16_cg_with_a_preconditioner_that_returns_nan(value, rng):
    G = rng.standard_normal((40, 6))
    result = cg(G, np.ones(6), damping=0.1, preconditioner=lambda r: r * value)
    assert not result.converged and result.status in ("not_finite", "breakdown")


def test_cg_starts_from_x0(rng):
    G, b = rng.standard_normal((50, 12)), rng.standard_normal((12, 2))
    A = oracle.fisher(G) + 0.1 * np.eye(12)
    x = np.linalg.solve(A, b)
    started = cg(G, b, damping=0.1, x0=x)
    assert started.iterations == 0 and started.converged
    assert started.x.tobytes() == x.tobytes()
    near, far = cg(G, b, damping=0.1, x0=x + 1e-9), cg(G, b, damping=0.1)
    assert near.converged and 0 < near.iterations < far.iterations
    bad = cg(G, b, damping=0.1, x0=1e9 * rng.standard_normal((12, 2)))
    np.testing.assert_allclose(bad.x, x, rtol=1e-6)


@pytest.mark.parametrize(
    "size, dtype",
    [
        *((size, dtype) for size in (1e-120, 1e100) for dtype in ("float64", "complex128")),
        *((size, "float32") for size in (1e-15, 1e15)),
    ],
)
@pytest.mark.parametrize("sides", ["b", "coef"])
def test_cg_starts_from_x0_at_any_scale_of_the_scores(size, dtype, sides, rng):
    """Powers of two that bring the squares of scores into range are no part of x0."""
    G = (matrices.gaussian((10, 5), dtype, rng) * size).astype(dtype)
    H = G.astype(np.complex128 if G.dtype.kind == "c" else np.float64) / size
    lam = float(np.mean(np.abs(H) ** 2))
    A = oracle.fisher(H) + lam * np.eye(5)
    g = matrices.gaussian((5 if sides == "b" else 10,), H.dtype, rng)
    x = np.linalg.solve(A, g if sides == "b" else oracle.coef_rhs(H, g))
    x = x / size / size if sides == "b" else x / size
    if G.dtype == np.float32:
        g, x = g.astype(np.float32), x.astype(np.float32)
    settings = {sides: g, "damping": lam * size * size, "preconditioner": "jacobi"}
    started = ff.solve(G, method="cg", x0=x, **settings)
    assert started.converged and started.iterations == 0, started
    np.testing.assert_allclose(started.x, x, rtol=4 * unit_roundoff(dtype))
    other = ff.solve(G, method="cg", x0=2 * x, **settings)
    assert other.converged and other.iterations > 0, other


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_cg_starts_from_x0_beside_scores_that_drown_the_damping(dtype, rng):
    G = matrices.gaussian((10, 5), dtype, rng) * 1e100
    result = cg(G, np.ones(5), damping=0.1, x0=np.full(5, 1e-190))  # x is of the size 1e-200
    assert result.converged, result
    lost = cg(G, np.ones(5), damping=0.1, x0=np.ones(5))  # residual 1e200: as at any scale
    assert lost.status == cg(G / 1e100, np.ones(5), damping=0.1, x0=np.full(5, 1e200)).status
    row = cg(G[:1], np.ones(5), damping=0.1, center=True, x0=np.full(5, 10.0))
    assert row.converged and row.iterations == 0, row
    np.testing.assert_allclose(row.x, 10, rtol=1e-14)


def test_cg_complex_x0_of_a_real_problem_is_refused(rng):
    G = rng.standard_normal((50, 12))
    for sides in ({"b": np.ones(12)}, {"coef": np.ones(50)}):
        with pytest.raises(InputError, match="x0 is complex but"):
            ff.solve(G, damping=0.1, method="cg", x0=1j * np.ones(12), **sides)
    assert cg(G, 1j * np.ones(12), damping=0.1, x0=1j * np.ones(12)).converged


def test_cg_I3_jacobi_repairs_bad_column_scales(rng):
    D = 10.0 ** -np.linspace(0, 4, 30)
    G, b = rng.standard_normal((200, 30)) * D, rng.standard_normal(30)
    damping = ff.Marquardt(1e-3)
    plain = cg(G, b, damping=damping, preconditioner=None, maxiter=5000)
    jacobi = cg(G, b, damping=damping, maxiter=5000)
    assert jacobi.converged and jacobi.iterations < plain.iterations / 2


@pytest.mark.parametrize("n", [1, 3, 30])
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_cg_I1_by_default_few_samples_take_few_iterations(n, dtype, rng):
    """F has rank n: scaling each parameter by its own size must not undo that."""
    G = matrices.gaussian((n, 300), dtype, rng) * np.exp(rng.standard_normal(300))
    G, b = G.astype(dtype), matrices.gaussian((300,), dtype, rng)
    lam = 1e-3 * float(np.mean(np.abs(G) ** 2))
    for sides in (dict(b=b), dict(coef=np.ones(n, dtype))):
        result = ff.solve(G, **sides, damping=lam, method="cg")
        assert result.converged, result
        assert result.iterations <= 3 * (n + 10)


def test_cg_custom_preconditioner_is_applied_to_columns(rng):
    G, b = matrices.scores(90, 25, cond=1e6), rng.standard_normal((25, 3))
    A = oracle.fisher(G) + 1e-6 * np.eye(25)
    shapes = []

    def exact(r):
        shapes.append(r.shape)
        return np.linalg.solve(A, r)

    result = cg(G, b, damping=1e-6, preconditioner=exact)
    assert result.converged and result.iterations <= 3
    assert set(shapes) == {(25, 3)}


def test_cg_preconditioner_of_the_wrong_shape_is_refused(rng):
    G = rng.standard_normal((40, 6))
    with pytest.raises(ff.errors.InputError, match=r"preconditioner.*\(6, 1\)"):
        cg(G, np.ones(6), damping=0.1, preconditioner=lambda r: r[:3])


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_cg_I2_several_columns_equal_single_ones(dtype, rng):
    G = matrices.scores(70, 30, dtype, cond=1e4)
    b = matrices.gaussian((30, 4), dtype, rng) * np.array([1, 1e-3, 1e3, 0], dtype)
    together = cg(G, b, damping=1e-3)
    assert together.converged
    A, iterations = oracle.fisher(G) + 1e-3 * np.eye(30), []
    for j in range(4):
        alone = cg(G, b[:, j], damping=1e-3)
        iterations.append(alone.iterations)
        apart = np.linalg.norm(A @ (together.x[:, j] - alone.x.astype(A.dtype)))
        scale = np.linalg.norm(b[:, j])
        assert apart <= 1.01 * (together.residuals[j] + alone.residual) * scale
    assert together.iterations <= max(iterations)


@pytest.mark.parametrize(
    ("dtype", "rtol", "cond"),
    [("float64", 1e-10, 1e3), ("float32", 1e-5, 1e2), ("float32", 1e-5, 1e3)],
)
def test_cg_default_rtol_is_met(dtype, rtol, cond, rng):
    G, b = matrices.scores(100, 40, dtype, cond=cond), rng.standard_normal(40).astype(dtype)
    result = cg(G, b, damping=1e-2)
    A = oracle.fisher(G) + 1e-2 * np.eye(40)
    rest = np.linalg.norm(b - A @ result.x.astype(np.float64))
    size = np.linalg.norm(A, 2) * np.linalg.norm(result.x) + np.linalg.norm(b)
    assert result.converged and rest <= 1.2 * result.residual * np.linalg.norm(b)
    at_rounding = dtype == "float32" and cond == 1e3  # where single precision allows no more
    if at_rounding:
        assert rest <= BACKWARD_LIMIT * unit_roundoff(dtype) * size * 1.01
    else:
        assert rest <= rtol * np.linalg.norm(b) * 1.01
    looser = cg(G, b, damping=1e-2, rtol=1e-2)
    assert looser.converged and looser.iterations < result.iterations


def test_cg_reports_progress(rng):
    seen = []
    with ff.options(progress=lambda op, done, total: seen.append((op, done, total))):
        result = cg(rng.standard_normal((50, 10)), np.ones(10), damping=0.1)
    steps = [done for op, done, total in seen if op == "cg"]
    assert steps == list(range(1, result.iterations + 1))


def test_law_26_11_damping_shortens_the_step_and_raises_the_residual(rng):
    G, b = rng.standard_normal((20, 12)), rng.standard_normal(12)
    F = oracle.fisher(G)
    for method in ("primal", "dual", "cg"):
        lengths, residuals = [], []
        for lam in 10.0 ** np.arange(-4, 5):
            x = ff.solve(G, b, damping=lam, method=method).x
            lengths.append(np.linalg.norm(x))
            residuals.append(np.linalg.norm(b - F @ x))
        assert np.all(np.diff(lengths) < 0) and np.all(np.diff(residuals) > 0)
        np.testing.assert_allclose(x * lam, b, rtol=1e-3)
