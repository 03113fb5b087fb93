"""The door: what may come in, in which clothes, what is refused, and that nothing is changed."""

import hashlib
import warnings

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError
from tests import matrices, oracle
from tests.tolerances import unit_roundoff

SHAPES = ((30, 12), (12, 30))
over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")


def hermitian(G):
    return np.asarray(oracle.fisher(G), dtype=G.dtype) + np.eye(G.shape[1], dtype=G.dtype)


def ones(size, like):
    return np.ones(size, np.asarray(like[:0]).dtype) if size else np.ones(0)


# Every public function of scores, as a function of G alone.
OF_SCORES = {
    "natural_gradient": lambda G: ff.natural_gradient(G, damping=0.5),
    "natural_gradient_centred": lambda G: ff.natural_gradient(G, damping=0.5, center=True),
    "solve_primal": lambda G: ff.solve(G, np.ones(G.shape[1]), damping=0.5, method="primal").x,
    "solve_dual": lambda G: ff.solve(G, np.ones(G.shape[1]), damping=0.5, method="dual").x,
    "solve_cg": lambda G: ff.solve(G, np.ones(G.shape[1]), damping=0.5, method="cg").x,
    "solve_coef": lambda G: ff.solve(G, coef=np.ones(G.shape[0]), damping=0.5, center=True).x,
    "solve_marquardt": lambda G: ff.solve(
        G, coef=np.ones((G.shape[0], 2)), damping=ff.Marquardt(0.1, shift=0.2), method="dual"
    ).x,
    "syrk": lambda G: ff.ops.syrk(G),
    "gram": lambda G: ff.ops.gram(G),
    "fvp": lambda G: ff.ops.fvp(G, np.ones(G.shape[1])),
    "matvec": lambda G: ff.ops.matvec(G, np.ones(G.shape[1])),
    "rmatvec": lambda G: ff.ops.rmatvec(G, np.ones(G.shape[0])),
    "diag": lambda G: ff.ops.diag(G),
    "layered_gram": lambda G: ff.ops.layered_gram([(G, G)]),
    "DenseFisher": lambda G: (
        ff.DenseFisher(G.shape[1], dtype="complex128").update(G).solve(damping=0.5).x
    ),
    "DiagonalFisher": lambda G: (
        ff.DiagonalFisher(G.shape[1], dtype="complex128").update(G).solve(damping=0.5).x
    ),
    "GramFisher": lambda G: ff.GramFisher().update(G).solve(damping=0.5).x,
}
over_functions = pytest.mark.parametrize("function", OF_SCORES.values(), ids=OF_SCORES.keys())


def digest(*operands):
    return [hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest() for a in operands]


# Layouts ---------------------------------------------------------------------------------------


@over_functions
@over_shapes
@over_dtypes
def test_law_26_13_every_layout_gives_the_bits_of_the_contiguous_array(function, shape, dtype, rng):
    G = matrices.gaussian(shape, dtype, rng)
    expected = function(G)
    for name, laid in matrices.layouts(G):
        before = digest(laid)
        result = function(laid)
        assert result.dtype == expected.dtype, name
        assert result.tobytes() == expected.tobytes(), name
        assert digest(laid) == before, name


