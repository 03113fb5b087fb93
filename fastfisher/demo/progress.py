"""How far a long run is, on standard error."""

import sys
import time

__all__ = ["Progress"]


class Progress:
    """A tqdm bar on a terminal; elsewhere a line on standard error every few seconds."""

    INTERVAL = 5.0

    def __init__(self, label):
        self.label, self.bar, self.last = label, None, time.monotonic()
        if sys.stderr is not None and sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self.bar = tqdm(desc=label, file=sys.stderr, leave=False, unit="step")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def __call__(self, iteration, iterations, loss):
        if self.bar is not None:
            self.bar.total = iterations
            self.bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            self.bar.update()
        elif time.monotonic() - self.last >= self.INTERVAL:
            self.last = time.monotonic()
            line = f"{self.label}: {iteration} of {iterations}, loss {loss:.4g}"
            print(line, file=sys.stderr, flush=True)
