"""Factors of a block-diagonal F + D: Cholesky, kept or made as needed; eigenvectors."""

from dataclasses import dataclass

import numpy as np

from ..arrays import as_damping_vector
from ..damping import Damping, Marquardt
from ..errors import NotPositiveDefiniteError
from ..ops.factorizations import round_up
from ..solvers.factored import sufficient
from . import stacks
from .factor import Factor, hermitian_products

__all__ = ["BlockFactor", "BlockSpectrum", "PerBlock"]


@dataclass(frozen=True)
class PerBlock(Damping):
    """One absolute lambda per block."""

    lams: object
    partition: object

    def __post_init__(self):
        object.__setattr__(self, "lams", as_damping_vector(self.lams, len(self.partition)))

    def resolve(self, trace, diagonal, p):
        return np.repeat(self.lams, self.partition.sizes)

    def scaled(self, scale):
        return PerBlock(self.lams * scale * scale, self.partition)

    @property
    def is_zero(self):
        return not self.lams.any()


class BlockFactor(Factor):
    """F + D with a Cholesky factor per block.

    ``damping`` is the absolute lambda (for Marquardt its c, per block the largest of them).
    With ``keep=False`` the factors are made anew for every question and thrown away.
    """

    def __init__(self, fisher, added, damping, *, keep):
        super().__init__(fisher.p, 0.0, damping, fisher.dtype)
        self._asked = damping
        self.added, self.escalation = added, 0.0
        self._report(damping)
        self.norm, self._pivot = 0.0, np.inf
        self._fisher = fisher
        self._stored = None
        if keep:
            self._stored = list(self._made())
            self._fisher = None

    def _report(self, damping):
        if not isinstance(damping, Marquardt):
            self.damping = float(np.max(self.added, initial=0.0))

    @property
    def facts(self):
        return {
            "rank": self.p,
            "smallest_pivot": self._pivot if self.p else None,
            "escalation": self.escalation,
        }

    def _climb(self, group, lo, L, info):
        """Blocks that failed with more damping, as far as the ladder goes; D grows by it."""

        def again(failed):
            return self._fisher.normalised_blocks(group, lo + failed)

        hi = lo + len(L)
        extra = stacks.climb(L, info, self._added(group, lo, hi), again)
        if extra.any():
            self.added = np.array(np.broadcast_to(self.added, (self.p,)), dtype=float)
            self.added[group.columns_of(lo, hi)] += np.repeat(extra, group.d)
            self.escalation = max(self.escalation, float(extra.max()))
            self.rung = "cholesky+damping"
            self._report(self._asked)

    def _added(self, group, lo, hi):
        """The part of D for blocks lo..hi of a group: a number or (hi - lo, d)."""
        if not np.ndim(self.added):
            return self.added
        return self.added[group.columns_of(lo, hi)].reshape(hi - lo, group.d)

    def _made(self):
        """(group, lo, hi, L) over all blocks; raises at the end if some failed."""
        failed, suggested = [], 0.0
        for group, A, lo, hi in self._fisher.normalised_pieces():
            added = self._added(group, lo, hi)
            trace = np.einsum("bii->b", A).real
            every = np.broadcast_to(added, (hi - lo, group.d))
            self.norm = max(
                self.norm, float((stacks.norms(A) + every.min(axis=1)).max(initial=0.0))
            )
            info = stacks.factor_stack(A, added)
            if info.any():
                self._climb(group, lo, A, info)
            self._pivot = min(self._pivot, float(stacks.smallest_pivots(A).min(initial=np.inf)))
            for b in np.flatnonzero(info):
                reached = float(every[b].max())
                failed.append((int(group.blocks[lo + b]), int(info[b]), reached))
                more = sufficient(group.d, self.dtype, float(trace[b]))
                suggested = max(suggested, reached + more)
            yield group, lo, hi, A
        if failed:
            raise self._refusal(sorted(failed), suggested)

    def _refusal(self, failed, suggested):
        partition = self._fisher.partition
        (block, order, reached), *_ = failed
        blocks = tuple(b for b, _, _ in failed)
        suggested = round_up(suggested) or None
        advice = (
            f"an absolute damping of {suggested:.3g} would factor them, and may be given per block"
            if suggested
            else "they are zero: any positive damping would factor them"
        )
        return NotPositiveDefiniteError(
            f"pivot {order} of {partition.sizes[block]} in block {partition.say(block)} is not "
            f"positive at damping {reached:.3g} ({len(failed)} of {len(partition)} blocks failed: "
            f"{partition.say_all(blocks)}); {advice}",
            order=int(partition.starts[block]) + order,
            rcond=0.0,
            suggested_damping=suggested,
            blocks=blocks,
        )

    def _factors(self):
        """(columns, d, L) over all blocks."""
        for group, lo, hi, L in self._made() if self._stored is None else self._stored:
            yield group.columns_of(lo, hi), group.d, L

    def _solve(self, rows):
        x = np.array(rows, dtype=np.result_type(self.dtype, np.float64))
        for columns, _, L in self._factors():
            x[:, columns] = stacks.solve_stack(L, np.array(x[:, columns], order="C"))
        return x

    def logdet(self):
        parts = [
            np.log(np.einsum("bii->bi", L).real.astype(np.float64)).sum()
            for _, _, L in self._factors()
        ]
        return 2 * float(np.sum(parts))

    def _inv_diagonal(self):
        # Pruning parameter q alone costs theta_q^2 / (2 inv_diagonal_q) (docs/math.md B4).
        out = np.empty(self.p)
        for columns, _, L in self._factors():
            out[columns] = stacks.inverse_diagonal(L).ravel()
        return out

    def _through(self, rows, solve):
        """Every block of rows (k, p) through `solve(L, x)`, x (B, d, k)."""
        y = np.empty_like(rows)
        for columns, d, L in self._factors():
            stacks.through(lambda x, L=L: solve(L, np.array(x, order="C")), columns, d, rows, y)
        return y

    def _half(self, rows):
        return self._through(rows, stacks.solve_lower)

    def _inv_quad_rows(self, rows):
        return hermitian_products(self._half(rows.conj())).conj()

    def _sample_rows(self, normal, k):
        # L^-' z has covariance (L L')^-1; L^-1 z has not (docs/math.md Q3).
        return self._through(normal(k, self.p), stacks.solve_lower_adjoint)