@pytest.mark.parametrize("name", ["gram", "solve_dual", "syrk", "solve_primal", "fvp"])
@pytest.mark.parametrize("shape", [(2000, 2000), (60000, 60)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_law_26_13_layouts_share_their_bits_over_many_slices(name, shape, rng):
    if name in ("gram", "solve_dual") and shape[0] > 10000:
        pytest.skip("the Gram matrix would take 29 GB")
    G = matrices.gaussian(shape, "float64", rng)
    assert OF_SCORES[name](np.asfortranarray(G)).tobytes() == OF_SCORES[name](G).tobytes()


@over_dtypes
@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_law_26_13_zero_strides(axis, dtype, rng):
    line = matrices.gaussian((1, 7) if axis == 0 else (5, 1), dtype, rng)
    broadcast = np.broadcast_to(line, (5, 7))
    for name, function in OF_SCORES.items():
        assert function(broadcast).tobytes() == function(broadcast.copy()).tobytes(), name


@pytest.mark.parametrize("stored", ["float16", ">f2", "bfloat16"])
@over_functions
def test_half_precision_is_storage_computed_and_answered_in_float32(function, stored, rng):
    if stored == "bfloat16":
        stored = pytest.importorskip("ml_dtypes").bfloat16
    G = rng.standard_normal((9, 6)).astype(stored)
    for laid in (G, np.asfortranarray(G), G[::-1, ::2]):
        expected = function(np.ascontiguousarray(laid).astype(np.float32))
        result = function(laid)
        assert result.dtype == expected.dtype
        assert result.tobytes() == expected.tobytes()


def test_half_precision_right_hand_sides_weights_and_matrices(rng):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    G = rng.standard_normal((9, 6))
    b = rng.standard_normal(6).astype(bfloat16)
    w = (0.5 + rng.random(9)).astype(bfloat16)
    result = ff.solve(G, b, weights=w, damping=0.1).x
    wide = ff.solve(G, b.astype(np.float64), weights=w.astype(np.float64), damping=0.1).x
    assert result.tobytes() == wide.tobytes()
    A = (np.eye(3) * 4).astype(np.float16)
    assert ff.ops.cholesky(A).dtype == np.float32
    np.testing.assert_array_equal(ff.ops.cholesky(A), np.eye(3, dtype=np.float32) * 2)


def test_subclasses_and_nested_lists_are_arrays(rng):
    G = rng.standard_normal((4, 3))
    expected = ff.natural_gradient(G, damping=0.1)
    assert ff.natural_gradient(G.tolist(), damping=0.1).tobytes() == expected.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        subclass = np.matrix(G)
    result = ff.natural_gradient(subclass, damping=0.1)
    assert type(result) is np.ndarray and result.tobytes() == expected.tobytes()


# Other libraries ---------------------------------------------------------------------------------


class OnDevice:
    """What a GPU array looks like through DLPack."""

    dtype = "float32"
    shape = (3, 2)

    def __init__(self, device):
        self.device = device

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **kwargs):
        raise AssertionError("a device array must not be asked for its memory")


class ThroughDLPack:
    """A host array of an unknown library."""

    def __init__(self, a):
        self.a = a

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()

    def __dlpack__(self, **kwargs):
        return self.a.__dlpack__(**kwargs)


def test_dlpack_arrays_of_any_host_library(rng):
    G = rng.standard_normal((5, 3))
    for name, function in OF_SCORES.items():
        if name.startswith(("solve", "fvp", "matvec", "rmatvec", "Dense", "Diag")):
            continue  # these read G.shape in this file
        assert np.asarray(function(ThroughDLPack(G))).tobytes() == function(G).tobytes(), name


@pytest.mark.parametrize("device", [(2, 0), (2, 1), (10, 0)])
def test_arrays_on_a_device_are_refused_with_the_copy_to_write(device):
    with pytest.raises(InputError, match=r"lies on device \(\d+, \d\).*host copy.*\.cpu\(\)"):
        ff.natural_gradient(OnDevice(device), damping=1.0)
    with pytest.raises(InputError, match="weights lies on device"):
        ff.ops.syrk(np.ones((3, 2)), OnDevice(device))


def test_torch_in_torch_out(rng):
    torch = pytest.importorskip("torch")
    for dtype in matrices.DTYPES:
        G = matrices.gaussian((8, 5), dtype, rng)
        T = torch.from_numpy(G)
        for name, function in OF_SCORES.items():
            result, expected = function(T), function(G)
            if name in ("DenseFisher", "DiagonalFisher", "GramFisher"):
                assert np.asarray(result).tobytes() == expected.tobytes(), name
                continue
            assert isinstance(result, torch.Tensor), name
            assert result.numpy().tobytes() == expected.tobytes(), name


def test_torch_everywhere_an_array_is_taken(rng):
    torch = pytest.importorskip("torch")
    G, b, w = rng.standard_normal((8, 5)), rng.standard_normal(5), rng.random(8)
    T, tb, tw = map(torch.from_numpy, (G, b, w))
    same = [
        (ff.natural_gradient(T, tb, weights=tw, damping=1), ff.natural_gradient(G, b, weights=w, damping=1)),
        (ff.ops.syrk(T, tw), ff.ops.syrk(G, w)),
        (ff.ops.fvp(T, tb, tw), ff.ops.fvp(G, b, w)),
        (ff.ops.cholesky(ff.ops.syrk(T), damping=1), ff.ops.cholesky(ff.ops.syrk(G), damping=1)),
        (
            ff.ops.cho_solve(ff.ops.cholesky(ff.ops.syrk(T)), tb),
            ff.ops.cho_solve(ff.ops.cholesky(ff.ops.syrk(G)), b),
        ),
        (
            ff.ops.batched_solve(ff.ops.syrk(T)[None], tb[None])[0],
            ff.ops.batched_solve(ff.ops.syrk(G)[None], b[None])[0],
        ),
        (ff.ops.batched_solve(ff.ops.syrk(T)[None], tb[None])[1], np.zeros(1, np.int32)),
        (ff.DenseFisher(5).update(T, tw).solve(tb, damping=1).x, ff.DenseFisher(5).update(G, w).solve(b, damping=1).x),
    ]
    for result, expected in same:
        assert isinstance(result, torch.Tensor)
        assert result.numpy().tobytes() == expected.tobytes()


def test_torch_fisher_products_come_back_as_tensors(rng):
    torch = pytest.importorskip("torch")
    v = torch.ones(5, dtype=torch.float64)
    for F in (ff.DenseFisher(5), ff.DiagonalFisher(5), ff.GramFisher()):
        F.update(rng.standard_normal((8, 5)))
        assert isinstance(F @ v, torch.Tensor), type(F).__name__
        assert isinstance(F.factor(1.0).solve(v), torch.Tensor), type(F).__name__


def test_torch_non_contiguous_strided_and_transposed(rng):
    torch = pytest.importorskip("torch")
    base = torch.from_numpy(rng.standard_normal((12, 20)))
    for T in (base.T, base[::2, ::3], base[:, 3:9]):
        expected = ff.natural_gradient(np.ascontiguousarray(T.numpy()), damping=0.1)
        assert ff.natural_gradient(T, damping=0.1).numpy().tobytes() == expected.tobytes()


def test_torch_tensors_that_cannot_be_shared_are_refused_with_the_cure():
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match=r"requires grad.*G\.detach\(\)"):
        ff.natural_gradient(torch.ones(3, 2, requires_grad=True), damping=1.0)
    with pytest.raises(InputError, match=r"bfloat16.*G\.float\(\)"):
        ff.natural_gradient(torch.ones(3, 2, dtype=torch.bfloat16), damping=1.0)
    with pytest.raises(InputError, match="int64.*float64"):
        ff.natural_gradient(torch.ones(3, 2, dtype=torch.int64), damping=1.0)
    with pytest.raises(InputError, match=r"resolve_conj|conj"):
        ff.natural_gradient(torch.ones(3, 2, dtype=torch.complex64).conj(), damping=1.0)
    with pytest.raises(InputError, match="G of type Tensor"):
        ff.natural_gradient(torch.eye(3).to_sparse(), damping=1.0)
    half = ff.natural_gradient(torch.ones(3, 2, dtype=torch.float16), damping=1.0)
    assert half.dtype == torch.float32


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("G", "message"),
    [
        (np.ones((3, 2), np.int64), r"G has dtype int64.*pass G\.astype\(numpy\.float64\)"),
        (np.ones((3, 2), np.uint8), r"G has dtype uint8.*G\.astype\(numpy\.float64\)"),
        (np.ones((3, 2), bool), r"G has dtype bool.*G\.astype\(numpy\.float64\)"),
        ([[1, 2], [3, 4]], r"G has dtype int64.*astype"),
        (np.ones((3, 2), object), r"G has dtype object; expected one of float32, float64"),
        (np.ones((3, 2), np.longdouble), r"G has dtype float128; expected one of float32"),
        (np.ones((3, 2), np.clongdouble), r"G has dtype complex256; expected one of float32"),
        (np.ones((3, 2), "datetime64[s]"), r"G has dtype datetime64\[s\]; expected one of"),
        (np.ones((3, 2), [("a", "f8")]), r"G has dtype .*; expected one of float32"),
        (np.ma.ones((3, 2)), r"G is a masked array; drop the masked rows or fill them"),
        (np.float64(1.0), r"G has shape \(\); expected two dimensions"),
        (np.ones(3), r"G has shape \(3,\); expected two dimensions, \(n samples, p parameters\)"),
        (np.ones((3, 2, 2)), r"G has shape \(3, 2, 2\).*pass G\.reshape\(len\(G\), -1\)"),
        (None, r"G is NoneType; expected per-sample scores of shape \(n, p\)"),
        ("grads.npy", r"G is str; expected per-sample scores"),
        (b"grads.npy", r"G is bytes; expected"),
        ({"w": 1.0}, r"G is dict; expected"),
        ([[1.0], [2.0, 3.0]], r"G of type list is no array"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_scores_of_the_wrong_kind_are_refused_by_name(G, message):
    if "float128" in message and np.dtype(np.longdouble).itemsize != 16:
        pytest.skip("longdouble is not 16 bytes here")
    calls = (
        lambda: ff.natural_gradient(G, damping=1.0),
        lambda: ff.solve(G, np.ones(2), damping=1.0),
        lambda: ff.ops.syrk(G),
        lambda: ff.ops.gram(G),
        lambda: ff.ops.fvp(G, np.ones(2)),
        lambda: ff.ops.matvec(G, np.ones(2)),
        lambda: ff.ops.rmatvec(G, np.ones(3)),
        lambda: ff.ops.diag(G),
        lambda: ff.DenseFisher(2).update(G),
        lambda: ff.GramFisher().update(G),
    )
    for call in calls:
        with pytest.raises(InputError, match=message):
            call()


G32 = np.ones((3, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ff.ops.syrk(G32, np.ones(2)), r"weights has shape \(2,\) but G has 3 rows"),
        (lambda: ff.ops.syrk(G32, np.ones((3, 1))), r"weights has shape \(3, 1\)"),
        (lambda: ff.ops.syrk(G32, 1.0), r"weights has shape \(\)"),
        (lambda: ff.ops.diag(G32, [1, -2, 3]), r"weights\[1\] is -2\.0; weights must be finite"),
        (lambda: ff.ops.gram(G32, [1, 2, np.nan]), r"weights\[2\] is nan"),
        (lambda: ff.ops.fvp(G32, np.ones(2), [np.inf, 1, 1]), r"weights\[0\] is inf"),
        (lambda: ff.ops.syrk(G32, [1j, 1, 1]), r"weights has dtype complex128; expected real"),
        (lambda: ff.ops.syrk(G32, ["a", "b", "c"]), r"weights has dtype <U1; expected real"),
        (lambda: ff.ops.syrk(G32, np.ma.ones(3)), r"weights is a masked array"),
        (lambda: ff.ops.fvp(G32, np.ones(3)), r"v has shape \(3,\); expected \(2,\) or \(2, k\)"),
        (lambda: ff.ops.fvp(G32, np.ones((2, 1, 1))), r"v has shape \(2, 1, 1\)"),
        (lambda: ff.ops.matvec(G32, np.float64(1)), r"v has shape \(\)"),
        (lambda: ff.ops.rmatvec(G32, np.ones(2)), r"u has shape \(2,\); expected \(3,\)"),
        (lambda: ff.ops.matvec(G32, [1, 2]), r"v has dtype int64.*v\.astype"),
        (lambda: ff.ops.matvec(G32, [1.0, np.nan]), r"v is not finite at index 1"),
        (lambda: ff.solve(G32, [np.inf, 1.0], damping=1), r"b is not finite at index 0"),
        (lambda: ff.solve(G32, np.ones(3), damping=1), r"b has shape \(3,\); expected \(2,\)"),
        (lambda: ff.solve(G32, [1, 1], damping=1), r"b has dtype int64.*b\.astype"),
        (
            lambda: ff.solve(G32, coef=[1.0, np.nan, 1.0], damping=1),
            r"coef is not finite at index 1",
        ),
        (lambda: ff.solve(G32, coef=np.ones(2), damping=1), r"coef has shape \(2,\); expected \(3,"),
        (lambda: ff.solve(G32, damping=1), r"neither b nor coef was given"),
        (
            lambda: ff.solve(G32, np.ones(2), coef=np.ones(3), damping=1),
            r"both b and coef were given; pass exactly one",
        ),
        (lambda: ff.natural_gradient(G32, np.ones((2, 2)), damping=1), r"g has shape \(2, 2\)"),
        (lambda: ff.natural_gradient(G32, damping=None), r"damping is None; pass a number >= 0"),
        (lambda: ff.natural_gradient(G32, damping=-1), r"damping is -1; expected a finite real"),
        (lambda: ff.natural_gradient(G32, damping=np.nan), r"damping is nan"),
        (lambda: ff.natural_gradient(G32, damping=np.inf), r"damping is inf"),
        (lambda: ff.natural_gradient(G32, damping=1j), r"damping is 1j"),
        (lambda: ff.natural_gradient(G32, damping="big"), r"damping is 'big'; expected a real"),
        (lambda: ff.natural_gradient(G32, damping=np.ones(2)), r"damping is array"),
        (lambda: ff.natural_gradient(G32, damping=1, method="lu"), r"method is 'lu'; expected one"),
        (lambda: ff.natural_gradient(G32, damping=1, device="cuda"), r"device is 'cuda'"),
        (lambda: ff.natural_gradient(G32, damping=1, nan_policy="omit"), r"nan_policy is 'omit'"),
        (lambda: ff.solve(G32, np.ones(2), damping=1, maxiter=-1), r"maxiter is -1"),
        (lambda: ff.solve(G32, np.ones(2), damping=1, maxiter=2.5), r"maxiter is 2\.5"),
        (lambda: ff.solve(G32, np.ones(2), damping=1, rtol=-1e-3), r"rtol is -0\.001"),
        (lambda: ff.solve(G32, np.ones(2), damping=1, x0=np.ones(3)), r"x0 has shape \(3,\)"),
        (
            lambda: ff.solve(G32, np.ones(2), damping=1, x0=np.ones((2, 4))),
            r"x0 holds 4 vectors but there are 1 right-hand sides",
        ),
        (
            lambda: ff.solve(G32, np.ones(2), damping=1, method="cg", preconditioner="ilu"),
            r"preconditioner is 'ilu'",
        ),
        (lambda: ff.ops.cholesky(np.ones((2, 3))), r"A has shape \(2, 3\); expected a square"),
        (lambda: ff.ops.cholesky(np.eye(2, dtype=int)), r"A has dtype int64.*A\.astype"),
        (lambda: ff.ops.cholesky(np.eye(2), damping=-1.0), r"damping is -1\.0"),
        (lambda: ff.ops.cho_solve(np.eye(2), np.ones(3)), r"b has shape \(3,\)"),
        (lambda: ff.ops.batched_solve(np.eye(2), np.ones(2)), r"F has shape \(2, 2\)"),
        (lambda: ff.ops.batched_solve(np.ones((3, 2, 2)), np.ones((2, 2))), r"g has shape \(2, 2\)"),
        (
            lambda: ff.ops.batched_solve(np.ones((3, 2, 2)), np.ones((3, 2)), damping=np.ones(2)),
            r"damping has shape \(2,\)",
        ),
        (
            lambda: ff.ops.batched_solve(np.ones((1, 2, 2)), np.ones((1, 2)), damping=[-1.0]),
            r"damping\[0\] is -1\.0",
        ),
        (lambda: ff.ops.layered_gram([]), r"layers is empty"),
        (lambda: ff.ops.layered_gram([G32]), r"layers\[0\] is no pair"),
        (lambda: ff.ops.layered_gram([(G32, np.ones((2, 2)))]), r"layers\[0\] has A \(3, 2\)"),
        (
            lambda: ff.ops.layered_gram([(G32, G32), (np.ones((2, 2)), np.ones((2, 2)))]),
            r"layers have \[2, 3\] samples",
        ),
        (lambda: ff.ops.layered_gram([(np.ones(3), G32)]), r"layers\[0\]\.A has shape \(3,\)"),
        (lambda: ff.ops.layered_gram([(G32.astype(int), G32)]), r"layers\[0\]\.A has dtype int64"),
        (lambda: ff.plan(-1, 2), r"n is -1; expected an integer >= 0"),
        (lambda: ff.plan(2, 2.5), r"p is 2\.5"),
        (lambda: ff.plan(2, 2, dtype="int32"), r"dtype is 'int32'"),
        (lambda: ff.plan(2, 2, dtype="nonsense"), r"dtype is 'nonsense'"),
        (lambda: ff.plan(2, 2, method="qr"), r"method is 'qr'"),
        (lambda: ff.plan(2, 2, device="tpu"), r"device is 'tpu'"),
        (lambda: ff.DenseFisher(-1), r"p is -1"),
        (lambda: ff.DenseFisher(2, dtype="int8"), r"dtype .*int8"),
        (lambda: ff.DenseFisher(3).update(G32), r"G has 2 columns but this Fisher has 3"),
        (lambda: ff.DenseFisher(2).update(G32, decay=0.0), r"decay is 0\.0; expected 0 < decay"),
        (lambda: ff.DenseFisher(2).update(G32, decay=1.5), r"decay is 1\.5"),
        (lambda: ff.DenseFisher(2).update(G32, nan_policy="drop"), r"nan_policy is 'drop'"),
        (lambda: ff.DenseFisher(2).update(G32 * 1j), r"G is complex128 but this Fisher is float64"),
        (lambda: ff.DenseFisher(2).update(G32).solve(np.ones(3), damping=1), r"b has shape \(3,\)"),
        (
            lambda: ff.DenseFisher(2).update(G32).solve(coef=np.ones(3), damping=1),
            r"DenseFisher does not keep the scores",
        ),
        (lambda: ff.DenseFisher(2).update(G32) @ np.ones(3), r"v has shape \(3,\)"),
        (
            lambda: ff.DenseFisher(2).update(G32).factor(1.0).inv_quad(np.ones((1, 3))),
            r"J has shape \(1, 3\)",
        ),
        (lambda: ff.DenseFisher(2).update(G32).factor(1.0).sample(0, 3), r"rng is int; expected"),
        (lambda: ff.set_num_threads(0), r"k is 0; expected an integer from 1"),
        (lambda: ff.set_num_threads(10**6), r"k is 1000000"),
        (lambda: ff.warmup(dtypes=("int32",)), r"dtype is 'int32'"),
        (lambda: ff.Tikhonov(-1.0), r"Tikhonov\(lam=\) is -1\.0"),
        (lambda: ff.Relative(np.nan), r"Relative\(c=\) is nan"),
        (lambda: ff.Marquardt(0.1, shift=-1), r"Marquardt\(shift=\) is -1"),
    ],
)
def test_operands_that_do_not_fit_are_refused_by_name(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert isinstance(caught.value, ValueError)


def test_warmup_and_damping_messages_for_unreadable_dtypes():
    with pytest.raises(InputError, match="dtype"):
        ff.warmup(dtypes=("nonsense",))
    with pytest.raises(InputError, match="dtype"):
        ff.DenseFisher(2, dtype="nonsense")


# out= ------------------------------------------------------------------------------------------


@over_dtypes
@pytest.mark.parametrize("op", ["syrk", "gram"])
def test_out_is_filled_and_returned(op, dtype, rng):
    G = matrices.gaussian((6, 4), dtype, rng)
    function, order = getattr(ff.ops, op), 4 if op == "syrk" else 6
    out = np.full((order, order), np.nan, dtype)
    result = function(G, np.arange(6.0), out=out)
    assert result is out
    assert out.tobytes() == function(G, np.arange(6.0)).tobytes()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda G: np.empty((3, 4)), r"out is float64 \(3, 4\); expected a NumPy array of float64"),
        (lambda G: np.empty((4, 4), np.float32), r"out is float32 \(4, 4\); expected"),
        (lambda G: np.empty((4, 4), ">f8"), r"out is >f8 \(4, 4\); expected"),
        (lambda G: [[0.0] * 4] * 4, r"out is list; expected a NumPy array"),
        (lambda G: np.asfortranarray(np.empty((4, 4))), r"out must be C-ordered, aligned and wri"),
        (lambda G: np.empty((8, 4))[::2], r"out must be C-ordered"),
        (lambda G: np.broadcast_to(0.0, (4, 4)), r"out must be C-ordered"),
        (
            lambda G: np.empty(129, np.uint8)[1:].view(np.float64).reshape(4, 4),
            r"out must be C-ordered, aligned",
        ),
        (lambda G: G[:4], r"out shares memory with an input"),
    ],
)
@pytest.mark.parametrize("op", ["syrk", "gram"])
def test_out_of_the_wrong_kind_is_refused_and_untouched(op, make, message, rng):
    G = rng.standard_normal((6, 4) if op == "syrk" else (4, 6))
    G = G if op == "syrk" else np.ascontiguousarray(np.hstack([G, G])[:, :4])
    out = make(G)
    before = digest(np.asarray(out), G)
    with pytest.raises(InputError, match=message):
        getattr(ff.ops, op)(G, out=out)
    assert digest(np.asarray(out), G) == before


