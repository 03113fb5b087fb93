"""Every public function of scores, as a function of G alone."""

import hashlib

import numpy as np
import pytest

import fastfisher as ff
from tests import matrices

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
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
