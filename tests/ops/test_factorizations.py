"""Public Cholesky, its solves, and batches of small systems."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError, NotPositiveDefiniteError
from fastfisher.kernels import vendor
from fastfisher.kernels.cpu import triangular
from tests import matrices, oracle, squares
from tests.tolerances import LIMITS, assert_ratio, cholesky_ratio, solve_ratio, unit_roundoff

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
engines = pytest.mark.parametrize("reproducible", [False, True], ids=["vendor", "ours"])


def definite(p, dtype, rng):
    return np.asarray(oracle.fisher(matrices.gaussian((2 * p + 3, p), dtype, rng)), dtype)


def poisoned(A):
    """A with NaN above the diagonal, where nobody may look."""
    A = A.copy()
    A[np.triu_indices(len(A), 1)] = np.nan
    return A


# Cholesky ----------------------------------------------------------------------------------------


@engines
@over_dtypes
@pytest.mark.parametrize("p", [1, 2, 5, 63, 64, 65, 130])
def test_cholesky_27_2_reads_the_lower_triangle_only(p, dtype, reproducible, rng):
    A = definite(p, dtype, rng)
    with ff.options(reproducible=reproducible):
        L = ff.ops.cholesky(poisoned(A), damping=0.25)
    assert L.dtype == dtype
    assert not np.triu(L, 1).any()
    assert np.all(L.diagonal().real > 0) and not L.diagonal().imag.any()
    assert_ratio(cholesky_ratio(oracle.damped(A, 0.25), L), "goal", "cholesky")


@engines
@pytest.mark.parametrize(
    "problem", [*squares.catalogue(12), *squares.catalogue(12, "float32")], ids=str
)
def test_cholesky_27_2_on_every_family(problem, reproducible):
    F, order = problem.F, problem.order
    with ff.options(reproducible=reproducible):
        if order:
            with pytest.raises(NotPositiveDefiniteError, match=f"pivot {order} of") as caught:
                ff.ops.cholesky(F)
            assert caught.value.order == order
        elif order == 0:
            assert_ratio(cholesky_ratio(F, ff.ops.cholesky(F)), "goal", str(problem))
        else:
            try:
                L = ff.ops.cholesky(F)
            except NotPositiveDefiniteError as error:
                assert 1 <= error.order <= len(F)
            else:
                assert_ratio(cholesky_ratio(F, L), "goal", str(problem))


@engines
@over_dtypes
@pytest.mark.parametrize("p", [1, 10, 129])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_cholesky_P9_names_the_failing_pivot_and_a_damping_that_works(
    p, where, dtype, reproducible, rng
):
    zero = {"first": 0, "middle": p // 2, "last": p - 1}[where]
    A = definite(p, dtype, rng)
    A[zero], A[:, zero] = 0, 0
    with ff.options(reproducible=reproducible):
        with pytest.raises(NotPositiveDefiniteError, match=rf"pivot {zero + 1} of {p}") as caught:
            ff.ops.cholesky(A)
        error = caught.value
        assert error.order == zero + 1
        assert isinstance(error, np.linalg.LinAlgError)
        assert (
            0 < error.suggested_damping < 1e4 * p * unit_roundoff(dtype) * np.linalg.norm(A) + 1e-30
        )
        L = ff.ops.cholesky(A, damping=error.suggested_damping)
    assert np.isfinite(L).all()


@engines
@over_dtypes
@pytest.mark.parametrize("p", [2, 20, 100])
def test_cholesky_of_an_indefinite_matrix_suggests_the_damping_it_needs(
    p, dtype, reproducible, rng
):
    V = matrices.orthonormal(p, p, dtype, rng)
    A = np.asarray((V * np.linspace(-3, 5, p)) @ V.conj().T, dtype)
    with ff.options(reproducible=reproducible):
        with pytest.raises(NotPositiveDefiniteError) as caught:
            ff.ops.cholesky(A, damping=1.0)
        suggested = caught.value.suggested_damping
        assert 3 <= suggested <= 3.1
        ff.ops.cholesky(A, damping=suggested)
        # The suggestion is printed, and the printed figure is enough.
        printed = float(str(caught.value).split("damping=")[1].split()[0])
        ff.ops.cholesky(A, damping=printed)


def test_cholesky_of_a_tiny_or_huge_matrix_suggests_in_its_own_units():
    for scale in (2.0**-900, 2.0**900):
        A = np.array([[1.0, 0.0], [2.0, 1.0]]) * scale
        with pytest.raises(NotPositiveDefiniteError) as caught:
            ff.ops.cholesky(A)
        assert caught.value.suggested_damping == pytest.approx(1.0 * scale, rel=0.1)
        ff.ops.cholesky(A, damping=caught.value.suggested_damping)


@over_dtypes
def test_cholesky_overwrite_uses_the_memory_of_A_when_it_can(dtype, rng):
    A = definite(6, dtype, rng)
    expected = ff.ops.cholesky(A)
    keep = A.copy()
    assert ff.ops.cholesky(A, overwrite=False).tobytes() == expected.tobytes()
    assert A.tobytes() == keep.tobytes()
    result = ff.ops.cholesky(A, overwrite=True)
    assert np.shares_memory(result, A) and A.tobytes() == expected.tobytes()
    for laid in (np.asfortranarray(keep), np.tile(keep, (1, 2))[:, :6]):
        before = laid.copy()
        assert ff.ops.cholesky(laid, overwrite=True).tobytes() == expected.tobytes()
        assert np.array_equal(laid, before)
    frozen = keep.copy()
    frozen.flags.writeable = False
    assert ff.ops.cholesky(frozen, overwrite=True).tobytes() == expected.tobytes()
    assert np.array_equal(frozen, keep)


@engines
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(0, 0), (5, 2), (7, 7)])
def test_law_26_16_cholesky_names_the_bad_element(value, where, reproducible, rng):
    A = definite(8, "float64", rng)
    A[where] = value
    with ff.options(reproducible=reproducible):
        with pytest.raises(InputError, match=rf"A\[{where[0]}, {where[1]}\] is .*must be finite"):
            ff.ops.cholesky(A)


@engines
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_law_26_16_cholesky_in_place_never_returns_a_factor_of_nan(value, reproducible, rng):
    for where in ((0, 0), (5, 2), (7, 7)):
        A = definite(8, "float64", rng)
        A[where] = value
        with ff.options(reproducible=reproducible):
            with pytest.raises((InputError, NotPositiveDefiniteError)):
                ff.ops.cholesky(A, overwrite=True)


def test_cholesky_ignores_the_imaginary_part_of_the_diagonal(rng):
    A = definite(5, "complex128", rng)
    expected = ff.ops.cholesky(A)
    A[np.diag_indices(5)] += 0.5j
    for reproducible in (False, True):
        with ff.options(reproducible=reproducible):
            L = ff.ops.cholesky(A)
        np.testing.assert_allclose(L, expected, rtol=1e-13, atol=1e-13)
        assert not L.diagonal().imag.any()


# cho_solve ---------------------------------------------------------------------------------------


@engines
@over_dtypes
@pytest.mark.parametrize("k", [None, 1, 4], ids=lambda k: f"k={k}")
@pytest.mark.parametrize("p", [1, 7, 65])
def test_cho_solve_27_3_reads_the_lower_triangle_only(p, k, dtype, reproducible, rng):
    A = definite(p, dtype, rng)
    b = matrices.gaussian((p,) if k is None else (p, k), dtype, rng)
    with ff.options(reproducible=reproducible):
        L = ff.ops.cholesky(A)
        x = ff.ops.cho_solve(poisoned(L), b)
    assert x.dtype == dtype and x.shape == b.shape
    assert_ratio(solve_ratio(A, x, b), "goal", "cho_solve")


@pytest.mark.parametrize(
    ("k", "reproducible", "taken"),
    [(1, False, vendor), (100, False, triangular), (1, True, triangular), (3, True, triangular)],
)
def test_cho_solve_takes_the_kernel_of_its_sides(k, reproducible, taken, rng, monkeypatch):
    """Both directions in one call of it."""
    seen = []
    for module in (vendor, triangular):

        def spy(L, x, module=module, kernel=module.substitute):
            seen.append(module)
            kernel(L, x)

        monkeypatch.setattr(module, "substitute", spy)
    L, b = np.tril(rng.standard_normal((300, 300))) / 30 + 2 * np.eye(300), np.ones((300, k))
    with ff.options(reproducible=reproducible):
        x = ff.ops.cho_solve(L, b)
    assert seen == [taken]
    assert_ratio(solve_ratio(L @ L.T, x, b), "goal", f"{k} sides")


@engines
def test_cho_solve_of_a_complex_right_hand_side_with_a_real_factor(reproducible, rng):
    L = oracle.cholesky(definite(6, "float64", rng))
    b = matrices.gaussian((6, 2), "complex128", rng)
    with ff.options(reproducible=reproducible):
        x = ff.ops.cho_solve(L, b)
    np.testing.assert_allclose(x, oracle.cho_solve(L, b), rtol=1e-12)


@pytest.mark.parametrize(
    ("L", "message"),
    [
        (np.diag([1.0, 0.0]), r"L\[1, 1\] is 0\.0; expected a positive diagonal"),
        (np.diag([-1.0, 1.0]), r"L\[0, 0\] is -1\.0"),
        (np.diag([1.0, np.nan]), r"L\[1, 1\] is nan"),
        (np.array([[1.0, 0.0], [np.nan, 1.0]]), r"not finite; check the lower triangle"),
    ],
)
def test_cho_solve_refuses_what_is_no_cholesky_factor(L, message):
    with pytest.raises(InputError, match=message):
        ff.ops.cho_solve(L, np.ones(2))


# batched_solve -----------------------------------------------------------------------------------


@over_dtypes
@pytest.mark.parametrize("p", [1, 2, 3, 8, 17, 32])
@pytest.mark.parametrize("n", [1, 7, 9, 700])
def test_batched_solve_names_the_one_percent_that_fail_and_solves_the_others(n, p, dtype, rng):
    S = matrices.gaussian((n, 2 * p, p), dtype, rng)
    F = np.asarray(oracle.ct(S) @ S / (2 * p), dtype)
    g = matrices.gaussian((n, p), dtype, rng)
    damping = rng.uniform(0.5, 1, n)
    singular = np.arange(3, n, 100)
    for i in singular:
        zero = i % p
        F[i][zero], F[i][:, zero] = 0, 0
        damping[i] = 0
    upper = np.triu_indices(p, 1)
    _, order = oracle.batched_solve(F, g, damping)
    F[:, upper[0], upper[1]] = np.nan
    x, info = ff.ops.batched_solve(F, g, damping=damping)
    assert x.dtype == dtype and x.shape == (n, p) and info.dtype == np.int32
    np.testing.assert_array_equal(info, order)
    np.testing.assert_array_equal(np.flatnonzero(info), singular)
    assert np.isnan(x[singular]).all()
    for i in np.flatnonzero(info == 0):
        A = oracle.damped(np.tril(F[i]), damping[i])
        assert_ratio(solve_ratio(A, x[i], g[i]), "goal", f"system {i}")


def test_batched_solve_batches_share_their_bits(rng):
    """A system's answer does not depend on its neighbours or its place in the batch."""
    F = np.stack([definite(4, "float64", rng) for _ in range(21)])
    g = rng.standard_normal((21, 4))
    x, _ = ff.ops.batched_solve(F, g, damping=0.1)
    for i in range(21):
        assert (
            ff.ops.batched_solve(F[i : i + 1], g[i : i + 1], damping=0.1)[0].tobytes()
            == x[i].tobytes()
        )
    y, _ = ff.ops.batched_solve(F[::-1], g[::-1], damping=np.full(21, 0.1))
    assert y[::-1].tobytes() == x.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_law_26_16_batched_solve_marks_systems_that_are_not_finite(value, rng):
    F = np.stack([definite(3, "float64", rng) for _ in range(10)])
    g = rng.standard_normal((10, 3))
    clean, _ = ff.ops.batched_solve(F, g)
    F[2, 1, 0] = value
    F[4, 0, 0] = value
    g[6, 1] = value
    x, info = ff.ops.batched_solve(F, g)
    bad = [2, 4, 6]
    assert info[bad].all() and np.isnan(x[bad]).all()
    good = np.setdiff1d(np.arange(10), bad)
    assert not info[good].any() and x[good].tobytes() == clean[good].tobytes()


def test_batched_solve_near_overflow_is_a_status_not_an_infinity():
    F = np.full((1, 1, 1), 1e-300)
    x, info = ff.ops.batched_solve(F, np.full((1, 1), 1e300))
    assert info[0] == -1 and np.isnan(x).all()


def test_batched_solve_mixed_dtypes(rng):
    F = np.stack([definite(3, "float64", rng)] * 2)
    g = matrices.gaussian((2, 3), "complex128", rng)
    x, info = ff.ops.batched_solve(F, g)
    assert x.dtype == np.complex128 and not info.any()
    np.testing.assert_allclose(x, oracle.batched_solve(F, g)[0], rtol=1e-12)
    x32, _ = ff.ops.batched_solve(F.astype(np.float32), g.real)
    assert x32.dtype == np.float32
    assert LIMITS["goal"] * 2.0**-20 > np.abs(x32 - oracle.batched_solve(F, g.real)[0]).max()
