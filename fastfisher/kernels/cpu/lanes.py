"""Vectors with a lane per system: the pieces of code that works on many small systems at once.

Element (i, j) of a group of systems is the vector at a + (i * ld + j) * lanes; `ld` and all counts
are in vectors, addresses are integers. Tiles have `EDGE` rows and columns, and orders are padded
to a multiple of it. Lanes never meet: what happens in one system does not touch another.
"""

from llvmlite import ir
from numba.core import cgutils

from .simd import _I32, _I64, Code, _index, lanes, target

__all__ = ["EDGE", "Ahead", "Lanes", "whole_tiles", "width"]

NOT_FINITE = -1


def width(dtype):
    """Systems side by side. Two vectors of them, where registers allow it: their operations
    interleave, which hides the latency of roots and divisions."""
    return lanes(dtype) * (2 if target().name in ("avx512", "neon") else 1)


EDGE = 3  # rows and columns of a tile: accumulators and operands fit the registers


class Lanes(Code):
    """Vectors with a lane per system."""

    def constant(self, value):
        return ir.Constant(self.vector, [value] * self.lanes)

    def vector_at(self, pointer, number):
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
        first, last = (_index(x) if isinstance(x, int) else x for x in (first, last))
        before = builder.block
        head, inside, after = (builder.append_basic_block(name) for name in ("for", "in", "out"))
        builder.branch(head)
        builder.position_at_end(head)
        i = builder.phi(_I64)
        i.add_incoming(first, before)
        values = [builder.phi(value.type) for value in carried]
        for phi, value in zip(values, carried, strict=True):
            phi.add_incoming(value, before)
        goes_on = "<" if step > 0 else ">"
        builder.cbranch(builder.icmp_signed(goes_on, i, last), inside, after)
        builder.position_at_end(inside)
        results = body(i, values)
        i.add_incoming(builder.add(i, _index(step)), builder.block)
        for phi, value in zip(values, results or [], strict=True):
            phi.add_incoming(value, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return values

    def least(self, x, y):
        return self.builder.select(self.builder.icmp_signed("<", x, y), x, y)

    def fine(self, reciprocal):
        """Lanes whose pivot is fine: one over it, or over its root, is 0 for infinity, infinite
        for 0 and what is next to it."""
        return self.builder.and_(
            self.builder.fcmp_ordered(">", reciprocal, self.zero()),
            self.builder.fcmp_ordered("<", reciprocal, self.constant(float("inf"))),
        )

    def pivot(self, x, bad, order):
        """Reciprocal root of a pivot, its root; the first order that fails stays in `bad`."""
        builder, root = self.builder, self.root(x)
        reciprocal = builder.fdiv(self.constant(1.0), root)
        keep = builder.or_(self.fine(reciprocal), builder.fcmp_unordered("!=", bad, self.zero()))
        return reciprocal, root, builder.select(keep, bad, order)

    def flagged(self, total, bad):
        """`bad`, or NOT_FINITE in lanes that were fine but where `total` is NaN."""
        builder = self.builder
        lost = builder.and_(
            builder.fcmp_unordered("uno", total, total),
            builder.fcmp_ordered("==", bad, self.zero()),
        )
        return builder.select(lost, self.constant(float(NOT_FINITE)), bad)

    def or_nan(self, x, bad):
        """x where a system is fine, else NaN."""
        fine = self.builder.fcmp_ordered("==", bad, self.zero())
        return self.builder.select(fine, x, self.constant(float("nan")))

    def integers(self, x):
        return self.builder.fptosi(x, ir.VectorType(_I32, self.lanes))

    def pointers(self, pointer, step, count):
        """`count` pointers, `step` vectors apart."""
        places = [pointer]
        for _ in range(count - 1):
            places.append(self.vector_at(places[-1], step))
        return places

    def tile(self, pointer, ld, size, lower=False):
        """Pointers to the elements of a tile."""
        rows = self.pointers(pointer, ld, size)
        return {
            (a, b): self.vector_at(rows[a], b)
            for a in range(size)
            for b in range(a + 1 if lower else size)
        }

    def reduced(self, sums, xs, ys, steps, first, last):
        """sums[a, b] - sum_k xs[a][k] ys[b][k], k in order; steps of k in vectors."""

        def body(k, carried):
            x = [self.load(self.vector_at(p, self.builder.mul(k, steps[0]))) for p in xs]
            y = x
            if ys is not xs:
                y = [self.load(self.vector_at(p, self.builder.mul(k, steps[1]))) for p in ys]
            totals = zip(sums, carried, strict=True)
            return [self.subtract(x[a], y[b], total) for (a, b), total in totals]

        return dict(zip(sums, self.range(first, last, 1, list(sums.values()), body), strict=True))


def whole_tiles(code, p):
    """p padded to whole tiles, and the number of them."""
    tiles = code.builder.sdiv(code.builder.add(p, _index(EDGE - 1)), _index(EDGE))
    return code.builder.mul(tiles, _index(EDGE)), tiles


class Ahead:
    """Fetches to L2 what is loaded the group after next, evenly over the steps of the arithmetic.

    Of the p x p matrices of a group from `start` on: three quarters first, one later.
    """

    def __init__(self, code, start, p, steps, *, later=False):
        self.code, builder = code, code.builder
        quarter = builder.mul(builder.mul(p, p), _index(code.lanes * code.bytes // 4))
        most = builder.mul(quarter, _index(3))
        self.first = builder.add(start, most) if later else start
        self.pace = builder.sdiv(quarter if later else most, steps)

    def fetch(self, line):
        """One step from `line` on; where the next one starts."""
        code = self.code
        after = code.builder.add(line, self.pace)

        def one(at, _):
            code.prefetch(code.address(at), level=2)

        code.range(line, after, 64, [], one)
        return after
