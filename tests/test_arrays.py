"""The door: what may come in, in which clothes, what is refused, and that nothing is changed."""

import hashlib
import warnings

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.arrays import all_finite, as_scores
from fastfisher.errors import FisherError, InputError
from fastfisher.kernels import cuda
from tests import matrices, oracle

SHAPES = ((30, 12), (12, 30))
CUDA = 2  # DLPack's number for it
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
    "solve_marquardt": lambda G: (
        ff.solve(
            G, coef=np.ones((G.shape[0], 2)), damping=ff.Marquardt(0.1, shift=0.2), method="dual"
        ).x
    ),
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


# Layouts -----------------------------------------------------------------------------------------


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


@over_dtypes
def test_kernels_see_one_kind_of_memory(dtype, rng):
    """C order, aligned, native, writable: anything else would compile anew, or read wrongly."""
    G = matrices.gaussian((9, 7), dtype, rng)
    for name, laid in matrices.layouts(G):
        scores = as_scores(laid)
        assert scores.direct == (name in ("C", "read_only", "memmap")), name
        for part in (scores.rows(0, 9), scores.rows(2, 5), scores.columns(1, 4)):
            flags = part.flags
            assert flags.c_contiguous and flags.aligned and flags.writeable, name
            assert part.dtype == dtype and part.dtype.isnative, name
        assert np.shares_memory(scores.rows(0, 9), laid) == scores.direct, name


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


@pytest.mark.parametrize("shape", [(9, 6), (70, 80), (300, 2), (3, 1100), (0, 3)], ids=str)
@pytest.mark.parametrize("stored", ["float16", ">f2", "bfloat16"])
@over_functions
def test_half_precision_is_storage_computed_and_answered_in_float32(function, stored, shape, rng):
    if stored == "bfloat16":
        stored = pytest.importorskip("ml_dtypes").bfloat16
    G = rng.standard_normal(shape).astype(stored)
    frozen = G.copy()
    frozen.flags.writeable = False
    for laid in (G, frozen, np.asfortranarray(G), G[::-1, ::2]):
        expected = function(np.ascontiguousarray(laid).astype(np.float32))
        result = function(laid)
        assert result.dtype == expected.dtype
        assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_with_many_vectors_bad_rows_and_extreme_scores(name, rng):
    """Vendors, skipped rows and rescaled scores need float32, and get it slice by slice."""
    stored = np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    G = (2.0 ** (14 if name == "float16" else 100) * rng.standard_normal((80, 20))).astype(stored)
    G = np.clip(G.astype(np.float32), -6e4, 6e4).astype(stored) if name == "float16" else G
    wide, V, b = G.astype(np.float32), rng.standard_normal((20, 40)), rng.standard_normal(20)
    assert ff.ops.matvec(G, V).tobytes() == ff.ops.matvec(wide, V).tobytes()
    for settings in (dict(), dict(center=True), dict(nan_policy="skip")):
        if "nan_policy" in settings:
            G[3, 4] = wide[3, 4] = np.nan
        for method in ("primal", "dual", "cg"):
            half, whole = (
                ff.solve(scores, b, damping=ff.Relative(0.1), method=method, **settings)
                for scores in (G, wide)
            )
            assert half.x.tobytes() == whole.x.tobytes(), (method, settings)
            assert half.plan.problem.halves and not whole.plan.problem.halves
    with pytest.raises(InputError, match="G holds nan in row 3, column 4"):
        ff.ops.syrk(G)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_handed_to_kernels_where_it_lies(name, rng):
    stored = np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    for laid_as, laid in matrices.layouts(rng.standard_normal((9, 7)).astype(stored)):
        scores = as_scores(laid)
        assert scores.direct == (laid_as in ("C", "read_only", "memmap")), laid_as
        for part in (scores.rows(0, 9, halves=True), scores.columns(1, 4, halves=True)):
            flags = part.flags
            assert flags.c_contiguous and flags.aligned and flags.writeable, laid_as
            assert part.dtype == stored and part.dtype.isnative, laid_as
        assert np.shares_memory(scores.rows(0, 9, halves=True), laid) == scores.direct, laid_as


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
    if device[0] != CUDA:
        with pytest.raises(InputError, match=r"lies on device \(\d+, \d\).*host copy.*\.cpu\(\)"):
            ff.natural_gradient(OnDevice(device), damping=1.0)
    elif not cuda.is_available():
        with pytest.raises(FisherError, match=r"no CUDA device: .*\.cpu\(\)"):
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
        (
            ff.natural_gradient(T, tb, weights=tw, damping=1),
            ff.natural_gradient(G, b, weights=w, damping=1),
        ),
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
        (
            ff.DenseFisher(5).update(T, tw).solve(tb, damping=1).x,
            ff.DenseFisher(5).update(G, w).solve(b, damping=1).x,
        ),
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
    with pytest.raises(InputError, match=r"int64.*float64"):
        ff.natural_gradient(torch.ones(3, 2, dtype=torch.int64), damping=1.0)
    with pytest.raises(InputError, match=r"resolve_conj|conj"):
        ff.natural_gradient(torch.ones(3, 2, dtype=torch.complex64).conj(), damping=1.0)
    with pytest.raises(InputError, match="G of type Tensor"):
        ff.natural_gradient(torch.eye(3).to_sparse(), damping=1.0)
    half = ff.natural_gradient(torch.ones(3, 2, dtype=torch.float16), damping=1.0)
    assert half.dtype == torch.float32


# out= --------------------------------------------------------------------------------------------


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


# Nothing is changed ------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "dtype", ("float16", "float32", "float64", "complex64", "complex128", ">f8")
)
def test_all_finite_sees_every_element(dtype):
    for shape in ((0,), (1,), (3, 5), (70, 70)):
        x = np.full(shape, np.finfo(np.dtype(dtype)).max, dtype)
        views = (x, x.T, x[::2], x[..., ::-1])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert all(all_finite(view) for view in views)
        for bad in (np.nan, np.inf, -np.inf):
            for k in (0, x.size // 2, x.size - 1) if x.size else ():
                y = np.ones(shape, dtype)
                y.flat[k] = bad
                assert not all_finite(y), (shape, bad, k)
                assert not all_finite(np.asfortranarray(y))
        if x.size and x.dtype.kind == "c":
            x.flat[-1] = complex(0, np.nan)
            assert not all_finite(x)
