"""Samples without weight, or hardly any: neither the mean nor the range of numbers is theirs."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.solvers.ranges import raise_into_range
from fastfisher.solvers.system import subtract_outer
from tests import matrices
from tests.tolerances import assert_ratio, solve_ratio, unit_roundoff

METHODS = ("primal", "dual", "cg", "mixed")
over_methods = pytest.mark.parametrize("method", METHODS)


def system_of(G, damping):
    """F + D of centred scores, in double."""
    T = G.astype(np.longdouble)
    T = T - T.mean(axis=0)
    return ((T.T @ T) / len(G)).astype(float) + damping * np.eye(G.shape[1])


@over_methods
@pytest.mark.parametrize("dtype, outlier", [("float32", 1e4), ("float32", 1e8), ("float64", 1e15)])
@pytest.mark.parametrize("shape", [(51, 5), (12, 40)])
@pytest.mark.parametrize("skipped", (False, True), ids=("weight 0", "skipped"))
def test_an_outlier_without_weight_does_not_move_the_mean(method, dtype, outlier, shape, skipped):
    G = matrices.gaussian(shape, dtype, matrices.generator("idle", shape))
    w, settings = np.ones(len(G)), {"center": True, "damping": 0.01, "method": method}
    G[0], w[0] = outlier, 0
    if skipped:
        G += np.float32(min(outlier, 1e6))  # the others lie far from 0
        G[0] = np.nan
        settings["nan_policy"] = "skip"
    else:
        settings["weights"] = w
    b = np.ones(shape[1], dtype)
    found = ff.solve(G, b, **settings)
    assert found.converged
    ratio = solve_ratio(system_of(G[1:], 0.01), found.x[:, np.newaxis], b[:, np.newaxis])
    assert_ratio(ratio, "goal", found)


@pytest.mark.parametrize("kind", (ff.DenseFisher, ff.DiagonalFisher))
def test_an_outlier_without_weight_does_not_move_the_mean_of_an_object(kind):
    G = matrices.gaussian((50, 5), "float32", matrices.generator("idle object"))
    w = np.ones(50)
    G[0], w[0] = 1e8, 0
    for first in ([], [G[1:9]]):
        weighted, without = kind(5, dtype="float32", center=True), None
        without = kind(5, dtype="float32", center=True)
        for batch in first:
            weighted.update(batch)
            without.update(batch)
        weighted.update(G, weights=w)
        without.update(G[1:])
        np.testing.assert_allclose(weighted.mean, without.mean, atol=1e-7)
        np.testing.assert_allclose(weighted.diagonal(), without.diagonal(), rtol=1e-6)


@over_methods
@pytest.mark.parametrize("idle, weight", [(1.0, 0.0), (1e30, 0.0), (1.0, 1e-70)])
@pytest.mark.parametrize(
    "damping", (1e-28, ff.Relative(0.1), ff.Marquardt(0.1, shift=1e-28)), ids=str
)
def test_small_scores_beside_large_ones_of_no_weight(method, idle, weight, damping):
    """In single precision squares of what counts would vanish."""
    G = np.array([[idle, idle], [1e-14, 2e-14]], np.float32)
    b = np.full(2, 1e-14, np.float32)
    alone = ff.solve(G[1:].astype(float), b.astype(float), damping=damping)
    found = ff.solve(G, b, weights=[weight, 1.0], damping=damping, method=method)
    assert found.converged
    tolerance = 1e-5 * np.abs(alone.x).max()
    np.testing.assert_allclose(found.x, alone.x, rtol=0, atol=tolerance)


@over_methods
@pytest.mark.parametrize("idle", (1.0, 1e200, 1e300))
def test_the_range_is_that_of_scores_that_count(method, idle):
    G, b = np.array([[idle, idle], [1e-100, 2e-100]]), np.full(2, 1e-100)
    alone = ff.solve(G[1:], b, damping=ff.Relative(0.1))
    found = ff.solve(G, b, weights=[0, 1], damping=ff.Relative(0.1), method=method)
    assert found.converged
    np.testing.assert_allclose(found.x, alone.x, rtol=1e-13)


@over_methods
def test_rows_of_little_weight_may_be_as_large_as_their_weight_is_small(method):
    G, w = np.array([[1e30, 1], [1, 2]], np.float32), np.array([1e-60, 1])
    found = ff.solve(G, np.ones(2, np.float32), weights=w, damping=0.1, method=method)
    T = G.astype(float) * np.sqrt(w)[:, np.newaxis]
    ratio = solve_ratio(T.T @ T + 0.1 * np.eye(2), found.x[:, np.newaxis], np.ones((2, 1)))
    assert found.converged
    assert_ratio(ratio, "gate", found)


@pytest.mark.parametrize(
    "dtype, value", [("complex64", np.inf), ("complex128", np.inf), ("complex128", 1.7e308)]
)
def test_scores_that_overflow_their_mean_are_named_without_a_warning(dtype, value):
    G = matrices.gaussian((6, 3), dtype, matrices.generator("overflow"))
    G[2:4, 1] = value
    with pytest.raises(ff.errors.InputError):
        ff.solve(G, np.ones(3, dtype), damping=0.1, center=True)
    found = ff.solve(G, np.ones(3, dtype), damping=0.1, center=True, nan_policy="propagate")
    assert found.status == "not_finite"


@over_methods
@pytest.mark.parametrize("size", (2e154, 1e200, 1e300))
@pytest.mark.parametrize("dtype", ("float64", "complex128"))
def test_weights_do_not_keep_large_scores_from_being_scaled(method, size, dtype):
    G, w = np.array([[size, 0], [0, size]], dtype), np.array([1.0, 2.0])
    b = np.full(2, size, dtype)
    found = ff.solve(G, b, weights=w, damping=ff.Relative(0.1), method=method)
    assert found.converged
    F = w / 3  # over size^2
    np.testing.assert_allclose(found.x * size, 1 / (F + 0.05), rtol=1e-9)


@over_methods
@pytest.mark.parametrize("weights", ([0.0, 1.0], [0.0, 0.0]))
def test_where_nothing_counts_x_is_that_of_the_damping(method, weights):
    G = np.array([[1e200, 1e200], [0, 0]])
    found = ff.solve(G, np.ones(2), weights=weights, damping=2.0, method=method)
    assert found.converged and np.allclose(found.x, 0.5, rtol=1e-14)


@over_methods
def test_faint_scores_of_faint_weight_are_nothing(method):
    G, settings = np.array([[1e-300, 1e-300], [0, 0]]), {"weights": [1e-300, 1.0]}
    damping = ff.Marquardt(0.1, shift=1e-3)
    found = ff.solve(G, np.ones(2), damping=damping, method=method, **settings)
    assert found.converged and np.allclose(found.x, 1e3, rtol=1e-12)


@over_methods
def test_the_power_of_two_is_finite_in_single_precision(method):
    """What counts is 60 powers of ten below it."""
    G, w = np.array([[0, 0], [1e-10, 2e-10]]), np.array([1, 1e-100])
    exact = ff.solve(G, np.ones(2), weights=w, damping=ff.Relative(0.1), method="primal")
    assert exact.converged and exact.x.max() > 1e120
    G, b = G.astype("float32"), np.ones(2, "float32")
    try:
        found = ff.solve(G, b, weights=w, damping=ff.Relative(0.1), method=method)
    except ff.errors.NotPositiveDefiniteError:
        return  # as good as zero
    assert not found.converged


# Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, dtype, size, damping",
    [
        ("primal", "float64", 1e100, 1e150),
        ("dual", "float64", 1e100, 1e150),
        ("primal", "float64", 1e-100, 1e-250),
        ("dual", "float64", 1e-100, 1e-250),
        ("primal", "float32", 1e16, 1e3),
    ],
)
def test_what_a_refusal_says_is_in_the_units_of_the_caller(method, dtype, size, damping):
    rows = 5 if method == "primal" else 3
    G = (size * np.outer(np.arange(1.0, rows + 1), np.ones(4))).astype(dtype)
    b = np.ones(4, dtype)
    with pytest.raises(ff.errors.NotPositiveDefiniteError, match="not positive at damping") as seen:
        ff.solve(G, b, damping=damping, method=method)
    assert f"at damping {damping:.3g}" in str(seen.value)
    enough = seen.value.suggested_damping
    assert f"damping of {enough:.3g}" in str(seen.value)
    assert enough < 1e-3 * size**2
    assert ff.solve(G, b, damping=enough, method=method).converged


@pytest.mark.parametrize("dtype", ("float32", "float64", "complex64", "complex128"))
@pytest.mark.parametrize(
    "make", ("solve", "dual", "path", "DenseFisher", "BlockDiagonalFisher", "GramFisher")
)
def test_the_damping_that_a_refusal_suggests_factors(dtype, make):
    """F is rounded in single precision: double's would be too little."""
    failed = 0
    for seed in range(20):
        rng = matrices.generator("refused", dtype, seed)
        G = matrices.gaussian((30, 2), dtype, rng) @ matrices.gaussian((2, 6), dtype, rng)
        b = np.ones(6, dtype)
        if make in ("solve", "dual"):
            method = "auto" if make == "solve" else make
            solve = lambda damping, G=G, b=b, method=method: ff.solve(  # noqa: E731
                G, b, damping=damping, method=method
            )
        elif make == "path":
            F = ff.DenseFisher(6, dtype=dtype).update(G)
            solve = lambda damping, F=F, b=b: F.path(b, [damping])  # noqa: E731
        else:
            sizes = {"DenseFisher": [6], "BlockDiagonalFisher": [[3, 3]], "GramFisher": []}[make]
            F = getattr(ff, make)(*sizes, dtype=dtype).update(G)
            solve = lambda damping, F=F, b=b: F.solve(b, damping=damping)  # noqa: E731
        try:
            solve(1e-18)
        except ff.errors.NotPositiveDefiniteError as error:
            failed += 1
            solve(error.suggested_damping)
    assert failed > 3


