"""The block-diagonal Fisher: very many small blocks, or a few large ones."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..arrays import Scores
from ..damping import Damping, as_damping
from ..errors import InputError, NotPositiveDefiniteError, StateError
from ..passes import add_block_syrk, add_syrk, mean_row, sums_dtype
from ..planning import choose, plan_blocks, require_memory
from ..slices import SLICE_FLOPS
from ..solvers.cutoffs import Cutoff
from ..solvers.ladder import allowed_cutoff
from ..solvers.system import drift_of
from . import stacks
from .base import Fisher
from .block_factor import BlockFactor, BlockSpectrum, PerBlock
from .partition import Partition
from .spectral import SpectralFactor
from .staging import Staged
from .state import take

__all__ = ["BlockDiagonalFisher"]

LEAST = 64  # rows per slice of an update
GATHERED_BYTES = 64 << 20  # of scores whose blocks do not lie side by side


class BlockDiagonalFisher(Staged, Fisher):
    """The diagonal blocks of F, accumulated from batches of scores.

    Parameters
    ----------
    sizes : pair (count, size), list of int, or mapping
        A tuple of two integers: that many equal blocks. A list or array: the order of each block.
        A mapping name -> order, or name -> slice (one after the other): messages and `block` then
        use the names.
    dtype : str or dtype
        What results are given in; sums are always kept in double.
    center : bool
        Subtract the weighted mean row: blocks are then covariances.
    kind : str, optional
        A printed label: "empirical", "exact", "mc".

    Raises
    ------
    InputError
        If sizes is none of these.
    MemoryLimitError
        If the sums do not fit in memory.

    Notes
    -----
    State: 8 sum(d^2) bytes for blocks of order d (complex: twice that). Small batches wait in a
    buffer, as in `DenseFisher`. update: n sum(d^2) flops; factor: sum(d^3) / 3 flops and as
    many bytes as the sums; solve keeps no factor. docs/math.md B1, B2.

    `solve` and `factor` also take one absolute lambda per block as damping: a sequence, or a
    mapping from names. A block without a factor raises `NotPositiveDefiniteError` that names it.

    Examples
    --------
    Two blocks of two parameters, and what it costs to prune each parameter (optimal brain surgeon,
    docs/math.md B4):

    >>> import numpy as np, fastfisher as ff
    >>> F = ff.BlockDiagonalFisher((2, 2))
    >>> F = F.update(np.array([[1.0, 0.0, 2.0, 0.0], [1.0, 2.0, 0.0, 2.0]]))
    >>> F.block(1)
    array([[2., 0.],
           [0., 2.]])
    >>> theta = np.array([1.0, 2.0, 1.0, 2.0])
    >>> theta**2 / (2 * F.factor(damping=2.0).inv_diagonal())  # saliency
    array([1.375     , 7.33333333, 2.        , 8.        ])
    """

    def __init__(self, sizes, *, dtype="float64", center=False, kind=None):
        super().__init__(dtype=dtype, center=center, kind=kind)
        double = sums_dtype(self.dtype)
        self.partition = Partition(sizes, double.itemsize)
        self._mean = np.zeros(self.p, double)
        self._sums = [np.zeros((len(g), g.d, g.d), double) for g in self.partition.groups]
        self._open_buffer()

    @property
    def p(self):
        return self.partition.p

    @property
    def sizes(self):
        """The order of each block, (number of blocks,)."""
        return self.partition.sizes.copy()

    @property
    def names(self):
        """Names of the blocks, or None."""
        return self.partition.names

    @property
    def mean(self):
        self._flush()
        return self._mean.copy()

    # Accumulation.

    def _slice_rows(self, scores):
        squares = sum(len(g) * g.d**2 for g in self.partition.groups)
        # Fewer rows would spend their time on moving the sums.
        return max(LEAST, int(SLICE_FLOPS // max(squares, 1)) // LEAST * LEAST)

    @property
    def _sum_bytes(self):
        return sum(sums.nbytes for sums in self._sums)

    def _scale(self, factor):
        for sums in self._sums:
            sums *= factor

    def _absorb(self, scores, weights, total):
        mean = mean_row(scores, weights, total)
        self._add_products(scores, weights, mean if self.center else None)
        drift = drift_of(mean, scores.dtype) if self.center else None
        if drift is not None:
            self._subtract_outer(drift, total)
        self._include(mean, total)

    def _subtract_outer(self, d, weight):
        """Blocks -= weight d'd."""
        for group, sums in zip(self.partition.groups, self._sums, strict=True):
            for lo, hi in stacks.pieces(len(group), group.d, sums.itemsize):
                rows = d[group.columns_of(lo, hi)].reshape(-1, 1, group.d)
                outer = weight * (rows.conj().swapaxes(1, 2) * rows)
                # Complex products may be rounded differently in the two triangles.
                sums[lo:hi] -= (outer + outer.conj().swapaxes(1, 2)) / 2
                diagonals = np.einsum("bii->bi", sums[lo:hi])
                np.maximum(diagonals.real, 0.0, out=diagonals.real)

    def _include(self, mean, total):
        """Account for rows with this mean and weight whose products are in already (Chan)."""
        weight = self._summed + total
        difference = mean - self._mean
        if self.center and self._summed:
            row = np.sqrt(self._summed * (total / weight)) * difference[np.newaxis]
            self._add_products(Scores(row, row.dtype), None, None)
        self._mean = self._mean + difference * (total / weight)

    def _add_products(self, scores, weights, shift):
        for group, sums in zip(self.partition.groups, self._sums, strict=True):
            if group.d > stacks.SMALL:
                for b, block in zip(group.blocks, sums, strict=True):
                    start = self.partition.starts[b]
                    here = slice(start, start + group.d)
                    part = replace(scores, data=scores.data[:, here])
                    add_syrk(
                        block, part, weights=weights, shift=None if shift is None else shift[here]
                    )
                    choose("mirror", group.d, block.dtype).load()(block)
            elif isinstance(group.columns, slice):
                add_block_syrk(sums, scores, group.columns.start, weights=weights, shift=shift)
            else:
                row = scores.shape[0] * group.d * scores.dtype.itemsize
                step = max(GATHERED_BYTES // max(row, 1), 1)
                for lo in range(0, len(group), step):
                    here = group.columns_of(lo, lo + step)
                    part = replace(scores, data=scores.data[:, here])
                    add_block_syrk(
                        sums[lo : lo + step],
                        part,
                        weights=weights,
                        shift=None if shift is None else shift[here],
                    )

    def merge(self, other):
        if type(other) is type(self) and other.p == self.p and other.partition != self.partition:
            raise StateError(
                f"cannot merge: {self.partition} here and {other.partition} there, or other names"
            )
        return super().merge(other)

    merge.__doc__ = Fisher.merge.__doc__

    def _merge(self, other):
        self._flush()
        other._flush()
        for mine, theirs in zip(self._sums, other._sums, strict=True):
            mine += theirs
        self._include(other._mean, other.weight)
        self._summed = self.weight + other.weight

    # Questions.

    def _pieces(self):
        """(group, its sums, lo, hi) over parts of all groups that make small copies."""
        self._flush()
        for group, sums in zip(self.partition.groups, self._sums, strict=True):
            for lo, hi in stacks.pieces(len(group), group.d, sums.itemsize):
                yield group, sums, lo, hi

    def normalised_pieces(self):
        """(group, blocks of F lo..hi as a copy in double, lo, hi)."""
        for group, sums, lo, hi in self._pieces():
            yield group, sums[lo:hi] / (self.weight or 1.0), lo, hi

    def normalised_blocks(self, group, indices):
        """Some blocks of a group, copied, in double."""
        (sums,) = (s for g, s in zip(self.partition.groups, self._sums, strict=True) if g is group)
        return sums[indices] / (self.weight or 1.0)

    def apply_fisher(self, v):
        """F v for rows v (k, p), in double."""
        y = np.zeros_like(v)
        for group, sums, lo, hi in self._pieces():
            stacks.through(
                lambda x, A=sums[lo:hi]: stacks.apply(A, x), group.columns_of(lo, hi), group.d, v, y
            )
        return y / self.weight if self.weight else y

    def __matmul__(self, v):
        return self._product(v, self.apply_fisher)

    def block(self, key):
        """Block `key` of F, an index or a name: (d, d)."""
        index = self.partition.index(key)
        self._flush()
        orders = [group.d for group in self.partition.groups]
        which = orders.index(self.partition.sizes[index])
        at = np.searchsorted(self.partition.groups[which].blocks, index)
        block = self._sums[which][at] / (self.weight or 1.0)
        return self._answer(block, "the block")

    def matrix(self):
        require_memory(self.p**2 * self.dtype.itemsize, "the matrix of F")
        F = np.zeros((self.p, self.p), self.dtype)
        for group, A, lo, _ in self.normalised_pieces():
            for b, block in zip(group.blocks[lo:], A, strict=False):
                start = self.partition.starts[b]
                here = slice(start, start + group.d)
                F[here, here] = self._answer(block, "F")
        return F

    def _real_diagonal(self):
        self._flush()
        out = np.zeros(self.p)
        for group, sums in zip(self.partition.groups, self._sums, strict=True):
            out[group.columns] = np.einsum("bii->bi", sums).real.ravel()
        return out / (self.weight or 1.0)

    def eigvalsh(self):
        values = [stacks.spectra(A).ravel() for _, A, _, _ in self.normalised_pieces()]
        values = np.sort(np.concatenate(values)) if values else np.zeros(0)
        return self._answer(values, "the largest eigenvalue of F")

    def factor(self, damping):
        """Cholesky factors of all blocks of F + D: `BlockFactor` with solve, logdet, ...

        Parameters
        ----------
        damping : float, damping object, sequence or mapping
            As in `fastfisher.solve`; `Relative` looks at the trace of all of F, a cutoff at its
            largest eigenvalue (and gives a `SpectralFactor`). A sequence holds one absolute lambda
            per block, a mapping one per name.

        Raises
        ------
        NotPositiveDefiniteError
            With ``.blocks`` (indices of all that failed), ``.order`` (in all of F) and
            ``.suggested_damping``.
        MemoryLimitError
            If another copy of the sums does not fit.
        """
        return self._factored(damping, keep=True)

    def _factor_once(self, damping):
        return self._factored(damping, keep=allowed_cutoff() is not None)

    def _factored(self, damping, *, keep):
        if not isinstance(damping, Damping) and (isinstance(damping, Mapping) or np.ndim(damping)):
            damping = PerBlock(self._lams(damping), self.partition)
        damping = as_damping(damping)
        if keep:
            require_memory(self._sum_bytes, "the factor of BlockDiagonalFisher")
        if isinstance(damping, Cutoff):
            return SpectralFactor(self.p, self._spectrum(), damping, self.dtype)
        diagonal = self._real_diagonal()
        added = damping.resolve(float(diagonal.sum()), diagonal, self.p)
        try:
            return BlockFactor(self, added, damping, keep=keep)
        except NotPositiveDefiniteError:
            cutoff = allowed_cutoff()
            if cutoff is None:
                raise
        return SpectralFactor(self.p, self._spectrum(added), cutoff, self.dtype, added=added)

    def _spectrum(self, added=0.0):
        require_memory(self._sum_bytes, "the eigenvectors of BlockDiagonalFisher")
        return BlockSpectrum(self, added)

    def _lams(self, damping):
        if not isinstance(damping, Mapping):
            return damping
        if self.names is None or set(damping) != set(self.names):
            raise InputError(
                "a mapping as damping needs one lambda for each name of the layout"
                + ("; these blocks have no names" if self.names is None else "")
            )
        return [damping[name] for name in self.names]

    def _plan(self, rhs, rung):
        orders = [(len(group), group.d) for group in self.partition.groups]
        piece, eigen = stacks.PIECE_BYTES, rung == "eigen"
        return plan_blocks(self.n_samples, orders, rhs, self.dtype.name, piece, spectral=eigen)

    # State.

    def _arrays(self):
        names = [] if self.names is None else [name.encode() for name in self.names]
        return {
            "mean": self._mean,
            "sizes": self.partition.sizes,
            "names": np.frombuffer(b"\0".join(names), np.uint8),
            **{f"sums{g.d}": s for g, s in zip(self.partition.groups, self._sums, strict=True)},
            **self._staged_arrays(),
        }

    @classmethod
    def _from_arrays(cls, header, arrays):
        sizes = take(arrays, "sizes", arrays["sizes"].shape, np.int64)
        text = arrays["names"].tobytes().decode()
        layout = dict(zip(text.split("\0"), sizes.tolist(), strict=True)) if text else sizes
        made = cls(layout, dtype=header["dtype"], center=header["center"], kind=header["kind"])
        double = made._mean.dtype
        made._mean[:] = take(arrays, "mean", (made.p,), double)
        for group, sums in zip(made.partition.groups, made._sums, strict=True):
            sums[:] = take(arrays, f"sums{group.d}", sums.shape, double)
        return made

    def __repr__(self):
        return super().__repr__()[:-1] + f", {self.partition})"
