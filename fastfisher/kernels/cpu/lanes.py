"""Small systems side by side, one per vector lane: Cholesky and its solves on tiles of vectors.

Element (i, j) of the systems is the vector at a0 + (i * ld + j) * lanes of a flat array. Tiles have
`edge()` rows and columns, so orders are padded to a multiple of it, with ones on the diagonal.
Lanes never meet: what happens in one system does not touch another.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import _I32, _I64, _Code, _index, target

__all__ = [
    "add_products",
    "add_vector",
    "edge",
    "factor_diagonal",
    "mean_row",
    "reciprocals",
    "settle",
    "small_solver",
    "solve_row",
    "solve_row_adjoint",
    "solve_rows",
    "weigh",
]

NOT_FINITE = -1


def edge():
    """Rows and columns of a tile: its accumulators and one operand row fit the registers."""
    return 4 if target().name in ("avx512", "neon") else 3


class _Lanes(_Code):
    """Vectors of one element of so many systems."""

    def constant(self, value):
        return ir.Constant(self.vector, [value] * self.lanes)

    def at_vector(self, pointer, number):
        """Pointer to the vector `number` after `pointer`."""
        if isinstance(number, int):
            return self.at(pointer, number * self.lanes)
        return self.at(pointer, self.builder.mul(number, _index(self.lanes)))

    def subtract(self, x, y, z):
        """z - x y"""
        return self.fma(self.builder.fneg(x), y, z)

    def root(self, x):
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(self.vector, [self.vector]),
            f"llvm.sqrt.{self.suffix}",
        )
        return self.builder.call(function, [x])

    def range(self, first, last, step, carried, body):
        """for i in range(first, last, step): values = body(i, values); the last values."""
        builder = self.builder
        before = builder.block
        head, inside, after = (builder.append_basic_block(name) for name in ("for", "in", "out"))
        builder.branch(head)
        builder.position_at_end(head)
        i = builder.phi(_I64)
        i.add_incoming(first, before)
        values = [builder.phi(value.type) for value in carried]
        for phi, value in zip(values, carried, strict=True):
            phi.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", i, last), inside, after)
        builder.position_at_end(inside)
        results = body(i, values)
        i.add_incoming(builder.add(i, _index(step)), builder.block)
        for phi, value in zip(values, results, strict=True):
            phi.add_incoming(value, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return values

    def pivot(self, x, bad, order):
        """Root of a pivot and its reciprocal; the first order that fails stays in `bad`."""
        builder, zero = self.builder, self.zero()
        fine = builder.and_(
            builder.fcmp_ordered(">", x, zero),
            builder.fcmp_ordered("<", x, self.constant(float("inf"))),
        )
        keep = builder.or_(fine, builder.fcmp_unordered("!=", bad, zero))
        root = self.root(builder.select(fine, x, self.constant(1.0)))
        reciprocal = builder.fdiv(self.constant(1.0), root)
        return root, reciprocal, builder.select(keep, bad, order)

    def settled(self, x, bad):
        """The solution, NaN where `bad`; and the status, which finds what is not finite."""
        builder, zero = self.builder, self.zero()
        total = zero
        for vector in x:
            total = self.fma(vector, zero, total)
        bad = self.flagged(total, bad)
        fine = builder.fcmp_ordered("==", bad, zero)
        nothing = self.constant(float("nan"))
        return [builder.select(fine, vector, nothing) for vector in x], bad

    def flagged(self, total, bad):
        """`bad`, or NOT_FINITE in lanes that were fine but where `total` is NaN."""
        builder = self.builder
        lost = builder.and_(
            builder.fcmp_unordered("uno", total, total),
            builder.fcmp_ordered("==", bad, self.zero()),
        )
        return builder.select(lost, self.constant(float(NOT_FINITE)), bad)

    def integers(self, x):
        return self.builder.fptosi(x, ir.VectorType(_I32, self.lanes))

    def tile(self, pointer, ld, rows, columns, lower=False):
        """Pointers to the elements of a tile; ld in vectors."""
        places = {}
        for a in range(rows):
            for b in range(min(columns, a + 1) if lower else columns):
                places[a, b] = self.at_vector(pointer, b)
            pointer = self.at_vector(pointer, ld)
        return places


def _rows(code, pointer, step, count):
    """`count` pointers, `step` vectors apart."""
    pointers = [pointer]
    for _ in range(count - 1):
        pointers.append(code.at_vector(pointers[-1], step))
    return pointers


def _reduce(code, sums, xs, ys, steps, first, last):
    """sums[a, b] -= sum_k xs[a][k] ys[b][k], k in order; the operands' steps in vectors."""
    keys = list(sums)

    def body(k, carried):
        x = [code.load(code.at_vector(p, code.builder.mul(k, steps[0]))) for p in xs]
        y = x
        if ys is not xs:
            y = [code.load(code.at_vector(p, code.builder.mul(k, steps[1]))) for p in ys]
        totals = zip(keys, carried, strict=True)
        return [code.subtract(x[a], y[b], total) for (a, b), total in totals]

    return dict(zip(keys, code.range(first, last, 1, list(sums.values()), body), strict=True))