def test_out_must_not_overlap_the_weights(rng):
    shared = np.zeros(16)
    with pytest.raises(InputError, match="out shares memory with an input"):
        ff.ops.syrk(rng.standard_normal((6, 4)), shared[:6], out=shared.reshape(4, 4))


# Nothing is changed ----------------------------------------------------------------------------


@over_dtypes
def test_no_public_function_changes_its_operands(dtype, rng):
    n, p = 9, 6
    G = matrices.gaussian((n, p), dtype, rng)
    b, c = matrices.gaussian((p, 2), dtype, rng), matrices.gaussian((n, 2), dtype, rng)
    w = matrices.weights(n, dtype)
    A = hermitian(G)
    L = np.linalg.cholesky(A)
    F3, g3, d3 = np.stack([A, A]), np.stack([b[:, 0], b[:, 1]]), np.array([0.1, 0.2])
    operands = (G, b, c, w, A, L, F3, g3, d3)
    before = digest(*operands)
    for method in ("primal", "dual", "cg"):
        for center in (False, True):
            for damping in (0.1, ff.Relative(0.1), ff.Marquardt(0.1, shift=0.1)):
                settings = dict(damping=damping, weights=w, center=center, method=method)
                ff.solve(G, b, **settings, x0=b)
                ff.solve(G, coef=c, **settings)
                ff.natural_gradient(G, b[:, 0], **settings)
                ff.natural_gradient(G, **settings)
    ff.ops.syrk(G, w), ff.ops.gram(G, w), ff.ops.fvp(G, b, w), ff.ops.diag(G, w)
    ff.ops.matvec(G, b), ff.ops.rmatvec(G, c)
    ff.ops.cholesky(A, damping=0.1), ff.ops.cho_solve(L, b)
    ff.ops.batched_solve(F3, g3, damping=d3)
    ff.ops.layered_gram([(G, G), (G[:, :2], G[:, 2:])])
    fishers = [
        ff.DenseFisher(p, dtype=dtype, center=True),
        ff.DiagonalFisher(p, dtype=dtype),
        ff.GramFisher(dtype=dtype, center=True),
    ]
    for F in fishers:
        F.update(G, w, decay=0.5)
        F.update(G, w, decay=0.5)
        factor = F.factor(0.1)
        F @ b, F.solve(b, damping=0.1), factor.solve(b), factor.inv_quad(b.T), F.eigvalsh()
        F.matrix()[:] = 0
        F.diagonal()[:] = 0
    fishers[2].solve(coef=np.concatenate([c, c]), damping=0.1)
    assert digest(*operands) == before


