"""Solutions at the small end of the range, and vectors outside that of the scores on the way."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import ConvergenceError
from tests import oracle

over_methods = pytest.mark.parametrize("method", ["primal", "dual", "cg", "mixed"])
over_shapes = pytest.mark.parametrize("shape", [(40, 8), (8, 40)], ids=lambda s: f"{s[0]}x{s[1]}")
TOO_SMALL = [
    ("float32", 1.0, 1e64),
    ("float32", 1e-30, 1e30),
    ("float32", 1e-33, 1e8),  # subnormal: some digits are left
    ("float64", 1e-200, 1e200),
    ("float64", 1e-300, 1e10),
]


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@over_methods
@over_shapes
@pytest.mark.parametrize(("dtype", "size", "lam"), TOO_SMALL)
@pytest.mark.parametrize("form", ["b", "coef"])
def test_law_26_15_a_step_below_the_range_is_never_called_converged(
    method, shape, dtype, size, lam, form, rng
):
    G = rng.standard_normal(shape).astype(dtype)
    given = (size * rng.standard_normal(shape[form == "b"])).astype(dtype)
    sol = ff.solve(G, **{form: given}, damping=lam, method=method)
    assert sol.status == "underflow" and not sol.converged and sol.statuses == ("underflow",)
    unit = given.astype(float) / size  # F is nothing beside lambda: x is b / lambda
    b = unit if form == "b" else oracle.coef_rhs(G.astype(float), unit)
    with np.errstate(all="ignore"):
        kept = sol.x.astype(np.longdouble) * lam / size
    lost = float(np.linalg.norm((b - kept).astype(float)) / np.linalg.norm(b))
    assert sol.residual == pytest.approx(lost, rel=1e-3, abs=1e-6) and sol.backward_error > 0
    with pytest.raises(ConvergenceError, match=r"underflow.*power of two"):
        sol.require_convergence()


@over_methods
@over_shapes
def test_only_the_right_hand_sides_that_lose_digits_are_named(method, shape, rng):
    G = rng.standard_normal(shape).astype(np.float32)
    b = rng.standard_normal((shape[1], 3)).astype(np.float32)
    b[:, 1] *= np.float32(1e-38)
    b[:, 2] = 0
    sol = ff.solve(G, b, damping=1e5, method=method)
    assert sol.statuses == ("converged", "underflow", "converged") and sol.status == "underflow"
    assert sol.residuals[0] < 1e-4 < sol.residuals[1] and sol.residuals[2] == 0


@over_methods
def test_what_a_subnormal_holds_exactly_has_converged(method):
    G = np.zeros((4, 3), np.float32)
    b = np.ldexp(np.float32(1), [-140, -141, -130])
    sol = ff.solve(G, b, damping=2.0, method=method)
    assert sol.converged and np.array_equal(sol.x, b / 2)


def test_small_entries_beside_large_ones_are_no_loss(rng):
    G, b = rng.standard_normal((40, 8)).astype(np.float32), np.ones(8, np.float32)
    b[3] = 1e-40
    assert ff.solve(np.zeros_like(G), b, damping=1e3).converged


@over_shapes
def test_complex_right_hand_sides_lose_digits_as_others_do(shape, rng):
    G = rng.standard_normal(shape).astype(np.float32)
    b = (1e-38 * (rng.standard_normal(shape[1]) + 1j)).astype(np.complex64)
    sol = ff.solve(G, b, damping=1e3)
    assert sol.status == "underflow" and sol.x.dtype == np.complex64


@over_methods
@over_shapes
@pytest.mark.parametrize(
    ("dtype", "scale"), [("float64", 1e-200), ("float32", 1e-30), ("float64", 1e-250)]
)
@pytest.mark.parametrize("lam", [1e-30, 1.0])
def test_damping_far_above_tiny_scores_leaves_the_step_of_gradient_descent(
    method, shape, dtype, scale, lam, rng
):
    """G is scaled into range only as far as lambda and x stay there."""
    unit = rng.standard_normal(shape)
    G = (unit * scale).astype(dtype)
    sol = ff.solve(G, coef=np.ones(shape[0], dtype), damping=lam, method=method)
    assert sol.converged, sol
    mean = (G.astype(float) / scale).mean(axis=0)
    np.testing.assert_allclose(sol.x.astype(float) / scale * lam, mean, rtol=1e-5)


@over_methods
@over_shapes
@pytest.mark.parametrize(
    ("scale", "lam"), [(1e-300, 1e30), (1e-200, 1e200), (1e-160, 1e300), (1e-165, 1e155)]
)
def test_law_26_15_a_step_that_underflows_on_the_way_is_told_as_well(
    method, shape, scale, lam, rng
):
    """b = G'(w o coef) / W is tiny, and nobody has normalised it."""
    unit, c = rng.standard_normal(shape), np.ones((shape[0], 2))
    c[:, 1] = 0
    sol = ff.solve(unit * scale, coef=c, damping=lam, method=method)
    assert sol.statuses == ("underflow", "converged"), sol
    with np.errstate(all="ignore"):
        kept = sol.x[:, 0].astype(np.longdouble) * lam / scale
    mean = unit.mean(axis=0)
    assert sol.residual == pytest.approx(np.linalg.norm(kept - mean) / np.linalg.norm(mean), 1e-3)


@over_methods
def test_damping_at_the_end_of_the_range(method, rng):
    sol = ff.solve(rng.standard_normal((40, 8)), np.full(8, 8.0), damping=1.5e308, method=method)
    assert sol.converged, sol
    np.testing.assert_allclose(sol.x * 1.5e308, 8.0)