@intrinsic
def factor_diagonal(typingctx, a, a0, ld, j, roots, bad):
    """Subtract the columns before j from the diagonal tile at j and factor it.

    roots and bad are offsets in a: reciprocals of the diagonal of L, and 0 or the failing order.
    """

    def emit(context, builder, signature, values):
        a_v, a0_v, ld_v, j_v, roots_v, bad_v = values
        code, e = _Lanes(context, builder, a.dtype), edge()
        row = code.pointer(a, a_v, a0_v)
        row = code.at_vector(row, builder.mul(j_v, ld_v))
        places = code.tile(code.at_vector(row, j_v), ld_v, e, e, lower=True)
        xs, one = _rows(code, row, ld_v, e), _index(1)
        x = {place: code.load(pointer) for place, pointer in places.items()}
        x = _reduce(code, x, xs, xs, (one, one), _index(0), j_v)
        failed = code.load(code.pointer(a, a_v, bad_v))
        roots_at = code.at_vector(code.pointer(a, a_v, roots_v), j_v)
        start = code.splat(builder.sitofp(j_v, code.element))
        for b in range(e):
            order = builder.fadd(start, code.constant(b + 1.0))
            x[b, b], reciprocal, failed = code.pivot(x[b, b], failed, order)
            code.store(reciprocal, code.at_vector(roots_at, b))
            for i in range(b + 1, e):
                x[i, b] = builder.fmul(x[i, b], reciprocal)
                for c in range(b + 1, i + 1):
                    x[i, c] = code.subtract(x[i, b], x[c, b], x[i, c])
        for place, pointer in places.items():
            code.store(x[place], pointer)
        code.store(failed, code.pointer(a, a_v, bad_v))
        return context.get_dummy_value()

    return types.void(a, *[types.intp] * 5), emit


