"""Questions to a Fisher and to its factor: Q2, Q3, solves, products."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError, NotPositiveDefiniteError
from tests import matrices, oracle
from tests.fisher.rows import LayeredRows
from tests.fisher.structure import halves, structured
from tests.tolerances import assert_ratio, forward_ratio, solve_ratio, unit_roundoff

KINDS = {
    "dense": lambda p, **k: ff.DenseFisher(p, **k),
    "diagonal": lambda p, **k: ff.DiagonalFisher(p, **k),
    "block": lambda p, **k: ff.BlockDiagonalFisher(halves(p), **k),
    "gram": lambda p, **k: ff.GramFisher(**k),
    "layered": lambda p, **k: LayeredRows(**k),
    "window": lambda p, **k: ff.WindowFisher(50, p, **k),
}
over_kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
over_shapes = pytest.mark.parametrize("shape", [(40, 9), (9, 130)], ids=lambda s: f"{s[0]}x{s[1]}")
LAM = 0.3


def filled(make, shape, dtype, center=True):
    G = matrices.scores(*shape, dtype, cond=1e2)
    w = matrices.weights(shape[0], dtype)
    F = make(shape[1], dtype=dtype, center=center).update(G, w)
    return F, structured(F, oracle.fisher(G, w, center)), (G, w)


def close(result, expected, dtype, slack=1.0):
    scale = np.max(np.abs(expected), initial=0.0) or 1.0
    tolerance = slack * 2000 * unit_roundoff(dtype) * scale
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)


@over_kinds
@over_shapes
@over_dtypes
def test_a_fisher_answers_what_its_matrix_answers(make, shape, dtype, rng):
    F, exact, _ = filled(make, shape, dtype)
    p = shape[1]
    real = np.zeros(0, dtype).real.dtype
    close(F.matrix(), exact, dtype)
    assert F.matrix().dtype == dtype and F.diagonal().dtype == real
    close(F.diagonal(), np.diag(exact).real, dtype)
    assert F.trace() == pytest.approx(np.trace(exact).real, rel=1e3 * unit_roundoff(dtype))
    v = matrices.gaussian((p, 3), dtype, rng)
    close(F @ v, exact @ v, dtype)
    close(F @ v[:, 0], exact @ v[:, 0], dtype)
    assert (F @ v).dtype == dtype
    spectrum = F.eigvalsh()
    assert np.all(np.diff(spectrum) >= 0) and spectrum.dtype == real
    full = np.linalg.eigvalsh(exact)
    if isinstance(F, ff.GramFisher):
        assert spectrum.shape == (shape[0],)
        k = min(shape)
        close(spectrum[-k:], full[-k:], dtype)
        close(
            F.gram(),
            oracle.scaled_rows(*filled(make, shape, dtype)[2], True)
            @ oracle.ct(oracle.scaled_rows(*filled(make, shape, dtype)[2], True)),
            dtype,
        )
    else:
        close(spectrum, full, dtype)


@over_kinds
@over_shapes
@over_dtypes
@pytest.mark.parametrize("damping", [LAM, ff.Relative(0.3), ff.Marquardt(0.3, shift=0.1)], ids=str)
def test_solve_by_an_object_equals_the_dense_solve(make, shape, dtype, damping, rng):
    F, exact, (G, w) = filled(make, shape, dtype)
    p = shape[1]
    D = {
        ff.Relative: lambda: 0.3 * np.trace(exact).real / p * np.ones(p),
        ff.Marquardt: lambda: 0.3 * np.diag(exact).real + 0.1,
    }.get(type(damping), lambda: LAM * np.ones(p))()
    A = exact + np.diag(D)
    cond = np.linalg.cond(A)
    b = matrices.gaussian((p, 2), dtype, rng)
    result = F.solve(b, damping=damping)
    assert result.converged and result.x.dtype == dtype
    assert_ratio(forward_ratio(result.x, np.linalg.solve(A, oracle.wide(b)), cond), 300, "b")
    mean = F.solve(damping=damping)
    g = oracle.mean_gradient(G, w)
    assert_ratio(forward_ratio(mean.x, np.linalg.solve(A, g), cond), 300, "mean gradient")
    expected = damping.c if isinstance(damping, ff.Marquardt) else D[0]
    assert result.damping == pytest.approx(expected, rel=1e3 * unit_roundoff(dtype))
    residual = np.linalg.norm(b - A @ result.x, axis=0) / np.linalg.norm(b, axis=0)
    assert result.residual == pytest.approx(residual.max(), rel=0.5, abs=500 * unit_roundoff(dtype))
    assert not F.solve(np.zeros(p, dtype), damping=damping).x.any()


@over_kinds
@over_shapes
@over_dtypes
def test_factor_Q2_logdet_inv_diagonal_inv_quad(make, shape, dtype, rng):
    F, exact, _ = filled(make, shape, dtype)
    p = shape[1]
    A = exact + LAM * np.eye(p)
    inverse = np.linalg.inv(A)
    factor = F.factor(LAM)
    assert factor.damping == LAM and factor.p == p
    assert factor.logdet() == pytest.approx(
        np.linalg.slogdet(A)[1], rel=2000 * unit_roundoff(dtype)
    )
    diagonal = factor.inv_diagonal()
    assert diagonal.shape == (p,) and diagonal.dtype == np.zeros(0, dtype).real.dtype
    close(diagonal, np.diag(inverse).real, dtype)
    J = matrices.gaussian((5, p), dtype, rng)
    quad = factor.inv_quad(J)
    assert quad.shape == (5, 5) and quad.dtype == dtype
    assert np.array_equal(quad, quad.conj().T)
    close(quad, J @ inverse @ J.conj().T, dtype)
    b = matrices.gaussian((p, 3), dtype, rng)
    close(factor.solve(b), inverse @ b, dtype)
    close(factor.solve(b[:, 0]), inverse @ b[:, 0], dtype)


class Listed(np.random.Generator):
    """A generator whose normals are given, so that sampling becomes a linear map."""

    def __init__(self, draws):
        super().__init__(np.random.PCG64(0))
        self.draws = list(draws)

    def standard_normal(self, shape):
        draw = self.draws.pop(0)
        assert draw.shape == tuple(shape)
        return draw


def sampling_map(F, factor, n, p):
    """Rows M such that a sample is z M for stacked standard normals z."""
    sizes = (p, n) if isinstance(F, ff.GramFisher) else (p,)
    total = sum(sizes)
    identity = np.eye(total)
    draws = np.split(identity, np.cumsum(sizes)[:-1], axis=1)
    if F.dtype.kind == "c":
        # circular: (re + i im) / sqrt 2; real parts span the complex linear map
        draws = [part for real in draws for part in (real * np.sqrt(2), 0 * real)]
    return factor.sample(Listed(draws), total)


@over_kinds
@over_shapes
@over_dtypes
def test_sample_Q3_has_the_covariance_of_the_inverse_without_monte_carlo(make, shape, dtype):
    F, exact, _ = filled(make, shape, dtype)
    n, p = shape
    M = oracle.wide(sampling_map(F, F.factor(LAM), n, p))
    inverse = np.linalg.inv(exact + LAM * np.eye(p))
    close(M.T @ M.conj(), inverse, dtype)
    assert (
        not np.allclose(M @ M.conj().T, inverse)
        if M.shape[0] == p and not isinstance(F, ff.DiagonalFisher)
        else True
    )


def test_sample_Q3_is_reproducible_and_has_the_right_spread():
    F, exact, _ = filled(KINDS["dense"], (40, 4), "float64")
    factor = F.factor(LAM)
    a, b = (factor.sample(np.random.default_rng(1), 20000) for _ in range(2))
    assert a.tobytes() == b.tobytes() and a.shape == (20000, 4)
    inverse = np.linalg.inv(exact + LAM * np.eye(4))
    spread = np.sqrt(2 / 20000) * 5
    np.testing.assert_allclose(np.diag(a.T @ a) / 20000, np.diag(inverse), rtol=spread)
    complex_F = ff.DenseFisher(2, dtype="complex128").update(np.array([[1.0, 1j]]))
    z = complex_F.factor(1.0).sample(np.random.default_rng(1), 40000)
    inverse = np.linalg.inv(complex_F.matrix() + np.eye(2))
    np.testing.assert_allclose(z.T @ z.conj() / 40000, inverse, atol=0.03)
    np.testing.assert_allclose(z.T @ z / 40000, 0, atol=0.03)


@pytest.mark.parametrize("shape", [(40, 9), (9, 130)], ids=str)
def test_factor_D7_dual_and_primal_agree(shape, rng):
    G = matrices.scores(*shape, cond=1e2)
    dense, gram = ff.DenseFisher(shape[1]).update(G), ff.GramFisher().update(G)
    a, b = dense.factor(LAM), gram.factor(LAM)
    assert a.logdet() == pytest.approx(b.logdet(), rel=1e-12)
    np.testing.assert_allclose(a.inv_diagonal(), b.inv_diagonal(), rtol=1e-11)
    J = rng.standard_normal((3, shape[1]))
    np.testing.assert_allclose(a.inv_quad(J), b.inv_quad(J), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(60, 17), (17, 60), (300, 100)], ids=str)
@pytest.mark.parametrize("damping", (1e-2, 1e-6, 1e-10))
def test_factor_D9_of_more_samples_than_parameters_keeps_its_digits(shape, damping, rng):
    """Then b - T'y is nearly nothing beside b."""
    G, b = rng.standard_normal(shape), np.ones((shape[1], 2))
    A = G.T @ G / len(G) + damping * np.eye(shape[1])
    x = ff.GramFisher().update(G).factor(damping).solve(b)
    assert_ratio(solve_ratio(A, x, b), "goal", f"{shape} {damping}")


