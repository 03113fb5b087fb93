"""The failure ladder and eigenvalue cutoffs, the same on every representation (MATH P8, P9)."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError, NotPositiveDefiniteError

P = 12
ESCALATE = ff.Ladder(escalations=7)
CUT = ff.Ladder(cutoff=ff.HardCutoff(1e-10))


def singular_rows(rng):
    """Fewer samples than parameters, a parameter without scores, two that are one."""
    G = rng.standard_normal((5, P))
    G[:, 3] = 0
    G[:, 8] = G[:, 7]
    return G


def singular_layers(rng):
    return [
        (rng.standard_normal((2, 3)), rng.standard_normal((2, 2))),
        (rng.standard_normal((2, 2)), rng.standard_normal((2, 3))),
    ]


def kronecker(rng, **settings):
    return ff.KroneckerFisher([(3, 2), (2, 3)], **settings).update(singular_layers(rng))


MAKE = {
    "dense": lambda rng: ff.DenseFisher(P).update(singular_rows(rng)),
    "diagonal": lambda rng: ff.DiagonalFisher(P).update(singular_rows(rng)),
    "block": lambda rng: ff.BlockDiagonalFisher([2, 6, 4]).update(singular_rows(rng)),
    "gram": lambda rng: ff.GramFisher().update(singular_rows(rng)),
    "window": lambda rng: ff.WindowFisher(5, P).update(singular_rows(rng)),
    "layered": lambda rng: ff.LayeredFisher().update(singular_layers(rng)),
    "kfac": lambda rng: kronecker(rng),
    "ekfac": lambda rng: kronecker(rng, corrected=True),
}
over_kinds = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


@over_kinds
def test_P9_without_a_ladder_a_singular_fisher_is_refused(make, rng):
    F = make(rng)
    for call in (F.solve, F.factor):
        with pytest.raises(NotPositiveDefiniteError) as caught:
            call(*[np.ones(P)] * (call == F.solve), damping=0.0)
        assert caught.value.suggested_damping is None or caught.value.suggested_damping > 0


@over_kinds
def test_P9_bounded_damping_is_added_and_told(make, rng):
    F, b = make(rng), rng.standard_normal(P)
    with ff.options(ladder=ESCALATE):
        solution, factor = F.solve(b, damping=0.0), F.factor(damping=0.0)
    assert solution.converged and solution.rung.endswith("+damping")
    assert factor.rung == solution.rung.replace("+refinement", "")
    top = np.linalg.eigvalsh(F.matrix())[-1]
    assert 0 < solution.escalation == solution.damping <= 1e-7 * top
    assert solution.smallest_pivot > 0 and solution.rank in (P, F.n_samples)
    added = np.diag(np.broadcast_to(factor.added, P))
    rest = b - (F.matrix() + added) @ solution.x
    assert np.linalg.norm(rest) <= 1e-9 * top * np.linalg.norm(solution.x)
    # The damping asked for is kept where it does.
    with ff.options(ladder=ESCALATE):
        enough = F.solve(b, damping=0.1)
    assert enough.escalation == 0.0 and enough.damping == 0.1
    assert enough.x.tobytes() == F.solve(b, damping=0.1).x.tobytes()


def layers(rng):
    return [(np.zeros((2, 3)), np.zeros((2, 2))), (np.zeros((2, 2)), np.zeros((2, 3)))]


ZEROS = {
    "dense": lambda rng: ff.DenseFisher(P).update(np.zeros((5, P))),
    "diagonal": lambda rng: ff.DiagonalFisher(P).update(np.zeros((5, P))),
    "block": lambda rng: ff.BlockDiagonalFisher([2, 6, 4]).update(np.zeros((5, P))),
    "one block": lambda rng: ff.BlockDiagonalFisher([2, 6, 4]).update(
        rng.standard_normal((50, P)) * (np.arange(P) >= 2)
    ),
    "gram": lambda rng: ff.GramFisher().update(np.zeros((5, P))),
    "window": lambda rng: ff.WindowFisher(5, P).update(np.zeros((5, P))),
    "layered": lambda rng: ff.LayeredFisher().update(layers(rng)),
    "kfac": lambda rng: ff.KroneckerFisher([(3, 2), (2, 3)]).update(layers(rng)),
    "ekfac": lambda rng: ff.KroneckerFisher([(3, 2), (2, 3)], corrected=True).update(layers(rng)),
}


@pytest.mark.parametrize("make", ZEROS.values(), ids=ZEROS)
def test_P9_zero_has_no_size_to_measure_damping_by(make, rng):
    F = make(rng)
    with ff.options(ladder=ESCALATE):
        for call in (lambda: F.solve(np.ones(P), damping=0.0), lambda: F.factor(damping=0.0)):
            with pytest.raises(NotPositiveDefiniteError):
                call()
        assert F.solve(np.ones(P), damping=0.1).converged
    with ff.options(ladder=CUT):
        cut = F.solve(np.ones(P), damping=0.0)
    assert cut.rung == "eigen" and not cut.x[:2].any()


@over_kinds
def test_P8_P9_the_last_rung_is_the_pseudo_inverse(make, rng):
    F, b = make(rng), rng.standard_normal(P)
    pinv = np.linalg.pinv(F.matrix(), rcond=1e-10, hermitian=True)
    with ff.options(ladder=CUT):
        climbed, factor = F.solve(b, damping=0.0), F.factor(damping=0.0)
    asked = F.solve(b, damping=ff.HardCutoff(1e-10))
    for solution in (climbed, asked):
        assert solution.converged and solution.rung == "eigen", solution
        assert solution.rank == np.linalg.matrix_rank(F.matrix(), 1e-9)
        np.testing.assert_allclose(solution.x, pinv @ b, atol=1e-9 * np.abs(pinv @ b).max())
        assert 0 < solution.rcond <= 1
    np.testing.assert_allclose(factor.solve(b), climbed.x, atol=1e-12 * abs(climbed.x).max())
    np.testing.assert_allclose(factor.inv_quad(b[None]), b @ pinv @ b, rtol=1e-8)
    np.testing.assert_allclose(factor.inv_diagonal(), np.diag(pinv), atol=1e-9 * pinv.max())
    twice = factor.inv_root(factor.inv_root(b))
    np.testing.assert_allclose(twice, climbed.x, atol=1e-9 * abs(climbed.x).max())


@over_kinds
def test_P8_soft_cutoffs_fade(make, rng):
    F, b = make(rng), rng.standard_normal(P)
    e, V = np.linalg.eigh(F.matrix())
    kept = e > 1e-12 * e[-1]
    gains = np.where(
        kept, 1 / np.where(kept, e, 1) / (1 + (0.05 * e[-1] / np.where(kept, e, 1)) ** 6), 0
    )
    solution = F.solve(b, damping=ff.SoftCutoff(0.05))
    expected = V @ (gains * (V.T @ b))
    np.testing.assert_allclose(solution.x, expected, atol=1e-9 * abs(expected).max())


def test_B1_only_blocks_that_fail_are_damped(rng):
    F, b = ff.BlockDiagonalFisher({"a": 2, "b": 6, "c": 4}), rng.standard_normal(P)
    G = rng.standard_normal((40, P))
    G[:, 5] = G[:, 4]
    F.update(G)
    with ff.options(ladder=ESCALATE):
        factor, solution = F.factor(damping=0.0), F.solve(b, damping=0.0)
        mapped = F.solve(b, damping={"a": 0.5, "b": 0.0, "c": 0.0})
    extra = np.broadcast_to(factor.added, P)
    assert not extra[:2].any() and not extra[8:].any() and extra[2:8].min() > 0
    assert solution.escalation == extra.max() and solution.rung == "cholesky+damping"
    good = np.linalg.solve(F.matrix()[8:, 8:], b[8:])
    np.testing.assert_allclose(solution.x[8:], good, rtol=1e-11)
    assert mapped.converged and mapped.damping == 0.5 and mapped.escalation == extra.max()
    np.testing.assert_allclose(mapped.x[8:], good, rtol=1e-11)


def test_P9_damping_grows_until_rounding_leaves_the_pivots_to_it(monkeypatch, rng):
    """A pivot of a semidefinite block + damping is at least the damping."""
    from fastfisher.fisher import stacks

    F = MAKE["block"](rng)
    with ff.options(ladder=ff.Ladder(escalations=4)):
        first = F.factor(damping=0.0)
        assert first.facts["smallest_pivot"] >= 0.9 * first.added.max()
        monkeypatch.setattr(stacks, "HELD", 1e9)  # no pivot is ever large enough
        last = F.factor(damping=0.0)
    np.testing.assert_allclose(last.escalation, first.escalation * 1e3)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_every_system_climbs_by_itself(dtype, rng):
    G = rng.standard_normal((50, 6, 3)).astype(dtype)
    G[7], G[20, :, 2] = 0, G[20, :, 1]
    F, b = ff.BatchedFisher(50, 3, dtype=dtype).update(G), np.ones((50, 3), dtype)
    plain = F.solve(b, damping=0.0)
    assert plain.failed.tolist() == [7, 20] and plain.rungs is None and plain.rung == "cholesky"
    pivots = [
        np.linalg.cholesky(m)[range(3), range(3)].real.min() ** 2
        for m in np.delete(F.matrix().astype(np.complex128), [7, 20], axis=0)
    ]
    assert plain.smallest_pivot == pytest.approx(min(pivots), rel=1e-3)
    others = np.delete(np.arange(50), [7, 20])
    for ladder, rung in ((ESCALATE, 1), (CUT, 2)):
        with ff.options(ladder=ladder):
            climbed = F.solve(b, damping=0.0)
        # Zero has no size that damping could be measured by; a cutoff of it is zero.
        mended = [7, 20] if ladder is CUT else [20]
        assert np.flatnonzero(climbed.rungs).tolist() == mended
        assert climbed.failed.tolist() == [k for k in (7, 20) if k not in mended]
        assert set(climbed.rungs[mended]) == {rung}
        assert climbed.x[others].tobytes() == plain.x[others].tobytes()
    pinv = np.linalg.pinv(F.matrix()[20], rcond=1e-5, hermitian=True)
    np.testing.assert_allclose(climbed.x[20], pinv @ b[20], rtol=1e-4, atol=1e-5)
    assert not climbed.x[7].any() and climbed.rank == 0
    with ff.options(ladder=ESCALATE):
        factor, climbed = F.factor(damping=0.0), F.solve(b, damping=0.0)
    assert np.flatnonzero(factor.info).tolist() == [7]
    assert np.flatnonzero(factor.escalations).tolist() == [20]
    assert climbed.escalation == factor.escalations.max() and factor.rung == climbed.rung
    conditions = [1 / np.linalg.cond(m) for m in F.matrix()[others].astype(np.complex128)]
    ratio = factor.rcond()[others] / conditions
    assert ratio.min() > 0.5 and ratio.max() < 3


def test_systems_with_nan_climb_nothing(rng):
    G = rng.standard_normal((5, 4, 2))
    G[3, 0, 0] = np.nan
    F = ff.BatchedFisher(5, 2).update(G, nan_policy="propagate")
    for settings in (ff.options(ladder=ff.Ladder(3, ff.HardCutoff(0))), ff.options()):
        with settings:
            solution = F.solve(np.ones((5, 2)), damping=0.0)
        assert solution.info.tolist() == [0, 0, 0, -1, 0]
    cut = F.solve(np.ones((5, 2)), damping=ff.HardCutoff(1e-6))
    assert cut.info.tolist() == [0, 0, 0, -1, 0] and cut.rungs.tolist() == [2, 2, 2, 0, 2]


def test_systems_take_cutoffs_as_damping(rng):
    G = rng.standard_normal((9, 2, 4))
    F, b = ff.BatchedFisher(9, 4).update(G), rng.standard_normal((9, 4, 2))
    solution = F.solve(b + 1j * b[::-1], damping=ff.HardCutoff(1e-8))
    pinv = np.linalg.pinv(F.matrix(), rcond=1e-8, hermitian=True)
    np.testing.assert_allclose(solution.x, pinv @ (b + 1j * b[::-1]), rtol=1e-8, atol=1e-9)
    assert solution.converged and solution.rank == 2
    with pytest.raises(InputError, match="single samples"):
        F.solve(b, damping=ff.SNRCutoff(2.0))
    with pytest.raises(InputError, match="takes a number"):
        F.factor(damping=ff.HardCutoff(1e-8))


def test_P9_too_few_samples_with_an_arbitrary_side_are_damped_where_allowed(rng):
    G, b = rng.standard_normal((5, 9)), rng.standard_normal(9)
    for method in ("primal", "dual"):
        with pytest.raises(NotPositiveDefiniteError, match="rank at most 5"):
            ff.solve(G, b, damping=0.0, method=method)
        with ff.options(ladder=ESCALATE):
            solution = ff.solve(G, b, damping=0.0, method=method)
        assert solution.converged and solution.rung.startswith("cholesky+damping")
        assert solution.damping == solution.escalation > 0
        # Along directions without scores x is b over the damping.
        null = np.linalg.svd(G)[2][5:]
        np.testing.assert_allclose(null @ solution.x * solution.damping, null @ b, rtol=1e-2)