def _solver(rows):
    """Intrinsic: rows of x, up to column j + edge, times the inverse of L' at columns j...

    Row r of x starts at x0 + r * ldx vectors; columns before j are solved already.
    """

    @intrinsic
    def solve(typingctx, a, x0, ldx, a0, ld, j, roots):
        def emit(context, builder, signature, values):
            a_v, x0_v, ldx_v, a0_v, ld_v, j_v, roots_v = values
            code, e = _Lanes(context, builder, a.dtype), edge()
            count = e if rows is None else rows
            xs = _rows(code, code.pointer(a, a_v, x0_v), ldx_v, count)
            row = code.at_vector(code.pointer(a, a_v, a0_v), builder.mul(j_v, ld_v))
            factor = code.tile(code.at_vector(row, j_v), ld_v, e, e, lower=True)
            places = {
                (r, b): code.at_vector(code.at_vector(xs[r], j_v), b)
                for r in range(count)
                for b in range(e)
            }
            x = {place: code.load(pointer) for place, pointer in places.items()}
            one = _index(1)
            x = _reduce(code, x, xs, _rows(code, row, ld_v, e), (one, one), _index(0), j_v)
            roots_at = code.at_vector(code.pointer(a, a_v, roots_v), j_v)
            for b in range(e):
                reciprocal = code.load(code.at_vector(roots_at, b))
                for r in range(count):
                    x[r, b] = builder.fmul(x[r, b], reciprocal)
                for c in range(b + 1, e):
                    y = code.load(factor[c, b])
                    for r in range(count):
                        x[r, c] = code.subtract(x[r, b], y, x[r, c])
            for place, pointer in places.items():
                code.store(x[place], pointer)
            return context.get_dummy_value()

        return types.void(a, *[types.intp] * 6), emit

    return solve


solve_rows, solve_row = _solver(None), _solver(1)


@intrinsic
def solve_row_adjoint(typingctx, a, x0, a0, ld, j, order, roots):
    """One row x at columns j..: times the inverse of L; columns from j + edge are solved."""

    def emit(context, builder, signature, values):
        a_v, x0_v, a0_v, ld_v, j_v, order_v, roots_v = values
        code, e = _Lanes(context, builder, a.dtype), edge()
        start, top = code.pointer(a, a_v, x0_v), code.pointer(a, a_v, a0_v)
        place = code.at_vector(start, j_v)
        x = {(0, b): code.load(code.at_vector(place, b)) for b in range(e)}
        columns = _rows(code, code.at_vector(top, j_v), _index(1), e)
        first, steps = builder.add(j_v, _index(e)), (_index(1), ld_v)
        x = _reduce(code, x, [start], columns, steps, first, order_v)
        row = code.at_vector(top, builder.mul(j_v, ld_v))
        factor = code.tile(code.at_vector(row, j_v), ld_v, e, e, lower=True)
        roots_at = code.at_vector(code.pointer(a, a_v, roots_v), j_v)
        for b in reversed(range(e)):
            x[0, b] = builder.fmul(x[0, b], code.load(code.at_vector(roots_at, b)))
            code.store(x[0, b], code.at_vector(place, b))
            for c in range(b):
                x[0, c] = code.subtract(x[0, b], code.load(factor[b, c]), x[0, c])
        return context.get_dummy_value()

    return types.void(a, *[types.intp] * 6), emit


@intrinsic
def reciprocals(typingctx, a, a0, ld, order, roots):
    """roots[i] = 1 / a[i, i] for i < order."""

    def emit(context, builder, signature, values):
        a_v, a0_v, ld_v, order_v, roots_v = values
        code = _Lanes(context, builder, a.dtype)
        source, to = code.pointer(a, a_v, a0_v), code.pointer(a, a_v, roots_v)
        step = builder.add(ld_v, _index(1))

        def body(i, _):
            x = code.load(code.at_vector(source, builder.mul(i, step)))
            code.store(builder.fdiv(code.constant(1.0), x), code.at_vector(to, i))
            return []

        code.range(_index(0), order_v, 1, [], body)
        return context.get_dummy_value()

    return types.void(a, *[types.intp] * 4), emit


@intrinsic
def add_vector(typingctx, a, a0, step, count, b0):
    """a[i * step] += b for i < count, b the vector at b0."""

    def emit(context, builder, signature, values):
        a_v, a0_v, step_v, count_v, b0_v = values
        code = _Lanes(context, builder, a.dtype)
        start, b = code.pointer(a, a_v, a0_v), code.load(code.pointer(a, a_v, b0_v))

        def body(i, _):
            place = code.at_vector(start, builder.mul(i, step_v))
            code.store(builder.fadd(code.load(place), b), place)
            return []

        code.range(_index(0), count_v, 1, [], body)
        return context.get_dummy_value()

    return types.void(a, *[types.intp] * 4), emit


