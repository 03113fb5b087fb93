"""Damping paths, Q1: each value against a solve of its own."""

import copy
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given

import fastfisher as ff
from fastfisher.errors import InputError, NotPositiveDefiniteError
from tests import matrices, oracle
from tests.fisher.structure import structured
from tests.fisher.test_factor import KINDS, filled, over_dtypes, over_kinds, over_shapes
from tests.tolerances import unit_roundoff

LAMS = np.geomspace(1e-3, 1e2, 9)


def agree(path, exact, b, dtype, limit=3000):
    """Every column of a path against dense solves with the matrix `exact`."""
    u = limit * unit_roundoff(dtype)
    for i, lam in enumerate(path.dampings):
        A = exact + lam * np.eye(len(exact))
        x = np.linalg.solve(A, b)
        cond = 1 + np.linalg.norm(exact, 2) / lam
        assert path.norms[i] == pytest.approx(np.linalg.norm(x), rel=u * cond)
        assert path.kl[i] == pytest.approx((x.conj() @ exact @ x).real / 2, rel=2 * u * cond)
        assert path.inner[i] == pytest.approx((b.conj() @ x).real, rel=u * cond)
        assert path.logdet[i] == pytest.approx(np.linalg.slogdet(A)[1], rel=u, abs=u * len(A))
        dimension = np.trace(exact @ np.linalg.inv(A)).real
        assert path.effective_dimension[i] == pytest.approx(dimension, rel=u * cond)
        assert path.residuals[i] <= u * cond
        assert np.linalg.norm(path.x(i) - x) <= u * cond * np.linalg.norm(x)
    assert path.x().shape == (len(exact), len(path))
    both = path.x([2, 0])[:, 1], path.x()[:, 0]
    np.testing.assert_allclose(*both, rtol=u, atol=u * np.abs(both[0]).max(initial=0))


@over_kinds
@over_shapes
@over_dtypes
def test_path_Q1_equals_a_solve_for_every_damping(make, shape, dtype, rng):
    F, exact, (G, w) = filled(make, shape, dtype)
    b = matrices.gaussian((shape[1],), dtype, rng)
    path = F.path(b, LAMS)
    assert path.x(0).dtype == dtype and len(path) == len(LAMS)
    agree(path, exact, oracle.wide(b), dtype)
    misfit = [np.linalg.norm(b - exact @ path.x(i)) for i in range(len(path))]
    np.testing.assert_allclose(path.misfits, misfit, rtol=1e4 * unit_roundoff(dtype))
    agree(F.path(None, LAMS), exact, oracle.mean_gradient(G, w), dtype)


def test_path_Q1_200_dampings_against_200_cholesky_solves(rng):
    n, p = 300, 150
    G, b = matrices.scores(n, p, cond=1e6), rng.standard_normal(p)
    F, exact = ff.DenseFisher(p).update(G), oracle.fisher(G)
    lams = np.geomspace(1e-6, 1e2, 200)
    path, x = F.path(b, lams), F.path(b, lams).x()
    largest = np.linalg.norm(exact, 2)
    for i, lam in enumerate(lams):
        factor = scipy.linalg.cho_factor(exact + lam * np.eye(p))
        expected = scipy.linalg.cho_solve(factor, b)
        kappa = 1 + largest / lam
        assert np.linalg.norm(x[:, i] - expected) <= 1e-14 * kappa * np.linalg.norm(expected)
        logdet = 2 * np.log(np.diag(factor[0])).sum()
        assert path.logdet[i] == pytest.approx(logdet, rel=1e-11, abs=1e-9)
    assert path.residuals.max() < 1e-8


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_path_D3_by_coefficients_does_not_cancel(dtype, rng):
    G, c = matrices.scores(20, 90, dtype, cond=1e2), matrices.gaussian((20,), dtype, rng)
    w = matrices.weights(20) + 0.1
    F = ff.GramFisher().update(G, w)
    lams = np.geomspace(1e-12, 1, 7)
    path = F.path(None, lams, coef=c)
    S, f = oracle.scaled_rows(G, w), np.sqrt(w / w.sum()) * c
    for i, lam in enumerate(lams):
        expected = oracle.dual_coef(G, c, lam, w)
        np.testing.assert_allclose(path.x(i), expected, rtol=1e-9, atol=1e-12)
        assert path.misfits[i] == pytest.approx(np.linalg.norm(f - S @ expected), rel=1e-9)
        hat = S @ np.linalg.solve(oracle.ct(S) @ S + lam * np.eye(90), oracle.ct(S))
        if lam > 1e-6:
            exact = 20 * path.misfits[i] ** 2 / np.trace(np.eye(20) - hat).real ** 2
            assert path.gcv()[i] == pytest.approx(exact, rel=1e-7)
    with pytest.raises(InputError, match="both b and coef"):
        F.path(np.ones(90), lams, coef=c)
    centred = ff.GramFisher(center=True).update(G, w)
    expected = oracle.dual_coef(G, c, 1e-2, w, center=True)
    np.testing.assert_allclose(centred.path(None, [1e-2], coef=c).x(0), expected, rtol=1e-9)


