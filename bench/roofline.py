"""What this machine can do at most: fused multiply-adds per second, bytes per second.

Measured in the same run as everything else, because both move with the clock and the neighbours.
"""

import statistics
import time

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

ACCUMULATORS = 12  # vectors in flight: latency x throughput of the FMA units, and 16 registers hold
_STEPS = 2_000_000


def simd_features():
    """The features that Numba compiles for, as a set of names."""
    enabled = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return {name[1:] for name in enabled if name.startswith("+")}


def _vector_bytes():
    features = simd_features()
    return 64 if "avx512f" in features else 32 if "avx2" in features else 16


def _fma_loop(bits):
    """An intrinsic (steps) -> sum of the registers after `steps` x ACCUMULATORS vector FMAs."""
    scalar = ir.DoubleType() if bits == 64 else ir.FloatType()
    lanes = _vector_bytes() * 8 // bits
    vector, i64, i32 = ir.VectorType(scalar, lanes), ir.IntType(64), ir.IntType(32)

    def emit(context, builder, signature, arguments):
        (steps,) = arguments
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f{bits}"
        )

        def constant(value):
            return ir.Constant(vector, [value] * lanes)

        before = builder.block
        loop, after = builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        step = builder.phi(i64)
        registers = [builder.phi(vector) for _ in range(ACCUMULATORS)]
        following = builder.add(step, ir.Constant(i64, 1))
        # r <- r * 0.999 + j stays bounded, and no two registers are equal. None decays either:
        # subnormal numbers are slow on some processors.
        results = [
            builder.call(fma, [r, constant(0.999), constant(float(j))])
            for j, r in enumerate(registers, start=1)
        ]
        step.add_incoming(ir.Constant(i64, 0), before)
        step.add_incoming(following, loop)
        for register, result in zip(registers, results, strict=True):
            register.add_incoming(constant(1.0), before)
            register.add_incoming(result, loop)
        builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
        builder.position_at_end(after)
        total = results[0]
        for result in results[1:]:
            total = builder.fadd(total, result)
        parts = [builder.extract_element(total, ir.Constant(i32, k)) for k in range(lanes)]
        answer = parts[0]
        for part in parts[1:]:
            answer = builder.fadd(answer, part)
        return answer

    result = types.float64 if bits == 64 else types.float32
    loop = intrinsic(lambda context, steps: (result(types.int64), emit))
    return loop, lanes


_fma64, _lanes64 = _fma_loop(64)
_fma32, _lanes32 = _fma_loop(32)


@njit(parallel=True)
def _all_threads64(steps, out):
    for thread in prange(len(out)):
        out[thread] = _fma64(steps)


@njit(parallel=True)
def _all_threads32(steps, out):
    for thread in prange(len(out)):
        out[thread] = _fma32(steps)


@njit(fastmath={"reassoc", "nsz"})
def _sum(a):
    """Of four stretches side by side: one alone does not keep the memory of all processors busy."""
    total, q = 0.0, len(a) // 4
    for i in range(q):  # by index: iterating over the array compiles to gathers
        total += a[i] + a[i + q] + a[i + 2 * q] + a[i + 3 * q]
    return total


@njit(parallel=True)
def _read(a, sums):
    share = len(a) // len(sums)
    for thread in prange(len(sums)):
        sums[thread] = _sum(a[thread * share : (thread + 1) * share])


@njit(parallel=True)
def _triad(a, b, c):
    for i in prange(len(a)):
        a[i] = b[i] + 3.0 * c[i]


def _seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def fma_rate(dtype, steps=_STEPS):
    """Real flops per second of a register-only FMA loop on all threads, once."""
    function, lanes = {"d": (_all_threads64, _lanes64), "s": (_all_threads32, _lanes32)}[dtype]
    out = np.zeros(numba.get_num_threads())
    flops = 2 * lanes * ACCUMULATORS * steps * len(out)
    return flops / _seconds(function, steps, out)


def bandwidth(nbytes, repeats=5):
    """Bytes per second from memory: reading one array, and the triad a = b + 3 c (24 bytes)."""
    a = np.ones(nbytes // 24)
    b, c = np.ones_like(a), np.ones_like(a)
    sums = np.zeros(numba.get_num_threads())
    read = [_seconds(_read, a, sums) for _ in range(repeats + 1)][1:]
    triad = [_seconds(_triad, a, b, c) for _ in range(repeats + 1)][1:]
    return {
        "read": a.nbytes / statistics.median(read),
        "triad": 3 * a.nbytes / statistics.median(triad),
    }


def measure(nbytes, repeats=9):
    """The peaks of this machine: flop/s per dtype, bytes/s for reading and for the triad."""
    rates = {}
    for dtype in "ds":
        fma_rate(dtype, 1000)
        # The best: a neighbour on one core halves what the others wait for.
        rates[f"fma_{dtype}"] = max(fma_rate(dtype) for _ in range(repeats))
    return rates | bandwidth(nbytes)
