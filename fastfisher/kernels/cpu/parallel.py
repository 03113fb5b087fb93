"""One parallel region for every kernel: tasks are claimed in order by whichever thread is free.

`for_each(launch, task, count, args)`, called inside a compiled driver, runs
task(t, thread, *args) for t = 0..count-1: on this thread if `launch` is 0, else through the
function whose address `launch` points to, launch(itself, task, args, count). The task's arguments
travel by address to an outlined function, so a driver is compiled once, without a parfor of its
own. Which thread runs a task never shows in a result (`thread` only says which scratch is its
own); a task may wait for earlier ones only.
"""

import threading

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from .atomics import add, store
from .jit import entry_address, kernel
from .linking import compile_inside

__all__ = ["NumbaThreads", "claim_tasks", "for_each"]

WORKERS = 256  # threads that can take part in Numba's region
COUNTER = 128  # bytes from `launch` to the number of tasks claimed there
_I64 = ir.IntType(64)
_TASK = ir.FunctionType(ir.VoidType(), [_I64] * 3)  # (address of the arguments, t, thread)
_LAUNCH = ir.FunctionType(ir.VoidType(), [_I64] * 4)  # (launch, task, arguments, count)


def _for_each(launch, task, count, args):
    for t in range(count):
        task(t, 0, *args)


def _outlined(context, builder, compiled, args):
    """A function (address of args, t, thread) in this module that calls the compiled task."""
    name = builder.module.get_unique_name("task." + compiled.fndesc.unique_name)
    function = ir.Function(builder.module, _TASK, name)
    function.linkage = "internal"
    inner = ir.IRBuilder(function.append_basic_block())
    packed = inner.load(inner.inttoptr(function.args[0], args.type.as_pointer()))
    count = len(compiled.fndesc.argtypes) - 2
    items = [*function.args[1:], *cgutils.unpack_tuple(inner, packed, count)]
    callee = context.declare_function(inner.module, compiled.fndesc)
    descriptor = compiled.fndesc
    # Kernels do not raise: their status code is not looked at.
    context.call_conv.call_function(inner, callee, descriptor.restype, descriptor.argtypes, items)
    inner.ret_void()
    return function


@intrinsic
def _compiled_for_each(typingctx, launch, task, count, args):
    signature = types.void(types.intp, task, types.intp, args)

    def emit(context, builder, signature, values):
        launch_v, _, count_v, args_v = values
        compiled = compile_inside(context, task.dispatcher, (types.intp, types.intp, *args.types))
        slot = cgutils.alloca_once_value(builder, args_v)
        place = builder.ptrtoint(slot, _I64)
        function, zero = _outlined(context, builder, compiled, args_v), ir.Constant(_I64, 0)
        in_parallel = builder.icmp_unsigned("!=", launch_v, zero)
        with builder.if_else(in_parallel) as (parallel, serial):
            with parallel:
                start = builder.load(builder.inttoptr(launch_v, _I64.as_pointer()))
                start = builder.inttoptr(start, _LAUNCH.as_pointer())
                job = builder.ptrtoint(function, _I64), place, count_v
                builder.call(start, [launch_v, *job])
            with serial, cgutils.for_range(builder, count_v, intp=_I64) as loop:
                builder.call(function, [place, loop.index, zero])
        return context.get_dummy_value()

    return signature, emit


for_each = _for_each if numba.config.DISABLE_JIT else _compiled_for_each


@intrinsic
def _run(typingctx, task, args, t, thread):
    def emit(context, builder, signature, values):
        builder.call(builder.inttoptr(values[0], _TASK.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), emit


@kernel
def claim_tasks(task, args, count, counter, thread):
    """Work until all tasks are claimed; `counter` is the address of the number that are."""
    t = add(counter, 1)
    while t < count:
        _run(task, args, t, thread)
        t = add(counter, 1)


def _numba_launch(launch, task, args, count):
    counter = launch + COUNTER
    store(counter, 0)
    visits = min(count, WORKERS)  # each thread gets its share of them, and works in the first
    for _ in prange(visits):
        claim_tasks(task, args, count, counter, numba.get_thread_id())


class NumbaThreads:
    """Numba's threads, where we have none of our own; for one parallel region at a time."""

    def __init__(self, threads):
        numba.get_num_threads()  # starts the layer, which code from the cache takes for granted
        self.free = threading.Lock()
        self._words = np.zeros(2 * COUNTER // 8, np.int64)
        self._words[0] = entry_address(_numba_launch, 4, parallel=True)
        self.address = self._words.ctypes.data

    def enter(self, threads):
        """So many threads take part until `leave`."""
        self._before = numba.get_num_threads()
        numba.set_num_threads(threads)

    def leave(self):
        numba.set_num_threads(self._before)
