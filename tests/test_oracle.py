"""The oracle against values by hand, exact rational arithmetic and identities."""

import math
from fractions import Fraction

import numpy as np
import pytest

from tests import matrices, oracle, tolerances
from tests.tolerances import LIMITS, assert_ratio

# By hand -------------------------------------------------------------------------------------

G = np.array([[1.0, 2.0], [3.0, -1.0], [0.0, 4.0]])
W = np.array([1.0, 2.0, 1.0])
Z = np.array([[1 + 1j, 2.0], [1j, 1 - 1j]])


def test_raw_operations_by_hand():
    assert oracle.syrk(G).tolist() == [[10, -1], [-1, 21]]
    assert oracle.syrk(G, W).tolist() == [[19, -4], [-4, 22]]
    assert oracle.gram(G).tolist() == [[5, 1, 8], [1, 10, -4], [8, -4, 16]]
    assert oracle.matvec(G, [1, 1]).tolist() == [3, 2, 4]
    assert oracle.rmatvec(G, [1, 1, 1]).tolist() == [4, 5]
    assert oracle.fvp(G, [1, 1], W).tolist() == [15, 18]
    assert oracle.diag(G, W).tolist() == [19, 22]


def test_complex_conventions_by_hand():
    assert oracle.syrk(Z).tolist() == [[3, 1 - 3j], [1 + 3j, 6]]
    assert oracle.gram(Z).tolist() == [[6, 3 + 1j], [3 - 1j, 3]]
    assert oracle.rmatvec(Z, [1, 1]).tolist() == [1 - 2j, 3 + 1j]
    assert oracle.diag(Z).tolist() == [3, 6]
    assert np.array_equal(oracle.mean_gradient(Z), Z.mean(axis=0).conj())


def test_fisher_and_mean_gradient_by_hand():
    assert np.allclose(oracle.fisher(G, W), [[4.75, -1], [-1, 5.5]], rtol=1e-15)
    assert oracle.mean_gradient(G, W).tolist() == [1.75, 1]
    assert np.allclose(oracle.fisher(G, W, center=True), [[1.6875, -2.75], [-2.75, 4.5]])
    assert oracle.coef_rhs(G, [1, 0, 2], W).tolist() == [0.25, 2.5]


def test_cholesky_solve_and_failing_pivot_by_hand():
    A = np.array([[4.0, 2.0], [2.0, 5.0]])
    assert oracle.cholesky(A).tolist() == [[2, 0], [1, 2]]
    assert oracle.cholesky(A - np.eye(2), damping=1.0).tolist() == [[2, 0], [1, 2]]
    assert np.allclose(oracle.cho_solve([[2, 0], [1, 2]], [8, 4]), [2, 0])
    assert oracle.failing_pivot(A) == 0
    assert oracle.failing_pivot([[1.0, 2.0], [2.0, 4.0]]) == 2
    assert oracle.failing_pivot([[0.0, 0.0], [0.0, 1.0]]) == 1
    assert oracle.failing_pivot([[1.0, 0.0], [0.0, np.nan]]) == 2
    assert oracle.failing_pivot([[1.0, 2.0], [2.0, 4.0]], damping=0.5) == 0


def test_only_the_lower_triangle_describes_a_matrix():
    A = np.array([[4.0, np.nan], [2.0, 5.0]])
    assert oracle.hermitian(A).tolist() == [[4, 2], [2, 5]]
    B = np.array([[1 + 7j, 9.0], [1j, 2.0]])
    assert oracle.hermitian(B).tolist() == [[1, -1j], [1j, 2]]


def test_batched_solve_flags_single_systems():
    F = np.array([[[2.0, 0], [0, 4]], [[1, 2], [2, 1]], [[0, 0], [0, 0]]])
    g = np.array([[2.0, 4.0], [1, 1], [3, 6]])
    x, info = oracle.batched_solve(F, g, [0.0, 0.0, 3.0])
    assert info.tolist() == [0, 2, 0] and info.dtype == np.int32
    assert x[[0, 2]].tolist() == [[1, 1], [1, 2]] and np.all(np.isnan(x[1]))


def test_layer_scores_by_hand_L1_L2():
    A, E = np.array([[1.0, 2.0]]), np.array([[3.0, 5.0]])
    assert oracle.layer_scores([(A, E)]).tolist() == [[3, 6, 5, 10]]
    two = oracle.layer_scores([(A, E), (A[:, :1], E[:, :1])])
    assert two.tolist() == [[3, 6, 5, 10, 3]]
    A_tokens, E_tokens = np.array([[[1.0, 2.0], [0, 1]]]), np.array([[[3.0], [4.0]]])
    assert oracle.layer_scores([(A_tokens, E_tokens)]).tolist() == [[3, 10]]
    assert oracle.layered_gram([(A_tokens, E_tokens)]).tolist() == [[109]]


# Exact arithmetic ----------------------------------------------------------------------------


