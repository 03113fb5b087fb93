"""The command run as a process, and what its error lines look like."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*args, **settings):
    return subprocess.run(
        [sys.executable, "-m", "fastfisher.cli", *map(str, args)],
        cwd=ROOT,
        capture_output="stdout" not in settings,
        text=True,
        timeout=200,
        **settings,
    )


def assert_one_error_line(text, reason):
    assert text.startswith("fastfisher: error: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert re.search(reason, text), text
