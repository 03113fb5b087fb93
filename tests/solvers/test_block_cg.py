"""Conjugate gradients with several right-hand sides: one space for all, each with its status."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.solvers import krylov
from tests import matrices, oracle

PRECONDITIONERS = [None, "jacobi", ff.BlockJacobi(7), ff.Nystrom(12)]


def cg(G, b=None, **settings):
    return ff.solve(G, b, method="cg", **settings)


def problem(dtype, k, rng, n=150, p=60, cond=1e4):
    return matrices.scores(n, p, dtype, cond=cond), matrices.gaussian((p, k), dtype, rng)


@pytest.mark.parametrize("preconditioner", PRECONDITIONERS, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("k", [2, 5])
def test_cg_I2_a_block_answers_as_single_columns_do(k, dtype, preconditioner, rng):
    G, b = problem(dtype, k, rng)
    b *= 10.0 ** rng.integers(-6, 6, k)
    settings = dict(damping=1e-5, preconditioner=preconditioner, rtol=1e-9)
    together = cg(G, b, **settings)
    assert together.converged and together.statuses == ("converged",) * k
    assert together.residuals.shape == (k,) and together.residuals.max() == together.residual
    x = np.linalg.solve(oracle.fisher(G) + 1e-5 * np.eye(60), b)
    single = [cg(G, b[:, j], **settings) for j in range(k)]
    for j in range(k):
        error = np.linalg.norm(together.x[:, j] - x[:, j]) / np.linalg.norm(x[:, j])
        assert error <= 1e-9 * 1e5  # rtol times the condition number
    assert together.iterations <= max(one.iterations for one in single)


def test_cg_I1_a_block_searches_one_space(rng):
    """k sides see F of rank r after r / k iterations and one more; one by one takes r each."""
    G = matrices.from_spectrum(100, 60, np.linspace(1, 9, 24), "float64", rng)
    settings = dict(damping=0.1, preconditioner=None)
    b = rng.standard_normal((60, 8))
    assert cg(G, b, **settings).iterations <= 24 // 8 + 2
    assert cg(G, b[:, 0], **settings).iterations > 10  # negative control


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_cg_I2_dependent_right_hand_sides_share_their_directions(dtype, rng):
    G, b = problem(dtype, 2, rng, cond=1e2)
    b = np.stack([b[:, 0], b[:, 1], b[:, 0], b[:, 0] - 2 * b[:, 1], 0 * b[:, 0]], axis=1)
    result = cg(G, b, damping=1e-2)
    assert result.converged, result
    x = result.x.astype(np.result_type(dtype, np.float64))
    tolerance = 1e-3 if dtype == "float32" else 1e-8
    np.testing.assert_allclose(x[:, 2], x[:, 0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(x[:, 3], x[:, 0] - 2 * x[:, 1], atol=tolerance * abs(x).max())
    assert not x[:, 4].any()
    # The fourth column arrives when it does, soon after the two that it is made of.
    assert result.iterations <= 1.2 * cg(G, b[:, :2], damping=1e-2).iterations + 1


@pytest.mark.parametrize("preconditioner", PRECONDITIONERS, ids=str)
def test_cg_columns_that_are_solved_leave_the_block(preconditioner, rng):
    G, b = problem("float64", 4, rng)
    A = oracle.fisher(G) + 1e-4 * np.eye(60)
    x = np.linalg.solve(A, b)
    start = np.zeros_like(b)
    start[:, [0, 2]] = x[:, [0, 2]]
    result = cg(G, b, damping=1e-4, x0=start, preconditioner=preconditioner)
    assert result.converged
    assert result.x[:, [0, 2]].tobytes() == x[:, [0, 2]].tobytes()  # not touched again
    np.testing.assert_allclose(result.x, x, rtol=1e-5, atol=1e-5 * abs(x).max())
    settings = dict(damping=1e-4, preconditioner=preconditioner)
    near = [cg(G, b, x0=x * (1 + far), **settings) for far in (5e-8, 1e-7, 2e-7)]
    cold = cg(G, b, **settings)
    # Rounding holds up one start in 80.
    assert all(found.converged for found in near)
    assert np.median([found.iterations for found in near]) < cold.iterations


def test_cg_one_column_without_a_solution_leaves_the_others_theirs(rng):
    """Damping 0 and a column outside the range of F: that one is named, the rest are solved."""
    G = matrices.gaussian((60, 9), "float64", rng)
    G[:, 4] = 0
    b = rng.standard_normal((9, 3))
    b[4] = [0, 1, 0]
    result = cg(G, b, damping=0)
    assert not result.converged
    assert result.statuses[0] == result.statuses[2] == "converged"
    assert result.statuses[1] in ("breakdown", "stagnated") and result.status == result.statuses[1]
    assert result.residuals[1] > 0.01 > 1e-8 > result.residuals[[0, 2]].max()
    good = np.linalg.pinv(oracle.fisher(G)) @ b[:, [0, 2]]
    solved = np.delete(result.x[:, [0, 2]], 4, axis=0)  # parameter 4 is free
    np.testing.assert_allclose(solved, np.delete(good, 4, axis=0), rtol=1e-6, atol=1e-9)


def test_cg_the_limit_names_the_columns_that_wanted_more(rng):
    G, b = problem("float64", 3, rng, cond=1e8)
    b[:, 1] = 0
    result = cg(G, b, damping=1e-9, maxiter=3)
    assert result.statuses == ("max_iterations", "converged", "max_iterations")
    assert result.iterations == 3 and result.status == "max_iterations"


def test_complex_sides_of_a_real_system_have_one_status_each(rng):
    G, b = problem("float64", 2, rng)
    result = cg(G, b + 1j * b[::-1], damping=1e-3)
    assert result.statuses == ("converged",) * 2 and result.residuals.shape == (2,)
    failed = cg(G, b + 1j * b[::-1], damping=1e-9, maxiter=1)
    assert failed.statuses == ("max_iterations",) * 2


@pytest.mark.parametrize("method", ["primal", "dual", "mixed", "cg"])
def test_every_route_has_a_status_for_each_right_hand_side(method, rng):
    G = rng.standard_normal((20, 30))
    many = ff.solve(G, rng.standard_normal((30, 3)), damping=0.1, method=method)
    assert many.statuses == ("converged",) * 3 and many.residuals.shape == (3,)
    one = ff.solve(G, rng.standard_normal(30), damping=0.1, method=method)
    assert one.statuses == ("converged",) and one.residuals.tolist() == [one.residual]


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("k", [0, 1, 3, 40])
def test_products_and_combinations_of_rows_are_those_of_any_layout(k, dtype, rng):
    x, y = (matrices.gaussian((k, 70), dtype, rng) for _ in range(2))
    c = matrices.gaussian((k, 5), dtype, rng)
    for lay in (np.ascontiguousarray, np.asfortranarray):
        found = krylov._products(lay(x), lay(y))
        np.testing.assert_allclose(found, x.conj() @ y.T, rtol=1e-13, atol=1e-12)
        found = krylov._combined(lay(c), lay(x))
        np.testing.assert_allclose(found, c.T @ x, rtol=1e-13, atol=1e-12)


class Followed:
    """A rule that takes the recurrence at its word, and x along from some step on."""

    def __init__(self, b, wrong):
        self.sizes, self.left = np.linalg.norm(b, axis=1), wrong

    def done(self, r, x, rows, norm):
        return np.linalg.norm(r, axis=1) <= 1e-11 * self.sizes[rows]

    def ends(self, r, rates, x, rows, norm):
        self.left -= 1
        return self.left < 0

    def clear(self, r, x, rows, norm):
        return np.ones(len(r), bool)

    def hopeless(self, course, limit):
        return False


@pytest.mark.parametrize("wrong", [2, 7])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_residual_of_followed_products_is_true_where_the_recurrence_is_not(
    dtype, k, wrong, rng
):
    """The operator is off by 1e-6 at first, which the recurrence carries on; a row ends early."""
    A = oracle.fisher(matrices.scores(150, 60, dtype, cond=30)) + 1e-2 * np.eye(60)
    A = A.astype(dtype)
    b, calls = matrices.gaussian((k, 60), dtype, rng), []
    b[k - 1] = A[:, 0] + 1e-9 * b[k - 1]

    def operator(rows):
        calls.append(len(rows))
        return rows @ A.T * (1 + 1e-6 * (len(calls) <= wrong))

    rule = Followed(b, wrong)
    steps = krylov.Iteration(
        operator, b, lambda r: r, rule, 300, dtype=b.dtype, name="test", aside=2 * k
    )
    x = np.zeros_like(b)
    left, status, used = steps.sweep(x, b.copy(), np.arange(k), 300)
    assert status == "converged" and not len(left) and len(calls) == used
    followed = sum(calls) - sum(calls[:1]) * used
    assert wrong + krylov.LASTING < used and (k > 1 or followed >= used // (krylov.LASTING + 1))
    wide = np.clongdouble if b.dtype.kind == "c" else np.longdouble
    exact = b.astype(wide) - x.astype(wide) @ A.astype(wide).T
    size = np.linalg.norm(A, 2) * np.linalg.norm(x, axis=1) + np.linalg.norm(b, axis=1)
    off = np.abs(steps.rest - exact).max(axis=1).astype(float)
    assert (off <= 2e-15 * size).all(), off / size
    assert np.abs(exact).max() > 1e-8 * np.abs(b).max()  # of which the recurrence knows nothing