def test_precise_syrk_is_the_rational_sum_rounded_once_or_twice(rng):
    G = rng.standard_normal((20, 3)) * np.exp(3 * rng.standard_normal((20, 1)))
    w = rng.uniform(0, 2, 20)
    rational = np.vectorize(Fraction, otypes=[object])
    exact = (rational(G).T @ (rational(w)[:, None] * rational(G))).astype(float)
    bound = 20 * oracle.syrk_bound(G, w)
    precise = oracle.syrk(G, w, precise=True)
    assert precise.dtype == np.longdouble
    u = tolerances.unit_roundoff(np.longdouble)
    assert np.all(np.abs(precise - exact) <= u * bound + 2**-53 * np.abs(exact))
    assert tolerances.syrk_ratio(oracle.syrk(G, w), precise, bound / 20, 20) <= 1


def test_precise_types_are_wider_where_the_platform_has_them():
    assert oracle.gram(Z, precise=True).dtype == np.clongdouble
    assert oracle.diag(G, precise=True).dtype == np.longdouble
    assert np.array_equal(
        oracle.layered_gram([(G, G)], precise=True), oracle.layered_gram([(G, G)])
    )


# Identities ----------------------------------------------------------------------------------

PROBLEMS = [
    (n, p, dtype, weighted, center)
    for n, p in ((12, 5), (5, 12), (6, 6), (1, 4))
    for dtype in ("float64", "complex128")
    for weighted in (False, True)
    for center in (False, True)
]
over_problems = pytest.mark.parametrize("n, p, dtype, weighted, center", PROBLEMS)


def problem(n, p, dtype, weighted):
    return matrices.scores(n, p, dtype), matrices.weights(n) if weighted else None


@over_problems
def test_fisher_F7_is_the_second_moment_less_the_mean(n, p, dtype, weighted, center):
    G, w = problem(n, p, dtype, weighted)
    mean = oracle.mean_gradient(G, w)
    moments = oracle.syrk(G, w) / (n if w is None else w.sum())
    expected = moments - np.outer(mean, mean.conj()) if center else moments
    assert np.allclose(oracle.fisher(G, w, center), expected, rtol=0, atol=1e-14 * n)


@over_problems
def test_dual_D2_woodbury_equals_the_primal_solve(n, p, dtype, weighted, center):
    G, w = problem(n, p, dtype, weighted)
    b = matrices.gaussian((p, 3), dtype, matrices.generator("b", p))
    F = oracle.fisher(G, w, center)
    primal = oracle.damped_solve(F, b, 1e-2)
    assert np.allclose(primal, np.linalg.solve(F + 1e-2 * np.eye(p), b), rtol=1e-11)
    assert np.allclose(primal, oracle.dual_solve(G, b, 1e-2, w, center), rtol=1e-11)


@over_problems
def test_dual_D3_push_through_equals_the_primal_solve(n, p, dtype, weighted, center):
    G, w = problem(n, p, dtype, weighted)
    coef = matrices.gaussian((n, 2), dtype, matrices.generator("coef", n))
    b = oracle.coef_rhs(G, coef, w, center)
    primal = oracle.damped_solve(oracle.fisher(G, w, center), b, 1e-2)
    dual = oracle.dual_coef(G, coef, 1e-2, w, center)
    assert np.allclose(primal, dual, rtol=1e-10, atol=1e-12)
    assert np.allclose(dual[:, 0], oracle.dual_coef(G, coef[:, 0], 1e-2, w, center), rtol=1e-12)


def test_mean_gradient_is_the_right_hand_side_of_unit_coefficients():
    G, w = problem(9, 4, "complex128", True)
    assert np.allclose(oracle.coef_rhs(G, np.ones(9), w), oracle.mean_gradient(G, w), rtol=1e-14)


def test_complex_fisher_F9_is_the_stacked_real_one():
    Z = matrices.scores(7, 4, "complex128")
    stacked = np.concatenate([Z.real, Z.imag])
    assert np.allclose(oracle.fisher(Z).real * 7, oracle.syrk(stacked), atol=1e-14)
    without_conjugate = Z.T @ Z / 7
    assert np.max(np.abs(oracle.fisher(Z) - without_conjugate)) > 0.01


def test_fvp_and_diag_are_the_product_with_and_the_diagonal_of_the_syrk():
    G, w = problem(11, 5, "complex128", True)
    v = matrices.gaussian((5, 2), "complex128", matrices.generator("v"))
    F = oracle.syrk(G, w)
    assert np.allclose(oracle.fvp(G, v, w), F @ v, rtol=1e-13)
    assert np.allclose(oracle.diag(G, w), np.diagonal(F).real, rtol=1e-14)
    assert np.allclose(oracle.fvp(G, v[:, 0]), oracle.syrk(G) @ v[:, 0], rtol=1e-13)


