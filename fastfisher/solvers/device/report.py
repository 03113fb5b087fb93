"""What a solve on a device learns on its way: the one thing that the host waits for."""

import numpy as np

from ...kernels.cuda import memory
from ...kernels.cuda.vectors import BAD, REPORT, SPREAD, TOTAL, USED

__all__ = ["Report"]


class Report:
    """Scalars of a solve in device memory, and what its right-hand sides measure after them.

    `inner` is a report of scalars alone, of a matrix that is not the one that is solved with.
    """

    def __init__(self, sides):
        self.sides, self.host = sides, None
        self.device = memory.zeros((2 * REPORT + 4 * sides,), np.float64)
        self.inner = _Part(self)

    def again(self):
        """An empty one for the same right-hand sides and weights."""
        made = Report(self.sides)
        for i in (TOTAL, USED, BAD, SPREAD):
            memory.copy(made.place(i), self.place(i))
        return made

    def place(self, i):
        """One scalar, as a device array (1,)."""
        return self.device[i : i + 1]

    def each(self, i):
        """Numbers of kind i of the right-hand sides, (k,)."""
        first = 2 * REPORT + i * self.sides
        return self.device[first : first + self.sides]

    def read(self):
        """Copy the report to the host: the one place where a solve waits for the device."""
        self.host = memory.to_host(self.device)
        return self.host

    def values(self, i):
        """Numbers of kind i, once the report has been read."""
        first = 2 * REPORT + i * self.sides
        return self.host[first : first + self.sides]


class _Part:
    """The second half of the scalars of a report."""

    def __init__(self, report):
        self._report, self.device = report, report.device[REPORT : 2 * REPORT]

    place = Report.place

    @property
    def host(self):
        return self._report.host[REPORT : 2 * REPORT]
