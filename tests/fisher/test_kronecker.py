"""KFAC and EKFAC against explicit rows: C1-C5, P6, P7, Q1, Q3-Q5."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastfisher as ff
from fastfisher.errors import InputError, NotPositiveDefiniteError
from tests import matrices, oracle
from tests.fisher.kronecker import LAM, close, filled, fisher, over_dtypes, over_forms, over_tokens
from tests.fisher.layers import ekfac, exact_blocks, factors, kfac, layer, mixed
from tests.tolerances import assert_ratio, forward_ratio, unit_roundoff


@over_dtypes
@over_tokens
@over_forms
@pytest.mark.parametrize("n", [1, 13, 60])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_C1_C2_C3_every_question_is_that_of_the_dense_matrix(
    weighted, n, corrected, tokens, dtype, rng
):
    F, layers, w, exact = filled(n, dtype, corrected=corrected, tokens=tokens, weighted=weighted)
    if n == 1 and corrected:  # bases of a null space are free: take those that were taken
        bases = [np.kron(b.outputs, b.inputs) for b in F._moments.bases]
        exact = ekfac(layers, w, tokens, bases=bases)
    p = len(exact)
    assert F.p == p and F.dtype == dtype
    close(F.matrix(), exact, dtype)
    assert np.array_equal(F.matrix(), F.matrix().conj().T)
    close(F.diagonal(), np.diag(exact).real, dtype)
    close(F.trace(), np.trace(exact).real, dtype)
    close(F.eigvalsh(), np.linalg.eigvalsh(exact), dtype)
    close(F.mean, oracle.mean_gradient(oracle.layer_scores(layers), w).conj(), dtype)
    v = matrices.gaussian((p, 3), dtype, rng)
    close(F @ v, exact @ v, dtype, slack=3)
    assert (F @ v).dtype == dtype and (F @ v[:, 0]).shape == (p,)
    real = np.empty(0, dtype).real.dtype
    assert F.diagonal().dtype == F.eigvalsh().dtype == real
    assert F.n_samples == n


@over_dtypes
@over_tokens
@over_forms
@pytest.mark.parametrize("damping", [LAM, ff.Relative(0.1), ff.LevenbergMarquardt(2.0)], ids=str)
def test_P7_exact_damping_solves_the_dense_system(damping, corrected, tokens, dtype, rng):
    F, layers, w, exact = filled(30, dtype, corrected=corrected, tokens=tokens)
    p = len(exact)
    lam = 0.1 * np.trace(exact).real / p if isinstance(damping, ff.Relative) else None
    lam = lam or getattr(damping, "lam", LAM)
    A = exact + lam * np.eye(p)
    b = matrices.gaussian((p, 2), dtype, rng)
    g = oracle.mean_gradient(oracle.layer_scores(layers), w)
    for sol, rhs in ((F.solve(b, damping=damping), b), (F.solve(damping=damping), g)):
        assert sol.converged and sol.rung == "eigenbasis" and sol.x.dtype == dtype
        assert sol.damping == pytest.approx(lam, rel=1e3 * unit_roundoff(dtype))
        expected = np.linalg.solve(A, oracle.wide(rhs))
        assert_ratio(forward_ratio(sol.x, expected, np.linalg.cond(A)), 100, f"{F!r}")
    inverse, factor = np.linalg.inv(A), F.factor(damping)
    close(factor.logdet(), np.linalg.slogdet(A)[1], dtype)
    close(factor.inv_diagonal(), np.diag(inverse).real, dtype)
    J = matrices.gaussian((5, p), dtype, rng)
    quad = factor.inv_quad(J)
    assert np.array_equal(quad, quad.conj().T)
    close(quad, J @ inverse @ J.conj().T, dtype)
    close(factor.solve(b), inverse @ b, dtype, slack=3)


@over_dtypes
@over_forms
def test_S3_Q3_the_root_squared_is_the_inverse_and_colours_samples(corrected, dtype, rng):
    F, _, _, exact = filled(20, dtype, corrected=corrected)
    p = len(exact)
    factor, inverse = F.factor(LAM), np.linalg.inv(exact + LAM * np.eye(p))
    root = factor.inv_root(np.eye(p))
    close(root, root.conj().T, dtype)
    close(oracle.wide(root) @ root, inverse, dtype)
    b = matrices.gaussian((p,), dtype, rng)
    close(factor.inv_root(factor.inv_root(b)), inverse @ b, dtype, slack=3)

    class Identity(np.random.Generator):
        def standard_normal(self, shape):
            drawn.append(shape)
            return np.eye(*shape) * (np.sqrt(2) if F.dtype.kind == "c" else 1) * (len(drawn) == 1)

    drawn = []
    M = oracle.wide(factor.sample(Identity(np.random.PCG64()), p))
    close(M.T @ M.conj(), inverse, dtype)


@given(data=st.data())
def test_C4_ekfac_is_never_farther_from_F_and_has_its_trace(data):
    n = data.draw(st.integers(1, 12), "n")
    shape = st.tuples(st.sampled_from([None, 1, 3]), st.integers(1, 5), st.integers(1, 5))
    layers = [layer(n, *s) for s in data.draw(st.lists(shape, min_size=1, max_size=3))]
    tokens = data.draw(st.sampled_from(["expand", "reduce"]))
    w = np.asarray(data.draw(st.lists(st.floats(0.1, 9), min_size=n, max_size=n)))
    exact = exact_blocks(layers, w)
    plain = fisher(layers, tokens=tokens).update(layers, w)
    better = fisher(layers, tokens=tokens, corrected=True).update(layers, w)
    size = np.linalg.norm(exact)
    gaps = [np.linalg.norm(exact - F.matrix()) for F in (better, plain)]
    assert gaps[0] <= gaps[1] + 1e-12 * size
    assert better.trace() == pytest.approx(np.trace(exact), rel=1e-12)
    close(better.matrix(), ekfac(layers, w, tokens) if n > 5 else better.matrix())
    close(plain.matrix(), kfac(layers, w, tokens))
    spectrum = better.eigvalsh()
    assert np.all(spectrum >= 0) and np.all(np.diff(spectrum) >= 0)


def test_C4_negative_controls_traces_and_tokens_differ():
    layers = mixed(20)
    exact = np.trace(exact_blocks(layers))
    made = {
        (t, c): fisher(layers, tokens=t, corrected=c).update(layers)
        for t in ("expand", "reduce")
        for c in (False, True)
    }
    assert abs(made["expand", False].trace() - exact) > 1e-2 * exact
    assert not np.allclose(made["expand", False].matrix(), made["reduce", False].matrix())
    assert not np.allclose(made["expand", True].matrix(), made["reduce", True].matrix())
    for tokens in ("expand", "reduce"):
        assert made[tokens, True].trace() == pytest.approx(exact, rel=1e-12)


def test_C1_C2_exact_for_one_sample_and_for_averaged_outputs(rng):
    """One sample; and a linear layer whose output is averaged over tokens, under reduce."""
    one = [layer(1, None, 4, 3)]
    np.testing.assert_allclose(
        fisher(one).update(one).matrix(), exact_blocks(one), rtol=1e-12, atol=1e-14
    )
    A, d = rng.standard_normal((1, 6, 4)), rng.standard_normal(3)
    averaged = [(A, np.broadcast_to(d / 6, (1, 6, 3)))]
    exact = exact_blocks(averaged)
    reduced = fisher(averaged, tokens="reduce").update(averaged).matrix()
    np.testing.assert_allclose(reduced, exact, rtol=1e-12, atol=1e-14)
    assert not np.allclose(fisher(averaged).update(averaged).matrix(), exact)


def test_C5_logdet_and_trace_by_the_factors():
    F, layers, w, _ = filled(40)
    logdet = trace = 0.0
    for E, A in factors(layers, w):
        logdet += len(A) * np.linalg.slogdet(E)[1] + len(E) * np.linalg.slogdet(A)[1]
        trace += np.trace(E) * np.trace(A)
    assert F.factor(0).logdet() == pytest.approx(logdet, rel=1e-11)
    assert F.trace() == pytest.approx(trace, rel=1e-12)


# Damping -----------------------------------------------------------------------------------------


@over_dtypes
@over_tokens
def test_P6_the_split_is_that_of_the_factors_and_its_excess_is_semidefinite(tokens, dtype, rng):
    F, layers, w, exact = filled(25, dtype, tokens=tokens)
    lam, first, blocks = 0.2, 0, []
    for E, A in factors(layers, w, tokens):
        pi = np.sqrt(np.trace(A).real / len(A) / (np.trace(E).real / len(E)))
        split = [E + np.sqrt(lam) / pi * np.eye(len(E)), A + pi * np.sqrt(lam) * np.eye(len(A))]
        blocks.append(np.kron(*split))
        last = first + len(blocks[-1])
        excess = blocks[-1] - exact[first:last, first:last] - lam * np.eye(last - first)
        assert np.linalg.eigvalsh(excess)[0] >= -1e-12 * np.linalg.norm(excess)
        for c in (0.7, 1.4):  # this pi has the smallest trace of all
            other = np.kron(
                E + np.sqrt(lam) / (c * pi) * np.eye(len(E)),
                A + c * pi * np.sqrt(lam) * np.eye(len(A)),
            )
            assert np.trace(other).real >= np.trace(blocks[-1]).real
        first = last
    from scipy.linalg import block_diag

    damped = block_diag(*blocks)
    b = matrices.gaussian((F.p, 2), dtype, rng)
    sol = F.solve(b, damping=ff.FactoredTikhonov(lam))
    assert sol.converged and sol.damping == lam
    close(sol.x, np.linalg.solve(damped, oracle.wide(b)), dtype, slack=10)
    residual = np.linalg.norm(b - damped @ sol.x, axis=0) / np.linalg.norm(b, axis=0)
    assert sol.residual <= residual.max() + 100 * unit_roundoff(dtype)
    factor = F.factor(ff.FactoredTikhonov(lam))
    close(factor.logdet(), np.linalg.slogdet(damped)[1], dtype)
    close(factor.inv_diagonal(), np.diag(np.linalg.inv(damped)).real, dtype)
    exact_step = F.solve(b, damping=lam).x
    assert np.all(np.linalg.norm(sol.x, axis=0) <= np.linalg.norm(exact_step, axis=0) * (1 + 1e-5))


def test_P6_a_layer_without_gradients_is_damped_all_the_same():
    layers = mixed(9)
    layers[1] = (layers[1][0], np.zeros_like(layers[1][1]))
    F = fisher(layers).update(layers)
    sol = F.solve(np.ones(F.p), damping=ff.FactoredTikhonov(0.04))
    assert sol.converged and np.isfinite(sol.x).all()
    # pi = 1: kron(0.2 I, A + 0.2 I)
    E, A = factors(layers)[1]
    block = np.kron(E + 0.2 * np.eye(5), A + 0.2 * np.eye(6))
    close(sol.x[12:42], np.linalg.solve(block, np.ones(30)))


def test_damping_that_makes_no_sense_is_refused(rng):
    F, layers, _, _ = filled(9)
    with pytest.raises(InputError, match="needs scalar damping"):
        F.solve(np.ones(F.p), damping=ff.Marquardt(0.1))
    with pytest.raises(InputError, match="EKFAC has no factors"):
        F.correct(layers).solve(np.ones(F.p), damping=ff.FactoredTikhonov(0.1))
    G = rng.standard_normal((9, 4))
    for other in (ff.DenseFisher(4), ff.DiagonalFisher(4), ff.GramFisher()):
        with pytest.raises(InputError, match="FactoredTikhonov damps the factors"):
            other.update(G).solve(np.ones(4), damping=ff.FactoredTikhonov(0.1))
    for method in ("primal", "dual", "cg"):
        with pytest.raises(InputError, match="FactoredTikhonov damps the factors"):
            ff.solve(G, np.ones(4), damping=ff.FactoredTikhonov(0.1), method=method)


@over_forms
def test_P9_a_singular_fisher_names_an_eigenvalue_and_a_damping_that_does(corrected):
    layers = mixed(2)
    F = fisher(layers, corrected=corrected).update(layers)
    with pytest.raises(NotPositiveDefiniteError, match="layer 0") as caught:
        F.solve(np.ones(F.p), damping=0)
    assert 1 <= caught.value.order <= 12
    sol = F.solve(np.ones(F.p), damping=caught.value.suggested_damping)
    assert sol.converged and sol.damping == caught.value.suggested_damping
    empty = fisher(layers, corrected=corrected)
    with pytest.raises(NotPositiveDefiniteError):
        empty.factor(0)
    np.testing.assert_allclose(empty.solve(np.ones(F.p), damping=0.5).x, 2.0)
    assert not empty.matrix().any() and not empty.eigvalsh().any()


def test_large_factors_stay_within_the_backward_error_of_a_direct_solve(rng):
    layers = [layer(300, None, 251, 180, rng=rng)]
    F = fisher(layers).update(layers)
    for damping in (1e-8, 1e-2, ff.FactoredTikhonov(1e-2)):
        sol = F.solve(rng.standard_normal(F.p), damping=damping)
        assert sol.converged and sol.backward_error < 30 * unit_roundoff("float64"), sol


def test_a_loss_of_orthogonality_is_mended_by_the_residual(monkeypatch, rng):
    F, *_, exact = filled(20)
    from fastfisher.fisher.eigenbasis import KroneckerFactor

    solve = KroneckerFactor._solve
    monkeypatch.setattr(KroneckerFactor, "_solve", lambda self, b: solve(self, b) * (1 + 1e-9))
    b = rng.standard_normal(F.p)
    sol = F.solve(b, damping=LAM)
    assert sol.converged and sol.rung == "eigenbasis+refinement"
    close(sol.x, np.linalg.solve(exact + LAM * np.eye(F.p), b))
    monkeypatch.setattr(KroneckerFactor, "_solve", lambda self, b: -solve(self, b))
    assert F.solve(b, damping=LAM).status == "inaccurate"


# Scale, plans, more questions --------------------------------------------------------------------


@pytest.mark.parametrize("k", [-300, 300])
@over_forms
def test_26_15_powers_of_two_scale_every_answer(k, corrected):
    layers = mixed(20)
    scaled = [(A * 2.0 ** (k // 2), E * 2.0 ** (k - k // 2)) for A, E in layers]
    a, b = (fisher(layers, corrected=corrected).update(x) for x in (layers, scaled))
    x, y = (F.solve(damping=ff.Relative(0.1)) for F in (a, b))
    assert y.converged
    np.testing.assert_allclose(y.x * 2.0**k, x.x, rtol=1e-10)


def test_the_plan_names_the_eigenbases():
    F, *_ = filled(9)
    plan = F.solve(damping=1.0).plan
    assert [stage.op for stage in plan.stages] == ["eigenbases", "rotations"]
    assert "Kronecker product per layer" in str(plan)


@over_dtypes
@over_forms
@pytest.mark.parametrize("damping", [LAM, ff.FactoredTikhonov(LAM)], ids=["exact", "split"])
def test_Q4_Q5_more_questions_to_a_factor(corrected, damping, dtype):
    if corrected and isinstance(damping, ff.FactoredTikhonov):
        pytest.skip("EKFAC has no factors to split damping over")
    F, *_ = filled(30, dtype, corrected=corrected)
    factor, p = F.factor(damping), F.p
    inverse = factor.solve(np.eye(p, dtype=dtype))
    W = factor.whiten(np.eye(p, dtype=dtype))
    close(oracle.ct(W) @ W, inverse, dtype, slack=10)
    dimension = np.trace(F.matrix() @ inverse).real
    u = 1e4 * unit_roundoff(dtype)
    assert factor.effective_dimension() == pytest.approx(dimension, rel=u)
    assert factor.rcond() == pytest.approx(1 / np.linalg.cond(inverse), rel=100 * u)


@over_dtypes
@over_forms
def test_path_Q1_equals_a_solve_for_every_damping(corrected, dtype, rng):
    F, *_ = filled(30, dtype, corrected=corrected)
    b, lams = matrices.gaussian((F.p,), dtype, rng), np.geomspace(1e-2, 10, 5)
    path = F.path(b, lams)
    for i, lam in enumerate(lams):
        factor = F.factor(lam)
        close(path.x(i), factor.solve(b), dtype)
        assert path.logdet[i] == pytest.approx(factor.logdet(), rel=1e-6)
        assert path.effective_dimension[i] == pytest.approx(factor.effective_dimension(), rel=1e-6)
    assert path.residuals.max() <= 1e3 * unit_roundoff("float64") * (1 + F.eigvalsh()[-1] / lams[0])
