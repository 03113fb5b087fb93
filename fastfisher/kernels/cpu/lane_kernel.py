"""Small systems side by side, one per vector lane: Cholesky and what goes with it, as one kernel.

Operands as in `lanes`. The kernel is compiled once per element type and called by address.
"""

from numba import types
from numba.extending import intrinsic

from .lanes import EDGE, Ahead, Lanes, whole_tiles, width
from .simd import _I32, _index

__all__ = [
    "ADD_PRODUCTS",
    "FACTOR",
    "LOAD",
    "MEAN",
    "RECIPROCALS",
    "SETTLE",
    "STORE",
    "SUBSTITUTE",
    "WEIGH",
    "lane_kernel",
]


def _systems(code, first, stride, skipped, count):
    """Pointers to a vector's worth of systems; past the last of `count` that one is repeated."""
    builder = code.builder
    last = builder.sub(count, _index(1))
    steps = [code.least(builder.add(skipped, _index(s)), last) for s in range(code.lanes)]
    return [code.at(first, builder.mul(step, stride)) for step in steps]


def _rows(code, rows, columns, body):
    """body(i, c, length) for every row i and the blocks of its columns, from c on; rows of squares
    end at the diagonal, `length` is where the row does."""
    builder = code.builder
    triangle = builder.icmp_signed(">", rows, _index(1))

    def row(i, _):
        length = builder.select(triangle, builder.add(i, _index(1)), columns)
        code.range(0, length, code.lanes, [], lambda c, _: body(i, c, length))

    code.range(0, rows, 1, [], row)


def _load(wide, double, to, ld, source, stride, rows, columns, count):
    """Rows of consecutive systems, `stride` elements apart, to lanes; of squares the triangle."""
    builder, code = wide.builder, wide.half
    to, source, n = code.address(to), code.address(source), code.lanes
    group = builder.mul(stride, _index(wide.lanes))
    single = builder.icmp_signed("==", rows, _index(1))  # what follows squares is fetched elsewhere

    def part(skipped, _):
        systems = _systems(code, source, stride, skipped, count)

        def block(i, c, length):
            at, left = builder.add(builder.mul(i, columns), c), builder.sub(columns, c)
            places = [code.at(system, at) for system in systems]
            with builder.if_then(single):
                for place in places:
                    code.prefetch(code.at(place, group))
            whole = builder.icmp_signed(">=", left, _index(n))
            with builder.if_else(whole) as (then, otherwise):
                with then:
                    plain = [code.load(place) for place in places]
                    after_plain = builder.block
                with otherwise:
                    some = [code.load_some(place, _index(0), left) for place in places]
                    after_some = builder.block
            loaded = []
            for x, y in zip(plain, some, strict=True):
                phi = builder.phi(code.vector)
                phi.add_incoming(x, after_plain)
                phi.add_incoming(y, after_some)
                loaded.append(phi)
            first = wide.vector_at(to, builder.add(builder.mul(i, ld), c))
            first = code.at(first, skipped)
            for j, vector in enumerate(code.transposed(loaded)):
                code.store(vector, wide.vector_at(first, j))

        _rows(code, rows, columns, block)

    code.range(0, _index(wide.lanes), n, [], part)


def _store(wide, double, to, stride, source, ld, rows, columns, count):
    """The way back: rows of the first `count` lanes; of squares the triangle."""
    builder, code = wide.builder, wide.half
    to, source, n = code.address(to), code.address(source), code.lanes

    def part(skipped, _):
        systems, here = _systems(code, to, stride, skipped, count), builder.sub(count, skipped)
        every = builder.icmp_signed(">=", here, _index(n))

        def block(i, c, length):
            at, left = builder.add(builder.mul(i, columns), c), builder.sub(length, c)
            first = wide.vector_at(source, builder.add(builder.mul(i, ld), c))
            first = code.at(first, skipped)
            rows_ = code.transposed([code.load(wide.vector_at(first, j)) for j in range(n)])
            whole = builder.and_(every, builder.icmp_signed(">=", left, _index(n)))
            with builder.if_else(whole) as (then, otherwise):
                with then:
                    for system, vector in zip(systems, rows_, strict=True):
                        code.store(vector, code.at(system, at))
                with otherwise:
                    for s, (system, vector) in enumerate(zip(systems, rows_, strict=True)):
                        there = builder.icmp_signed(">", here, _index(s))
                        some = builder.select(there, left, _index(0))
                        code.store_some(vector, code.at(system, at), some)

        _rows(code, rows, columns, block)

    code.range(0, _index(wide.lanes), n, [], part)


def _padded(code, a, ld, p, order):
    """Rows of the identity from p to order."""

    def row(i, _):
        start = code.vector_at(a, code.builder.mul(i, ld))
        code.range(0, i, 1, [], lambda j, _: code.store(code.zero(), code.vector_at(start, j)))
        code.store(code.constant(1.0), code.vector_at(start, i))

    code.range(p, order, 1, [], row)


