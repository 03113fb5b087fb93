"""The calls of the operating system that compiled threads make: sleeping, waking, clock, core."""

import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import kernel

__all__ = [
    "AVAILABLE",
    "CORES",
    "OBJECT",
    "allowed_cores",
    "core",
    "function",
    "keep_off",
    "nanoseconds",
    "nap",
    "settle_on",
    "step_aside",
]

AVAILABLE = sys.platform in ("linux", "darwin")
OBJECT = 128  # bytes that hold a mutex or a condition variable anywhere

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_CLOCK = 6 if sys.platform == "darwin" else 1  # CLOCK_MONOTONIC
_CORES = 16  # words of a set of cores,
CORES = 8 * _CORES  # and its bytes


def _call(builder, name, *args):
    kind = ir.FunctionType(_I32, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _words(builder, count):
    place = cgutils.alloca_once(builder, _I64, size=count)
    return place, [builder.gep(place, [ir.Constant(_I64, i)]) for i in range(count)]


def function(name, arguments):
    """A C function of so many addresses; its result is not looked at."""

    @intrinsic
    def call(typingctx, addresses):
        def emit(context, builder, signature, values):
            _call(builder, name, *cgutils.unpack_tuple(builder, values[0], arguments))
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.intp, arguments)), emit

    return call


@intrinsic
def nanoseconds(typingctx):
    """A clock that only goes forward."""

    def emit(context, builder, signature, values):
        time, (seconds, rest) = _words(builder, 2)
        _call(builder, "clock_gettime", ir.Constant(_I32, _CLOCK), time)
        billion = ir.Constant(_I64, 10**9)
        return builder.add(builder.mul(builder.load(seconds), billion), builder.load(rest))

    return types.intp(), emit


@intrinsic
def nap(typingctx, duration):
    """Sleep for so many nanoseconds, less than a second."""

    def emit(context, builder, signature, values):
        time, (seconds, rest) = _words(builder, 2)
        builder.store(ir.Constant(_I64, 0), seconds)
        builder.store(values[0], rest)
        _call(builder, "nanosleep", time, ir.Constant(time.type, None))
        return context.get_dummy_value()

    return types.void(types.intp), emit


@intrinsic
def core(typingctx):
    """The core this thread runs on; -1 where the system does not say."""

    def emit(context, builder, signature, values):
        if sys.platform != "linux":
            return ir.Constant(_I64, -1)
        return builder.sext(_call(builder, "sched_getcpu"), _I64)

    return types.intp(), emit


_ME, _SIZE = ir.Constant(_I32, 0), ir.Constant(_I64, CORES)


def _set_of(builder, place):
    return builder.inttoptr(place, _I64.as_pointer())


@intrinsic
def allowed_cores(typingctx, thread, place):
    """The set of cores that a thread of this process (0: this one) may run on, to an address; false
    where it is not known."""

    def emit(context, builder, signature, values):
        if sys.platform != "linux":
            return ir.Constant(ir.IntType(1), 0)
        thread, place = builder.trunc(values[0], _I32), _set_of(builder, values[1])
        known = _call(builder, "sched_getaffinity", thread, _SIZE, place)
        return builder.icmp_signed("==", known, _ME)

    return types.boolean(types.intp, types.intp), emit


@intrinsic
def settle_on(typingctx, place):
    """This thread may run on a set of cores."""

    def emit(context, builder, signature, values):
        if sys.platform == "linux":
            _call(builder, "sched_setaffinity", _ME, _SIZE, _set_of(builder, values[0]))
        return context.get_dummy_value()

    return types.void(types.intp), emit


@intrinsic
def keep_off(typingctx, thread, core, place):
    """A thread may run on a set of cores, but for one of them; true if it may. A set without cores
    is refused; then nothing happens."""

    def emit(context, builder, signature, values):
        if sys.platform != "linux":
            return ir.Constant(ir.IntType(1), 0)
        thread, here, allowed = values[0], values[1], _set_of(builder, values[2])
        others, theirs = _words(builder, _CORES)
        for i, to in enumerate(theirs):
            builder.store(builder.load(builder.gep(allowed, [ir.Constant(_I64, i)])), to)
        with builder.if_then(builder.icmp_unsigned("<", here, ir.Constant(_I64, 64 * _CORES))):
            word = builder.gep(others, [builder.lshr(here, ir.Constant(_I64, 6))])
            bit = builder.shl(ir.Constant(_I64, 1), builder.and_(here, ir.Constant(_I64, 63)))
            builder.store(builder.and_(builder.load(word), builder.not_(bit)), word)
        thread = builder.trunc(thread, _I32)
        moved = _call(builder, "sched_setaffinity", thread, _SIZE, others)
        return builder.icmp_signed("==", moved, _ME)

    return types.boolean(types.intp, types.intp, types.intp), emit


@kernel
def step_aside(here, place):
    """Go to another core of this thread's set: for a moment it does not accept this one."""
    if keep_off(0, here, place):
        settle_on(place)
