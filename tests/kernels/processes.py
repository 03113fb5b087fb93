"""Functions of tests in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["in_a_process"]


def in_a_process(function, *args, timeout=280, **environment):
    """What a function returns (JSON) under another environment; None takes a variable out."""
    root = Path(__file__).parents[2]
    code = (
        f"import json, sys; from {function.__module__} import {function.__name__} as f; "
        # The threads of the CUDA simulator poll each other: half of the time they wait for turns.
        "sys.setswitchinterval(5e-5); print(json.dumps(f(*json.loads(sys.argv[1]))))"
    )
    environment = {**os.environ, "PYTHONPATH": str(root), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(args)],
        cwd=root,
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)