@intrinsic
def settle(typingctx, a, x0, count, bad, info, i0):
    """Find solutions x (count vectors) that are not finite; NaN where a lane failed; info from i0."""

    def emit(context, builder, signature, values):
        a_v, x0_v, count_v, bad_v, info_v, i0_v = values
        code = _Lanes(context, builder, a.dtype)
        x, at_bad = code.pointer(a, a_v, x0_v), code.pointer(a, a_v, bad_v)

        def add(i, totals):
            return [code.fma(code.load(code.at_vector(x, i)), code.zero(), totals[0])]

        (total,) = code.range(_index(0), count_v, 1, [code.zero()], add)
        bad_now = code.flagged(total, code.load(at_bad))
        fine = builder.fcmp_ordered("==", bad_now, code.zero())

        def choose(i, _):
            place = code.at_vector(x, i)
            nothing = code.constant(float("nan"))
            code.store(builder.select(fine, code.load(place), nothing), place)
            return []

        code.range(_index(0), count_v, 1, [], choose)
        status = context.make_array(info)(context, builder, value=info_v).data
        code.store(code.integers(bad_now), builder.gep(status, [i0_v]), align=4)
        return context.get_dummy_value()

    return types.void(a, *[types.intp] * 3, info, types.intp), emit


@intrinsic
def add_products(typingctx, c, c0, ldc, a, a0, p, i, j, terms):
    """Tile (i, j) of c += sum_k a[k, i] a[k, j], rows of a p vectors apart; c is double."""

    def emit(context, builder, signature, values):
        c_v, c0_v, ldc_v, a_v, a0_v, p_v, i_v, j_v, terms_v = values
        code, e = _Lanes(context, builder, a.dtype), edge()
        sums = _Lanes(context, builder, types.float64, code.lanes)
        start = code.pointer(a, a_v, a0_v)
        xs = _rows(code, code.at_vector(start, i_v), _index(1), e)
        ys = _rows(code, code.at_vector(start, j_v), _index(1), e)
        totals = {(r, b): code.zero() for r in range(e) for b in range(e)}
        totals = _reduce(code, totals, xs, ys, (p_v, p_v), _index(0), terms_v)
        row = sums.at_vector(sums.pointer(c, c_v, c0_v), builder.mul(i_v, ldc_v))
        for place, pointer in sums.tile(sums.at_vector(row, j_v), ldc_v, e, e).items():
            total = totals[place]
            if code.bytes != sums.bytes:
                total = builder.fpext(total, sums.vector)
            sums.store(builder.fsub(sums.load(pointer), total), pointer)
        return context.get_dummy_value()

    index = types.intp
    return types.void(c, index, index, a, *[index] * 5), emit


@intrinsic
def weigh(typingctx, a, a0, p, w0, terms, c, total):
    """Rows k of a (p vectors each) times the root of weight vector k; c[total] += the weights."""

    def emit(context, builder, signature, values):
        a_v, a0_v, p_v, w0_v, terms_v, c_v, total_v = values
        code = _Lanes(context, builder, a.dtype)
        sums = _Lanes(context, builder, types.float64, code.lanes)
        start, w = code.pointer(a, a_v, a0_v), code.pointer(a, a_v, w0_v)
        at_total = sums.pointer(c, c_v, total_v)

        def row(k, totals):
            weight = code.load(code.at_vector(w, k))
            root, first = code.root(weight), builder.mul(k, p_v)

            def element(i, _):
                place = code.at_vector(start, builder.add(first, i))
                code.store(builder.fmul(code.load(place), root), place)
                return []

            code.range(_index(0), p_v, 1, [], element)
            wide = builder.fpext(weight, sums.vector) if code.bytes < sums.bytes else weight
            return [builder.fadd(totals[0], wide)]

        (sum_,) = code.range(_index(0), terms_v, 1, [sums.load(at_total)], row)
        sums.store(sum_, at_total)
        return context.get_dummy_value()

    return types.void(a, *[types.intp] * 4, c, types.intp), emit


