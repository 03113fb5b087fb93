"""What the command prints: reports on standard output, progress and errors on standard error."""

import contextlib
import json
import os
import sys
import time

__all__ = ["Output", "Progress", "flush", "megabytes", "print_json", "say", "whisper"]


def say(text):
    """Print a line now; when the reader has left (``| head``), the work goes on in silence."""
    with _guarded():
        print(text, flush=True)


def print_json(facts):
    """Print one JSON object, in ASCII."""
    say(json.dumps(facts, indent=2, allow_nan=False))


def flush():
    """Print what is buffered, so that a full disk is noticed before Python exits."""
    with _guarded():
        if sys.stdout is not None:
            sys.stdout.flush()


class Output:
    """Standard output as a stream, for what prints by itself; guarded as `say` is."""

    flush = staticmethod(flush)

    def write(self, text):
        """Write some text."""
        with _guarded():
            print(text, end="")


@contextlib.contextmanager
def _guarded():
    try:
        yield
    except OSError as error:
        # What is still buffered must vanish, or Python stumbles over it when it exits.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        if not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror, "standard output") from error


def whisper(line):
    """Print one line on standard error, if anybody listens."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def megabytes(size):
    """A number of bytes for people."""
    return f"{size / 1e6:.1f} MB"


class Progress:
    """A tqdm bar on a terminal, if tqdm is there; elsewhere a line every few seconds.

    Called as ``progress(op, done, total)``, see `fastfisher.options`.
    """

    INTERVAL = 5.0

    def __init__(self, quiet):
        self.quiet, self.op, self.done = quiet, None, 0
        self.bar, self.said = None, time.monotonic()

    def __enter__(self):
        if not self.quiet and sys.stderr is not None and sys.stderr.isatty():
            with contextlib.suppress(ImportError):
                from tqdm import tqdm

                self.bar = tqdm(file=sys.stderr, leave=False, delay=0.5, unit="")
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def __call__(self, op, done, total):
        if self.op == "cg" != op:  # a pass inside an iteration
            return
        if self.bar is not None:
            self._advance(op, done, total)
        elif not self.quiet and time.monotonic() - self.said >= self.INTERVAL:
            self.said = time.monotonic()
            whisper(f"{op}: {done} of {total}")
        self.op, self.done = op, done

    def _advance(self, op, done, total):
        before = self.done
        if op != self.op or done < before:
            self.bar.set_description(op, refresh=False)
            self.bar.reset(total)
            before = 0
        self.bar.update(done - before)
