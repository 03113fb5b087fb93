"""Mixed precision from integer slices, X1-X5: hidden spectra, residuals in extended precision."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.arrays import as_scores
from fastfisher.damping import as_damping
from fastfisher.errors import InputError
from fastfisher.kernels.slicing import FORMS
from fastfisher.solvers import refine, rough
from fastfisher.solvers.rough import Model, predicted_steps
from fastfisher.solvers.system import make_system
from tests import matrices, oracle
from tests.kernels.processes import in_a_process
from tests.solvers.mixed_cases import (
    CHEAP,
    SHAPES,
    extended,
    over_kinds,
    over_sides,
    problems,
    sides,
    wide_root,
)
from tests.solvers.mixed_cases import sliced as sliced
from tests.tolerances import LIMITS, assert_ratio, forward_ratio, unit_roundoff

NAMES = tuple(problems(3, 3, np.random.default_rng(0)))


@over_kinds
@over_sides
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [1e-2, 1e-4, 1e-8])
def test_X1_D9_accepted_only_at_the_backward_error_of_double(sliced, side, name, share, rng):
    """Whatever produced x, its error is that of a direct solve, and at kappa <= 1e3 below 1e-12."""
    G = problems(*SHAPES[side], rng)[name]
    T, roots = wide_root(G)
    lam = share * float(np.linalg.norm(T.astype(float), 2)) ** 2
    for what, (b, given) in sides(T, roots, rng).items():
        sol = ff.solve(G, damping=lam, method="mixed", **given)
        assert sol.converged, sol
        backward, residual = extended(T, sol.x, b, lam)
        if name == "duplicated rows" and what == "coef":
            # b is a sum that cancels: what that leaves of it, the exact route sees as well.
            exact = ff.solve(G, damping=lam, method=side, **given)
            backward -= extended(T, exact.x, b, lam)[0]
        assert_ratio(backward / unit_roundoff("float64"), "gate", (what, sol))
        if share >= 1e-2 and (side == "primal" or what == "coef"):
            assert_ratio(residual / unit_roundoff("float64"), "residual", (what, sol))
        if sol.rung == sliced:
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


@over_kinds
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
    assert sol.rung == sliced and sol.converged and sol.x.dtype == dtype, sol
    A = oracle.fisher(G, w, center) + lam * np.eye(p)
    expected = np.linalg.solve(A, np.asarray(right, float))
    assert_ratio(forward_ratio(sol.x, expected, 101), "forward", sol)


@over_kinds
@over_sides
@pytest.mark.parametrize("name", [name for name in NAMES if name != "duplicated rows"])
def test_float32_scores_reach_the_backward_error_of_single(sliced, side, name, rng):
    """Slices precondition, double sums refine: the gate in its own u, at most half the steps."""
    G = problems(*SHAPES[side], rng)[name].astype(np.float32)
    T, roots = wide_root(G)
    top = float(np.linalg.norm(T.astype(float), 2)) ** 2
    for share in (1e-1, 1e-3, 1e-6):
        for what, (b, given) in sides(T, roots, rng).items():
            ((form, right),) = given.items()
            right = right.astype(np.float32)
            b = T.T @ (roots * right) if form == "coef" else right
            sol = ff.solve(G, damping=share * top, method="mixed", **{form: right})
            assert sol.converged and sol.x.dtype == np.float32, sol
            # Septets have no second slice.
            assert sol.rung == sliced or (share < 1e-3 and sliced == "int7+cg"), sol
            backward, _ = extended(T, sol.x, b, share * top)
            assert_ratio(backward / unit_roundoff("float32"), "gate", (what, share, sol))


@over_kinds
def test_D9_steps_that_end_above_the_gate_leave_it_to_the_exact_route(sliced):
    """Centring takes one sample to zero: what is left of its rounding grows as damping falls."""
    n, p, met = 117, 130, 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        U, V = (np.linalg.qr(rng.standard_normal((k, n)))[0] for k in (n, p))
        G = (U / np.arange(1, n + 1) @ V.T * n**0.5).astype(np.float32)
        T, roots = wide_root(G.astype(float), center=True)
        c = rng.standard_normal((n, 1)).astype(np.float32)
        sol = ff.solve(G, coef=c, damping=5e-12, center=True, method="mixed")
        backward, _ = extended(T, sol.x, T.T @ (roots * c), 5e-12)
        assert_ratio(backward / unit_roundoff("float32"), "gate", (seed, sol))
        met += sol.rung == sliced
    assert met < 6


@over_kinds
@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_float32_error_does_not_grow_with_n(sliced, storage, rng):
    G = rng.uniform(0, 1, (60_000, 12)).astype(storage)  # sums of one sign
    T, _ = wide_root(G.astype(np.float32))
    b, lam = rng.standard_normal(12).astype(np.float32), 1e-3
    sol = ff.solve(G, b, damping=lam, method="mixed")
    assert sol.rung == sliced and sol.x.dtype == np.float32
    backward, _ = extended(T, sol.x[:, None], b[:, None], lam)
    assert_ratio(backward / unit_roundoff("float32"), "gate", sol)


@over_kinds
@pytest.mark.parametrize("damping", [ff.Relative(1e-1), ff.Marquardt(0.3, shift=1e-3)], ids=str)
def test_slices_take_every_damping(sliced, damping, rng):
    G, b = matrices.scores(131, 47, cond=1e3), rng.standard_normal(47)
    sol, exact = ff.solve(G, b, damping=damping, method="mixed"), ff.solve(G, b, damping=damping)
    assert sol.rung == sliced and sol.damping == pytest.approx(exact.damping)
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
    """eta = ||A^-1/2 E A^-1/2|| of every kind of slices, measured, against the estimate."""
    n, p = 200, 40
    scores = problems(n, p, rng)
    del scores["duplicated rows"]  # whose rounding errors are anything but independent
    for name, G in scores.items():
        system = make_system(as_scores(G), None, False, as_damping(1.0), "raise")
        slicing = rough.Slicing(system, "primal")
        F = oracle.fisher(G)
        top = np.linalg.norm(F, 2)
        model = Model(slicing.noise, p, n, top, squares=F.diagonal())
        for form in [FORMS[1], *(form for form in FORMS if form.slices == 1)]:
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


@over_kinds
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


@over_kinds
@over_sides
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("k", [-900, -480, -100, 100, 480, 990])
def test_26_15_scales_at_the_ends_of_the_range(sliced, side, k, rng):
    G, c = matrices.scores(*SHAPES[side], cond=1e2), rng.standard_normal(SHAPES[side][0])
    settings = dict(coef=c, damping=ff.Relative(1.0), method="mixed")
    plain, sol = ff.solve(G, **settings), ff.solve(G * 2.0**k, **settings)
    assert sol.converged and plain.rung == sliced
    assert_ratio(forward_ratio(sol.x * 2.0**k, plain.x, 100), "forward", sol)


@over_kinds
def test_columns_of_very_different_scale_share_no_unit(sliced, rng):
    """Each column has its own: graded ones lose nothing (Marquardt damps each in its measure)."""
    G, b = matrices.scores(131, 40, cond=1e2), rng.standard_normal(40)
    D = 2.0 ** -np.round(np.linspace(0, 60, 40))
    sol = ff.solve(G * D, D * b, damping=ff.Marquardt(1.0), method="mixed")
    plain = ff.solve(G, b, damping=ff.Marquardt(1.0))
    assert sol.rung == sliced
    assert_ratio(forward_ratio(D * sol.x, plain.x, 100), "forward", sol)


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

    if all(units.expected(kind) == "plain" for kind in ("bytes", "septets", "shorts")):
        pytest.skip("nothing multiplies slices fast here")
    one, two = in_a_process(bits_of_a_solve, NUMBA_NUM_THREADS="2")
    assert one == two and one[1].startswith("int")
