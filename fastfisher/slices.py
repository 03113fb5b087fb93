"""Long loops in slices, and how long those are: between them Ctrl-C and progress get their turn."""

import contextlib
import signal
import threading

import numpy as np

from .arrays import whole_blocks
from .kernels.cpu.memory import large_kept
from .kernels.cpu.splitting import BLOCK_ROWS
from .planning import current_options

__all__ = [
    "SLICE_FLOPS",
    "lone_step",
    "read_step",
    "row_step",
    "slice_flops",
    "slices",
    "whole_slices",
]

SLICE_FLOPS = 28e9  # of products alone: about 0.25 s of a core pair in double precision
READ_BYTES = 2 << 30  # of scores read twice, likewise
LITTLE = 1 << 22  # flops, or scores, that are one slice: nothing else is asked


def _is_little(G, flops_per_row):
    n, p = G.shape
    return n * max(flops_per_row, p) <= LITTLE


def row_step(G, flops_per_row, *, least=256):
    """Rows per slice: at most a slice's bytes and, where that leaves `least` rows, its flops."""
    if _is_little(G, flops_per_row):
        return G.shape[0]
    flops = slice_flops(G.dtype)
    return min(G.slice_rows, whole_blocks(flops // max(flops_per_row, 1), least))


def slice_flops(dtype):
    """Flops of a slice of products, in about the same time."""
    return SLICE_FLOPS * (2 if dtype == np.float32 else 1)


def read_step(G, flops_per_row):
    """Rows per slice where nothing need be copied: long rows come in whole block sums."""
    if _is_little(G, flops_per_row):
        return G.shape[0]
    most = max(G.slice_rows, min(_read_rows(G), BLOCK_ROWS))
    return min(most, whole_blocks(SLICE_FLOPS // max(flops_per_row, 1), 256))


def lone_step(G, flops_per_row):
    """The same where rows have nothing to do with each other."""
    if _is_little(G, flops_per_row):
        return G.shape[0]
    return min(_read_rows(G), whole_blocks(SLICE_FLOPS // max(flops_per_row, 1), 256))


def _read_rows(G):
    return whole_blocks(READ_BYTES // max(G.shape[1] * G.dtype.itemsize, 1), 16)


def slices(length, step, op):
    """Yield (lo, hi) over range(length), at most `step` each and of about the same length; reports
    progress after each."""
    progress = current_options().progress
    if 0 < length <= step:
        yield 0, length
        if progress is not None:
            progress(op, length, length)
        return
    step = _evened(length, max(step, 1))
    with large_kept():
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
