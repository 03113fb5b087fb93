"""Long loops in slices: between them Ctrl-C and progress get their turn."""

import contextlib
import signal
import threading

from .kernels.cpu.memory import large_kept
from .planning import current_options

__all__ = ["slices", "whole_slices"]


def slices(length, step, op):
    """Yield (lo, hi) over range(length), at most `step` each and of about the same length; reports
    progress after each."""
    progress, step = current_options().progress, _evened(length, max(step, 1))
    with large_kept() if length > step else contextlib.nullcontext():
        for lo in range(0, length, step):
            hi = min(lo + step, length)
            yield lo, hi
            if progress is not None:
                progress(op, hi, length)


def _evened(length, step):
    """The step that gives as many slices without a short one at the end, in whole kernel blocks."""
    unit = 256 if step % 256 == 0 else 16 if step % 16 == 0 else 1
    even = -(-length // max(-(-length // step), 1))
    return min(-(-even // unit) * unit, step) or step


@contextlib.contextmanager
def whole_slices():
    """Hold Ctrl-C back inside the block, which calls ``check()`` wherever it may be raised.

    Accumulators are then consistent at every interruption. Handlers of the application's own, and
    threads other than the main one, are left alone.
    """
    pending = []
    held = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )

    def check():
        if pending:
            pending.clear()
            raise KeyboardInterrupt

    if held:
        signal.signal(signal.SIGINT, lambda *_: pending.append(True))
    try:
        yield check
    finally:
        if held:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    check()