def _diagonal_tile(code, a, ld, j, roots, failed):
    """Subtract the columns before j from the diagonal tile at j and factor it."""
    builder, e = code.builder, EDGE
    row = code.vector_at(a, builder.mul(j, ld))
    places = code.tile(code.vector_at(row, j), ld, e, lower=True)
    xs, one = code.pointers(row, ld, e), _index(1)
    x = {place: code.load(pointer) for place, pointer in places.items()}
    x = code.reduced(x, xs, xs, (one, one), 0, j)
    roots, start = code.vector_at(roots, j), code.splat(builder.sitofp(j, code.element))
    for b in range(e):
        order = builder.fadd(start, code.constant(b + 1.0))
        reciprocal, x[b, b], failed = code.pivot(x[b, b], failed, order)
        code.store(reciprocal, code.vector_at(roots, b))
        for i in range(b + 1, e):
            x[i, b] = builder.fmul(x[i, b], reciprocal)
        for i in range(b + 1, e):
            for c in range(b + 1, i + 1):
                x[i, c] = code.subtract(x[i, b], x[c, b], x[i, c])
    for place, pointer in places.items():
        code.store(x[place], pointer)
    return failed


def _solved_rows(code, xs, a, ld, j, roots):
    """Rows, solved before column j, at columns j.. : times the inverse of L' there."""
    builder, e = code.builder, EDGE
    row = code.vector_at(a, builder.mul(j, ld))
    factor = code.tile(code.vector_at(row, j), ld, e, lower=True)
    here = [code.vector_at(x, j) for x in xs]
    places = {(r, b): code.vector_at(x, b) for r, x in enumerate(here) for b in range(e)}
    x, one = {place: code.load(pointer) for place, pointer in places.items()}, _index(1)
    x = code.reduced(x, xs, code.pointers(row, ld, e), (one, one), 0, j)
    roots = code.vector_at(roots, j)
    for b in range(e):
        reciprocal = code.load(code.vector_at(roots, b))
        for r in range(len(xs)):
            x[r, b] = builder.fmul(x[r, b], reciprocal)
        for c in range(b + 1, e):
            y = code.load(factor[c, b])
            for r in range(len(xs)):
                x[r, c] = code.subtract(x[r, b], y, x[r, c])
    for place, pointer in places.items():
        code.store(x[place], pointer)


def _factor(code, double, a, ld, p, ahead, roots, bad, shift):
    """Cholesky of a + shift I in place; reciprocals of L's diagonal; 0 or the failing order."""
    builder, e = code.builder, EDGE
    order, tiles = whole_tiles(code, p)
    twice = builder.mul(tiles, builder.add(tiles, _index(1)))
    ahead = Ahead(code, ahead, p, twice)
    a, roots, shift = code.address(a), code.address(roots), code.load(code.address(shift))
    _padded(code, a, ld, p, order)

    def damp(i, _):
        place = code.vector_at(a, builder.mul(i, builder.add(ld, _index(1))))
        code.store(builder.fadd(code.load(place), shift), place)

    code.range(0, p, 1, [], damp)

    def column(j, carried):
        failed = _diagonal_tile(code, a, ld, j, roots, carried[0])

        def rows(i, lines):
            line = ahead.fetch(lines[0])
            xs = code.pointers(code.vector_at(a, builder.mul(i, ld)), ld, e)
            _solved_rows(code, xs, a, ld, j, roots)
            return [ahead.fetch(line)]

        start = [ahead.fetch(ahead.fetch(carried[1]))]
        (line,) = code.range(builder.add(j, _index(e)), order, e, start, rows)
        return [failed, line]

    failed, _ = code.range(0, order, e, [code.zero(), ahead.first], column)
    code.store(failed, code.address(bad))


def _substitute(code, double, x, a, ld, p, ahead, roots, _):
    """One right-hand side over L L'."""
    builder, e = code.builder, EDGE
    order, tiles = whole_tiles(code, p)
    ahead = Ahead(code, ahead, p, builder.mul(tiles, _index(2)), later=True)
    x, a, roots = code.address(x), code.address(a), code.address(roots)
    code.range(p, order, 1, [], lambda i, _: code.store(code.zero(), code.vector_at(x, i)))

    def forward(j, lines):
        _solved_rows(code, [x], a, ld, j, roots)
        return [ahead.fetch(lines[0])]

    (line,) = code.range(0, order, e, [ahead.first], forward)

    def back(j, lines):
        place = code.vector_at(x, j)
        y = {(0, b): code.load(code.vector_at(place, b)) for b in range(e)}
        columns = code.pointers(code.vector_at(a, j), _index(1), e)
        after = builder.add(j, _index(e))
        y = code.reduced(y, [x], columns, (_index(1), ld), after, order)
        row = code.vector_at(a, builder.mul(j, ld))
        factor = code.tile(code.vector_at(row, j), ld, e, lower=True)
        for b in reversed(range(e)):
            reciprocal = code.load(code.vector_at(code.vector_at(roots, j), b))
            y[0, b] = builder.fmul(y[0, b], reciprocal)
            code.store(y[0, b], code.vector_at(place, b))
            for c in range(b):
                y[0, c] = code.subtract(y[0, b], code.load(factor[b, c]), y[0, c])
        return [ahead.fetch(lines[0])]

    code.range(builder.sub(order, _index(e)), -1, -e, [line], back)