def test_layered_gram_L1_is_the_product_of_two_grams():
    A, E = matrices.scores(6, 3, "complex128"), matrices.scores(6, 4, "complex128", seed=1)
    assert np.allclose(oracle.layered_gram([(A, E)]), oracle.gram(A) * oracle.gram(E), atol=1e-14)


def test_layered_gram_L2_counts_every_pair_of_tokens():
    A = matrices.scores(4 * 3, 2).reshape(4, 3, 2)
    E = matrices.scores(4 * 3, 5, seed=1).reshape(4, 3, 5)
    pairs = np.einsum("itk,juk->ijtu", A, A) * np.einsum("itk,juk->ijtu", E, E)
    assert np.allclose(oracle.layered_gram([(A, E)]), pairs.sum(axis=(2, 3)), rtol=1e-13)
    same_token_only = np.einsum("ijtt->ij", pairs)
    assert np.max(np.abs(oracle.layered_gram([(A, E)]) - same_token_only)) > 0.01


def test_empty_problems_are_zeros():
    empty = np.zeros((0, 3))
    assert oracle.syrk(empty).tolist() == np.zeros((3, 3)).tolist()
    assert oracle.fisher(empty, center=True).tolist() == np.zeros((3, 3)).tolist()
    assert oracle.gram(np.zeros((2, 0))).tolist() == [[0, 0], [0, 0]]
    assert oracle.cholesky(np.zeros((0, 0))).shape == (0, 0)


# Tolerances ----------------------------------------------------------------------------------


def test_unit_roundoff_is_half_of_eps_also_for_complex():
    assert tolerances.unit_roundoff("float64") == 2**-53 == tolerances.unit_roundoff("complex128")
    assert tolerances.unit_roundoff("float32") == 2**-24 == tolerances.unit_roundoff("complex64")
    assert tolerances.gamma(4, "float32") == pytest.approx(2**-22, rel=1e-6)
    with pytest.raises(ValueError, match="needs k u < 1"):
        tolerances.gamma(2**24, "float32")


def test_ratio_of_one_unit_is_one():
    F = np.array([[1.0]])
    assert tolerances.syrk_ratio(F, F + 2**-52, F, 2) == 1
    assert tolerances.cholesky_ratio(F + 2**-52, F) == pytest.approx(2)
    x = np.array([1.0])
    assert tolerances.forward_ratio(x + 2**-52, x, 1) == 2
    assert tolerances.solve_ratio(F, x, x + 2**-51) == pytest.approx(2)


def test_zero_bounds_ask_for_equality():
    zero, one = np.zeros((2, 2)), np.ones((2, 2))
    assert tolerances.syrk_ratio(zero, zero, zero, 5) == 0
    assert tolerances.syrk_ratio(one * 1e-300, zero, zero, 5) == math.inf
    assert tolerances.cholesky_ratio(zero, zero) == 0
    assert tolerances.cholesky_ratio(zero, one) == math.inf


@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_non_finite_results_are_never_within_a_tolerance(bad):
    good, broken = np.eye(2), np.array([[1, 0], [0, bad]])
    with np.errstate(invalid="ignore"):
        assert tolerances.syrk_ratio(broken, good, good, 2) == math.inf
        assert tolerances.cholesky_ratio(good, broken) == math.inf
        assert tolerances.solve_ratio(good, broken[1], good[1]) == math.inf
        assert tolerances.forward_ratio(broken[1], good[1], 1) == math.inf
    with pytest.raises(AssertionError, match="syrk: ratio nan"):
        assert_ratio(math.nan, LIMITS["lapack"], "syrk")


def test_empty_arrays_have_ratio_zero():
    none, square = np.zeros(0), np.zeros((0, 0))
    assert tolerances.syrk_ratio(square, square, square, 3) == 0
    assert tolerances.cholesky_ratio(square, square) == 0
    assert tolerances.solve_ratio(square, none, none) == 0
    assert tolerances.forward_ratio(none, none, 1) == 0
    assert tolerances.matvec_ratio(none, none, none, 0) == 0


def test_wrong_shapes_are_noticed():
    with pytest.raises(AssertionError, match=r"shape \(2,\), expected \(1, 2\)"):
        tolerances.matvec_ratio(np.ones(2), np.ones((1, 2)), 1.0, 2)
    with pytest.raises(AssertionError, match="shape"):
        tolerances.forward_ratio(np.ones(2), np.ones((2, 1)), 1)


def test_assert_ratio_says_what_is_too_large():
    assert_ratio(30, "lapack", "solve")
    with pytest.raises(AssertionError, match="solve: ratio 31 is above the limit 30"):
        assert_ratio(31, "lapack", "solve")


def test_large_and_small_norms_do_not_overflow():
    A, x = np.eye(2), np.array([1e200, 1e-200])
    assert tolerances.solve_ratio(A, x, x) == 0
    assert tolerances.forward_ratio(x * (1 + 2**-50), x, 1) == pytest.approx(8, rel=0.1)
