"""Exact, Monte-Carlo and empirical Fisher matrices as objects of the core."""

import numpy as np
import pytest

from fastfisher.errors import InputError
from fastfisher.fisher import DenseFisher, GramFisher
from fastfisher.models import MLP, SoftmaxRegression
from fastfisher.optim import fisher_metric, structured_metric
from fastfisher.optim import metric as metric_module
from tests.oracle import fisher
from tests.tolerances import unit_roundoff

U = unit_roundoff("float64")


def case(model, n, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, model.n_features))
    return rng.normal(size=model.n_params), X, rng.integers(model.n_classes, size=n)


def dense(metric):
    """The matrix column by column, whatever kind of object it is."""
    return metric @ np.eye(metric.p)


def agrees(F, expected, n):
    return np.abs(F - expected).max() <= 30 * n * U * np.abs(expected).max()


@pytest.mark.parametrize("n", [2, 40])
def test_exact_metric_F4_is_the_weighted_mean_over_all_labels(n):
    model = SoftmaxRegression(4, 3)
    theta, X, _ = case(model, n)
    metric = fisher_metric(model, theta, X)
    assert isinstance(metric, GramFisher if 3 * n < 15 else DenseFisher)
    assert agrees(dense(metric), fisher(*model.exact_scores(theta, X)), 3 * n)


def test_empirical_metric_F5_is_the_mean_at_the_labels_of_the_data():
    model = SoftmaxRegression(4, 3)
    theta, X, y = case(model, 40)
    metric = fisher_metric(model, theta, X, y, fisher="empirical")
    assert agrees(dense(metric), fisher(model.scores(theta, X, y)), 40)
    exact = fisher(*model.exact_scores(theta, X))
    assert np.abs(dense(metric) - exact).max() > 0.01, "it is not the Fisher"


def test_mc_metric_F3_uses_labels_of_the_model_and_repeats_with_its_seed():
    model = SoftmaxRegression(4, 3)
    theta, X, _ = case(model, 20)
    metric = fisher_metric(model, theta, X, fisher="mc", rng=4, labels=3)
    repeated = np.repeat(X, 3, axis=0)
    drawn = model.sample(theta, repeated, np.random.default_rng(4))
    assert agrees(dense(metric), fisher(model.scores(theta, repeated, drawn)), 60)


def test_mc_metric_F3_converges_at_the_root_of_the_number_of_labels():
    model = SoftmaxRegression(2, 3)
    theta, X, _ = case(model, 30)
    exact = dense(fisher_metric(model, theta, X))

    def error(labels):
        draws = [
            dense(fisher_metric(model, theta, X, fisher="mc", rng=seed, labels=labels)) - exact
            for seed in range(40)
        ]
        return np.sqrt(np.mean([np.sum(d * d) for d in draws]))

    slope = np.log10(error(1) / error(100)) / 2
    assert abs(slope - 0.5) < 0.05


@pytest.mark.parametrize("kind", ["exact", "mc", "empirical"])
def test_metric_does_not_depend_on_the_block_size(kind, monkeypatch):
    model = SoftmaxRegression(4, 3)
    theta, X, y = case(model, 40)

    def build():
        return dense(fisher_metric(model, theta, X, y, fisher=kind, rng=0))

    whole = build()
    monkeypatch.setattr(metric_module, "_BLOCK_BYTES", 1)  # blocks of 6 samples
    if kind != "mc":  # blocks draw their labels in another order than one call
        assert agrees(build(), whole, 120)
    assert np.isfinite(build()).all()


def test_metric_keeps_the_dtype_and_names_its_kind():
    model = MLP((3, 4, 2))
    theta, X, _ = case(model, 50)
    metric = fisher_metric(model, theta.astype("f4"), X.astype("f4"))
    assert (metric @ theta.astype("f4")).dtype == np.float32
    assert metric.kind == "exact"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fisher": "true"}, "fisher is 'true'; expected one of exact, mc, empirical"),
        ({"fisher": "empirical", "y": None}, "needs the labels y"),
        ({"X": np.empty((0, 4))}, "X has no rows"),
        ({"X": np.float64(1)}, "X has no rows"),
        ({"X": None}, "X is NoneType"),
        ({"X": np.ma.ones((5, 4))}, "X is a masked array"),
        ({"theta": 1.0}, r"theta has shape \(\), expected \(p,\)"),
        ({"fisher": "mc", "labels": 0}, "labels is 0; expected an integer >= 1"),
        ({"fisher": "mc", "labels": "two"}, "labels is 'two'"),
        ({"fisher": "mc", "rng": "seed"}, "rng is 'seed'"),
    ],
)
def test_metric_refuses(change, message):
    model = SoftmaxRegression(4, 3)
    theta, X, y = case(model, 5)
    args = {"theta": theta, "X": X, "y": y} | change
    for metric in (fisher_metric, structured_metric):
        with pytest.raises(InputError, match=message):
            metric(model, **args)
