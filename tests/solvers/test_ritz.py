"""What refinement says of its preconditioner, X10: against all eigenvalues of small problems."""

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.solvers import refine
from fastfisher.solvers.krylov import Iteration
from fastfisher.solvers.pcg import Rounding
from fastfisher.solvers.ritz import Ritz
from tests import matrices, oracle
from tests.solvers.mixed_cases import SHAPES, over_sides, problems
from tests.solvers.mixed_cases import sliced as sliced


def error_of(M, A):
    """||A^-1/2 (M - A) A^-1/2||."""
    half = np.linalg.inv(np.linalg.cholesky(A))
    return np.abs(np.linalg.eigvalsh(half @ M @ half.conj().T) - 1).max()


def definite(p, dtype, rng, cond):
    Q = matrices.orthonormal(p, p, dtype, rng)
    return (Q * np.geomspace(1, cond, p)) @ Q.conj().T


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_X10_a_whole_krylov_space_knows_the_error_and_costs_no_product(k, dtype, rng):
    p, products = 12, []
    A = definite(p, dtype, rng, 1e2)
    half = np.linalg.cholesky(A)
    M = half @ definite(p, dtype, rng, 4.0) @ half.conj().T
    inverse = np.linalg.inv(M)
    b = matrices.gaussian((k, p), dtype, rng)
    found = []
    for ritz in (None, Ritz()):
        products.append(0)

        def operator(rows):
            products[-1] += 1
            return rows @ A.T

        made = Iteration(
            operator,
            b,
            lambda rows: rows @ inverse.T,
            Rounding(b, 1.0, dtype),
            40,
            dtype=dtype,
            name="",
            ritz=ritz,
        ).run(np.zeros_like(b))
        found.append(made[0].tobytes())
    assert products[0] == products[1] and found[0] == found[1]
    least = 1 - 1e-6 if k == 1 else 0.5  # a block has less of each row
    assert least <= ritz.error() / error_of(M, A) <= 1 + 1e-6


def test_X10_the_coefficients_of_recurrences_say_the_same(rng):
    """Rows one by one, as a device has them, and as a block of diagonal matrices; the first is done
    after a step, and the last rests."""
    p = 9
    A = definite(p, "float64", rng, 1e2)
    half = np.linalg.cholesky(A)
    M = half @ definite(p, "float64", rng, 4.0) @ half.T
    inverse = np.linalg.inv(M)
    r, alone, block = rng.standard_normal((4, p)), Ritz(), Ritz()
    r[0], r[3] = A @ np.linalg.eig(inverse @ A)[1][:, 0].real, 0
    z = r @ inverse
    d, rz, before, beta = z.copy(), np.einsum("ij,ij->i", r, z), None, np.zeros(4)
    alone.begin()
    for _ in range(p):
        q, going = d @ A, rz > 1e-20
        curvature, (rows,) = np.einsum("ij,ij->i", d, q), np.nonzero(going)
        link = None if before is None else np.equal.outer(before, rows) * -beta[rows]
        block.step(rows, rz[rows], np.eye(len(rows)), link, np.diag(curvature[rows]))
        alpha = np.where(going, rz / np.where(going, curvature, 1), 0)
        r = r - alpha[:, np.newaxis] * q
        z = r @ inverse
        rz, last = np.einsum("ij,ij->i", r, z), rz
        beta, before = np.where(going, rz / np.where(going, last, 1), 0), rows
        d = z + beta[:, np.newaxis] * d
        alone.coefficients(alpha, beta)
    for ritz in (alone, block):
        assert ritz.error() == pytest.approx(error_of(M, A), rel=1e-6)
    for alpha in (-1.0, np.nan, 1e-320, 0.0):
        ritz = Ritz()
        ritz.begin()
        ritz.coefficients(np.array([alpha]), np.ones(1))
        assert ritz.error() is None
    assert Ritz().error() is None


@over_sides
@pytest.mark.parametrize("k", [1, 3])
def test_X10_rough_error_is_that_of_the_preconditioner(sliced, monkeypatch, side, k, rng):
    """Also where F is nearly singular beside its damping, and no sample of it says so."""
    made, factored = [], refine.MixedSolver._factored

    def kept(self, form, added):
        made.append(factored(self, form, added))
        return made[-1]

    monkeypatch.setattr(refine.MixedSolver, "_factored", kept)
    n, p = SHAPES[side]
    found = problems(n, p, rng)
    b, met = rng.standard_normal((n, k)), 0
    for name in ("power", "exponential", "clustered", "deficient", "heavy"):
        G = found[name]
        F = oracle.fisher(G) if side == "primal" else G @ G.T / n
        for share in (1e-2, 1e-5, 1e-7):
            lam = share * np.linalg.norm(F, 2)
            sol = ff.solve(G, coef=b, damping=lam, method="mixed")
            if sol.rung in (sliced, "single+cg"):
                L = np.tril(made[-1]._L).astype(float) / made[-1]._scales[:, np.newaxis]
                ratio = sol.rough_error / error_of(L @ L.T, F + lam * np.eye(len(F)))
                # Six steps of a block see less of single precision's rounding than of slices.
                least = 0.4 if sol.rung == sliced else 0.3
                assert least <= ratio <= 1.02, (name, share, ratio)
                met += 1
    assert met >= 10
    assert ff.solve(G, np.zeros(p), damping=1.0, method="mixed").rough_error is None
