"""Half precision to float32 in one sweep, for what does not read it: vendors, and matrices."""

import numpy as np

from .jit import kernel
from .packing import operand, pack
from .parallel import for_each
from .products import panels_of
from .threads import driver

__all__ = ["widen"]

LINE = 3072  # elements packed as a row of one panel: whole vectors and tiles of every kind
ROWS = 16  # of them per task, an even number


@kernel
def _widen_task(t, thread, out, x, panels):
    """Task: some lines."""
    zero, one, first = np.int64(0), np.int64(1), t * ROWS
    pack(out, first * LINE, x, first, min(ROWS, x.n - first), zero, one, panels)


@driver
def _widen(launch, out, x, panels):
    for_each(launch, _widen_task, (x.n + ROWS - 1) // ROWS, (out, x, panels))


def widen(out, a):
    # out  OUT float32, C order
    # a    IN READ-ONLY float16 or bfloat16, the same shape, C order
    """out = a, exactly."""
    to, source = out.reshape(-1), a.reshape(-1)
    whole = a.size // (2 * LINE) * (2 * LINE)
    if whole:
        x = operand(source[:whole].reshape(-1, LINE), True)
        _widen(to, x, panels_of(to.dtype, 1, order=LINE))
    to[whole:] = source[whole:]
