"""Softmax regression and the MLP: each closed form against a law that does not know it."""

import numpy as np
import pytest

from fastfisher.errors import InputError
from fastfisher.models import MLP, SoftmaxRegression
from tests.oracle import fisher, layer_scores
from tests.tolerances import LIMITS, assert_ratio, unit_roundoff

U = unit_roundoff("float64")
MODELS = {
    "softmax": SoftmaxRegression(4, 3),
    "softmax-l2": SoftmaxRegression(4, 3, l2=0.3),
    "tanh": MLP((4, 6, 5, 3), activation="tanh", l2=0.1),
    "relu": MLP((4, 6, 3), activation="relu"),
}
METHODS = "loss gradient scores exact_scores probabilities predict accuracy layers".split()


def case(model, n=7, seed=0, dtype="float64"):
    """theta with non-zero biases, features and labels that use every class."""
    rng = np.random.default_rng(seed)
    theta = 0.7 * rng.normal(size=model.n_params)
    X = rng.normal(size=(n, model.n_features))
    return theta.astype(dtype), X.astype(dtype), np.arange(n) % model.n_classes


def central_difference(f, theta):
    """Gradient of a scalar or vector f, one row per parameter; its error is some u^(2/3)."""
    h = U ** (1 / 3)
    return np.array([(f(theta + h * e) - f(theta - h * e)) / (2 * h) for e in np.eye(len(theta))])


def jacobian_of_logits(model, theta, x):
    """dz/dtheta of one row, (n_classes, p), from differences of log-probabilities.

    log p differs from the logits by a term equal for all classes, which diag(p) - pp' removes.
    """
    return central_difference(lambda t: model.log_probabilities(t, x)[0], theta).T


@pytest.fixture(params=MODELS, ids=str)
def model(request):
    return MODELS[request.param]


# Values by hand ------------------------------------------------------------------------------


def test_softmax_loss_and_scores_by_hand():
    model = SoftmaxRegression(1, 2)
    theta, X, y = np.array([0.0, 0.0, np.log(3.0), 0.0]), np.array([[1.0]]), np.array([0])
    np.testing.assert_allclose(model.probabilities(theta, X), [[0.25, 0.75]], rtol=4 * U)
    np.testing.assert_allclose(model.loss(theta, X, y), np.log(4.0), rtol=4 * U)
    np.testing.assert_allclose(model.scores(theta, X, y), [[0.75, 0.75, -0.75, -0.75]], rtol=4 * U)
    assert model.predict(theta, X) == 1
    assert model.accuracy(theta, X, y) == 0.0


@pytest.mark.parametrize(
    ("model", "n_params"),
    [(SoftmaxRegression(64, 10), 650), (MLP((64, 32, 10)), 2410), (MLP((3, 2)), 8)],
    ids=repr,
)
def test_number_of_parameters(model, n_params):
    assert model.n_params == n_params
    assert model.init(np.random.default_rng(0)).shape == (n_params,)


def test_parameters_of_softmax_are_class_major_with_the_bias_last():
    model = SoftmaxRegression(2, 3)
    W = np.arange(9.0).reshape(3, 3) / 10
    X = np.array([[1.0, -2.0]])
    logits = W[:, :2] @ X[0] + W[:, 2]
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(model.probabilities(W.ravel(), X)[0], expected, rtol=8 * U)


def test_network_without_hidden_layer_is_softmax_regression():
    network, softmax = MLP((4, 3), l2=0.2), SoftmaxRegression(4, 3, l2=0.2)
    theta, X, y = case(softmax)
    assert network.loss(theta, X, y) == softmax.loss(theta, X, y)
    np.testing.assert_array_equal(network.scores(theta, X, y), softmax.scores(theta, X, y))


def test_start_is_reproducible_with_zero_biases_and_the_stated_variance():
    for activation, variance in (("tanh", 2 / 500), ("relu", 2 / 300)):
        model = MLP((300, 200, 2), activation=activation)
        theta = model.init(np.random.default_rng(3))
        np.testing.assert_array_equal(theta, model.init(np.random.default_rng(3)))
        W = theta[: 200 * 301].reshape(200, 301)
        assert not W[:, -1].any()
        # relative s.e. of a variance over N normals is sqrt(2/N); four of them
        assert abs(W[:, :-1].var() / variance - 1) < 4 * np.sqrt(2 / 60_000)
    assert not SoftmaxRegression(5, 3).init().any()


# Derivatives ---------------------------------------------------------------------------------


def test_gradient_is_the_derivative_of_the_loss(model):
    theta, X, y = case(model)
    numeric = central_difference(lambda t: model.loss(t, X, y), theta)
    np.testing.assert_allclose(model.gradient(theta, X, y), numeric, atol=30 * U ** (2 / 3))