def test_a_refusal_beyond_the_range_suggests_nothing():
    G = 1e160 * matrices.gaussian((5, 4), "float64", matrices.generator("beyond"))
    with pytest.raises(ff.errors.NotPositiveDefiniteError, match="the dual divides by it") as seen:
        ff.solve(G, np.ones(4), damping=0.0, method="dual")
    assert seen.value.suggested_damping is None
    for size, said in ((1e-170, "below the range of double"), (1e170, "scale the scores")):
        with pytest.raises(ff.errors.NotPositiveDefiniteError, match=said) as seen:
            ff.solve(np.outer(np.arange(1.0, 6), np.full(4, size)), np.ones(4), damping=0.0)
        assert seen.value.suggested_damping is None


@pytest.mark.parametrize("size", (1e-310, 1e-250, 1e-160, 1.0, 1e150, 1e200, 1e300))
@pytest.mark.parametrize("method", ("primal", "dual"))
def test_an_empty_column_is_refused_at_any_size(size, method):
    G = size * matrices.gaussian((5, 12), "float64", matrices.generator("empty"))
    G[:, 3] = 0
    with pytest.raises(ff.errors.NotPositiveDefiniteError) as seen:
        ff.solve(G, np.ones(12), damping=ff.Marquardt(1e-3), method=method)
    told = seen.value.suggested_damping
    if size == 1:
        assert 1e-15 < told < 1
    elif size < 1e-200 and method == "primal":
        assert "any positive absolute damping would factor" in str(seen.value) and told is None
    else:
        assert told is None or 0 < told / size < size