@pytest.mark.parametrize("damping", (1e-9, 1e-12, 1e-15, 1e-17, 1e-20))
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_factor_D9_of_right_hand_sides_in_the_row_space(damping, dtype):
    """Of b / lambda next to nothing is left, or nothing."""
    for row in ([1.0], [1.0, 0.0], [1.0, 2.0, 3.0]):
        b = np.array(row, dtype)
        x = ff.GramFisher(dtype=dtype).update(b[np.newaxis]).factor(damping).solve(b)
        A, b = np.outer(b, b).astype(float) + damping * np.eye(len(b)), b.astype(float)
        ratio = solve_ratio(A, x[:, np.newaxis].astype(float), b[:, np.newaxis])
        assert_ratio(ratio * unit_roundoff("float64") / unit_roundoff(dtype), "goal", f"{row}")
    both = ff.GramFisher(dtype=dtype).update(np.eye(2, dtype=dtype)).factor(damping)
    expected = 1 / (0.5 + damping)
    np.testing.assert_allclose(both.solve(np.ones(2)), expected, rtol=20 * unit_roundoff(dtype))


def test_gram_fisher_coef_D3_refers_to_rows_in_order(rng):
    batches = [rng.standard_normal((n, 30)) for n in (4, 1, 5)]
    weights = [rng.random(n) + 0.1 for n in (4, 1, 5)]
    F = ff.GramFisher(center=True)
    for G, w in zip(batches, weights, strict=True):
        F.update(G, w)
    G, w = np.vstack(batches), np.concatenate(weights)
    c = rng.standard_normal((10, 2))
    expected = ff.solve(G, coef=c, weights=w, center=True, damping=1e-3)
    np.testing.assert_allclose(F.solve(coef=c, damping=1e-3).x, expected.x, rtol=1e-12)
    np.testing.assert_allclose(
        F.solve(coef=c, damping=0).x,
        ff.solve(G, coef=c, weights=w, center=True, damping=0).x,
        rtol=1e-10,
    )
    with pytest.raises(InputError, match="both b and coef"):
        F.solve(np.ones(30), coef=c, damping=1)