def test_scores_are_the_derivatives_of_the_log_likelihood(model):
    theta, X, y = case(model)
    numeric = central_difference(
        lambda t: model.log_probabilities(t, X)[np.arange(len(y)), y], theta
    )
    np.testing.assert_allclose(model.scores(theta, X, y), numeric.T, atol=30 * U ** (2 / 3))


def test_gradient_is_the_penalty_minus_the_mean_score(model):
    theta, X, y = case(model)
    expected = model.l2 * theta - model.scores(theta, X, y).mean(axis=0)
    np.testing.assert_allclose(model.gradient(theta, X, y), expected, atol=30 * len(y) * U)


def test_l2_enters_loss_and_gradient_and_nothing_else():
    plain, penal = SoftmaxRegression(4, 3), SoftmaxRegression(4, 3, l2=0.5)
    theta, X, y = case(plain)
    added = penal.loss(theta, X, y) - plain.loss(theta, X, y)
    assert abs(added - 0.25 * theta @ theta) <= 30 * U * added
    np.testing.assert_array_equal(penal.scores(theta, X, y), plain.scores(theta, X, y))
    np.testing.assert_array_equal(penal.exact_scores(theta, X)[0], plain.exact_scores(theta, X)[0])


def test_layers_L1_give_the_scores_as_kron_of_signal_and_input(model):
    theta, X, y = case(model)
    layers = model.layers(theta, X, y)
    assert [(A.shape[1], E.shape[1]) for A, E in layers] == model.layer_sizes
    assert all((A[:, -1] == 1).all() for A, _ in layers)
    np.testing.assert_array_equal(layer_scores(layers), model.scores(theta, X, y))


# Fisher --------------------------------------------------------------------------------------


def test_score_F1_has_mean_zero_under_the_model(model):
    theta, X, _ = case(model)
    rows, weights = model.exact_scores(theta, X)
    C = model.n_classes
    mean = (weights[:, None] * rows).reshape(len(X), C, -1).sum(axis=1)
    assert np.abs(mean).max() <= 30 * C * U * np.abs(rows).max()


def test_exact_scores_F4_are_the_scores_of_every_label(model):
    theta, X, _ = case(model)
    rows, weights = model.exact_scores(theta, X)
    C = model.n_classes
    assert rows.shape == (len(X) * C, model.n_params)
    np.testing.assert_array_equal(weights.reshape(-1, C), model.probabilities(theta, X))
    for c in range(C):
        labelled = model.scores(theta, X, np.full(len(X), c))
        np.testing.assert_allclose(rows[c::C], labelled, atol=8 * U)


def test_exact_fisher_F4_is_the_generalised_gauss_newton_matrix(model):
    theta, X, _ = case(model, n=4)
    F = fisher(*model.exact_scores(theta, X))
    ggn = np.zeros_like(F)
    for i in range(len(X)):
        J = jacobian_of_logits(model, theta, X[i : i + 1])
        p = model.probabilities(theta, X[i : i + 1])[0]
        ggn += J.T @ (np.diag(p) - np.outer(p, p)) @ J / len(X)
    np.testing.assert_allclose(F, ggn, atol=100 * U ** (2 / 3))


def test_exact_fisher_F6_of_softmax_is_the_hessian_of_the_loss():
    model = MODELS["softmax"]
    theta, X, y = case(model)
    hessian = central_difference(lambda t: model.gradient(t, X, y), theta)
    F = fisher(*model.exact_scores(theta, X))
    np.testing.assert_allclose(F, hessian, atol=30 * U ** (2 / 3))
    empirical = fisher(model.scores(theta, X, y))
    assert np.abs(empirical - hessian).max() > 0.01, "F5: the empirical Fisher is another matrix"


def test_exact_fisher_G1_of_softmax_is_a_kronecker_sum_with_a_null_space():
    model = MODELS["softmax"]
    theta, X, _ = case(model)
    F = fisher(*model.exact_scores(theta, X))
    Z = np.c_[X, np.ones(len(X))]
    expected = sum(
        np.kron(np.diag(p) - np.outer(p, p), np.outer(z, z)) / len(X)
        for p, z in zip(model.probabilities(theta, X), Z, strict=True)
    )
    scale = np.abs(F).max()
    np.testing.assert_allclose(F, expected, atol=30 * len(X) * U * scale)
    shift = np.kron(np.ones(3), np.array([0.3, -1.0, 2.0, 0.5, 1.0]))
    assert np.abs(F @ shift).max() <= 30 * len(F) * U * scale * np.abs(shift).max()
    assert np.linalg.matrix_rank(F) <= 2 * 5


