"""Compile what an op would launch, for devices that are not there: PTX, then a cubin.

NumPy arrays stand for device arrays. `compat.launch` is replaced by a recorder, so what is compiled
is what the op launches, with the types that it launches it with.
"""

import ast
import contextlib
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np

from fastfisher.kernels.cuda import compat

__all__ = ["CAPABILITIES", "Kernel", "compiled", "kernels_of", "names_of"]

CAPABILITIES = ((8, 0), (9, 0))


@dataclass(frozen=True)
class Kernel:
    """One kernel as the device would run it."""

    name: str
    ptx: str
    registers: int
    spilled: int  # bytes that registers had no room for
    stack: int  # bytes of local arrays that are not in registers
    threads: int

    def count(self, instruction):
        return len(re.findall(rf"^\s+(?:@\S+\s+)?{instruction}", self.ptx, re.MULTILINE))


@contextlib.contextmanager
def _device(capability):
    """A device of that capability, which only answers what it is."""
    fake = SimpleNamespace(compute_capability=capability)
    with (
        mock.patch("numba.cuda.dispatcher.get_current_device", lambda: fake),
        mock.patch.object(compat, "capability", lambda: capability),
        mock.patch.object(compat, "empty", np.empty),
    ):
        yield


def _type(x):
    if isinstance(x, np.ndarray):
        item = compat.types.__dict__[x.dtype.name]
        return compat.types.Array(item, x.ndim, "C")
    if isinstance(x, bool | np.bool_):
        return compat.types.boolean
    if isinstance(x, np.generic):
        return compat.types.__dict__[x.dtype.name]
    return compat.types.int64 if isinstance(x, int) else compat.types.float64


def _linked(ptx, capability):
    """What the linker says about a kernel."""
    from cuda.bindings import nvjitlink

    handle = nvjitlink.create(2, [f"-arch=sm_{capability[0]}{capability[1]}", "-verbose"])
    text = ptx.encode()
    nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text, len(text), "kernel")
    try:
        nvjitlink.complete(handle)
    finally:
        for size, get in (
            (nvjitlink.get_error_log_size(handle), nvjitlink.get_error_log),
            (nvjitlink.get_info_log_size(handle), nvjitlink.get_info_log),
        ):
            log = bytearray(size)
            get(handle, log)
            log = log.decode(errors="replace")
            if get is nvjitlink.get_error_log and log.strip("\0 \n"):
                raise AssertionError(log)
    nvjitlink.destroy(handle)
    return log


@functools.cache
def _library(launched, kinds):
    """What `cuda.compile_ptx` makes PTX of: half of the work, and the same for every device."""
    from numba.cuda.compiler import _compile_pyfunc_with_fixup

    library, _ = _compile_pyfunc_with_fixup(
        launched.py_func,
        compat.types.void(*kinds),
        device=False,
        abi="numba",
        cc=CAPABILITIES[0],
        launch_bounds=launched.targetoptions.get("launch_bounds"),
    )
    return library


def _kernel(launched, threads, args, capability):
    ptx = _library(launched, tuple(_type(x) for x in args)).get_asm_strs(cc=capability)[0]
    log = _linked(ptx, capability)

    def number(pattern):
        return sum(int(found) for found in re.findall(pattern, log))

    return Kernel(
        launched.py_func.__name__,
        ptx,
        max(int(found) for found in re.findall(r"Used (\d+) registers", log)),
        number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        max((int(found) for found in re.findall(r"(\d+) bytes stack frame", log)), default=0),
        int(np.prod(threads)),
    )


_compiled = {}  # by capability, kernel and types


def compiled(call, capability):
    """Kernels that ``call()`` would launch, each kind once, compiled and linked."""
    kernels = {}

    def record(launched, blocks, threads, *args):
        key = capability, launched, *(_type(x) for x in args)
        if key not in _compiled:
            _compiled[key] = _kernel(launched, threads, args, capability)
        kernels[key] = _compiled[key]

    with _device(capability), mock.patch.object(compat, "launch", record):
        call()
    return list(kernels.values())


def names_of(call):
    """{(file, name)} of the kernels that ``call()`` would launch."""
    found = set()

    def record(launched, blocks, threads, *args):
        code = launched.py_func.__code__
        found.add((Path(code.co_filename).stem, code.co_name))

    with _device(CAPABILITIES[-1]), mock.patch.object(compat, "launch", record):
        call()
    return found


def kernels_of(room):
    """{(file, name)} of the functions in a folder that are launched, not called by others."""
    found = set()
    for path in room.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and path.stem != "simulated":
                made = [ast.unparse(maker) for maker in node.decorator_list]
                if any(m == "cuda.jit" or m.startswith("compat.kernel(") for m in made):
                    found.add((path.stem, node.name))
    return found