@pytest.mark.parametrize("zero", [0, 4, 8])
@pytest.mark.parametrize("kind", ["dense", "diagonal", "block"])
def test_factor_P9_names_the_parameter_without_scores(kind, zero):
    G = matrices.named(f"geo_zerocol{zero}", 30, 9, cond=10).G
    F = KINDS[kind](9).update(G)
    for call in (lambda: F.factor(0), lambda: F.solve(np.ones(9), damping=0)):
        with pytest.raises(NotPositiveDefiniteError) as caught:
            call()
        assert caught.value.order == zero + 1
    F.factor(caught.value.suggested_damping)


def test_gram_factor_needs_damping_and_says_so(rng):
    F = ff.GramFisher().update(rng.standard_normal((4, 9)))
    with pytest.raises(NotPositiveDefiniteError, match="rank at most 4") as caught:
        F.factor(0)
    assert caught.value.order == 5
    F.factor(caught.value.suggested_damping)
    with pytest.raises(InputError, match="scalar damping; use solve for Marquardt"):
        F.factor(ff.Marquardt(0.1, shift=0.1))


def test_factor_does_not_follow_later_updates(rng):
    for make in KINDS.values():
        F = make(5).update(rng.standard_normal((8, 5)))
        factor = F.factor(LAM)
        before = factor.logdet(), factor.solve(np.ones(5)).tobytes()
        F.update(100 * rng.standard_normal((8, 5)))
        assert (factor.logdet(), factor.solve(np.ones(5)).tobytes()) == before


