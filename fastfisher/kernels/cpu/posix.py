"""The calls of the operating system that compiled threads make: sleeping, waking, clock, core."""

import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["AVAILABLE", "OBJECT", "core", "function", "nanoseconds", "nap", "step_aside"]

AVAILABLE = sys.platform in ("linux", "darwin")
OBJECT = 128  # bytes that hold a mutex or a condition variable anywhere

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_CLOCK = 6 if sys.platform == "darwin" else 1  # CLOCK_MONOTONIC
_CORES = 16  # words of a set of cores


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


@intrinsic
def step_aside(typingctx, core):
    """Go to another core: for a moment this thread does not accept this one."""

    def emit(context, builder, signature, values):
        if sys.platform != "linux":
            return context.get_dummy_value()
        here, me, size = values[0], ir.Constant(_I32, 0), ir.Constant(_I64, 8 * _CORES)
        (allowed, mine), (others, theirs) = (_words(builder, _CORES) for _ in range(2))
        known = builder.icmp_signed(
            "==", _call(builder, "sched_getaffinity", me, size, allowed), me
        )
        within = builder.icmp_unsigned("<", here, ir.Constant(_I64, 64 * _CORES))
        with builder.if_then(builder.and_(known, within)):
            for source, to in zip(mine, theirs, strict=True):
                builder.store(builder.load(source), to)
            word = builder.gep(others, [builder.lshr(here, ir.Constant(_I64, 6))])
            bit = builder.shl(ir.Constant(_I64, 1), builder.and_(here, ir.Constant(_I64, 63)))
            builder.store(builder.and_(builder.load(word), builder.not_(bit)), word)
            # A set without cores is refused; then nothing happens.
            moved = _call(builder, "sched_setaffinity", me, size, others)
            with builder.if_then(builder.icmp_signed("==", moved, me)):
                _call(builder, "sched_setaffinity", me, size, allowed)
        return context.get_dummy_value()

    return types.void(types.intp), emit
