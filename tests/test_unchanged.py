"""Where results go, and that nothing else is changed: out=, operands, the state of a Fisher."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError
from tests import matrices, oracle
from tests.scores import digest, over_dtypes


def hermitian(G):
    return np.asarray(oracle.fisher(G), dtype=G.dtype) + np.eye(G.shape[1], dtype=G.dtype)


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