def test_what_is_raised_into_range_never_sinks():
    for size in (1e-30, 1.0, 1e18, 1e30):
        assert raise_into_range(size, size, 4) >= 1 and raise_into_range(size, np.inf, 8) >= 1


def test_what_is_taken_off_leaves_no_negative_diagonal():
    c = np.diag([1e-9, 1.0])
    subtract_outer(c, np.array([1e-3, 1e-3]), 1.0)
    assert c.diagonal().tolist() == [0.0, 1 - 1e-6]


def test_nothing_without_weight_makes_a_diagonal_negative():
    G = np.array([[0.1257302, -0.1321049], [64042264.0, 10490012.0]], np.float32)
    found = ff.solve(G, np.ones(2, "float32"), damping=1e-16, weights=[0, 1], center=True)
    np.testing.assert_allclose(found.x, 1e16, rtol=1e-6)  # F is 0


@pytest.mark.parametrize("damping", (0.0, 1.0, ff.Relative(0.1)), ids=str)
@pytest.mark.parametrize("method", ("auto", *METHODS))
def test_no_parameters_are_solved_for_by_every_method(method, damping):
    found = ff.solve(np.zeros((3, 0)), np.zeros(0), damping=damping, method=method)
    assert found.converged and found.x.shape == (0,)


# Complex right-hand sides of real scores -----------------------------------------------------