@over_methods
@over_shapes
@pytest.mark.parametrize("sides", [1, 3])
def test_vectors_beyond_single_precision_on_the_way_are_no_obstacle(method, shape, sides, rng):
    """b is normalised: beside it x may be 1e45 where what is returned fits."""
    G = rng.standard_normal(shape).astype(np.float32) * np.float32(1e-12)
    b = (1e-30 * rng.standard_normal((shape[1], sides))).astype(np.float32)
    lam = 1e-45
    sol = ff.solve(G * np.float32(1e-13), b, damping=1e-44, method=method)
    assert sol.converged and np.isfinite(sol.x).all(), sol
    zero = ff.solve(np.zeros_like(G), b, damping=lam, method=method)
    assert zero.converged, zero
    np.testing.assert_allclose(zero.x.astype(float) * lam, b, rtol=1e-4)


def test_columns_out_of_single_precision_in_marquardts_metric(rng):
    G = rng.standard_normal((6, 30)) * 10.0 ** np.linspace(-18, 0, 30)
    G = G.astype(np.float32)
    assert (1 / (1e-3 * (G[:, 0].astype(float) ** 2).mean())) > np.finfo(np.float32).max
    b = G.mean(axis=0)
    sol = ff.solve(G, b, damping=ff.Marquardt(1e-3), method="dual")
    assert sol.converged and np.isfinite(sol.x).all()
    wide = ff.solve(G.astype(float), b.astype(float), damping=ff.Marquardt(1e-3), method="dual")
    np.testing.assert_allclose(sol.x, wide.x, rtol=1e-2)  # condition 1e3


@pytest.mark.parametrize("method", ["primal", "dual", "mixed"])  # cg stops where |b| allows
@over_shapes
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("low", [1.05, 1.2])
def test_law_26_15_marquardt_damps_columns_by_squares_that_underflow(
    method, shape, dtype, low, rng
):
    """Of F_jj below the range of squares nothing, or not all, would be left: c F_jj is D."""
    sizes = np.ones(shape[1])
    sizes[1::2] = {"float32": 1e-19, "float64": 1e-154}[dtype] ** low
    G = (rng.standard_normal(shape) * sizes).astype(dtype)
    unit = G.astype(float) / sizes
    c = rng.standard_normal(shape[0]).astype(dtype)
    D = np.diag(2 * (unit**2).mean(axis=0))
    exact = np.linalg.solve(oracle.fisher(unit) + D, oracle.coef_rhs(unit, c.astype(float)))
    sol = ff.solve(G, coef=c, damping=ff.Marquardt(2.0), method=method)
    assert sol.converged, sol
    found = sol.x.astype(float) * sizes
    assert np.linalg.norm(found - exact) <= 1e-5 * np.linalg.norm(exact)


@over_methods
@over_shapes
@pytest.mark.parametrize("scale", [1e-44, 1e-20, 1.0, 1e18])
@pytest.mark.parametrize("lam", [1e-300, 1e-30, 1e30])
def test_no_cast_warns_whatever_comes_of_it(method, shape, scale, lam, rng):
    G = (rng.standard_normal(shape) * scale).astype(np.float32)
    for size in (1e-40, 1.0, 1e37):
        b = (size * rng.standard_normal(shape[1])).astype(np.float32)
        try:
            sol = ff.solve(G, b, damping=lam, method=method)
        except ff.errors.FisherError as error:
            assert str(error)
        else:
            assert not sol.converged or np.isfinite(sol.x).all()


MAKERS = {
    "dense": lambda dtype: ff.DenseFisher(6, dtype=dtype),
    "diagonal": lambda dtype: ff.DiagonalFisher(6, dtype=dtype),
    "block": lambda dtype: ff.BlockDiagonalFisher([2, 4], dtype=dtype),
    "gram": lambda dtype: ff.GramFisher(dtype=dtype),
    "kronecker": lambda dtype: ff.KroneckerFisher([(3, 2)], dtype=dtype),
}


def filled(kind, scale, rng):
    parts = [(scale * rng.standard_normal((40, k))).astype(np.float32) for k in (6, 3, 2)]
    return MAKERS[kind]("float32").update([tuple(parts[1:])] if kind == "kronecker" else parts[0])


@pytest.mark.parametrize("kind", MAKERS)
def test_steps_of_fisher_objects_beyond_either_end_of_single_precision(kind, rng):
    b = np.full(6, 1e-30, np.float32)
    low = filled(kind, 1.0, rng).solve(b, damping=1e20)
    assert low.status == "underflow" and low.residual == pytest.approx(1) and not low.x.any()
    high = filled(kind, 0.0, rng).solve(1 / b, damping=1e-30)
    assert high.status == "not_finite" and not high.converged and high.info


def test_systems_whose_step_underflows_are_named_and_kept(rng):
    F = ff.BatchedFisher(3, 4, dtype="float32")
    F.update(rng.standard_normal((3, 20, 4)).astype(np.float32))
    b = np.ones((3, 4), np.float32)
    b[1] = 1e-42
    sol = F.solve(b, damping=10.0)
    assert sol.info.tolist() == [0, -3, 0] and sol.status == "underflow"
    assert np.isfinite(sol.x).all() and sol.x[0].all()


def test_negative_control_the_same_problems_in_double_converge(rng):
    G = rng.standard_normal((40, 8))
    for size, lam in [(1.0, 1e64), (1e-30, 1e30), (1e-35, 1e5)]:
        assert ff.solve(G, np.full(8, size), damping=lam).converged
    sol = ff.solve(G, np.ones(8), damping=1.0)
    assert replace(sol, status="underflow", converged=False).info == 1
