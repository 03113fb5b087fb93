"""The `fastfisher` command: solve, plan, info, calibrate, demo.

Each command is a module that is imported when it runs, so that ``fastfisher --help`` answers at
once.
"""

import importlib
import sys

from .console import flush, whisper
from .parser import build_parser

__all__ = ["build_parser", "main"]

_MODULES = {"demo": "fastfisher.demo"}  # the others are modules of this package


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
        try:
            args = build_parser().parse_args(argv)
            module = _MODULES.get(args.command, f"{__name__}.{args.command}")
            code = importlib.import_module(module).main(args)
        except SystemExit as stop:  # argparse: help, version, wrong usage
            code = stop.code or 0
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


def _explain(error):
    """The line for an expected failure, or None for a bug."""
    from ..errors import FisherError

    if isinstance(error, FisherError):
        return str(error).partition("\n")[0]
    if isinstance(error, MemoryError):
        return f"out of memory: {error or 'an allocation failed'}"
    if isinstance(error, OSError):
        where = f": {error.filename!r}" if error.filename else ""
        return f"{error.strerror or error}{where}"
    return None
