"""The `fastfisher` command: solve, plan, info, calibrate, demo.

Each command is a module that is imported when it runs, so that ``fastfisher --help`` answers at
once.
"""

import importlib
import sys
import warnings

from .console import flush, whisper
from .parser import build_parser

__all__ = ["build_parser", "main"]


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        0 done, 1 from a demo that did not show what it must, 2 an expected failure told in
        one line on standard error, 130 interrupted.

    Examples
    --------
    >>> main(["plan", "--n", "20", "--p", "many"])
    2
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            code = _run(argv)
        flush()
        return code
    except KeyboardInterrupt:
        whisper("fastfisher: interrupted")
        return 130
    except Exception as error:
        line = _explain(error)
        if line is None:
            raise
        whisper(f"fastfisher: error: {line}")
        return 2


def _run(argv):
    try:
        args = build_parser().parse_args(argv)
        return importlib.import_module(f"{__name__}.{args.command}").main(args)
    except SystemExit as stop:  # argparse: help, version, wrong usage
        return stop.code or 0


def _warn(message, *_, **__):
    """A warning as one line, like every message of the command."""
    whisper(f"fastfisher: warning: {_first_line(message)}")


def _first_line(message):
    return str(message).partition("\n")[0]


def _explain(error):
    """The line for an expected failure, or None for a bug."""
    from ..errors import FisherError

    if isinstance(error, FisherError):
        return _first_line(error)
    if isinstance(error, MemoryError):
        return f"out of memory: {error or 'an allocation failed'}"
    if isinstance(error, OSError):
        where = f": {error.filename!r}" if error.filename else ""
        return f"{error.strerror or error}{where}"
    return None