@over_kinds
def test_complex_right_hand_sides_of_a_real_fisher(make, rng):
    F, exact, _ = filled(make, (20, 6), "float64")
    b = matrices.gaussian((6,), "complex128", rng)
    expected = np.linalg.solve(exact + LAM * np.eye(6), b)
    np.testing.assert_allclose(F.factor(LAM).solve(b), expected, rtol=1e-11)
    np.testing.assert_allclose(F @ b, exact @ b, rtol=1e-11)
    try:
        np.testing.assert_allclose(F.solve(b, damping=LAM).x, expected, rtol=1e-11)
    except InputError as error:
        assert "b.real and b.imag" in str(error)


@over_kinds
def test_factor_refuses_what_does_not_fit(make, rng):
    F, _, _ = filled(make, (20, 6), "float64")
    factor = F.factor(LAM)
    for call, message in [
        (lambda: factor.solve(np.ones(5)), r"b has shape \(5,\)"),
        (lambda: factor.solve(np.full(6, np.nan)), "b is not finite at index 0"),
        (lambda: factor.inv_quad(np.ones(6)), r"J has shape \(6,\); expected \(m, 6\)"),
        (lambda: factor.inv_quad(np.full((1, 6), np.inf)), "J is not finite"),
        (lambda: factor.sample(np.random.default_rng(0), -1), "k is -1"),
        (lambda: F.factor(None), "damping is None"),
        (lambda: F.factor(-1.0), "damping is -1"),
    ]:
        with pytest.raises(InputError, match=message):
            call()


