"""What solves and ops on a CUDA device refuse, and in which words."""

from unittest import mock

import numpy as np

import fastfisher as ff
from tests import matrices
from tests.solvers.device_arrays import TALL, WIDE, there

__all__ = ["CATALOGUE", "message_of", "refused"]

CATALOGUE = {
    "nan": "G is not finite in row 2",
    "weights": r"weights\[3\] is negative",
    "b": "not finite at index 1",
    "host b": "b lies on the host .* device=",
    "device=cpu": "G lies on a device but device='cpu'",
    "cutoff by cg": "HardCutoff.* needs a dense or a Gram matrix",
    "complex": "complex arrays are computed on the host",
    "rank": "F has rank at most 3 but 5 parameters",
    "singular": "pivot . of 3 of F .* is not positive at damping 0",
    "dual marquardt": "parameter 1 has no score and no damping",
    "noise": "looks at single samples: pass coef=",
    "preconditioner": "preconditioner is .ilu.; expected 'auto', 'jacobi', None, ff.Nystrom",
    "columns of a preconditioner": r"returned 2 columns; expected shape \(3, 1\)",
    "shape of a preconditioner": r"what the preconditioner returned has shape \(2, 1\)",
    "bad weights of a cutoff": r"weights\[3\] is negative",
    "nystrom": "needs damping > 0 for every parameter",
    "shape": r"b has shape \(2,\); expected \(3,\)",
    "groups": "groups is float64 of shape",
    "groups nan": "G is not finite in row 2",
    "cholesky": "pivot 1 of 4 is not positive",
    "integers": "G has dtype int64",
    "syrk into G": "out shares memory with an input.*; untouched True",
    "gram into a part of G": "out shares memory with an input.*; untouched True",
    "syrk into its weights": "out shares memory with an input.*; untouched True",
    "out and weights": r"weights has shape \(2,\); expected \(5,\).*; untouched True",
    "forked": "forked from one that had used CUDA",
    "no ladder": "expected an ff.Ladder or None",
}


def refused():
    """{case: message} of what is refused."""
    from fastfisher.devices import door  # loads CUDA

    rng = matrices.generator("refused on a device")
    G, v, w = rng.standard_normal(TALL), rng.standard_normal(3), rng.uniform(0.5, 2, 5)
    bad, worse, negative = G.copy(), v.copy(), w.copy()
    bad[2, 1], worse[1], negative[3] = np.nan, np.inf, -1
    d, h = there, dict(damping=0.1, method="primal")
    same, wide = np.repeat(G[:, :1], 3, axis=1), rng.standard_normal(WIDE)
    calls = {
        "nan": lambda: ff.solve(d(bad), d(v), **h),
        "weights": lambda: ff.solve(d(G), d(v), weights=d(negative), **h),
        "b": lambda: ff.solve(d(G), d(worse), **h),
        "host b": lambda: ff.solve(d(G), v, **h),
        "device=cpu": lambda: ff.solve(d(G), d(v), device="cpu", **h),
        "cutoff by cg": lambda: ff.solve(d(G), d(v), damping=ff.HardCutoff(1e-3), method="cg"),
        "complex": lambda: ff.solve(d(G + 0j), d(v), **h),
        "columns of a preconditioner": lambda: ff.solve(
            d(G), d(v), damping=0.1, method="cg", preconditioner=lambda r: d(np.ones((3, 2)))
        ),
        "shape of a preconditioner": lambda: ff.solve(
            d(G), d(v), damping=0.1, method="cg", preconditioner=lambda r: r[:2]
        ),
        "nystrom": lambda: ff.solve(
            d(G), d(v), damping=0.0, method="cg", preconditioner=ff.Nystrom(2)
        ),
        "rank": lambda: ff.solve(d(wide), d(w), damping=0.0),
        "singular": lambda: ff.solve(d(same), d(v), damping=0.0, method="primal"),
        "dual marquardt": lambda: ff.solve(
            d(wide * [1, 0, 1, 1, 1]), d(w), damping=ff.Marquardt(0.1), method="dual"
        ),
        "noise": lambda: ff.solve(d(G), d(v), damping=ff.SNRCutoff(1.0)),
        "preconditioner": lambda: ff.solve(
            d(G), d(v), damping=0.1, method="cg", preconditioner="ilu"
        ),
        "bad weights of a cutoff": lambda: ff.solve(
            d(G), d(v), weights=d(negative), damping=ff.HardCutoff(0.1)
        ),
        "shape": lambda: ff.solve(d(G), d(v[:2]), **h),
        "groups": lambda: ff.ops.group_sums(d(G), d(w)),
        "groups nan": lambda: ff.solve(d(bad), d(v), groups=[0, 1, 0, 1, 1], **h),
        "cholesky": lambda: ff.ops.cholesky(d(-np.eye(4))),
        "integers": lambda: ff.solve(d(np.ones((3, 4), int)), d(v), **h),
    }
    found = {}
    for name, call in calls.items():
        found[name] = message_of(call)
    whole, ones, pair = d(rng.standard_normal((4, 3))), d(np.ones((3, 3))), d(np.ones((1, 1)))
    for name, kept, call in (
        ("syrk into G", ones, lambda: ff.ops.syrk(ones, out=ones)),
        ("gram into a part of G", whole, lambda: ff.ops.gram(whole[:3], out=whole[1:])),
        ("syrk into its weights", pair, lambda: ff.ops.syrk(pair, pair.reshape(1), out=pair)),
        ("out and weights", ones, lambda: ff.ops.syrk(d(G), d(w[:2]), out=ones)),
    ):
        before = kept.copy_to_host()
        message = message_of(call)
        found[name] = f"{message}; untouched {np.array_equal(kept.copy_to_host(), before)}"
    with mock.patch.dict(door._first, user=-1):
        found["forked"] = message_of(lambda: ff.solve(d(G), d(v), **h))
    with ff.options(ladder="cholesky"):
        found["no ladder"] = message_of(lambda: ff.solve(d(G), d(v), **h))
    return found


def message_of(call):
    try:
        return f"nothing was refused: {call()}"
    except ff.errors.FisherError as error:
        return str(error)
