"""A lock that objects can hold and still be copied and pickled."""

import threading

__all__ = ["Lock"]


class Lock:
    """Re-entrant; its copies are locks of their own."""

    def __init__(self):
        self._lock = threading.RLock()

    def __enter__(self):
        self._lock.acquire()

    def __exit__(self, *error):
        self._lock.release()

    def __reduce__(self):
        return Lock, ()