def test_nan_policies_leave_the_scores_as_they_are(rng):
    G = rng.standard_normal((9, 6))
    G[3, 2] = np.nan
    w = np.ones(9)
    before = digest(G, w)
    ff.solve(G, np.ones(6), damping=1.0, nan_policy="skip", weights=w)
    ff.DenseFisher(6).update(G, w, nan_policy="skip")
    ff.GramFisher().update(G, w, nan_policy="skip")
    assert digest(G, w) == before


def test_results_do_not_alias_the_state_of_a_fisher(rng):
    G = rng.standard_normal((5, 3))
    for F in (ff.DenseFisher(3), ff.DiagonalFisher(3), ff.GramFisher()):
        F.update(G)
        before = F.matrix().copy()
        for view in (F.matrix(), F.diagonal(), F.eigvalsh(), F.mean, F @ np.ones(3)):
            try:
                view[...] = 7.0
            except ValueError:
                pass  # read-only is as good as a copy
        if hasattr(F, "gram"):
            F.gram()[...] = 7.0
        np.testing.assert_array_equal(F.matrix(), before)
        np.testing.assert_array_equal(F.mean, F.update(G[:0]).mean)
        assert F.solve(damping=1.0).x == pytest.approx(
            np.linalg.solve(before + np.eye(3), G.mean(axis=0)), rel=1e-10
        )


