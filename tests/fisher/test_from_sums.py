"""A DenseFisher that takes over sums formed elsewhere."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError


def test_from_sums_is_the_object_that_updates_would_have_made():
    G = np.random.default_rng(0).normal(size=(9, 4))
    G = np.concatenate([G, -G])  # the mean is zero
    made = ff.DenseFisher.from_sums(ff.ops.syrk(G), len(G), n_samples=len(G), kind="exact")
    grown = ff.DenseFisher(4).update(G)
    np.testing.assert_allclose(made.matrix(), grown.matrix(), rtol=1e-14, atol=1e-14)
    assert (made.n_samples, made.weight, made.kind) == (18, 18.0, "exact")
    np.testing.assert_allclose(made.mean, grown.mean, atol=1e-15)
    both = made.merge(ff.DenseFisher(4, kind="exact").update(G, weights=np.full(18, 2.0)))
    assert both.weight == 54.0
    np.testing.assert_allclose(both.matrix(), grown.matrix(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("rows", (4, 600))  # that wait, that do not
def test_U1_sums_taken_over_count_in_the_mean_of_what_follows(rows):
    made = ff.DenseFisher.from_sums(100 * np.eye(3), 100).update(np.ones((rows, 3)))
    np.testing.assert_allclose(made.mean, rows / (100 + rows) * np.ones(3), rtol=1e-14)


def test_from_sums_copies_and_keeps_the_dtype():
    sums = np.diag([2.0, 4.0])
    made = ff.DenseFisher.from_sums(sums, 2.0, dtype="float32")
    sums[0, 0] = 9.0
    assert made.matrix().dtype == np.float32
    np.testing.assert_array_equal(made.diagonal(), [1, 2])


@pytest.mark.parametrize(
    ("sums", "weight", "message"),
    [
        (np.ones((2, 3)), 1.0, r"shape \(2, 3\); expected a square"),
        (np.array([[1.0, 2.0], [2.5, 1.0]]), 1.0, "not symmetric to the bit"),
        (np.array([[np.inf]]), 1.0, "not finite"),
        (np.eye(2), 0.0, "weight is 0.0"),
        (np.eye(2) * 1j, 1.0, "sums has dtype complex128 but the Fisher is float64"),
    ],
)
def test_from_sums_refuses(sums, weight, message):
    with pytest.raises(InputError, match=message):
        ff.DenseFisher.from_sums(sums, weight)
