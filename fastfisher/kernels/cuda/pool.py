"""Device memory that is handed out again, in the order of the stream that has worked on it.

The driver allocates and frees with the device at rest. What kernels of a stream have read and
written, later kernels of that stream can have at once. Nothing here needs CUDA.
"""

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
    """A block in use; it goes back when the last array over it is gone."""

    def __init__(self, pool, place, size, block):
        self._pool, self._place, self._size, self.block = pool, place, size, block

    def __del__(self):
        self._pool._back(self._place, self._size, self.block)


class Pool:
    """Blocks by place (device and stream) and size; ``allocate(size)`` makes new ones."""

    def __init__(self, allocate):
        self._allocate, self._lock = allocate, threading.RLock()  # a lease may end inside
        self._blocks = deque()  # (place, size, block), the longest unused first
        self.kept = 0  # bytes of them

    def take(self, place, size):
        """A lease of at least `size` bytes, for work on the stream of that place only."""
        size = _rounded(size)
        with self._lock:
            for i in range(len(self._blocks) - 1, -1, -1):
                if self._blocks[i][:2] == (place, size):
                    block = self._blocks[i][2]
                    del self._blocks[i]
                    self.kept -= size
                    return _Lease(self, place, size, block)
        try:
            block = self._allocate(size)
        except Exception:
            if not self.kept:
                raise
            self.clear()
            block = self._allocate(size)
        return _Lease(self, place, size, block)

    def clear(self):
        """Give what nobody uses back to the driver."""
        with self._lock:
            self._blocks.clear()
            self.kept = 0

    def _back(self, place, size, block):
        if size > BLOCK_BYTES:
            return
        with self._lock:
            self._blocks.append((place, size, block))
            self.kept += size
            while self.kept > KEPT_BYTES:
                self.kept -= self._blocks.popleft()[1]