@given(
    n=st.integers(1, 12),
    p=st.integers(1, 12),
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 99),
)
def test_path_P1_falls_with_the_damping(n, p, kind, seed):
    """|x|, x'Fx, b'x and the effective dimension fall, logdet and the misfit grow (26.11)."""
    rng = np.random.default_rng(seed)
    F = KINDS[kind](p).update(rng.standard_normal((n, p)))
    path = F.path(rng.standard_normal(p), np.geomspace(1e-2, 1e3, 40))
    for values in (path.norms, path.kl, path.inner, path.effective_dimension):
        assert np.all(np.diff(values) <= 1e-12 * values[:-1])
    for values in (path.logdet, path.misfits):
        assert np.all(np.diff(values) >= -1e-12 * np.abs(values[:-1]))
    assert path.norms[-1] * path.dampings[-1] == pytest.approx(
        np.linalg.norm(path.x(-1)) * path.dampings[-1]
    )
    rank = p if kind in ("diagonal", "block") else min(n, p)
    assert np.all(path.effective_dimension <= rank + 1e-12)
    assert np.all(2 * path.kl <= path.inner)  # x'Fx = b'x - lambda |x|^2


@over_kinds
@pytest.mark.parametrize("k", [-330, 330])
def test_path_26_15_scaled_scores_scale_every_column(make, k, rng):
    G, b = matrices.scores(30, 8, cond=1e2), rng.standard_normal(8)
    plain = make(8).update(G).path(b, LAMS)
    scaled = make(8).update(G * 2.0**k).path(b * 2.0**k, LAMS * 4.0**k)
    np.testing.assert_allclose(scaled.norms * 2.0**k, plain.norms, rtol=1e-12)
    np.testing.assert_allclose(scaled.x() * 2.0**k, plain.x(), rtol=1e-11, atol=1e-14)
    for name in ("kl", "inner", "effective_dimension"):
        np.testing.assert_allclose(getattr(scaled, name), getattr(plain, name), rtol=1e-11)
    np.testing.assert_allclose(scaled.logdet - 16 * k * np.log(2), plain.logdet, rtol=1e-9)
    assert scaled.residuals.max() < 1e-12


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 2), (2, 2)], ids=str)
@over_kinds
def test_path_26_14_small_sizes(make, shape, rng):
    n, p = shape
    G = rng.standard_normal(shape)
    F, exact = make(p).update(G), oracle.fisher(G) if n else np.zeros((p, p))
    exact = structured(F, exact)
    agree(F.path(np.ones(p), [0.5, 2.0, 1.0]), exact, np.ones(p), "float64")


def test_path_corner_is_where_the_noise_begins(rng):
    """A smooth solution plus noise: left of the corner the norm grows, right of it the misfit."""
    p = 40
    spectrum = 10.0 ** -np.linspace(0, 10, p)
    V = np.linalg.qr(rng.standard_normal((p, p)))[0]
    F = ff.DenseFisher(p).update(np.sqrt(p * spectrum)[:, np.newaxis] * V.T)
    truth = V @ np.exp(-np.arange(p) / 4.0)
    b = F.matrix() @ truth + 1e-5 * rng.standard_normal(p)
    path = F.path(b, np.geomspace(1e-12, 1, 121))
    chosen = path.corner()
    # Hansen's closed form of the curvature, from |x|^2 = sum c^2 / (e + t)^2 and its derivatives.
    c, t = (V.T @ b) ** 2, path.dampings[:, np.newaxis]
    eta, slope = (c / (spectrum + t) ** 2).sum(1), -2 * (c / (spectrum + t) ** 3).sum(1)
    bend, lam = 6 * (c / (spectrum + t) ** 4).sum(1), path.dampings
    up, upp = slope / eta * lam, (bend / eta - (slope / eta) ** 2) * lam**2 + slope / eta * lam
    across, acrosss = 1 + up / 2, upp / 2
    curvature = (across * upp / 2 - acrosss * up / 2) / (across**2 + up**2 / 4) ** 1.5
    assert abs(chosen - int(np.argmax(curvature))) <= 1
    error = np.linalg.norm(path.x() - truth[:, np.newaxis], axis=0)
    assert error[chosen] < 1e-3 * error[0] and path.misfits[chosen] < 1e-3 * path.misfits[-1]
    shuffled = rng.permutation(121)
    again = F.path(b, path.dampings[shuffled])
    assert shuffled[again.corner()] == chosen
    with pytest.raises(InputError, match="a corner needs five"):
        F.path(b, [1.0, 1.0, 2.0, 3.0, 4.0]).corner()