@intrinsic
def mean_row(typingctx, a, a0, c, c0, count, total):
    """a[j] = c[j] / total for j < count, rounded to a's dtype; total the vector at `total` of c."""

    def emit(context, builder, signature, values):
        a_v, a0_v, c_v, c0_v, count_v, total_v = values
        code = _Lanes(context, builder, a.dtype)
        sums = _Lanes(context, builder, types.float64, code.lanes)
        to, source = code.pointer(a, a_v, a0_v), sums.pointer(c, c_v, c0_v)
        total = sums.load(sums.pointer(c, c_v, total_v))

        def body(j, _):
            x = builder.fdiv(sums.load(sums.at_vector(source, j)), total)
            x = builder.fptrunc(x, code.vector) if code.bytes < sums.bytes else x
            code.store(x, code.at_vector(to, j))
            return []

        code.range(_index(0), count_v, 1, [], body)
        return context.get_dummy_value()

    return types.void(a, types.intp, c, *[types.intp] * 3), emit


# Orders 1 to 3: a whole system in registers, loaded by shuffles of consecutive vectors ------------


def _every(code, vectors, stride, element):
    """Element `element` of every `stride` consecutive ones: a lane per system."""
    n, result, held = code.lanes, None, {}
    for v, vector in enumerate(vectors):
        here = {s: (s * stride + element) % n for s in range(n) if (s * stride + element) // n == v}
        if not here:
            continue
        other = vector if result is None else result
        mask = [n + here[s] if s in here else (s if s in held else 0) for s in range(n)]
        mask = ir.Constant(ir.VectorType(_I32, n), mask)
        result = code.builder.shuffle_vector(other, vector, mask)
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
            mask = ir.Constant(ir.VectorType(_I32, n), mask)
            result = code.builder.shuffle_vector(result, vector, mask)
        results.append(result)
    return results


def small_solver(p):
    """Intrinsic: one system of order p per lane, from arrays of systems to solutions and status."""

    @intrinsic
    def solve(typingctx, x, x0, info, i0, f, f0, g, g0, damping, d0):
        def emit(context, builder, signature, values):
            x_v, x0_v, info_v, i0_v, f_v, f0_v, g_v, g0_v, damping_v, d0_v = values
            code = _Lanes(context, builder, f.dtype)
            matrices, rights = code.pointer(f, f_v, f0_v), code.pointer(g, g_v, g0_v)
            whole = [code.load(code.at_vector(matrices, v)) for v in range(p * p)]
            right = [code.load(code.at_vector(rights, v)) for v in range(p)]
            a = {(i, j): _every(code, whole, p * p, i * p + j) for i in range(p) for j in range(i + 1)}
            y = [_every(code, right, p, i) for i in range(p)]
            shift, bad, roots = code.load(code.pointer(damping, damping_v, d0_v)), code.zero(), []
            for j in range(p):
                pivot = builder.fadd(a[j, j], shift)
                for k in range(j):
                    pivot = code.subtract(a[j, k], a[j, k], pivot)
                _, reciprocal, bad = code.pivot(pivot, bad, code.constant(j + 1.0))
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
            y, bad = code.settled(y, bad)
            place = code.pointer(x, x_v, x0_v)
            for v, vector in enumerate(_interleaved(code, y)):
                code.store(vector, code.at_vector(place, v))
            status = context.make_array(info)(context, builder, value=info_v).data
            code.store(code.integers(bad), builder.gep(status, [i0_v]), align=4)
            return context.get_dummy_value()

        index = types.intp
        return types.void(x, index, info, index, f, index, g, index, damping, index), emit

    return solve
