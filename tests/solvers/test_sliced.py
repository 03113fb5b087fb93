"""Mixed precision from integer slices, X1-X5: hidden spectra, residuals in extended precision."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.arrays import as_scores
from fastfisher.damping import as_damping
from fastfisher.errors import InputError
from fastfisher.planning import Problem
from fastfisher.planning.costs import MixedCosts
from fastfisher.solvers import krylov, refine, rough
from fastfisher.solvers.pcg import Rounding
from fastfisher.solvers.probe import Probe
from fastfisher.solvers.refine import MixedSolver
from fastfisher.solvers.rough import FORMS, Model, predicted_steps
from fastfisher.solvers.system import make_system
from tests import matrices, oracle
from tests.kernels.every_op import in_a_process
from tests.tolerances import LIMITS, assert_ratio, forward_ratio, unit_roundoff

SHAPES = {"primal": (131, 47), "dual": (47, 131)}
over_sides = pytest.mark.parametrize("side", SHAPES)
# What slices cost where matrix registers make them cheap: they are tried wherever they may do.
CHEAP = MixedCosts(20.0, {"bytes": 1.0}, slicing=0.1, factor=0.1, step=0.01, exact=40.0)


@pytest.fixture
def sliced(monkeypatch):
    """Integer sums at every order, whatever multiplies bytes here."""
    monkeypatch.setattr(refine, "SLICED_ORDER", 1)
    monkeypatch.setattr(refine, "tried_unit", {"bytes": "vnni", "halves": "plain"}.get)
    monkeypatch.setattr(refine, "mixed_costs", lambda *of: CHEAP)


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


NAMES = tuple(problems(3, 3, np.random.default_rng(0)))


@over_sides
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [1e-2, 1e-4, 1e-8])
def test_X1_D9_accepted_only_at_the_backward_error_of_double(sliced, side, name, share, rng):
    """Whatever produced x, its error is that of a direct solve, and at kappa <= 1e3 below 1e-12."""
    G = problems(*SHAPES[side], rng)[name]
    T, roots = wide_root(G)
    lam = share * float(np.linalg.norm(T.astype(float), 2)) ** 2
    # One term adds up n times in the recomputed residual: its own rounding is above the gate.
    limit = "gate" if name != "duplicated rows" else "summation"
    for what, (b, given) in sides(T, roots, rng).items():
        sol = ff.solve(G, damping=lam, method="mixed", **given)
        assert sol.converged, sol
        backward, residual = extended(T, sol.x, b, lam)
        assert_ratio(backward / unit_roundoff("float64"), limit, (what, sol))
        if share >= 1e-2 and (side == "primal" or what == "coef"):
            assert_ratio(residual / unit_roundoff("float64"), "residual", (what, sol))
        if sol.rung == "int8+cg":
            assert 1 <= sol.slices <= 3 and sol.rough_error < np.inf
        else:
            assert sol.slices is None


@over_sides
@pytest.mark.parametrize("name", ["power", "exponential", "clustered", "deficient", "heavy"])
@pytest.mark.parametrize("method", ["mixed", "exact"])
def test_D9_weights_and_centring_meet_the_same_gate(sliced, side, name, method, rng):
    n, p = SHAPES[side]
    G, w = problems(n, p, rng)[name], rng.gamma(1.0, size=n)
    w[::17] = 0
    for center in (False, True):
        T, roots = wide_root(G, w, center)
        lam = 1e-5 * float(np.linalg.norm(T.astype(float), 2)) ** 2
        settings = dict(damping=lam, weights=w, center=center)
        for what, (b, given) in sides(T, roots, rng).items():
            sol = ff.solve(G, method=side if method == "exact" else "mixed", **settings, **given)
            backward, _ = extended(T, sol.x, b, lam)
            assert_ratio(backward / unit_roundoff("float64"), "gate", (what, center, sol))


def test_D9_through_y_alone_digits_are_lost(rng):
    """Negative control: x = T'y as it stands misses the gate that the pair holds."""
    G = problems(*SHAPES["dual"], rng)["clustered"]
    T, roots = wide_root(G)
    lam = 1e-3 * float(np.linalg.norm(T.astype(float), 2)) ** 2
    b, given = sides(T, roots, rng)["coef"]
    half = T.astype(float)
    y = np.linalg.solve(
        half @ half.T + lam * np.eye(len(half)), roots.astype(float) * given["coef"]
    )
    u = unit_roundoff("float64")
    assert extended(T, half.T @ y, b, lam)[0] / u > 3 * LIMITS["gate"]
    for method in ("dual", "mixed"):
        sol = ff.solve(G, damping=lam, method=method, **given)
        assert_ratio(extended(T, sol.x, b, lam)[0] / u, "gate", sol)


