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
# From this order on a group takes lines here and there for so long that hardware foresees none of
# them; so many bytes of systems are first read in order, which is faster than prefetches.
SPREAD, AT_ONCE = 7, 10 << 10
LINE = 64  # bytes


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


def _reader(code, place, size):
    """Function of an element of consecutive systems of `size`: its vector, a lane per system.

    Loaded as they are asked for, side by side: what few registers hold is used up soon.
    """
    n, found = code.lanes, {}
    if size < n:
        vectors = [code.load(code.vector_at(place, v)) for v in range(size)]
        return lambda element: _every(code, vectors, size, element)

    def read(element):
        if element not in found:
            start = min(element, size - n)
            rows = [code.load(code.at(place, s * size + start)) for s in range(n)]
            for e, vector in enumerate(code.transposed(rows), start):
                found.setdefault(e, vector)  # what is not asked for costs nothing
        return found[element]

    return read


def _scattered(code, place, vectors):
    """And back: all elements of every system."""
    n, p = code.lanes, len(vectors)
    if p < n:
        for v, vector in enumerate(_interleaved(code, vectors)):
            code.store(vector, code.vector_at(place, v))
        return
    for start in (*range(0, p - n, n), p - n):
        for s, row in enumerate(code.transposed(vectors[start : start + n])):
            code.store(row, code.at(place, s * p + start))


def _solve(code, p, x, info, f, g, damping):
    """L D L' in place of L L': no roots, and the quotients of a pivot are one. Row by row."""
    builder = code.builder
    for place, count in ((f, p * p), (g, p)) if p < SPREAD else ():
        for at in range(0, count * code.lanes * code.bytes, LINE):
            code.prefetch(code.address(builder.add(place, _index(AHEAD + at))), level=2)
    matrix, right = (_reader(code, code.address(at), size) for at, size in ((f, p * p), (g, p)))
    shift, l, y, reciprocals = code.load(code.address(damping)), {}, [], []
    for i in range(p):
        row, z = [matrix(i * p + j) for j in range(i + 1)], right(i)
        row[i] = builder.fadd(row[i], shift)
        for j in range(i):  # row[j] is that of L D
            l[i, j] = builder.fmul(row[j], reciprocals[j])
            for k in range(j + 1, i):
                row[k] = code.subtract(l[k, j], row[j], row[k])
            row[i] = code.subtract(l[i, j], row[j], row[i])
            z = code.subtract(l[i, j], y[j], z)
        reciprocals.append(builder.fdiv(code.constant(1.0), row[i]))
        y.append(z)
    y = [builder.fmul(z, reciprocal) for z, reciprocal in zip(y, reciprocals, strict=True)]
    bad, total = code.zero(), code.zero()
    for k in reversed(range(p)):
        for i in reversed(range(k)):  # the one that is next first
            y[i] = code.subtract(l[k, i], y[k], y[i])
        total = code.fma(y[k], code.zero(), total)
        fine = code.fine(reciprocals[k])
        bad = builder.select(fine, bad, code.constant(k + 1.0))  # the first that fails stays
    bad = code.flagged(total, bad)
    _scattered(code, code.address(x), [code.or_nan(vector, bad) for vector in y])
    code.store(code.integers(bad), builder.inttoptr(info, _I32.as_pointer()), align=4)


def _groups(code, p, starts, count):
    """So many groups of systems, from these addresses on."""
    builder, size = code.builder, p * p * code.lanes * code.bytes
    sizes = size // p, 4 * code.lanes, size, size // p, code.lanes * code.bytes

    def places(t):
        pairs = zip(starts, sizes, strict=True)
        return [builder.add(start, builder.mul(t, _index(size))) for start, size in pairs]

    def some(first, last):
        code.range(first, last, 1, [], lambda t, _: _solve(code, p, *places(t)))

    def block(first, _):
        last = code.least(builder.add(first, _index(step)), count)
        for start, end in zip(places(first)[2:4], places(last)[2:4], strict=True):
            code.range(start, end, LINE, [], lambda at, _: code.touch(code.address(at)))
        some(first, last)

    if p < SPREAD:
        some(0, count)
    else:
        step = max(AT_ONCE // size, 1)
        code.range(0, count, step, [], block)


def tiny_kernel(element):
    """Intrinsic (p, x, info, f, g, damping, groups): so many groups of consecutive systems.

    All but p and groups are addresses; a group has a system per lane.
    """

    @intrinsic
    def kernel(typingctx, p, x, info, f, g, damping, groups):
        def emit(context, builder, signature, values):
            code = Lanes(context, builder, element)
            for p in code.switch(values[0], range(1, LARGEST + 1)):
                _groups(code, p, values[1:6], values[6])
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
