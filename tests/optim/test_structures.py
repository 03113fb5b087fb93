"""What a metric keeps of F: everything, the diagonal, Kronecker factors; running averages."""

import numpy as np
import pytest

from fastfisher.errors import InputError
from fastfisher.fisher import (
    DenseFisher,
    DiagonalFisher,
    GramFisher,
    KroneckerFisher,
    LayeredFisher,
)
from fastfisher.models import MLP, SoftmaxRegression
from fastfisher.optim import NaturalGradient, minimize, structured_metric
from fastfisher.optim import metric as metric_module
from tests.oracle import fisher
from tests.tolerances import unit_roundoff

U = unit_roundoff("float64")
KINDS = {
    "full": (DenseFisher, GramFisher),
    "layered": LayeredFisher,
    "diagonal": DiagonalFisher,
    "kfac": KroneckerFisher,
    "ekfac": KroneckerFisher,
}


def case(n=30, seed=0):
    rng = np.random.default_rng(seed)
    model = MLP((4, 3, 3), l2=0.01)
    X = rng.normal(size=(n, 4))
    return model, model.init(rng), X, rng.integers(3, size=n)


def rows_of(model, theta, X, y, kind):
    """Scores and weights of the Fisher that is meant."""
    if kind == "exact":
        return model.exact_scores(theta, X)
    if kind == "mc":
        X = np.repeat(X, 2, axis=0)
        y = model.sample(theta, X, np.random.default_rng(3))
    return model.scores(theta, X, y), None


def kronecker(model, theta, X, y):
    """blockdiag kron(E'E / n, A'A / n) in NumPy."""
    F, first = np.zeros((model.n_params,) * 2), 0
    for A, E in model.layers(theta, X, y):
        block = np.kron(E.T @ E, A.T @ A) / len(X) ** 2
        F[first : first + len(block), first : first + len(block)] = block
        first += len(block)
    return F


@pytest.mark.parametrize("kind", ["exact", "mc", "empirical"])
@pytest.mark.parametrize("structure", KINDS)
def test_structure_is_its_part_of_the_fisher(structure, kind):
    model, theta, X, y = case()
    metric = structured_metric(
        model, theta, X, y, structure=structure, fisher=kind, rng=3, labels=2
    )
    assert isinstance(metric, KINDS[structure])
    assert metric.kind == kind
    F = fisher(*rows_of(model, theta, X, y, kind))
    M = metric.matrix()
    scale = np.abs(F).max()
    if structure in ("full", "layered"):
        assert np.abs(M - F).max() <= 1e3 * U * scale
    elif structure == "diagonal":
        assert np.abs(M - np.diag(F.diagonal())).max() <= 1e3 * U * scale
    else:
        assert np.abs(M - F).max() > 0.01 * scale, "an approximation"
        assert M[:15, 15:].max() == M[:15, 15:].min() == 0, "layers do not mix"


def test_kfac_C1_is_the_kronecker_product_of_the_moments():
    model, theta, X, y = case()
    metric = structured_metric(model, theta, X, y, structure="kfac", fisher="empirical")
    np.testing.assert_allclose(metric.matrix(), kronecker(model, theta, X, y), atol=1e-15)


def test_ekfac_C4_is_nearer_to_the_fisher_than_kfac_and_has_its_trace():
    model, theta, X, y = case()
    F = fisher(model.scores(theta, X, y))
    F[:15, 15:] = F[15:, :15] = 0
    kfac, ekfac = (
        structured_metric(model, theta, X, y, structure=name, fisher="empirical")
        for name in ("kfac", "ekfac")
    )
    assert np.linalg.norm(F - ekfac.matrix()) < np.linalg.norm(F - kfac.matrix())
    assert abs(ekfac.trace() - np.trace(F)) <= 1e3 * U * np.trace(F)
    assert abs(kfac.trace() - np.trace(F)) > 1e-3 * np.trace(F), "the trace of KFAC is another"


@pytest.mark.parametrize("kind", ["exact", "mc", "empirical"])
def test_diagonal_does_not_depend_on_the_block_size(kind, monkeypatch):
    model, theta, X, y = case()

    def build():
        metric = structured_metric(model, theta, X, y, structure="diagonal", fisher=kind, rng=0)
        return metric.diagonal()

    whole = build()
    monkeypatch.setattr(metric_module, "_BLOCK_BYTES", 1)  # a sample at a time
    np.testing.assert_allclose(build(), whole, rtol=1e-12)


