"""How Fishers read a batch: its checks, all before anything changes."""

from dataclasses import replace

import numpy as np

from ..arrays import as_scores, as_weights, check_policy
from ..errors import InputError
from ..ops.groups import grouped
from ..ops.layers import as_layers, scan_layers
from ..passes import bad_rows
from .size import check_range

__all__ = ["OfLayers", "OfScores"]


class OfScores:
    """Batches are per-sample scores (n, p). A Fisher has ``p``, ``dtype``."""

    _operand = "G"

    def _check_width(self, p):
        if p != self.p:
            raise InputError(f"G has {p} columns but this Fisher has {self.p} parameters")

    def _summed_over(self, groups, G, weights, nan_policy):
        """Scores (m, p) summed over groups of rows."""
        check_policy(nan_policy)
        scores = as_scores(G)
        self._check_width(scores.shape[1])
        return grouped(scores, groups, weights, nan_policy).data

    def _as_batch(self, G):
        """The checked operand: shape (n, p), dtype, skipped, part(lo, hi)."""
        scores = as_scores(G)
        self._check_width(scores.shape[1])
        return scores

    def _operands(self, batch):
        """The arrays of a small batch as they are computed with, samples first."""
        return [batch.rows(0, batch.shape[0])]

    def _batch_of(self, arrays):
        """The batch of such arrays."""
        (rows,) = arrays
        batch = as_scores(rows)
        self._check_width(batch.shape[1])
        return batch

    def _scan(self, batch):
        """Mask (n,) of the rows with NaN or Inf, and the largest finite magnitude."""
        return bad_rows(batch)

    def _checked_batch(self, G, weights, nan_policy):
        """The operand and its weights, bad rows out if they are to be skipped."""
        check_policy(nan_policy)
        scores, name = self._as_batch(G), self._operand
        n = scores.shape[0]
        if scores.dtype.kind == "c" and self.dtype.kind != "c":
            raise InputError(
                f"{name} is {scores.dtype} but this Fisher is {self.dtype}; make it with "
                "dtype='complex128'"
            )
        weights = as_weights(weights, n)
        bad, largest = self._scan(scores)
        if bad.any() and nan_policy == "raise":
            row = int(np.argmax(bad))
            raise InputError(
                f"{name} holds values that are not finite in row {row} ({int(bad.sum())} such "
                "rows in all); nothing was added: remove them or pass nan_policy='skip'"
            )
        with np.errstate(over="ignore"):
            total = float(n if weights is None else weights.sum())
        largest_weight = 1.0 if weights is None else float(weights.max(initial=0.0))
        check_range(scores.dtype, largest, total, largest_weight, name)
        if bad.any() and nan_policy == "skip":
            weights = np.ones(n) if weights is None else weights
            weights[bad] = 0
            scores = replace(scores, skipped=tuple(np.flatnonzero(bad).tolist()))
        return scores, weights

    def _complete(self, batch, weights):
        """Called after the last slice, by what has to look at the batch once more."""


class OfLayers:
    """Batches are sequences of pairs (A, E). A Fisher has ``widths``, (d_in, d_out) per layer."""

    _operand = "layers"
    widths = None  # not known before the first batch

    def _as_batch(self, layers):
        batch = as_layers(layers)
        came = [size[1:] for size in batch.sizes]
        if self.widths is not None and len(came) != len(self.widths):
            raise InputError(f"{len(came)} layers came but this Fisher has {len(self.widths)}")
        for index, expected in enumerate(self.widths or ()):
            if came[index] != expected:
                raise InputError(
                    f"layers[{index}] has (d_in, d_out) = {came[index]}; this Fisher has {expected}"
                )
        return batch

    def _operands(self, batch):
        return [x for index in range(len(batch.pairs)) for x in batch.factors(index)]

    def _batch_of(self, arrays):
        return self._as_batch(zip(arrays[::2], arrays[1::2], strict=True))

    def _scan(self, batch):
        bad, tops = scan_layers(batch)
        sizes = enumerate(batch.sizes)
        return bad, max(self._bound(index, t, *tops[index]) for index, (t, _, _) in sizes)

    def _bound(self, index, tokens, a, e):
        """What must have a square, where a and e are the largest |A| and |E| of a layer."""
        return tokens * a * e
