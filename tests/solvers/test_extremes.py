"""Scales at the ends of the range, bad rows, and equal bits where they are promised."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError
from tests import matrices, oracle
from tests.solvers.routes import small_problems as small_problems
from tests.tolerances import assert_ratio, forward_ratio, unit_roundoff

pytestmark = pytest.mark.usefixtures("small_problems")
over_methods = pytest.mark.parametrize("method", ["primal", "dual", "cg"])
over_shapes = pytest.mark.parametrize("shape", [(40, 8), (8, 40)], ids=lambda s: f"{s[0]}x{s[1]}")


def bits(x):
    return np.ascontiguousarray(x).tobytes()


@over_methods
@over_shapes
@pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
@pytest.mark.parametrize("k", [-9, 1, 30])
def test_law_26_4_P2_powers_of_two_are_exact(method, shape, dtype, k, rng):
    G, c = matrices.gaussian(shape, dtype, rng), matrices.gaussian((shape[0],), dtype, rng)
    b = matrices.gaussian((shape[1],), dtype, rng)
    two = np.asarray(2.0**k, G.real.dtype)
    w = matrices.weights(shape[0], dtype)
    for damping, scaled in [
        (ff.Relative(0.01), ff.Relative(0.01)),
        (0.01, 0.01 * 4.0**k),
        (ff.Marquardt(0.5, shift=0.125), ff.Marquardt(0.5, shift=0.125 * 4.0**k)),
    ]:
        for center in (False, True):
            settings = dict(method=method, weights=w, center=center)
            x = ff.natural_gradient(G, damping=damping, **settings)
            assert bits(ff.natural_gradient(two * G, damping=scaled, **settings)) == bits(x / two)
            x = ff.solve(G, b, damping=damping, **settings).x
            assert bits(ff.solve(two * G, two * b, damping=scaled, **settings).x) == bits(x / two)
            x = ff.solve(G, coef=c, damping=damping, **settings).x
            assert bits(ff.solve(two * G, coef=c, damping=scaled, **settings).x) == bits(x / two)


@over_methods
@over_shapes
def test_law_26_4_the_sign_of_the_scores_cancels_in_F(method, shape, rng):
    G, b = rng.standard_normal(shape), rng.standard_normal(shape[1])
    for damping in (0.1, ff.Relative(0.1), ff.Marquardt(0.1, shift=0.1)):
        x = ff.solve(G, b, damping=damping, method=method).x
        assert bits(ff.solve(-G, b, damping=damping, method=method).x) == bits(x)
        assert bits(ff.natural_gradient(-G, damping=damping, method=method)) == bits(
            -ff.natural_gradient(G, damping=damping, method=method)
        )


EXTREMES = {
    "float64": (1e150, 1e-150, 1e200, 1e-200, 2.0**1000, 2.0**-1000),
    "complex128": (1e150, 1e-150, 1e200, 1e-200),
    "float32": (1e25, 1e-25, 1e18, 1e-18),
    "complex64": (1e25, 1e-25),
}
over_extremes = pytest.mark.parametrize(
    ("dtype", "scale"), [(d, s) for d, scales in EXTREMES.items() for s in scales]
)


@over_methods
@over_shapes
@over_extremes
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
@pytest.mark.parametrize("damping", [ff.Relative(0.1), ff.Marquardt(0.5)], ids=str)
def test_law_26_15_relative_damping_at_extreme_scales(
    method, shape, dtype, scale, center, damping, rng
):
    unit = matrices.gaussian(shape, dtype, rng)
    G = (unit * np.asarray(scale, unit.real.dtype)).astype(dtype)
    unit = oracle.wide(G) / scale
    F = oracle.fisher(unit, None, center)
    p = len(F)
    D = (
        0.1 * np.trace(F).real / p * np.ones(p)
        if isinstance(damping, ff.Relative)
        else 0.5 * np.diag(F).real
    )
    A = F + np.diag(D)
    expected = np.linalg.solve(A, oracle.mean_gradient(unit))
    x = ff.natural_gradient(G, damping=damping, method=method, center=center)
    scaled = (oracle.wide(x) * scale).astype(dtype)
    limit = 1e6 if method == "cg" else 300  # cg promises a residual, not the last bits
    assert_ratio(forward_ratio(scaled, expected, np.linalg.cond(A)), limit, "x")


@over_methods
@over_shapes
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_law_26_15_a_step_beyond_the_range_is_an_error(method, shape, dtype, rng):
    """Denormal scores have a step of 1 / |G|, which no float of that type can hold."""
    G = matrices.denormals(*shape, dtype).G
    with pytest.raises(ff.errors.FisherError, match="overflow"):
        ff.natural_gradient(G, damping=ff.Relative(0.1), method=method)
    result = ff.solve(G, coef=np.ones(shape[0], dtype), damping=ff.Relative(0.1), method=method)
    assert not result.converged and result.status == "not_finite"


@over_methods
@over_shapes
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("float64", s) for s in (1e150, 1e-150, 1e200, 1e-200)]
    + [("float32", 1e25), ("float32", 1e-25)],
)
def test_law_26_15_absolute_damping_at_extreme_scales_is_right_or_an_error(
    method, shape, dtype, scale, rng
):
    """b of ordinary size: x is about 1 / scale^2, or b / lambda where F is negligible."""
    unit = matrices.gaussian(shape, dtype, rng)
    G = (unit * np.asarray(scale, dtype)).astype(dtype)
    b = matrices.gaussian((shape[1],), dtype, rng)
    S = oracle.scaled_rows(oracle.wide(G) / scale)
    for lam in (1e-3, 1.0):
        try:
            result = ff.solve(G, b, damping=lam, method=method)
        except ff.errors.FisherError as error:
            assert str(error)
            continue
        assert np.isfinite(result.x).all(), "never infinite or NaN in silence"
        if not result.converged:
            continue
        # (scale^2 S'S + lam) x = b by the singular values of S.
        _, s, Vt = np.linalg.svd(S, full_matrices=False)
        c = Vt @ b.astype(np.float64)
        with np.errstate(over="ignore", under="ignore"):
            x = Vt.T @ (c / ((s * scale) ** 2 + lam))
            x += (b - Vt.T @ c) / lam if shape[0] < shape[1] else 0
        size = np.linalg.norm(x)
        if (
            size > 0
            and np.isfinite(size)
            and np.abs(x).max() > 100 * np.finfo(dtype).smallest_normal
        ):
            assert np.linalg.norm(result.x - x) <= 1e-4 * size, (lam, result)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@over_methods
def test_law_26_15_mixed_huge_and_tiny_rows(method, dtype, rng):
    G = rng.standard_normal((30, 6))
    far = 150 if dtype == "float64" else 16
    G[::2] *= 10.0**far
    G[1::2] *= 10.0**-far
    G = G.astype(dtype)
    x = ff.natural_gradient(G, damping=ff.Relative(1e-3), method=method)
    unit = G.astype(np.float64) / 10.0**far
    A = oracle.fisher(unit)
    A += 1e-3 * np.trace(A) / 6 * np.eye(6)
    expected = np.linalg.solve(A, oracle.mean_gradient(unit))
    np.testing.assert_allclose(x.astype(np.float64) * 10.0**far, expected, rtol=1e-3)


FAMILIES = [problem for problem in matrices.catalogue(60, 12) if problem.name != "denormals"]


@pytest.mark.parametrize("problem", FAMILIES, ids=str)
@over_methods
def test_27_3_every_family_is_solved_with_a_small_backward_error(problem, method, rng):
    G, w = problem.G, problem.weights
    top = np.abs(G).max()
    unit = G / 2.0 ** np.ceil(np.log2(top))
    F = oracle.fisher(unit, w)
    A = F + 1e-3 * np.trace(F) / len(F) * np.eye(len(F))
    c = rng.standard_normal(len(G))
    settings = dict(weights=w, damping=ff.Relative(1e-3), method=method)
    result = ff.solve(G, coef=c, **settings)
    assert result.converged, result
    x = result.x * 2.0 ** np.ceil(np.log2(top))
    b = oracle.coef_rhs(unit, c, w)
    u = unit_roundoff("float64")
    backward = np.linalg.norm(b - A @ x) / (
        np.linalg.norm(A, 2) * np.linalg.norm(x) + np.linalg.norm(b)
    )
    assert backward <= (1e-10 if method == "cg" else 300 * u)


@over_methods
@over_shapes
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
@pytest.mark.parametrize("size", [1e300, 1e308, 1e-300, 5e-324])
def test_F8_only_the_ratios_of_weights_matter(method, shape, center, size, rng):
    G, b = rng.standard_normal(shape), rng.standard_normal(shape[1])
    settings = dict(damping=0.1, center=center, method=method)
    expected = ff.solve(G, b, **settings).x
    result = ff.solve(G, b, weights=np.full(shape[0], size), **settings)
    assert result.converged
    np.testing.assert_allclose(result.x, expected, rtol=1e-8)


@pytest.mark.parametrize(
    "make", [lambda: ff.DenseFisher(6), ff.GramFisher, lambda: ff.DiagonalFisher(6)]
)
@pytest.mark.parametrize("size", [1e300, 1e308, 1e-300, 5e-324])
def test_F8_weights_of_any_size_accumulate_rightly_or_are_refused(make, size, rng):
    G, b = rng.standard_normal((40, 6)), np.ones(6)
    expected = make().update(G).solve(b, damping=0.1).x
    try:
        F = make().update(G, np.full(40, size))
    except InputError as error:
        assert "weights" in str(error)
    else:
        np.testing.assert_allclose(F.solve(b, damping=0.1).x, expected, rtol=1e-10)


@over_methods
@over_shapes
@pytest.mark.parametrize("size", [1e300, 1e200, 1e-200, 1e-300])
def test_law_26_15_right_hand_sides_and_damping_of_any_size(method, shape, size, rng):
    G, b = rng.standard_normal(shape), rng.standard_normal(shape[1])
    c = rng.standard_normal(shape[0])
    for sides, scaled in [(dict(b=b), dict(b=b * size)), (dict(coef=c), dict(coef=c * size))]:
        expected = ff.solve(G, **sides, damping=0.1, method=method)
        result = ff.solve(G, **scaled, damping=0.1, method=method)
        assert result.converged
        assert result.residual == pytest.approx(expected.residual, rel=1, abs=1e-10)
        slack = 1e-6 if method == "cg" else 1e-9
        np.testing.assert_allclose(result.x / size, expected.x, rtol=slack, atol=slack)
    if size > 1:
        result = ff.solve(G, b, damping=size, method=method)
        np.testing.assert_allclose(result.x * size, b, rtol=1e-10)
    elif shape[0] > shape[1]:
        result = ff.solve(G, b, damping=size, method="primal")
        assert result.converged and result.damping == size


# Rows that are not finite ------------------------------------------------------------------------


@over_methods
@over_shapes
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
def test_law_26_16_nan_policies(method, shape, value, center, rng):
    G, c = rng.standard_normal(shape), rng.standard_normal(shape[0])
    bad = shape[0] - 2
    G[bad, 3] = value
    b = np.ones(shape[1])
    for damping in (0.1, ff.Relative(0.1), ff.Marquardt(0.1, shift=0.1)):
        settings = dict(damping=damping, method=method, center=center)
        for sides in (dict(b=b), dict(coef=c)):
            with pytest.raises(InputError, match=rf"row {bad}, column 3"):
                ff.solve(G, **sides, **settings)
            w = np.ones(shape[0])
            w[bad] = 0
            repaired = np.where(np.isfinite(G), G, 0.0)
            skipped = ff.solve(G, **sides, **settings, nan_policy="skip")
            expected = ff.solve(repaired, **sides, **settings, weights=w)
            np.testing.assert_allclose(skipped.x, expected.x, rtol=1e-8, atol=1e-12)
            assert skipped.converged
            spread = ff.solve(G, **sides, **settings, nan_policy="propagate")
            assert spread.status == "not_finite" and not spread.converged
            assert not np.isfinite(spread.x).all()
        with pytest.raises(InputError, match=rf"row {bad}, column 3"):
            ff.natural_gradient(G, **settings)
        assert not np.isfinite(ff.natural_gradient(G, **settings, nan_policy="propagate")).all()
        skipped = ff.natural_gradient(G, **settings, nan_policy="skip")
        expected = ff.natural_gradient(np.delete(G, bad, axis=0), **settings)
        np.testing.assert_allclose(skipped, expected, rtol=1e-8, atol=1e-12)


@over_methods
def test_law_26_16_a_nan_row_of_weight_zero_is_still_named(method, rng):
    G, w = rng.standard_normal((20, 5)), np.ones(20)
    G[7, 1], w[7] = np.nan, 0
    with pytest.raises(InputError, match="row 7, column 1"):
        ff.natural_gradient(G, weights=w, damping=0.1, method=method)


@over_methods
def test_nan_skip_without_a_bad_row_changes_no_bit(method, rng):
    G, b = rng.standard_normal((20, 5)), rng.standard_normal(5)
    plain = ff.solve(G, b, damping=0.1, method=method).x
    assert bits(ff.solve(G, b, damping=0.1, method=method, nan_policy="skip").x) == bits(plain)


@over_methods
def test_nan_skip_with_every_row_bad_is_no_sample(method):
    G = np.full((5, 3), np.nan)
    result = ff.solve(G, np.ones(3), damping=0.5, method=method, nan_policy="skip")
    np.testing.assert_allclose(result.x, 2.0)


# Centred scores far from zero ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["primal", "dual", "cg", "mixed"])
@over_shapes
@pytest.mark.parametrize("form", ["b", "coef"])
@pytest.mark.parametrize("far", [1e3, 1e6])
def test_15_single_precision_is_centred_by_the_mean_and_not_its_rounding(
    method, shape, form, far, rng
):
    """Kernels subtract the mean in the precision of G; d'd, for what that leaves, is taken back."""
    n, p = shape
    G = (rng.standard_normal(shape) + far * rng.standard_normal(p)).astype(np.float32)
    given, w = rng.standard_normal(p if form == "b" else n).astype(np.float32), rng.random(n)
    rows = oracle.wide(G)
    A = oracle.fisher(rows, w, center=True)
    lam = 1e-2 * np.linalg.norm(A, 2)
    A += lam * np.eye(p)
    b = given.astype(float) if form == "b" else oracle.coef_rhs(rows, given.astype(float), w, True)
    sol = ff.solve(G, **{form: given}, damping=lam, weights=w, center=True, method=method)
    x = sol.x.astype(float)
    rest, scale = np.linalg.norm(b - A @ x), np.linalg.norm(A, 2) * np.linalg.norm(x)
    assert sol.converged and sol.residual == pytest.approx(
        rest / np.linalg.norm(b), rel=2, abs=2e-6
    )
    assert rest / (scale + np.linalg.norm(b)) <= (100 if method == "cg" else 10) * 2.0**-24


@pytest.mark.parametrize("method", ["primal", "dual", "cg", "mixed"])
@pytest.mark.parametrize("size", [1e-170, 1e-280, 1e-320])
def test_marquardt_is_its_shift_beside_scores_of_no_account(method, size, rng):
    """The power of two that brings scores into range leaves it, or brings the shift out of it."""
    for shape in ((9, 4), (4, 9)):
        G, b = size * rng.standard_normal(shape), rng.standard_normal(shape[1])
        sol = ff.solve(G, b, damping=ff.Marquardt(1e-3, shift=2.0), method=method)
        assert sol.converged
        error = np.abs(sol.x - b / 2).max() / np.abs(b).max()
        assert_ratio(error / unit_roundoff(np.float64), "goal", method)