@pytest.mark.parametrize("structure", ["full", "diagonal", "kfac", "ekfac"])
def test_running_U3_is_the_decayed_average_of_the_batches(structure):
    model, theta, X, y = case()
    settings = {"structure": structure, "fisher": "empirical", "decay": 0.5}
    one = structured_metric(model, theta, X[:15], y[:15], **settings)
    bases = one.matrix()
    both = structured_metric(model, theta, X[15:], y[15:], running=one, **settings)
    assert both is one
    second = structured_metric(
        model, theta, X[15:], y[15:], structure=structure, fisher="empirical"
    )
    if structure in ("full", "diagonal"):
        expected = (0.5 * bases + second.matrix()) / 1.5
        np.testing.assert_allclose(both.matrix(), expected, atol=1e-14)
    elif structure == "kfac":
        fresh = [model.layers(theta, X[part], y[part])[0][0] for part in (slice(15), slice(15, 30))]
        A = (0.5 * fresh[0].T @ fresh[0] + fresh[1].T @ fresh[1]) / 22.5
        np.testing.assert_allclose(both._blocks().pairs[0][1], A, atol=1e-14)
    else:
        assert abs(both.trace() - (0.5 * np.trace(bases) + second.trace()) / 1.5) < 1e-14
    assert both.weight == 22.5


def test_layered_steps_are_those_of_the_full_fisher():
    model, theta, X, y = case(n=12)
    fits = [
        minimize(
            model,
            X,
            y,
            optimizer=NaturalGradient(damping=0.1, structure=structure),
            iterations=3,
            theta0=theta,
        )
        for structure in ("full", "layered")
    ]
    np.testing.assert_allclose(fits[1].theta, fits[0].theta, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("structure", ["diagonal", "kfac", "ekfac"])
def test_every_structure_trains(structure):
    model, theta, X, _ = case()
    fit = minimize(
        model,
        X,
        X[:, :3].argmax(axis=1),
        optimizer=NaturalGradient(damping=0.1, structure=structure),
        iterations=10,
        theta0=theta,
    )
    assert fit.loss < 0.8 * fit.history["loss"][0]
    assert np.nanmax(fit.history["residual"]) < 1e-10


def test_float32_keeps_its_dtype():
    model, theta, X, y = case()
    for structure in KINDS:
        metric = structured_metric(
            model, theta.astype("f4"), X.astype("f4"), y, structure=structure, fisher="empirical"
        )
        assert metric.dtype == np.float32, structure


class NoLayers:
    """A model with scores but without layers."""

    def __init__(self, model):
        self.scores = model.scores


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"structure": "block"}, "structure is 'block'; expected one of full, layered, diagonal"),
        ({"fisher": "true"}, "fisher is 'true'; expected one of exact, mc, empirical"),
        ({"decay": 0.0}, r"decay is 0.0, expected a number in \(0, 1\]"),
        ({"structure": "layered", "decay": 0.5}, "keeps its rows and cannot fade"),
        ({"structure": "kfac", "y": None}, "fisher='empirical' needs the labels y"),
        ({"structure": "diagonal", "y": None}, "fisher='empirical' needs the labels y"),
        ({"structure": "diagonal", "X": np.zeros((0, 4))}, "X has no rows"),
    ],
)
def test_structured_metric_refuses(change, message):
    model, theta, X, y = case()
    operands = {"X": X, "y": y} | {k: change.pop(k) for k in ("X", "y") if k in change}
    with pytest.raises(InputError, match=message):
        structured_metric(model, theta, **operands, **({"fisher": "empirical"} | change))


def test_models_without_layers_are_named():
    model, theta, X, y = case()
    with pytest.raises(InputError, match="NoLayers has no layers, which structure='kfac'"):
        structured_metric(NoLayers(model), theta, X, y, structure="kfac", fisher="empirical")
    softmax = SoftmaxRegression(4, 3)
    F = structured_metric(softmax, np.zeros(15), X, structure="kfac")
    assert F.widths == ((5, 3),)
