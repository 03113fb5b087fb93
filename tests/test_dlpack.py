"""Arrays of other libraries: DLPack, torch, what lies on a device."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import FisherError, InputError
from fastfisher.kernels import cuda
from tests import matrices
from tests.scores import OF_SCORES

CUDA = 2  # DLPack's number for it


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
