"""Systems of low order: a whole one per lane, in straight code, loaded by shuffles."""

import functools

from numba import types
from numba.extending import intrinsic

from .jit import entry_address
from .lanes import Lanes
from .simd import _I32, _index

__all__ = ["LARGEST", "stream_at", "tiny_address"]

LARGEST = 9  # beyond, code and compile time grow, and less and less stays in registers

AHEAD = 8192  # bytes; systems so far ahead are fetched to L2: where pages end, hardware stops


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


def _windows(elements, size, n):
    """Starts of runs of n elements out of `size` that hold these, and which of them each holds."""
    windows, left = [], list(elements)
    while left:
        start = min(left[0], size - n)
        windows.append((start, [e for e in left if e < start + n]))
        left = left[len(windows[-1][1]) :]
    return windows


def _gathered(code, place, size, elements):
    """These elements of consecutive systems of `size` elements: a lane per system."""
    n = code.lanes
    if size < n:
        vectors = [code.load(code.vector_at(place, v)) for v in range(size)]
        return {e: _every(code, vectors, size, e) for e in elements}
    found = {}
    for start, held in _windows(elements, size, n):
        rows = [code.load(code.at(place, s * size + start)) for s in range(n)]
        turned = code.transposed(rows)  # what is not asked for costs nothing
        found |= {e: turned[e - start] for e in held}
    return found


def _scattered(code, place, vectors):
    """And back: all elements of every system."""
    n, p = code.lanes, len(vectors)
    if p < n:
        for v, vector in enumerate(_interleaved(code, vectors)):
            code.store(vector, code.vector_at(place, v))
        return
    for start, _ in _windows(range(p), p, n):
        for s, row in enumerate(code.transposed(vectors[start : start + n])):
            code.store(row, code.at(place, s * p + start))


def _solve(code, p, x, info, f, g, damping):
    """L D L' in place of L L': no roots, and the quotients of a pivot are one."""
    builder = code.builder
    for place, count in ((f, p * p), (g, p)):
        for at in range(0, count * code.lanes * code.bytes, 64):
            code.prefetch(code.address(builder.add(place, _index(AHEAD + at))), level=2)
    lower = [i * p + j for i in range(p) for j in range(i + 1)]
    found = _gathered(code, code.address(f), p * p, lower)
    a = {divmod(e, p): vector for e, vector in found.items()}
    found = _gathered(code, code.address(g), p, range(p))
    y = [found[i] for i in range(p)]
    shift, bad, reciprocals = code.load(code.address(damping)), code.zero(), []
    for i in range(p):
        a[i, i] = builder.fadd(a[i, i], shift)
    for j in range(p):
        reciprocal = builder.fdiv(code.constant(1.0), a[j, j])
        bad = code.failing(reciprocal, bad, code.constant(j + 1.0))
        reciprocals.append(reciprocal)
        column = {i: a[i, j] for i in range(j + 1, p)}
        for i in column:
            a[i, j] = builder.fmul(column[i], reciprocal)
            for k in range(j + 1, i + 1):
                a[i, k] = code.subtract(a[i, j], column[k], a[i, k])
            y[i] = code.subtract(a[i, j], y[j], y[i])
    for i in reversed(range(p)):
        y[i] = builder.fmul(y[i], reciprocals[i])
        for k in range(i + 1, p):
            y[i] = code.subtract(a[k, i], y[k], y[i])
    total = code.zero()
    for vector in y:
        total = code.fma(vector, code.zero(), total)
    bad = code.flagged(total, bad)
    _scattered(code, code.address(x), [code.or_nan(vector, bad) for vector in y])
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


@intrinsic
def stream_at(typingctx, to, source, size):
    """Copy `size` bytes, a multiple of 4, past the caches: what is overwritten is not read first.

    Seen by other threads after the atomic operation that claims the next task.
    """

    def emit(context, builder, signature, values):
        size = builder.lshr(values[2], _index(2))
        code = Lanes(context, builder, types.float32)
        to, source = code.address(values[0]), code.address(values[1])
        once = builder.module.add_metadata([_I32(1)])

        def one(i, _):
            builder.store(builder.load(code.at(source, i)), code.at(to, i))

        def line(i, _):
            x = code.load(code.at(source, i))
            place = builder.bitcast(code.at(to, i), code.vector.as_pointer())
            builder.store(x, place, align=code.lanes * 4).set_metadata("nontemporal", once)

        # numbers before the first line, and where whole lines end
        before = builder.and_(builder.lshr(builder.neg(values[0]), _index(2)), _index(15))
        before = code.least(before, size)
        left = builder.and_(builder.sub(size, before), _index(-16))
        after = builder.add(before, left)
        code.range(0, before, 1, [], one)
        code.range(before, after, code.lanes, [], line)
        code.range(after, size, 1, [], one)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), emit
