"""No samples, no parameters, no right-hand sides, no weight: what mathematics says they are."""

import numpy as np
import pytest

import fastfisher as ff
from tests import matrices, oracle
from tests.solvers.routes import small_problems as small_problems
from tests.tolerances import unit_roundoff

pytestmark = pytest.mark.usefixtures("small_problems")
over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)

EDGES = ((0, 0), (0, 1), (0, 4), (1, 0), (4, 0), (1, 1), (1, 4), (4, 1))


@over_dtypes
@pytest.mark.parametrize("shape", EDGES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_law_26_14_empty_and_single_sizes_are_what_mathematics_says(shape, dtype, rng):
    n, p = shape
    G = matrices.gaussian(shape, dtype, rng)
    b, c = matrices.gaussian((p,), dtype, rng), matrices.gaussian((n,), dtype, rng)
    w = np.linspace(0.5, 2, n)
    tolerance = dict(rtol=1e3 * unit_roundoff(dtype), atol=1e3 * unit_roundoff(dtype))
    raw = oracle.syrk(G, w)

    def close(x, y):
        np.testing.assert_allclose(x, y, **tolerance)

    for result, expected in [
        (ff.ops.syrk(G, w), raw),
        (ff.ops.gram(G, w), oracle.gram(G, w)),
        (ff.ops.fvp(G, b, w), oracle.fvp(G, b, w)),
        (ff.ops.matvec(G, b), oracle.matvec(G, b)),
        (ff.ops.rmatvec(G, c), oracle.rmatvec(G, c)),
        (ff.ops.diag(G, w), oracle.diag(G, w)),
        (ff.ops.layered_gram([(G, G)]), oracle.gram(G) ** 2),
        (ff.ops.cholesky(ff.ops.syrk(G), damping=2.0), oracle.cholesky(oracle.syrk(G), 2.0)),
        (ff.ops.cho_solve(np.eye(p, dtype=dtype), b), b),
    ]:
        assert result.shape == expected.shape
        close(result, expected)
    x, info = ff.ops.batched_solve(np.zeros((n, p, p), dtype), G, damping=2.0)
    assert x.shape == (n, p) and info.shape == (n,) and not info.any()
    close(x, oracle.wide(G) / 2)

    total = w.sum()
    F = raw / total if total else np.zeros((p, p))
    mean = oracle.rmatvec(G, w.astype(dtype)) / total if total else np.zeros(p)
    for center in (False, True):
        A = (oracle.fisher(G, w, center) if n else F) + 0.7 * np.eye(p)
        rhs = oracle.coef_rhs(G, c, w, center) if n else np.zeros(p)
        for method in ("auto", "primal", "dual", "cg"):
            settings = dict(damping=0.7, weights=w, center=center, method=method)
            for result, expected in [
                (ff.solve(G, b, **settings), np.linalg.solve(A, oracle.wide(b))),
                (ff.solve(G, coef=c, **settings), np.linalg.solve(A, rhs)),
            ]:
                assert result.converged, (method, center, result)
                assert result.x.shape == (p,) and result.x.dtype == dtype
                close(result.x, expected)
            close(ff.natural_gradient(G, **settings), np.linalg.solve(A, mean))
            assert not ff.solve(G, coef=np.zeros((n, 3), dtype), **settings).x.any()


@over_dtypes
@pytest.mark.parametrize("shape", EDGES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_law_26_14_fisher_objects_of_empty_and_single_sizes(shape, dtype, rng):
    n, p = shape
    G = matrices.gaussian(shape, dtype, rng)
    F_exact = oracle.fisher(G) if n else np.zeros((p, p))
    tolerance = dict(rtol=1e3 * unit_roundoff(dtype), atol=1e3 * unit_roundoff(dtype))
    for center in (False, True):
        expected = oracle.fisher(G, center=center) if n else F_exact
        for F in (
            ff.DenseFisher(p, dtype=dtype, center=center),
            ff.GramFisher(dtype=dtype, center=center),
        ):
            F.update(G)
            assert (F.n_samples, F.weight) == (n, n)
            np.testing.assert_allclose(F.matrix(), expected, **tolerance)
            np.testing.assert_allclose(F.diagonal(), np.diag(expected).real, **tolerance)
            factor = F.factor(0.7)
            A = expected + 0.7 * np.eye(p)
            assert factor.logdet() == pytest.approx(
                np.linalg.slogdet(A)[1], **{"rel": tolerance["rtol"], "abs": tolerance["atol"]}
            )
            np.testing.assert_allclose(
                factor.inv_diagonal(), np.diag(np.linalg.inv(A)).real, **tolerance
            )
            assert factor.sample(rng, 2).shape == (2, p)
            assert factor.inv_quad(np.zeros((0, p), dtype)).shape == (0, 0)
            assert F.solve(damping=0.7).x.shape == (p,)
        D = ff.DiagonalFisher(p, dtype=dtype, center=center).update(G)
        np.testing.assert_allclose(D.diagonal(), np.diag(expected).real, **tolerance)
        assert D.factor(0.7).sample(rng, 2).shape == (2, p)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), *EDGES], ids=lambda s: f"{s[0]}x{s[1]}")
def test_law_26_14_no_right_hand_side_at_all(shape, rng):
    n, p = shape
    G = rng.standard_normal(shape)
    none, no_coef = np.zeros((p, 0)), np.zeros((n, 0))
    assert ff.ops.matvec(G, none).shape == (n, 0)
    assert ff.ops.rmatvec(G, no_coef).shape == (p, 0)
    assert ff.ops.fvp(G, none).shape == (p, 0)
    assert ff.ops.cho_solve(np.eye(p), none).shape == (p, 0)
    for method in ("primal", "dual", "cg"):
        for sides in (dict(b=none), dict(coef=no_coef)):
            result = ff.solve(G, **sides, damping=0.5, method=method)
            assert result.x.shape == (p, 0) and result.converged and result.residual == 0


def test_all_weights_zero_is_no_sample_at_all(rng):
    G, b = rng.standard_normal((5, 3)), rng.standard_normal(3)
    w = np.zeros(5)
    for method in ("primal", "dual", "cg"):
        for center in (False, True):
            result = ff.solve(G, b, weights=w, center=center, damping=0.5, method=method)
            np.testing.assert_allclose(result.x, b / 0.5, rtol=1e-14)
            assert not ff.solve(G, coef=np.ones(5), weights=w, damping=0.5, method=method).x.any()
    assert not ff.natural_gradient(G, weights=w, damping=0.5).any()
    F = ff.DenseFisher(3).update(G, w)
    assert (F.n_samples, F.weight) == (5, 0.0)
    assert not F.matrix().any()
