"""One contender in a process of its own, blocked on a pipe between its turns.

Idle workers of one thread pool spin on the cores of the next one, so contenders never share a
process, and the parent lets one run at a time.
"""

import contextlib
import os
import statistics
import time

THREAD_VARIABLES = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


class Worker:
    """What the parent may ask of a contender; each method answers with plain data."""

    def __init__(self, name, seconds_per_turn):
        self.name, _, self.core = name.partition("@")
        self.seconds_per_turn = seconds_per_turn

    def about(self):
        """Versions and thread pools, as this process sees them."""
        from .environment import contender

        return contender(self.name)

    def make(self, case):
        """Make the inputs of a case."""
        from .contenders import contender
        from .inputs import inputs

        function = contender(case, self.name)
        operands = inputs(case)
        self.call = lambda: function(*operands)
        self.case, self.operands = case, operands

    def prepare(self):
        """Warm up, and fix how many calls make one turn."""
        first, _ = _timed(self.call, 1)
        # The first call of ours may have compiled; a vendor's long one tells enough.
        told = first > 0.5 and not self.name.startswith("fastfisher")
        seconds = first if told else _timed(self.call, 1)[0]
        self.calls = min(10_000, max(1, round(self.seconds_per_turn / max(seconds, 1e-7))))
        return {"first_call": first, "calls_per_turn": self.calls, "turn": seconds * self.calls}

    def turn(self):
        """Seconds per call over one turn."""
        seconds, self.result = _timed(self.call, self.calls)
        return seconds

    def error(self):
        """The last result's distance from the truth, in u."""
        from .gates import error

        return error(self.case, self.operands, self.result)

    def forget(self):
        """Free the memory of the case."""
        self.call = self.case = self.operands = self.result = None


class Probe:
    """The machine itself as a contender: what it could do, now."""

    def measure(self, nbytes):
        """Peaks of this machine."""
        from .roofline import measure

        return measure(nbytes)

    def turn(self):
        """Flop/s of a short FMA loop: has a neighbour taken a core since?"""
        from .roofline import fma_rate

        return statistics.median(fma_rate("d", 500_000) for _ in range(3))


def _timed(call, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        result = call()
    return (time.perf_counter() - start) / repeats, result


def serve(pipe, actor):
    """Answer (method, arguments) from the pipe until the parent hangs up."""
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, getattr(actor, method)(*arguments)))
        except Exception as error:  # any failure belongs to the contender and is reported as such
            pipe.send((False, f"{type(error).__name__}: {error}"))


class Remote:
    """The parent's end: ``remote("turn")`` asks and waits."""

    def __init__(self, context, actor, environment):
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, actor), daemon=True)
        before = dict(os.environ)
        os.environ.update(environment)  # thread counts are read when a library loads
        try:
            self.process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()

    def __call__(self, method, *arguments):
        self.send(method, *arguments)
        return self.receive()

    def send(self, method, *arguments):
        """Ask; `receive` waits for the answer."""
        with self._alive():
            self.pipe.send((method, arguments))

    def receive(self):
        """The answer to what was asked."""
        with self._alive():
            done, answer = self.pipe.recv()
        if not done:
            raise ContenderError(answer)
        return answer

    @contextlib.contextmanager
    def _alive(self):
        try:
            yield
        except (EOFError, OSError) as error:
            self.process.join(5)
            raise ContenderError(f"its process died, exit code {self.process.exitcode}") from error

    def close(self):
        """Hang up and wait for the process to leave."""
        self.pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.terminate()


class ContenderError(Exception):
    """A contender could not run a case."""
