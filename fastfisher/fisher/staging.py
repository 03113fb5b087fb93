"""Small batches wait until there are enough rows for matrix-matrix speed."""

import numpy as np

from ..errors import MemoryLimitError
from ..planning import require_memory
from ..slices import whole_slices
from .lock import Lock

__all__ = ["Staged", "Staging"]

FEWEST, MOST = 16, 256  # rows that wait, whatever the size of the sums; tokens are rows


class Staging:
    """Up to `capacity` weighted samples, as arrays with the samples first."""

    def __init__(self, capacity, arrays):
        self._kept = [np.empty((capacity, *a.shape[1:]), a.dtype) for a in arrays]
        self._weights = np.empty(capacity)
        self._count = 0

    def alike(self, arrays):
        """True if these arrays have the shapes and dtypes of those that wait."""
        return [(a.dtype, a.shape[1:]) for a in arrays] == [
            (a.dtype, a.shape[1:]) for a in self._kept
        ]

    def takes(self, arrays):
        """True if these arrays are alike and there is room for them."""
        return self.alike(arrays) and self._count + len(arrays[0]) <= len(self._weights)

    def add(self, arrays, weights):
        """Copy samples and their weights (ones for None)."""
        here = slice(self._count, self._count + len(arrays[0]))
        for kept, a in zip(self._kept, arrays, strict=True):
            kept[here] = a
        self._weights[here] = 1.0 if weights is None else weights
        self._count = here.stop

    def decay(self, decay):
        """Multiply the weights."""
        self._weights[: self._count] *= decay

    def waiting(self):
        """The arrays of all that waits, and the weights."""
        return [a[: self._count] for a in self._kept], self._weights[: self._count]

    def clear(self):
        self._count = 0

    def __len__(self):
        return self._count

    # Copies and pickles hold what waits, and as much room.

    def __getstate__(self):
        return len(self._weights), *self.waiting()

    def __setstate__(self, state):
        capacity, arrays, weights = state
        self.__init__(capacity, arrays)
        self.add(arrays, weights)


class Staged:
    """Accumulation through a buffer, for Fishers whose sums are of products.

    A Fisher has ``_absorb(batch, weights, total)``, which adds to sums of weight ``_summed``;
    ``_scale(factor)``, which multiplies them; ``_sum_bytes``, their size; and, from how it reads
    batches, ``_operands`` and ``_batch_of``. Whatever reads sums calls ``_flush`` first. States,
    copies and pickles hold what waits as it is, so that saving changes no bits of what follows.
    """

    def _open_buffer(self):
        """An empty buffer; the weight of the sums, and the decay that they are due."""
        self._lock = Lock()
        self._staging = None
        self._summed, self._pending = self.weight, 1.0

    def _capacity(self, arrays):
        """Samples to stage: a buffer of half the size of the sums, where it fits; 0: none."""
        each = max(sum(a[:1].nbytes for a in arrays), 1)
        tokens = max((a.shape[1] for a in arrays if a.ndim == 3), default=1) or 1
        samples = min(max(self._sum_bytes // (2 * each), FEWEST // tokens), MOST // tokens)
        try:
            require_memory(samples * each, "the buffer for small updates")
        except MemoryLimitError:
            return 0
        return samples

    def _add(self, batch, weights, total):
        n = batch.shape[0]
        arrays = self._operands(batch) if 0 < n < MOST else None
        if self._staging is not None and not (arrays and self._staging.takes(arrays)):
            self._flush()
            if arrays and not self._staging.alike(arrays):
                self._staging = None
        if arrays and self._staging is None:
            capacity = self._capacity(arrays)
            if n < capacity:
                self._staging = Staging(capacity, arrays)
        if arrays and self._staging is not None and self._staging.takes(arrays):
            self._staging.add(arrays, weights)
            return
        self._absorb_due(batch, weights, total)
        self._summed = self.weight + total

    def _absorb_due(self, batch, weights, total):
        """Add samples to the sums, once those are decayed as they should be."""
        if self._pending != 1:
            self._scale(self._pending)
            self._pending = 1.0
        if total > 0:
            self._absorb(batch, weights, total)

    def _flush(self):
        """Add what waits to the sums."""
        with self._lock:
            waiting = self._staging is not None and len(self._staging) > 0
            if not waiting and self._pending == 1:
                self._summed = self.weight
                return
            with whole_slices():
                self._absorb_staged(waiting)
                self._summed = self.weight

    def _absorb_staged(self, waiting):
        batch, weights, total = None, None, 0.0
        if waiting:
            arrays, weights = self._staging.waiting()
            batch, total = self._batch_of(arrays), float(weights.sum())
            weights = None if np.all(weights == 1) else weights
            self._staging.clear()
        self._absorb_due(batch, weights, total)

    def _decay(self, decay):
        if self._staging is not None:
            self._staging.decay(decay)
        self._pending *= decay
        self._summed *= decay

    # State.

    def _facts(self):
        return {"summed": self._summed.hex(), "pending": self._pending.hex()}

    def _staged_arrays(self):
        if self._staging is None or not len(self._staging):
            return {}
        arrays, weights = self._staging.waiting()
        named = {f"staged{i}": a for i, a in enumerate(arrays)}
        return {**named, "staged_weights": weights}

    def _restore(self, header, arrays):
        super()._restore(header, arrays)
        self._summed, self._pending = self.weight, 1.0
        if "summed" in header:
            self._summed = float.fromhex(header["summed"])
            self._pending = float.fromhex(header["pending"])
        if "staged_weights" in arrays:
            count = sum(name.startswith("staged") for name in arrays) - 1
            waiting = [np.ascontiguousarray(arrays[f"staged{i}"]) for i in range(count)]
            weights = arrays["staged_weights"]
            if {len(weights), *map(len, waiting)} != {len(weights)}:
                raise ValueError("staged samples and weights differ in number")
            self._batch_of(waiting)
            self._staging = Staging(max(self._capacity(waiting), len(weights)), waiting)
            self._staging.add(waiting, weights)
        return self