@over_sides
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
@pytest.mark.parametrize("form", ["b", "coef"])
def test_slices_take_weights_centring_and_several_sides(
    sliced, side, dtype, weighted, center, form, rng
):
    n, p = SHAPES[side]
    G = matrices.scores(n, p, dtype, cond=1e3)
    w = matrices.weights(n, dtype) if weighted else None
    lam = 1e-2 * np.linalg.norm(oracle.fisher(G, w, center), 2)
    settings = dict(damping=lam, weights=w, center=center, method="mixed")
    if form == "b":
        right = rng.standard_normal((p, 3)).astype(dtype)
        sol = ff.solve(G, right, **settings)
    else:
        c = rng.standard_normal((n, 3)).astype(dtype)
        sol, right = ff.solve(G, coef=c, **settings), oracle.coef_rhs(G, c, w, center)
    assert sol.rung == "int8+cg" and sol.converged and sol.x.dtype == dtype, sol
    A = oracle.fisher(G, w, center) + lam * np.eye(p)
    expected = np.linalg.solve(A, np.asarray(right, float))
    assert_ratio(forward_ratio(sol.x, expected, 101), "forward", sol)


@over_sides
@pytest.mark.parametrize("name", [name for name in NAMES if name != "duplicated rows"])
def test_float32_scores_reach_the_backward_error_of_single(sliced, side, name, rng):
    """Bytes precondition, double sums refine: the gate in its own u, at most half the steps."""
    G = problems(*SHAPES[side], rng)[name].astype(np.float32)
    T, roots = wide_root(G)
    top = float(np.linalg.norm(T.astype(float), 2)) ** 2
    for share in (1e-1, 1e-3, 1e-6):
        for what, (b, given) in sides(T, roots, rng).items():
            ((form, right),) = given.items()
            right = right.astype(np.float32)
            b = T.T @ (roots * right) if form == "coef" else right
            sol = ff.solve(G, damping=share * top, method="mixed", **{form: right})
            assert sol.converged and sol.rung == "int8+cg" and sol.x.dtype == np.float32, sol
            backward, _ = extended(T, sol.x, b, share * top)
            assert_ratio(backward / unit_roundoff("float32"), "gate", (what, share, sol))


@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_float32_error_does_not_grow_with_n(sliced, storage, rng):
    G = rng.uniform(0, 1, (60_000, 12)).astype(storage)  # sums of one sign
    T, _ = wide_root(G.astype(np.float32))
    b, lam = rng.standard_normal(12).astype(np.float32), 1e-3
    sol = ff.solve(G, b, damping=lam, method="mixed")
    assert sol.rung == "int8+cg" and sol.x.dtype == np.float32
    backward, _ = extended(T, sol.x[:, None], b[:, None], lam)
    assert_ratio(backward / unit_roundoff("float32"), "gate", sol)


@pytest.mark.parametrize("damping", [ff.Relative(1e-1), ff.Marquardt(0.3, shift=1e-3)], ids=str)
def test_slices_take_every_damping(sliced, damping, rng):
    G, b = matrices.scores(131, 47, cond=1e3), rng.standard_normal(47)
    sol, exact = ff.solve(G, b, damping=damping, method="mixed"), ff.solve(G, b, damping=damping)
    assert sol.rung == "int8+cg" and sol.damping == pytest.approx(exact.damping)
    assert_ratio(forward_ratio(sol.x, exact.x, 1e3), "forward", sol)


@over_sides
def test_X5_smaller_damping_takes_more_slices_then_single_precision(sliced, side, rng):
    n, p = SHAPES[side]
    G, c = matrices.scores(n, p, cond=1e6), rng.standard_normal(n)
    top, found = np.linalg.norm(oracle.fisher(G), 2), []
    for share in (1e-1, 1e-3, 1e-5, 1e-6):
        sol = ff.solve(G, coef=c, damping=share * top, method="mixed")
        assert sol.converged and sol.iterations <= 30
        found.append(sol.slices or 9)
    assert found == sorted(found) and found[0] == 1 and len(set(found)) > 1, found


def test_X5_the_estimated_error_bounds_what_slices_do(rng):
    """eta = ||A^-1/2 E A^-1/2|| of bytes and halves, measured, against the estimate."""
    n, p = 200, 40
    scores = problems(n, p, rng)
    del scores["duplicated rows"]  # whose rounding errors are anything but independent
    for name, G in scores.items():
        system = make_system(as_scores(G), None, False, as_damping(1.0), "raise")
        slicing = rough.Slicing(system, "primal")
        F = oracle.fisher(G)
        top = np.linalg.norm(F, 2)
        model = Model(slicing.noise, p, n, top, squares=F.diagonal())
        for form in (FORMS[0], FORMS[1], FORMS[3]):
            found = slicing.matrix(form)
            lower = found.outer[:, np.newaxis] * found.c * found.outer
            M = np.tril(lower) + np.tril(lower, -1).T
            for share in (1e-1, 1e-3):
                roots, V = np.linalg.eigh(F + share * top * np.eye(p))
                half = V / np.sqrt(roots)
                eta = np.linalg.norm(half.T @ (M - F) @ half, 2)
                estimate = model.error(form, share * top)
                assert eta <= 3 * estimate, (name, form, share)
                assert estimate <= 3e3 * eta or eta < 1e-12, (name, form, share)


