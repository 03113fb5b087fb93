"""Square F with known facts: LAPACK's nine types, classics with known inverses, a graded one."""

import math
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg

from tests.matrices import eigenvalues, far, generator, is_single, orthonormal
from tests.tolerances import unit_roundoff


@dataclass(frozen=True)
class Square:
    """A Hermitian matrix and what is known about it."""

    name: str
    F: np.ndarray = field(repr=False)
    cond: float | None = None
    order: int | None = None
    inverse: np.ndarray | None = field(default=None, repr=False)
    logdet: float | None = None

    def __str__(self):
        return f"{self.name}-{len(self.F)}-{self.F.dtype.str[1:]}"


def lapack(kind, p, dtype="float64"):
    """LAPACK's nine types of positive (semi)definite F: dlatb4's xPO table."""
    u = unit_roundoff(dtype)
    worst = 0.1 / (2 * u)
    cond = {6: math.sqrt(worst), 7: worst}.get(kind, 2.0)
    rng = generator("lapack", kind, p, np.dtype(dtype).name)
    lam = eigenvalues("arith" if kind == 1 else "geo", p, cond, rng)
    V = np.eye(p) if kind == 1 else orthonormal(p, p, dtype, rng)
    F = (V * lam) @ V.conj().T
    F = (F + F.conj().T) / 2
    zero = {3: 0, 4: p - 1, 5: p // 2}.get(kind)
    if zero is not None:
        F[zero], F[:, zero] = 0, 0
    F = (F * 2.0 ** ({8: -2, 9: 2}.get(kind, 0) * far(dtype))).astype(dtype)
    if zero is not None:
        return Square(f"lapack{kind}", F, math.inf, zero + 1)
    return Square(f"lapack{kind}", F, cond, 0 if p * cond * u < 0.1 else None)


def _classic(name, A, dtype, *, inverse=None, logdet=None):
    cond = float(np.linalg.cond(A)) if len(A) else 1.0
    if inverse is not None and cond < 1e12:
        residual = np.max(np.abs(A @ inverse - np.eye(len(A))), initial=0.0)
        assert residual <= 100 * len(A) * cond * 2.0**-53, f"{name}: inverse off by {residual}"
    order = 0 if len(A) * cond * unit_roundoff(dtype) < 0.1 else None
    return Square(name, A.astype(dtype), cond, order, inverse, logdet)


def _tridiagonal(main, off):
    return np.diag(main) + np.diag(off, 1) + np.diag(off, -1)


def hilbert(p, dtype="float64"):
    A, inverse = scipy.linalg.hilbert(p), scipy.linalg.invhilbert(p)
    return _classic("hilbert", A, dtype, inverse=inverse)


def minij(p, dtype="float64"):
    i = np.arange(1.0, p + 1)
    main = np.where(i < p, 2.0, 1.0)
    inverse = _tridiagonal(main, -np.ones(p - 1))
    return _classic("minij", np.minimum.outer(i, i), dtype, inverse=inverse, logdet=0.0)


def lehmer(p, dtype="float64"):
    i = np.arange(1.0, p + 1)
    main = np.where(i < p, 4 * i**3 / (4 * i**2 - 1), i**2 / (2 * i - 1))
    j = i[:-1]
    inverse = _tridiagonal(main, -j * (j + 1) / (2 * j + 1))
    logdet = math.lgamma(2 * p + 1) - p * math.log(2) - 3 * math.lgamma(p + 1)
    A = np.minimum.outer(i, i) / np.maximum.outer(i, i)
    return _classic("lehmer", A, dtype, inverse=inverse, logdet=logdet)


def moler(p, dtype="float64"):
    """L L' with L unit lower triangular and -1 below: one tiny eigenvalue, determinant 1."""
    L = np.eye(p) - np.tril(np.ones((p, p)), -1)
    L_inverse = np.eye(p)
    for d in range(1, p):
        L_inverse += np.diag(np.full(p - d, 2.0 ** (d - 1)), -d)
    return _classic("moler", L @ L.T, dtype, inverse=L_inverse.T @ L_inverse, logdet=0.0)


def pei(p, dtype="float64", *, alpha=0.5):
    A = alpha * np.eye(p) + 1
    inverse = (np.eye(p) - np.ones((p, p)) / (alpha + p)) / alpha
    logdet = (p - 1) * math.log(alpha) + math.log(alpha + p)
    return _classic("pei", A, dtype, inverse=inverse, logdet=logdet)


def kms(p, dtype="float64", *, rho=0.5):
    """Kac-Murdock-Szego, rho^|i-j|: the covariance of an autoregression."""
    i = np.arange(p)
    A = rho ** np.abs(np.subtract.outer(i, i)).astype(float)
    main = np.where((i == 0) | (i == p - 1), 1.0, 1 + rho**2)
    inverse = _tridiagonal(main, np.full(p - 1, -rho)) / (1 - rho**2) if p > 1 else np.eye(p)
    return _classic("kms", A, dtype, inverse=inverse, logdet=(p - 1) * math.log(1 - rho**2))


def pascal(p, dtype="float64"):
    inverse = np.asarray(scipy.linalg.invpascal(p), np.float64)
    A = scipy.linalg.pascal(p).astype(np.float64)
    return _classic("pascal", A, dtype, inverse=inverse, logdet=0.0)


def lotkin(p, dtype="float64"):
    """Gram of Lotkin's matrix (Hilbert with a first row of ones)."""
    A = scipy.linalg.hilbert(p)
    A[0] = 1
    return _classic("lotkin", A.T @ A, dtype)


def kahan(p, dtype="float64", *, theta=1.2):
    """Gram of Kahan's upper triangular matrix: its Cholesky factor is known."""
    s, c = math.sin(theta), math.cos(theta)
    R = (s ** np.arange(p))[:, None] * (np.eye(p) - c * np.triu(np.ones((p, p)), 1))
    return _classic("kahan", R.T @ R, dtype, logdet=p * (p - 1) * math.log(s))


def graded(p, dtype="float64"):
    """D A D, D powers of two from 1 to 1e-12 (1e-6 in single): only the scaling is bad."""
    span = 20 if is_single(dtype) else 40
    d = 2.0 ** -np.round(np.linspace(0, span, p))
    A = pei(p).F
    return Square("graded", (d[:, None] * A * d).astype(dtype), None, 0)


CLASSICS = (minij, lehmer, moler, pei, kms, pascal, lotkin, kahan, hilbert)


def catalogue(p, dtype="float64"):
    """Every square family at one size; Hilbert-like ones only while p <= 12."""
    yield from (lapack(kind, p, dtype) for kind in range(1, 10))
    yield graded(p, dtype)
    steep = (moler, pascal, lotkin, hilbert)
    yield from (family(p, dtype) for family in CLASSICS if p <= 12 or family not in steep)
