"""Problems for mixed precision, whatever multiplies slices here, and residuals in more digits."""

import numpy as np
import pytest

from fastfisher.planning.costs import MixedCosts
from fastfisher.solvers import refine
from tests import matrices

__all__ = [
    "CHEAP",
    "SHAPES",
    "extended",
    "multiplied_by",
    "over_kinds",
    "over_sides",
    "problems",
    "sides",
    "sliced",
    "wide_root",
]

SHAPES = {"primal": (131, 47), "dual": (47, 131)}
over_sides = pytest.mark.parametrize("side", SHAPES)
# What slices cost where matrix registers make them cheap: they are tried wherever they may do.
PAIRS = dict.fromkeys(("bytes", "septets", "shorts"), 1.0)
CHEAP = MixedCosts(20.0, PAIRS, slicing=0.1, factor=0.1, step=0.01, exact=40.0)
over_kinds = pytest.mark.parametrize("sliced", ["bytes", "septets", "shorts"], indirect=True)


def multiplied_by(monkeypatch, costs=CHEAP, **units):
    """These units at every order, by kind of slices."""
    monkeypatch.setattr(refine, "SLICED_ORDER", 1)
    monkeypatch.setattr(refine, "tried_unit", lambda kind: units.get(kind, "plain"))
    monkeypatch.setattr(refine, "mixed_costs", lambda *of: costs)


@pytest.fixture
def sliced(request, monkeypatch):
    """Integer sums of one kind; its rung in Solution."""
    kind = getattr(request, "param", "bytes")
    multiplied_by(monkeypatch, **{kind: "vnni"})
    return {"bytes": "int8+cg", "septets": "int7+cg", "shorts": "int16+cg"}[kind]


def wide_root(G, w=None, center=False):
    """T in extended precision, F = T'T, and the roots of the weights in it."""
    w = np.ones(len(G)) if w is None else w
    shares = w.astype(np.longdouble) / w.astype(np.longdouble).sum()
    rows = G.astype(np.longdouble)
    rows = rows - shares @ rows if center else rows
    return rows * np.sqrt(shares)[:, np.newaxis], np.sqrt(shares)[:, np.newaxis]


def sides(T, roots, rng):
    """Right-hand sides (p, 2) in extended precision, and the keywords that pass them."""
    n, p = T.shape
    c, b = rng.standard_normal((n, 2)), rng.standard_normal((p, 2))
    rows = T.T @ (roots * c)
    return {
        "coef": (rows, {"coef": c}),
        "any b": (b.astype(np.longdouble), {"b": b}),
        "b in the row space": (rows.astype(float), {"b": rows.astype(float)}),
    }


def extended(T, x, b, lam):
    """Backward error and relative residual, recomputed in extended precision."""
    wide, given = np.asarray(x).astype(np.longdouble), b.astype(np.longdouble)
    rest = given - T.T @ (T @ wide) - np.longdouble(lam) * wide
    norm = float(np.linalg.norm(T.astype(float), 2)) ** 2 + lam
    size, scale = np.sqrt((rest * rest).sum(axis=0)), np.sqrt((given * given).sum(axis=0))
    scale = scale.astype(float)
    backward = size / (norm * np.linalg.norm(np.asarray(x, float), axis=0) + scale)
    return float(backward.max()), float((size / scale).max())


def problems(n, p, rng):
    """Scores whose spectra nobody announced."""
    t3 = rng.standard_normal((n, p)) * np.sqrt(3 / rng.chisquare(3, n))[:, np.newaxis]
    hidden = np.maximum(rng.standard_normal((n, 9)) @ rng.standard_normal((9, p)), 0)
    return {
        "power": matrices.scores(n, p, spectrum="power", cond=1e3),
        "exponential": matrices.scores(n, p, cond=1e6),
        "clustered": matrices.scores(n, p, spectrum="halves", cond=1e4),
        "deficient": np.repeat(rng.standard_normal((n, -(-p // 3))), 3, axis=1)[:, :p],
        "heavy": t3,
        "network": hidden * rng.standard_normal((n, 1)),  # scores of a layer of rectifiers
        "zero columns": rng.standard_normal((n, p)) * (np.arange(p) % 5 > 0),
        "duplicated rows": np.tile(rng.standard_normal((1, p)), (n, 1)),
    }
