"""Samples that are alike: long sums round one way, in matrices, products, right-hand sides and in
the residual that would tell. Direct and mixed solves meet the gate all the same, and say so."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher import passes
from fastfisher.arrays import as_scores
from fastfisher.solvers.system import System
from tests.solvers.mixed_cases import extended, wide_root
from tests.tolerances import assert_ratio, unit_roundoff

FAMILIES = {
    "one row": lambda n, p, rng: np.tile(rng.standard_normal((1, p)), (n, 1)),
    "one row but for signs": lambda n, p, rng: (
        rng.choice([-1.0, 1.0], (n, 1)) * rng.standard_normal((1, p))
    ),
    "three rows": lambda n, p, rng: rng.standard_normal((3, p))[rng.integers(0, 3, n)],
    "half of them": lambda n, p, rng: np.where(
        np.arange(n)[:, np.newaxis] % 2,
        3 * rng.standard_normal((1, p)),
        rng.standard_normal((n, p)),
    ),
    "constant": lambda n, p, rng: np.full((n, p), rng.choice([0.1, 1 / 3, 0.7])),
}
SHAPES = [(255, 27), (1500, 140), (2000, 60), (700, 300), (60, 400)]
CASES = [(m, *shape) for m in ("primal", "mixed") for shape in SHAPES]
CASES += [("dual", *shape) for shape in [*SHAPES, (10, 30000)] if shape[0] < 1000]
over_families = pytest.mark.parametrize("name", FAMILIES)


@over_families
@pytest.mark.parametrize("method, n, p", CASES)
def test_gate_is_met_and_told_truly_where_samples_are_alike(name, method, n, p):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        G = FAMILIES[name](n, p, rng)
        T, roots = wide_root(G)
        norm = float(np.linalg.norm(T.astype(float), 2)) ** 2
        b = np.stack([rng.standard_normal(p), G[0], np.ones(p)], axis=1)
        c = np.sign(G[:, :1])  # no sum cancels
        for right, given in ((b, {"b": b}), (T.T @ (roots * c), {"coef": c})):
            for share in (1.0, 1e-2, 1e-7):
                sol = ff.solve(G, damping=share * norm, method=method, **given)
                backward = extended(T, sol.x, right, share * norm)[0] / unit_roundoff("float64")
                told = sol.backward_error / unit_roundoff("float64")
                assert sol.converged
                assert_ratio(backward, "gate", (list(given), share, sol))
                assert told >= backward - 5, (backward, told, sol)


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 97, 300])
def test_fine_sums_of_rows_are_those_of_all(n, dtype, rng):
    G, u = as_scores(rng.integers(-9, 9, (n, 5)).astype(dtype)), rng.integers(-9, 9, (2, n))
    shift = np.arange(5.0)
    found, expected = np.zeros((2, 2, 5), passes.sums_dtype(G.dtype))
    passes.add_rmatvec(expected, G, u, shift=shift)
    passes.add_rmatvec(found, G, u, shift=shift, finely=True)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "method, n, p",
    [("primal", 300, 200), ("primal", 3000, 200), ("mixed", 3000, 200), ("dual", 100, 400)],
)
def test_others_are_not_gone_through_finely(method, n, p, rng, monkeypatch):
    """Nor are blocks of them compared."""
    refuse_fine_sums(monkeypatch)
    G = rng.standard_normal((n, p))
    for given in ({"b": rng.standard_normal(p)}, {"coef": rng.standard_normal(n)}):
        assert ff.solve(G, damping=1e-2, method=method, **given).converged


def test_long_products_are_not_taken_for_alike(rng, monkeypatch):
    """Summed up in single precision they would take few values."""
    refuse_fine_sums(monkeypatch)
    G, b = (rng.standard_normal(shape, dtype="float32") for shape in ((200, 200_000), 200_000))
    assert ff.solve(G, b, damping=ff.Relative(1e-3)).converged


def refuse_fine_sums(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("these samples are not alike")

    monkeypatch.setattr(System, "apply_finely", refuse)
    monkeypatch.setattr("fastfisher.solvers.fine._hidden", refuse)


@pytest.mark.parametrize("method", ["primal", "mixed"])
@pytest.mark.parametrize("n, p", [(9000, 3), (4000, 150)])
def test_equal_weights_are_none(method, n, p, rng):
    """Their sum is long, too, and of numbers that are alike."""
    G, b = rng.standard_normal((n, p)), rng.standard_normal(p)
    sol = ff.solve(G, b, damping=1e-2, weights=np.full(n, 0.1), method=method)
    backward = extended(wide_root(G)[0], sol.x[:, np.newaxis], b[:, np.newaxis], 1e-2)[0]
    assert_ratio(backward / unit_roundoff("float64"), "gate", sol)


@pytest.mark.parametrize("method", ["primal", "dual", "mixed"])
@pytest.mark.parametrize("weighted", [False, True])
def test_equal_coefficients_vanish_where_scores_are_centred(method, weighted, rng):
    """b = 0 and x = 0 to rounding, and that is a solution."""
    for n, p in ((59, 4), (41, 97)):
        G, w = rng.standard_normal((n, p)), rng.random(n) if weighted else None
        for c in (np.ones(n), np.full(n, 0.3)):
            settings = dict(damping=1e-3, center=True, weights=w, method=method)
            sol = ff.solve(G, coef=c, **settings)
            assert sol.converged and np.abs(sol.x).max() <= 1e-12, sol


def test_samples_in_long_runs_are_seen_to_be_alike():
    """Every run rounds a way of its own."""
    worst = 0.0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        rows = rng.standard_normal((7, 2))
        G = rows[np.sort(rng.integers(0, 2 + seed % 6, 14846))]
        T, _ = wide_root(G)
        norm, b = float(np.linalg.norm(T.astype(float), 2)) ** 2, rng.standard_normal((2, 1))
        for share in (1.0, 1e-3):
            sol = ff.solve(G, b, damping=share * norm, method="mixed")
            worst = max(worst, extended(T, sol.x, b, share * norm)[0])
    assert_ratio(worst / unit_roundoff("float64"), "gate", "runs")


@pytest.mark.parametrize("n, p", [(124, 1202), (383, 1042)])
def test_constant_scores_in_single_precision(n, p):
    """Sums along a row round one way as well."""
    u, ones = unit_roundoff("float32"), np.ones((p, 1), np.float32)
    for value in (0.1, 1 / 3, 0.7, 1.1):
        G = np.full((n, p), value, np.float32)
        norm = p * float(G[0, 0]) ** 2
        for share in (1e-2, 2.5e-5):
            sol = ff.solve(G, ones, damping=share * norm, method="mixed")
            backward = extended(wide_root(G)[0], sol.x, ones, share * norm)[0]
            assert sol.converged
            assert_ratio(backward / u, "gate", sol)
            assert abs(sol.backward_error - backward) <= u, sol
