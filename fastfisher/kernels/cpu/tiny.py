"""Systems of low order: a whole one per lane in registers, loaded by shuffles."""

import functools

from numba import types
from numba.extending import intrinsic

from .jit import entry_address
from .lanes import Lanes
from .simd import _I32, _index

__all__ = ["LARGEST", "tiny_address"]

LARGEST = 5  # beyond, the masks of the shuffles crowd L1, and code and compile time grow


def _every(code, vectors, stride, element):
    """Element `element` of every `stride` consecutive ones: a lane per system."""
    n, result, held = code.lanes, None, {}
    for v, vector in enumerate(vectors):
        here = {s: (s * stride + element) % n for s in range(n) if (s * stride + element) // n == v}
        if not here:
            continue
        other = vector if result is None else result
        mask = [n + here[s] if s in here else (s if s in held else 0) for s in range(n)]
        result = code.shuffle(other, vector, mask)
        held |= here
    return result


def _interleaved(code, vectors):
    """Consecutive vectors that hold element 0, 1, ... of system 0, then of system 1, ..."""
    n, p, results = code.lanes, len(vectors), []
    for place in range(p):
        system = [divmod(place * n + lane, p) for lane in range(n)]
        result = vectors[0]
        for element, vector in enumerate(vectors):
            mask = []
            for lane, (s, e) in enumerate(system):
                kept = lane if element else s
                mask.append(n + s if e == element else kept)
            result = code.shuffle(result, vector, mask)
        results.append(result)
    return results


def _solve(code, p, x, info, f, g, damping):
    builder = code.builder
    matrices, rights, place = code.address(f), code.address(g), code.address(x)
    whole = [code.load(code.vector_at(matrices, v)) for v in range(p * p)]
    right = [code.load(code.vector_at(rights, v)) for v in range(p)]
    lower = [(i, j) for i in range(p) for j in range(i + 1)]
    a = {(i, j): _every(code, whole, p * p, i * p + j) for i, j in lower}
    y = [_every(code, right, p, i) for i in range(p)]
    shift, bad, roots = code.load(code.address(damping)), code.zero(), []
    for j in range(p):
        pivot = builder.fadd(a[j, j], shift)
        for k in range(j):
            pivot = code.subtract(a[j, k], a[j, k], pivot)
        reciprocal, _, bad = code.pivot(pivot, bad, code.constant(j + 1.0))
        roots.append(reciprocal)
        for i in range(j + 1, p):
            for k in range(j):
                a[i, j] = code.subtract(a[i, k], a[j, k], a[i, j])
            a[i, j] = builder.fmul(a[i, j], reciprocal)
    for i in range(p):
        for k in range(i):
            y[i] = code.subtract(a[i, k], y[k], y[i])
        y[i] = builder.fmul(y[i], roots[i])
    for i in reversed(range(p)):
        for k in range(i + 1, p):
            y[i] = code.subtract(a[k, i], y[k], y[i])
        y[i] = builder.fmul(y[i], roots[i])
    total = code.zero()
    for vector in y:
        total = code.fma(vector, code.zero(), total)
    bad = code.flagged(total, bad)
    y = [code.or_nan(vector, bad) for vector in y]
    for v, vector in enumerate(_interleaved(code, y)):
        code.store(vector, code.vector_at(place, v))
    code.store(code.integers(bad), builder.inttoptr(info, _I32.as_pointer()), align=4)


def tiny_kernel(element):
    """Intrinsic (p, x, info, f, g, damping, groups): so many groups of consecutive systems.

    All but p and groups are addresses; a group has a system per lane.
    """

    @intrinsic
    def kernel(typingctx, p, x, info, f, g, damping, groups):
        def emit(context, builder, signature, values):
            code = Lanes(context, builder, element)
            for p in code.switch(values[0], range(1, LARGEST + 1)):

                def group(t, _, p=p):
                    sizes = (p, 1, p * p, p, 1)
                    first = builder.mul(t, _index(code.lanes))
                    bytes_ = (code.bytes, 4, code.bytes, code.bytes, code.bytes)
                    _solve(
                        code,
                        p,
                        *(
                            builder.add(start, builder.mul(first, _index(size * width)))
                            for start, size, width in zip(values[1:6], sizes, bytes_, strict=True)
                        ),
                    )

                code.range(0, values[6], 1, [], group)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7), emit

    return kernel


_double, _single = tiny_kernel(types.float64), tiny_kernel(types.float32)


def tiny_double(p, x, info, f, g, damping, groups):
    _double(p, x, info, f, g, damping, groups)


def tiny_single(p, x, info, f, g, damping, groups):
    _single(p, x, info, f, g, damping, groups)


@functools.cache
def tiny_address(double):
    """Address of the kernel; `call_entry` calls it."""
    return entry_address(tiny_double if double else tiny_single, 7)
