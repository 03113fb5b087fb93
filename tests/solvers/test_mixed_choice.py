"""What mixed precision tries, in which order, and what a sample tells beforehand, X1, X5, X6."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.arrays import as_scores
from fastfisher.damping import as_damping
from fastfisher.kernels.slicing import KINDS, SINGLE
from fastfisher.planning import Problem
from fastfisher.planning.costs import MixedCosts
from fastfisher.solvers import krylov, refine, rough
from fastfisher.solvers.pcg import Rounding
from fastfisher.solvers.probe import Probe
from fastfisher.solvers.refine import MixedSolver
from fastfisher.solvers.system import System, make_system
from tests import matrices, oracle
from tests.solvers.mixed_cases import SHAPES, multiplied_by, over_sides, problems
from tests.solvers.mixed_cases import sliced as sliced
from tests.tolerances import assert_ratio, forward_ratio


def test_a_factor_that_fails_takes_one_more_slice(sliced, monkeypatch, rng):
    G, b = matrices.scores(131, 47, cond=1e3), rng.standard_normal(47)
    lam = 1e-1 * np.linalg.norm(oracle.fisher(G), 2)
    first = ff.solve(G, b, damping=lam, method="mixed")
    factored, tried = rough.Rough.factored, []

    def fails_once(self, added):
        tried.append(self.form.slices)
        return None if len(tried) == 1 else factored(self, added)

    monkeypatch.setattr(rough.Rough, "factored", fails_once)
    sol = ff.solve(G, b, damping=lam, method="mixed")
    assert tried == [1, 2] and first.slices == 1 and sol.slices == 2 and sol.converged


@over_sides
def test_slow_convergence_falls_back_to_the_exact_route(sliced, side, monkeypatch, rng):
    """A preconditioner that lies: bounded steps, then the bits of the direct route."""
    n, p = SHAPES[side]
    G, c = matrices.scores(n, p, cond=1e6), rng.standard_normal(n)
    lam = 1e-6 * np.linalg.norm(oracle.fisher(G), 2)
    steps = []
    sweep = krylov.Iteration.sweep

    def counted(*args):
        found = sweep(*args)
        steps.append(found[2])
        return found

    monkeypatch.setattr(krylov.Iteration, "sweep", counted)
    monkeypatch.setattr(rough.RoughFactor, "solve", lambda self, rows: rows * self._scales**2)
    sol = ff.solve(G, coef=c, damping=lam, method="mixed")
    exact = ff.solve(G, coef=c, damping=lam, method=side)
    assert sol.method == "mixed" and sol.rung == exact.rung and sol.slices is None
    assert sol.x.tobytes() == exact.x.tobytes()
    assert steps and max(steps) <= refine.STEPS


def test_a_path_of_dampings_forms_the_matrix_once(sliced, monkeypatch, rng):
    G, b = matrices.scores(131, 47, cond=1e3), rng.standard_normal(47)
    formed = []
    matrix = rough.Slicing.matrix
    monkeypatch.setattr(
        rough.Slicing, "matrix", lambda self, f: formed.append(f.slices) or matrix(self, f)
    )
    system = make_system(as_scores(G), None, False, as_damping(1.0), "raise")
    solver = MixedSolver(system, Problem(n=131, p=47, method="mixed", dampings=4), "primal")
    top = np.linalg.norm(oracle.fisher(G), 2)
    for share in (1.0, 0.3, 0.1, 0.05):
        outcome = solver.solve(b[np.newaxis], None, as_damping(share * top))
        x = np.linalg.solve(oracle.fisher(G) + share * top * np.eye(47), b)
        assert_ratio(forward_ratio(outcome.x[0], x, 1 + 1 / share), "forward", share)
    assert formed == [1]


@pytest.mark.parametrize("sides", [1, 3])
def test_the_rule_of_refinement_knows_the_norm_from_the_first_product_on(
    sliced, sides, monkeypatch, rng
):
    """As near as by a product of its own, which a single right-hand side does without."""
    G, b = matrices.scores(131, 47, cond=1e3), rng.standard_normal((47, sides))
    top, known, products = np.linalg.norm(oracle.fisher(G), 2), [], []
    done, apply = Rounding.done, System.apply_fisher

    def seen(self, r, x, *others):
        known.append((bool(x.any()), self.norm()))
        return done(self, r, x, *others)

    def counted(self, v):
        products.append(len(v))
        return apply(self, v)

    monkeypatch.setattr(Rounding, "done", seen)
    monkeypatch.setattr(System, "apply_fisher", counted)
    sol = ff.solve(G, b, damping=0.1 * top, method="mixed")
    assert sol.slices == 1 and known[0] == (False, 0.0) and any(moved for moved, _ in known)
    for moved, norm in known[1:]:
        assert moved and 0.9 * top < norm - 0.1 * top <= (1 + 1e-12) * top
    assert products[:2] == ([2, 1] if sides == 1 else [1, 3])


def test_the_last_damping_factors_the_sums_where_they_lie(sliced, monkeypatch, rng):
    G, b = matrices.scores(131, 47, cond=1e3), rng.standard_normal(47)
    made, begin = [], rough.RoughFactor.__init__

    def watched(self, matrix, added):
        c = matrix.c
        begin(self, matrix, added)
        made.append(np.shares_memory(c, self._L))

    monkeypatch.setattr(rough.RoughFactor, "__init__", watched)
    top = np.linalg.norm(oracle.fisher(G), 2)
    ff.solve_path(G, b, dampings=[top, top / 2, top / 3], method="mixed")
    assert made == [False, False, True]


def test_unasked_it_tries_only_what_promises_a_gain(sliced, monkeypatch, rng):
    """Damping that no rough matrix can hold: the exact route follows before all scores are read."""
    G, b = np.repeat(rng.standard_normal((1310, 47)), 3, axis=1), rng.standard_normal(141)
    top, formed, looked = np.linalg.norm(oracle.fisher(G), 2), [], []
    matrix, peaks = rough.Slicing.matrix, rough.add_peaks
    monkeypatch.setattr(
        rough.Slicing, "matrix", lambda self, f: formed.append(f.slices) or matrix(self, f)
    )
    monkeypatch.setattr(
        rough, "add_peaks", lambda *of, **how: looked.append(1) or peaks(*of, **how)
    )
    system = make_system(as_scores(G), None, False, as_damping(1.0), "raise")
    solver = MixedSolver(system, Problem(n=1310, p=141, method="auto"), "primal")
    for share in (1e-9, 1e-16, 0.0):
        assert solver.solve(b[np.newaxis], None, as_damping(share * top)) is None
    assert not formed and not looked
    outcome = solver.solve(b[np.newaxis], None, as_damping(1e-1 * top))
    assert outcome.slices == 1 and formed == [1] and looked == [1]
    slow = MixedCosts(20.0, {"bytes": 30.0}, slicing=0.1, factor=0.1, step=0.01, exact=21.0)
    solver = MixedSolver(system, Problem(n=1310, p=141, method="auto"), "primal")
    solver.costs = slow
    assert solver.solve(b[np.newaxis], None, as_damping(1e-1 * top)) is None


@pytest.mark.filterwarnings("error")
@over_sides
@pytest.mark.parametrize("k", [-480, -100, 100, 480])
def test_unasked_scores_at_the_ends_of_the_range_say_nothing(sliced, side, k, rng):
    G = matrices.scores(*SHAPES[side], cond=1e2) * 2.0**k
    n, p = G.shape
    for damping in (ff.Relative(0.1), ff.Tikhonov(1e-3), ff.Marquardt(0.1, shift=1e-3)):
        system = make_system(as_scores(G), None, False, damping, "raise")
        solver = MixedSolver(system, Problem(n=n, p=p, method="auto"), side)
        outcome = solver.solve(None, rng.standard_normal((1, n)), damping)
        assert outcome is None or outcome.status == "converged"
    for bad in (np.nan, np.inf):
        G[:] = bad  # for the exact route to name
        system = make_system(as_scores(G), None, False, as_damping(1.0), "raise")
        solver = MixedSolver(system, Problem(n=n, p=p, method="auto"), side)
        assert solver.solve(None, np.ones((1, n)), as_damping(1.0)) is None


@pytest.mark.parametrize("side", ["primal", "dual"])
@pytest.mark.parametrize("name", ["power", "heavy"])
def test_X6_damping_below_the_smallest_eigenvalue_asks_no_more_of_a_rough_matrix(
    sliced, side, name, rng
):
    shape = (500, 120) if side == "primal" else (120, 500)
    G, c = problems(*shape, rng)[name], rng.standard_normal(shape[0])
    top = np.linalg.norm(oracle.fisher(G), 2)
    for method in ("auto", "mixed"):
        system = make_system(as_scores(G), None, False, as_damping(1.0), "raise")
        solver = MixedSolver(system, Problem(n=shape[0], p=shape[1], method=method), side)
        for share in (1e-3, 1e-6, 1e-9):
            outcome = solver.solve(None, c[np.newaxis], as_damping(share * top))
            assert outcome.slices == 1 and outcome.iterations <= 20, (method, share)


def test_X6_a_probe_tells_the_smallest_eigenvalue_and_the_norm(rng):
    n, p = 900, 180
    turned = np.linalg.qr(rng.standard_normal((p, p)))[0]
    k, scales = np.arange(1, p + 1), 10.0 ** rng.uniform(-3, 3, p)
    spectra = {
        "flat": np.ones(p),
        "power": 1.0 / k,
        "square": 1.0 / k**2,
        "exponential": 10.0 ** np.linspace(0, -6, p),
        "clustered": np.where(k <= 9, 1.0, 1e-4),
    }
    for name, e in spectra.items():
        G = (rng.standard_normal((n, p)) * np.sqrt(e)) @ turned
        for side, scores in (("primal", G * scales), ("dual", (G * scales).T.copy())):
            system = make_system(as_scores(scores), None, False, as_damping(1.0), "raise")
            found = Probe(system, side)
            F = oracle.fisher(scores) if side == "primal" else scores @ scores.T / p
            d = F.diagonal()
            least = np.linalg.eigvalsh(F / np.sqrt(np.outer(d, d)))[0]
            assert least / 10 <= found.kept <= 20 * least, (name, side)
            np.testing.assert_allclose(found.diagonal, d[::2], rtol=0.9)
            assert np.all(found.peaks <= np.abs(scores).max(axis=0 if side == "primal" else 1)[::2])
            assert found.trace == pytest.approx(d.sum(), rel=0.5)
            if name == "power":
                assert 0.5 <= found.norm / np.linalg.norm(F, 2) <= 5, (name, side)
    for rank in (p // 4, p // 2):  # nothing of most parameters is their own
        low = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, p))
        system = make_system(as_scores(low), None, False, as_damping(1.0), "raise")
        assert Probe(system, "primal").kept < 1e-4
    system = make_system(as_scores(np.zeros((9, 4))), None, False, as_damping(1.0), "raise")
    assert Probe(system, "primal").norm == 0


@pytest.mark.parametrize("side", ["primal", "dual"])
@pytest.mark.parametrize("whole", [False, True], ids=["at the end", "early"])
def test_X6_a_rank_above_half_is_seen_before_any_step(sliced, monkeypatch, side, whole, rng):
    """Half of the parameters know nothing of it; a factor from 1.25 terms for each does."""
    length, order = 1200, 240
    turned = np.linalg.qr(rng.standard_normal((order, order)))[0]
    costs = MixedCosts(40.0, {"bytes": 9.0 if whole else 1.0}, 0.1, 1.0, 0.5, exact=40.0)
    monkeypatch.setattr(refine, "mixed_costs", lambda *of: costs)
    formed, matrix = [], rough.Slicing.matrix
    monkeypatch.setattr(
        rough.Slicing, "matrix", lambda self, f: formed.append(1) or matrix(self, f)
    )
    for rank, suited in ((int(0.6 * order), False), (int(0.9 * order), False), (order, True)):
        G = rng.standard_normal((length, rank)) @ turned[:rank]
        top = np.linalg.norm(G.T @ G, 2) / (length if side == "primal" else order)
        G = G if side == "primal" else np.ascontiguousarray(G.T)
        system = make_system(as_scores(G), None, False, as_damping(1.0), "raise")
        problem = Problem(n=G.shape[0], p=G.shape[1], method="auto")
        solver, steps = MixedSolver(system, problem, side), []
        monkeypatch.setattr(krylov.Iteration, "apply", counting(krylov.Iteration.apply, steps))
        formed.clear()
        outcome = solver.solve(None, np.ones((1, G.shape[0])), as_damping(1e-9 * top))
        assert (outcome is not None) == suited == bool(steps)
        assert bool(formed) == (suited or not whole)


def counting(function, found):
    return lambda *args: found.append(1) or function(*args)


def test_a_steady_fall_is_told_from_a_hopeless_one():
    rule = Rounding(np.ones((1, 4)), 1.0, "float64")
    fast, slow = 0.1 ** np.arange(1, 9), 0.9 ** np.arange(1, 9)
    for course, limit, expected in (
        (fast, 40, False),
        (slow, 40, True),
        (slow[:4], 40, False),  # too early to tell
        ([10.0, 20.0, 40.0, 4.0, 0.4], 40, False),  # it rose at first
        ([10.0, 20.0, 40.0, 4.0, 0.4, 0.04], 8, True),  # falls well, too late
        ([*slow[:6], 1e-14], 40, False),
        ([2.0] * 10, 40, True),
    ):
        assert rule.hopeless(list(course), limit) is expected, (course, limit)


def test_auto_takes_mixed_precision_where_the_table_expects_a_gain(monkeypatch):
    from fastfisher.planning import costs, forget_profile

    try:
        for units, expected, kernel, forms in (
            (
                ("vnni", "plain", "vnni", "plain"),
                "mixed",
                "sliced_syrk",
                "up to 3 of them or int16",
            ),
            (("plain", "avx2", "avx2", "plain"), "mixed", "int7_syrk", "int16"),
            (("amx", "plain", "vnni", "amx"), "mixed", "sliced_syrk", "3 of them, int16 or bf16"),
            (("avxvnni", "avx2", "plain", "plain"), "mixed", "sliced_syrk", "up to 3 of them"),
            (("plain", "avx2", "plain", "plain"), "mixed", "int7_syrk", None),
            (("plain", "plain", "plain", "plain"), "primal", "syrk", None),
        ):
            units = dict(zip(KINDS, units, strict=True))
            monkeypatch.setattr(costs, "integer_unit", units.get)
            forget_profile()
            plan = ff.plan(16000, 4000)
            assert plan.method == expected and kernel in str(plan)
            assert plan.because.endswith(forms or "that follows" * (expected == "mixed")), plan
            assert ("reckoned" in plan.because) == bool(forms)
            named = ff.plan(16000, 4000, method="mixed").because
            assert named.endswith("single precision") == (expected == "mixed")
            assert ff.plan(16000, 4000, dtype="float32").method == expected
            assert ff.plan(500, 200).method == "primal"
            small = ff.plan(500, 200, method="mixed")  # to cut
            assert small.stages[0].op == "syrk" and "slice" not in small.because
        assert "sliced" not in str(plan) and "int7" not in str(plan)
    finally:
        monkeypatch.undo()
        forget_profile()


def test_X5_shorts_are_taken_where_one_slice_of_bytes_is_too_rough(monkeypatch, rng):
    """Two of bytes are four products, one of shorts is worth two of them."""
    costs = MixedCosts(20.0, {"bytes": 1.0, "shorts": 2.0}, 0.1, factor=0.1, step=0.2, exact=40.0)
    multiplied_by(monkeypatch, costs, bytes="vnni", shorts="vnni")
    G, b, taken = matrices.scores(131, 47, cond=1e6), rng.standard_normal(47), []
    for share in (1e-1, 1e-4):
        lam = share * np.linalg.norm(oracle.fisher(G), 2)
        sol = ff.solve(G, b, damping=lam, method="mixed")
        assert sol.converged and sol.slices == 1 and sol.iterations <= 20
        taken.append(sol.rung)
    assert taken == ["int8+cg", "int16+cg"]


def test_where_nothing_but_shorts_is_fast_they_follow_no_bytes(monkeypatch, rng):
    """The crudest form that there is is the first that is thought of."""
    costs = MixedCosts(20.0, {"shorts": 2.0}, 0.1, factor=0.1, step=0.2, exact=40.0)
    multiplied_by(monkeypatch, costs, shorts="avx2")
    G, b = matrices.scores(1310, 147, cond=1e2), rng.standard_normal(147)
    system = make_system(as_scores(G), None, False, as_damping(1.0), "raise")
    solver = MixedSolver(system, Problem(n=1310, p=147, method="auto"), "primal")
    assert [form.name for form in solver.forms] == ["int16"]
    lam = 1e-2 * np.linalg.norm(oracle.fisher(G), 2)
    outcome = solver.solve(b[np.newaxis], None, as_damping(lam))
    assert outcome.rung == "int16+cg" and outcome.slices == 1


@pytest.mark.parametrize("kinds", ["bytes shorts halves", "septets shorts", "shorts"])
def test_X6_the_crudest_form_of_a_processor_comes_first(monkeypatch, kinds, rng):
    """By the error expected of each; it alone is taken without a look at a sample."""
    multiplied_by(monkeypatch, **dict.fromkeys(kinds.split(), "amx"))
    system = make_system(
        as_scores(rng.standard_normal((131, 47))), None, False, as_damping(1.0), "raise"
    )
    solver = MixedSolver(system, Problem(n=131, p=47, method="auto"), "primal")
    solver.prepare()
    errors = {form: solver.model().error(form, 0.1) for form in solver.forms}
    crudest = max(errors, key=errors.get)
    assert solver.forms[0] == crudest and {form.kind for form in solver.forms} == set(kinds.split())
    assert [solver._crudest([form]) for form in solver.forms] == [
        form == crudest for form in solver.forms
    ]
    assert not solver._crudest([]) and not solver._crudest([SINGLE])


def test_X6_only_what_is_not_the_crudest_form_is_doubted(monkeypatch, rng):
    """Septets promise little and keep it; shorts rest on what half of F has in itself."""
    costs = MixedCosts(20.0, {"septets": 1.0, "shorts": 2.0}, 0.1, 0.1, step=0.2, exact=40.0)
    multiplied_by(monkeypatch, costs, septets="avx2", shorts="avx2")
    G, b, asked = matrices.scores(1310, 147, cond=1e4), rng.standard_normal(147), []
    holds = Probe.holds
    monkeypatch.setattr(Probe, "holds", lambda *of: asked.append(1) or holds(*of))
    system = make_system(as_scores(G), None, False, as_damping(1.0), "raise")
    top = np.linalg.norm(oracle.fisher(G), 2)
    for share, rung in ((1e-1, "int7+cg"), (1e-4, "int16+cg")):
        asked.clear()
        solver = MixedSolver(system, Problem(n=1310, p=147, method="auto"), "primal")
        assert [form.name for form in solver.forms] == ["int7", "int16"]
        outcome = solver.solve(b[np.newaxis], None, as_damping(share * top))
        assert outcome.rung == rung and bool(asked) == (rung == "int16+cg")
