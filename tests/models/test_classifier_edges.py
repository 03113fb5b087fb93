"""Classifiers at the edges: range, dtype, layouts, no rows, certain labels, refusals."""

import numpy as np
import pytest

from fastfisher.errors import InputError
from fastfisher.models import MLP, SoftmaxRegression
from tests.models.classifiers import METHODS, MODELS, U, case
from tests.models.classifiers import model as model
from tests.tolerances import LIMITS, assert_ratio, unit_roundoff

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
        ({"y": lambda y: np.ma.masked_array(y)}, "y is a masked array"),
        ({"X": lambda X: [[1.0], [1.0, 2.0]]}, "X of type list is no array"),
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
        (lambda: SoftmaxRegression(4, 1), "n_classes is 1; expected an integer >= 2"),
        (lambda: SoftmaxRegression(4.5, 2), "n_features is 4.5; expected an integer"),
        (lambda: MLP((4, 2), activation="gelu"), "activation is 'gelu'; expected one of tanh"),
        (lambda: MLP((4, 2), l2=-1.0), "l2 is -1.0; expected a finite real number >= 0"),
        (lambda: MLP((4, 2), l2=float("nan")), "l2 is nan"),
        (lambda: MLP((4, 2), l2="small"), "l2 is 'small'; expected a real number"),
        (lambda: MLP((4, 2), l2=None), "l2 is None"),
        (lambda: MLP((4, 2), activation=[]), r"activation is \[\]"),
        (lambda: MLP((4, 2)).init("seed"), "rng is 'seed'; expected a numpy.random.Generator"),
        (lambda: MLP((4, 2)).init(0, "int64"), "dtype is 'int64'"),
        (lambda: SoftmaxRegression(4, 2).init(dtype="wide"), "dtype is 'wide'"),
        (lambda: SoftmaxRegression(4, 2, intercept="no"), "intercept is 'no'; expected True or"),
        (lambda: SoftmaxRegression(True, 2), "n_features is True"),
    ],
)
def test_bad_model_is_named(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_repr_rebuilds_the_model():
    for each in MODELS.values():
        clone = eval(repr(each), {"MLP": MLP, "SoftmaxRegression": SoftmaxRegression})
        assert (repr(clone), vars(clone)) == (repr(each), vars(each))
