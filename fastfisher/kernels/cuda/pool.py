"""Device memory that is handed out again, in the order of the stream that has worked on it.

The driver allocates and frees with the device at rest. What kernels of a stream have read and
written, later kernels of that stream can have at once. Nothing here needs CUDA.
"""

import itertools
import threading
from collections import deque

__all__ = ["KEPT_BYTES", "Pool"]

KEPT_BYTES = 1 << 30  # of blocks that nobody uses, at most
BLOCK_BYTES = KEPT_BYTES // 4  # of one of them


def _rounded(size):
    """Sizes that differ little share their blocks; an eighth, or 512 bytes, are lost at most."""
    step = max(512, 1 << max(size.bit_length() - 4, 0))
    return -(-size // step) * step


class _Lease:
    """A block in use; it goes back when the last array over it is gone.

    The pool holds the block, not the lease: garbage collectors call what frees the memory of an
    unreachable block before they call `__del__` here.
    """

    def __init__(self, pool, number):
        self._pool, self._number = pool, number

    @property
    def block(self):
        return self._pool._used[self._number][2]

    def __del__(self):
        self._pool._back(self._number)


class Pool:
    """Blocks by place (device and stream) and size; ``allocate(size)`` makes new ones."""

    def __init__(self, allocate):
        self._allocate, self._lock = allocate, threading.RLock()  # a lease may end inside
        self._blocks = deque()  # (place, size, block), the longest unused first
        self.kept = 0  # bytes of them
        self._used, self._numbers = {}, itertools.count()  # blocks by the number of their lease

    def take(self, place, size):
        """A lease of at least `size` bytes, for work on the stream of that place only."""
        size = _rounded(size)
        with self._lock:
            for i in range(len(self._blocks) - 1, -1, -1):
                if self._blocks[i][:2] == (place, size):
                    block = self._blocks[i][2]
                    del self._blocks[i]
                    self.kept -= size
                    return self._lease(place, size, block)
        try:
            block = self._allocate(size)
        except Exception:
            if not self.kept:
                raise
            self.clear()
            block = self._allocate(size)
        return self._lease(place, size, block)

    def _lease(self, place, size, block):
        number = next(self._numbers)
        self._used[number] = place, size, block
        return _Lease(self, number)

    def clear(self):
        """Give what nobody uses back to the driver."""
        with self._lock:
            self._blocks.clear()
            self.kept = 0

    def _back(self, number):
        place, size, block = self._used.pop(number)
        if size > BLOCK_BYTES:
            return
        with self._lock:
            self._blocks.append((place, size, block))
            self.kept += size
            while self.kept > KEPT_BYTES:
                self.kept -= self._blocks.popleft()[1]
