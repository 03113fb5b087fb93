"""Gaussian networks; KL, dtypes, ranges and refusals of the regressions."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError
from fastfisher.models import (
    GLM,
    MLP,
    Categorical,
    ExponentialFamily,
    Gaussian,
    GaussianMean,
    LinearRegression,
    LogisticRegression,
    PoissonRegression,
    SoftmaxRegression,
)
from tests.models.regressions import GLMS, MODELS, case, derivative
from tests.oracle import fisher
from tests.tolerances import LIMITS, assert_ratio, unit_roundoff


@pytest.fixture(params=MODELS, ids=str)
def model(request):
    return MODELS[request.param]


@pytest.fixture(params=GLMS, ids=str)
def glm(request):
    return MODELS[request.param]


# Networks with a Gaussian output ----------------------------------------------------------------


def test_gaussian_network_F4_is_the_gauss_newton_matrix():
    model = MODELS["gaussian-tanh"]
    theta, X, _ = case(model)
    F = fisher(*model.exact_scores(theta, X))
    ggn = 0
    for i in range(len(X)):
        J = derivative(lambda t, i=i: model.mean(t, X[i : i + 1])[0], theta).T
        ggn = ggn + J.T @ J / 0.25 / len(X)
    np.testing.assert_allclose(F, ggn, atol=1e-8 * np.abs(ggn).max())


def test_layers_of_a_gaussian_network_feed_the_layered_fishers():
    model = MODELS["gaussian-relu"]
    theta, X, y = case(model, 6)
    layered = ff.LayeredFisher().update(model.layers(theta, X, y))
    np.testing.assert_allclose(layered.matrix(), fisher(model.scores(theta, X, y)), atol=1e-13)
    layers, weights = model.exact_layers(theta, X)
    exact = ff.LayeredFisher().update(layers, weights=weights)
    expected = fisher(*model.exact_scores(theta, X))
    np.testing.assert_allclose(exact.matrix(), expected, atol=1e-13)
    kfac = ff.KroneckerFisher(model.layer_sizes).update(layers, weights=weights)
    assert kfac.p == model.n_params


def test_kronecker_C1_is_exact_for_deep_linear_networks_with_the_exact_fisher():
    """One layer, squared loss: E does not depend on x, so the factors are exact."""
    model = GLM(GaussianMean(sigma=0.5, dim=2), 3)
    theta, X, _ = case(model, 25)
    layers, weights = model.exact_layers(theta, X)
    kfac = ff.KroneckerFisher(model.layer_sizes).update(layers, weights=weights)
    np.testing.assert_allclose(kfac.matrix(), model.exact_fisher(theta, X).matrix(), atol=1e-13)


def test_a_single_gaussian_output_takes_outcomes_of_one_axis():
    model = MODELS["gaussian-relu"]
    theta, X, y = case(model)
    assert y.shape == (9,)
    residual = y - model.mean(theta, X)
    expected = 0.5 * (residual**2).mean() + 0.5 * np.log(2 * np.pi)
    assert model.loss(theta, X, y) == pytest.approx(expected)
    np.testing.assert_array_equal(model.variance(theta, X), np.ones(9))


# KL, dtype, range --------------------------------------------------------------------------------


def test_kl_K1_of_models_is_half_the_quadratic_form_with_slope_three(model):
    theta, X, _ = case(model)
    F = fisher(*model.exact_scores(theta, X))
    d = np.random.default_rng(1).normal(size=len(theta)) / 10

    def excess(t):
        return abs(model.kl(theta, theta + t * d, X) - 0.5 * t * t * d @ F @ d)

    if excess(0.1) < 1e-13:  # linear in theta with known spread: quadratic exactly
        assert isinstance(model.family, GaussianMean)
    else:
        assert abs(np.log10(excess(1e-1) / excess(1e-2)) - 3) < 0.3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_follows_theta_and_X(model, dtype):
    theta, X, y = case(model, dtype=dtype)
    results = [
        model.gradient(theta, X, y), model.scores(theta, X, y), model.log_likelihood(theta, X, y),
        *model.exact_scores(theta, X), model.outputs(theta, X), model.mean(theta, X),
        model.variance(theta, X), *model.layers(theta, X, y)[0],
    ]  # fmt: skip
    if hasattr(model, "exact_fisher"):
        results.append(model.exact_fisher(theta, X).matrix())
    assert {str(a.dtype) for a in results} == {dtype}
    wide = (theta.astype("f8"), X.astype("f8"), y)
    scale = np.abs(model.scores(*wide)).max()
    error = np.abs(model.gradient(theta, X, y) - model.gradient(*wide)).max() / scale
    assert_ratio(error / unit_roundoff(dtype), LIMITS["identity"], "gradient")


def test_input_is_read_only_and_unchanged(model):
    theta, X, y = case(model)
    before = [a.copy() for a in (theta, X, y)]
    for a in (theta, X, y):
        a.flags.writeable = False
    for method in ("loss", "gradient", "scores", "layers", "log_likelihood"):
        getattr(model, method)(theta, X, y)
    for method in ("outputs", "mean", "variance", "exact_scores"):
        getattr(model, method)(theta, X)
    for a, kept in zip((theta, X, y), before, strict=True):
        np.testing.assert_array_equal(a, kept)


def test_overflow_is_an_infinite_loss_and_an_error_elsewhere():
    X, y = np.array([[1.0], [2.0]]), np.array([0, 3])
    model = PoissonRegression(1)
    theta = np.array([500.0, 0.0])  # exp(1000) overflows, 1000 does not
    assert model.loss(theta, X, y) == np.inf
    for call in (
        lambda: model.gradient(theta, X, y),
        lambda: model.exact_fisher(theta, X),
        lambda: model.exact_scores(theta, X),
    ):
        with pytest.raises(InputError, match=r"outputs overflow float64: max .theta. is 500"):
            call()
    model = LinearRegression(1)
    theta = np.array([1e308, 1e308])
    assert model.loss(theta, X * 10, y.astype(float)) == np.inf
    with pytest.raises(InputError, match="outputs overflow"):
        model.mean(theta, X * 10)
    network = MLP((1, 1), output="gaussian")
    with pytest.raises(InputError, match="outputs overflow"):
        network.mean(theta, X * 10)


def test_no_rows_are_refused_where_a_mean_is_asked(glm):
    theta, X, y = case(glm, 0)
    assert glm.scores(theta, X, y).shape == (0, glm.n_params)
    for call in (lambda: glm.exact_fisher(theta, X), lambda: glm.loss(theta, X, y)):
        with pytest.raises(InputError, match="X has no rows"):
            call()


def test_repr_rebuilds_the_model(model):
    names = {c.__name__: c for c in (
        GLM, MLP, Categorical, Gaussian, GaussianMean, LinearRegression, LogisticRegression,
        PoissonRegression, SoftmaxRegression,
    )}  # fmt: skip
    clone = eval(repr(model), names)
    assert (type(clone), vars(clone)) == (type(model), vars(model))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GLM("poisson", 3), "family is 'poisson', expected a family"),
        (lambda: LogisticRegression(2.5), "n_features is 2.5; expected an integer"),
        (lambda: LogisticRegression(0, intercept=False), "n_features is 0; expected an integer"),
        (lambda: LinearRegression(2, sigma=-1.0), "sigma is -1.0"),
        (lambda: SoftmaxRegression(2, 3, reference=3), "reference is 3"),
        (lambda: MLP((3, 2), output="poisson"), "output is 'poisson'"),
        (lambda: MLP((3, 0), output="gaussian"), r"\(features, hidden\.\.\., outputs\)"),
        (
            lambda: MODELS["gaussian-relu"].predict(*case(MODELS["gaussian-relu"])[:2]),
            "predicts no classes; use mean",
        ),
        (
            lambda: MODELS["logistic"].loss(np.zeros(4), np.zeros((2, 3)), [0]),
            r"y has shape \(1,\) but X has 2 rows; pass one outcome per row",
        ),
        (
            lambda: MODELS["logistic"].loss(np.zeros(4), np.zeros((2, 3)), [0, 2]),
            r"y\[1\] is 2, expected 0 or 1",
        ),
        (
            lambda: MODELS["poisson"].loss(np.zeros(4), np.zeros((2, 3)), [0, -1]),
            r"y\[1\] is -1, expected a count",
        ),
        (
            lambda: MODELS["planes"].loss(np.zeros(8), np.zeros((2, 3)), [0.0, 1.0]),
            r"y has shape \(2,\) but X has 2 rows; pass one outcome per row, shape \(2, 2\)",
        ),
        (
            lambda: MODELS["linear"].loss(np.zeros(4), np.zeros((2, 3)), [[0.0], [1.0]]),
            r"y has shape \(2, 1\) .* shape \(2,\)",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_family_of_your_own_is_a_model():
    """Bernoulli written as a generic exponential family gives logistic regression."""
    own = ExponentialFamily(
        1,
        lambda eta: np.logaddexp(0, eta[..., 0]),
        lambda eta: 1 / (1 + np.exp(-eta)),
        lambda eta: (np.exp(-eta) / (1 + np.exp(-eta)) ** 2)[..., None],
        lambda y: y[..., None],
    )
    model, known = GLM(own, 3), LogisticRegression(3)
    theta, X, y = case(known)
    assert model.loss(theta, X, y) == pytest.approx(known.loss(theta, X, y))
    np.testing.assert_allclose(model.scores(theta, X, y), known.scores(theta, X, y), atol=1e-15)
    F = model.exact_fisher(theta, X).matrix()
    np.testing.assert_allclose(F, known.exact_fisher(theta, X).matrix(), rtol=1e-13)
