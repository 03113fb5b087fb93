"""What is refused at the door, and that the message names the operand, what came and the cure."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError


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
        (
            lambda: ff.solve(G32, coef=np.ones(2), damping=1),
            r"coef has shape \(2,\); expected \(3,",
        ),
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
        (lambda: ff.natural_gradient(G32, damping=1, device="gpu"), r"device is 'gpu'"),
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
        (
            lambda: ff.ops.batched_solve(np.ones((3, 2, 2)), np.ones((2, 2))),
            r"g has shape \(2, 2\)",
        ),
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
