"""Approximate inverses of F + D for conjugate gradients, as small value objects."""

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from ..arrays import Scores
from ..errors import InputError
from ..ops.factorizations import factor, solve_factored
from ..passes import add_syrk, sums_dtype
from ..planning import require_memory
from ..scalars import as_count, said
from .ranges import unit_roundoff

__all__ = ["BlockJacobi", "Nystrom", "Preconditioner", "check_preconditioner", "jacobi"]

CHUNK = 32  # vectors multiplied by F at once
NOISE = 32  # eigenvalues of the sketch below so many l u of the largest are rounding


class Preconditioner(ABC):
    """Base: ``build(system, added, diagonal)`` returns a function on rows (k, p) in double.

    `added` is the damping D, a number or (p,), and `diagonal` that of F.
    """

    @abstractmethod
    def build(self, system, added, diagonal):
        """The approximate inverse of F + D, Hermitian positive definite."""


def check_preconditioner(given):
    """What cg takes: "auto", "jacobi", None, a `Preconditioner` or a callable."""
    if given is None or isinstance(given, Preconditioner):
        return given
    word = isinstance(given, str) and given in ("auto", "jacobi")
    if not word and (isinstance(given, type) or not callable(given)):
        raise InputError(
            f"preconditioner is {said(given)}; expected 'auto', 'jacobi', None, "
            "ff.Nystrom(rank), ff.BlockJacobi(sizes) or a callable"
        )
    return given


def jacobi(damped):
    """Division by the diagonal of F + D; a parameter without scores and damping stays as it is."""
    scales = 1 / np.where(damped > 0, damped, 1.0)
    return lambda rows: rows * scales


@dataclass(frozen=True)
class Nystrom(Preconditioner):
    """The inverse of a low-rank approximation of F from a random sketch, plus damping.

    ``P^-1 = (e_l + lambda) U (E + lambda I)^-1 U' + I - U U'`` with the sketch F ~ U E U' of F on a
    random orthonormal basis, e_l its smallest eigenvalue. Pays where the spectrum falls fast and
    the damping is small: a rank of about three effective dimensions makes the condition number a
    small constant.

    Parameters
    ----------
    rank : int
        l >= 1; columns of the sketch.
    seed : int
        Of the random basis.

    Notes
    -----
    l products with F (about l / 32 passes over G), 4 p l^2 flops and 3 p l words, which come on top
    of what the plan says; 4 p l flops an iteration. Other damping than lambda I is scaled to it.
    docs/math.md I4.

    References
    ----------
    Z. Frangella, J. Tropp, M. Udell, Randomized Nystrom preconditioning, 2021, arXiv:2110.02820.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> G = np.random.default_rng(0).standard_normal((300, 100)) * 0.8 ** np.arange(100)
    >>> sol = ff.solve(G, np.ones(100), damping=1e-4, method="cg", preconditioner=ff.Nystrom(60))
    >>> sol.status, sol.iterations < 10
    ('converged', True)
    """

    rank: int
    seed: int = 0

    def __post_init__(self):
        for name, least in (("rank", 1), ("seed", 0)):
            value = as_count(getattr(self, name), f"Nystrom({name}=)", least=least)
            object.__setattr__(self, name, value)

    def build(self, system, added, diagonal):
        p, double = system.p, sums_dtype(system.dtype)
        if p and not np.min(added) > 0:
            raise InputError(
                "the Nystrom preconditioner needs damping > 0 for every parameter; pass "
                "preconditioner='jacobi' or raise damping"
            )
        rank = min(self.rank, p)
        require_memory(3 * rank * p * double.itemsize, f"a Nystrom preconditioner of rank {rank}")
        # In the units of D: D^-1/2 F D^-1/2 + I.
        roots = np.sqrt(np.broadcast_to(added, (p,)))
        basis = _orthonormal_rows(rank, p, double, np.random.default_rng(self.seed))
        sketch = np.empty_like(basis)
        for lo in range(0, rank, CHUNK):
            part = basis[lo : lo + CHUNK] / roots
            sketch[lo : lo + CHUNK] = system.apply_fisher(part) / roots
        # Rows are vectors: core_ij = <basis_i, F basis_j>.
        core = basis.conj() @ sketch.T
        inner, turn = np.linalg.eigh((core + core.conj().T) / 2)
        noise = NOISE * rank * unit_roundoff(system.dtype) * max(inner[-1:], default=0.0)
        kept = inner > noise
        half = (turn[:, kept] / np.sqrt(inner[kept])).T @ sketch
        _, sizes, U = np.linalg.svd(half, full_matrices=False)
        e = sizes**2
        # A sketch that lost rank has seen all of F.
        least = float(e[-1]) if 0 < len(e) == rank else 0.0
        gains = (least + 1) / (e + 1) - 1

        def precondition(rows):
            scaled = rows / roots
            seen = scaled @ U.conj().T
            return (scaled + (seen * gains) @ U) / roots

        return precondition


