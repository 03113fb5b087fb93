"""solve_path: one matrix, rough or exact, for many dampings; each result as good as by itself."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError, NotPositiveDefiniteError
from fastfisher.planning import records
from fastfisher.solvers import refine, rough, system
from tests import matrices, oracle
from tests.solvers.mixed_cases import SHAPES, extended, over_sides, problems, sides, wide_root
from tests.solvers.mixed_cases import sliced as sliced
from tests.tolerances import assert_ratio, forward_ratio, unit_roundoff

CG = 1e4  # what its own tolerance leaves, in units of rounding


@pytest.fixture
def in_stages(monkeypatch):
    """A solve by itself goes the way of a path, however small it is."""
    monkeypatch.setattr(records, "SMALL_ORDER", 0)


@pytest.fixture
def formed(monkeypatch):
    """Which matrices were formed: slices, or the names of exact sums."""
    found = []
    matrix, syrk, gram = rough.Slicing.matrix, system.add_syrk, system.add_gram
    monkeypatch.setattr(
        rough.Slicing, "matrix", lambda self, f: found.append(f.slices) or matrix(self, f)
    )
    for name, add in (("add_syrk", syrk), ("add_gram", gram)):

        def counted(c, G, *, name=name, add=add, **settings):
            found.append(name)
            return add(c, G, **settings)

        monkeypatch.setattr(system, name, counted)
    return found


@pytest.mark.parametrize("n, p, dtype", [(400, 150, "float32"), (200, 75, "complex64")])
def test_a_path_factors_what_a_solve_does(n, p, dtype):
    """In single precision rounding of F would be larger than this damping."""
    for seed in range(6):
        rng = matrices.generator("path", dtype, seed)
        G = matrices.gaussian((n, 40), dtype, rng) @ matrices.gaussian((40, p), dtype, rng)
        given = {"coef": matrices.gaussian((n,), dtype, rng), "method": "primal"}
        one = ff.solve(G, damping=ff.Relative(1e-9), **given)
        _, again = ff.solve_path(G, dampings=[1.0, ff.Relative(1e-9)], **given)
        assert one.converged and again.converged and again.x.tobytes() == one.x.tobytes()


@over_sides
@pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
def test_exact_routes_give_the_bits_of_solve_from_one_matrix(side, dtype, formed, in_stages, rng):
    n, p = SHAPES[side]
    G, w = matrices.scores(n, p, dtype, cond=1e3), matrices.weights(n, dtype)
    c = matrices.gaussian((n, 2), dtype, rng)
    dampings = [1e-3, ff.Relative(1e-2), 1.0, 1e-2]
    for center in (False, True):
        settings = dict(coef=c, weights=w, center=center, method=side)
        formed.clear()
        path = ff.solve_path(G, dampings=dampings, **settings)
        assert formed == ["add_syrk" if side == "primal" else "add_gram"]
        for damping, sol in zip(dampings, path, strict=True):
            one = ff.solve(G, damping=damping, **settings)
            assert sol.x.tobytes() == one.x.tobytes() and sol.damping == one.damping
            assert sol.residual == one.residual and sol.rung == one.rung


@over_sides
@pytest.mark.parametrize("name", ["power", "clustered", "heavy"])
def test_X4_a_rough_matrix_serves_every_damping_it_holds(sliced, side, name, formed, rng):
    """In any order given; each result meets the gate, whatever produced it."""
    G = problems(*SHAPES[side], rng)[name]
    T, roots = wide_root(G)
    top = float(np.linalg.norm(T.astype(float), 2)) ** 2
    b, given = sides(T, roots, rng)["coef"]
    shares = [1e-1, 1.0, 3e-1, 1e-15, 1e-16]
    path = ff.solve_path(G, dampings=[share * top for share in shares], method="mixed", **given)
    for share, sol in zip(shares, path, strict=True):
        assert sol.converged and sol.damping == share * top and sol.method == "mixed"
        backward, _ = extended(T, sol.x, b, share * top)
        assert_ratio(backward / unit_roundoff("float64"), "gate", sol)
    assert [sol.slices for sol in path[:3]] == [1, 1, 1] and formed.count(1) == 1
    exact = "add_syrk" if side == "primal" else "add_gram"
    tail = [sol for sol in path[3:] if not sol.rung.endswith("+cg")]
    assert formed.count(exact) <= 1 + (len(tail) < 2)  # single precision is formed by it too
    for sol in tail:
        one = ff.solve(G, damping=sol.damping, method=side, **given)
        assert sol.x.tobytes() == one.x.tobytes()


def test_a_matrix_that_is_there_is_kept_while_it_will_do(sliced, formed, rng):
    """What it cost is spent: another one must be worth its own cost."""
    G, b = problems(500, 120, rng)["power"], rng.standard_normal(120)
    top = np.linalg.norm(oracle.fisher(G), 2)
    path = ff.solve_path(G, b, dampings=top * np.geomspace(1, 1e-6, 9), method="mixed")
    assert formed == [1] and [sol.slices for sol in path] == [1] * 9
    assert path[0].iterations < path[-1].iterations <= 12


def test_after_the_first_damping_it_does_not_hold_the_exact_matrix_serves_the_rest(
    sliced, formed, in_stages, monkeypatch, rng
):
    G, b = matrices.scores(131, 47, cond=1e3), rng.standard_normal(47)
    top = np.linalg.norm(oracle.fisher(G), 2)
    tried, rungs = [], refine.MixedSolver.rungs

    def none_below(self, model, added):
        tried.append(added / top)
        return rungs(self, model, added) if added > 0.2 * top else []

    monkeypatch.setattr(refine.MixedSolver, "rungs", none_below)
    dampings = [share * top for share in (0.01, 0.5, 0.1, 1.0, 0.05)]
    path = ff.solve_path(G, b, dampings=dampings, method="mixed")
    assert [sol.rung for sol in path] == ["cholesky", "int8+cg", "cholesky", "int8+cg", "cholesky"]
    assert sorted(set(tried))[::-1] == pytest.approx([1.0, 0.5, 0.1]) and formed == [1, "add_syrk"]
    for lam, sol in zip(dampings, path, strict=True):
        x = np.linalg.solve(oracle.fisher(G) + lam * np.eye(47), b)
        assert_ratio(forward_ratio(sol.x, x, 1 + top / lam), "forward", sol)
        assert sol.plan is path[0].plan and sol.plan.problem.dampings == 5


def test_a_plan_counts_the_matrix_once_and_the_rest_for_each(in_stages, rng):
    G, b = matrices.scores(300, 120), rng.standard_normal(120)
    one = ff.solve(G, b, damping=1.0, method="primal").plan
    many = ff.solve_path(G, b, dampings=[1.0] * 7, method="primal")[0].plan
    assert "7 dampings" in str(many) and "dampings" not in str(one)
    assert many.stages[0].flops == one.stages[0].flops
    assert [s.flops for s in many.stages[1:]] == [7 * s.flops for s in one.stages[1:]]
    assert many.peak_bytes - one.peak_bytes == 120 * 120 * 8


def test_peak_memory_is_that_of_the_plan(rng):
    import tracemalloc

    G, b = matrices.scores(1500, 700), rng.standard_normal(700)
    for method in ("primal", "mixed"):
        dampings = [1.0, 0.1, 1e-13]  # the last one falls back
        plan = ff.solve_path(G, b, dampings=dampings, method=method)[0].plan
        tracemalloc.start()
        try:
            ff.solve_path(G, b, dampings=dampings, method=method)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= 1.1 * plan.peak_bytes, (method, peak, plan.peak_bytes)


def test_cg_and_extreme_scales_go_one_by_one(rng):
    G, b = matrices.scores(60, 20, cond=1e2), rng.standard_normal(20)
    for scale, method in ((1.0, "cg"), (2.0**300, "primal"), (2.0**-300, "mixed")):
        dampings = [1e-2 * scale**2, ff.Relative(0.1)]
        path = ff.solve_path(G * scale, b, dampings=dampings, method=method)
        plain = ff.solve_path(G, b, dampings=[1e-2, ff.Relative(0.1)], method=method)
        for sol, expected in zip(path, plain, strict=True):
            assert sol.converged
            assert_ratio(forward_ratio(sol.x * scale**2, expected.x, CG), "forward", sol)


@over_sides
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_a_small_path_is_so_many_solves_to_the_bit(side, dtype, rng):
    G = rng.standard_normal((60, 9) if side == "primal" else (9, 60)).astype(dtype)
    b, dampings = np.ones((G.shape[1], 2), dtype), [0.3, ff.Relative(1e-2), 10.0]
    path = ff.solve_path(G, b, dampings=dampings, method=side)
    alone = [ff.solve(G, b, damping=damping, method=side) for damping in dampings]
    for together, single in zip(path, alone, strict=True):
        assert together.plan is path[0].plan and together.method == side
        assert np.array_equal(together.x, single.x) and together.damping == single.damping
    assert [stage.op for stage in path[0].plan.stages] == [f"{side}_small"]
    assert path[0].plan.flops == 3 * alone[0].plan.flops


def test_solve_path_refuses_what_it_cannot_do(rng):
    G, b = rng.standard_normal((9, 4)), rng.standard_normal(4)
    for given, words in (
        (dict(b=b, dampings=[]), "at least one"),
        (dict(b=b, dampings=0.1), "expected a sequence"),
        (dict(b=b, dampings=[1.0, ff.HardCutoff(0.1)]), "replaces the inverse"),
        (dict(b=b, dampings=[1.0, -1.0]), "damping"),
        (dict(dampings=[1.0]), "neither b nor coef"),
        (dict(b=b, coef=np.ones(9), dampings=[1.0]), "both b and coef"),
    ):
        with pytest.raises(InputError, match=words):
            ff.solve_path(G, **given)
    with pytest.raises(NotPositiveDefiniteError):
        ff.solve_path(G[:2], b, dampings=[1.0, 0.0])


@over_sides
def test_I5_several_sides_are_one_block(sliced, side, monkeypatch, rng):
    """One pass for all sides a step, and fewer steps than the slowest takes alone."""
    n, p = SHAPES[side]
    G, c = matrices.scores(n, p, cond=1e6), rng.standard_normal((n, 12))
    c[:, 7] = c[:, 2]  # dependent sides leave the block
    c[:, 8] = 0
    lam = 1e-3 * np.linalg.norm(oracle.fisher(G), 2)
    widths, adjoint = [], system.System.apply_adjoint
    if side == "primal":
        fisher = system.System.apply_fisher
        monkeypatch.setattr(
            system.System, "apply_fisher", lambda s, v: widths.append(len(v)) or fisher(s, v)
        )
    else:
        monkeypatch.setattr(
            system.System, "apply_adjoint", lambda s, f: widths.append(len(f)) or adjoint(s, f)
        )
    together = ff.solve(G, coef=c, damping=lam, method="mixed")
    assert together.rung == "int8+cg" and together.converged
    assert len(widths) <= together.iterations + 8 and 10 in widths and max(widths) <= 12
    alone = [ff.solve(G, coef=c[:, j], damping=lam, method="mixed") for j in range(3)]
    assert together.iterations < min(sol.iterations for sol in alone)
    T, roots = wide_root(G)
    b = T.T @ (roots * c)
    keep = np.arange(12) != 8
    backward, _ = extended(T, together.x[:, keep], b[:, keep], lam)
    assert_ratio(backward / unit_roundoff("float64"), "gate", together)
    assert not together.x[:, 8].any()
    assert_ratio(forward_ratio(together.x[:, 7], together.x[:, 2], 1e3), "forward", together)