def _reciprocals(code, double, a, ld, p, ahead, roots, *_):
    """roots[i] = 1 / a[i, i], with rows of the identity from p to order."""
    order, _ = whole_tiles(code, p)
    ahead = Ahead(code, ahead, p, order)
    a, roots = code.address(a), code.address(roots)
    _padded(code, a, ld, p, order)

    def body(i, lines):
        x = code.load(code.vector_at(a, code.builder.mul(i, code.builder.add(ld, _index(1)))))
        code.store(code.builder.fdiv(code.constant(1.0), x), code.vector_at(roots, i))
        return [ahead.fetch(lines[0])]

    code.range(0, order, 1, [ahead.first], body)


def _settle(code, double, x, p, bad, status, *_):
    """NaN in x (p vectors) where a system failed; status as integers, NOT_FINITE found here."""
    x, bad = code.address(x), code.load(code.address(bad))

    def add(i, totals):
        return [code.fma(code.load(code.vector_at(x, i)), code.zero(), totals[0])]

    (total,) = code.range(0, p, 1, [code.zero()], add)
    bad = code.flagged(total, bad)

    def choose(i, _):
        place = code.vector_at(x, i)
        code.store(code.or_nan(code.load(place), bad), place)

    code.range(0, p, 1, [], choose)
    status = code.builder.inttoptr(status, _I32.as_pointer())
    code.store(code.integers(bad), status, align=4)


def _add_products(code, double, c, ld, order, a, p, terms, _):
    """Lower tiles of c += sum_k a[k, i] a[k, j]; rows of a are p vectors apart; c is double."""
    builder, e = code.builder, EDGE
    c, a, steps = double.address(c), code.address(a), (p, p)

    def rows(i, _):
        xs = code.pointers(code.vector_at(a, i), _index(1), e)
        row = double.vector_at(c, builder.mul(i, ld))

        def columns(j, _):
            ys = code.pointers(code.vector_at(a, j), _index(1), e)
            totals = {(r, b): code.zero() for r in range(e) for b in range(e)}
            totals = code.reduced(totals, xs, ys, steps, 0, terms)
            for place, pointer in double.tile(double.vector_at(row, j), ld, e).items():
                total = _widened(code, double, totals[place])
                double.store(builder.fsub(double.load(pointer), total), pointer)

        code.range(0, builder.add(i, _index(1)), e, [], columns)

    code.range(0, order, e, [], rows)


def _widened(code, double, x):
    return x if code.bytes == double.bytes else code.builder.fpext(x, double.vector)


def _weigh(code, double, a, p, weights, terms, total, *_):
    """Rows k of a (p vectors each) times the root of weight k; total += the weights, in double."""
    builder = code.builder
    a, weights, total = code.address(a), code.address(weights), double.address(total)

    def row(k, totals):
        weight, start = code.load(code.vector_at(weights, k)), builder.mul(k, p)
        root, start = code.root(weight), code.vector_at(a, start)

        def element(i, _):
            place = code.vector_at(start, i)
            code.store(builder.fmul(code.load(place), root), place)

        code.range(0, p, 1, [], element)
        return [builder.fadd(totals[0], _widened(code, double, weight))]

    (added,) = code.range(0, terms, 1, [double.load(total)], row)
    double.store(added, total)


def _mean(code, double, a, c, ld, p, total, *_):
    """Lower rows of a = c / total, from double to the systems' precision."""
    builder = code.builder
    a, c = code.address(a), double.address(c)
    total = double.load(double.address(total))

    def row(i, _):
        at = builder.mul(i, ld)
        to, source = code.vector_at(a, at), double.vector_at(c, at)

        def element(j, _):
            x = builder.fdiv(double.load(double.vector_at(source, j)), total)
            if code.bytes < double.bytes:
                x = builder.fptrunc(x, code.vector)
            code.store(x, code.vector_at(to, j))

        code.range(0, builder.add(i, _index(1)), 1, [], element)

    code.range(0, p, 1, [], row)


_OPERATIONS = (
    _load,
    _store,
    _factor,
    _substitute,
    _reciprocals,
    _settle,
    _add_products,
    _weigh,
    _mean,
)
LOAD, STORE, FACTOR, SUBSTITUTE, RECIPROCALS, SETTLE, ADD_PRODUCTS, WEIGH, MEAN = range(9)


def lane_kernel(element):
    """Intrinsic (operation, seven integers): all of the above for one element type."""

    @intrinsic
    def kernel(typingctx, operation, a, b, c, d, e, f, g):
        def emit(context, builder, signature, values):
            one = Lanes(context, builder, element)
            code = Lanes(context, builder, element, width(str(element)))
            code.half = one
            double = Lanes(context, builder, types.float64, code.lanes)
            for number in code.switch(values[0], range(len(_OPERATIONS))):
                _OPERATIONS[number](code, double, *values[1:])
            return context.get_dummy_value()

        return types.void(*[types.intp] * 8), emit

    return kernel
