"""Hard input in every representation: what is promised is the same (law 26.15, 26.16, P9).

Singular, nearly singular, scaled by 1e150 or 1e-150, with NaN: an error that says so, or an answer
that is right; never a silent NaN, never a finite wrong one.
"""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import FisherError, InputError, NotPositiveDefiniteError
from tests.fisher.layers import layer, widths

P, N = 12, 30
SIZES = [(3, 2), (2, 3)]


class Kind:
    """A representation with 12 parameters: makes it, and batches it reads."""

    def __init__(self, make, layered=False):
        self.make, self.layered = make, layered

    def batch(self, rng, n=N, scale=1.0):
        if self.layered:
            pairs = [layer(n, None, *size, rng=rng) for size in SIZES]
            # Half of the scale on each factor, as a network would have it.
            root = 2.0 ** (np.log2(scale) // 2)
            return [(A * root, E * (scale / root)) for A, E in pairs]
        return rng.standard_normal((n, P)) * scale

    def spoil(self, batch, row, value):
        (batch[1][1] if self.layered else batch)[row, 1] = value
        return batch

    def without(self, batch, row):
        if self.layered:
            return [tuple(np.delete(x, row, axis=0) for x in pair) for pair in batch]
        return np.delete(batch, row, axis=0)


KINDS = {
    "dense": Kind(lambda: ff.DenseFisher(P)),
    "diagonal": Kind(lambda: ff.DiagonalFisher(P)),
    "block": Kind(lambda: ff.BlockDiagonalFisher([5, 2, 5])),
    "gram": Kind(lambda: ff.GramFisher()),
    "window": Kind(lambda: ff.WindowFisher(40, P)),
    "layered": Kind(lambda: ff.LayeredFisher(), layered=True),
    "kfac": Kind(lambda: ff.KroneckerFisher(SIZES), layered=True),
    "ekfac": Kind(lambda: ff.KroneckerFisher(SIZES, corrected=True), layered=True),
}
over_kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def test_the_cases_have_the_parameters_they_say():
    rng = np.random.default_rng(0)
    for kind in KINDS.values():
        assert kind.make().update(kind.batch(rng)).p == P
    assert widths(KINDS["kfac"].batch(rng)) == SIZES


@over_kinds
@pytest.mark.parametrize("scale", [1e-150, 1e-75, 1e75, 1e150])
def test_law_26_15_scale_is_undone_or_refused(kind, scale, rng):
    scale = 2.0 ** round(np.log2(scale))
    seed = rng.integers(1000)
    plain = kind.make().update(kind.batch(np.random.default_rng(seed)))
    b = rng.standard_normal(P)
    try:
        F = kind.make().update(kind.batch(np.random.default_rng(seed), scale=scale))
        scaled = F.solve(b * scale, damping=ff.Relative(0.1))
    except InputError as error:
        assert "squares" in str(error) and "power of two" in str(error)
        return
    expected = plain.solve(b, damping=ff.Relative(0.1)).x
    assert scaled.converged, scaled
    np.testing.assert_allclose(scaled.x * scale, expected, rtol=1e-10)


@over_kinds
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_law_26_16_rows_that_are_not_finite_are_named_skipped_or_seen(kind, value, rng):
    batch = kind.batch(rng)
    good = kind.without(batch, 17)
    bad = kind.spoil(
        [tuple(x.copy() for x in pair) for pair in batch] if kind.layered else batch.copy(),
        17,
        value,
    )
    F = kind.make()
    with pytest.raises(InputError, match="row 17"):
        F.update(bad, decay=0.5)
    assert (F.n_samples, F.weight, F.decayed) == (0, 0.0, False)
    F.update(bad, nan_policy="skip")
    assert (F.n_samples, F.n_skipped) == (N - 1, 1)
    np.testing.assert_allclose(F.matrix(), kind.make().update(good).matrix(), atol=1e-12)
    spoiled = kind.make()
    try:
        solution = spoiled.update(bad, nan_policy="propagate").solve(np.ones(P), damping=0.1)
    except FisherError:
        return
    assert not solution.converged and not np.isfinite(solution.x).all()


@over_kinds
def test_P9_singular_is_refused_with_advice_that_holds(kind, rng):
    F = kind.make().update(kind.batch(rng, n=1) if kind.layered else 0 * kind.batch(rng, n=2))
    with pytest.raises(NotPositiveDefiniteError) as caught:
        F.solve(np.ones(P), damping=0.0)
    error = caught.value
    assert 1 <= error.order <= P
    if error.suggested_damping is not None:
        assert np.isfinite(F.factor(damping=error.suggested_damping).logdet())


@over_kinds
@pytest.mark.parametrize("lam", [1e-12, 1e-15, 1e-18, 1e-30])
def test_P9_nearly_singular_answers_have_a_certificate_or_are_refused(kind, lam, rng):
    F, b = kind.make().update(kind.batch(rng, n=2)), rng.standard_normal(P)
    try:
        solution = F.solve(b, damping=lam)
    except NotPositiveDefiniteError as error:
        assert error.suggested_damping > lam
        return
    assert np.isfinite(solution.x).all()
    A = F.matrix() + lam * np.eye(P)
    rest = np.linalg.norm(b - A @ solution.x)
    bound = np.linalg.norm(A, 2) * np.linalg.norm(solution.x) + np.linalg.norm(b)
    assert solution.converged == (solution.status == "converged")
    if solution.converged:
        assert rest <= 1e-13 * bound


def test_every_system_of_a_batch_keeps_these_promises(rng):
    G = rng.standard_normal((6, 9, 4))
    expected = ff.BatchedFisher(6, 4).update(G).solve(np.ones((6, 4)), damping=0.0).x
    scales = 2.0 ** np.array([0, 200, -200, 400, -400, 0])
    F = ff.BatchedFisher(6, 4).update(G * scales[:, np.newaxis, np.newaxis])
    solution = F.solve(np.ones((6, 4)) * scales[:, np.newaxis], damping=0.0)
    np.testing.assert_allclose(solution.x * scales[:, np.newaxis], expected, rtol=1e-9)
    tiny = G * np.array([1, 1, 1e-160, 1, 1, 1])[:, np.newaxis, np.newaxis]
    solution = ff.BatchedFisher(6, 4).update(tiny).solve(np.ones((6, 4)), damping=0.0)
    assert np.flatnonzero(solution.info).tolist() == [2] and np.isnan(solution.x[2]).all()
    np.testing.assert_allclose(np.delete(solution.x, 2, 0), np.delete(expected, 2, 0), rtol=1e-12)
    with pytest.raises(InputError, match="squares vanish"):
        ff.BatchedFisher(6, 4).update(G * 1e-160)
    with pytest.raises(InputError, match="squares overflow"):
        ff.BatchedFisher(6, 4).update(G * 1e160)
