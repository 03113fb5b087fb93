"""More questions to a factor: leverage and effective dimension Q4, whitening Q5, condition."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import fastfisher as ff
from fastfisher.errors import InputError
from tests import matrices, oracle
from tests.fisher.test_factor import KINDS, LAM, close, filled, over_dtypes, over_kinds, over_shapes
from tests.tolerances import unit_roundoff

DAMPINGS = {"lambda": LAM, "relative": ff.Relative(0.1), "cutoff": ff.HardCutoff(1e-3)}


@over_kinds
@over_shapes
@over_dtypes
def test_factor_Q4_leverage_and_effective_dimension(make, shape, dtype, rng):
    F, exact, (G, w) = filled(make, shape, dtype, center=False)
    A = exact + LAM * np.eye(shape[1])
    S = oracle.scaled_rows(G, w)
    factor = F.factor(LAM)
    h = factor.leverage(G, w)
    assert h.shape == (len(G),) and h.dtype == np.float64
    expected = np.einsum("ij,jk,ik->i", S, np.linalg.inv(A), S.conj()).real
    close(h, expected, dtype)
    dimension = factor.effective_dimension()
    spectrum = np.linalg.eigvalsh(exact)
    u = 1e4 * unit_roundoff(dtype)
    assert dimension == pytest.approx((spectrum / (spectrum + LAM)).sum(), rel=u, abs=u)
    assert h.sum() == pytest.approx(dimension, rel=u)
    if not isinstance(F, ff.DiagonalFisher | ff.BlockDiagonalFisher):
        B = oracle.gram(G, w) / w.sum() + LAM * np.eye(len(G))
        close(h, 1 - LAM * np.diag(np.linalg.inv(B)).real, dtype)
        assert np.all((h >= 0) & (h < 1))
    close(
        factor.leverage(G),
        np.einsum("ij,jk,ik->i", G, np.linalg.inv(A), G.conj()).real / len(G),
        dtype,
    )


def test_factor_Q4_leave_one_out_residuals_of_ridge_regression(rng):
    X, y, lam = rng.standard_normal((40, 6)), rng.standard_normal(40), 0.05
    h = ff.DenseFisher(6).update(X).factor(lam).leverage(X)
    theta = ff.solve(X, coef=y, damping=lam).x
    for i in (0, 17, 39):
        keep = np.arange(40) != i
        # The same lambda n in the sum over the others.
        left = np.linalg.solve(X[keep].T @ X[keep] + 40 * lam * np.eye(6), X[keep].T @ y[keep])
        assert (y[i] - X[i] @ theta) / (1 - h[i]) == pytest.approx(y[i] - X[i] @ left, rel=1e-10)


@over_kinds
@over_shapes
@over_dtypes
@pytest.mark.parametrize("damping", DAMPINGS.values(), ids=DAMPINGS.keys())
def test_factor_Q5_whitening_halves_the_inverse(make, shape, dtype, damping, rng):
    F, _, _ = filled(make, shape, dtype)
    factor, p = F.factor(damping), shape[1]
    W = factor.whiten(np.eye(p, dtype=dtype))
    assert W.dtype == dtype
    inverse = factor.solve(np.eye(p, dtype=dtype))
    scale = np.abs(inverse).max()
    np.testing.assert_allclose(
        oracle.ct(W) @ W, inverse, rtol=0, atol=3e4 * unit_roundoff(dtype) * scale
    )
    b = matrices.gaussian((p,), dtype, rng)
    assert np.linalg.norm(factor.whiten(b)) ** 2 == pytest.approx(
        (b.conj() @ factor.solve(b)).real, rel=1e5 * unit_roundoff(dtype)
    )
    assert factor.whiten(b + 0j).dtype.kind == "c"


@over_kinds
@pytest.mark.parametrize("shape", [(40, 9), (9, 130), (9, 9)], ids=str)
@pytest.mark.parametrize("lam", [1e-8, 1e-2, 1e2])
def test_factor_condition_estimate(make, shape, lam, rng):
    G = matrices.scores(*shape, cond=1e6)
    F = make(shape[1]).update(G)
    exact = F.matrix() + lam * np.eye(shape[1])
    rcond = F.factor(lam).rcond()
    assert 0.5 / np.linalg.cond(exact) <= rcond <= 5 / np.linalg.cond(exact)
    cut = F.factor(ff.HardCutoff(1e-3))
    assert 1e-3 < cut.rcond() <= 1


@given(
    n=st.integers(1, 8),
    p=st.integers(1, 8),
    seed=st.integers(0, 50),
    kind=st.sampled_from(sorted(KINDS)),
)
def test_factor_Q4_relations(n, p, seed, kind):
    """The effective dimension falls with lambda, from the rank to 0; rcond grows to 1."""
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((n, p))
    F = KINDS[kind](p).update(G)
    factors = [F.factor(lam) for lam in (1e-3, 1.0, 1e3)]
    dimensions = [factor.effective_dimension() for factor in factors]
    rank = p if kind in ("diagonal", "block") else min(n, p)
    assert rank + 1e-9 >= dimensions[0] > dimensions[1] > dimensions[2] > 0
    assert F.factor(1e9).effective_dimension() < 1e-3
    conditions = [factor.rcond() for factor in factors]
    assert np.all(np.diff(conditions) >= -1e-9) and conditions[-1] <= 1
    path = F.path(rng.standard_normal(p), [1e-3, 1.0, 1e3])
    np.testing.assert_allclose(path.effective_dimension, dimensions, rtol=1e-8, atol=1e-11)


@over_kinds
def test_factor_questions_refuse_what_does_not_fit(make, rng):
    F, _, _ = filled(make, (20, 6), "float64")
    factor = F.factor(LAM)
    for call, message in [
        (lambda: factor.leverage(np.ones((3, 5))), "with 5 columns"),
        (lambda: factor.leverage(1j * np.ones((3, 6))), "G is complex128"),
        (lambda: factor.leverage(np.full((3, 6), np.nan)), "not finite in row 0"),
        (lambda: factor.leverage(np.ones((3, 6)), np.ones(4)), "weights has shape"),
        (lambda: factor.whiten(np.ones(5)), r"b has shape \(5,\)"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    assert factor.leverage(np.ones((0, 6))).shape == (0,)


@over_kinds
@pytest.mark.parametrize("k", [-500, 500])
def test_factor_condition_26_15_of_scores_near_the_ends_of_the_range(make, k):
    G = matrices.scores(30, 8, cond=1e2)
    plain, scaled = (make(8).update(G * s).factor(ff.Relative(0.1)) for s in (1.0, 2.0**k))
    assert scaled.rcond() == pytest.approx(plain.rcond(), rel=1e-9)
    assert scaled.effective_dimension() == pytest.approx(plain.effective_dimension(), rel=1e-9)


@over_kinds
def test_factor_questions_26_14_without_samples(make):
    factor = make(8).update(np.ones((0, 8))).factor(0.25)
    assert factor.rcond() == 1 and factor.effective_dimension() == pytest.approx(0, abs=1e-14)
    np.testing.assert_allclose(factor.inv_diagonal(), np.full(8, 4.0))
    assert factor.logdet() == pytest.approx(8 * np.log(0.25))


@pytest.mark.parametrize("damping", [ff.HardCutoff(1e-8), ff.SoftCutoff(1e-8)], ids=repr)
@pytest.mark.parametrize("scale", [2.0**-498, 2.0**498])
def test_cutoffs_through_the_scores_hold_at_the_ends_of_the_range(damping, scale, rng):
    """What the dense factor says, where intermediate quotients leave the range."""
    G, b = rng.standard_normal((8, 12)) * scale, rng.standard_normal(12)
    dense = ff.DenseFisher(12).update(G).factor(damping)
    for F in (ff.GramFisher(), ff.WindowFisher(10, 12)):
        factor = F.update(G).factor(damping)
        np.testing.assert_allclose(factor.solve(b), dense.solve(b), rtol=1e-10)
        np.testing.assert_allclose(factor.inv_diagonal(), dense.inv_diagonal(), rtol=1e-10)
        np.testing.assert_allclose(factor.logdet(), dense.logdet(), rtol=1e-12)