def _orthonormal_rows(rank, p, dtype, rng):
    rows = rng.standard_normal((p, rank))
    if dtype.kind == "c":
        rows = rows + 1j * rng.standard_normal((p, rank))
    return np.ascontiguousarray(np.linalg.qr(rows)[0].T)


@dataclass(frozen=True)
class BlockJacobi(Preconditioner):
    """The inverse of the diagonal blocks of F + D, such as one block per layer.

    Parameters
    ----------
    sizes : int or sequence of int
        Orders of consecutive blocks, which add up to p; one number means equal blocks, the last
        one shorter where it does not divide p.

    Notes
    -----
    n sum(d^2) + sum(d^3) / 3 flops, one pass over G and sum(d^2) words, which come on top of what
    the plan says; 2 sum(d^2) flops an iteration. A block that has no Cholesky factor is replaced
    by its diagonal. docs/math.md I4.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> G = np.random.default_rng(0).standard_normal((50, 6))
    >>> sol = ff.solve(
    ...     G, np.ones(6), damping=0.1, method="cg", preconditioner=ff.BlockJacobi([2, 4]))
    >>> sol.status
    'converged'
    """

    sizes: object

    def __post_init__(self):
        sizes = self.sizes
        if np.ndim(sizes) == 0 or isinstance(sizes, str):
            sizes = as_count(sizes, "BlockJacobi(sizes=)", least=1)
        else:
            sizes = tuple(as_count(size, "a block of BlockJacobi", least=1) for size in sizes)
        object.__setattr__(self, "sizes", sizes)

    def edges(self, p):
        """Where blocks begin, and p."""
        if isinstance(self.sizes, int):
            return [*range(0, p, self.sizes), p] if p else [0]
        edges = np.cumsum([0, *self.sizes]).tolist()
        if edges[-1] != p:
            raise InputError(f"BlockJacobi sizes add up to {edges[-1]}; expected p = {p}")
        return edges

    def build(self, system, added, diagonal):
        edges, double = self.edges(system.p), sums_dtype(system.dtype)
        need = sum((hi - lo) ** 2 for lo, hi in itertools.pairwise(edges))
        require_memory(need * double.itemsize, "the blocks of BlockJacobi")
        damped = np.broadcast_to(diagonal + added, (system.p,))
        blocks = []
        for lo, hi in itertools.pairwise(edges):
            panel = Scores(np.ascontiguousarray(system.G.columns(lo, hi)), system.dtype)
            block = np.zeros((hi - lo, hi - lo), double)
            if system.total:
                shift = None if system.mean is None else system.mean[lo:hi]
                add_syrk(block, panel, weights=system.weights, shift=shift)
                block /= system.total
            np.einsum("ii->i", block)[:] = damped[lo:hi]
            blocks.append((lo, hi, None if factor(block) else block))
        plain = jacobi(damped)

        def precondition(rows):
            out = plain(rows)
            for lo, hi, L in blocks:
                if L is not None:
                    part = np.array(rows[:, lo:hi], dtype=double, order="C")
                    solve_factored(L, part)
                    out[:, lo:hi] = part
            return out

        return precondition
