"""Covariances of an estimate: values by hand, plain NumPy, and what is refused."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError, NotPositiveDefiniteError
from fastfisher.stats import covariance, from_information, meat, opg, sandwich, standard_errors
from tests.tolerances import unit_roundoff

U = unit_roundoff("float64")


def case(n=30, p=4, seed=0):
    rng = np.random.default_rng(seed)
    G = rng.normal(size=(n, p))
    A = rng.normal(size=(p, p))
    return G, n * (A @ A.T + np.eye(p))


def test_covariance_V1_is_chosen_by_what_is_given():
    G, H = case()
    np.testing.assert_array_equal(covariance(G), opg(G))
    np.testing.assert_array_equal(covariance(information=H), from_information(H))
    np.testing.assert_array_equal(covariance(G, H), sandwich(G, H))
    assert ff.stats.covariance is covariance


def test_opg_and_sandwich_V1_are_the_plain_formulas():
    G, H = case()
    np.testing.assert_allclose(opg(G), np.linalg.inv(G.T @ G), rtol=1e-11)
    inverse = np.linalg.inv(H)
    np.testing.assert_allclose(sandwich(G, H), inverse @ (G.T @ G) @ inverse, rtol=1e-11)
    # H = G'G makes the sandwich the OPG
    np.testing.assert_allclose(sandwich(G, G.T @ G), opg(G), rtol=1e-11)
    corrected = sandwich(G, H, correction=True)
    np.testing.assert_allclose(corrected, sandwich(G, H) * 30 / 26, rtol=1e-14)
    for C in (opg(G), sandwich(G, H), from_information(H)):
        np.testing.assert_array_equal(C, C.T)


def test_clusters_V1_F10_are_sums_inside_groups():
    G, H = case()
    np.testing.assert_allclose(
        sandwich(G, H, groups=np.arange(30)), sandwich(G, H), rtol=1e-13
    )  # singletons are HC0
    groups = np.random.default_rng(1).permutation(np.repeat(["a", "b", "c", "d", "e"], 6))
    sums = np.array([G[groups == g].sum(axis=0) for g in "abcde"])
    np.testing.assert_allclose(meat(G, groups=groups), sums.T @ sums, rtol=1e-13)
    factor = 5 / 4 * 29 / 26
    np.testing.assert_allclose(
        sandwich(G, H, groups=groups, correction=True),
        factor * sandwich(G, H, groups=groups),
        rtol=1e-14,
    )
    duplicated = sandwich(np.repeat(G, 2, axis=0), 2 * H, groups=np.repeat(np.arange(30), 2))
    np.testing.assert_allclose(duplicated, sandwich(G, H), rtol=1e-12)
    naive = sandwich(np.repeat(G, 2, axis=0), 2 * H)
    np.testing.assert_allclose(naive, sandwich(G, H) / 2, rtol=1e-12)  # duplicates look like data


@pytest.mark.parametrize("lags", [0, 1, 3, 29, 100])
def test_bartlett_window_V1_is_positive_semidefinite(lags):
    G = np.random.default_rng(0).normal(size=(30, 5)).cumsum(axis=0)  # strongly dependent rows
    total = meat(G, lags=lags)
    expected = sum(
        max(0, 1 - abs(i - j) / (lags + 1)) * np.outer(G[i], G[j])
        for i in range(30)
        for j in range(30)
    )
    np.testing.assert_allclose(total, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())
    assert np.linalg.eigvalsh(total)[0] >= -1e-12 * np.abs(total).max()


def test_covariances_do_not_depend_on_the_units_of_the_features():
    G, H = case()
    units = np.array([1e-12, 1.0, 1e9, 1e4])
    scaled = sandwich(G * units, H * np.outer(units, units))
    np.testing.assert_allclose(scaled * np.outer(units, units), sandwich(G, H), rtol=1e-10)


def test_information_and_fisher_objects_agree():
    G, _ = case()
    F = ff.DenseFisher(4).update(G)
    np.testing.assert_allclose(from_information(F.weight * F.matrix()), opg(G), rtol=1e-12)


def test_float32_scores_are_summed_in_double():
    G, H = case()
    np.testing.assert_allclose(sandwich(G.astype("f4"), H), sandwich(G, H), rtol=1e-5)
    assert opg(G.astype("f4")).dtype == np.float64


# Singular information ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["duplicate", "zero", "sum", "few rows"])
def test_singular_information_is_an_error_that_names_the_parameters(kind):
    G, _ = case()
    G, named = {
        "duplicate": (np.c_[G, G[:, 1]], "1, 4"),
        "zero": (np.c_[G[:, :2], np.zeros(30), G[:, 2:]], "2"),
        "sum": (np.c_[G, 1e6 * (G[:, 0] + G[:, 2])], "0, 2, 4"),
        "few rows": (G[:1], ""),
    }[kind]
    with pytest.raises(NotPositiveDefiniteError, match=f"singular .* parameters {named}") as raised:
        opg(G)
    assert "singular='pinv'" in str(raised.value)
    assert raised.value.rcond < 1e-14 and raised.value.order >= 1


def test_pseudo_inverse_is_right_for_estimable_contrasts():
    G, _ = case()
    singular = opg(np.c_[G, G[:, 1]], singular="pinv")
    assert np.isfinite(singular).all()
    plain = opg(G)
    R = np.array([[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 1]])  # theta_0, and the sum of the twins
    expected = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    np.testing.assert_allclose(R @ singular @ R.T, expected @ plain @ expected.T, rtol=1e-9)
    regular = from_information(np.diag([2.0, 4.0]), singular="pinv")
    np.testing.assert_allclose(regular, np.diag([0.5, 0.25]))


def test_indefinite_information_is_named_so():
    with pytest.raises(NotPositiveDefiniteError, match="the information is indefinite"):
        from_information(np.array([[1.0, 2.0], [2.0, 1.0]]))


def test_nearly_singular_information_is_answered_while_digits_remain():
    t = 1e-6
    A = np.array([[1.0, 1 - t], [1 - t, 1.0]])
    exact = np.array([[1.0, t - 1], [t - 1, 1.0]]) / (t * (2 - t))
    np.testing.assert_allclose(from_information(A), exact, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda G, H: covariance(), "needs scores, information, or both"),
        (lambda G, H: covariance(G, groups=np.zeros(30)), "need both scores and information"),
        (lambda G, H: from_information(H[:2]), r"shape \(2, 4\), expected a square"),
        (lambda G, H: from_information(H * np.nan), "not finite"),
        (lambda G, H: from_information(np.triu(H) + 5), "not symmetric"),
        (lambda G, H: from_information(H, singular="jitter"), "expected 'raise' or 'pinv'"),
        (lambda G, H: sandwich(G, H[:3, :3]), r"shape \(3, 3\) but scores have 4 columns"),
        (lambda G, H: sandwich(G[:4], H, correction=True), "more rows than parameters"),
        (lambda G, H: sandwich(G, H, groups=np.ones(30), correction=True), "two groups"),
        (lambda G, H: meat(G, groups=np.zeros(29)), r"groups has shape \(29,\)"),
        (lambda G, H: meat(G, groups=np.full(30, np.nan)), "labels that are not finite"),
        (lambda G, H: meat(G, groups=np.zeros(30), lags=2), "exclude each other"),
        (lambda G, H: meat(G, lags=-1), "lags is -1"),
        (lambda G, H: meat(G * 1j), "scores are complex"),
        (lambda G, H: meat(np.where(G == G[3, 1], np.nan, G)), "row 3"),
        (lambda G, H: standard_errors(-np.eye(2)), r"covariance\[0, 0\] is -1"),
        (lambda G, H: standard_errors(np.diag([1, np.nan])), r"covariance\[1, 1\] is nan"),
        (lambda G, H: standard_errors(np.ones(2)), r"shape \(2,\), expected a square"),
        (lambda G, H: covariance(np.empty((0, 2))), "scores have no rows"),
        (lambda G, H: sandwich(G[:0], H), "scores have no rows"),
        (lambda G, H: covariance(information="x"), "information is str; expected an array"),
        (lambda G, H: from_information(H * 1j), "information has dtype complex128"),
        (
            lambda G, H: covariance(information=ff.DenseFisher(4).update(G)),
            r"information is a DenseFisher, .* pass F.weight \* F.matrix\(\)",
        ),
        (lambda G, H: from_information(np.diag([1.0, 1e-320])), "parameter 1 overflows"),
        (lambda G, H: meat(G, groups=np.full(30, "NaT", "M8[D]")), "labels that are not a time"),
        (lambda G, H: meat(G, groups=[None] + [1] * 29), "labels that are missing or cannot be"),
        (lambda G, H: meat(G, groups=np.array(["a"] * 29 + [1], object)), "missing or cannot be"),
        (lambda G, H: meat(G, groups=np.array([np.nan] + [1] * 29, object)), "missing or cannot"),
        (lambda G, H: meat(G, lags=np.nan), "lags is nan"),
        (lambda G, H: meat(G, lags="x"), "lags is 'x'"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(*case())
