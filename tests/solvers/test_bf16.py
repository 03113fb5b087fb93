"""Mixed precision from slices of bfloat16, X5 and X8: for scores whose columns have heavy tails."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.planning.costs import MixedCosts
from tests.solvers.mixed_cases import (
    SHAPES,
    extended,
    multiplied_by,
    over_sides,
    problems,
    sides,
    wide_root,
)
from tests.tolerances import assert_ratio, unit_roundoff

COSTS = {"slicing": 0.1, "factor": 0.1, "step": 0.01, "exact": 40.0}


@pytest.fixture
def halved(monkeypatch):
    """Nothing but halves multiplies here."""
    multiplied_by(monkeypatch, MixedCosts(20.0, {"halves": 1.0}, **COSTS), halves="amx")


@over_sides
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["power", "exponential", "heavy", "network", "zero columns"])
def test_X8_halves_precondition_to_the_backward_error_of_the_scores(halved, side, dtype, name, rng):
    G = problems(*SHAPES[side], rng)[name].astype(dtype)
    T, roots = wide_root(G)
    top = float(np.linalg.norm(T.astype(float), 2)) ** 2
    for share in (1e-1, 1e-3):
        for what, (b, given) in sides(T, roots, rng).items():
            ((form, right),) = given.items()
            right = right.astype(dtype)
            b = T.T @ (roots * right) if form == "coef" else right
            sol = ff.solve(G, damping=share * top, method="mixed", **{form: right})
            assert sol.converged and sol.rung == "bf16+cg" and sol.x.dtype == dtype, sol
            assert 1 <= sol.slices <= 3 and sol.iterations <= 20
            backward, _ = extended(T, sol.x, b, share * top)
            assert_ratio(backward / unit_roundoff(dtype), "gate", (what, sol))


def test_X5_halves_are_taken_where_tails_are_heavy_and_bytes_where_not(monkeypatch, rng):
    """At twice the price of bytes: their rounding is that of each score, not of the largest."""
    costs = MixedCosts(20.0, {"bytes": 1.0, "halves": 2.0}, **{**COSTS, "step": 0.2})
    multiplied_by(monkeypatch, costs, bytes="amx", halves="amx")
    even = rng.uniform(-1, 1, (600, 60))
    heavy = rng.standard_t(2, (600, 60)) * np.exp2(rng.integers(-12, 1, (600, 1)))
    taken = {}
    for name, G in (("even", even), ("heavy", heavy)):
        lam = 1e-3 * np.linalg.norm(G.T @ G / 600, 2)
        sol = ff.solve(G, np.ones(60), damping=lam, method="mixed")
        taken[name] = sol.rung, sol.slices
    assert taken == {"even": ("int8+cg", 1), "heavy": ("bf16+cg", 1)}