class BlockSpectrum:
    """Eigenvalues (p,) of F + D, in the order of the parameters, and eigenvectors of its blocks."""

    def __init__(self, fisher, added=0.0):
        self.order = max((group.d for group in fisher.partition.groups), default=0)
        self.eigenvalues = np.empty(fisher.p)
        self._parts = []
        for group, A, lo, hi in fisher.normalised_pieces():
            columns = group.columns_of(lo, hi)
            shift = added[columns].reshape(-1, group.d) if np.ndim(added) else added
            np.einsum("bii->bi", A)[...] += shift
            values, vectors = stacks.eigen(A)
            self.eigenvalues[columns] = values.ravel()
            self._parts.append((columns, group.d, vectors))

    def _through(self, rows, adjoint):
        y = np.empty_like(rows)
        for columns, d, V in self._parts:
            V = V.conj().swapaxes(1, 2) if adjoint else V
            stacks.through(lambda x, V=V: np.matmul(V, x), columns, d, rows, y)
        return y

    def coordinates(self, rows):
        """V'b for rows b (k, p)."""
        return self._through(rows, True)

    def vectors(self, coordinates):
        """V c for rows c (k, p)."""
        return self._through(coordinates, False)

    def diagonal(self, gains):
        """Diagonal of V diag(gains) V'."""
        out = np.empty(len(gains))
        for columns, d, V in self._parts:
            each = gains[columns].reshape(-1, d)
            out[columns] = np.einsum("bij,bj->bi", np.abs(V) ** 2, each).ravel()
        return out