@over_methods
@pytest.mark.parametrize("how", ("b", "coef"))
@pytest.mark.parametrize("faint", (1e-45, 1e-30, 1.0))
def test_real_and_imaginary_parts_are_one_right_hand_side(method, how, faint):
    G = matrices.gaussian((20, 3), "float32", matrices.generator("parts"))
    rng = matrices.generator("parts of", how)
    given = matrices.gaussian((3 if how == "b" else 20, 2), "float64", rng)
    given = (given + faint * 1j * given[::-1]).astype("complex64")
    found = ff.solve(G, **{how: given}, damping=0.1, method=method)
    T = G.astype(float)
    A, b = T.T @ T / 20 + 0.1 * np.eye(3), given if how == "b" else T.T @ given / 20
    r, sizes = b - A @ found.x, np.linalg.norm(b, axis=0)
    residuals = np.linalg.norm(r, axis=0) / sizes
    assert found.converged and found.statuses == ("converged",) * 2
    slack = 4 * unit_roundoff("float32")  # of products, and of b where it is made of coefficients
    np.testing.assert_allclose(found.residuals, residuals, rtol=0, atol=slack)
    scale = np.linalg.norm(A, 2) * np.linalg.norm(found.x, axis=0) + sizes
    assert found.backward_error <= 1.5 * max(np.linalg.norm(r, axis=0) / scale) + slack


@pytest.mark.parametrize("how", ("b", "coef"))
def test_residuals_of_complex_right_hand_sides_are_those_of_the_whole(how):
    """Of cg that has not converged, so that they are not rounding."""
    G = matrices.gaussian((30, 9), "float64", matrices.generator("whole"))
    given = matrices.gaussian((9 if how == "b" else 30, 2), "complex128", matrices.generator(how))
    given.imag *= [1e-3, 1e3]
    found = ff.solve(G, **{how: given}, damping=0.01, method="cg", maxiter=2)
    A, b = G.T @ G / 30 + 0.01 * np.eye(9), given if how == "b" else G.T @ given / 30
    r, sizes = np.linalg.norm(b - A @ found.x, axis=0), np.linalg.norm(b, axis=0)
    assert found.statuses == ("max_iterations",) * 2
    np.testing.assert_allclose(found.residuals, r / sizes, rtol=1e-9)
    backward = r / (np.linalg.norm(A, 2) * np.linalg.norm(found.x, axis=0) + sizes)
    assert 0.5 * backward.max() <= found.backward_error <= 2 * backward.max()


def test_cg_is_done_where_the_whole_is():
    G, b = np.diag(np.arange(1.0, 9)), np.eye(8)[0] + 1e-13j * np.arange(8.0)
    found = ff.solve(G, b, damping=0.1, method="cg", maxiter=2, preconditioner=None)
    assert found.converged and found.residual < 1e-10, found


def test_what_loses_digits_does_not_hide_the_residual_of_others():
    G = matrices.gaussian((20, 3), "float32", matrices.generator("hide"))
    b = np.array([[1, 1e-34], [2, 2e-34], [3, 1e-34]], np.float32)
    both = ff.solve(G, b, damping=1e8)
    alone = ff.solve(G, b[:, 0], damping=1e8)
    assert both.statuses == ("converged", "underflow")
    assert both.residuals[0] == alone.residual > 0