@over_kinds
@over_shapes
@over_dtypes
def test_path_P5_trust_regions(make, shape, dtype, rng):
    F, _, _ = filled(make, shape, dtype)
    b = matrices.gaussian((shape[1],), dtype, rng)
    path = F.path(b, [1e-2, 1.0])
    for share in (0.9, 0.3, 1e-3, 1e-6):
        norm, kl = share * path.norms[0], share * path.kl[0]
        by_norm, by_kl = path.damping_for(norm=norm), path.damping_for(kl=kl)
        at = F.path(b, [by_norm, by_kl])
        u = 1e5 * unit_roundoff(dtype)
        assert at.norms[0] == pytest.approx(norm, rel=u) and at.kl[1] == pytest.approx(kl, rel=u)
    assert path.damping_for(norm=2 * path.norms[0]) == path.damping_for(kl=9 * path.kl[0]) == 1e-2
    for bad, message in [({}, "exactly one"), ({"norm": 0.0}, "norm is 0"), ({"kl": -1}, "kl is")]:
        with pytest.raises(InputError, match=message):
            path.damping_for(**bad)


@pytest.mark.parametrize("k", [-330, 330])
def test_path_P5_trust_region_from_no_damping_at_any_scale(k, rng):
    G, b = matrices.scores(30, 8, cond=1e2), rng.standard_normal(8)
    plain = ff.DenseFisher(8).update(G).path(b, [0.0, 1.0])
    scaled = ff.DenseFisher(8).update(G * 2.0**k).path(b * 2.0**k, [0.0, 4.0**k])
    lam = plain.damping_for(norm=plain.norms[0] / 3)
    assert 0 < lam and np.linalg.norm(
        np.linalg.solve(oracle.fisher(G) + lam * np.eye(8), b)
    ) == pytest.approx(plain.norms[0] / 3, rel=1e-10)
    assert scaled.damping_for(norm=scaled.norms[0] / 3) == pytest.approx(lam * 4.0**k, rel=1e-10)


def test_path_P9_refuses_what_is_not_definite_and_says_where_to_start(rng):
    G, b = rng.standard_normal((5, 8)), rng.standard_normal(8)
    for F in (ff.DenseFisher(8).update(G), ff.GramFisher().update(G)):
        with pytest.raises(NotPositiveDefiniteError, match="start the path at") as caught:
            F.path(b, [1.0, 0.0])
        assert np.isfinite(F.path(b, [caught.value.suggested_damping]).norms).all()
    diagonal = ff.DiagonalFisher(3).update(np.diag([1.0, 0.0, 1.0]))
    with pytest.raises(NotPositiveDefiniteError) as caught:
        diagonal.path(np.ones(3), [0.0])
    assert caught.value.order == 2
    regular = ff.DenseFisher(3).update(np.eye(3)).path(np.ones(3), [0.0])
    np.testing.assert_allclose(regular.x(0), 3 * np.ones(3), rtol=1e-14)


def test_path_refuses_what_it_cannot_take(rng):
    F = ff.DenseFisher(3).update(rng.standard_normal((5, 3)))
    for b, dampings, message in [
        (np.ones(3), [], "expected absolute dampings"),
        (np.ones(3), 1.0, "expected absolute dampings"),
        (np.ones(3), [1.0, -1.0], r"dampings\[1\] is -1"),
        (np.ones(3), [np.nan], r"dampings\[0\] is nan"),
        (np.ones(3), [ff.Relative(1.0)], "expected absolute dampings"),
        (np.ones(4), [1.0], r"b has shape \(4,\)"),
        (np.ones((3, 2)), [1.0], "a path takes one vector"),
        (1j * np.ones(3), [1.0], "paths of b.real and b.imag"),
    ]:
        with pytest.raises(InputError, match=message):
            F.path(b, dampings)


def test_path_prints_a_table_and_keeps_what_it_has_seen(rng):
    for make in KINDS.values():
        F, b = make(6).update(rng.standard_normal((20, 6))), rng.standard_normal(6)
        path = F.path(b, np.geomspace(1e-2, 1, 200))
        lines = repr(path).splitlines()
        assert lines[0] == "Path: 200 dampings, p=6" and "..." in lines[8] and len(lines) == 15
        assert "eff. dim." in lines[1] and len(repr(F.path(b, [1.0])).splitlines()) == 3
        before = path.x().tobytes()
        F.update(rng.standard_normal((20, 6)), decay=0.5)
        assert path.x().tobytes() == before
        for again in (pickle.loads(pickle.dumps(path)), copy.deepcopy(path)):
            assert again.x().tobytes() == before and repr(again) == repr(path)
