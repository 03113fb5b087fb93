"""Cutoffs of eigenvalues, P8: against the pseudo-inverse and the filters written out."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import fastfisher as ff
from fastfisher.errors import InputError
from tests import matrices, oracle
from tests.tolerances import unit_roundoff

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
over_methods = pytest.mark.parametrize("method", ["auto", "primal", "dual"])
over_shapes = pytest.mark.parametrize("shape", [(40, 9), (12, 30)], ids=lambda s: f"{s[0]}x{s[1]}")
RTOL = 3e-3


def filters(cutoff, e):
    """What 1/e becomes, from the definitions."""
    keep = e > 1e-12 * e[-1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        gains = {
            ff.HardCutoff: lambda: np.where(e > RTOL * e[-1], 1 / e, 0.0),
            ff.SoftCutoff: lambda: 1 / (e * (1 + (RTOL * e[-1] / e) ** 6)),
        }[type(cutoff)]()
    return np.where(keep, gains, 0.0)


def filtered(F, b, cutoff):
    e, V = np.linalg.eigh(F)
    gains = filters(cutoff, e)
    return V @ (gains * (V.conj().T @ b)), int((gains > 0).sum()), RTOL * e[-1]


@over_methods
@over_shapes
@over_dtypes
@pytest.mark.parametrize("cutoff", [ff.HardCutoff(RTOL), ff.SoftCutoff(RTOL)], ids=str)
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
def test_cutoff_P8_filters_the_eigenvalues(method, shape, dtype, cutoff, center, rng):
    G = matrices.scores(*shape, dtype, cond=1e5)
    w = matrices.weights(shape[0], dtype)
    b, c = (matrices.gaussian((size,), dtype, rng) for size in reversed(shape))
    F = oracle.fisher(G, w, center)
    settings = dict(weights=w, center=center, damping=cutoff, method=method)
    rhs = oracle.coef_rhs(G, c, w, center)
    for sol, right in (
        (ff.solve(G, b, **settings), oracle.wide(b)),
        (ff.solve(G, coef=c, **settings), rhs),
    ):
        x, rank, at = filtered(F, right, cutoff)
        u = unit_roundoff(dtype)
        assert np.linalg.norm(sol.x - x) <= 100 * u / RTOL * np.linalg.norm(x) * len(x)
        assert sol.converged and sol.rung == "eigen" and sol.x.dtype == dtype
        assert 0 < sol.rcond <= 1
        if isinstance(cutoff, ff.HardCutoff) or u < 1e-12:
            assert sol.rank == rank
        assert sol.damping == pytest.approx(at, rel=1e4 * u)
        assert sol.residual < 1e4 * u / RTOL
    ops = [stage.op for stage in sol.plan.stages]
    assert "eigh" in ops and "cholesky" not in ops and "scipy.eigh" in str(sol.plan)


@pytest.mark.parametrize("make", [lambda p: ff.DenseFisher(p), lambda p: ff.GramFisher()])
@pytest.mark.parametrize("cutoff", [ff.HardCutoff(RTOL), ff.SoftCutoff(RTOL)], ids=str)
def test_cutoff_P8_every_question_to_a_factor(make, cutoff, rng):
    G = matrices.scores(12, 30, cond=1e5)
    F, exact = make(30).update(G), oracle.fisher(G)
    e, V = np.linalg.eigh(exact)
    gains = filters(cutoff, e)
    inverse = (V * gains) @ V.T
    size = np.abs(inverse).max() * 1e-9
    factor = F.factor(cutoff)
    b, J = rng.standard_normal(30), rng.standard_normal((4, 30))
    np.testing.assert_allclose(factor.solve(b), inverse @ b, atol=size)
    np.testing.assert_allclose(factor.inv_diagonal(), np.diag(inverse), atol=size)
    np.testing.assert_allclose(factor.inv_quad(J), J @ inverse @ J.T, atol=30 * size)
    assert factor.logdet() == pytest.approx(-np.log(gains[gains > 0]).sum(), rel=1e-9)
    sol = F.solve(b, damping=cutoff)
    np.testing.assert_allclose(sol.x, inverse @ b, atol=size)
    assert sol.converged and sol.rung == "eigen" and sol.rank == (gains > 0).sum()
    draws = factor.sample(np.random.default_rng(0), 20000)
    spread = np.abs(draws.T @ draws / 20000 - inverse).max()
    assert spread < 0.06 * np.abs(inverse).max()


def test_cutoff_P8_of_a_diagonal_fisher():
    F = ff.DiagonalFisher(3).update(np.diag([2.0, 1e-3, 0.0]))
    sol = F.solve(np.ones(3), damping=ff.HardCutoff(1e-4))
    np.testing.assert_allclose(sol.x, [0.75, 0, 0])
    assert sol.rank == 1 and sol.converged and sol.rung == "eigen"
    assert F.factor(ff.HardCutoff(0.0)).solve(np.ones(3))[1] == pytest.approx(3e6)


@given(n=st.integers(1, 10), p=st.integers(1, 10), seed=st.integers(0, 99), rtol=st.floats(0, 0.9))
def test_cutoff_P8_relations(n, p, seed, rtol):
    """A harder cutoff keeps fewer directions and a shorter step; both routes agree."""
    rng = np.random.default_rng(seed)
    G, c = rng.standard_normal((n, p)), rng.standard_normal(n)
    previous = None
    for cut in sorted((0.0, rtol, 0.95)):
        primal, dual = (
            ff.solve(G, coef=c, damping=ff.HardCutoff(cut), method=m) for m in ("primal", "dual")
        )
        kappa = 1 / max(cut, 1e-6)
        if abs(primal.rank - dual.rank) == 0 and min(primal.rcond, dual.rcond) > 1e-6:
            # Where directions are left out, those kept are rounded in b, not in the answer.
            reach = np.linalg.norm(G.T @ c) * kappa / np.linalg.norm(G, 2) ** 2 if cut else 0.0
            scale = max(np.linalg.norm(dual.x), reach) + 1e-300
            assert np.linalg.norm(primal.x - dual.x) <= 1e-12 * kappa * scale
        if previous is not None:
            assert dual.rank <= previous.rank
            assert np.linalg.norm(dual.x) <= np.linalg.norm(previous.x) * (1 + 1e-9)
        previous = dual
    soft = ff.solve(G, coef=c, damping=ff.SoftCutoff(0.0))
    hard = ff.solve(G, coef=c, damping=ff.HardCutoff(0.0))
    np.testing.assert_allclose(soft.x, hard.x, rtol=1e-6, atol=1e-9 * np.abs(hard.x).max())


def snr_of(G, c, w, center):
    """Modes, signal-to-noise ratios and components, sample by sample."""
    share = w / w.sum()
    O = oracle.wide(G) - (share @ oracle.wide(G) if center else 0)
    e, V = np.linalg.eigh(oracle.fisher(G, w, center))
    q = (O @ V).conj() * oracle.wide(c)[:, np.newaxis]
    mean = share @ q
    deviation = np.sqrt(share @ np.abs(q - mean) ** 2)
    return e, V, np.abs(mean) / np.sqrt((share**2).sum()) / deviation, mean


@pytest.mark.parametrize("method", ["primal", "dual"])
@over_shapes
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("weighted", [False, True])
def test_cutoff_P8_signal_to_noise(method, shape, dtype, weighted, rng):
    G, c = matrices.scores(*shape, dtype, cond=1e2), matrices.gaussian((shape[0],), dtype, rng)
    w = matrices.weights(shape[0]) if weighted else np.ones(shape[0])
    e, V, snr, mean = snr_of(G, c, w, True)
    real = e > 1e-10 * e[-1]
    cut = float(np.median(snr[real])) * 1.001
    kept = real & (snr > cut)
    assert 0 < kept.sum() < real.sum()
    settings = dict(coef=c, weights=w, center=True, method=method)
    sol = ff.solve(G, damping=ff.SNRCutoff(cut), **settings)
    x = V[:, kept] @ (mean[kept] / e[kept])
    np.testing.assert_allclose(sol.x, x, rtol=0, atol=1e-8 * np.abs(x).max())
    assert sol.rank == kept.sum() and sol.converged
    free = ff.solve(G, damping=ff.SNRCutoff(0.0), **settings).x
    hard = ff.solve(G, damping=ff.HardCutoff(0.0), **settings).x
    np.testing.assert_allclose(free, hard, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", [-400, 400])
@over_methods
def test_cutoff_26_15_extreme_scales(k, method, rng):
    G, c = rng.standard_normal((20, 6)), rng.standard_normal(20)
    plain = ff.solve(G, coef=c, damping=ff.HardCutoff(0.1), method=method)
    scaled = ff.solve(G * 2.0**k, coef=c, damping=ff.HardCutoff(0.1), method=method)
    np.testing.assert_allclose(scaled.x * 2.0**k, plain.x, rtol=1e-12)
    assert scaled.converged and scaled.rank == plain.rank


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 3)], ids=str)
@pytest.mark.parametrize("method", ["primal", "dual"])
def test_cutoff_26_14_small_sizes(shape, method, rng):
    G = rng.standard_normal(shape)
    sol = ff.solve(G, np.ones(shape[1]), damping=ff.HardCutoff(0.1), method=method)
    expected = (
        np.linalg.pinv(oracle.fisher(G), rcond=0.1) if min(shape) else np.zeros((shape[1],) * 2)
    )
    np.testing.assert_allclose(sol.x, expected @ np.ones(shape[1]), atol=1e-12)
    assert sol.converged and sol.rank == min(*shape, 1)


def test_cutoff_refuses_what_it_cannot_do(rng):
    G, b = rng.standard_normal((8, 4)), np.ones(4)
    for call, message in [
        (
            lambda: ff.solve(G, b, damping=ff.HardCutoff(0.1), method="cg"),
            "needs a dense or a Gram",
        ),
        (lambda: ff.solve(G, b, damping=ff.SNRCutoff(1.0)), "pass coef="),
        (lambda: ff.DenseFisher(4).update(G).factor(ff.SNRCutoff(1.0)), "pass coef="),
        (
            lambda: ff.solve(G, coef=1j * np.ones(8), damping=ff.SNRCutoff(1.0)),
            "coef.real and coef.imag",
        ),
        (lambda: ff.HardCutoff(1.0), "keeps nothing"),
        (lambda: ff.SoftCutoff(-1), "SoftCutoff.rtol"),
        (lambda: ff.SNRCutoff(np.nan), "SNRCutoff.snr"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    assert ff.natural_gradient(G, damping=ff.HardCutoff(0.0)).shape == (4,)


def test_cutoff_plans_never_choose_cg():
    from fastfisher.planning import Problem, plan_problem

    for n, p in ((10**5, 3000), (3000, 10**5)):
        plan = plan_problem(Problem(n=n, p=p, spectral=True))
        assert plan.method in ("primal", "dual")
        assert "eigh" in [stage.op for stage in plan.stages]