# Edges -----------------------------------------------------------------------------------------

EDGES = ((0, 0), (0, 1), (0, 4), (1, 0), (4, 0), (1, 1), (1, 4), (4, 1))


@over_dtypes
@pytest.mark.parametrize("shape", EDGES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_law_26_14_empty_and_single_sizes_are_what_mathematics_says(shape, dtype, rng):
    n, p = shape
    G = matrices.gaussian(shape, dtype, rng)
    b, c = matrices.gaussian((p,), dtype, rng), matrices.gaussian((n,), dtype, rng)
    w = np.linspace(0.5, 2, n)
    tolerance = dict(rtol=1e3 * unit_roundoff(dtype), atol=1e3 * unit_roundoff(dtype))
    raw = oracle.syrk(G, w)
    close = lambda x, y: np.testing.assert_allclose(x, y, **tolerance, strict=False)  # noqa: E731

    for result, expected in [
        (ff.ops.syrk(G, w), raw),
        (ff.ops.gram(G, w), oracle.gram(G, w)),
        (ff.ops.fvp(G, b, w), oracle.fvp(G, b, w)),
        (ff.ops.matvec(G, b), oracle.matvec(G, b)),
        (ff.ops.rmatvec(G, c), oracle.rmatvec(G, c)),
        (ff.ops.diag(G, w), oracle.diag(G, w)),
        (ff.ops.layered_gram([(G, G)]), oracle.gram(G) ** 2),
        (ff.ops.cholesky(ff.ops.syrk(G), damping=2.0), oracle.cholesky(oracle.syrk(G), 2.0)),
        (ff.ops.cho_solve(np.eye(p, dtype=dtype), b), b),
    ]:
        assert result.shape == expected.shape
        close(result, expected)
    x, info = ff.ops.batched_solve(np.zeros((n, p, p), dtype), G, damping=2.0)
    assert x.shape == (n, p) and info.shape == (n,) and not info.any()
    close(x, oracle.wide(G) / 2)

    total = w.sum()
    F = raw / total if total else np.zeros((p, p))
    mean = oracle.rmatvec(G, w.astype(dtype)) / total if total else np.zeros(p)
    for center in (False, True):
        A = (oracle.fisher(G, w, center) if n else F) + 0.7 * np.eye(p)
        rhs = oracle.coef_rhs(G, c, w, center) if n else np.zeros(p)
        for method in ("auto", "primal", "dual", "cg"):
            settings = dict(damping=0.7, weights=w, center=center, method=method)
            for result, expected in [
                (ff.solve(G, b, **settings), np.linalg.solve(A, oracle.wide(b))),
                (ff.solve(G, coef=c, **settings), np.linalg.solve(A, rhs)),
            ]:
                assert result.converged, (method, center, result)
                assert result.x.shape == (p,) and result.x.dtype == dtype
                close(result.x, expected)
            close(ff.natural_gradient(G, **settings), np.linalg.solve(A, mean))
            assert not ff.solve(G, coef=np.zeros((n, 3), dtype), **settings).x.any()


@over_dtypes
@pytest.mark.parametrize("shape", EDGES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_law_26_14_fisher_objects_of_empty_and_single_sizes(shape, dtype, rng):
    n, p = shape
    G = matrices.gaussian(shape, dtype, rng)
    F_exact = oracle.fisher(G) if n else np.zeros((p, p))
    tolerance = dict(rtol=1e3 * unit_roundoff(dtype), atol=1e3 * unit_roundoff(dtype))
    for center in (False, True):
        expected = oracle.fisher(G, center=center) if n else F_exact
        for F in (
            ff.DenseFisher(p, dtype=dtype, center=center),
            ff.GramFisher(dtype=dtype, center=center),
        ):
            F.update(G)
            assert (F.n_samples, F.weight) == (n, n)
            np.testing.assert_allclose(F.matrix(), expected, **tolerance)
            np.testing.assert_allclose(F.diagonal(), np.diag(expected).real, **tolerance)
            factor = F.factor(0.7)
            A = expected + 0.7 * np.eye(p)
            assert factor.logdet() == pytest.approx(np.linalg.slogdet(A)[1], **{
                "rel": tolerance["rtol"], "abs": tolerance["atol"]})
            np.testing.assert_allclose(factor.inv_diagonal(), np.diag(np.linalg.inv(A)).real, **tolerance)
            assert factor.sample(rng, 2).shape == (2, p)
            assert factor.inv_quad(np.zeros((0, p), dtype)).shape == (0, 0)
            assert F.solve(damping=0.7).x.shape == (p,)
        D = ff.DiagonalFisher(p, dtype=dtype, center=center).update(G)
        np.testing.assert_allclose(D.diagonal(), np.diag(expected).real, **tolerance)
        assert D.factor(0.7).sample(rng, 2).shape == (2, p)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), *EDGES], ids=lambda s: f"{s[0]}x{s[1]}")
