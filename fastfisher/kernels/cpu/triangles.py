"""Register tiles of Cholesky: c -= a' b and then a small triangle, in registers.

The solves have tiles of their own (direct.py), which end as these do.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from . import twins
from .row_passes import row_pointers
from .simd import Code, _index, lanes, target, vector

__all__ = [
    "FORWARD",
    "UPDATE",
    "double_at",
    "factor_tile",
    "set_integer",
    "single_at",
    "solve_double",
    "solve_single",
    "substitute_tile",
]

UPDATE, FORWARD = 0, 1  # what follows c -= a' b: nothing, or a triangle


def _products(code, rows, vectors, a, lda, b, ldb, steps, ahead):
    """Tile of sums over k of a[k, i] b[k, j], in order; `steps` may be 0.

    A cache line from `ahead` on is fetched for every two steps.
    """
    builder = code.builder
    before, head = builder.block, builder.append_basic_block("head")
    body, after = builder.append_basic_block("body"), builder.append_basic_block("after")
    builder.branch(head)
    builder.position_at_end(head)
    start = [_index(0), a, b, ahead, *[code.zero()] * (rows * vectors)]
    values = [builder.phi(value.type) for value in start]
    step, p, q, line, *sums = values
    builder.cbranch(builder.icmp_signed("<", step, steps), body, after)
    builder.position_at_end(body)
    code.prefetch(line, level=2)
    totals = sums
    for _ in range(2):
        totals = code.add_outer(totals, p, q, rows, vectors)
        p, q = code.at(p, lda), code.at(q, ldb)
    line = code.at(line, 64 // code.bytes)
    following = [builder.add(step, _index(2)), p, q, line, *totals]
    builder.branch(head)
    for phi, first, later in zip(values, start, following, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, body)
    builder.position_at_end(after)
    return sums


def substitute_tile(code, x, vectors, order, element):
    """Solve with a triangle: x[r] *= element(r, r), x[s] -= element(r, s) x[r] for later s.

    An element that is None is zero.
    """
    builder, x, left = code.builder, list(x), list(order)
    for r in order:
        left.remove(r)
        by = code.splat(element(r, r))
        for v in range(vectors):
            x[r * vectors + v] = builder.fmul(by, x[r * vectors + v])
        for s in left:
            factor = element(r, s)
            if factor is None:
                continue
            by = code.splat(builder.fneg(factor))
            for v in range(vectors):
                at = s * vectors + v
                x[at] = code.fma(by, x[r * vectors + v], x[at])
    return x


def _emit_solve(code, rows, vectors, mode, operands):
    builder = code.builder
    c, ldc, a, lda, b, ldb, steps, ahead = operands
    c, a, b, ahead = (code.address(value) for value in (c, a, b, ahead))
    places = [c]
    for _ in range(rows - 1):
        places.append(code.at(places[-1], ldc))
    for place in places:
        for j in range(0, vectors * code.lanes, 64 // code.bytes):
            code.prefetch(code.at(place, j), write=True)
    sums = _products(code, rows, vectors, a, lda, b, ldb, steps, ahead)
    x = []
    for s, total in enumerate(sums):
        place = code.at(places[s // vectors], s % vectors * code.lanes)
        x.append(builder.fsub(code.load(place), total))
    for case in code.switch(mode, (UPDATE, FORWARD)):
        y = x
        if case == FORWARD:  # the triangle, its diagonal reciprocals, follows the summed rows of a
            lines = row_pointers(code, code.at(a, builder.mul(steps, lda)), lda, rows)

            def element(r, s, lines=lines):
                return builder.load(code.at(lines[r], s))

            y = substitute_tile(code, x, vectors, range(rows), element)
        for s, value in enumerate(y):
            code.store(value, code.at(places[s // vectors], s % vectors * code.lanes))


def _solver(element):
    """Intrinsic (vectors, mode, c, ldc, a, lda, b, ldb, steps, ahead): c -= a' b, then mode."""

    def twin(vectors, *operands):
        twins.solver(target().rows, vectors * lanes(element.name), element.name, *operands)

    @vector(twin)
    def solver(typingctx, vectors, mode, c, ldc, a, lda, b, ldb, steps, ahead):
        def emit(context, builder, signature, values):
            code = Code(context, builder, element)
            for v in code.switch(values[0], (1, 2, 3)):
                _emit_solve(code, target().rows, v, values[1], values[2:])
            return context.get_dummy_value()

        return types.void(*[types.intp] * 10), emit

    return solver


