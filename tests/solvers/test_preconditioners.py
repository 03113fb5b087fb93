"""Preconditioners of cg, I3 and I4: what they approximate, and that x does not depend on them."""

import copy
import itertools
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import fastfisher as ff
from fastfisher.arrays import as_scores
from fastfisher.damping import as_damping
from fastfisher.errors import InputError
from fastfisher.solvers.preconditioners import _orthonormal_rows
from fastfisher.solvers.system import make_system
from tests import matrices, oracle
from tests.tolerances import unit_roundoff

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)


def inverse(preconditioner, G, damping, weights=None, center=False):
    """The matrix that a preconditioner applies, and F + D."""
    system = make_system(as_scores(G), weights, center, as_damping(damping), "raise")
    system, diagonal = system.with_diagonal()
    added = system.resolve_damping(diagonal)
    p = G.shape[1]
    rows = np.eye(p, dtype=np.result_type(G.dtype, np.float64))
    # Row i is P^-1 e_i, the column i of P^-1.
    applied = preconditioner.build(system, added, diagonal)(rows).T
    F = oracle.fisher(G, weights, center)
    return applied, F + np.diag(np.broadcast_to(added, (p,)))


def condition(P, A):
    """Condition number of P^1/2 A P^1/2."""
    half = np.linalg.cholesky((P + P.conj().T) / 2)
    e = np.linalg.eigvalsh(half.conj().T @ A @ half)
    return e[-1] / e[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_cg_I4_nystrom_keeps_the_bound_on_every_draw(seed, dtype, rng):
    G = matrices.from_spectrum(200, 60, 1.0 / np.arange(1, 61) ** 2, dtype, rng)
    lam, rank = 1e-3, 20
    P, A = inverse(ff.Nystrom(rank, seed), G, lam)
    F = A - lam * np.eye(60)
    assert np.abs(P - P.conj().T).max() < 1e-10 * np.abs(P).max()
    wide = np.dtype(dtype)
    basis = _orthonormal_rows(rank, 60, wide, np.random.default_rng(seed)).T
    sketch = F @ basis
    approximation = sketch @ np.linalg.solve(basis.conj().T @ sketch, sketch.conj().T)
    missing = np.linalg.eigvalsh(F - approximation)
    assert missing[0] > -1e-12  # the approximation lies below F
    e, U = (part[..., -rank:] for part in np.linalg.eigh(approximation))
    expected = (e[0] + lam) * (U / (e + lam)) @ U.conj().T + np.eye(60) - U @ U.conj().T
    np.testing.assert_allclose(lam * P, expected, rtol=0, atol=1e-6)
    assert condition(P, A) <= (e[0] + lam + missing[-1]) / lam * (1 + 1e-8)
    assert condition(P, A) < 0.2 * np.linalg.cond(A)


def test_cg_I4_nystrom_of_three_effective_dimensions(rng):
    p, lam = 120, 1e-2
    spectrum = 1.0 / np.arange(1, p + 1) ** 2
    G = matrices.from_spectrum(300, p, spectrum, "float64", rng)
    effective = (spectrum / (spectrum + lam)).sum()
    rank = int(2 * np.ceil(1.5 * effective) + 1)
    P, A = inverse(ff.Nystrom(rank), G, lam)
    assert condition(P, A) < 1.6 and np.linalg.cond(A) > 90
    b = rng.standard_normal(p)
    counts = {
        name: ff.solve(G, b, damping=lam, method="cg", preconditioner=kind).iterations
        for name, kind in [("none", None), ("jacobi", "jacobi"), ("nystrom", ff.Nystrom(rank))]
    }
    assert 2 * counts["nystrom"] < min(counts["none"], counts["jacobi"])


@over_dtypes
@pytest.mark.parametrize("shape", [(60, 21), (12, 21)], ids=str)
@pytest.mark.parametrize("damping", [1e-2, ff.Marquardt(0.1, shift=0.01)], ids=str)
@pytest.mark.parametrize(
    "kind",
    [ff.Nystrom(5), ff.Nystrom(50, seed=3), ff.BlockJacobi(4), ff.BlockJacobi([1, 13, 7])],
    ids=str,
)
def test_cg_results_do_not_depend_on_the_preconditioner(dtype, shape, damping, kind, rng):
    G, w = matrices.scores(*shape, dtype, cond=1e3), matrices.weights(shape[0], dtype)
    b = matrices.gaussian((21, 3), dtype, rng)
    settings = dict(damping=damping, weights=w, center=True)
    sol = ff.solve(G, b, method="cg", preconditioner=kind, **settings)
    assert sol.converged and sol.x.dtype == dtype
    F = oracle.fisher(G, w, True)
    D = 1e-2 if damping == 1e-2 else 0.1 * np.diag(F).real + 0.01
    A = F + np.diag(np.broadcast_to(D, (21,)))
    expected = np.linalg.solve(A, oracle.wide(b))
    rtol = (1e-10 if unit_roundoff(dtype) < 1e-10 else 1e-5) * np.linalg.cond(A)
    assert np.linalg.norm(sol.x - expected) <= rtol * np.linalg.norm(expected)
    again = ff.solve(G, b, method="cg", preconditioner=kind, x0=sol.x, **settings)
    assert again.iterations <= sol.iterations and again.converged


@over_dtypes
def test_cg_I4_blocks_are_inverted_exactly(dtype, rng):
    G, w = matrices.scores(60, 15, dtype, cond=1e2), matrices.weights(60, dtype)
    for kind, edges in [
        (ff.BlockJacobi([4, 1, 10]), [0, 4, 5, 15]),
        (ff.BlockJacobi(6), [0, 6, 12, 15]),
    ]:
        P, A = inverse(kind, G, 1e-2, w, True)
        expected = np.zeros_like(A)
        for lo, hi in itertools.pairwise(edges):
            expected[lo:hi, lo:hi] = np.linalg.inv(A[lo:hi, lo:hi])
        limit = 1e4 * unit_roundoff(dtype) * np.abs(expected).max()
        np.testing.assert_allclose(P, expected, rtol=0, atol=limit)


def test_cg_I4_block_diagonal_systems_take_two_iterations(rng):
    G = np.zeros((60, 12))
    G[:30, :5], G[30:, 5:] = matrices.scores(30, 5, cond=1e6), matrices.scores(30, 7, cond=1e6)
    sol = ff.solve(
        G, rng.standard_normal(12), damping=1e-6, method="cg", preconditioner=ff.BlockJacobi([5, 7])
    )
    assert sol.converged and sol.iterations <= 2


@given(
    n=st.integers(0, 9),
    p=st.integers(0, 9),
    rank=st.integers(1, 12),
    seed=st.integers(0, 20),
    size=st.integers(1, 4),
)
def test_cg_26_14_preconditioners_at_every_size(n, p, rank, seed, size):
    rng = np.random.default_rng(seed)
    G, b = rng.standard_normal((n, p)), rng.standard_normal(p)
    for kind in (ff.Nystrom(rank, seed), ff.BlockJacobi(size)):
        sol = ff.solve(G, b, damping=0.1, method="cg", preconditioner=kind)
        F = oracle.fisher(G) if n else np.zeros((p, p))
        expected = np.linalg.solve(F + 0.1 * np.eye(p), b)
        assert sol.converged
        np.testing.assert_allclose(sol.x, expected, rtol=1e-7, atol=1e-8)


def test_cg_preconditioners_at_extreme_scales(rng):
    G, b = matrices.scores(40, 12, cond=1e4), rng.standard_normal(12)
    for kind in (ff.Nystrom(6), ff.BlockJacobi(5)):
        plain = ff.solve(G, b, damping=ff.Relative(1e-3), method="cg", preconditioner=kind)
        for k in (-480, 480):
            s = 2.0**k
            sol = ff.solve(
                G * s, b * s, damping=ff.Relative(1e-3), method="cg", preconditioner=kind
            )
            assert sol.converged
            np.testing.assert_allclose(sol.x * s, plain.x, rtol=1e-7)


def test_cg_a_block_without_factor_falls_back_to_its_diagonal(rng):
    G = rng.standard_normal((30, 6))
    G[:, 2] = 0
    P, A = inverse(ff.BlockJacobi([3, 3]), G, 0.0)
    np.testing.assert_allclose(np.diag(P)[:2], 1 / np.diag(A)[:2])
    assert P[2, 2] == 1 and P[0, 1] == 0 and P[3, 4] != 0


def test_preconditioners_are_values(rng):
    assert ff.BlockJacobi([2, 3]) == ff.BlockJacobi((2, 3)) and ff.Nystrom(3) == ff.Nystrom(3, 0)
    for kind in (ff.BlockJacobi([2, 3]), ff.Nystrom(3, 1)):
        assert pickle.loads(pickle.dumps(kind)) == copy.deepcopy(kind) == kind and hash(kind)
    G, b = rng.standard_normal((30, 8)), rng.standard_normal(8)
    runs = [
        ff.solve(G, b, damping=1e-2, method="cg", preconditioner=ff.Nystrom(3, seed)).x.tobytes()
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_preconditioners_refuse_what_they_cannot_take(rng):
    G, b = rng.standard_normal((30, 6)), np.ones(6)
    for call, message in [
        (lambda: ff.Nystrom(0), "Nystrom.rank=. is 0"),
        (lambda: ff.Nystrom(2.5), "expected an integer"),
        (lambda: ff.BlockJacobi([2, 0]), "a block of BlockJacobi is 0"),
        (lambda: ff.BlockJacobi(-1), r"BlockJacobi\(sizes=\) is -1"),
        (
            lambda: ff.solve(G, b, damping=1, method="cg", preconditioner=ff.BlockJacobi([2, 2])),
            "add up to 4; expected p = 6",
        ),
        (
            lambda: ff.solve(G, b, damping=0, method="cg", preconditioner=ff.Nystrom(2)),
            "needs damping > 0",
        ),
        (
            lambda: ff.solve(G, b, damping=1, method="cg", preconditioner="ilu"),
            r"preconditioner is 'ilu'; expected 'auto', 'jacobi', None, ff.Nystrom",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            call()