def test_predicted_steps_follow_X1():
    assert (
        predicted_steps(0.0) == 1 and predicted_steps(np.inf) == predicted_steps(np.nan) == np.inf
    )
    assert predicted_steps(1e-17) == predicted_steps(5e-324) == 1 <= predicted_steps(1e-15) <= 3
    steps = [predicted_steps(eta) for eta in (1e-6, 1e-3, 1e-1, 0.5, 0.9, 2.0, 9.0)]
    assert steps == sorted(steps) and steps[0] <= 4 and 20 < steps[4] <= 25 and steps[-1] > 55
    assert predicted_steps(0.5, np.float32) <= 0.6 * predicted_steps(0.5)


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


def test_not_finite_scores_are_named_before_anything_is_cut(sliced, rng):
    G, b = rng.standard_normal((131, 47)), rng.standard_normal(47)
    for bad in (np.nan, np.inf, -np.inf):
        G[120, 41] = bad
        with pytest.raises(InputError, match="row 120, column 41"):
            ff.solve(G, b, damping=1.0, method="mixed")
    sol = ff.solve(G, b, damping=1.0, method="mixed", nan_policy="skip")
    rest = np.delete(G, 120, axis=0)
    assert sol.converged
    assert_ratio(forward_ratio(sol.x, ff.solve(rest, b, damping=1.0).x, 10), "forward", sol)
    assert np.isnan(ff.solve(G, b, damping=1.0, method="mixed", nan_policy="propagate").x).all()


@over_sides
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("k", [-900, -480, -100, 100, 480, 990])
def test_26_15_scales_at_the_ends_of_the_range(sliced, side, k, rng):
    G, c = matrices.scores(*SHAPES[side], cond=1e2), rng.standard_normal(SHAPES[side][0])
    settings = dict(coef=c, damping=ff.Relative(1.0), method="mixed")
    plain, sol = ff.solve(G, **settings), ff.solve(G * 2.0**k, **settings)
    assert sol.converged and plain.rung == "int8+cg"
    assert_ratio(forward_ratio(sol.x * 2.0**k, plain.x, 100), "forward", sol)


def test_columns_of_very_different_scale_share_no_unit(sliced, rng):
    """Each column has its own: graded ones lose nothing (Marquardt damps each in its measure)."""
    G, b = matrices.scores(131, 40, cond=1e2), rng.standard_normal(40)
    D = 2.0 ** -np.round(np.linspace(0, 60, 40))
    sol = ff.solve(G * D, D * b, damping=ff.Marquardt(1.0), method="mixed")
    plain = ff.solve(G, b, damping=ff.Marquardt(1.0))
    assert sol.rung == "int8+cg"
    assert_ratio(forward_ratio(D * sol.x, plain.x, 100), "forward", sol)


def test_a_path_of_dampings_forms_the_matrix_once(sliced, monkeypatch, rng):
    G, b = matrices.scores(131, 47, cond=1e3), rng.standard_normal(47)
    formed = []
    matrix = rough.Slicing.matrix
    monkeypatch.setattr(
        rough.Slicing, "matrix", lambda self, f: formed.append(f.slices) or matrix(self, f)
    )
    system = make_system(as_scores(G), None, False, as_damping(1.0), "raise")
    solver = MixedSolver(system, Problem(n=131, p=47, method="mixed"), "primal")
    top = np.linalg.norm(oracle.fisher(G), 2)
    for share in (1.0, 0.3, 0.1, 0.05):
        outcome = solver.solve(b[np.newaxis], None, as_damping(share * top))
        x = np.linalg.solve(oracle.fisher(G) + share * top * np.eye(47), b)
        assert_ratio(forward_ratio(outcome.x[0], x, 1 + 1 / share), "forward", share)
    assert formed == [1]


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
        for unit, expected in (("vnni", "mixed"), ("plain", "primal")):
            monkeypatch.setattr(costs, "integer_unit", lambda unit=unit: unit)
            forget_profile()
            plan = ff.plan(16000, 4000)
            assert plan.method == expected and str(plan)
            assert ff.plan(16000, 4000, dtype="float32").method == expected
            assert ff.plan(500, 200).method == "primal"
        assert "sliced" not in str(plan)
    finally:
        monkeypatch.undo()
        forget_profile()


def bits_of_a_solve():
    """The same solve on one and two threads, and what produced it."""
    import hashlib

    refine.mixed_costs = lambda *of: CHEAP
    rng = np.random.default_rng(5)
    G, b = rng.standard_normal((1100, 800)), rng.standard_normal(800)
    found = []
    for count in (1, 2):
        ff.set_num_threads(count)
        sol = ff.solve(G, b, damping=1.0, method="mixed")
        found.append([hashlib.sha256(sol.x.tobytes()).hexdigest(), sol.rung])
    return found


@pytest.mark.slow
def test_A6_one_and_two_threads_give_the_same_bits():
    from fastfisher.kernels.cpu import units

    if "+avx512vnni" not in units.features():
        pytest.skip("Numba does not compile for VNNI")
    one, two = in_a_process(bits_of_a_solve, NUMBA_NUM_THREADS="2")
    assert one == two and one[1] == "int8+cg"