_solve_double, _solve_single = _solver(types.float64), _solver(types.float32)


def solve_double(vectors, mode, c, ldc, a, lda, b, ldb, steps, ahead):
    _solve_double(vectors, mode, c, ldc, a, lda, b, ldb, steps, ahead)


def solve_single(vectors, mode, c, ldc, a, lda, b, ldb, steps, ahead):
    _solve_single(vectors, mode, c, ldc, a, lda, b, ldb, steps, ahead)


@vector(lambda *args: twins.factor_tile(target().rows, *args))
def factor_tile(typingctx, out, a, ld, inside):
    """Factor U'U = A from the upper triangle of a tile; returns the failing pivot, or `rows`.

    out is flat: U, rows x rows, with 1 / diag U on its diagonal, then diag U. A failing pivot
    counts as 1, as do those from `inside` on.
    """

    def emit(context, builder, signature, values):
        rows = target().rows
        code = Code(context, builder, out.dtype, rows)
        start = code.pointer(out, values[0], _index(0))
        place, x = code.pointer(a, values[1], _index(0)), []
        for _ in range(rows):
            x.append(code.load(place))
            place = code.at(place, values[2])
        one = ir.Constant(code.element, 1.0)
        root = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(code.element, [code.element]),
            f"llvm.sqrt.f{out.dtype.bitwidth}",
        )
        failing = _index(rows)
        for r in range(rows):
            pivot = builder.extract_element(x[r], ir.Constant(ir.IntType(32), r))
            good = builder.and_(
                builder.fcmp_ordered(">", pivot, ir.Constant(code.element, 0.0)),
                builder.fcmp_ordered("<", pivot, ir.Constant(code.element, np.inf)),
            )
            first = builder.icmp_signed("==", failing, _index(rows))
            counts = builder.and_(first, builder.icmp_signed("<", _index(r), values[3]))
            bad = builder.and_(builder.not_(good), counts)
            failing = builder.select(bad, _index(r), failing)
            side = builder.call(root, [builder.select(good, pivot, one)])
            inverse = builder.fdiv(one, side)
            x[r] = builder.fmul(code.splat(inverse), x[r])
            builder.store(side, code.at(start, rows * rows + r))
            for s in range(r + 1, rows):
                by = builder.extract_element(x[r], ir.Constant(ir.IntType(32), s))
                x[s] = code.fma(code.splat(builder.fneg(by)), x[r], x[s])
            x[r] = builder.insert_element(x[r], inverse, ir.Constant(ir.IntType(32), r))
        for r in range(rows):
            code.store(x[r], code.at(start, r * rows))
        return failing

    return types.intp(out, a, types.intp, types.intp), emit


def _array_at(element):
    """Intrinsic (address): the flat array of elements there, of no known length."""
    kind = types.Array(element, 1, "C")

    @vector(lambda place: twins.array_at(place, element.name))
    def array_at(typingctx, place):
        def emit(context, builder, signature, values):
            array = context.make_array(kind)(context, builder)
            data = builder.inttoptr(values[0], array.data.type)
            size = context.get_abi_sizeof(context.get_data_type(element))
            count, step = _index(1 << 60), _index(size)
            context.populate_array(
                array, data=data, shape=[count], strides=[step], itemsize=step, meminfo=None
            )
            return array._getvalue()

        return kind(types.intp), emit

    return array_at


double_at, single_at = _array_at(types.float64), _array_at(types.float32)


@vector(twins.set_integer)
def set_integer(typingctx, place, value):
    """Store an integer at an address."""

    def emit(context, builder, signature, values):
        builder.store(values[1], builder.inttoptr(values[0], ir.IntType(64).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), emit