def test_law_26_14_no_right_hand_side_at_all(shape, rng):
    n, p = shape
    G = rng.standard_normal(shape)
    none, no_coef = np.zeros((p, 0)), np.zeros((n, 0))
    assert ff.ops.matvec(G, none).shape == (n, 0)
    assert ff.ops.rmatvec(G, no_coef).shape == (p, 0)
    assert ff.ops.fvp(G, none).shape == (p, 0)
    assert ff.ops.cho_solve(np.eye(p), none).shape == (p, 0)
    for method in ("primal", "dual", "cg"):
        for sides in (dict(b=none), dict(coef=no_coef)):
            result = ff.solve(G, **sides, damping=0.5, method=method)
            assert result.x.shape == (p, 0) and result.converged and result.residual == 0


def test_all_weights_zero_is_no_sample_at_all(rng):
    G, b = rng.standard_normal((5, 3)), rng.standard_normal(3)
    w = np.zeros(5)
    for method in ("primal", "dual", "cg"):
        for center in (False, True):
            result = ff.solve(G, b, weights=w, center=center, damping=0.5, method=method)
            np.testing.assert_allclose(result.x, b / 0.5, rtol=1e-14)
            assert not ff.solve(G, coef=np.ones(5), weights=w, damping=0.5, method=method).x.any()
    assert not ff.natural_gradient(G, weights=w, damping=0.5).any()
    F = ff.DenseFisher(3).update(G, w)
    assert (F.n_samples, F.weight) == (5, 0.0)
    assert not F.matrix().any()
