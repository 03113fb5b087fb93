"""One parallel region for every kernel: tasks are claimed in order by whichever thread is free.

`for_each(launch, task, count, args)`, called inside a compiled driver, runs task(t, *args) for
t = 0..count-1: on this thread if `launch` is 0, else through `launcher()`. The task's arguments
travel by address to an outlined function, so a driver is compiled once, without a parfor of its
own. Which thread runs a task never shows in a result; a task may wait for earlier ones only.
"""

import functools

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from .linking import compile_inside

__all__ = ["for_each", "launcher"]

WORKERS = 256  # threads that can take part
_I64 = ir.IntType(64)
_TASK = ir.FunctionType(ir.VoidType(), [_I64, _I64])  # (address of the arguments, t)
_LAUNCH = ir.FunctionType(ir.VoidType(), [_I64, _I64, _I64])  # (task, arguments, count)


def _for_each(launch, task, count, args):
    for t in range(count):
        task(t, *args)


def _outlined(context, builder, compiled, args):
    """A function (address of args, t) in this module that calls the compiled task."""
    name = builder.module.get_unique_name("task." + compiled.fndesc.unique_name)
    function = ir.Function(builder.module, _TASK, name)
    function.linkage = "internal"
    inner = ir.IRBuilder(function.append_basic_block())
    packed = inner.load(inner.inttoptr(function.args[0], args.type.as_pointer()))
    count = len(compiled.fndesc.argtypes) - 1
    items = cgutils.unpack_tuple(inner, packed, count)
    callee = context.declare_function(inner.module, compiled.fndesc)
    descriptor = compiled.fndesc
    # Kernels do not raise: their status code is not looked at.
    context.call_conv.call_function(
        inner, callee, descriptor.restype, descriptor.argtypes, [function.args[1], *items]
    )
    inner.ret_void()
    return function


@intrinsic
def _compiled_for_each(typingctx, launch, task, count, args):
    signature = types.void(types.intp, task, types.intp, args)

    def emit(context, builder, signature, values):
        launch_v, _, count_v, args_v = values
        compiled = compile_inside(context, task.dispatcher, (types.intp, *args.types))
        slot = cgutils.alloca_once_value(builder, args_v)
        address = builder.ptrtoint(slot, _I64)
        function = _outlined(context, builder, compiled, args_v)
        in_parallel = builder.icmp_unsigned("!=", launch_v, ir.Constant(_I64, 0))
        with builder.if_else(in_parallel) as (parallel, serial):
            with parallel:
                start = builder.inttoptr(launch_v, _LAUNCH.as_pointer())
                builder.call(start, [builder.ptrtoint(function, _I64), address, count_v])
            with serial, cgutils.for_range(builder, count_v, intp=_I64) as loop:
                builder.call(function, [address, loop.index])
        return context.get_dummy_value()

    return signature, emit


for_each = _for_each if numba.config.DISABLE_JIT else _compiled_for_each


@intrinsic
def _run(typingctx, task, args, t):
    def emit(context, builder, signature, values):
        builder.call(builder.inttoptr(values[0], _TASK.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), emit


@intrinsic
def _claim(typingctx, counter):
    def emit(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, value=values[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(_I64, 1), "acq_rel")

    return types.intp(counter), emit


def _work(task, args, count, counter):
    t = _claim(counter)
    while t < count:
        _run(task, args, t)
        t = _claim(counter)


_work = numba.njit(nogil=True)(_work)


def _launch(task, args, count):
    counter = np.zeros(16, np.int64)  # a cache line of its own
    visits = min(count, WORKERS)  # each thread gets its share of them, and works in the first
    for _ in prange(visits):
        _work(task, args, count, counter)


@functools.cache
def launcher():
    """Address of the compiled parallel region, (task, arguments, count) -> nothing."""
    from .jit import entry_address

    return entry_address(_launch, 3, parallel=True)