def test_exact_fisher_F2_is_symmetric_psd_of_limited_rank():
    model = MLP((4, 6, 3))
    theta, X, _ = case(model, n=5)
    eigenvalues = np.linalg.eigvalsh(fisher(*model.exact_scores(theta, X)))
    p, largest = model.n_params, eigenvalues[-1]
    assert eigenvalues[0] >= -30 * p * U * largest
    # one label's score per row is a combination of the others
    assert (eigenvalues > 30 * p * U * largest).sum() <= 5 * (3 - 1)


def test_sampled_fisher_F3_converges_to_the_exact_one():
    model = MODELS["softmax"]
    theta, X, _ = case(model)
    exact = fisher(*model.exact_scores(theta, X))
    repeated = np.repeat(X, 4000, axis=0)
    labels = model.sample(theta, repeated, np.random.default_rng(5))
    rows = model.scores(theta, repeated, labels)
    sampled = fisher(rows)
    # variance of one entry under the model, in its four standard errors
    R, w = model.exact_scores(theta, X)
    second = (w[:, None] * R**2).T @ R**2 / w.sum()
    error = np.sqrt(second / len(rows))
    assert np.all(np.abs(sampled - exact) <= 4 * error + 30 * len(rows) * U)


# KL ------------------------------------------------------------------------------------------


def test_kl_K1_is_half_the_quadratic_form_with_slope_three(model):
    theta, X, _ = case(model)
    F = fisher(*model.exact_scores(theta, X))
    d = np.random.default_rng(1).normal(size=model.n_params) / 10

    def excess(t):
        return abs(model.kl(theta, theta + t * d, X) - 0.5 * t * t * d @ F @ d)

    slope = np.log10(excess(1e-2) / excess(1e-3))
    assert abs(slope - 3) <= 0.15


def test_kl_is_accurate_where_the_textbook_sum_has_lost_every_digit(model):
    theta, X, _ = case(model)
    F = fisher(*model.exact_scores(theta, X))
    d = 1e-9 * np.random.default_rng(1).normal(size=model.n_params)
    assert abs(model.kl(theta, theta + d, X) / (0.5 * d @ F @ d) - 1) < 1e-5
    assert model.kl(theta, theta, X) == 0.0


def test_kl_equals_the_textbook_sum_for_large_steps(model):
    theta, X, _ = case(model)
    log_p, log_q = (model.log_probabilities(t, X) for t in (theta, -2 * theta))
    textbook = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    assert abs(model.kl(theta, -2 * theta, X) - textbook) <= 100 * U * textbook


# Range and dtype -----------------------------------------------------------------------------