@over_kinds
@pytest.mark.parametrize("shape", [(40, 6), (6, 40)], ids=str)
@pytest.mark.parametrize(
    ("dtype", "k"),
    [("float64", k) for k in (-460, -330, 230, 330, 460)] + [("float32", k) for k in (-54, 50)],
)
def test_law_26_15_scaled_scores_scale_every_answer(make, shape, dtype, k):
    """G -> 2^k G: F by 4^k, the inverse by 4^-k, log det by 2 p k log 2, and no warning."""
    G = matrices.scores(*shape, dtype, cond=1e2)
    p, square = shape[1], 4.0**k
    plain = make(p, dtype=dtype).update(G)
    scaled = make(p, dtype=dtype).update(G * np.asarray(2.0**k, dtype))
    b, damping = np.ones(p), ff.Relative(0.1)
    u = 300 * p * unit_roundoff(dtype)

    def same(result, expected):
        expected = np.asarray(expected, np.float64)
        np.testing.assert_allclose(result, expected, rtol=u, atol=u * np.abs(expected).max())

    a, c = plain.factor(damping), scaled.factor(damping)
    assert c.damping == pytest.approx(a.damping * square, rel=u)
    assert c.logdet() == pytest.approx(a.logdet() + 2 * p * k * np.log(2), rel=u)
    x = scaled.solve(damping=damping)
    assert x.converged and x.damping == pytest.approx(a.damping * square, rel=u)
    same(x.x.astype(np.float64) * 2.0**k, plain.solve(damping=damping).x)
    if square < np.finfo(dtype).max / 1e8 and square > 1e8 * np.finfo(dtype).smallest_normal:
        same(scaled.matrix().astype(np.float64) / square, plain.matrix())
        same(scaled.diagonal().astype(np.float64) / square, plain.diagonal())
        same((scaled @ b).astype(np.float64) / square, plain @ b)
        same(scaled.eigvalsh().astype(np.float64) / square, plain.eigvalsh())
        same(c.inv_diagonal().astype(np.float64) * square, a.inv_diagonal())
        same(c.solve(b).astype(np.float64) * square, a.solve(b))
        J = np.eye(p)[:2]
        same(c.inv_quad(J).astype(np.float64) * square, a.inv_quad(J))
        draws = [f.sample(np.random.default_rng(0), 3).astype(np.float64) for f in (a, c)]
        same(draws[1] * 2.0**k, draws[0])
        if isinstance(plain, ff.GramFisher):
            same(scaled.gram().astype(np.float64) / square, plain.gram())


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize(("p", "k"), [(1, 1), (5, 0), (63, 2), (64, 1), (65, 70), (200, 9)])
def test_Q5_changes_of_low_rank_are_those_of_a_fresh_factor(p, k, dtype, rng):
    G = matrices.gaussian((300, p), dtype, rng)
    V = matrices.gaussian((k, p), dtype, rng) / 4
    F = ff.DenseFisher(p, dtype=dtype).update(G)
    factor, b = F.factor(damping=0.3), matrices.gaussian((p,), dtype, rng)
    wide = oracle.wide(V)
    A = oracle.fisher(G) + 0.3 * np.eye(p)
    more = A + wide.conj().T @ wide
    before = factor.solve(b).tobytes()
    up = factor.plus(V)
    u = 100 * unit_roundoff(dtype) * max(p, 10)
    np.testing.assert_allclose(up.solve(b), np.linalg.solve(more, b), atol=u * 10)
    assert up.logdet() == pytest.approx(np.linalg.slogdet(more)[1], abs=u * p)
    np.testing.assert_allclose(up.inv_quad(V), V @ np.linalg.solve(more, V.conj().T), atol=u * 10)
    down = up.minus(V)
    np.testing.assert_allclose(down.solve(b), factor.solve(b), atol=u * 10)
    assert factor.solve(b).tobytes() == before, "the factor itself stays as it is"
    assert up.norm <= np.linalg.norm(more, 2) * (1 + 1e-6)
    for made, matrix in ((up, more), (down, A)):
        assert made.facts["smallest_pivot"] == pytest.approx(
            np.linalg.cholesky(matrix).diagonal().real.min() ** 2, rel=u * 10
        )


def test_Q5_scores_leave_as_they_came_until_rounding_is_all_that_is_left(rng):
    G = rng.standard_normal((40, 30))
    F = ff.DenseFisher(30).update(G)
    factor = F.factor(damping=1e-4)
    rest = factor.minus(G[:25] / np.sqrt(40))
    A = G[25:].T @ G[25:] / 40 + 1e-4 * np.eye(30)
    np.testing.assert_allclose(rest.solve(np.ones(30)), np.linalg.solve(A, np.ones(30)), rtol=1e-6)
    with pytest.raises(NotPositiveDefiniteError, match="factor what is left anew"):
        rest.minus(np.eye(30)[:1])  # more than there is
    with pytest.raises(NotPositiveDefiniteError, match="pivot"):
        factor.minus(np.sqrt(1e-4 * 0.95) * np.eye(30)).minus(G / np.sqrt(40))
    for bad in (np.ones(30), np.ones((2, 29)), 1j * np.ones((1, 30)), np.full((1, 30), np.nan)):
        with pytest.raises(InputError, match="V "):
            factor.plus(bad)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("where", [slice(None), slice(70, 72)])
def test_Q5_rows_whose_squares_overflow_are_refused(dtype, where, rng):
    F = ff.DenseFisher(80, dtype=dtype).update(rng.standard_normal((200, 80)).astype(dtype))
    factor, V = F.factor(damping=0.1), np.zeros((2, 80), dtype)
    V[:, where] = 1e160
    for change in (factor.plus, factor.minus):
        with pytest.raises(InputError, match="squares of V overflow"):
            change(V)
    V[:, where] = 1e3
    assert np.isfinite(factor.plus(V).logdet())
