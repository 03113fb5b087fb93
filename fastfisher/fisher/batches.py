"""How Fishers read a batch: its checks, all before anything changes."""

from dataclasses import replace

import numpy as np

from ..arrays import as_scores, as_weights, check_policy, contiguous
from ..errors import InputError
from ..ops.groups import grouped
from ..ops.layers import as_layers, scan_layers
from ..passes import bad_rows, sums_dtype
from ..scalars import as_count
from .size import LEAST_SINGLE, check_range, vanishes, vanishing

__all__ = ["OfLayers", "OfScores", "check_widths"]


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
        """Mask (n,) of the rows with NaN or Inf, the largest finite magnitude, and the smallest of
        those whose squares are summed."""
        bad, largest = bad_rows(batch)
        return bad, largest, largest

    def _in_double(self, batch):
        """The batch to be computed in double."""
        double = sums_dtype(batch.dtype)
        return replace(batch, data=contiguous(batch.data, double), dtype=double)

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
        bad, largest, least = self._scan(scores)
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
        scores = self._fit(scores, least, largest_weight)
        if bad.any() and nan_policy == "skip":
            weights = np.ones(n) if weights is None else weights
            weights[bad] = 0
            scores = replace(scores, skipped=tuple(np.flatnonzero(bad).tolist()))
        return scores, weights

    def _fit(self, batch, least, largest_weight):
        """The batch in a dtype that can hold its squares; refused if none can."""
        root = float(np.sqrt(largest_weight))
        size = least * min(root, 1.0)
        if not (self._squares and size > 0):
            return batch
        if batch.dtype.itemsize < sums_dtype(batch.dtype).itemsize and not (
            size > LEAST_SINGLE and LEAST_SINGLE < root < 1 / LEAST_SINGLE
        ):
            batch = self._in_double(batch)
        if vanishes(least, root, self._top):
            raise vanishing(least, self._operand)
        return batch

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
        largest = max(self._bound(index, t, *tops[index]) for index, (t, _, _) in sizes)
        return bad, largest, min((top for pair in tops for top in pair if top > 0), default=0.0)

    def _in_double(self, batch):
        double = sums_dtype(batch.dtype)
        pairs = tuple(tuple(x.astype(double) for x in pair) for pair in batch.pairs)
        return replace(batch, pairs=pairs, dtype=double)

    def _bound(self, index, tokens, a, e):
        """What must have a square, where a and e are the largest |A| and |E| of a layer."""
        return tokens * a * e


def check_widths(widths):
    """Pairs (d_in, d_out) of a Fisher of layers."""
    try:
        pairs = [tuple(pair) for pair in widths]
    except TypeError as error:
        raise InputError(f"widths is {widths!r}; expected pairs (d_in, d_out)") from error
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise InputError(f"widths is {widths!r}; expected at least one pair (d_in, d_out)")
    made = tuple((as_count(i, "d_in"), as_count(o, "d_out")) for i, o in pairs)
    if 0 in {width for pair in made for width in pair}:
        raise InputError(f"widths is {made}; expected d_in and d_out >= 1")
    return made
