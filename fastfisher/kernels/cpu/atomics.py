"""Words that several threads read and write, by address, and what a waiting thread does."""

import ctypes
import platform
import sys
import time

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .simd import vector

__all__ = ["add", "give_way", "load", "pause", "store", "swap_if"]

_I64 = ir.IntType(64)
ORDER = "seq_cst"


def _word(builder, address):
    return builder.inttoptr(address, _I64.as_pointer())


@vector(lambda at: ctypes.c_int64.from_address(at).value)
def load(typingctx, at):
    def emit(context, builder, signature, values):
        return builder.load_atomic(_word(builder, values[0]), ORDER, 8)

    return types.intp(types.intp), emit


def _store(at, value):
    ctypes.c_int64.from_address(at).value = value


@vector(_store)
def store(typingctx, at, value):
    def emit(context, builder, signature, values):
        builder.store_atomic(values[1], _word(builder, values[0]), ORDER, 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), emit


@vector(None)
def add(typingctx, at, value):
    """What was there before."""

    def emit(context, builder, signature, values):
        return builder.atomic_rmw("add", _word(builder, values[0]), values[1], ORDER)

    return types.intp(types.intp, types.intp), emit


def _swap_if(at, old, new):
    word = ctypes.c_int64.from_address(at)
    found = word.value == old
    word.value = new if found else word.value
    return found


@vector(_swap_if)
def swap_if(typingctx, at, old, new):
    """Replace `old` by `new`; false if something else was there."""

    def emit(context, builder, signature, values):
        place = _word(builder, values[0])
        pair = builder.cmpxchg(place, values[1], values[2], ORDER, ORDER)
        return builder.extract_value(pair, 1)

    return types.boolean(types.intp, types.intp, types.intp), emit


@vector(lambda: None)
def pause(typingctx):
    """A breath within a loop of looks at a word."""
    name = "llvm.x86.sse2.pause" if platform.machine().lower() in ("x86_64", "amd64") else None

    def emit(context, builder, signature, values):
        if name:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), emit


@vector(lambda: time.sleep(0))
def give_way(typingctx):
    """Let another thread run on this core."""

    def emit(context, builder, signature, values):
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), emit