def test_probabilities_G2_reach_exact_zero_and_one_without_nan():
    model = SoftmaxRegression(1, 3)
    theta = np.array([0.0, 0.0, 2000.0, 0.0, -2000.0, 0.0])
    X = np.array([[1.0], [-1.0]])
    np.testing.assert_array_equal(model.probabilities(theta, X), [[0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(model.scores(theta, X, np.array([1, 2])), np.zeros((2, 6)))
    assert model.loss(theta, X, np.array([1, 2])) == 0.0
    assert model.loss(theta, X, np.array([0, 0])) == 2000.0
    assert model.kl(theta, theta, X) == 0.0
    assert model.kl(theta, -theta, X) == 4000.0
    rows, weights = model.exact_scores(theta, X)
    assert np.isfinite(rows).all()
    assert weights.sum() == 2.0


def test_overflowing_logits_make_the_loss_infinite_and_the_rest_an_error():
    model = SoftmaxRegression(1, 2)
    theta, X, y = np.array([1e308, 0, -1e308, 0]), np.array([[1e10]]), np.array([0])
    assert model.loss(theta, X, y) == np.inf
    with pytest.raises(InputError, match=r"logits overflow float64: max .theta. is 1e\+308"):
        model.gradient(theta, X, y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_follows_theta_and_X(model, dtype):
    theta, X, y = case(model, dtype=dtype)
    for array in (
        model.gradient(theta, X, y),
        model.scores(theta, X, y),
        *model.exact_scores(theta, X),
        model.probabilities(theta, X),
        *model.layers(theta, X, y)[0],
        model.init(np.random.default_rng(0), dtype=dtype),
    ):
        assert array.dtype == dtype
    wide = case(model)
    error = np.abs(model.gradient(theta, X, y) - model.gradient(*wide)).max()
    assert_ratio(error / unit_roundoff(dtype), LIMITS["identity"], "gradient")


def test_input_is_read_only_and_unchanged(model):
    theta, X, y = case(model)
    for a in (theta, X, y):
        a.flags.writeable = False
    for method in METHODS:
        labelled = (y,) if method in {"loss", "gradient", "scores", "accuracy", "layers"} else ()
        getattr(model, method)(theta, X, *labelled)
    np.testing.assert_array_equal(theta, case(model)[0])


def test_strided_features_give_the_same_result(model):
    theta, X, y = case(model)
    wide = np.zeros((2 * len(X), model.n_features * 3), order="F")
    wide[::2, ::3] = X
    np.testing.assert_allclose(
        model.scores(theta, wide[::2, ::3], y), model.scores(theta, X, y), atol=8 * U
    )


def test_no_rows_give_empty_scores_and_an_error_for_means(model):
    theta, X, y = case(model, n=0)
    assert model.scores(theta, X, y).shape == (0, model.n_params)
    assert model.exact_scores(theta, X)[0].shape == (0, model.n_params)
    for method, args in (("loss", (X, y)), ("gradient", (X, y)), ("accuracy", (X, y))):
        with pytest.raises(InputError, match="X has no rows"):
            getattr(model, method)(theta, *args)
    with pytest.raises(InputError, match="X has no rows"):
        model.kl(theta, theta, X)


def test_labels_are_drawn_with_the_models_probabilities():
    model = SoftmaxRegression(1, 3)
    theta = np.log([1.0, 0.2, 1.0, 0.3, 1.0, 0.5])  # probabilities 0.2, 0.3, 0.5 for every x
    X = np.zeros((40_000, 1))
    drawn = np.bincount(model.sample(theta, X, np.random.default_rng(0)), minlength=3) / len(X)
    p = np.array([0.2, 0.3, 0.5])
    assert np.all(np.abs(drawn - p) <= 4 * np.sqrt(p * (1 - p) / len(X)))


def test_a_label_of_probability_zero_is_never_drawn():
    class Edges:
        """A generator that only returns the ends of its interval."""

        @staticmethod
        def random(shape):
            return np.where(np.indices(shape).sum(axis=0) % 2, 0.0, np.nextafter(1.0, 0.0))

    model = SoftmaxRegression(1, 4)
    theta = np.array([0, -3000.0, 0, 0, 0, 0, 0, -3000.0])  # only classes 1 and 2 are possible
    z = model.outputs(theta, np.zeros((2, 1)))
    assert set(model.family._sample(z, Edges(), (2,))) == {1, 2}


# Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": lambda X: X[:, :2]}, r"X has shape \(7, 2\), expected \(n, 4\)"),
        ({"X": lambda X: X[0]}, r"X has shape \(4,\), expected \(n, 4\)"),
        ({"X": lambda X: X.astype(int)}, r"X has dtype int64.*astype\('float64'\)"),
        ({"X": lambda X: X.astype("f2")}, "X has dtype float16"),
        ({"X": lambda X: np.ma.masked_array(X)}, "X is a masked array"),
        ({"X": lambda X: np.where(X == X[2, 1], np.nan, X)}, r"X\[2, 1\] is nan"),
        ({"theta": lambda t: t[:-1]}, r"theta has shape \(14,\), expected \(15,\)"),
        ({"theta": lambda t: t * np.inf}, r"theta\[0\] is -?inf"),
        ({"y": lambda y: y[:-1]}, r"y has shape \(6,\) but X has 7 rows"),
        ({"y": lambda y: y + 1}, r"y\[2\] is 3, expected a class in 0\.\.2"),
        ({"y": lambda y: y - 1}, r"y\[0\] is -1"),
        ({"y": lambda y: y.astype(float)}, "y has dtype float64, expected integer class labels"),
        ({"y": lambda y: y > 0}, "y has dtype bool"),
    ],
)
def test_bad_input_is_named(change, message):
    model = MODELS["softmax"]
    args = dict(zip(("theta", "X", "y"), case(model), strict=True))
    for name, spoil in change.items():
        args[name] = spoil(args[name])
    for method in (model.loss, model.gradient, model.scores):
        with pytest.raises(InputError, match=message):
            method(**args)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP((4,)), r"sizes is \(4,\), expected positive integers"),
        (lambda: MLP((4, 0, 3)), "sizes is"),
        (lambda: MLP((4, 2.5, 3)), "sizes is"),
        (lambda: MLP((4, 1)), "at least 2 classes"),
        (lambda: SoftmaxRegression(4, 1), "at least 2 classes"),
        (lambda: SoftmaxRegression(4.5, 2), "n_features is 4.5, expected an integer"),
        (lambda: MLP((4, 2), activation="gelu"), "activation is 'gelu', expected 'tanh' or 'relu'"),
        (lambda: MLP((4, 2), l2=-1.0), "l2 is -1.0, expected a finite number >= 0"),
        (lambda: MLP((4, 2), l2=float("nan")), "l2 is nan"),
    ],
)
def test_bad_model_is_named(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_repr_rebuilds_the_model():
    for model in MODELS.values():
        clone = eval(repr(model), {"MLP": MLP, "SoftmaxRegression": SoftmaxRegression})
        assert (repr(clone), vars(clone)) == (repr(model), vars(model))
